"""The texts of the tools' states, and scenarios of every shape as one shape."""

import json
import random

import hypothesis
import hypothesis.strategies as st
import pytest

from swirl_jax.data.collectors import tools_apis
from swirl_jax.data.collectors.tools_states import APIS
from tests.data.collectors.tools_cases import CAR, FILES, INSIDE, MATH, MESSAGES, TICKETS, TRADING

TEXTS = (
  ("GorillaFileSystem", FILES, 'files home*{a.txt"red fox" old{"b c.txt"""}}'),
  ("GorillaFileSystem", INSIDE, 'files home{a.txt"red fox" old*{"b c.txt"""}}'),
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
    ],
    "user_count": 4,
    "current_user": "U4",
  }
  found = APIS["MessageAPI"].start(Loaded(), scenario, random.Random(0), 4)
  assert found["inbox"] == [["U1", "first"], ["U2", "inner one two three"]]
  assert list(found["users"]) == ["Ann", "Bo", "Cy"] and found["user"] is None


def test_trading_keeps_what_is_watched_and_real_orders():
  order = {"symbol": "AB", "price": 2.0, "num_shares": 5, "status": "Completed"}
  scenario = {
    "stocks": {s: {"price": i + 1.5} for i, s in enumerate(("AB", "CD", "EF", "GH"))},
    "watch_list": ["GH", "XX"],
    "orders": {8: order, "order_type": "Sell"},
    "account_info": {"balance": 10.0, "binding_card": 1},
    "authenticated": False,
    "market_status": "Closed",
    "order_counter": 9,
  }
  found = APIS["TradingBot"].start(Loaded(), scenario, random.Random(0), 4)
  assert found["watch"] == ["GH"] and "GH" in found["stocks"] and len(found["stocks"]) == 3
  assert list(found["stocks"]) == sorted(found["stocks"])
  assert found["orders"] == {8: ["Sell", 5, "AB", 2.0, "Completed"]}


def test_the_last_three_numbers_stay_on_the_table():
  read = APIS["MathAPI"].read
  assert read(None, MATH, {"result": 7})["numbers"] == [0.5, -2, 7]
  assert read(None, MATH, {"error": "no"})["numbers"] == [6, 0.5, -2]
  assert read(None, MATH, {"result": "inf"})["numbers"] == [6, 0.5, -2]
