"""The calls that the tools' collector makes: moves that can succeed, mistakes that cannot."""

import copy
import random

from swirl_jax.data.collectors import tools_calls
from swirl_jax.data.collectors.tools_calls import MOVES
from swirl_jax.data.collectors.tools_mistakes import MISTAKES
from tests.data.collectors.tools_cases import CAR, FILES, INK, MATH, MESSAGES, TICKETS, TRADING


def drawn(table, api, state):
  """Method → the arguments of all its calls that may be made in a state."""
  found = {}
  for seed in range(80):
    for _, name, arguments in table[api](state, random.Random(seed)):
      found.setdefault(name, []).append(arguments)
  return found


def values(calls, argument):
  return {call[argument] for call in calls}


# -- files ---------------------------------------------------------------------------------------

OLD = {"a.txt": "", "deep": {"b.txt": "", "deeper": {}}, "empty": {}, "flat": {"a.txt": "red fox"}}
NESTED = {"root": "home", "tree": {"old": OLD}, "cwd": ["old"]}


def test_files_and_folders_are_those_of_the_working_directory():
  found = drawn(MOVES, "GorillaFileSystem", NESTED)
  assert values(found["cd"], "folder") == {"..", "deep", "empty", "flat"}
  assert values(found["rmdir"], "dir_name") == {"empty"}
  assert values(found["cat"], "file_name") == {"a.txt"}
  moved = {(c["source"], c["destination"]) for c in found["mv"]}
  assert {source for source, _ in moved} == {"a.txt", "empty", "flat"}  # deep has a folder
  copied = {(c["source"], c["destination"]) for c in found["cp"]}
  for source, target in moved | copied:  # to a new name, or where no file is called the same
    assert target not in OLD or (source == "a.txt" and target in ("deep", "empty"))
  assert "cd" not in drawn(MOVES, "GorillaFileSystem", FILES | {"tree": {}})
  deeper = drawn(MOVES, "GorillaFileSystem", NESTED | {"cwd": ["old", "flat"]})
  assert values(deeper["cat"], "file_name") == {"a.txt"} and "rmdir" not in deeper


def test_what_is_new_has_a_name_that_is_free():
  *taken, free = tools_calls.FILES
  full = {"root": "home", "tree": dict.fromkeys(taken, ""), "cwd": []}
  assert values(drawn(MISTAKES, "GorillaFileSystem", full)["cat"], "file_name") == {free}
  some = full | {"tree": dict.fromkeys(taken[:8], "")}
  made = values(drawn(MOVES, "GorillaFileSystem", some)["touch"], "file_name")
  assert made == {*taken[8:], free}


def test_a_file_system_grows_to_ten_files_and_folders():
  for nodes in (9, 10):
    inner = dict.fromkeys("bcdefgh"[: nodes - 3], "") | {"out": {}}
    state = {"root": "home", "tree": {"a": "", "in": inner}, "cwd": ["in"]}
    grows = {"mkdir", "touch", "cp"} & set(drawn(MOVES, "GorillaFileSystem", state))
    assert grows == ({"mkdir", "touch", "cp"} if nodes == 9 else set())


def test_mistakes_with_files():
  found = drawn(MISTAKES, "GorillaFileSystem", NESTED)
  assert not {"..", "deep", "empty", "flat"} & values(found["cd"], "folder")
  assert "empty" not in values(found["rmdir"], "dir_name") >= {"deep", "flat", "a.txt"}
  assert not set(OLD) & (values(found["mv"], "source") | values(found["echo"], "file_name"))
  at_root = drawn(MISTAKES, "GorillaFileSystem", NESTED | {"cwd": []})
  assert ".." in values(at_root["cd"], "folder")


# -- car -----------------------------------------------------------------------------------------


def test_calls_of_a_car():
  def moves(**changes):
    return drawn(MOVES, "VehicleControlAPI", CAR | changes)

  found = moves(fuelLevel=45.5)
  assert all(1 <= call["fuelAmount"] <= 4 for call in found["fillFuelTank"])
  for call in found["lockDoors"]:
    was = {CAR["doorStatus"][door] for door in call["door"]}
    assert was == {"locked" if call["unlock"] else "unlocked"}
  assert "fillFuelTank" not in moves(fuelLevel=49.5)
  assert values(found["setHeadlights"], "mode") == {"on"}
  assert values(moves(headLightStatus="on")["setHeadlights"], "mode") == {"off"}
  assert values(found["activateParkingBrake"], "mode") == {"release"}

  shut = dict.fromkeys(CAR["doorStatus"], "locked")
  assert values(moves(doorStatus=shut)["startEngine"], "ignitionMode") == {"START"}
  running = {"engineState": "running"}
  for changes in ({}, {"doorStatus": shut, "brakePedalForce": 500}, running | {"doorStatus": shut}):
    assert "startEngine" not in moves(**changes)
  assert "setCruiseControl" not in found
  for status, activates in (("inactive", True), ("active", False)):
    calls = moves(**running, cruiseStatus=status)["setCruiseControl"]
    assert values(calls, "activate") == {activates}


def test_mistakes_with_a_car():
  found = drawn(MISTAKES, "VehicleControlAPI", CAR | {"fuelLevel": 10.5})
  assert all(not 0 <= call["fuelAmount"] <= 39.5 for call in found["fillFuelTank"])
  assert values(found["startEngine"], "ignitionMode") == {"START"}  # a door is unlocked
  shut = dict.fromkeys(CAR["doorStatus"], "locked")
  ready = drawn(MISTAKES, "VehicleControlAPI", CAR | {"doorStatus": shut})
  assert values(ready["startEngine"], "ignitionMode") == {"STOP", "RUN"}


# -- trading -------------------------------------------------------------------------------------

ORDER = ["Buy", 2, "AB", 11]
ORDERS = {3: [*ORDER, "Pending"], 4: [*ORDER, "Completed"]}
POOR = TRADING | {"cash": 150.5, "orders": ORDERS}


def test_calls_of_trading():
  found = drawn(MOVES, "TradingBot", POOR)
  for call in found["place_order"]:
    assert call["price"] == TRADING["stocks"][call["symbol"]]
  spent = [c["price"] * c["amount"] for c in found["place_order"] if c["order_type"] == "Buy"]
  earned = [c["price"] * c["amount"] for c in found["place_order"] if c["order_type"] == "Sell"]
  assert max(spent) <= 150.5 < max(earned)
  assert values(found["withdraw_funds"], "amount") == {100}
  assert values(found["cancel_order"], "order_id") == {3}
  assert values(found["add_to_watchlist"], "stock") == {"CD"}
  assert values(found["remove_stock_from_watchlist"], "symbol") == {"AB"}
  assert "withdraw_funds" not in drawn(MOVES, "TradingBot", POOR | {"market": "Closed"})
  three = POOR | {"orders": ORDERS | {5: [*ORDER, "Open"]}}
  assert "place_order" not in drawn(MOVES, "TradingBot", three)
  out = drawn(MOVES, "TradingBot", POOR | {"in": False})
  assert set(out) == {"trading_login", "get_stock_info"} and "trading_login" not in found


def test_mistakes_in_trading():
  found = drawn(MISTAKES, "TradingBot", POOR)
  assert all(call["amount"] > 150.5 for call in found["withdraw_funds"])
  ids = values(found["cancel_order"], "order_id")
  assert 4 in ids and 3 not in ids
  for call in found["place_order"]:
    dear = call["order_type"] == "Buy" and call["price"] * call["amount"] > 150.5
    assert dear or call["symbol"] not in TRADING["stocks"] or call["amount"] == 0


# -- tickets and messages ------------------------------------------------------------------------


def ticket(number, status):
  return INK | {"id": number, "status": status, "created_by": "ann"}


def test_calls_about_tickets():
  closed, solved = ticket(7, "Closed"), ticket(8, "Resolved")
  state = TICKETS | {"queue": [closed, solved]}
  found, wrong = (drawn(table, "TicketAPI", state) for table in (MOVES, MISTAKES))
  assert values(found["close_ticket"], "ticket_id") == {8}
  assert values(found["resolve_ticket"], "ticket_id") == {7}
  assert {7, 8} & values(wrong["close_ticket"], "ticket_id") == {7}
  assert {7, 8} & values(wrong["resolve_ticket"], "ticket_id") == {8}
  assert values(found["create_ticket"], "priority") == {1, 2, 3, 4, 5}
  assert min(values(wrong["create_ticket"], "priority")) > 5
  assert "ticket_login" not in found and "get_user_tickets" not in wrong
  full = TICKETS | {"queue": [closed, solved, ticket(9, "Open")]}
  assert "create_ticket" not in drawn(MOVES, "TicketAPI", full)

  out, wrong = (drawn(table, "TicketAPI", state | {"user": None}) for table in (MOVES, MISTAKES))
  assert len(values(out["ticket_login"], "username")) > 1  # the state will show it
  assert "create_ticket" not in out and "get_user_tickets" in wrong
  assert values(wrong["create_ticket"], "priority") == {1, 2, 3, 4, 5}


def test_calls_about_messages():
  found, wrong = (drawn(table, "MessageAPI", MESSAGES) for table in (MOVES, MISTAKES))
  assert values(found["message_login"], "user_id") == {"USR002"}  # ann is in
  assert values(found["send_message"], "receiver_id") == {"USR002"}
  assert values(found["delete_message"], "receiver_id") == {"USR002"}
  assert not set(MESSAGES["users"]) & values(found["add_contact"], "user_name")
  assert values(wrong["add_contact"], "user_name") == set(MESSAGES["users"])
  assert not {"USR001", "USR002"} & values(wrong["send_message"], "receiver_id")
  assert "add_contact" not in drawn(MOVES, "MessageAPI", MESSAGES | {"count": 1})  # USR002 is Bo's
  assert "send_message" not in drawn(MOVES, "MessageAPI", MESSAGES | {"user": None})
  full = MESSAGES | {"inbox": [["USR002", "see you"]] * 3}
  assert "send_message" not in drawn(MOVES, "MessageAPI", full)


# -- mathematics ---------------------------------------------------------------------------------


def test_calls_of_mathematics():
  found = drawn(MOVES, "MathAPI", {"numbers": [-2.25, 1.5, 3e7]})
  assert values(found["round_number"], "number") == {-2.25}
  assert values(found["absolute_value"], "number") == {-2.25}
  assert values(found["square_root"], "number") == {1.5}
  assert {tuple(c["numbers"]) for c in found["mean"]} == {(-2.25, 1.5)}  # large ones stay out
  assert max(values(drawn(MISTAKES, "MathAPI", MATH)["square_root"], "number")) < 0


def test_calls_leave_what_they_were_drawn_from():
  """No call's argument is a part of the state: the package could change it."""
  state = copy.deepcopy(CAR)
  for _, name, arguments in MOVES["VehicleControlAPI"](state, random.Random(0)):
    if name == "lockDoors":
      arguments["door"].clear()
  numbers = copy.deepcopy(MATH)
  for _, _, arguments in MOVES["MathAPI"](numbers, random.Random(0)):
    arguments.get("numbers", []).clear()
  assert (state, numbers) == (CAR, MATH)
