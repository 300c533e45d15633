"""The texts of the tools' states, and scenarios of every shape as one shape."""

import json
import random

import hypothesis
import hypothesis.strategies as st
import pytest

from swirl_jax.data.collectors import tools_apis
from swirl_jax.data.collectors.tools_states import APIS
from tests.data.collectors.tools_cases import CAR, FILES, INSIDE, MATH, MESSAGES, TICKETS, TRADING

SOLVED = TICKETS["queue"][0] | {"resolution": "new ink"}
TEXTS = (
  ("GorillaFileSystem", FILES, 'files home*{a.txt"red fox" old{"b c.txt"""}}'),
  ("GorillaFileSystem", INSIDE, 'files home{a.txt"red fox" old*{"b c.txt"""}}'),
  (
    *(
      "GorillaFileSystem",
      {"root": "r", "tree": {"a": {"b": {}}, "c": {"b": {}}}, "cwd": ["a", "b"]},
    ),
    "files r{a{b*{}} c{b{}}}",
  ),
  (
    *("VehicleControlAPI", CAR),
    "car unlocked rear_right fuel 10.5 battery 12.6 engine stopped ac 21 mode auto fan 30 "
    "humidity 40 lights off parking engaged hold 500 slope 10 pedal pressed press 1000 gap 60 "
    "cruise inactive to Rome",
  ),
  (
    *("TradingBot", TRADING),
    "trading in market Open cash 900.5 stocks AB 12.25 CD 3 watch AB next 7 orders 3 Buy 2 AB 11 "
    "Pending",
  ),
  ("TicketAPI", TICKETS, 'tickets user "ann" next 5 queue 4 Open 2 "no ink" "" ann'),
  (
    *("TicketAPI", {"user": None, "next": 5, "queue": [SOLVED]}),
    'tickets user none next 5 queue 4 Open 2 "no ink" "" ann resolved "new ink"',
  ),
  (
    *("MessageAPI", MESSAGES),
    'messages user USR001 users Ann USR001 Bo USR002 count 2 sent USR002 "see you"',
  ),
  ("MathAPI", MATH, "numbers 6 0.5 -2"),
)


@pytest.mark.parametrize("api, state, expected", TEXTS, ids=[api for api, _, _ in TEXTS])
def test_the_text_of_a_state(api, state, expected):
  assert APIS[api].text(state) == expected
  answer = tools_apis.shown(APIS[api], state, {"result": "é 'x'"})
  assert answer == expected + """ => {"result":"é 'x'"}"""


names = st.sampled_from(["a", "b", "c d", "e{", "f*", 'g"'])
trees = st.recursive(
  st.text(alphabet='ab "\\{}*', max_size=4),
  lambda inner: st.dictionaries(names, inner, max_size=3),
  max_leaves=6,
)


@hypothesis.given(*[st.dictionaries(names, trees, max_size=3) for _ in "12"])
def test_two_file_systems_have_one_text_only_if_they_are_the_same(one, two):
  def text(tree):
    return APIS["GorillaFileSystem"].text({"root": "r", "tree": tree, "cwd": []})

  def canonical(tree):
    if isinstance(tree, str):
      return tree
    return {name: canonical(tree[name]) for name in sorted(tree)}

  same = json.dumps(canonical(one)) == json.dumps(canonical(two))
  assert (text(canonical(one)) == text(canonical(two))) == same


def test_a_scenario_of_files_is_cut_and_sorted():
  def file(content):
    return {"type": "file", "content": content}

  inner = {"z.txt": file("one two\nthree  four five"), "a": {"type": "directory", "contents": {}}}
  scenario = {"root": {"me": {"type": "directory", "contents": inner}}}
  found = APIS["GorillaFileSystem"].start(None, scenario, random.Random(0), 4)
  assert found == {"root": "me", "tree": {"a": {}, "z.txt": "one two three four"}, "cwd": []}
  assert list(found["tree"]) == ["a", "z.txt"]


class Loaded:
  """An instance that keeps what it was loaded with as its attributes."""

  def _load_scenario(self, scenario):
    self.__dict__.update(scenario)


def test_tickets_of_every_shape_become_one_shape():
  scenario = {
    "ticket_queue": [
      {"t1": {"subject": "a b c d e", "status": "pending", "priority": "high", "booking": 3}},
      {"id": 9, "description": "x", "created_by": "bo"},
      {"id": 10},
    ],
    "ticket_counter": 11,
    "current_user": None,
  }
  found = APIS["TicketAPI"].start(Loaded(), scenario, random.Random(0), 4)
  one, two = found["queue"]
  assert one == {
    "id": "t1", "status": "pending", "priority": "high", "title": "a b c d", "description": "",
    "created_by": "",
  }  # fmt: skip
  assert (two["id"], two["status"], two["priority"], two["created_by"]) == (9, "Open", 1, "bo")
  assert (found["user"], found["next"]) == (None, 11)


def test_messages_of_every_shape_become_one_shape():
  scenario = {
    "user_map": {"Ann": "U1", "Bo": "U2", "Cy": "U3", "Di": "U4"},
    "inbox": [
      {"U1": ["first", "second"]},
      {"U2": {"U1": ["inner one two three four"]}},
      {"U3": {}},
      *({"U3": "hi"}, {"U3": "there"}),
    ],
    "user_count": 4,
    "current_user": "U4",
  }
  found = APIS["MessageAPI"].start(Loaded(), scenario, random.Random(0), 4)
  assert found["inbox"] == [["U1", "first"], ["U2", "inner one two three"], ["U3", "hi"]]
  assert list(found["users"]) == ["Ann", "Bo", "Cy"] and found["user"] is None


def test_trading_keeps_what_is_watched_and_real_orders():
  order = {"symbol": "AB", "price": 2.0, "num_shares": 5, "status": "Completed"}
  bought = order | {"order_type": "Buy", "amount": 6}
  scenario = {
    "stocks": {s: {"price": i + 1.5} for i, s in enumerate(("AB", "CD", "EF", "GH"))},
    "watch_list": ["GH", "XX"],
    "orders": {8: order, 7: bought, 9: order, "order_type": "Sell"},
    "account_info": {"balance": 10.0, "binding_card": 1},
    "authenticated": False,
    "market_status": "Closed",
    "order_counter": 9,
  }
  found = APIS["TradingBot"].start(Loaded(), scenario, random.Random(0), 4)
  assert found["watch"] == ["GH"] and "GH" in found["stocks"] and len(found["stocks"]) == 3
  assert list(found["stocks"]) == sorted(found["stocks"])
  assert found["orders"] == {
    7: ["Buy", 6, "AB", 2.0, "Completed"], 8: ["Sell", 5, "AB", 2.0, "Completed"],
  }  # fmt: skip
  rest = {key: found[key] for key in ("in", "market", "cash", "next")}
  assert rest == {"in": False, "market": "Closed", "cash": 10.0, "next": 9}
  watches_all = scenario | {"watch_list": ["GH", "EF", "CD", "AB"]}
  begins = [APIS["TradingBot"].start(Loaded(), watches_all, random.Random(i), 4) for i in range(20)]
  assert all(b["watch"] == ["EF", "GH"] and len(b["stocks"]) == 3 for b in begins)
  assert len({tuple(b["stocks"]) for b in begins}) == 2  # the third is drawn


def test_the_last_three_numbers_stay_on_the_table():
  read = APIS["MathAPI"].read
  assert read(None, MATH, {"result": 7})["numbers"] == [0.5, -2, 7]
  assert read(None, MATH, {"error": "no"})["numbers"] == [6, 0.5, -2]
  assert read(None, MATH, {"result": "inf"})["numbers"] == [6, 0.5, -2]
  assert read(None, MATH, {"result": True})["numbers"] == [6, 0.5, -2]


def test_numbers_begin_with_those_of_the_scenario():
  def begin(numbers, seed=0):
    return APIS["MathAPI"].start(None, {"numbers": numbers}, random.Random(seed), 4)["numbers"]

  assert begin([1, 2.5])[:2] == [1, 2.5] and len(begin([1, 2.5])) == 3
  assert begin([4, 3, 2, 1]) == [4, 3, 2]
  assert begin([]) != begin([], seed=1) and len(begin([])) == 3


# -- loaded into an instance, and read back from it ----------------------------------------------


class Files:
  """A file system that is loaded and walked as the package's is."""

  class Folder:
    def __init__(self, name, parent):
      self.name, self.parent, self.contents = name, parent, {}

  class File:
    def __init__(self, content):
      self.content = content

  def _load_scenario(self, scenario):
    ((name, item),) = scenario["root"].items()
    self.root = self._current_dir = self.Folder(name, None)
    self._fill(self.root, item["contents"])

  def _fill(self, folder, contents):
    for name, item in contents.items():
      if item["type"] == "file":
        folder.contents[name] = self.File(item["content"])
      else:
        folder.contents[name] = self.Folder(name, folder)
        self._fill(folder.contents[name], item["contents"])

  def cd(self, folder):
    self._current_dir = self._current_dir.contents[folder]


class Car:
  """Keeps some of what it is loaded with under other names, as the package's does."""

  names = {
    "engineState": "engine_state", "slopeAngle": "_slopeAngle",
    "parkingBrakeForce": "_parkingBrakeForce", "brakePedalForce": "_brakePedalForce",
  }  # fmt: skip

  def _load_scenario(self, scenario):
    for key, value in scenario.items():
      setattr(self, self.names.get(key, key), value)


DEEP = FILES | {"tree": FILES["tree"] | {"old": {"in": {"x.txt": "fox"}}}, "cwd": ["old", "in"]}
SHUT = TRADING | {
  "in": False, "market": "Closed",
  "orders": TRADING["orders"] | {5: ["Sell", 1, "CD", 3, "Completed"]},
}  # fmt: skip
SENT = MESSAGES | {"count": 4, "inbox": [["USR002", "see you"], ["USR002", "hi"]]}


@pytest.mark.parametrize(
  "api, instance, state",
  [
    ("GorillaFileSystem", Files(), DEEP),
    ("VehicleControlAPI", Car(), CAR),
    ("TradingBot", Loaded(), SHUT),
    ("TicketAPI", Loaded(), TICKETS | {"next": 9, "queue": [SOLVED]}),
    ("MessageAPI", Loaded(), SENT),
  ],
)
def test_what_is_loaded_is_read_back(api, instance, state):
  APIS[api].load(instance, state, 1)
  assert APIS[api].read(instance, state, None) == state


@pytest.mark.parametrize(
  "api, state", [("VehicleControlAPI", CAR), ("TradingBot", TRADING), ("MessageAPI", MESSAGES)]
)
def test_an_instances_generator_is_seeded(api, state):
  instance = Loaded()
  APIS[api].load(instance, state, 7)
  assert instance.random_seed == 7


def test_what_a_call_changes_is_read_and_the_state_before_is_kept():
  before = json.dumps([TRADING, TICKETS, MESSAGES])
  bot, desk, post = Loaded(), Loaded(), Loaded()
  for api, instance, state in (
    ("TradingBot", bot, TRADING), ("TicketAPI", desk, TICKETS), ("MessageAPI", post, MESSAGES)
  ):  # fmt: skip
    APIS[api].load(instance, state, 1)
  bot.watch_list.append("CD")
  bot.orders[7] = {
    "symbol": "CD", "id": 7, "price": 3, "amount": 9, "status": "Open", "order_type": "Buy",
  }  # fmt: skip
  found = APIS["TradingBot"].read(bot, TRADING, None)
  assert found == TRADING | {
    "watch": ["AB", "CD"], "orders": TRADING["orders"] | {7: ["Buy", 9, "CD", 3, "Open"]},
  }  # fmt: skip
  desk.ticket_queue[0]["resolution"] = "new ink"
  desk.current_user = None
  found = APIS["TicketAPI"].read(desk, TICKETS, None)
  assert found == TICKETS | {"user": None, "queue": [SOLVED]}
  post.user_map["Cy"] = "USR003"
  post.user_count, post.current_user = 3, "USR002"
  found = APIS["MessageAPI"].read(post, MESSAGES, None)
  assert found["users"] == MESSAGES["users"] | {"Cy": "USR003"}
  assert (found["count"], found["user"]) == (3, "USR002")
  assert json.dumps([TRADING, TICKETS, MESSAGES]) == before
