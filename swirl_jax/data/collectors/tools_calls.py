"""The collector's policy: for each API the calls that make sense in a state.

`MOVES[api](state, rng)` gives weighted calls, `(weight, method, arguments)`, whose arguments are
drawn from the state and from the short lists below. A call should succeed, and most change the
state. That isn't trusted: what a call does is what the package's class does with it.
"""

import random
from collections.abc import Callable, Mapping

Call = tuple[float, str, dict]
Policy = Callable[[Mapping, random.Random], list[Call]]

FILES = (
  *("notes.txt", "plan.md", "todo.txt", "budget.csv", "draft.doc", "summary.txt", "log.txt"),
  *("report.pdf", "list.csv", "readme.md", "results.txt", "sales.csv"),
)
FOLDERS = ("backup", "drafts", "archive", "temp", "shared", "old", "images", "reports", "team")
WORDS = (
  *("budget", "review", "final", "draft", "meeting", "monday", "sales", "update", "first", "new"),
  *("second", "version", "notes", "team", "project", "report", "open", "items", "urgent", "later"),
  *("cost", "client", "summary", "payment", "server", "error", "login", "trip", "order", "call"),
)
NAMES = ("Emma", "Frank", "Grace", "Henry", "Irene", "Jack", "Karen", "Leo", "Mary", "Nina")
CITIES = ("Rivermist", "Stonebrook", "Maplecrest", "Silverpine", "Oakendale", "Willowbend")
# No state shows a password, and trading's shows no user: always the same, so that x and y tell z.
LOGIN = {"username": "me", "password": "pass"}
NODES = 10  # files and folders that a file system has at most
LONGEST_QUEUE = 3  # orders, tickets, messages: no more are added to so many


def choose(calls: list[Call], rng: random.Random) -> tuple[str, dict]:
  """One of the calls, by weight."""
  ((_, name, arguments),) = rng.choices(calls, weights=[weight for weight, _, _ in calls])
  return name, arguments


def phrase(rng, least=2, most=3):
  return " ".join(rng.sample(WORDS, rng.randint(least, most)))


def _some(items, rng):
  """A non-empty part of `items`, in their order."""
  kept = set(rng.sample(range(len(items)), rng.randint(1, len(items))))
  return [item for i, item in enumerate(items) if i in kept]


# -- GorillaFileSystem -----------------------------------------------------------------------------


def here_of(state):
  """The working directory's files and folders, and how many nodes the whole tree has."""

  def nodes(tree):
    return sum(1 if isinstance(item, str) else 1 + nodes(item) for item in tree.values())

  here = state["tree"]
  for folder in state["cwd"]:
    here = here[folder]
  files = [name for name, item in here.items() if isinstance(item, str)]
  folders = [name for name, item in here.items() if not isinstance(item, str)]
  return here, files, folders, nodes(state["tree"])


def _files_moves(state, rng):
  here, files, folders, nodes = here_of(state)
  new_file = rng.choice([name for name in FILES if name not in here])
  new_folder = rng.choice([name for name in FOLDERS if name not in here])
  calls: list[Call] = [(0.2, "pwd", {}), (0.3, "ls", {}), (0.2, "du", {})]
  if state["cwd"]:
    calls.append((1, "cd", {"folder": ".."}))
  if nodes < NODES:
    calls += [(1.5, "mkdir", {"dir_name": new_folder}), (1.5, "touch", {"file_name": new_file})]
  if folders:
    folder = rng.choice(folders)
    empty = [name for name in folders if not here[name]]
    calls += [(2, "cd", {"folder": folder}), (0.3, "find", {"path": folder})]
    if empty:
      calls += [(1, "rmdir", {"dir_name": rng.choice(empty)})]
    flat = [name for name in folders if all(isinstance(i, str) for i in here[name].values())]
    if flat:  # a moved folder's own folders would keep their old parent
      calls.append((0.5, "mv", {"source": rng.choice(flat), "destination": new_folder}))
  if files:
    file, word = rng.choice(files), rng.choice(WORDS)
    content = here[file].split()
    calls += [
      (2, "echo", {"content": phrase(rng), "file_name": file}),
      (1, "mv", {"source": file, "destination": new_file}),
      (0.7, "rm", {"file_name": file}),
      (0.5, "cat", {"file_name": file}),
      (0.3, "wc", {"file_name": file, "mode": rng.choice("lwc")}),
      (0.3, "grep", {"file_name": file, "pattern": rng.choice(content) if content else word}),
    ]
    if nodes < NODES:
      calls.append((1, "cp", {"source": file, "destination": new_file}))
    if len(files) > 1:
      one, two = rng.sample(files, 2)
      calls.append((0.3, "diff", {"file_name1": one, "file_name2": two}))
    if folders:
      into = [name for name in folders if file not in here[name]]
      if into:
        folder = rng.choice(into)
        calls.append((2, "mv", {"source": file, "destination": folder}))
        if nodes < NODES:
          calls.append((1, "cp", {"source": file, "destination": folder}))
  return calls


# -- VehicleControlAPI -----------------------------------------------------------------------------


def _car_moves(state, rng):
  doors = state["doorStatus"]
  locked = [door for door, status in doors.items() if status == "locked"]
  unlocked = [door for door, status in doors.items() if status != "locked"]
  room = int(50 - state["fuelLevel"])
  running, pressed = state["engineState"] == "running", state["brakePedalForce"] == 1000
  other = "off" if state["headLightStatus"] == "on" else "on"
  brake = "release" if state["parkingBrakeStatus"] == "engaged" else "engage"
  climate = {
    "temperature": rng.randint(16, 28),
    "fanSpeed": rng.randrange(0, 101, 10),
    "mode": rng.choice(("auto", "cool", "heat", "defrost")),
  }
  options = ("fuel", "battery", "doors", "climate", "headlights", "parkingBrake", "engine")
  calls: list[Call] = [
    (1, "adjustClimateControl", climate),
    (1, "setHeadlights", {"mode": other}),
    (1, "activateParkingBrake", {"mode": brake}),
    (1, "pressBrakePedal", {"pedalPosition": rng.choice((0.25, 0.5, 0.75, 1, 1, 1, 1))}),
    (1, "set_navigation", {"destination": rng.choice(CITIES)}),
    (0.5, "displayCarStatus", {"option": rng.choice(options)}),
    (0.3, "gallon_to_liter", {"gallon": rng.randint(1, 30)}),
  ]
  if unlocked:
    part = unlocked if rng.random() < 0.5 else _some(unlocked, rng)
    calls.append((1.5, "lockDoors", {"unlock": False, "door": part}))
  if locked:
    calls.append((0.7, "lockDoors", {"unlock": True, "door": _some(locked, rng)}))
  if state["brakePedalStatus"] == "pressed":
    calls.append((0.7, "releaseBrakePedal", {}))
  if not unlocked and pressed and not running:
    calls.append((4, "startEngine", {"ignitionMode": "START"}))
  if running:
    cruise = {
      "speed": rng.randrange(20, 121, 5),
      "activate": state["cruiseStatus"] != "active",
      "distanceToNextVehicle": rng.randrange(20, 200, 10),
    }
    calls.append((1.5, "setCruiseControl", cruise))
  if room > 0:
    calls.append((1, "fillFuelTank", {"fuelAmount": rng.randint(1, room)}))
  return calls


# -- TradingBot ------------------------------------------------------------------------------------


def _trading_moves(state, rng):
  symbols, watch, orders = list(state["stocks"]), state["watch"], state["orders"]
  symbol = rng.choice(symbols)
  if not state["in"]:
    return [(5, "trading_login", LOGIN), (1, "get_stock_info", {"symbol": symbol})]
  price, kind = state["stocks"][symbol], rng.choice(("Buy", "Sell"))
  amount = rng.randint(1, 20)
  unwatched = [s for s in symbols if s not in watch]
  calls: list[Call] = [
    (0.3, "trading_logout", {}),
    (1.5, "fund_account", {"amount": rng.randrange(100, 5001, 100)}),
    (0.5, "get_stock_info", {"symbol": symbol}),
    (0.2, "get_account_info", {}),
    (0.2, "get_watchlist", {}),
    (0.2, "get_order_history", {}),
  ]
  if unwatched:
    calls.append((2, "add_to_watchlist", {"stock": rng.choice(unwatched)}))
  if watch:
    calls.append((1.5, "remove_stock_from_watchlist", {"symbol": rng.choice(watch)}))
  if state["market"] == "Open" and state["cash"] >= 100:
    most = min(5000, int(state["cash"]))
    calls.append((1.5, "withdraw_funds", {"amount": rng.randrange(100, most + 1, 100)}))
  if len(orders) < LONGEST_QUEUE and (kind == "Sell" or price * amount <= state["cash"]):
    order = {"order_type": kind, "symbol": symbol, "price": price, "amount": amount}
    calls.append((3, "place_order", order))
  if orders:
    calls.append((0.4, "get_order_details", {"order_id": rng.choice(list(orders))}))
  going = [number for number, order in orders.items() if order[-1] in ("Open", "Pending")]
  if going:
    calls.append((2, "cancel_order", {"order_id": rng.choice(going)}))
  return calls


# -- TicketAPI -------------------------------------------------------------------------------------


def _tickets_moves(state, rng):
  queue = state["queue"]
  calls: list[Call] = [(0.2, "ticket_get_login_status", {})]
  if state["user"] is None:
    calls.append((4, "ticket_login", LOGIN | {"username": rng.choice(NAMES).lower()}))
  else:
    calls += [(0.5, "logout", {}), (0.4, "get_user_tickets", {})]
    if len(queue) < LONGEST_QUEUE:
      new = {"title": phrase(rng), "description": phrase(rng), "priority": rng.randint(1, 5)}
      calls.append((3, "create_ticket", new))
  if queue:
    ticket = rng.choice(queue)
    status = rng.choice(("Open", "Pending", "In Progress", "Closed"))
    changes = rng.choice(
      ({"priority": rng.randint(1, 5)}, {"status": status}, {"title": phrase(rng)})
    )
    calls += [
      (2, "edit_ticket", {"ticket_id": ticket["id"], "updates": changes}),
      (0.4, "get_ticket", {"ticket_id": ticket["id"]}),
    ]
    if ticket["status"] != "Closed":
      calls.append((1.5, "close_ticket", {"ticket_id": ticket["id"]}))
    if ticket["status"] != "Resolved":
      words = {"ticket_id": ticket["id"], "resolution": phrase(rng)}
      calls.append((1.5, "resolve_ticket", words))
  return calls


# -- MessageAPI ------------------------------------------------------------------------------------


def _messages_moves(state, rng):
  users, inbox = state["users"], state["inbox"]
  others = [number for number in users.values() if number != state["user"]]
  calls: list[Call] = [
    (0.2, "list_users", {}),
    (0.3, "get_user_id", {"user": rng.choice(list(users))}),
    (1 if state["user"] else 4, "message_login", {"user_id": rng.choice(others)}),
  ]
  new = [name for name in NAMES if name not in users]
  if len(users) < 5 and f"USR{state['count'] + 1:03d}" not in users.values():
    calls.append((1, "add_contact", {"user_name": rng.choice(new)}))
  if state["user"] is None:
    return calls
  calls += [(0.2, "view_messages_sent", {}), (0.2, "get_message_stats", {})]
  if len(inbox) < LONGEST_QUEUE:
    calls.append((3, "send_message", {"receiver_id": rng.choice(others), "message": phrase(rng)}))
  if inbox:
    receiver, text = rng.choice(inbox)
    calls += [
      (1.5, "delete_message", {"receiver_id": receiver}),
      (0.4, "search_messages", {"keyword": rng.choice(text.split())}),
    ]
  return calls


# -- MathAPI ---------------------------------------------------------------------------------------


def _math_moves(state, rng):
  numbers = [number for number in state["numbers"] if abs(number) < 1e5] or [rng.randint(1, 99)]
  a, small = rng.choice(numbers), rng.randint(2, 20)
  two, listed = {"a": a, "b": rng.choice((*numbers, small))}, {"numbers": list(numbers)}
  calls: list[Call] = [
    *((2, name, two) for name in ("add", "subtract")),
    *((0.7, name, listed) for name in ("sum_values", "min_value", "max_value")),
    (0.3, "mean", listed),
    (0.5, "multiply", {"a": a, "b": small}),
    (0.5, "divide", {"a": a, "b": rng.choice((2, 4, 5, 10))}),
    (0.5, "percentage", {"part": a, "whole": rng.choice((50, 100, 200, 500))}),
  ]
  if a != round(a, 1):  # short numbers are kept
    calls.append((3, "round_number", {"number": a, "decimal_places": rng.randint(0, 1)}))
  if a < 0:
    calls.append((1, "absolute_value", {"number": a}))
  else:
    calls.append((0.2, "square_root", {"number": a, "precision": 5}))
  if 0 < abs(a) < 100:
    calls.append((0.3, "power", {"base": a, "exponent": 2}))
  if a > 0:
    units = rng.choice((("km", "miles"), ("kg", "lb"), ("m", "ft"), ("cm", "in")))
    convert = {"value": a, "unit_in": units[0], "unit_out": units[1]}
    calls.append((0.3, "imperial_si_conversion", convert))
  return calls


# -- the table -------------------------------------------------------------------------------------

MOVES: dict[str, Policy] = {
  "GorillaFileSystem": _files_moves,
  "MathAPI": _math_moves,
  "MessageAPI": _messages_moves,
  "TicketAPI": _tickets_moves,
  "TradingBot": _trading_moves,
  "VehicleControlAPI": _car_moves,
}
