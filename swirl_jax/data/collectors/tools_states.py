"""The states of the package's six APIs: made from a scenario, loaded into an instance, read back
from it, and written as one line; `APIS` is the table.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from swirl_jax.data.collectors.tools_apis import Api

STOCKS = 3  # a scenario's stocks that an episode keeps
QUEUE = 2  # its orders or tickets
USERS = 3  # its users of the message service, and their messages
OPERANDS = 3  # numbers that the mathematics remember


def _word(value: Any) -> str:
  """A value as one word where it is one, else as a JSON string."""
  text = str(value)
  return text if re.fullmatch(r"[\w.\-]+", text) else json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
  return json.dumps(text, ensure_ascii=False)


def _cut(text: Any, words: int) -> str:
  return " ".join(str(text).split()[:words])


# -- GorillaFileSystem -----------------------------------------------------------------------------


def _files_start(instance, configuration, rng, words):
  def tree(contents):
    return {
      name: tree(item["contents"]) if item["type"] == "directory" else _cut(item["content"], words)
      for name, item in sorted(contents.items())
    }

  name, item = next(iter(configuration["root"].items()))  # the one that the package takes
  return {"root": name, "tree": tree(item["contents"]), "cwd": []}


def _files_load(instance, state, seed):
  def contents(tree):
    return {
      name: {"type": "file", "content": item}
      if isinstance(item, str)
      else {"type": "directory", "contents": contents(item)}
      for name, item in tree.items()
    }

  root = {"type": "directory", "contents": contents(state["tree"])}
  instance._load_scenario({"root": {state["root"]: root}})
  for folder in state["cwd"]:
    instance.cd(folder)


def _files_read(instance, state, response):
  def tree(folder):
    return {
      name: tree(item) if hasattr(item, "contents") else item.content
      for name, item in sorted(folder.contents.items())
    }

  cwd, here = [], instance._current_dir
  while here.parent is not None:
    cwd, here = [here.name, *cwd], here.parent
  return {"root": state["root"], "tree": tree(instance.root), "cwd": cwd}


def _files_text(state):
  def tree(name, item, path):  # path: what is left of the working directory's, None beside it
    if isinstance(item, str):
      return f"{_word(name)}{_quoted(item)}"
    inner = (tree(n, i, path[1:] if path and path[0] == n else None) for n, i in item.items())
    return f"{_word(name)}{'*' if path == [] else ''}{{{' '.join(inner)}}}"

  return f"files {tree(state['root'], state['tree'], list(state['cwd']))}"


# -- VehicleControlAPI -----------------------------------------------------------------------------

# Word in the text, key of the scenario, attribute of the instance. Tyre pressures are left out: no
# call changes them.
_CAR = (
  ("fuel", "fuelLevel", "fuelLevel"),
  ("battery", "batteryVoltage", "batteryVoltage"),
  ("engine", "engineState", "engine_state"),
  ("ac", "acTemperature", "acTemperature"),
  ("mode", "acMode", "acMode"),
  ("fan", "fanSpeed", "fanSpeed"),
  ("humidity", "humidityLevel", "humidityLevel"),
  ("lights", "headLightStatus", "headLightStatus"),
  ("parking", "parkingBrakeStatus", "parkingBrakeStatus"),
  ("hold", "parkingBrakeForce", "_parkingBrakeForce"),
  ("slope", "slopeAngle", "_slopeAngle"),
  ("pedal", "brakePedalStatus", "brakePedalStatus"),
  ("press", "brakePedalForce", "_brakePedalForce"),
  ("gap", "distanceToNextVehicle", "distanceToNextVehicle"),
  ("cruise", "cruiseStatus", "cruiseStatus"),
  ("to", "destination", "destination"),
)


def _car_start(instance, configuration, rng, words):
  instance._load_scenario(copy.deepcopy(dict(configuration)))
  return _car_read(instance, {}, None)


def _car_load(instance, state, seed):
  instance._load_scenario({**state, "doorStatus": dict(state["doorStatus"]), "random_seed": seed})


def _car_read(instance, state, response):
  found = {key: getattr(instance, attribute) for _, key, attribute in _CAR}
  return found | {"doorStatus": dict(sorted(instance.doorStatus.items()))}


def _car_text(state):
  doors = [_word(door) for door, status in state["doorStatus"].items() if status == "unlocked"]
  rest = " ".join(f"{word} {_word(state[key])}" for word, key, _ in _CAR)
  return f"car unlocked {' '.join(doors) if doors else 'none'} {rest}"


# -- TradingBot ------------------------------------------------------------------------------------


def _trading_start(instance, configuration, rng, words):
  instance._load_scenario(copy.deepcopy(dict(configuration)))
  prices = {symbol: stock["price"] for symbol, stock in sorted(instance.stocks.items())}
  watched = [symbol for symbol in instance.watch_list if symbol in prices][: STOCKS - 1]
  others = sorted(set(prices) - set(watched))
  kept = sorted(watched + rng.sample(others, min(STOCKS - len(watched), len(others))))
  kind = instance.orders.get("order_type", "Buy")
  orders = {
    number: [
      *(order.get("order_type", kind), order.get("amount", order.get("num_shares", 1))),
      *(order["symbol"], order["price"], order["status"]),
    ]
    for number, order in instance.orders.items()
    if isinstance(number, int)
  }
  return {
    "in": instance.authenticated,
    "market": instance.market_status,
    "cash": instance.account_info["balance"],
    "next": instance.order_counter,
    "stocks": {symbol: prices[symbol] for symbol in kept},
    "watch": sorted(watched),
    "orders": dict(sorted(orders.items())[:QUEUE]),
  }


_ORDER = ("order_type", "amount", "symbol", "price", "status")


def _trading_load(instance, state, seed):
  orders = {
    number: {"id": number} | dict(zip(_ORDER, order, strict=True))
    for number, order in state["orders"].items()
  }
  instance._load_scenario(
    {
      "orders": orders,
      "account_info": {"balance": state["cash"]},
      "authenticated": state["in"],
      "market_status": state["market"],
      "order_counter": state["next"],
      "stocks": {symbol: {"price": price} for symbol, price in state["stocks"].items()},
      "watch_list": list(state["watch"]),
      "transaction_history": [],
      "random_seed": seed,
    }
  )


def _trading_read(instance, state, response):
  return {
    "in": instance.authenticated,
    "market": instance.market_status,
    "cash": instance.account_info["balance"],
    "next": instance.order_counter,
    "stocks": dict(state["stocks"]),
    "watch": sorted(instance.watch_list),
    "orders": {n: [o[key] for key in _ORDER] for n, o in sorted(instance.orders.items())},
  }


def _trading_text(state):
  stocks = " ".join(f"{_word(symbol)} {price}" for symbol, price in state["stocks"].items())
  orders = " ; ".join(
    f"{number} {' '.join(map(_word, order))}" for number, order in state["orders"].items()
  )
  return (
    f"trading {'in' if state['in'] else 'out'} market {_word(state['market'])} cash "
    f"{state['cash']} stocks {stocks} watch {' '.join(map(_word, state['watch'])) or 'none'} "
    f"next {state['next']} orders {orders or 'none'}"
  )


# -- TicketAPI -------------------------------------------------------------------------------------

_TICKET = ("id", "status", "priority", "title", "description", "created_by")


def _tickets_start(instance, configuration, rng, words):
  def ticket(found):
    if "id" not in found and len(found) == 1:  # {id: the rest}
      ((number, rest),) = found.items()
      found = {"id": number, **rest}
    title = next((found[key] for key in ("title", "subject", "issue") if key in found), "")
    return {
      "id": found["id"],
      "status": found.get("status", "Open"),
      "priority": found.get("priority", 1),
      "title": _cut(title, words),
      "description": _cut(found.get("description", ""), words),
      "created_by": found.get("created_by", ""),
    }

  instance._load_scenario(copy.deepcopy(dict(configuration)))
  queue = [ticket(found) for found in instance.ticket_queue[:QUEUE]]
  return {"user": instance.current_user, "next": instance.ticket_counter, "queue": queue}


def _tickets_load(instance, state, seed):
  instance._load_scenario(
    {
      "ticket_queue": copy.deepcopy(state["queue"]),
      "ticket_counter": state["next"],
      "current_user": state["user"],
    }
  )


def _tickets_read(instance, state, response):
  queue = [
    {key: ticket[key] for key in (*_TICKET, "resolution") if key in ticket}
    for ticket in instance.ticket_queue
  ]
  return {"user": instance.current_user, "next": instance.ticket_counter, "queue": queue}


def _tickets_text(state):
  def ticket(t):
    resolution = f" resolved {_quoted(t['resolution'])}" if "resolution" in t else ""
    return (
      f"{_word(t['id'])} {_word(t['status'])} {_word(t['priority'])} {_quoted(t['title'])} "
      f"{_quoted(t['description'])} {_word(t['created_by'])}{resolution}"
    )

  user = "none" if state["user"] is None else _quoted(state["user"])  # a user may be called none
  queue = " ; ".join(map(ticket, state["queue"])) or "none"
  return f"tickets user {user} next {state['next']} queue {queue}"


# -- MessageAPI ------------------------------------------------------------------------------------


def _messages_start(instance, configuration, rng, words):
  def first(found):  # some scenarios have lists of messages, or lists by sender
    while isinstance(found, list | dict) and found:
      found = found[0] if isinstance(found, list) else next(iter(found.values()))
    return found

  instance._load_scenario(copy.deepcopy(dict(configuration)))
  users = dict(list(instance.user_map.items())[:USERS])
  pairs = [(receiver, first(found)) for item in instance.inbox for receiver, found in item.items()]
  inbox = [[receiver, _cut(found, words)] for receiver, found in pairs if found][:USERS]
  user = instance.current_user if instance.current_user in users.values() else None
  return {"user": user, "count": instance.user_count, "users": users, "inbox": inbox}


def _messages_load(instance, state, seed):
  instance._load_scenario(
    {
      "user_count": state["count"],
      "user_map": dict(state["users"]),
      "inbox": [{receiver: message} for receiver, message in state["inbox"]],
      "current_user": state["user"],
      "generated_ids": set(),
      "random_seed": seed,
    }
  )


def _messages_read(instance, state, response):
  return {
    "user": instance.current_user,
    "count": instance.user_count,
    "users": dict(instance.user_map),
    "inbox": [[receiver, message] for item in instance.inbox for receiver, message in item.items()],
  }


def _messages_text(state):
  users = " ".join(f"{_word(name)} {_word(number)}" for name, number in state["users"].items())
  inbox = " ; ".join(f"{_word(receiver)} {_quoted(text)}" for receiver, text in state["inbox"])
  user = "none" if state["user"] is None else _word(state["user"])
  return f"messages user {user} users {users} count {state['count']} sent {inbox or 'none'}"


# -- MathAPI ---------------------------------------------------------------------------------------


def _math_start(instance, configuration, rng, words):
  given = [float(number) for number in configuration.get("numbers", ())][:OPERANDS]
  drawn = [rng.randint(1, 400) / rng.choice((1, 1, 2, 10)) for _ in range(OPERANDS)]
  return {"numbers": given + drawn[len(given) :]}


def _math_load(instance, state, seed):
  """The class keeps nothing."""


def _math_read(instance, state, response):
  result = response.get("result") if isinstance(response, Mapping) else None
  kept: Sequence = state["numbers"]
  if isinstance(result, int | float) and not isinstance(result, bool):
    kept = [*kept, result][-OPERANDS:]
  return {"numbers": list(kept)}


def _math_text(state):
  return f"numbers {' '.join(map(str, state['numbers']))}"


# -- the table -------------------------------------------------------------------------------------

APIS = {
  "GorillaFileSystem": Api(
    "gorilla_file_system", _files_start, _files_load, _files_read, _files_text
  ),
  "MathAPI": Api("math_api", _math_start, _math_load, _math_read, _math_text),
  "MessageAPI": Api("message_api", _messages_start, _messages_load, _messages_read, _messages_text),
  "TicketAPI": Api("ticket_api", _tickets_start, _tickets_load, _tickets_read, _tickets_text),
  "TradingBot": Api("trading_bot", _trading_start, _trading_load, _trading_read, _trading_text),
  "VehicleControlAPI": Api("vehicle_control", _car_start, _car_load, _car_read, _car_text),
}
