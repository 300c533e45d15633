"""From a split on disk to batches of token arrays.

A split is tokenised once, up front, into NumPy arrays of static shape that stay in memory (20,000
transitions of 17 words are a few MB); a batch is then a gather. Batch number `step` is a pure
function of (seed, step): a position in the data is one integer, and a resumed run reads on exactly
where it stopped.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from swirl_jax.data import transitions
from swirl_jax.data.tokenizers import WordTokenizer
from swirl_jax.data.transitions import Record
from swirl_jax.types import Segment, Transition


@dataclasses.dataclass(frozen=True)
class Lengths:
  """The static number of tokens of each segment; shorter ones are padded, longer are an error."""

  x: int
  y: int
  z: int

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if type(value) is not int or value < 1:
        raise ValueError(f"{name}_len is {value!r}, must be an integer of 1 or more")


class Split(Sequence[Record]):
  """The records of a split by index, read and checked as they are asked for."""

  def __init__(self, builder: Any, name: str, *, limit: int | None = None):
    """The first `limit` records of the split `name` of a prepared builder (all for None)."""
    size = builder.info.splits[name].num_examples if name in builder.info.splits else None
    if size is None:
      found = ", ".join(builder.info.splits) or "none: it is not prepared"
      raise ValueError(f"no split {name!r}; the data has {found}")
    if size == 0:
      raise ValueError(f"split {name!r} is empty")
    if limit is not None and not 1 <= limit <= size:
      raise ValueError(f"limit {limit!r} of split {name!r}: must be from 1 to its {size} records")
    self.name = name
    self._folder = builder.data_dir
    self._source = builder.as_data_source(split=name)
    self._size = size if limit is None else limit

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(self._size))]
    if not -self._size <= index < self._size:
      raise IndexError(f"record {index} of split {self.name!r}, which has {self._size}")
    try:
      example = self._source[int(index) % self._size]
    except RuntimeError as error:  # of array_record, for a file that is damaged or missing
      raise ValueError(
        f"{self._folder}: record {index} of split {self.name!r} can't be read ({error}). Restore "
        "this folder, or remove it: then it is made anew."
      ) from None
    return transitions.validate(transitions.from_example(example), self.name)


def tokenize(
  records: Sequence[Record], tokenizer: WordTokenizer, lengths: Lengths, *, actions: bool = True
) -> Transition:
  """All records as one Transition of NumPy arrays [N, length]; z is None without `actions`."""
  name = f"split {records.name!r}" if isinstance(records, Split) else "the list of records"
  records = list(records)
  if not records:
    raise ValueError(f"{name} is empty")
  fields = ("x", "y", "z") if actions else ("x", "y")
  if actions:
    bare = sum(not r.z for r in records)
    if bare:
      raise ValueError(f"{name} holds no actions (z is empty in {bare} of {len(records)} records)")
  return Transition(**{f: _segment(records, f, tokenizer, getattr(lengths, f)) for f in fields})


def _segment(records, field, tokenizer, length) -> Segment:
  """One field of all records, padded on the right. [N, length]"""
  tokens = np.zeros((len(records), length), np.int32)
  sizes = np.zeros(len(records), np.int32)
  for row, record in enumerate(records):
    where = f"episode {record.episode!r}, turn {record.turn}: {field}"
    try:
      ids = tokenizer.encode(getattr(record, field))
    except ValueError as error:
      raise ValueError(f"{where}: {error}") from None
    if len(ids) > length:
      raise ValueError(f"{where} has {len(ids)} tokens, the limit {field}_len is {length}")
    tokens[row, : len(ids)] = ids
    sizes[row] = len(ids)
  return Segment(tokens, np.arange(length) < sizes[:, None])


def take(data: Transition, rows: np.ndarray) -> Transition:
  """The given rows of a tokenised split. [N, ·], [B] → [B, ·]"""

  def gather(segment):
    return None if segment is None else Segment(segment.tokens[rows], segment.mask[rows])

  return Transition(gather(data.x), gather(data.y), gather(data.z))


def rows_of_turns(records: Sequence[Record], turns: int) -> np.ndarray:
  """`transitions.sequences` of at most `turns` as one array, −1 behind shorter ones. int [M, K]"""
  runs = transitions.sequences(list(records), turns)
  rows = np.full((len(runs), turns), -1)
  for row, run in zip(rows, runs, strict=True):
    row[: len(run)] = run
  return rows


def take_turns(data: Transition, rows: np.ndarray) -> Transition:
  """Sequences of turns out of a tokenised split: the first one's x, every one's y and z; where a
  row is −1 nothing is there. [N, ·], int [B, K] → x [B, ·], y and z [B, K, ·]
  """
  found, there = take(data, rows), (rows >= 0)[..., None]
  y, z = (Segment(np.where(there, s.tokens, 0), s.mask & there) for s in (found.y, found.z))
  return Transition(Segment(*(a[:, 0] for a in found.x)), y, z)


class Batches:
  """Endless shuffled batches of a tokenised split; `batches[step]` is a function of (seed, step).

  Every epoch passes over all records once, in an order of its own; a batch may straddle two epochs.
  With `turns`, int [M, K], it passes over these sequences of rows instead (see `take_turns`).
  Every process gathers the whole batch, and `sharding.put_batch` hands over its devices' rows.
  """

  def __init__(self, data: Transition, batch: int, seed: int, *, turns: np.ndarray | None = None):
    if batch < 1:
      raise ValueError(f"batch is {batch}, must be 1 or more")
    if not 0 <= seed < 2**32:
      raise ValueError(f"seed is {seed}, must be from 0 to 2**32 - 1")
    self.data, self._turns = data, turns
    size = len(data.x.tokens if turns is None else turns)
    rows = grain.MapDataset.source(np.arange(size)).seed(seed).shuffle().repeat()
    self._rows = rows.batch(batch)

  def rows(self, step: int) -> np.ndarray:
    """Which records (or sequences) batch number `step` holds. int [B]"""
    if step < 0:
      raise IndexError(f"batch {step}: steps count from 0")
    return self._rows[step]

  def __getitem__(self, step: int) -> Transition:
    rows = self.rows(step)
    if self._turns is None:
      return take(self.data, rows)
    return take_turns(self.data, self._turns[rows])


def ordered(data: Transition, batch: int) -> Iterator[tuple[Transition, np.ndarray]]:
  """A whole tokenised split in its order, for evaluation: (batch [B, ·], real rows bool [B]).

  The last batch is filled up by repeating the split's last record; there the mask is False.
  """
  if batch < 1:
    raise ValueError(f"batch is {batch}, must be 1 or more")
  size = len(data.x.tokens)
  for start in range(0, size, batch):
    rows = np.arange(start, start + batch)
    yield take(data, np.minimum(rows, size - 1)), rows < size
