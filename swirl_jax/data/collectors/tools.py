"""Calls of tools: the stateful Python APIs of `bfcl-eval` 2026.3.23 (Apache-2.0), the Berkeley
Function Calling Leaderboard: a file system, tickets, messages, trading, a car, mathematics.

A state is the API's state as one line and, after the arrow, the response to the last call; z is a
call; y is the state after it with its own response:

    x  files ann{papers*{old{} plan.txt"budget review"}} => {"current_working_directory":"papers"}
    z  mv(source='plan.txt', destination='old')
    y  files ann{papers*{old{plan.txt"budget review"}}} => {"result":"'plan.txt' moved to
       'old/plan.txt'"}

The response is a part of the state because calls that only look (`ls`, `get_ticket`) change
nothing else, and so that a turn's y is the next turn's x: an episode is one chain. It is what a
user of the tool sees; before an episode's first call it is null.

A scenario is an initial configuration of one of the package's 200 multi-turn conversations, made
short: texts are cut to four words, lists to a few items (`tools_states.py`). The text shows all of
the state, and each call runs on an instance that is loaded from what the text shows; twice, with
two seeds of the package's hidden generator. Parts of a response in which the two differ (a
message's id) are left out and counted as hidden_parts; a call whose whole outcome depends on the
seed gives no line and is counted as hidden. So y is a function of x and z.

MathAPI has no state: the collector keeps the last three results on the table, from which the next
operands are taken.

Splits: scenarios, together with those that look the same, are divided 7 : 1 : 2 (140, 20 and 40)
into train, validation and test. One API (`heldout`) is never trained on: all its scenarios are the
split "heldout". "failing" holds calls that are answered with an error, in states of the test
scenarios; a failing call anywhere else is no transition.
"""

import collections
import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import pathlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from swirl_jax.data.collection import Episode, Played
from swirl_jax.data.collectors import tools_apis, tools_calls
from swirl_jax.data.collectors.tools_calls import MOVES
from swirl_jax.data.collectors.tools_mistakes import MISTAKES
from swirl_jax.data.collectors.tools_states import APIS

PINNED = "2026.3.23"
INSTALL = f"pip install -e '.[tools]' && pip install --no-deps bfcl-eval=={PINNED}"
TIME_LIMIT = 60.0  # seconds of one episode
PACKAGES = ("bfcl-eval", "mpmath")
VERSION = 1

BEFORE = 12  # at most so many calls, a number drawn by seed, come before the first recorded one
WORDS = 4  # of a file, a message or a title of a scenario that are kept
SHARES = {"train": 7, "validation": 1, "test": 2}

# episodes and evaluation_episodes: of each API of a scenario. longest: characters of x and of y.
DEFAULTS = {
  "seed": 0,
  "heldout": "MessageAPI",
  "episodes": 12,
  "evaluation_episodes": 4,
  "turns": 12,
  "longest": 400,
}
_RANGES = {
  "seed": (0, 2**31 - 1),
  "episodes": (1, 10_000),
  "evaluation_episodes": (1, 10_000),
  "turns": (1, 1_000),
  "longest": (200, 10_000),
}

_SOURCES = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"
_SCENARIOS = "data/BFCL_v4_multi_turn_base.json"


def check(settings: Mapping) -> None:
  for name, (low, high) in _RANGES.items():
    value = settings[name]
    if type(value) is not int or not low <= value <= high:
      raise ValueError(f"tools: {name} is {value!r}, must be an integer from {low} to {high}")
  if settings["heldout"] not in APIS:
    raise ValueError(f"tools: heldout is {settings['heldout']!r}, must be one of {', '.join(APIS)}")
  try:
    found = importlib.metadata.version("bfcl-eval")
  except importlib.metadata.PackageNotFoundError:
    raise ValueError(f"tools: bfcl-eval is not installed: {INSTALL}") from None
  if found != PINNED:
    raise ValueError(f"tools: bfcl-eval is {found}, must be {PINNED}: {INSTALL}")
  if importlib.util.find_spec("mpmath") is None:
    raise ValueError(f"tools: mpmath, which bfcl-eval needs, is not installed: {INSTALL}")


# -- the package ---------------------------------------------------------------------------------


@functools.cache
def _class(api: str) -> type:
  """The package's class; its module is imported, not the package's model handlers."""
  return getattr(importlib.import_module(f"{_SOURCES}.{APIS[api].module}"), api)


@functools.cache
def _scenarios() -> tuple[dict, ...]:
  """The initial configurations of the package's conversations, {API: its configuration}."""
  package = importlib.util.find_spec("bfcl_eval").submodule_search_locations[0]
  lines = (pathlib.Path(package) / _SCENARIOS).read_text(encoding="utf-8").splitlines()
  return tuple(json.loads(line)["initial_config"] for line in lines)


def _start(api: str, configuration: Mapping, rng: random.Random) -> dict:
  """The state that a scenario begins with."""
  return tools_apis.tidy(APIS[api].start(_class(api)(), configuration, rng, WORDS))


# -- episodes --------------------------------------------------------------------------------------


def _look(scenario: Mapping, apis: Sequence[str]) -> list[str]:
  """The texts that a scenario's APIs begin with; MathAPI's begin is drawn by each episode."""
  found = [api for api in apis if api in scenario and api != "MathAPI"]
  return [APIS[api].text(_start(api, scenario[api], random.Random(0))) for api in found]


def split_of(looks: Sequence[Sequence[str]], seed: int) -> list[str]:
  """The split of each scenario, given the texts it begins with: scenarios that share one stay
  together, and the splits' sizes are as SHARES says, as far as such groups allow.

  Groups go, the largest first and then by kind of API, to the split that lacks the largest part of
  its size; so each API is divided much like the whole.
  """
  group = list(range(len(looks)))
  first: dict[str, int] = {}
  for i, texts in enumerate(looks):
    for text in texts:
      old, new = group[i], group[first.setdefault(text, i)]
      group = [new if g == old else g for g in group]
  members = collections.defaultdict(list)
  for i, g in enumerate(group):
    members[g].append(i)
  groups = list(members.values())
  random.Random(f"{seed}/split").shuffle(groups)
  kinds = {g[0]: [text.split()[0] for text in looks[g[0]]] for g in groups}
  groups.sort(key=lambda g: (-len(g), kinds[g[0]]))
  total = sum(SHARES.values())
  room = {split: len(looks) * share / total for split, share in SHARES.items()}
  sizes, splits = dict(room), [""] * len(looks)
  for g in groups:
    split = max(room, key=lambda s: (room[s] >= len(g), room[s] / sizes[s]))
    room[split] -= len(g)
    for i in g:
      splits[i] = split
  return splits


def episodes(settings: Mapping) -> list[Episode]:
  """All episodes; each names its API and the scenario's number in the package's file."""
  trained = [api for api in APIS if api != settings["heldout"]]
  scenarios = _scenarios()
  splits = split_of([_look(scenario, trained) for scenario in scenarios], settings["seed"])
  found = []
  for number, (scenario, split) in enumerate(zip(scenarios, splits, strict=True)):
    for api in APIS:
      if api not in scenario:
        continue
      own = "heldout" if api == settings["heldout"] else split
      for kind in (own, "failing") if own == "test" else (own,):
        count = settings["episodes" if kind == "train" else "evaluation_episodes"]
        found += [
          Episode(f"{kind}-{api}-{number}-{k}", api, kind, {"scenario": number})
          for k in range(count)
        ]
  return found


# -- play ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def session(settings: Mapping) -> Iterator[Callable[[Episode], Played]]:
  scenarios = _scenarios()
  yield lambda episode: play(settings, episode, scenarios[episode.arguments["scenario"]])


class _Now(NamedTuple):
  """Where an episode is: the API's state and its response to the last call."""

  state: dict
  response: Any


def _step(api: str, now: _Now, policy: tools_calls.Policy, rng: random.Random, *,
          failing: bool, longest: int) -> tuple[str, dict, _Now, int]:  # fmt: skip
  """A call by `policy`: why it gives no line ("" where it does), the line, where it leads, and how
  many parts of the response were hidden. `failing` says whether it should fail.
  """
  name, arguments = tools_calls.choose(policy(now.state, rng), rng)
  found = tools_apis.outcome(APIS[api], _class(api), now.state, name, arguments)
  if found is None:
    return "hidden", {}, now, 0
  x = tools_apis.shown(APIS[api], now.state, now.response)
  y = tools_apis.shown(APIS[api], found.state, found.response)
  reason = ""
  if found.failed != failing:
    reason = "failed" if found.failed else "succeeded"
  elif x == y:
    reason = "unchanged"
  elif max(len(x), len(y)) > longest:
    reason = "too_long"
  written = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
  line = {"x": x, "y": y, "z": f"{name}({written})", "action": f"{name} {written}".strip()}
  return reason, line, _Now(found.state, found.response), found.hidden


def play(settings: Mapping, episode: Episode, scenario: Mapping) -> Played:
  """One episode. A call that gives no line doesn't move the state: y_t = x_{t+1} throughout, but
  in "failing" episodes, where moves that are not recorded lie between the recorded mistakes.
  """
  api, failing = episode.level, episode.split == "failing"
  rng = random.Random(f"{settings['seed']}/{episode.name}")
  now = _Now(_start(api, scenario[api], rng), None)
  counts: collections.Counter[str] = collections.Counter()

  def step(policy, failing):
    return _step(api, now, policy, rng, failing=failing, longest=settings["longest"])

  for _ in range(rng.randint(0, BEFORE)):
    reason, _, after, _ = step(MOVES[api], False)
    counts[reason or "before"] += 1
    now = now if reason else after
  lines = []
  for turn in range(settings["turns"]):
    if failing:
      reason, _, after, _ = step(MOVES[api], False)
      counts[reason or "between"] += 1
      now = now if reason else after
    policy = (MISTAKES if failing else MOVES)[api]
    reason, line, after, hidden = step(policy, failing)
    if reason:
      counts[reason] += 1
      continue
    lines.append(line | {"turn": turn})
    counts["hidden_parts"] += hidden
    now = now if failing else after
  return Played(lines, dict(+counts))
