"""MiniGrid as text: rooms of 4 × 4 cells from the `minigrid` package's own environments.

A state is the whole inner grid row by row, one word a cell, then the carried object (17 words):

    empty empty red_key empty  empty agent_up empty ... carrying_nothing

The agent's word holds its direction and what it stands on (`agent_left_on_goal`). An action is a
short English phrase, drawn from four paraphrases; where it handles an object it names it ("pick up
the red key").

The environment's missions and their ends are ignored: an episode is `TURNS` steps, after up to
`BEFORE` others, of a collector that prefers actions with an effect, above all the handling of
objects. Steps that change nothing are no transitions. Splits have disjoint ranges of environment
seeds. Small rooms repeat across seeds, so an evaluation transition whose x or y was met, as x or y,
in the labelled or unlabelled split is dropped, and counted in the builder's metadata.
"""

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from swirl_jax.data import transitions
from swirl_jax.data.builders import World
from swirl_jax.data.builders.transition_builder import TransitionBuilder
from swirl_jax.data.transitions import Record

WIDTH = 4  # cells in a row of the room, and rows
TURNS = 12  # environment steps of an episode that are recorded
BEFORE = 12  # at most so many, a number drawn by seed, are taken before the first of those
SEEDS = 10_000_000  # environment seeds of one split
COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
OBJECTS = tuple(f"{color}_{kind}" for kind in ("key", "ball", "box") for color in COLORS)
DOORS = tuple(f"yellow_door_{state}" for state in ("open", "closed", "locked"))
DIRECTIONS = ("right", "down", "left", "up")  # MiniGrid's order

# Kind of level: environment id, its arguments, objects that are put in besides its own (DoorKey
# alone has so few states that hardly any evaluation transition would be new). Training and
# evaluation go through CYCLE.
LEVELS = {
  "go_to_object": ("MiniGrid-GoToObject-6x6-N2-v0", {}, 0),
  "fetch": ("MiniGrid-Fetch-6x6-N2-v0", {}, 0),
  "door_key": ("MiniGrid-DoorKey-6x6-v0", {}, 1),
}
CYCLE = ("go_to_object", "door_key", "fetch", "go_to_object", "door_key")
# Never trained on: three objects in the room instead of two.
HELDOUT = {"put_near_3": ("MiniGrid-PutNear-6x6-N2-v0", {"numObjs": 3}, 0)}

_ALL = {**LEVELS, **HELDOUT}

# What a config may say: transitions by split, and the seed of the whole collection.
SIZES = {"labelled": 4000, "unlabelled": 16000, "validation": 400, "test": 600, "heldout": 300}
DEFAULTS = {**SIZES, "seed": 0}

# Class of action → its paraphrases; {} stands for the object.
PHRASES = {
  "left": ("turn left", "rotate left", "face left", "turn to the left"),
  "right": ("turn right", "rotate right", "face right", "turn to the right"),
  "forward": ("move forward", "go forward", "step ahead", "advance"),
  "pickup": ("pick up the {}", "grab the {}", "take the {}", "collect the {}"),
  "drop": ("drop the {}", "put down the {}", "set down the {}", "release the {}"),
  "toggle": ("toggle the {}", "use the {}", "activate the {}", "operate the {}"),
}
CLASSES = tuple(PHRASES)  # MiniGrid's order: the index is the environment's action

CELLS = (
  *("empty", "wall", "goal", *OBJECTS, *DOORS),
  *(f"agent_{d}{on}" for on in ("", "_on_goal", "_on_yellow_door_open") for d in DIRECTIONS),
)
_CARRIED = ("carrying_nothing", *(f"carrying_{o}" for o in OBJECTS))


def _handled(kind: str) -> tuple[str, ...]:
  """The objects that an action of this class can name; ("",) for the classes that name none."""
  if kind in ("pickup", "drop"):
    return tuple(o.replace("_", " ") for o in OBJECTS)
  if kind == "toggle":  # boxes open, and are gone; keys and balls do nothing
    return ("yellow door", *(f"{c} box" for c in COLORS))
  return ("",)


@functools.cache
def _meanings() -> dict[str, str]:
  """Every phrase → its class and object."""
  return {
    phrase.format(thing): f"{kind} {thing}".strip()
    for kind, phrases in PHRASES.items()
    for thing in _handled(kind)
    for phrase in phrases
  }


def phrase_words() -> tuple[str, ...]:
  """Every word that a phrase may hold, once."""
  return tuple(dict.fromkeys(word for phrase in _meanings() for word in phrase.split()))


def action_class(phrase: str) -> str | None:
  """What a phrase means: its class and the object that it names; None for no known phrase."""
  return _meanings().get(" ".join(phrase.split()))


# -- the environment ---------------------------------------------------------------------------


@functools.cache
def _environment(level: str):
  """The registered environment of a level, without the wrappers that end its episodes."""
  os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
  import gymnasium
  import minigrid  # noqa: F401  (registers its environments)

  name, arguments, _ = _ALL[level]
  # The agent's own view is not used: the smallest is the fastest.
  env = gymnasium.make(name, disable_env_checker=True, agent_view_size=3, **arguments).unwrapped
  if (env.width, env.height) != (WIDTH + 2, WIDTH + 2):
    raise ValueError(f"level {level!r} is {env.width}×{env.height}, must be {WIDTH + 2} square")
  return env


def _object(word: str):
  """The MiniGrid object of a word: the inverse of `_word`; None for "empty" and unknown words."""
  from minigrid.core import world_object as objects

  color, _, rest = word.partition("_")
  if word in OBJECTS:
    return {"key": objects.Key, "ball": objects.Ball, "box": objects.Box}[rest](color)
  if word in DOORS:
    state = rest.removeprefix("door_")
    return objects.Door(color, is_open=state == "open", is_locked=state == "locked")
  return {"wall": objects.Wall, "goal": objects.Goal}.get(word, lambda: None)()


def _word(cell) -> str:
  """The word of a MiniGrid object, None being an empty cell."""
  if cell is None:
    return "empty"
  if cell.type in ("wall", "goal"):
    return cell.type
  if cell.type == "door":
    state = "open" if cell.is_open else "locked" if cell.is_locked else "closed"
    return f"{cell.color}_door_{state}"
  return f"{cell.color}_{cell.type}"


def _describe(env) -> str:
  """The environment's state as text."""
  words = []
  for row, column in itertools.product(range(1, WIDTH + 1), repeat=2):
    word = _word(env.grid.get(column, row))
    if (column, row) == tuple(env.agent_pos):
      word = f"agent_{DIRECTIONS[env.agent_dir]}" + ("" if word == "empty" else f"_on_{word}")
    words.append(word)
  words.append("carrying_" + ("nothing" if env.carrying is None else _word(env.carrying)))
  return " ".join(words)


def _reset(level: str, env_seed: int):
  """The level's environment at the start of an episode: a function of level and seed."""
  env = _environment(level)
  env.reset(seed=env_seed)
  for _ in range(_ALL[level][2]):
    env.place_obj(_object(OBJECTS[env.np_random.integers(len(OBJECTS))]))
  return env


def _interesting(env) -> list[np.ndarray]:
  """The vectors from the agent to what it could handle: objects, or doors if its hands are full."""
  found = []
  for column, row in itertools.product(range(1, WIDTH + 1), repeat=2):
    cell = env.grid.get(column, row)
    if cell is not None and (cell.can_pickup() if env.carrying is None else cell.type == "door"):
      found.append(np.array([column, row]) - env.agent_pos)
  return found


def _weights(env, previous: int) -> np.ndarray:
  """The collector's probabilities of the six actions: it seeks objects and handles them. [6]"""
  front, held = env.grid.get(*env.front_pos), env.carrying
  free = front is None or front.can_overlap()
  weights = np.array([1, 1, 2 if free else 0, 0, 0, 0], np.float64)
  if previous in (0, 1):  # few turns straight back
    weights[1 - previous] = 0.15
  if targets := _interesting(env):
    nearest = min(targets, key=lambda v: abs(v).sum())
    ahead, right = nearest @ env.dir_vec, nearest @ env.right_vec
    if ahead > 0 and free:
      weights[2] += 3
    else:
      weights[:2] += 3 * (right < 0) + 1.5 * (right == 0), 3 * (right > 0) + 1.5 * (right == 0)
  if front is not None and front.can_pickup() and held is None:
    weights[3] = 8.0
  if front is None and held is not None:
    weights[4] = 1.2
  if front is not None and front.type == "box":
    weights[5] = 8.0
  if front is not None and front.type == "door":
    fits = held is not None and (held.type, held.color) == ("key", front.color)
    weights[5] = 4.0 if front.is_open else 8.0 if fits or not front.is_locked else 0.0
  return 0.97 * weights / weights.sum() + 0.03 / len(weights)


def _name(env, kind: str) -> str:
  """The object that an action of this class would handle now, as in `_handled`; "" for none."""
  thing = env.carrying if kind == "drop" else env.grid.get(*env.front_pos)
  return "" if thing is None else f"{thing.color} {thing.type}"


def _episode(level: str, split: str, env_seed: int) -> tuple[list[Record], int]:
  """The transitions of an episode, actions included, and how many steps changed nothing."""
  env = _reset(level, env_seed)
  draw = np.random.default_rng([env_seed, 1])  # not the environment's own stream
  records, unchanged, last = [], 0, -1

  def act() -> str:
    nonlocal last
    last = int(draw.choice(len(CLASSES), p=_weights(env, last)))
    thing = _name(env, CLASSES[last])
    env.step(last)
    return thing

  for _ in range(draw.integers(BEFORE + 1)):
    act()
  x = _describe(env)
  for _ in range(TURNS):
    thing, kind, y = act(), CLASSES[last], _describe(env)
    if x == y:
      unchanged += 1
      continue
    z = PHRASES[kind][draw.integers(len(PHRASES[kind]))].format(thing)
    episode = f"{split}-{level}-{env_seed}"
    records.append(Record(x, y, z, episode, len(records), kind, level))
    x = y
  return records, unchanged


# -- collection --------------------------------------------------------------------------------


def collect(settings: Mapping[str, int]) -> tuple[dict[str, list[Record]], dict[str, dict]]:
  """All splits, and counts by split of what was kept and dropped: a function of the settings.

  Training splits are in a random order, so that their first n records are a sample of their
  episodes; evaluation splits keep the order of their episodes.
  """
  splits, counts, met = {}, {}, set()
  total = sum(settings[split] for split in SIZES)
  with tqdm(total=total, desc="collecting MiniGrid", unit=" transitions") as bar:
    for index, split in enumerate(SIZES):
      bar.set_postfix_str(split)
      training = split in transitions.TRAIN_SPLITS
      first_seed = (settings["seed"] * len(SIZES) + index) * SEEDS
      records, counts[split] = _split(
        split, settings[split], first_seed, frozenset() if training else met, bar.update
      )
      if training:
        met.update(*((r.x, r.y) for r in records))
        order = np.random.default_rng([first_seed, 2]).permutation(len(records))
        records = [records[i] for i in order]
      if split in transitions.NO_ACTIONS:
        records = [dataclasses.replace(r, z="", action="") for r in records]
      splits[split] = [transitions.validate(r, split) for r in records]
  return splits, counts


def _split(split: str, size: int, first_seed: int, met: Set[str], progress: Callable[[int], Any]):
  """`size` transitions of a split, by episode, none that touches a state in `met`; counts."""
  cycle = tuple(HELDOUT) if split == "heldout" else CYCLE
  records, unchanged, dropped = [], 0, collections.Counter()
  most = 100 * (1 + size // TURNS)  # episodes: a hundred times what is needed if nothing is dropped
  for k in range(most):
    level = cycle[k % len(cycle)]
    episode, same = _episode(level, split, first_seed + k)
    new = [r for r in episode if r.x not in met and r.y not in met]
    unchanged += same
    dropped[level] += len(episode) - len(new)
    new = new[: size - len(records)]
    records += new
    progress(len(new))
    if len(records) == size:
      counts = {"kept": size, "episodes": k + 1, "unchanged": unchanged, "dropped": dropped.total()}
      return records, counts | {"dropped_by_level": dict(+dropped)}
  raise ValueError(
    f"split {split!r}: {most} episodes gave {len(records)} of {size} transitions that training "
    f"has not met ({dropped.total()} dropped); ask for fewer, or for smaller training splits"
  )


def _config_name(settings: Mapping[str, int]) -> str:
  return "-".join(f"{name}_{value}" for name, value in settings.items())


@dataclasses.dataclass
class MinigridConfig(tfds.core.BuilderConfig):
  """Sizes of the splits and the seed; the name spells them out: other settings, other folder."""

  settings: Mapping[str, int] = dataclasses.field(default_factory=dict)


class MinigridText(TransitionBuilder):
  """Transitions of MiniGrid rooms as text; `info.metadata` holds the counts by split."""

  VERSION = tfds.core.Version("1.0.0")  # raise it whenever the same settings give other records
  BUILDER_CONFIGS = [MinigridConfig(name=_config_name(DEFAULTS), settings=DEFAULTS)]

  def _split_generators(self, dl_manager):
    splits, counts = collect(self.builder_config.settings)
    self.info.metadata.update(counts)
    return {split: self._generate_examples(records) for split, records in splits.items()}


def _builder(settings: Mapping[str, int], data_dir: str, world: World) -> MinigridText:
  """The tfds builder of these settings; nothing is collected before `download_and_prepare`."""
  name = _config_name(settings)
  known = name in MinigridText.builder_configs  # tfds wants a declared config by its name
  config = name if known else MinigridConfig(name=name, settings=dict(settings))
  return MinigridText(config=config, data_dir=data_dir)


# -- pictures ----------------------------------------------------------------------------------


def render(state: str, marks: Sequence[int] = (), *, side: int = 24) -> np.ndarray:
  """A picture of a state, by MiniGrid's own tiles: the room in its walls, below it what is carried.

  uint8 [7 · side, 6 · side, 3]. The words at the positions in `marks` are outlined in magenta. A
  word that is no cell is drawn as a striped tile, as is a missing one; cells past the sixteenth
  make the picture higher.
  """
  words = state.split()
  cells = [i for i, word in enumerate(words) if not word.startswith("carrying_")]
  held = [i for i, word in enumerate(words) if word.startswith("carrying_")]
  rows = max(WIDTH, -(-len(cells) // WIDTH))
  height, width = rows + 2, WIDTH + 2
  picture = np.zeros(((height + 1) * side, width * side, 3), np.uint8)

  def draw(row, column, word, marked=False):
    image = tile(word, side)
    if marked:
      image[:2], image[-2:], image[:, :2], image[:, -2:] = [(255, 0, 255)] * 4
    picture[row * side : (row + 1) * side, column * side : (column + 1) * side] = image

  for row, column in itertools.product(range(height), range(width)):
    if row in (0, height - 1) or column in (0, width - 1):
      draw(row, column, "wall")
  for place in range(rows * WIDTH):
    if place < len(cells):
      i, word = cells[place], words[cells[place]]
    else:  # a missing cell; `World.differences` counts it after the last word
      i, word = len(words) + place - len(cells), ""
    draw(place // WIDTH + 1, place % WIDTH + 1, word, i in marks)
  for column, i in enumerate(held[:width]):
    draw(height, column, words[i].removeprefix("carrying_").replace("nothing", "empty"), i in marks)
  return picture


def tile(word: str, size: int) -> np.ndarray:
  """MiniGrid's picture of one cell; striped for a word that is no cell. uint8 [size, size, 3]"""
  from minigrid.core.grid import Grid

  if word not in CELLS:
    stripes = np.indices((size, size)).sum(0) // 4 % 2
    return np.repeat(np.uint8(60 + 80 * stripes)[..., None], 3, axis=-1)
  direction, cell = None, word
  if word.startswith("agent_"):
    direction, _, cell = word.removeprefix("agent_").partition("_on_")
    direction = DIRECTIONS.index(direction)
  drawn = Grid.render_tile(_object(cell), agent_dir=direction, tile_size=size)
  return np.rint(drawn).astype(np.uint8)


def world(settings: Mapping[str, int], data_dir: str | None) -> World:
  for name, value in settings.items():
    low, high = (0, 2**31 - 1) if name == "seed" else (1, SEEDS // 100)
    if type(value) is not int or not low <= value <= high:
      raise ValueError(f"minigrid: {name} is {value!r}, must be an integer from {low} to {high}")
  return World(
    name="minigrid",
    words=(*CELLS, *_CARRIED, *phrase_words()),
    state_len=WIDTH * WIDTH + 1,
    action_len=max(len(phrase.split()) for phrase in _meanings()),
    builder=functools.partial(_builder, settings),
    action_class=action_class,
    render=render,
  )
