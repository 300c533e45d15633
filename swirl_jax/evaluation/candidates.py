"""Which of several candidates is the true one? The next state, or the actions that lead there.

After WorldPrediction (arXiv:2506.04363), whose questions these are. A question is a line of JSON:

    {"x", "z", "candidates": [state, …], "truth": 2}           which state follows z?
    {"x", "y", "candidates": [[action, …], …], "truth": 0}     which actions lead from x to y?

States are texts, as in the world's records; in a world of images of codes, or picture files, named
from the questions' folder (`in_words`). A candidate of actions
is a text or a list of them, one a turn. truth counts from 0. `task` names the kind that is scored
by itself, `episode` what is resampled together ("where" stands in for it, and else each question
stands alone); what else a line holds isn't looked at. As in `one_step`, a mesh must be set.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from swirl_jax.data import pipeline
from swirl_jax.data.transition_lines import composed
from swirl_jax.data.transitions import Record
from swirl_jax.evaluation import multi_turn, one_step, text
from swirl_jax.roles import TransformerRole
from swirl_jax.types import Segment, Transition

KINDS = ("states", "actions")


class Question(NamedTuple):
  """z is "" where the candidates are actions, y where they are states; a candidate is a state's
  text or a tuple of actions.
  """

  x: str
  z: str
  y: str
  candidates: tuple
  truth: int
  task: str
  episode: str

  @property
  def kind(self) -> str:
    return "actions" if self.y else "states"


class Asked(NamedTuple):
  """Questions and, tokenised, their candidates one behind the other: `steps[t]` are the transitions
  of turn t of those that have it, rows `rows[t]` of R; x is the question's and y its last state.
  """

  questions: Sequence[Question]
  rows: Sequence[np.ndarray]
  steps: Sequence[Transition]


def read(path: str) -> list[Question]:
  """The questions of a file. ValueError names the first line that is none."""
  try:
    with open(path, encoding="utf-8") as file:
      lines = file.readlines()
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"candidates = {path!r}: {error}.") from None
  found = []
  for number, line in enumerate(lines, 1):
    try:
      found.append(_question(json.loads(line), f"line {number}"))
    except ValueError as error:  # JSON's own is one
      raise ValueError(f"candidates = {path!r}, line {number}: {error}.") from None
  if not found:
    raise ValueError(f"candidates = {path!r}: no question in it.")
  return found


def in_words(questions: Sequence[Question], state: Callable[[str], str]) -> list[Question]:
  """The questions with every state as `state` has it: of a picture's file codes (`World.state`)."""
  known = functools.cache(state)

  def one(q: Question) -> Question:
    candidates = q.candidates if q.kind == "actions" else tuple(map(known, q.candidates))
    return q._replace(x=known(q.x), y=known(q.y) if q.y else "", candidates=candidates)

  return [one(q) for q in questions]


def _question(line: Any, where: str) -> Question:
  if not isinstance(line, dict):
    raise ValueError(f"{line!r}; allowed is an object")
  for name in ("x", "z", "y", "task", "episode", "where"):
    if not isinstance(line.get(name, ""), str):
      raise ValueError(f"{name} is {line[name]!r}, must be text")
  x, z, y = (line.get(name, "") for name in "xzy")
  if not x.strip() or bool(z.strip()) == bool(y.strip()):
    raise ValueError("x must be there, and z (candidates are states) or y (they are actions)")
  found = line.get("candidates")
  if not isinstance(found, list) or len(found) < 2:
    raise ValueError(f"candidates is {found!r}, must be a list of two and more")
  if y:
    found = [[c] if isinstance(c, str) else c for c in found]
  for one in found:
    words = one if y else [one]
    if not isinstance(words, list) or not words or not all(
      isinstance(w, str) and w.strip() for w in words
    ):  # fmt: skip
      wanted = "a text or a list of texts" if y else "a text"
      raise ValueError(f"the candidate {one!r} must be {wanted}")
  truth = line.get("truth")
  if type(truth) is not int or not 0 <= truth < len(found):
    raise ValueError(f"truth is {truth!r}, must be from 0 to {len(found) - 1}")
  candidates = tuple(tuple(map(composed, c)) for c in found) if y else tuple(found)
  episode = line.get("episode") or line.get("where") or where
  return Question(x, composed(z), y, candidates, truth, line.get("task", ""), episode)


def ask(questions: Sequence[Question], tokenizer, lengths: pipeline.Lengths) -> dict[str, Asked]:
  """The questions of each kind that there is, tokenised. ValueError for words unknown to it."""
  found = {}
  for kind in KINDS:
    mine = [q for q in questions if q.kind == kind]
    if not mine:
      continue
    plans = [(q, c if kind == "actions" else (q.z,), q.y or c) for q in mine for c in q.candidates]
    rows, steps = [], []
    for t in range(max(len(actions) for _, actions, _ in plans)):
      rows.append(np.array([i for i, (_, actions, _) in enumerate(plans) if t < len(actions)]))
      records = [Record(q.x, y, actions[t], q.episode, t, "", q.task)
                 for q, actions, y in (plans[i] for i in rows[-1])]  # fmt: skip
      steps.append(pipeline.tokenize(records, tokenizer, lengths))
    found[kind] = Asked(mine, rows, steps)
  return found


def measure(asked: dict[str, Asked], fwm: tuple[TransformerRole, Any],
            idm: tuple[TransformerRole, Any], *, batch) -> dict[str, Any]:  # fmt: skip
  """{kind: {"all": {"count", "scores": {score: estimate}}, "by_task": {task: the same}}}.

  A score is the share of questions whose true candidate is the likeliest; of k likeliest it counts
  1/k. Beside its estimate stand the count of its questions and chance, their mean of 1/candidates.
  fwm, idm: role and parameters.

    states    fwm_mean, fwm_sum     log P(candidate | x, z), per token and in sum
    actions   fwm                   log P(y | x, actions): through all turns but the last the FWM
                                    goes on from its own greedy predictions
              idm_mean, idm_sum     log Q(action | x, y), of questions whose candidates are all of
                                    one action; none where there is no such
  """
  found = {}
  for kind, one in asked.items():
    scores = _states(one, fwm, batch) if kind == "states" else _actions(one, fwm, idm, batch)
    tasks = np.array([q.task for q in one.questions], object)
    every = np.ones(len(tasks), bool)
    found[kind] = {"all": _part(one.questions, scores, every)}
    named = sorted({*tasks} - {""})
    found[kind]["by_task"] = {t: _part(one.questions, scores, tasks == t) for t in named}
  return found


def _states(asked: Asked, fwm, batch) -> dict[str, np.ndarray]:
  role, params = fwm
  scores = one_step.score(role, params, asked.steps[0], batch=batch)
  return {"fwm_mean": scores.logp / scores.count, "fwm_sum": scores.logp}


def _actions(asked: Asked, fwm, idm, batch) -> dict[str, np.ndarray]:
  """By candidate; NaN of the IDM where there are several turns."""
  role, params = idm
  said = one_step.score(role, params, asked.steps[0], batch=batch)
  several = np.zeros(len(asked.rows[0]), bool)
  if len(asked.rows) > 1:
    several[asked.rows[1]] = True
  return {
    "fwm": _rolled(asked, *fwm, batch),
    "idm_mean": np.where(several, np.nan, said.logp / said.count),
    "idm_sum": np.where(several, np.nan, said.logp),
  }


def _rolled(asked: Asked, role: TransformerRole, params, batch) -> np.ndarray:
  """log P(y | ŷ_{K−1}, z_K) of each candidate z_1 … z_K, ŷ_t = the FWM's greedy answer to
  (ŷ_{t−1}, z_t), ŷ_0 = x. [R]
  """
  first = asked.steps[0]
  state, logp = Segment(*(a.copy() for a in first.x)), np.zeros(len(first.x.tokens))
  for rows, step, later in zip(asked.rows, asked.steps, [*asked.rows[1:], []], strict=True):
    given = step._replace(x=Segment(*(a[rows] for a in state)))
    goes_on = np.isin(rows, later)
    if goes_on.any():
      part = pipeline.take(given, np.flatnonzero(goes_on))
      drawn = one_step.decode(role, params, part, group=1, greedy=True, batch=batch)
      answer = Segment(drawn.tokens[:, 0], drawn.mask[:, 0])
      for old, new in zip(state, multi_turn.fit(answer, state.tokens.shape[1]), strict=True):
        old[rows[goes_on]] = new
    if not goes_on.all():
      part = pipeline.take(given, np.flatnonzero(~goes_on))
      logp[rows[~goes_on]] = one_step.score(role, params, part, batch=batch).logp
  return logp


def _part(questions: Sequence[Question], scores: dict[str, np.ndarray], mine) -> dict[str, Any]:
  """Of the questions where the mask holds."""
  ends = np.cumsum([len(q.candidates) for q in questions])
  episodes = [q.episode for q in questions]
  chance = np.array([1 / len(q.candidates) for q in questions])
  found = {}
  for name, values in scores.items():
    parts = np.split(values, ends[:-1])
    right = [correct(part, q.truth) for part, q in zip(parts, questions, strict=True)]
    there = np.isfinite(right) & mine
    found[name] = text.ratio(np.nan_to_num(right) * there, there, episodes) | {
      "count": int(there.sum()),
      "chance": float(chance[there].mean()) if there.any() else None,
    }
  return {"count": int(mine.sum()), "scores": found}


def correct(scores: np.ndarray, truth: int) -> float:
  """1/k where the true candidate is one of the k with the highest score, else 0; NaN where a score
  is missing. [C] → scalar
  """
  if np.isnan(scores).any():
    return float("nan")
  best = scores == scores.max()
  return float(best[truth] / best.sum())
