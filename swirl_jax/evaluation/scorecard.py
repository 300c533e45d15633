"""Everything that is measured of a pair of models on one split, every score with its interval.

A score is {"value", "low", "high"}: 95%, percentile bootstrap over episodes (`text.estimate`); None
where the split has nothing to measure it on. Shares lie between 0 and 1, overlap between 0 and 100.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from swirl_jax import rng
from swirl_jax.data import transitions
from swirl_jax.data.transitions import Record
from swirl_jax.evaluation import (
  alignment,
  candidates,
  likelihood,
  multi_turn,
  one_step,
  overlap,
  picture_scores,
  text,
)
from swirl_jax.evaluation.one_step import Examples
from swirl_jax.evaluation.pictures import Measure
from swirl_jax.roles import TransformerRole

# As the progress bar counts.
STEPS = ("fwm", "discedit", "verification", "turns", "idm", "latents", "candidates", "states")
# Scores of texts that repeating x has too.
COMPARED = ("new_words", "kept_words", "gone_words", *overlap.NAMES)
_POINTS = ("unique", "unique_reference", "phrases", "meanings", "logp_token", "effective_actions",
           "action_information")  # fmt: skip


class Player(NamedTuple):
  """A role, its parameters, and the temperature of its samples."""

  role: TransformerRole
  params: Any
  temperature: float


def measure(fwm: Player, idm: Player, warm_idm, split: Examples, *, turns, best_of, batch, world,
            key, done, bert_score: str = "",
            measures: Sequence[Measure] = (),
            asked: Mapping[str, candidates.Asked] | None = None) -> dict[str, Any]:  # fmt: skip
  """All scores of an FWM and an IDM on a split whose records have actions.

  warm_idm: the parameters that say how natural an action is. turns: the length of a rollout.
  best_of: the most samples that the IDM picks from. done: called with each of `STEPS` once it is
  over. bert_score: the folder of an encoder, or "". measures: what compares pictures beside their
  pixels, in a world of images. asked: questions of candidates.

    places        what a state consists of: "words", or "patches" where it is an image's codes
    counts        {"transitions", "episodes", "levels", "chains"}
    fwm, idm      {score: estimate}; of words and overlap too where a state is text
    repeating_x   {score: estimate}, were x the prediction: unchanged_accuracy, and where a state is
                  text those of `COMPARED`
    pictures      as `picture_scores.measure` has it; None where the world has no pictures
    discedit      as `likelihood.discedit` has it
    verification  {"picks": {n: {score: estimate}}, "single", "pass": estimate}: what the IDM picks
                  of n samples; single, the mean over samples; pass, one of all is right
    turns         {score: [estimate by turn]}
    candidates    as `candidates.measure` has it; None where nothing was asked
    by_level, by_action   {name: {"count", "episodes", "exact", "match": estimate}}
    latents       {score: estimate}, and the figures of `one_step.latents` that have no interval:
                  None where they aren't finite (an untrained IDM's effective actions)
    predictions   {"fwm": [text], "idm": [text]}, greedy
    rollouts      [{"rows": of a chain, "prediction": [text by turn]}]
  """
  shared = {"batch": batch, "world": world}
  ways = {n: rng.stream(key, "evaluation", n) for n in ("fwm", "idm", "latents", "verification")}
  episodes = [r.episode for r in split.records]

  drawing = {"key": ways["fwm"], "temperature": fwm.temperature, **shared}
  forward = one_step.fwm(fwm.role, fwm.params, split, **drawing)
  done("fwm")
  rows = forward["by_example"]
  truth = one_step.Scores(np.asarray(rows["logp"]), np.asarray(rows["count"]))
  discedit = likelihood.discedit(fwm.role, fwm.params, split, truth, batch=batch)
  done("discedit")
  picked = one_step.best_of(fwm.role, fwm.params, idm.role, idm.params, split, n=best_of,
                            **drawing | {"key": ways["verification"]})  # fmt: skip
  done("verification")
  chains = transitions.chains(split.records, turns)
  rolled = multi_turn.multi_turn(fwm.role, fwm.params, split, chains, shown=len(chains), **shared)
  done("turns")
  inverse = one_step.idm(idm.role, idm.params, split, key=ways["idm"], temperature=idm.temperature,
                         **shared)  # fmt: skip
  done("idm")
  latents = _latents(idm, warm_idm, split, ways["latents"], shared, episodes)
  done("latents")
  chosen = None
  if asked:
    chosen = candidates.measure(asked, fwm[:2], idm[:2], batch=batch)
  done("candidates")
  measured = {
    "places": "patches" if world.codes else "words",
    "counts": _counts(split.records) | {"chains": len(chains)},
    "fwm": _fwm(rows, episodes),
    "repeating_x": _repeating(split, episodes),
    "pictures": None,
    "discedit": discedit,
    "verification": _verification(picked, episodes),
    "turns": _turns(rolled["by_chain"]),
    "candidates": chosen,
    "idm": _idm(inverse, split, episodes),
    "by_level": _by([r.level for r in split.records], forward, inverse, episodes),
    "by_action": _by([r.action for r in split.records], forward, inverse, episodes),
    "latents": latents,
    "predictions": {
      "fwm": forward["examples"]["prediction"],
      "idm": inverse["examples"]["prediction"],
    },
    "rollouts": [
      {"rows": list(rows), "prediction": [turn["prediction"] for turn in shown]}
      for rows, shown in zip(chains, rolled["chains"], strict=True)
    ],
  }
  if world.codes and world.pictures:
    measured["pictures"] = picture_scores.measure(
      world, measures, split.records, forward, picked, chains, rolled["chains"]
    )
  if not world.codes:
    measured["fwm"] |= _texts(split, forward["examples"]["prediction"], bert_score)
    same = _texts(split, [r.x for r in split.records])
    measured["repeating_x"] |= {name: same[name] for name in COMPARED}
  done("states")
  return measured


def _counts(records: Sequence[Record]) -> dict[str, int]:
  return {
    "transitions": len(records),
    "episodes": len({r.episode for r in records}),
    "levels": len({r.level for r in records}),
  }


def _fwm(rows: dict[str, list], episodes) -> dict[str, Any]:
  means = ("exact", "changed_exact", "sampled_exact", "sampled_changed_exact", "complete")
  return {
    **{name: text.ratio(rows[name], 1, episodes) for name in means},
    "changed_accuracy": text.ratio(rows["changed_right"], rows["changed"], episodes),
    "unchanged_accuracy": text.ratio(rows["unchanged_right"], rows["unchanged"], episodes),
    "logp_token": text.ratio(rows["logp"], rows["count"], episodes),
    "logp_sequence": text.ratio(rows["logp"], 1, episodes),
  }


def _texts(split: Examples, predictions: Sequence[str], folder: str = "") -> dict[str, Any]:
  """What aligned words and n-grams say of predictions of y."""
  x, y, episodes = zip(*((r.x, r.y, r.episode) for r in split.records), strict=True)
  e = alignment.edits(x, y, predictions)
  found = {
    "new_words": text.ratio(e.new_right, e.new, episodes),
    "kept_words": text.ratio(e.kept_right, e.kept, episodes),
    "gone_words": text.ratio(e.gone_right, e.gone, episodes),
    "spurious_words": text.ratio(e.predicted - e.new_right - e.kept_right, e.predicted, episodes),
    **overlap.scores(predictions, y, episodes),
  }
  if folder:
    found |= overlap.bert_score(predictions, y, episodes, folder=folder)
  return found


def _repeating(split: Examples, episodes) -> dict[str, Any]:
  kept = text.compare(split.data.x, split.data.y, split.data.x)
  return {"unchanged_accuracy": text.ratio(kept.unchanged_right, kept.unchanged, episodes)}


def _verification(found: dict[str, dict], episodes) -> dict[str, Any]:
  by_example, picks = found["by_example"], {}
  for n, rows in found["picked"].items():
    picks[n] = {
      "exact": text.ratio(rows["exact"], 1, episodes),
      "changed_accuracy": text.ratio(rows["changed_right"], rows["changed"], episodes),
    }
  return {"picks": picks} | {n: text.ratio(by_example[n], 1, episodes) for n in ("single", "pass")}


def _idm(inverse: dict, split: Examples, episodes) -> dict[str, Any]:
  rows = inverse["by_example"]
  said, true = inverse["examples"]["prediction"], [r.z for r in split.records]
  means = ("match", "phrase_match", "sampled_match")
  return {
    **{name: text.ratio(rows[name], 1, episodes) for name in means},
    "logp_token": text.ratio(rows["logp"], rows["count"], episodes),
    "logp_sequence": text.ratio(rows["logp"], 1, episodes),
    **overlap.scores(said, true, episodes, ("sentence_bleu", "chrf", "rouge_l")),
  }


def _by(labels: Sequence[str], forward: dict, inverse: dict, episodes) -> dict[str, Any]:
  """Both models' first scores by label, in alphabetical order."""
  found = {}
  for label in sorted(set(labels)):
    mine = np.array([other == label for other in labels])
    found[label] = {
      "count": int(mine.sum()),
      "episodes": len({e for e, m in zip(episodes, mine, strict=True) if m}),
      "exact": text.ratio(mine * np.array(forward["by_example"]["exact"]), mine, episodes),
      "match": text.ratio(mine * np.array(inverse["by_example"]["match"]), mine, episodes),
    }
  return found


def _turns(by_chain: dict[str, list]) -> dict[str, list]:
  """Fidelity by turn: the whole state, and the share of right words; kept: repeating x_0."""
  episodes, names = by_chain["episodes"], ("exact", "words", "words_kept")
  if not episodes:
    return {name: [] for name in names}
  of = by_chain["words"]
  parts = {
    "exact": zip(by_chain["exact"], [1] * len(of), strict=True),
    "words": zip(by_chain["right"], of, strict=True),
    "words_kept": zip(by_chain["kept_right"], of, strict=True),
  }
  return {n: [text.ratio(part, whole, episodes) for part, whole in parts[n]] for n in names}


def figures(points: Mapping[str, float]) -> dict[str, float | None]:
  """Those of `_POINTS`; JSON has no infinity."""
  return {n: points[n] if math.isfinite(points[n]) else None for n in _POINTS}


def _latents(idm: Player, warm_idm, split: Examples, key: jax.Array, shared, episodes) -> dict:
  drawing = {"key": key, "temperature": idm.temperature}
  true = [r.z for r in split.records]
  found = one_step.latents(idm.role, idm.params, split, shown=0, reference=true, **drawing,
                           **shared)  # fmt: skip
  rows, points = found["by_example"], found["metrics"]
  length = lambda phrases: text.ratio([len(p.split()) for p in phrases], 1, episodes)  # noqa: E731
  return {
    "known": text.ratio([m is not None for m in rows["meaning"]], 1, episodes),
    "length": length(rows["phrase"]),
    "length_reference": length(true),
    **likelihood.naturalness(
      idm.role, idm.params, warm_idm, split, batch=shared["batch"], **drawing
    ),
    **figures(points),
    "classes": points["classes"],
    "classes_reference": points["classes_reference"],
  }
