"""The tools world: the default tests know a lamp of our own; those marked `tools` the package."""

import collections
import importlib.metadata
import importlib.util
import json
import os
import random
import subprocess
import sys
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from configs import tools as config
from swirl_jax import settings
from swirl_jax.data import transition_lines
from swirl_jax.data.collection import Episode
from swirl_jax.data.collectors import tools, tools_apis, tools_calls, tools_mistakes
from swirl_jax.data.collectors.tools_states import APIS

SETTINGS = tools.DEFAULTS
SMALL = SETTINGS | {"episodes": 1, "evaluation_episodes": 1}
SPLITS = ("train", "validation", "test", "heldout", "failing")

installed = pytest.mark.skipif(
  importlib.util.find_spec("bfcl_eval") is None, reason=f"needs bfcl-eval: {tools.INSTALL}"
)


# -- a lamp instead of the package ---------------------------------------------------------------


class Lamp:
  """An API of our own: a switch, a label, and answers from a hidden generator."""

  def _load_scenario(self, scenario):
    self.on, self.label = scenario["on"], scenario["label"]
    self._random = random.Random(scenario["random_seed"])

  def press(self):
    self.on = not self.on
    return {"on": self.on}

  def write(self, label):
    self.label = label
    return {"id": self._random.random(), "by": {"key": self._random.random()}, "label": label}

  def serial(self):
    return {"serial": self._random.random()}

  def shuffle(self):
    self.label = str(self._random.random())

  def look(self):
    return {"on": self.on}

  def burn(self, watts):
    raise RuntimeError(f"{watts} is too much")

  def say(self, text):
    return {"text": text}


LAMP = tools_apis.Api(
  module="lamp",
  start=lambda instance, configuration, rng, words: {"on": False, "label": configuration["label"]},
  load=lambda instance, state, seed: instance._load_scenario({**state, "random_seed": seed}),
  read=lambda instance, state, response: {"on": instance.on, "label": instance.label},
  text=lambda state: f"lamp {'on' if state['on'] else 'off'} {state['label']}",
)


def lamp_moves(state, rng):
  return [
    (3, "press", {}),
    (3, "write", {"label": rng.choice("abcd")}),
    (1, "serial", {}),
    (1, "shuffle", {}),
    (1, "look", {}),
    (1, "burn", {"watts": 7}),
    (1, "say", {"text": "w" * 500}),
  ]


def lamp_mistakes(state, rng):
  return [(2, "burn", {"watts": rng.randint(60, 99)}), (1, "press", {})]


@pytest.fixture
def lamp(monkeypatch):
  """The lamp as "MathAPI" (which is no part of a scenario's look) and as "TicketAPI"."""
  for api in ("MathAPI", "TicketAPI"):
    monkeypatch.setitem(APIS, api, LAMP)
    monkeypatch.setitem(tools_calls.MOVES, api, lamp_moves)
    monkeypatch.setitem(tools_mistakes.MISTAKES, api, lamp_mistakes)
  monkeypatch.setattr(tools, "_class", lambda api: Lamp)
  scenarios = tuple({"TicketAPI": {"label": f"s{i}"}} for i in range(20))
  monkeypatch.setattr(tools, "_scenarios", lambda: scenarios)


def lamp_call(name, **arguments):
  return tools_apis.outcome(LAMP, Lamp, {"on": False, "label": "a"}, name, arguments)


def test_an_outcome_is_the_state_and_the_response_after_the_call():
  assert lamp_call("press") == ({"on": True, "label": "a"}, {"on": True}, False, 0)


def test_what_the_hidden_generator_answers_is_left_out_and_counted():
  assert lamp_call("write", label="b") == ({"on": False, "label": "b"}, {"label": "b"}, False, 2)


@pytest.mark.parametrize("name", ["serial", "shuffle"])
def test_a_call_whose_outcome_is_not_a_function_of_state_and_call_has_none(name):
  assert lamp_call(name) is None


def test_a_call_that_raises_has_failed_and_says_why():
  found = lamp_call("burn", watts=9)
  assert found.failed and found.response == {"error": "9 is too much"}


def test_a_method_or_an_argument_that_does_not_exist_is_our_error_and_no_failed_call():
  with pytest.raises(AttributeError):
    lamp_call("dim")
  with pytest.raises(TypeError):
    lamp_call("burn", volts=9)


def test_a_call_changes_neither_the_state_nor_the_arguments_it_was_given():
  class Keeps(Lamp):
    def grow(self, items):
      items.append(1)
      self.label = items
      return {"items": items}

  state, arguments = {"on": True, "label": ["x"]}, {"items": [0]}
  found = tools_apis.outcome(LAMP, Keeps, state, "grow", arguments)
  assert (found.state["label"], found.response) == ([0, 1], {"items": [0, 1]})
  assert (state, arguments) == ({"on": True, "label": ["x"]}, {"items": [0]})


@pytest.mark.parametrize(
  "value, expected",
  [
    (2.0, 2),
    (0.1 + 0.2, 0.3),
    (1234567.891, 1234567.9),
    (float("inf"), "inf"),
    (True, True),
    (None, None),
    (("a", 1.5), ["a", 1.5]),
    ({3: {"x": 4.0}}, {3: {"x": 4}}),
    (1 + 2j, "(1+2j)"),
  ],
)
def test_tidy(value, expected):
  found = tools_apis.tidy(value)
  assert found == expected and type(found) is type(expected)


def play(split, k, **settings):
  episode = Episode(f"{split}-TicketAPI-{k}", "TicketAPI", split, {"scenario": k % 20})
  return tools.play(SETTINGS | settings, episode, {"TicketAPI": {"label": f"s{k}"}})


def test_an_episode_is_one_chain_of_transitions(lamp):
  for k in range(20):
    lines = play("train", k).lines
    assert all(a["y"] == b["x"] for a, b in zip(lines, lines[1:], strict=False))
    assert all(line["x"] != line["y"] for line in lines)
    assert {line["z"].split("(")[0] for line in lines} <= {"press", "write", "look"}
    assert not any("error" in line["y"] or len(line["y"]) > 400 for line in lines)


def test_no_step_is_dropped_without_being_counted(lamp):
  total = collections.Counter()
  for k in range(30):
    lines, counts = play("train", k, turns=20)
    counts = dict(counts)
    assert all(n > 0 for n in counts.values())
    hidden_parts = counts.pop("hidden_parts", 0)
    assert hidden_parts == 2 * sum(line["z"].startswith("write") for line in lines)
    assert 20 <= len(lines) + sum(counts.values()) <= 20 + tools.BEFORE
    total.update(counts)
  assert set(total) == {"before", "hidden", "failed", "unchanged", "too_long"}


def test_failing_episodes_hold_failing_calls_alone(lamp):
  found = [play("failing", k) for k in range(20)]
  lines = [line for played in found for line in played.lines]
  assert lines
  for line in lines:
    assert line["z"].startswith("burn") and line["y"].endswith('is too much"}')
    assert line["x"].split(" => ")[0] == line["y"].split(" => ")[0]
  total = sum((collections.Counter(played.counts) for played in found), collections.Counter())
  assert total["succeeded"] and total["between"]
  assert len({line["x"] for line in lines}) > 10


def test_an_episode_is_a_function_of_settings_and_name(lamp):
  assert play("train", 3) == play("train", 3)
  assert play("train", 3).lines != play("train", 3, seed=1).lines
  with tools.session(SMALL) as one, tools.session(SMALL) as two:
    found = tools.episodes(SMALL)
    forth = {episode.name: one(episode) for episode in found}
    back = {episode.name: two(episode) for episode in reversed(found)}
  assert forth == back


def test_the_words_of_a_line(lamp):
  for line in play("train", 5, turns=40).lines:
    assert set(line) == {"x", "y", "z", "action", "turn"}
    assert line["action"].split()[0] == line["z"].split("(")[0]
    assert all(text.isprintable() for text in (line["x"], line["y"], line["z"]))


def test_episodes_name_every_scenario_in_one_split(lamp):
  found = tools.episodes(SETTINGS | {"heldout": "TradingBot"})
  assert len({episode.name for episode in found}) == len(found)
  by_split = collections.defaultdict(set)
  for episode in found:
    by_split[episode.split].add(episode.arguments["scenario"])
    assert json.loads(json.dumps(episode.arguments)) == episode.arguments
  assert {split: len(numbers) for split, numbers in by_split.items()} == {
    "train": 14, "validation": 2, "test": 4, "failing": 4,
  }  # fmt: skip
  assert by_split["failing"] == by_split["test"]
  assert not by_split["train"] & by_split["test"] | by_split["train"] & by_split["validation"]
  counts = collections.Counter((e.split, e.arguments["scenario"]) for e in found)
  assert {n for (split, _), n in counts.items() if split == "train"} == {SETTINGS["episodes"]}


def test_all_of_a_held_out_api_is_held_out(lamp):
  found = tools.episodes(SETTINGS | {"heldout": "TicketAPI"})
  assert {(episode.level, episode.split) for episode in found} == {("TicketAPI", "heldout")}
  assert {episode.arguments["scenario"] for episode in found} == set(range(20))


# -- splits --------------------------------------------------------------------------------------


def test_two_hundred_scenarios_are_split_140_20_40():
  found = tools.split_of([[f"a {i}"] for i in range(200)], seed=0)
  assert collections.Counter(found) == {"train": 140, "validation": 20, "test": 40}
  assert found == tools.split_of([[f"a {i}"] for i in range(200)], seed=0)
  assert found != tools.split_of([[f"a {i}"] for i in range(200)], seed=1)


@hypothesis.given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=60))
def test_scenarios_that_look_the_same_share_a_split(numbers):
  looks = [[f"a {n}" for n in row] for row in numbers]
  found = tools.split_of(looks, seed=3)
  splits = collections.defaultdict(set)
  for row, split in zip(looks, found, strict=True):
    assert split in tools.SHARES
    for text in row:
      splits[text].add(split)
  assert all(len(names) == 1 for names in splits.values())


# -- states --------------------------------------------------------------------------------------

FILES = {"root": "home", "tree": {"a.txt": "red fox", "old": {"b c.txt": ""}}, "cwd": []}
INSIDE = FILES | {"cwd": ["old"]}
CAR = {
  "fuelLevel": 10.5, "batteryVoltage": 12.6, "engineState": "stopped", "acTemperature": 21,
  "acMode": "auto", "fanSpeed": 30, "humidityLevel": 40, "headLightStatus": "off",
  "parkingBrakeStatus": "engaged", "parkingBrakeForce": 500, "slopeAngle": 10,
  "brakePedalStatus": "pressed", "brakePedalForce": 1000, "distanceToNextVehicle": 60,
  "cruiseStatus": "inactive", "destination": "Rome",
  "doorStatus": {"driver": "locked", "passenger": "locked", "rear_left": "locked",
                 "rear_right": "unlocked"},
}  # fmt: skip
TRADING = {
  "in": True, "market": "Open", "cash": 900.5, "next": 7, "stocks": {"AB": 12.25, "CD": 3},
  "watch": ["AB"], "orders": {3: ["Buy", 2, "AB", 11, "Pending"]},
}  # fmt: skip
INK = {"id": 4, "status": "Open", "priority": 2, "title": "no ink", "description": ""}
TICKETS = {"user": "ann", "next": 5, "queue": [INK | {"created_by": "ann"}]}
MESSAGES = {
  "user": "USR001", "count": 2, "users": {"Ann": "USR001", "Bo": "USR002"},
  "inbox": [["USR002", "see you"]],
}  # fmt: skip
MATH = {"numbers": [6, 0.5, -2]}
STATES = {
  "GorillaFileSystem": FILES, "MathAPI": MATH, "MessageAPI": MESSAGES, "TicketAPI": TICKETS,
  "TradingBot": TRADING, "VehicleControlAPI": CAR,
}  # fmt: skip

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


# -- policies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", STATES)
@pytest.mark.parametrize("table", [tools_calls.MOVES, tools_mistakes.MISTAKES])
def test_calls_are_weighted_drawn_by_seed_and_leave_the_state_alone(api, table):
  before = json.dumps(STATES[api])
  drawn = [table[api](STATES[api], random.Random(seed)) for seed in range(30)]
  again = [table[api](STATES[api], random.Random(seed)) for seed in range(30)]
  assert drawn == again and len({json.dumps(calls) for calls in drawn}) > 10
  assert json.dumps(STATES[api]) == before
  for weight, name, arguments in (call for calls in drawn for call in calls):
    assert weight > 0 and name.isidentifier() and all(map(str.isidentifier, arguments))


def test_calls_are_chosen_by_their_weights():
  calls = [(1, "rare", {}), (3, "often", {})]
  rng = random.Random(0)
  counts = collections.Counter(tools_calls.choose(calls, rng)[0] for _ in range(4000))
  assert 2880 < counts["often"] < 3120  # 3000 ± 4.4 standard deviations


def test_every_api_has_both_policies():
  assert set(APIS) == set(tools_calls.MOVES) == set(tools_mistakes.MISTAKES) == set(STATES)


# -- check ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "name, value", [("turns", 0), ("episodes", 1.5), ("seed", -1), ("longest", True), ("heldout", "")]
)
def test_check_names_a_bad_setting(name, value):
  with pytest.raises(ValueError, match=f"tools: {name} is {value!r}, must be"):
    tools.check(SETTINGS | {name: value})


def test_check_names_the_two_commands_where_the_package_is_missing(monkeypatch):
  def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "version", missing)
  with pytest.raises(ValueError, match=r"\.\[tools\].*--no-deps bfcl-eval==2026\.3\.23"):
    tools.check(SETTINGS)


def test_check_refuses_another_version(monkeypatch):
  monkeypatch.setattr(importlib.metadata, "version", lambda name: "2025.1.1")
  with pytest.raises(ValueError, match="bfcl-eval is 2025.1.1, must be 2026.3.23"):
    tools.check(SETTINGS)


def test_check_names_mpmath_where_it_is_missing(monkeypatch):
  monkeypatch.setattr(importlib.metadata, "version", lambda name: tools.VERSION)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match="mpmath.*is not installed"):
    tools.check(SETTINGS)


def test_the_config_says_what_the_collection_says():
  found = settings.from_config(config.get_config().to_dict())
  ours = {"name", "labelled", "bpe"}  # of the shared code
  assert {k: v for k, v in found.world.items() if k not in ours} == tools.DEFAULTS
  assert set(found.world) == ours | set(tools.DEFAULTS)


# -- the package itself --------------------------------------------------------------------------

# Recorded by us in the states above: API, state, call, the state's text after it, the response.
RECORDED = (
  (
    *("GorillaFileSystem", FILES, "mv", {"source": "a.txt", "destination": "old"}),
    'files home*{old{a.txt"red fox" "b c.txt"""}} => {"result":"\'a.txt\' moved to \'old/a.txt\'"}',
  ),
  (
    *("GorillaFileSystem", FILES, "cd", {"folder": "old"}),
    'files home{a.txt"red fox" old*{"b c.txt"""}} => {"current_working_directory":"old"}',
  ),
  (
    *("GorillaFileSystem", INSIDE, "mkdir", {"dir_name": "new"}),
    'files home{a.txt"red fox" old*{"b c.txt""" new{}}} => null',
  ),
  (
    *("TradingBot", TRADING, "cancel_order", {"order_id": 3}),
    "trading in market Open cash 900.5 stocks AB 12.25 CD 3 watch AB next 7 orders 3 Buy 2 AB 11 "
    'Cancelled => {"order_id":3,"status":"Cancelled"}',
  ),
  (
    *("TradingBot", TRADING, "fund_account", {"amount": 100}),
    "trading in market Open cash 1000.5 stocks AB 12.25 CD 3 watch AB next 7 orders 3 Buy 2 AB 11 "
    'Pending => {"status":"Account funded successfully","new_balance":1000.5}',
  ),
  (
    *("TicketAPI", TICKETS, "resolve_ticket", {"ticket_id": 4, "resolution": "new ink"}),
    'tickets user "ann" next 5 queue 4 Resolved 2 "no ink" "" ann resolved "new ink" => '
    '{"status":"Ticket 4 has been resolved successfully."}',
  ),
  (
    *("MessageAPI", MESSAGES, "send_message", {"receiver_id": "USR002", "message": "hi"}),
    'messages user USR001 users Ann USR001 Bo USR002 count 2 sent USR002 "see you" ; USR002 "hi" '
    '=> {"sent_status":true,"message":"Message sent to \'USR002\' successfully."}',
  ),
  (
    *("MathAPI", MATH, "square_root", {"number": 6, "precision": 5}),
    'numbers 0.5 -2 2.4495 => {"result":2.4495}',
  ),
)


def real(api, state, name, arguments):
  return tools_apis.outcome(APIS[api], tools._class(api), state, name, arguments)


@pytest.fixture(scope="module")
def collected():
  """Every fifth episode, by name, played in order."""
  tools.check(SETTINGS)
  found = tools.episodes(SETTINGS)[::5]
  with tools.session(SETTINGS) as play:
    return {episode.name: (episode, play(episode)) for episode in found}


@pytest.mark.tools
@installed
@pytest.mark.parametrize("api, state, name, arguments, expected", RECORDED)
def test_the_package_does_as_recorded(api, state, name, arguments, expected):
  found = real(api, state, name, arguments)
  assert tools_apis.shown(APIS[api], found.state, found.response) == expected


@pytest.mark.tools
@installed
def test_the_package_hides_a_generator_and_it_is_found():
  assert real("VehicleControlAPI", CAR, "get_current_speed", {}) is None
  message = {"receiver_id": "USR002", "message": "hi"}
  assert real("MessageAPI", MESSAGES, "send_message", message).hidden == 1


@pytest.mark.tools
@installed
@pytest.mark.parametrize("api", STATES)
def test_loading_and_reading_a_state_changes_nothing(api):
  instance = tools._class(api)()
  APIS[api].load(instance, STATES[api], 1)
  assert tools_apis.tidy(APIS[api].read(instance, STATES[api], None)) == STATES[api]


@pytest.mark.tools
@installed
@pytest.mark.parametrize("api", STATES)
def test_a_new_instance_for_every_call_does_what_one_instance_does(api):
  for seed in range(40):
    rng, state, instance = random.Random(seed), STATES[api], tools._class(api)()
    APIS[api].load(instance, state, 1)
    for _ in range(20):
      name, arguments = tools_calls.choose(tools_calls.MOVES[api](state, rng), rng)
      found = real(api, state, name, arguments)
      response = tools_apis.tidy(getattr(instance, name)(**arguments))
      kept = tools_apis.tidy(APIS[api].read(instance, state, response))
      assert kept == found.state, (name, arguments)
      state = found.state


@pytest.mark.tools
@installed
def test_the_scenarios_are_split_140_20_40_and_never_shared():
  trained = [api for api in APIS if api != SETTINGS["heldout"]]
  looks = [tools._look(scenario, trained) for scenario in tools._scenarios()]
  splits = tools.split_of(looks, SETTINGS["seed"])
  assert collections.Counter(splits) == {"train": 140, "validation": 20, "test": 40}
  texts = collections.defaultdict(set)
  for texts_of, split in zip(looks, splits, strict=True):
    for text in texts_of:
      texts[text].add(split)
  assert all(len(found) == 1 for found in texts.values())
  levels = collections.defaultdict(set)
  numbers = collections.defaultdict(set)
  for episode in tools.episodes(SETTINGS):
    levels[episode.split].add(episode.level)
    if episode.split != "heldout":
      numbers[episode.arguments["scenario"]].add(episode.split.replace("failing", "test"))
  assert levels["heldout"] == {"MessageAPI"}
  assert all(levels[split] == set(trained) for split in SPLITS if split != "heldout")
  assert all(len(found) == 1 for found in numbers.values())


@pytest.mark.tools
@installed
def test_another_order_gives_the_same_lines(collected):
  with tools.session(SETTINGS) as play:
    for name in reversed(sorted(collected)[::4]):
      episode, played = collected[name]
      assert play(episode) == played


@pytest.mark.tools
@installed
@pytest.mark.multiprocess
def test_another_process_gives_the_same_bytes():
  program = (
    "import hashlib, json; from swirl_jax.data.collectors import tools\n"
    "s = tools.DEFAULTS\n"
    "with tools.session(s) as play:\n"
    "  for e in tools.episodes(s)[::60]: print(json.dumps([e, play(e)]))\n"
  )

  def output(seed):
    env = os.environ | {"PYTHONHASHSEED": seed}
    return subprocess.run(
      [sys.executable, "-c", program], env=env, check=True, capture_output=True
    ).stdout

  one = output("1")
  assert one.count(b"\n") > 30 and one == output("2")


@pytest.mark.tools
@installed
def test_what_is_collected(collected):
  outcomes = collections.defaultdict(set)
  classes = collections.defaultdict(set)
  for episode, played in collected.values():
    failing = episode.split == "failing"
    for line in played.lines:
      outcomes[line["x"], line["z"]].add(line["y"])
      classes[line["z"]].add(line["action"])
      assert line["x"] != line["y"] and max(len(line["x"]), len(line["y"])) <= SETTINGS["longest"]
      assert ('"error":' in line["y"].split(" => ")[1]) == failing
      assert all(text.isprintable() for text in (line["x"], line["y"], line["z"]))
    if not failing:
      pairs = zip(played.lines, played.lines[1:], strict=False)
      assert all(a["y"] == b["x"] for a, b in pairs)
  assert all(len(ys) == 1 for ys in outcomes.values())
  assert all(len(found) == 1 for found in classes.values())


@pytest.mark.tools
@installed
def test_the_lines_are_lines_of_a_world(collected, tmp_path):
  path, count = tmp_path / "lines.jsonl", 0
  with open(path, "w") as file:
    for episode, played in collected.values():
      if episode.split == "failing":  # a file of one's own has no such split
        continue
      for line in played.lines:
        own = {"episode": episode.name, "level": episode.level, "split": episode.split}
        file.write(json.dumps(line | own) + "\n")
        count += 1
  _, lines = transition_lines.read({"path": str(path), "heldout_levels": (SETTINGS["heldout"],)})
  assert len(lines) == count > 3000


@pytest.mark.tools
@installed
@pytest.mark.parametrize("api", APIS)
def test_moves_succeed_and_mistakes_fail(api, collected):
  lines, counts = collections.Counter(), collections.Counter()
  for episode, played in collected.values():
    if episode.level == api:
      lines["failing" if episode.split == "failing" else "moves"] += len(played.lines)
      counts.update(played.counts)
  assert counts["failed"] <= 0.01 * lines["moves"]
  assert counts["succeeded"] <= 0.01 * lines["failing"]
  assert counts["hidden"] == 0
  assert counts["unchanged"] <= 0.1 * sum(lines.values())


@pytest.mark.tools
@installed
def test_a_core_collects_ten_thousand_transitions_a_minute():
  found = tools.episodes(SETTINGS)[::40]
  with tools.session(SETTINGS) as play:
    start = time.process_time()
    lines = sum(len(play(episode).lines) for episode in found)
    seconds = time.process_time() - start
  print(f"{60 * lines / seconds:.0f} transitions a minute")
  assert lines / seconds >= 10_000 / 60
