"""The tools world on the real package, bfcl-eval."""

import collections
import importlib.metadata
import importlib.util
import json
import os
import random
import subprocess
import sys
import time

import pytest

from swirl_jax.data import transition_lines
from swirl_jax.data.collectors import tools, tools_apis, tools_calls
from swirl_jax.data.collectors.tools_states import APIS
from tests.data.collectors.tools_cases import (
  CAR,
  FILES,
  INSIDE,
  MATH,
  MESSAGES,
  STATES,
  TICKETS,
  TRADING,
)

SETTINGS = tools.DEFAULTS
SPLITS = ("train", "validation", "test", "heldout", "failing")

pytestmark = [
  pytest.mark.tools,
  pytest.mark.skipif(
    importlib.util.find_spec("bfcl_eval") is None, reason=f"needs bfcl-eval: {tools.INSTALL}"
  ),
]

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


@pytest.mark.parametrize("api, state, name, arguments, expected", RECORDED)
def test_the_package_does_as_recorded(api, state, name, arguments, expected):
  found = real(api, state, name, arguments)
  assert tools_apis.shown(APIS[api], found.state, found.response) == expected


def test_the_package_hides_a_generator_and_it_is_found():
  assert real("VehicleControlAPI", CAR, "get_current_speed", {}) is None
  message = {"receiver_id": "USR002", "message": "hi"}
  assert real("MessageAPI", MESSAGES, "send_message", message).hidden == 1


@pytest.mark.parametrize("api", STATES)
def test_loading_and_reading_a_state_changes_nothing(api):
  instance = tools._class(api)()
  APIS[api].load(instance, STATES[api], 1)
  assert tools_apis.tidy(APIS[api].read(instance, STATES[api], None)) == STATES[api]


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


def test_another_order_gives_the_same_lines(collected):
  with tools.session(SETTINGS) as play:
    for name in reversed(sorted(collected)[::4]):
      episode, played = collected[name]
      assert play(episode) == played


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


def test_a_core_collects_ten_thousand_transitions_a_minute():
  found = tools.episodes(SETTINGS)[::40]
  with tools.session(SETTINGS) as play:
    start = time.process_time()
    lines = sum(len(play(episode).lines) for episode in found)
    seconds = time.process_time() - start
  print(f"{60 * lines / seconds:.0f} transitions a minute")
  assert lines / seconds >= 10_000 / 60
