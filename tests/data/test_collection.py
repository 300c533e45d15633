"""Collection by worker processes: the same data whatever happens; what goes wrong is listed."""

import importlib.metadata
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import dials_collector as dials
import pytest

from swirl_jax.data import builders, collection, transitions
from swirl_jax.data.builders import collected, text_world
from swirl_jax.data.pipeline import Split

MODULE = dials.__name__
TESTS = pathlib.Path(dials.__file__).parent


def collect(folder, workers=1, **settings):
  return collection.collect(MODULE, dials.DEFAULTS | settings, folder, workers=workers)


def test_workers_and_their_order_do_not_show(tmp_path):
  one, two = collect(tmp_path / "1"), collect(tmp_path / "2", workers=3)
  assert one == two and not one.dropped
  assert [e.name for e, _ in one.episodes] == [f"e{i}" for i in range(12)]
  assert all(len(p.lines) + p.counts["unchanged"] == 10 for _, p in one.episodes)
  for number, name in ((1, "1"), (3, "2")):  # a session of each worker
    assert (tmp_path / name / "workers.log").read_text().count("this goes to the log") == number
  assert collect(tmp_path / "3", seed=1) != one


@pytest.mark.multiprocess
def test_a_killed_collection_goes_on(tmp_path):
  log, folder = tmp_path / "log", tmp_path / "data"
  settings = {"episodes": 20, "log": str(log), "pause": 0.05}
  program = (
    "import sys; sys.path.insert(0, sys.argv[1]); import dials_collector as d\n"
    "from swirl_jax.data import collection\n"
    f"collection.collect(d.__name__, d.DEFAULTS | {settings!r}, sys.argv[2], workers=2)"
  )
  process = subprocess.Popen([sys.executable, "-c", program, str(TESTS), str(folder)])
  path = folder / "episodes.jsonl"
  while not path.exists() or path.read_bytes().count(b"\n") < 5:
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  time.sleep(0.5)  # the workers notice
  done = path.read_bytes().count(b"\n")
  assert 5 <= done < 20
  with open(path, "ab") as file:
    file.write(b'{"episode": "e19", "li')  # torn
  log.unlink()
  found = collect(folder, **settings)
  assert found == collect(tmp_path / "again", episodes=20)
  assert len(log.read_text().split()) == 20 - done
  assert collect(folder, **settings) == found  # the torn line is gone


def test_dropped_episodes_are_listed_in_their_order(tmp_path):
  """Whichever was played first: e1 fails again where it alone is played anew."""
  wrong = {"1": "raise", "4": "raise"}
  found, path = collect(tmp_path, wrong=wrong), tmp_path / "episodes.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(line for line in lines if '"e1"' not in line))
  again = collect(tmp_path, wrong=wrong)
  assert list(again.dropped) == list(found.dropped) == ["e1", "e4"]


def test_an_answer_of_any_length_comes_whole(tmp_path):
  found = collect(tmp_path, episodes=2, padding=1 << 18).episodes  # many times what a pipe holds
  z = [line["z"].partition("!") for _, played in found for line in played.lines]
  assert z and {rest for *_, rest in z} == {"!" * ((1 << 18) - 1)}


def test_a_worker_closes_its_environment(tmp_path):
  collect(tmp_path / "data", episodes=2, closed=str(tmp_path / "closed"))
  assert (tmp_path / "closed").exists()


def test_an_error_stops_the_other_workers(tmp_path):
  log, wrong = tmp_path / "log", {str(i): "raise" for i in range(99)}
  with pytest.raises(collection.CollectionError, match="10 episodes failed"):
    collect(tmp_path, wrong=wrong, episodes=99, log=str(log))
  assert len(log.read_text().split()) < 30


def test_what_goes_wrong_is_dropped_whole_and_listed(tmp_path):
  wrong = {"1": "raise", "4": "die", "7": "hang"}
  found = collect(tmp_path, wrong=wrong, workers=2)
  assert found.dropped == {
    "e1": "KeyError: 'a dial came off'",
    "e4": "its process died",
    "e7": "it took more than 2 s",
  }
  whole = collect(tmp_path / "whole").episodes
  assert found.episodes == [whole[i] for i in range(12) if str(i) not in wrong]
  assert collect(tmp_path, wrong=wrong) == found  # nothing is tried again
  path = tmp_path / "episodes.jsonl"
  left = [line for line in path.read_text().splitlines(keepends=True) if '"e1"' not in line]
  path.write_text("".join(left))
  assert collect(tmp_path, wrong=wrong) == found  # a start that plays e1 alone
  assert "a dial came off" in (tmp_path / "workers.log").read_text()


def test_a_death_and_a_slow_moment_are_forgiven_once(tmp_path):
  log, wrong = tmp_path / "log", {"2": "die once", "3": "hang once", "5": "raise", "6": "die"}
  found = collect(tmp_path / "data", wrong=wrong, log=str(log))
  assert found.dropped == {"e5": "KeyError: 'a dial came off'", "e6": "its process died"}
  whole = collect(tmp_path / "whole").episodes
  assert found.episodes == [e for i, e in enumerate(whole) if i not in (5, 6)]
  played = log.read_text().split()
  assert [played.count(str(i)) for i in (2, 3, 5, 6)] == [2, 2, 1, 2]


def test_an_environment_that_does_not_work_is_one_error(tmp_path):
  with pytest.raises(collection.CollectionError, match="does.*open: RuntimeError: no dials here"):
    collect(tmp_path, opens=False)
  with pytest.raises(ValueError, match="config.world.episodes = 0: allowed is 1 or more"):
    collect(tmp_path, episodes=0)
  wrong = {str(i): "raise" for i in range(2, 30)}
  with pytest.raises(collection.CollectionError, match="10 episodes failed .*e11: KeyError"):
    collect(tmp_path, wrong=wrong, episodes=20)
  kept = [json.loads(n)["episode"] for n in (tmp_path / "episodes.jsonl").read_text().splitlines()]
  assert kept == ["e0", "e1"]  # the others weren't at fault
  assert not collect(tmp_path, episodes=20).dropped


def test_scattered_failures_do_not_end_a_collection(tmp_path):
  wrong = {str(i): "raise" for i in range(1, 33, 3)}
  assert len(wrong) > collection.IN_A_ROW
  found = collect(tmp_path, wrong=wrong, episodes=33)
  assert list(found.dropped) == [f"e{i}" for i in wrong] and len(found.episodes) == 22
  lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
  assert [json.loads(n)["episode"] for n in lines] == [f"e{i}" for i in range(33)]


def test_two_episodes_of_one_name_are_refused(tmp_path, monkeypatch):
  played = dials.episodes
  monkeypatch.setattr(dials, "episodes", lambda s: [e._replace(name="e") for e in played(s)])
  with pytest.raises(ValueError, match="dials_collector: two episodes have one name"):
    collect(tmp_path)


@pytest.mark.parametrize("bad", [b"\0\0\0", b'{"lines": []}', b"7", b"\xff"])
def test_a_line_that_is_no_entry_is_named(tmp_path, bad):
  found, path = collect(tmp_path), tmp_path / "episodes.jsonl"
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b"".join([*lines[:4], bad + b"\n", *lines[5:]]))
  with pytest.raises(ValueError, match="episodes.jsonl, line 5: .* Delete it and all lines after"):
    collect(tmp_path)
  path.write_bytes(b"".join(lines[:4]))
  assert collect(tmp_path) == found


# -- the world that is made of it ----------------------------------------------------------------


@pytest.fixture
def known(monkeypatch):
  monkeypatch.setitem(builders.COLLECTED, "dials", MODULE)


def test_a_collected_world(tmp_path, known):
  settings = {"episodes": 60, "labelled": 50, "bpe": 300, "wrong": {"0": "raise"}}
  own = builders.get("dials", settings, str(tmp_path), workers=2)
  builder = own.prepare(str(tmp_path))
  splits = {name: list(Split(builder, name)) for name in builder.info.splits}
  assert set(splits) == {"labelled", "unlabelled", "validation", "test", "heldout"}
  assert len(splits["labelled"]) == 50 and not any(r.z for r in splits["unlabelled"])
  where = {e.name: e.split for e in dials.episodes(dials.DEFAULTS | {"episodes": 60})}
  for name, records in splits.items():
    split = "train" if name in transitions.TRAIN_SPLITS else name
    assert {where[r.episode] for r in records} == {split}
  counts = builder.info.metadata["collection"]
  assert counts["dropped_episodes"] == 1 and counts["dropped"] == {
    "e0": "KeyError: 'a dial came off'"
  }
  assert counts["train"]["transitions"] + counts["train"]["unchanged"] == 29 * 10
  # BPE: every text is read and written, and what isn't training is not in its vocabulary
  texts = {t for records in splits.values() for r in records for t in (r.x, r.y, r.z) if t}
  assert all(own.tokenizer.decode(own.tokenizer.encode(t)) == t for t in texts)
  assert own.state_len == max(len(own.tokenizer.encode(t)) for t in texts)
  assert own.words == () and own.tokenizer.vocab_size <= 300

  (folder,) = tmp_path.glob("dials_*/")
  lines = [json.loads(n) for n in (folder / "transitions.jsonl").read_text().splitlines()]
  assert len(lines) == counts["transitions"]
  assert json.loads((folder / "collection.json").read_text())["versions"]["numpy"]
  before = os.stat(folder / "transitions.jsonl").st_mtime_ns
  again = builders.get("dials", settings, str(tmp_path))
  assert again.tokenizer == own.tokenizer and again.source == own.source
  assert again.prepare(str(tmp_path)).data_dir == builder.data_dir
  other = builders.get("dials", settings | {"labelled": 20}, str(tmp_path))  # not played again
  assert other.prepare(str(tmp_path)).info.splits["labelled"].num_examples == 20
  assert os.stat(folder / "transitions.jsonl").st_mtime_ns == before


@pytest.mark.parametrize("another", ["0.1", "99.1"])
def test_a_collection_has_one_version_of_each_package(tmp_path, known, monkeypatch, another):
  version = importlib.metadata.version("numpy")
  own = builders.get("dials", {"episodes": 60, "labelled": 50}, str(tmp_path), workers=2)
  (folder,) = tmp_path.glob("dials_*/")
  monkeypatch.setattr(collection.metadata, "version", lambda package: another)
  other = {"episodes": 60, "labelled": 20}  # of the data that lies there
  assert builders.get("dials", other, str(tmp_path)).source == own.source
  (folder / "transitions.jsonl").unlink()  # as if it had been killed before its end
  said = f"was begun with numpy {version}, now it is {another}: install {version} to go on, or rem"
  with pytest.raises(ValueError, match=f"dials_.* {re.escape(said)}ove the folder"):
    builders.get("dials", other, str(tmp_path))
  (folder / "versions.json").unlink()
  with pytest.raises(ValueError, match="dials_.* has no versions.json: remove the folder"):
    builders.get("dials", other, str(tmp_path))


def test_where_nothing_was_played_the_versions_are_those_of_now(tmp_path, monkeypatch):
  with pytest.raises(collection.CollectionError):
    collect(tmp_path, opens=False)
  monkeypatch.setattr(collection.metadata, "version", lambda package: "99.1")
  assert collect(tmp_path, episodes=2).versions == {"numpy": "99.1"}
  assert json.loads((tmp_path / "versions.json").read_text()) == {"numpy": "99.1"}


def test_another_version_of_the_collector_plays_anew(tmp_path, known, monkeypatch):
  settings = {"episodes": 60, "labelled": 50}
  builders.get("dials", settings, str(tmp_path), workers=2).prepare(str(tmp_path))
  monkeypatch.setattr(dials, "VERSION", 2)
  builders.get("dials", settings, str(tmp_path), workers=2).prepare(str(tmp_path))
  assert len(list(tmp_path.glob("dials_*/transitions.jsonl"))) == 2


def test_an_action_that_led_to_several_states_is_left_out():
  line = {"x": "a", "z": "go", "y": "b"}
  lines = [line, line | {"x": "a "}, line | {"z": "dig", "y": "c"}, line | {"z": "dig", "y": "d"}]
  assert collected.without_conflicts(lines) == (lines[:2], 2)


@pytest.mark.parametrize(
  ("settings", "said"),
  [
    ({"bpe": 100}, "config.world.bpe = 100: allowed is 0 (one token a word) or a whole number fr"),
    ({"labelled": -1}, "config.world.labelled = -1: allowed is a whole number from 0"),
    ({"episodes": 0}, "config.world.episodes = 0: allowed is 1 or more"),
    ({"lablled": 1}, "world 'dials' has no setting 'lablled'; it has seed, episodes"),
  ],
)
def test_bad_settings_are_named(tmp_path, known, settings, said):
  with pytest.raises(ValueError) as error:
    builders.get("dials", settings, str(tmp_path))
  assert said in str(error.value)
  assert not list(tmp_path.rglob("*.jsonl"))


def test_a_collected_world_needs_its_folder(known):
  with pytest.raises(ValueError, match="'dials' is that of its data: set config.data.dir"):
    builders.get("dials")


def test_settings_decide_the_folder():
  assert text_world.settings_digest({"a": 1, "b": (2,)}) == text_world.settings_digest(
    {"b": [2], "a": 1}
  )
  assert text_world.settings_digest({"a": 1}) != text_world.settings_digest({"a": 2})
