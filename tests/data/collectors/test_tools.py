"""The tools world's collector, on a lamp of our own instead of the package."""

import collections
import importlib.metadata
import importlib.util
import json
import random

import hypothesis
import hypothesis.strategies as st
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
  monkeypatch.setattr(importlib.metadata, "version", lambda name: tools.PINNED)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match="mpmath.*is not installed"):
    tools.check(SETTINGS)


def test_the_config_says_what_the_collection_says():
  found = settings.from_config(config.get_config().to_dict())
  ours = {"name", "labelled", "bpe"}  # of the shared code
  assert {k: v for k, v in found.world.items() if k not in ours} == tools.DEFAULTS
  assert set(found.world) == ours | set(tools.DEFAULTS)
