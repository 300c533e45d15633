"""Comparisons of texts and token arrays, and intervals over episodes. NumPy alone; N examples."""

import collections
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

NOTHING = -1  # stands where a text has no token

RESAMPLES = 2000
SEED = 0


class Comparison(NamedTuple):
  """A prediction of y against the truth, by example. All [N].

  exact: every token. changed_exact: every place at which x and y differ. The rest count the places
  where x and y differ, those where they agree, and how many of each were predicted right.
  """

  exact: np.ndarray
  changed_exact: np.ndarray
  changed: np.ndarray
  changed_right: np.ndarray
  unchanged: np.ndarray
  unchanged_right: np.ndarray


def dense(tokens: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
  """Tokens where the mask holds, NOTHING elsewhere, at least `width` places. [N, S] → [N, S']"""
  pad = max(0, width - tokens.shape[1])
  return np.pad(np.where(mask, tokens, NOTHING), ((0, 0), (0, pad)), constant_values=NOTHING)


def compare(x, y, prediction) -> Comparison:
  """Place by place; x, y and the prediction are pairs (tokens [N, S], mask [N, S]), left-aligned.

  A place that only one of x and y has counts as changed; a prediction that is longer than both is
  not exact.
  """
  width = max(segment[0].shape[1] for segment in (x, y, prediction))
  x, y, prediction = (dense(*segment, width) for segment in (x, y, prediction))
  changed, right = x != y, prediction == y
  unchanged = ~changed & (y != NOTHING)
  return Comparison(
    exact=right.all(1),
    changed_exact=(right | ~changed).all(1),
    changed=changed.sum(1),
    changed_right=(changed & right).sum(1),
    unchanged=unchanged.sum(1),
    unchanged_right=(unchanged & right).sum(1),
  )


def share(part, whole) -> float:
  """Σ part / Σ whole; 0 where there is nothing."""
  total = float(np.sum(whole))
  return float(np.sum(part)) / total if total else 0.0


def by_episode(values: Sequence, episodes: Sequence[Hashable]) -> dict[str, list[int]]:
  """Sums of `values` and numbers of examples of each episode, in the order they first appear."""
  index = {e: i for i, e in enumerate(dict.fromkeys(episodes))}
  place = np.array([index[e] for e in episodes], int)
  correct = np.bincount(place, np.asarray(values, float), minlength=len(index))
  size = np.bincount(place, minlength=len(index))
  return {"correct": [int(v) for v in correct], "size": [int(v) for v in size]}


def _draws(count: int) -> np.ndarray:
  """Which episodes each resample holds, the same for every method on a split. [RESAMPLES, count]"""
  return np.random.default_rng(SEED).integers(0, count, (RESAMPLES, count))


def _middle(values: np.ndarray) -> tuple[float, float]:
  low, high = np.percentile(values, (2.5, 97.5))
  return float(low), float(high)


def interval(episodes: dict[str, list[int]]) -> tuple[float, float]:
  """95% percentile bootstrap of Σ correct / Σ size, over episodes, not examples."""
  correct, size = (np.asarray(episodes[name], float) for name in ("correct", "size"))
  draws = _draws(len(size))
  return _middle(correct[draws].sum(1) / size[draws].sum(1))


def paired_interval(a: dict[str, list[int]], b: dict[str, list[int]]) -> tuple[float, float, float]:
  """a's share minus b's on the same examples: (difference, and its 95% interval over episodes)."""
  if a["size"] != b["size"]:
    raise ValueError("a paired comparison needs the same examples; these differ in their episodes")
  size = np.asarray(a["size"], float)
  gain = np.asarray(a["correct"], float) - np.asarray(b["correct"], float)
  draws = _draws(len(size))
  low, high = _middle(gain[draws].sum(1) / size[draws].sum(1))
  return float(gain.sum() / size.sum()), low, high


def with_interval(name: str, values, episodes: Sequence[Hashable]) -> dict[str, float]:
  """{name: mean, name_low, name_high} of a 0/1 value by example."""
  low, high = interval(by_episode(values, episodes))
  mean = float(np.mean(np.asarray(values, float)))
  return {name: mean, f"{name}_low": low, f"{name}_high": high}


@functools.lru_cache(maxsize=8)
def _weights(count: int) -> np.ndarray:
  """How often each resample of `_draws` holds each episode. float64 [RESAMPLES, count]"""
  return np.stack([np.bincount(row, minlength=count) for row in _draws(count)]).astype(float)


def estimate(function: Callable[[np.ndarray], np.ndarray], columns, episodes: Sequence[Hashable]):
  """{"value", "low", "high"}: function(Σ_n columns[n]) and its 95% bootstrap over episodes.

  columns [N, K]: what adds up over examples (the statistics of a corpus score, a part and its
  whole); function: sums [R, K] → [R], NaN where it isn't defined. Resamples without a value (none
  of their episodes has the class that is measured) are left out; all None where the split has none.
  """
  columns = np.asarray(columns, float)
  index = {e: i for i, e in enumerate(dict.fromkeys(episodes))}
  sums = np.zeros((len(index), columns.shape[1]))
  np.add.at(sums, [index[e] for e in episodes], columns)
  with np.errstate(divide="ignore", invalid="ignore"):
    value = float(np.asarray(function(columns.sum(0, keepdims=True)))[0])
    drawn = np.asarray(function(_weights(len(index)) @ sums))
  if not np.isfinite(value):
    return {"value": None, "low": None, "high": None}
  low, high = _middle(drawn[np.isfinite(drawn)])
  return {"value": value, "low": low, "high": high}


def ratio(part, whole, episodes: Sequence[Hashable]) -> dict[str, float | None]:
  """Σ part / Σ whole as an `estimate`; `whole` 1 for a mean over examples. [N], [N] or scalar"""
  part = np.asarray(part, float)
  columns = np.stack([part, np.broadcast_to(np.asarray(whole, float), part.shape)], 1)
  return estimate(lambda sums: sums[:, 0] / sums[:, 1], columns, episodes)


def unique_share(phrases: Sequence[str]) -> float:
  """Distinct phrases / phrases; it falls as more are looked at, so compare equal numbers."""
  return len(set(phrases)) / len(phrases) if phrases else 0.0


def shares(labels: Sequence[str]) -> dict[str, float]:
  """{label: its share}, the most frequent first (ties by name)."""
  counts = collections.Counter(labels)
  order = sorted(counts, key=lambda label: (-counts[label], label))
  return {label: counts[label] / len(labels) for label in order}


def accuracy_by(labels: Sequence[str], right: Sequence[bool]) -> dict[str, Any]:
  """{label: {"count", "match"}} in alphabetical order."""
  right, labels = np.asarray(right, float), np.asarray(labels, object)
  found = {}
  for label in sorted(set(labels)):
    mine = right[labels == label]
    found[label] = {"count": int(mine.size), "match": float(mine.mean())}
  return found
