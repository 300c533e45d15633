"""The tools world's collector, on a lamp of our own instead of the package."""

import collections
import decimal
import importlib.metadata
import importlib.util
import json
import random

import pytest

from configs import tools as config
from swirl_jax import settings
from swirl_jax.data.collection import Episode
from swirl_jax.data.collectors import tools, tools_apis, tools_calls, tools_mistakes
from swirl_jax.data.collectors.tools_states import APIS
from tests.data.collectors.tools_cases import STATES

SETTINGS = tools.DEFAULTS
SMALL = SETTINGS | {"episodes": 1, "evaluation_episodes": 1}
SPLITS = ("train", "validation", "test", "heldout", "failing")


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
    by = {"key": self._random.random(), "day": self._random.random(), "kind": "lamp"}
    return {"id": self._random.random(), "by": by, "label": label}

  def serial(self):
    return {"serial": self._random.random()}

  def shuffle(self):
    self.label = str(self._random.random())

  def look(self):
    return {"on": self.on}

  def burn(self, watts):
    raise RuntimeError(f"{watts} is too much")

  def break_off(self):
    raise RuntimeError

  def say(self, text):
    return {"text": text}

  def empty(self):
    return {}

  def list_of(self, items):
    return items

  def measure(self):
    self.label = 1 / 3
    return {"watts": [0.1 + 0.2, 60.0]}

  def names(self):
    return {str(self._random.random()): "lamp"}


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
  assert lamp_call("write", label="b") == (
    {"on": False, "label": "b"}, {"by": {"kind": "lamp"}, "label": "b"}, False, 3,
  )  # fmt: skip


@pytest.mark.parametrize("name", ["serial", "shuffle", "names"])
def test_a_call_whose_outcome_is_not_a_function_of_state_and_call_has_none(name):
  assert lamp_call(name) is None


def test_a_call_that_raises_has_failed_and_says_why():
  found = lamp_call("burn", watts=9)
  assert found.failed and found.response == {"error": "9 is too much"}
  assert lamp_call("break_off").response == {"error": "RuntimeError"}


@pytest.mark.parametrize(
  "items, failed",
  [
    ([{"on": True}, {"error": "no"}], True),
    ([{"on": True}, "error"], False),
    ([], False),
    ({"error": ""}, True),
    ("error", False),
  ],
)
def test_an_answer_with_an_error_in_it_has_failed(items, failed):
  found = lamp_call("list_of", items=items)
  assert (found.response, found.failed) == (items, failed)


def test_an_empty_answer_is_an_answer():
  assert lamp_call("empty") == ({"on": False, "label": "a"}, {}, False, 0)


def test_states_and_responses_are_tidy(lamp):
  state, response, _, _ = lamp_call("measure")
  assert state["label"] == 0.33333333 and json.dumps(response) == '{"watts": [0.3, 60]}'
  assert json.dumps(tools._start("TicketAPI", {"label": 2.0}, random.Random(0))["label"]) == "2"


def test_a_state_can_depend_on_the_response():
  class Sums:
    def add(self, a, b):
      return {"result": a + b}

  found = tools_apis.outcome(APIS["MathAPI"], Sums, STATES["MathAPI"], "add", {"a": 1, "b": 2})
  assert found.state == {"numbers": [0.5, -2, 3]}


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
    (decimal.Decimal("2.50"), 2.5),
    (1e20, 1e20),
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
    assert not any("error" in text for line in lines for text in (line["x"], line["y"]))
    turns = [line["turn"] for line in lines]
    assert turns == sorted(set(turns)) and set(turns) <= set(range(SETTINGS["turns"]))


def test_some_episodes_begin_where_their_scenario_does(lamp):
  begun = [play("train", k).lines[0]["x"].endswith("=> null") for k in range(60)]
  assert 0 < sum(begun) < 20  # one in thirteen, where a call that gave no line comes first, more


def test_no_line_is_longer_than_the_longest(lamp):
  whole = play("train", 0).lines
  most = max(len(text) for line in whole for text in (line["x"], line["y"]))
  assert play("train", 0, longest=most).lines == whole
  assert play("train", 0, longest=most - 1).lines != whole
  episode = Episode("train-TicketAPI-0-0", "TicketAPI", "train", {"scenario": 0})
  lines, counts = tools.play(SETTINGS, episode, {"TicketAPI": {"label": "l" * 500}})
  assert lines == [] and counts["too_long"]


def test_no_step_is_dropped_without_being_counted(lamp):
  total = collections.Counter()
  for k in range(30):
    lines, counts = play("train", k, turns=20)
    counts = dict(counts)
    assert all(n > 0 for n in counts.values())
    hidden_parts = counts.pop("hidden_parts", 0)
    assert hidden_parts == 3 * sum(line["z"].startswith("write") for line in lines)
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
    assert "error" not in line["x"] and "watts=7)" not in line["z"]  # a mistake, not a move
  total = sum((collections.Counter(played.counts) for played in found), collections.Counter())
  assert total["succeeded"] and total["between"]
  assert all(len({line["x"] for line in p.lines}) > 1 for p in found if len(p.lines) > 5)


def test_an_episode_is_a_function_of_settings_and_name(lamp):
  assert play("train", 3) == play("train", 3)
  assert play("train", 3).lines != play("train", 3, seed=1).lines
  with tools.session(SMALL) as one, tools.session(SMALL) as two:
    found = tools.episodes(SMALL)
    forth = {episode.name: one(episode) for episode in found}
    back = {episode.name: two(episode) for episode in reversed(found)}
  assert forth == back
  scenarios = tools._scenarios()
  own = {e.name: tools.play(SMALL, e, scenarios[e.arguments["scenario"]]) for e in found}
  assert forth == own


def test_the_episodes_of_a_scenario_differ(lamp):
  with tools.session(SETTINGS) as play:
    found = [e for e in tools.episodes(SETTINGS | {"heldout": "MathAPI"}) if e.split == "train"]
    first = [e for e in found if e.arguments == found[0].arguments]
    assert len({json.dumps(play(e).lines) for e in first}) == len(first) == SETTINGS["episodes"]


def test_the_words_of_a_line(lamp):
  for line in play("train", 5, turns=40).lines:
    assert set(line) == {"x", "y", "z", "action", "turn"}
    assert line["action"].split()[0] == line["z"].split("(")[0]
    name, _, written = line["z"].removesuffix(")").partition("(")
    assert written == "" if name != "write" else written in [f"label='{c}'" for c in "abcd"]
    assert line["action"] == f"{name} {written}".strip()
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
  assert {(split, n) for (split, _), n in counts.items()} == {
    ("train", 12), ("validation", 4), ("test", 4), ("failing", 4),
  }  # fmt: skip


def test_all_of_a_held_out_api_is_held_out(lamp):
  found = tools.episodes(SETTINGS | {"heldout": "TicketAPI"})
  assert {(episode.level, episode.split) for episode in found} == {("TicketAPI", "heldout")}
  assert {episode.arguments["scenario"] for episode in found} == set(range(20))


# -- splits --------------------------------------------------------------------------------------


def test_what_is_held_out_has_no_say_in_the_splits(lamp, monkeypatch):
  monkeypatch.setitem(APIS, "TradingBot", LAMP)
  scenarios = tuple(
    {"TicketAPI": {"label": f"s{i}"}, "TradingBot": {"label": "the same"}} for i in range(20)
  )
  monkeypatch.setattr(tools, "_scenarios", lambda: scenarios)
  found = tools.episodes(SMALL | {"heldout": "TradingBot"})
  count = collections.Counter(e.split for e in found if e.level == "TicketAPI")
  assert count == {"train": 14, "validation": 2, "test": 4, "failing": 4}
  assert tools._look(scenarios[3], ["TicketAPI", "MathAPI"]) == ["lamp off s3"]
  assert tools._look({"MathAPI": {"label": "drawn"}}, ["MathAPI"]) == []


def test_a_scenario_looks_the_same_each_time(monkeypatch):
  class Bot:
    def _load_scenario(self, scenario):
      self.__dict__.update(scenario)

  monkeypatch.setattr(tools, "_class", lambda api: Bot)
  scenario = {
    "stocks": {f"S{i}": {"price": i} for i in range(90)}, "watch_list": [], "orders": {},
    "account_info": {"balance": 1}, "authenticated": True, "market_status": "Open",
    "order_counter": 1,
  }  # fmt: skip
  looks = [tools._look({"TradingBot": scenario}, ["TradingBot"]) for _ in range(3)]
  assert looks[0] == looks[1] == looks[2] and looks[0][0].startswith("trading in")


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


@pytest.mark.parametrize("version", ["2025.1.1", "2027.1.1"])
def test_check_refuses_another_version(monkeypatch, version):
  monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
  with pytest.raises(ValueError, match=f"bfcl-eval is {version}, must be 2026.3.23"):
    tools.check(SETTINGS)


def test_check_names_mpmath_where_it_is_missing(monkeypatch):
  monkeypatch.setattr(importlib.metadata, "version", lambda name: tools.PINNED)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match="mpmath.*is not installed"):
    tools.check(SETTINGS)


def test_the_config_says_what_the_collection_says():
  found = settings.from_config(config.get_config().to_dict())
  ours = {"name", "labelled", "bpe"}  # of the shared code
  assert {k: v for k, v in found.world.items() if k not in ours} == tools.DEFAULTS
  assert set(found.world) == ours | set(tools.DEFAULTS)
