"""How well a number tells failed runs from sound ones: thresholds, error rates, ROC curves."""

from typing import NamedTuple

import numpy as np

from swirl_jax.theory.results import Line


class Errors(NamedTuple):
  """Of one detector on runs that did not choose its threshold (≥ is an alarm)."""

  threshold: float
  false_alarms: float
  misses: float
  area: float  # under the ROC curve: 0.5 by chance


def roc_area(score, failed) -> float:
  """P(score of a failed run > of a sound one) + ½ P(equal); [N], bool [N]. NaN without both."""
  score, failed = np.asarray(score, float), np.asarray(failed, bool)
  if failed.all() or not failed.any():
    return float("nan")
  order = np.sort(score[~failed])
  below = np.searchsorted(order, score[failed], "left")
  through = np.searchsorted(order, score[failed], "right")
  return float((below + through).mean() / (2 * len(order)))


def choose_threshold(score, failed) -> float:
  """The value of `score` at which false alarms + misses (both as shares) are fewest."""
  score, failed = np.asarray(score, float), np.asarray(failed, bool)
  candidates = np.unique(score)
  alarm = score[None, :] >= candidates[:, None]
  total = alarm[:, ~failed].mean(1) + (~alarm[:, failed]).mean(1)
  return float(candidates[total.argmin()])


def errors(score, failed) -> Errors:
  """Threshold from the even runs, rates from the odd ones; NaN where a half lacks a kind."""
  score, failed = np.asarray(score, float), np.asarray(failed, bool)
  wrong = failed[1::2]
  if not all(half.any() and not half.all() for half in (failed[::2], wrong)):
    return Errors(*(float("nan"),) * 4)
  threshold = choose_threshold(score[::2], failed[::2])
  alarm = score[1::2] >= threshold
  return Errors(
    threshold,
    float(alarm[~wrong].mean()),
    float((~alarm[wrong]).mean()),
    roc_area(score[1::2], wrong),
  )


def roc_line(score, failed, name, color) -> Line:
  """The ROC curve, false alarms against detections, at 61 quantiles of the score."""
  score, failed = np.asarray(score, float), np.asarray(failed, bool)
  cuts = np.quantile(score, np.linspace(1.0, 0.0, 61))
  alarm = score[None, :] >= cuts[:, None]
  x, y = (alarm[:, kind].sum(1) / max(kind.sum(), 1) for kind in (~failed, failed))
  return Line(name, [0.0, *x.tolist()], [0.0, *y.tolist()], color)
