"""The collector's mistakes: for each API calls that should be answered with an error.

`MISTAKES[api](state, rng)` is a policy as in `tools_calls.py`. A mistake that the package accepts
gives no line.
"""

from swirl_jax.data.collectors.tools_calls import (
  FILES,
  FOLDERS,
  NAMES,
  WORDS,
  Call,
  Policy,
  here_of,
  phrase,
)


def _files_mistakes(state, rng):
  here, files, folders, _ = here_of(state)
  missing = rng.choice([name for name in FILES if name not in here])
  no_folder = rng.choice([name for name in FOLDERS if name not in here])
  calls: list[Call] = [
    (1, "cd", {"folder": no_folder}),
    (0.5, "cd", {"folder": f"{no_folder}/{rng.choice(FOLDERS)}"}),
    (1, "cat", {"file_name": missing}),
    (1, "rm", {"file_name": missing}),
    (1, "mv", {"source": missing, "destination": no_folder}),
    (1, "cp", {"source": missing, "destination": no_folder}),
    (1, "echo", {"content": phrase(rng), "file_name": missing}),
    (0.5, "grep", {"file_name": missing, "pattern": rng.choice(WORDS)}),
    (0.5, "rmdir", {"dir_name": no_folder}),
    (0.5, "touch", {"file_name": f"{no_folder}/{missing}"}),
  ]
  if not state["cwd"]:
    calls.append((1, "cd", {"folder": ".."}))
  if files:
    file = rng.choice(files)
    calls += [
      (1, "touch", {"file_name": file}),
      (0.5, "cd", {"folder": file}),
      (0.5, "rmdir", {"dir_name": file}),
      (0.5, "wc", {"file_name": file, "mode": rng.choice("abx")}),
    ]
  if folders:
    folder = rng.choice(folders)
    calls += [(1, "mkdir", {"dir_name": folder}), (0.5, "cat", {"file_name": folder})]
    if here[folder]:
      calls.append((1, "rmdir", {"dir_name": folder}))
  return calls


def _car_mistakes(state, rng):
  room = int(50 - state["fuelLevel"])
  ready = state["brakePedalForce"] == 1000 and "unlocked" not in state["doorStatus"].values()
  speed = rng.choice((125, 140, 33, 57, -5))
  gap = rng.randrange(20, 200, 10)
  return [
    (2, "startEngine", {"ignitionMode": rng.choice(("STOP", "RUN") if ready else ("START",))}),
    (1, "fillFuelTank", {"fuelAmount": room + rng.randint(1, 30)}),
    (0.5, "fillFuelTank", {"fuelAmount": -rng.randint(1, 20)}),
    (
      *(1, "adjustClimateControl"),
      {"temperature": rng.randint(16, 28), "fanSpeed": rng.randint(101, 200)},
    ),
    (0.5, "setHeadlights", {"mode": rng.choice(("dim", "high", "blink"))}),
    (0.5, "activateParkingBrake", {"mode": rng.choice(("lock", "hold", "on"))}),
    (1, "pressBrakePedal", {"pedalPosition": rng.choice((1.5, 2, -0.5, 10))}),
    (
      *(2, "setCruiseControl"),
      {"speed": speed, "activate": True, "distanceToNextVehicle": gap},
    ),
    (0.5, "displayCarStatus", {"option": rng.choice(("tires", "radio", "speed"))}),
    (0.5, "lockDoors", {"unlock": False, "door": [rng.choice(("trunk", "hood", "back"))]}),
  ]


def _trading_mistakes(state, rng):
  unknown = rng.choice(("ABCD", "XYZ", "QQQQ", "FOO"))
  symbol = rng.choice(list(state["stocks"]))
  price, missing = state["stocks"][symbol], rng.randint(100, 999)
  calls: list[Call] = [
    (1, "get_stock_info", {"symbol": unknown}),
    (1, "get_order_details", {"order_id": missing}),
    (1, "cancel_order", {"order_id": missing}),
    (1, "withdraw_funds", {"amount": int(state["cash"]) + rng.randrange(100, 1000, 100)}),
    (0.5, "fund_account", {"amount": -rng.randrange(100, 1000, 100)}),
    (1, "remove_stock_from_watchlist", {"symbol": unknown}),
  ]
  for kind, stock, cost, amount in (
    ("Buy", unknown, 100, rng.randint(1, 20)),
    ("Buy", symbol, price, int(state["cash"] / price) + rng.randint(1, 100)),
    ("Sell", symbol, price, 0),
  ):
    order = {"order_type": kind, "symbol": stock, "price": cost, "amount": amount}
    calls.append((0.7, "place_order", order))
  done = [number for number, order in state["orders"].items() if order[-1] == "Completed"]
  if done:
    calls.append((1, "cancel_order", {"order_id": rng.choice(done)}))
  return calls


def _tickets_mistakes(state, rng):
  missing = rng.randint(100, 999)
  priority = rng.randint(6, 20) if state["user"] is not None else rng.randint(1, 5)
  calls: list[Call] = [
    (1, "get_ticket", {"ticket_id": missing}),
    (1, "close_ticket", {"ticket_id": missing}),
    (1, "resolve_ticket", {"ticket_id": missing, "resolution": phrase(rng)}),
    (1, "edit_ticket", {"ticket_id": missing, "updates": {"priority": rng.randint(1, 5)}}),
    (1, "create_ticket", {"title": phrase(rng), "priority": priority}),
  ]
  if state["user"] is None:
    calls.append((1, "get_user_tickets", {}))
  if state["queue"]:
    ticket = rng.choice(state["queue"])
    field = rng.choice(("owner", "team", "due", "color"))
    changes = {"ticket_id": ticket["id"], "updates": {field: rng.choice(WORDS)}}
    calls.append((1, "edit_ticket", changes))
    if ticket["status"] == "Closed":
      calls.append((2, "close_ticket", {"ticket_id": ticket["id"]}))
    if ticket["status"] == "Resolved":
      words = {"ticket_id": ticket["id"], "resolution": phrase(rng)}
      calls.append((2, "resolve_ticket", words))
  return calls


def _messages_mistakes(state, rng):
  users, unknown = state["users"], f"USR{rng.randint(100, 999)}"
  return [
    (1, "get_user_id", {"user": rng.choice([name for name in NAMES if name not in users])}),
    (1, "add_contact", {"user_name": rng.choice(list(users))}),
    (2, "send_message", {"receiver_id": unknown, "message": phrase(rng)}),
    (1, "delete_message", {"receiver_id": unknown}),
  ]


def _math_mistakes(state, rng):
  a = rng.choice(state["numbers"])
  units = rng.choice((("km", "lb"), ("kg", "ft"), ("m", "miles"), ("hour", "cm")))
  return [
    (1, "divide", {"a": a, "b": 0}),
    (1, "square_root", {"number": -abs(a) - 1, "precision": 5}),
    (0.5, "mean", {"numbers": []}),
    (0.5, "sum_values", {"numbers": []}),
    (1, "percentage", {"part": a, "whole": 0}),
    (1, "power", {"base": 0, "exponent": -rng.randint(1, 5)}),
    (1, "imperial_si_conversion", {"value": a, "unit_in": units[0], "unit_out": units[1]}),
    (0.5, "si_unit_conversion", {"value": a, "unit_in": units[1], "unit_out": units[0]}),
  ]


MISTAKES: dict[str, Policy] = {
  "GorillaFileSystem": _files_mistakes,
  "MathAPI": _math_mistakes,
  "MessageAPI": _messages_mistakes,
  "TicketAPI": _tickets_mistakes,
  "TradingBot": _trading_mistakes,
  "VehicleControlAPI": _car_mistakes,
}
