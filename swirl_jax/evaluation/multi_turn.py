"""Several turns: the FWM goes on from its own predictions, under the true actions."""

from collections.abc import Sequence

import numpy as np

from swirl_jax.data import pipeline
from swirl_jax.evaluation import one_step, text
from swirl_jax.evaluation.one_step import Examples
from swirl_jax.roles import TransformerRole
from swirl_jax.types import Segment


def multi_turn(role: TransformerRole, params, split: Examples, chains: Sequence[Sequence[int]], *,
               batch, world, shown) -> dict:  # fmt: skip
  """ŷ_t = the FWM's greedy answer to (ŷ_{t-1}, z_t), ŷ_0 = x_0, against y_t for t = 1 … K.

  chains: C rows of K indices into the split, as `transitions.chains` finds them. metrics, each a
  list by turn: exact (with exact_low and exact_high) and cells, the share of right words; beside
  them kept_cells, what repeating x_0 for ever would reach. A prediction longer than a state is cut
  to go on from. Also C as `chains` and K as `turns`. by_chain: the episodes [C], and what the
  shares are made of, lists [K][C]: exact, right and kept_right of `words` words.
  """
  lengths = {len(chain) for chain in chains}
  if len(lengths) > 1:
    raise ValueError(f"multi_turn: chains of lengths {sorted(lengths)}, must all be equal")
  if not chains:
    return {"metrics": {"chains": 0, "turns": 0}, "chains": [], "by_chain": {"episodes": []}}
  index = np.asarray(chains)  # [C, K]
  episodes = [split.records[i].episode for i in index[:, 0]]
  first = pipeline.take(split.data, index[:, 0]).x
  state, predicted = first, []
  metrics = {"chains": len(index), "turns": index.shape[1]}
  by_turn = {"exact": [], "exact_low": [], "exact_high": [], "cells": [], "kept_cells": []}
  by_chain = {"exact": [], "right": [], "kept_right": [], "words": []}
  for rows in index.T:
    truth = pipeline.take(split.data, rows)
    given = truth._replace(x=state)
    drawn = one_step.decode(role, params, given, group=1, greedy=True, batch=batch)
    answer = Segment(drawn.tokens[:, 0], drawn.mask[:, 0])
    found = text.compare(first, truth.y, answer)
    kept = text.compare(first, truth.y, first)
    exact = found.exact & drawn.complete[:, 0]
    for name, value in text.with_interval("exact", exact, episodes).items():
      by_turn[name].append(value)
    by_turn["cells"].append(text.share(_right(found), _words(found)))
    by_turn["kept_cells"].append(text.share(_right(kept), _words(kept)))
    counts = (exact, _right(found), _right(kept), _words(found))
    for values, more in zip(by_chain.values(), counts, strict=True):
      values.append(more.tolist())
    predicted.append(one_step.texts(world.tokenizer, drawn))
    state = fit(answer, first.tokens.shape[1])
  return {
    "metrics": metrics | by_turn,
    "chains": _shown(split, index[:shown], predicted),
    "by_chain": {"episodes": episodes, **by_chain},
  }


def _right(found: text.Comparison) -> np.ndarray:
  return found.changed_right + found.unchanged_right


def _words(found: text.Comparison) -> np.ndarray:
  """Those of x_0 and y together."""
  return found.changed + found.unchanged


def fit(segment: Segment, width: int) -> Segment:
  """Cut or padded to `width` places, left-aligned. [C, T] → [C, width]"""
  pad = [(0, 0), (0, max(0, width - segment.tokens.shape[1]))]
  tokens, mask = (np.pad(a, pad)[:, :width] for a in segment)
  return Segment(np.where(mask, tokens, 0).astype(np.int32), mask)


def _shown(split: Examples, index: np.ndarray, predicted: list[list[str]]) -> list[list[dict]]:
  """The first chains turn by turn, x being the true state before."""
  records = split.records
  return [
    [
      {"x": records[i].x, "z": records[i].z, "prediction": predicted[t][c], "truth": records[i].y}
      for t, i in enumerate(chain)
    ]
    for c, chain in enumerate(index)
  ]
