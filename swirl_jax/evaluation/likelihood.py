"""What a model's likelihoods tell apart: true targets from distractors, sampled actions from true.

As in `one_step`, a mesh must be set; N transitions, scored teacher-forced, end marker included.
"""

from collections.abc import Sequence

import numpy as np

from swirl_jax.data import pipeline
from swirl_jax.data.transitions import Record
from swirl_jax.evaluation import one_step, text
from swirl_jax.evaluation.one_step import Examples, Scores
from swirl_jax.roles import TransformerRole
from swirl_jax.types import Segment

DISTRACTORS = ("unchanged", "level", "episode")


def distractors(records: Sequence[Record]) -> dict[str, np.ndarray]:
  """For every transition another one whose y is a wrong target for it, or −1. {kind: int [N]}

  level: of another episode of the same level, drawn at random (a function of the records alone).
  episode: of the same episode, the nearest by turn (the later of two): a state that is close in
  time, found without any model. Neither is y nor x, in words.
  """
  words = [(r.x.split(), r.y.split()) for r in records]
  fits = lambda i, j: words[j][1] not in words[i]  # noqa: E731
  levels, episodes = _groups(r.level for r in records), _groups(r.episode for r in records)
  rng = np.random.default_rng(text.SEED)
  found = {"level": np.full(len(records), -1), "episode": np.full(len(records), -1)}
  for i, record in enumerate(records):
    drawn = (j for j in rng.permutation(levels[record.level])
             if records[j].episode != record.episode and fits(i, j))  # fmt: skip
    found["level"][i] = next(drawn, -1)
    near = sorted(
      episodes[record.episode], key=lambda j: (abs(records[j].turn - record.turn), -records[j].turn)
    )
    found["episode"][i] = next((j for j in near if j != i and fits(i, j)), -1)
  return found


def _groups(labels) -> dict[str, list[int]]:
  found: dict[str, list[int]] = {}
  for i, label in enumerate(labels):
    found.setdefault(label, []).append(i)
  return found


def discedit(role: TransformerRole, params, split: Examples, truth: Scores, *, batch) -> dict:
  """DiscEdit: the share of transitions in which log P(y | x, z) > log P(d | x, z); 0.5 is chance.

  {kind: {"count", "mean", "sum"}}: transitions that have such a distractor, and the share as an
  `estimate`, by mean log-probability per token and by their sum; equal ones count half. Kinds of d:
  unchanged, x itself; level and episode, the y of another transition, see `distractors`. truth: the
  `Scores` of y. Where d and y differ in length the sum prefers the shorter text, whatever the model
  has learnt. After AURORA-Bench's metric of image editing (arXiv:2407.03471); used by
  arXiv:2602.06130.
  """
  episodes = np.array([r.episode for r in split.records], object)
  rows, found = distractors(split.records), {}
  for kind in DISTRACTORS:
    there = np.ones(len(episodes), bool) if kind == "unchanged" else rows[kind] >= 0
    found[kind] = {"count": int(there.sum())}
    wrong = split.data.x if kind == "unchanged" else pipeline.take(split.data, rows[kind]).y
    other = one_step.score(role, params, split.data._replace(y=wrong), batch=batch)
    for name, (a, b) in {
      "mean": (truth.logp / truth.count, other.logp / other.count),
      "sum": (truth.logp, other.logp),
    }.items():
      better = (np.sign(a - b) + 1) / 2
      found[kind][name] = text.ratio(better * there, there, episodes.tolist())
  return found


def naturalness(role: TransformerRole, params, reference, split: Examples, *, key, temperature,
                batch) -> dict:  # fmt: skip
  """How usual the sampled actions are, to a reference model: a ratio of perplexities.

  {"naturalness", "perplexity", "perplexity_reference"}, estimates. z ~ Q(. | x, y), one a pair, and
  the true z are scored by Q0 (`reference`, the parameters of the warm IDM); perplexity is
  exp(−Σ log Q0(z_n | x_n, y_n) / Σ tokens). naturalness = that of the sampled / that of the true:
  above 1 the words are stranger to Q0 than the data's, below 1 they are its favourites. A sample
  that was cut is scored as if it had ended there. With the key and temperature that
  `one_step.latents` had, the actions are the same.
  """
  drawn = one_step.decode(role, params, split.data, group=1, greedy=False, batch=batch, key=key,
                          temperature=temperature)  # fmt: skip
  width = drawn.tokens.shape[-1]
  pad = [(0, 0), (0, width - split.data.z.tokens.shape[1])]
  true = Segment(*(np.pad(a, pad) for a in split.data.z))  # one program scores both
  columns = []
  for z in (Segment(drawn.tokens[:, 0], drawn.mask[:, 0]), true):
    columns += one_step.score(role, reference, split.data._replace(z=z), batch=batch)
  episodes = [r.episode for r in split.records]
  perplexity = lambda s, i: np.exp(-s[:, i] / s[:, i + 1])  # noqa: E731
  measured = {
    "naturalness": lambda s: perplexity(s, 0) / perplexity(s, 2),
    "perplexity": lambda s: perplexity(s, 0),
    "perplexity_reference": lambda s: perplexity(s, 2),
  }
  stacked = np.stack(columns, 1)
  return {name: text.estimate(function, stacked, episodes) for name, function in measured.items()}
