"""What a transition is on disk: a state x, the next state y, the action z between them, as text.

Every world's tfds builder writes the same features and the same splits. The unlabelled split holds
no actions at all: there z and action are empty, and no model can see what was not recorded.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

TRAIN_SPLITS = ("labelled", "unlabelled")
EVALUATION_SPLITS = ("validation", "test", "heldout", "failing")
SPLITS = TRAIN_SPLITS + EVALUATION_SPLITS
# Levels that are held out, and held-out calls that fail: not every world has them.
OPTIONAL = frozenset({"heldout", "failing"})
NO_ACTIONS = frozenset({"unlabelled"})  # the splits whose records carry neither z nor action


@dataclasses.dataclass(frozen=True)
class Record:
  """One transition: in state `x` the action `z` led to the state `y`, with x ≠ y.

  `episode` names the episode and `turn` is the place in it, from 0, perhaps with gaps where steps
  changed nothing. Two turns with nothing else between them chain: y of one is x of the next.
  `action` is the class of z (for evaluation), `level` the kind of level.
  """

  x: str
  y: str
  z: str
  episode: str
  turn: int
  action: str
  level: str


FIELDS = {field.name: field.type for field in dataclasses.fields(Record)}


def features():
  """The tfds features of every world: Text for the strings, int32 for the turn."""
  import numpy as np
  import tensorflow_datasets as tfds

  return tfds.features.FeaturesDict(
    {n: np.int32 if t is int else tfds.features.Text() for n, t in FIELDS.items()}
  )


def validate(record: Record, split: str) -> Record:
  """Returns the record, or raises a ValueError naming the split, the field, and what was found."""
  if split not in SPLITS:
    raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")

  def refuse(field, wanted):
    where = f"split {split!r}, episode {record.episode!r}, turn {record.turn!r}"
    raise ValueError(f"{where}: {field} is {getattr(record, field)!r}, must be {wanted}")

  for name, kind in FIELDS.items():
    if type(getattr(record, name)) is not kind:
      refuse(name, f"of type {kind.__name__}")
  for name in ("x", "y", "episode", "level"):
    if not getattr(record, name).strip():
      refuse(name, "non-empty text")
  if record.turn < 0:
    refuse("turn", "0 or more")
  if record.x == record.y:
    refuse("y", "another state than x (an action that changes nothing cannot be told from others)")
  for name in ("z", "action"):
    if split in NO_ACTIONS and getattr(record, name):
      refuse(name, "empty: this split holds no actions")
    if split not in NO_ACTIONS and not getattr(record, name).strip():
      refuse(name, "non-empty text")
  return record


def from_example(example: Mapping) -> Record:
  """A tfds example (text as bytes) as a Record."""

  def text(value):
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)

  return Record(**{n: int(example[n]) if t is int else text(example[n]) for n, t in FIELDS.items()})


def chains(records: Sequence[Record], length: int) -> list[tuple[int, ...]]:
  """Runs of `length` transitions that follow each other, as indices into `records`: the `sequences`
  of that very length, the rest is left out.
  """
  return [chain for chain in sequences(records, length) if len(chain) == length]


def sequences(records: Sequence[Record], most: int) -> list[tuple[int, ...]]:
  """All records as runs of transitions that follow each other, as indices into `records`.

  Episodes come in the order of their first records. Within one, sorted by turn, a run goes on while
  y of one is x of the next. A gap in the turns doesn't end it; records that were dropped do, unless
  they led back to the state before them. Each maximal run is cut from its start into pieces of
  `most`, which do not overlap, the last one shorter where it doesn't divide.
  """
  if most < 1:
    raise ValueError(f"a chain's length is {most}, must be 1 or more")
  first: dict[str, int] = {}
  for i, record in enumerate(records):
    first.setdefault(record.episode, i)
  order = sorted(range(len(records)), key=lambda i: (first[records[i].episode], records[i].turn))
  runs: list[list[int]] = []
  for previous, i in itertools.pairwise([None, *order]):
    follows = previous is not None and (
      records[previous].episode == records[i].episode and records[previous].y == records[i].x
    )
    if follows:
      runs[-1].append(i)
    else:
      runs.append([i])
  return [tuple(run[at : at + most]) for run in runs for at in range(0, len(run), most)]
