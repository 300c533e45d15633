"""The picture scores of a world of images: predictions decoded, and compared with the truth.

A state is a text of codes (`World.codes`), and `World.pictures` decodes it. What compares pictures
is a `pictures.Measure`: `PIXELS` needs nothing but the pictures, `lpips.measure` and `clip.measure`
need weights.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from swirl_jax import metrics
from swirl_jax.data.transitions import Record
from swirl_jax.evaluation import pictures, text
from swirl_jax.evaluation.pictures import PIXELS, Measure

BATCH = 8  # pictures that are decoded and compared at once
CASES = ("best", "median", "worst")
EACH = 3  # cases of each


def compare(
  world,
  measures: Sequence[Measure],
  records: Sequence[Record],
  x: Sequence[str],
  predictions: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, np.ndarray]]:
  """Every measure of every list of predictions of the records' y: {who: {score: float64 [N]}}.

  x: the states that a change is counted from, as texts [N]; predictions: {who: texts [N]}. In
  batches of one static shape; a state that stands twice in a batch is decoded once, and a list that
  stands twice is looked at once.
  """
  names = [name for m in measures for name in m.names]
  found = {who: {name: np.zeros(len(records)) for name in names} for who in predictions}
  with metrics.Progress(len(records), description="comparing pictures") as bar:
    for start in range(0, len(records), BATCH):
      rows = np.arange(start, min(start + BATCH, len(records)))
      padded = [*rows, *[rows[-1]] * (BATCH - len(rows))]
      mine = [records[i] for i in padded]
      before, truth = tuple(x[i] for i in padded), tuple(r.y for r in mine)
      said = {who: tuple(texts[i] for i in padded) for who, texts in predictions.items()}
      drawn = decoded(world, {*before, *truth, *itertools.chain(*said.values())})
      for m in measures:
        of = functools.cache(lambda texts, m=m, drawn=drawn: m.features(drawn(texts)))
        for who, texts in said.items():
          values = m.scores(mine, of(before), of(texts), of(truth))
          for name in m.names:
            found[who][name][rows] = np.asarray(values[name], float)[: len(rows)]
      bar.update(len(rows))
  return found


def check(world, measures: Sequence[Measure], record: Record) -> None:
  """Compares one record's pictures, so that what can't be is said before hours of work."""
  shown = decoded(world, {record.x, record.y})
  before, after = ([state] * BATCH for state in (record.x, record.y))
  for m in [PIXELS, *measures]:
    x, y = (m.features(shown(texts)) for texts in (before, after))
    m.scores([record] * BATCH, x, x, y)


def decoded(world, states: Iterable[str]) -> Callable[[Sequence[str]], np.ndarray]:
  """Texts of the given states → their pictures, uint8 [B, H, W, 3]; `BATCH` are decoded at once."""
  states, parts = sorted(states), []
  for start in range(0, len(states), BATCH):
    part = states[start : start + BATCH]
    parts.append(world.pictures([*part, *part[-1:] * (BATCH - len(part))])[: len(part)])
  drawn, place = np.concatenate(parts), {state: i for i, state in enumerate(states)}
  return lambda texts: drawn[[place[state] for state in texts]]


class Scored(NamedTuple):
  """One score of N predictions as what an estimate is made of: Σ part / Σ whole."""

  part: np.ndarray
  whole: np.ndarray

  def of(self, rows: np.ndarray, episodes) -> dict[str, float | None]:
    """The estimate over the rows where the mask holds."""
    return text.ratio(self.part * rows, self.whole * rows, episodes)


def scored(values: Mapping[str, np.ndarray]) -> dict[str, Scored]:
  """Values by example, NaN where there is none."""
  return {n: Scored(np.nan_to_num(v), np.isfinite(v).astype(float)) for n, v in values.items()}


def estimates(values: Mapping[str, np.ndarray], episodes) -> dict[str, dict[str, float | None]]:
  everything = np.ones(len(episodes))
  return {name: s.of(everything, episodes) for name, s in scored(values).items()}


def measure(
  world,
  measures: Sequence[Measure],
  records: Sequence[Record],
  forward: Mapping[str, Any],
  picked: Mapping[str, Any],
  chains: Sequence[Sequence[int]],
  rolled: Sequence[Sequence[Mapping[str, str]]],
) -> dict[str, Any]:
  """The block "pictures" of a scorecard, of what `one_step.fwm` (forward), `one_step.best_of`
  (picked) and `multi_turn` (rolled, all chains) found; chains [C][K] index the records.

    truth         what the truth is: "decoded", the picture of the true codes
    psnr_cap      in dB; see `pictures.PSNR_CAP`
    fwm, repeating_x          {score: estimate}
    by_level      {level: {"count", "episodes", "scores", "repeating_x": {score: estimate}}}, scores
                  with the accuracy on changed and on unchanged patches
    verification  {n: {score: estimate}}
    turns         {score: [estimate by turn]} of `PIXELS`; score_kept: of x_0 kept for ever
    cases         {case: [{"row", "psnr"}]}, see `cases`
  """
  episodes, x = [r.episode for r in records], [r.x for r in records]
  picks = {n: one["prediction"] for n, one in picked["picked"].items()}
  said = {"fwm": forward["examples"]["prediction"], "repeating_x": x, **picks}
  found = compare(world, [PIXELS, *measures], records, x, said)
  fwm, rows = scored(found["fwm"]), forward["by_example"]
  for kind in ("changed", "unchanged"):
    parts = (np.asarray(rows[name], float) for name in (f"{kind}_right", kind))
    fwm[f"{kind}_accuracy"] = Scored(*parts)
  return {
    "truth": "decoded",
    "psnr_cap": pictures.PSNR_CAP,
    "fwm": estimates(found["fwm"], episodes),
    "repeating_x": estimates(found["repeating_x"], episodes),
    "by_level": _by_level(fwm, scored(found["repeating_x"]), records),
    "verification": {n: estimates(found[n], episodes) for n in picks},
    "turns": _turns(world, records, chains, rolled),
    "cases": cases(found["fwm"]["psnr"]),
  }


def _by_level(
  fwm: Mapping[str, Scored], same: Mapping[str, Scored], records: Sequence[Record]
) -> dict[str, Any]:
  episodes, found = [r.episode for r in records], {}
  for level in sorted({r.level for r in records}):
    mine = np.array([r.level == level for r in records])
    found[level] = {
      "count": int(mine.sum()),
      "episodes": len({r.episode for r in records if r.level == level}),
      "scores": {name: s.of(mine, episodes) for name, s in fwm.items()},
      "repeating_x": {name: s.of(mine, episodes) for name, s in same.items()},
    }
  return found


def _turns(world, records, chains, rolled) -> dict[str, list]:
  """Fidelity by turn, each turn's picture against the truth, beside x_0's."""
  if not chains:
    return {f"{name}{kept}": [] for name in PIXELS.names for kept in ("", "_kept")}
  truth = [records[i] for chain in chains for i in chain]
  first = [records[chain[0]].x for chain in chains for _ in chain]
  said = [turn["prediction"] for turns in rolled for turn in turns]
  found = compare(world, [PIXELS], truth, first, {"": said, "_kept": first})
  episodes, count = [records[chain[0]].episode for chain in chains], len(chains)
  return {
    name + kept: [text.ratio(by_turn, 1, episodes) for by_turn in v.reshape(count, -1).T]
    for kept, values in found.items()
    for name, v in values.items()
  }


def cases(decibels: np.ndarray) -> dict[str, list[dict[str, Any]]]:
  """Which rows to look at: the `EACH` best, median and worst by PSNR, none twice; the first of
  equals stands first. {"best": [{"row", "psnr"}], "median", "worst"}
  """
  order = np.argsort(-decibels, kind="stable")
  each = min(EACH, len(order) // 3) if len(order) >= 3 else 0
  middle = (len(order) - each) // 2
  parts = order[:each], order[middle : middle + each], order[len(order) - each :][::-1]
  return {
    case: [{"row": int(row), "psnr": float(decibels[row])} for row in part]
    for case, part in zip(CASES, parts, strict=True)
  }
