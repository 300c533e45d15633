"""The MiniGrid world: what it collects, its splits, its pictures, and what a kill leaves behind."""

import itertools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from swirl_jax.data import builders, transitions
from swirl_jax.data.builders import minigrid
from swirl_jax.data.pipeline import Split
from swirl_jax.data.transitions import Record

WORLD = builders.get("minigrid")
TINY = {"labelled": 60, "unlabelled": 120, "validation": 20, "test": 30, "heldout": 20}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """A tiny data set on disk: (its folder, builder, records by split)."""
  folder = tmp_path_factory.mktemp("data")
  builder = builders.get("minigrid", TINY).prepare(folder)
  return folder, builder, {name: list(Split(builder, name)) for name in TINY}


def files(builder):
  """The bytes of every file of records."""
  folder = builder.data_path
  return {p.name: p.read_bytes() for p in folder.iterdir() if "array_record" in p.name}


def parts(state):
  """(the cells in rows, what is carried)"""
  *cells, carried = state.split()
  return [cells[i : i + 4] for i in range(0, 16, 4)], carried


def test_sizes_and_counts(data):
  _, builder, splits = data
  assert {name: len(records) for name, records in splits.items()} == TINY
  counts = builder.info.metadata
  assert {name: counts[name]["kept"] for name in TINY} == TINY
  assert counts["labelled"]["dropped"] == counts["unlabelled"]["dropped"] == 0


def test_records_hold_what_they_should(data):
  _, _, splits = data
  for name, records in splits.items():
    levels = minigrid.HELDOUT if name == "heldout" else minigrid.LEVELS
    assert {r.level for r in records} <= set(levels)
    for r in records:
      assert len(WORLD.tokenizer.encode(r.x)) == len(WORLD.tokenizer.encode(r.y)) == WORLD.state_len
      if name != "unlabelled":
        assert len(WORLD.tokenizer.encode(r.z)) <= WORLD.action_len
        assert WORLD.action_class(r.z).split()[0] == r.action
  assert not set(minigrid.HELDOUT) & set(minigrid.LEVELS)


def test_states_and_actions_agree():
  """What the action says is what happened, by a reading of the states that knows no MiniGrid."""
  records, _ = minigrid.collect({**TINY, "labelled": 600, "seed": 3})
  seen = set()
  for r in records["labelled"]:
    (x, held_x), (y, held_y) = parts(r.x), parts(r.y)
    kind, thing = r.action, WORLD.action_class(r.z).partition(" ")[2].replace(" ", "_")
    agent_x, agent_y = (
      next((i, j, w) for i, j in itertools.product(range(4), range(4)) if "agent" in (w := s[i][j]))
      for s in (x, y)
    )
    heading_x, heading_y = (a[2].split("_")[1] for a in (agent_x, agent_y))
    step = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}[heading_x]
    front = (agent_x[0] + step[0], agent_x[1] + step[1])
    turn = {"left": -1, "right": 1}.get(kind, 0)
    expected = minigrid.DIRECTIONS[(minigrid.DIRECTIONS.index(heading_x) + turn) % 4]
    assert heading_y == expected
    assert agent_y[:2] == (front if kind == "forward" else agent_x[:2])
    if kind == "pickup":
      assert (held_x, held_y) == ("carrying_nothing", f"carrying_{thing}")
      assert (x[front[0]][front[1]], y[front[0]][front[1]]) == (thing, "empty")
    elif kind == "drop":
      assert (held_x, held_y) == (f"carrying_{thing}", "carrying_nothing")
      assert (x[front[0]][front[1]], y[front[0]][front[1]]) == ("empty", thing)
    else:
      assert held_x == held_y
    if kind == "toggle":
      assert x[front[0]][front[1]].startswith(thing)
    seen.add(kind)
  assert seen == set(minigrid.CLASSES)


def test_evaluation_meets_no_state_of_training(data):
  _, _, splits = data
  met = {s for name in transitions.TRAIN_SPLITS for r in splits[name] for s in (r.x, r.y)}
  for name in ("validation", "test", "heldout"):
    assert not met & {s for r in splits[name] for s in (r.x, r.y)}


def test_what_training_met_is_dropped_and_counted():
  cycle = len(minigrid.CYCLE)
  seed = next(k for k in range(cycle) if minigrid.CYCLE[k] == "fetch")
  first_seed = cycle - seed  # episode number `seed` of the split has the environment seed `cycle`
  episode, _ = minigrid._episode("fetch", "test", cycle)
  met = {episode[3].x}  # the y of turn 2, the x of turn 3
  records, counts = minigrid._split("test", 100, first_seed, met, lambda n: None)
  kept = [r.turn for r in records if r.episode == episode[0].episode]
  gone = [r.turn for r in episode if met & {r.x, r.y}]
  assert {2, 3} <= set(gone) and kept == [r.turn for r in episode if r.turn not in gone]
  assert counts["dropped"] == counts["dropped_by_level"]["fetch"] == len(gone)
  assert len(records) == counts["kept"] == 100


def test_both_states_of_both_training_splits_count_as_met(monkeypatch):
  """Training goes from a to b and from c to d: of the nine steps that evaluation offers, one after
  the other, the one that touches none of them is kept.
  """
  offered = [(s, "new") for s in "abcd"] + [("new", s) for s in "abcd"] + [("new", "newer")]

  def episode(level, split, env_seed):
    steps = {"labelled": ("a", "b"), "unlabelled": ("c", "d")}
    x, y = steps.get(split) or offered[env_seed % minigrid.SEEDS % len(offered)]
    return [Record(x, y, "go", f"{split}-{env_seed}", 0, "forward", level)], 0

  monkeypatch.setattr(minigrid, "_episode", episode)
  splits, counts = minigrid.collect(dict.fromkeys(TINY, 1) | {"seed": 0})
  for name in transitions.EVALUATION_SPLITS[:3]:
    assert [(r.x, r.y) for r in splits[name]] == [("new", "newer")]
    assert counts[name]["dropped"] == 8


def test_a_split_that_cannot_be_filled_is_an_error(monkeypatch):
  episode = minigrid._episode("fetch", "test", 0)
  monkeypatch.setattr(minigrid, "_episode", lambda *_: episode)
  met = {s for r in episode[0] for s in (r.x, r.y)}
  with pytest.raises(ValueError, match="split 'test': 100 episodes gave 0 of 5"):
    minigrid._split("test", 5, 0, met, lambda n: None)


def test_splits_share_no_episode_and_chain(data):
  _, _, splits = data
  seeds = {name: {r.episode.split("-")[-1] for r in rs} for name, rs in splits.items()}
  for a, b in itertools.combinations(seeds, 2):
    assert not seeds[a] & seeds[b]
  records = splits["test"]
  runs = transitions.chains(records, 3)
  assert runs
  for run in runs:
    first = records[run[0]].turn
    assert [records[i].turn for i in run] == [first, first + 1, first + 2]


def test_same_settings_same_bytes_other_settings_other_folder(data, tmp_path):
  folder, builder, splits = data
  again = builders.get("minigrid", TINY).prepare(tmp_path)
  assert files(again) == files(builder) != {}
  reused = builders.get("minigrid", TINY).prepare(folder)
  assert reused.data_dir == builder.data_dir
  other = builders.get("minigrid", TINY | {"seed": 1}).prepare(folder)
  assert other.data_dir != builder.data_dir
  assert list(Split(other, "test")) != splits["test"]


def test_an_episode_depends_on_its_seed_alone():
  first = minigrid._episode("door_key", "test", 5)
  minigrid._episode("door_key", "test", 6)
  assert minigrid._episode("door_key", "test", 5) == first


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"lablled": 3}, "world 'minigrid' has no setting 'lablled'; it has labelled, unlabelled"),
    ({"test": 0}, "minigrid: test is 0, must be an integer from 1"),
    ({"labelled": 10.0}, "labelled is 10.0, must be an integer"),
    ({"seed": -1}, "seed is -1, must be an integer from 0"),
  ],
)
def test_bad_settings_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    builders.get("minigrid", settings)


def test_unknown_world():
  with pytest.raises(ValueError, match="unknown world 'atari'; the worlds are images, jsonl, mini"):
    builders.get("atari")


KILLED = """
import os, signal, sys
from swirl_jax.data import builders
from swirl_jax.data.builders import minigrid

write = minigrid.MinigridText._generate_examples
def stop(self, records):
  for n, example in enumerate(write(self, records)):
    if len(records) == 120 and n == 50:  # in the middle of the unlabelled split
      os.kill(os.getpid(), signal.SIGKILL)
    yield example
minigrid.MinigridText._generate_examples = stop
builders.get("minigrid", eval(sys.argv[2])).prepare(sys.argv[1])
"""


@pytest.mark.multiprocess
def test_a_killed_collection_leaves_nothing_that_reads_as_whole(data, tmp_path):
  env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
  command = [sys.executable, "-c", KILLED, str(tmp_path), repr(TINY)]
  done = subprocess.run(command, env=env, capture_output=True, text=True)
  assert done.returncode == -signal.SIGKILL, done.stderr
  assert list(tmp_path.rglob("incomplete.*"))  # it was in the middle
  assert not list(tmp_path.rglob("dataset_info.json"))
  assert files(builders.get("minigrid", TINY).prepare(tmp_path)) == files(data[1])
  assert not list(tmp_path.rglob("incomplete.*"))


def test_action_classes():
  assert WORLD.action_class("pick up the red key") == "pickup red key"
  assert WORLD.action_class("grab the red key") == "pickup red key"
  assert WORLD.action_class("grab the blue key") == "pickup blue key"
  assert WORLD.action_class("advance") == WORLD.action_class("go forward") == "forward"
  assert WORLD.action_class("use the yellow door") == "toggle yellow door"
  for nonsense in ("", "pick up the", "pick up the red door", "turn", "turn left left"):
    assert WORLD.action_class(nonsense) is None
  # No phrase means two things: each class and object has its own paraphrases.
  said = sum(len(ps) * len(minigrid._handled(kind)) for kind, ps in minigrid.PHRASES.items())
  assert len(minigrid._meanings()) == said


def test_pictures():
  state = "agent_up red_key" + " empty" * 14 + " carrying_blue_ball"
  picture = WORLD.render(state)
  assert picture.shape == (7 * 24, 6 * 24, 3) and picture.dtype == np.uint8

  def tile(image, row, column):
    return image[row * 24 : (row + 1) * 24, column * 24 : (column + 1) * 24].reshape(-1, 3)

  assert ([255, 0, 0] == tile(picture, 1, 1)).all(1).any()  # the agent and the key are red
  assert ([255, 0, 0] == tile(picture, 1, 2)).all(1).any()
  assert ([0, 0, 255] == tile(picture, 6, 0)).all(1).any()  # the ball is blue
  other = state.replace("red_key", "empty")
  marks = WORLD.differences(state, other)
  assert marks == (1,)
  marked = WORLD.render(state, marks)
  assert (tile(marked, 1, 2)[0] == (255, 0, 255)).all()
  assert np.array_equal(tile(marked, 1, 1), tile(picture, 1, 1))
  assert np.array_equal(WORLD.render(state), picture)  # marks spoil no cached tile


@pytest.mark.parametrize(
  ("state", "height"),
  [
    ("", 7),
    ("carrying_nothing", 7),
    ("turn <sep> agent_up agent_up carrying_red_key carrying_door", 7),
    ("empty " * 18 + "carrying_nothing", 8),
    ("carrying_red_key " * 9, 7),
  ],
)
def test_impossible_states_are_drawn(state, height):
  assert WORLD.render(state, range(20)).shape == (height * 24, 6 * 24, 3)


def test_differences_count_missing_words():
  assert WORLD.differences("a b c", "a x") == (1, 2)
  assert WORLD.differences("a", "a") == ()
