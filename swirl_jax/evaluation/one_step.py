"""One step of both models on a split: predictions, likelihoods, latent actions, best of n.

A whole split goes through in batches of one static shape. Three programs per role do everything:
a greedy rollout, a sampled one, and a teacher-forced score; outputs are replicated, so that every
process of a multi-host run computes the same numbers. A mesh must be set (`jax.set_mesh`).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax import rewards, rng, sharding
from swirl_jax.data import pipeline
from swirl_jax.data.transitions import Record
from swirl_jax.evaluation import detectors, text
from swirl_jax.roles import TransformerRole
from swirl_jax.types import Segment, Transition

_CROSSED = 16  # pairs, under each of which the sampled actions of all are scored
# What ranks the samples of `best_of`: the IDM's mean log-probability per token, nothing cut off.
_RANK = rewards.RewardSpec(reduce="mean", floor=None)


class Examples(NamedTuple):
  """A split for evaluation: its records, and the same tokenised (NumPy, [N, ·])."""

  records: Sequence[Record]
  data: Transition


class Decoded(NamedTuple):
  """G completions of N prompts, without their end markers. NumPy.

  tokens int32, mask bool [N, G, T]; logp float32 [N, G]: the mean log-probability per token under
  the policy itself, end marker included; complete bool [N, G].
  """

  tokens: np.ndarray
  mask: np.ndarray
  logp: np.ndarray
  complete: np.ndarray


class Scores(NamedTuple):
  """Of the true field, end marker included: Σ log-probability and number of tokens, [N]."""

  logp: np.ndarray
  count: np.ndarray


def examples(records: Sequence[Record], tokenizer, lengths, *, actions: bool = True) -> Examples:
  """Reads and tokenises the records of a split, once."""
  records = list(records)
  return Examples(records, pipeline.tokenize(records, tokenizer, lengths, actions=actions))


def head(split: Examples, count: int) -> Examples:
  """The first `count` examples, or all where there are fewer."""
  rows = np.arange(min(count, len(split.records)))
  return Examples(list(split.records[: len(rows)]), pipeline.take(split.data, rows))


# -- the compiled programs -----------------------------------------------------------------------


def _rollout(role, params, transition, key, temperature):
  drawn = role.rollout(params, transition, key, temperature)
  content = role.content(drawn)
  logp = (drawn.logp * drawn.mask).sum(-1) / drawn.mask.sum(-1)
  return Decoded(content.tokens, content.mask, logp, drawn.complete)


def _score(role, params, transition):
  truth = Segment(*(a[:, None] for a in getattr(transition, role.field)))
  target = role.target(truth)
  logp, _ = role.logprobs(params, transition, target)
  return Scores((logp * target.mask).sum((1, 2)), target.mask.sum((1, 2)))


def _best(players, params, transition, key, temperature):
  """n samples of y, and what the IDM thinks of each: (Decoded, log Q(z | x, ŷ) [B, n])."""
  fwm_role, idm_role = players
  drawn = _rollout(fwm_role, params[0], transition, key, temperature)
  sampled = Segment(drawn.tokens, drawn.mask)
  return drawn, rewards.frozen_reward(idm_role, params[1], transition, sampled, "y", spec=_RANK)


@functools.cache
def _compiled(function, role, mesh):
  """One jitted program for each function, role and mesh, for the life of the process."""
  program = functools.partial(function, role)
  return jax.jit(program, out_shardings=sharding.replicated(mesh))


def _over(function, role, params, data: Transition, batch: int, key=None, temperature=None):
  """The function's outputs on all N examples, as NumPy; batch i draws from a key of its own."""
  mesh = sharding.mesh_in_use()
  program, parts = _compiled(function, role, mesh), []
  for i, (part, real) in enumerate(pipeline.ordered(data, batch)):
    drawing = () if key is None else (rng.stream(key, "batch", i), np.float32(temperature))
    out = jax.device_get(program(params, sharding.put_batch(part, mesh), *drawing))
    parts.append(jax.tree.map(lambda a, real=real: a[real], out))
  return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def decode(role: TransformerRole, params, data: Transition, *, group, greedy, batch, key=None,
           temperature=1.0) -> Decoded:  # fmt: skip
  """`group` completions of every example; greedy ones need no key."""
  decoding = dataclasses.replace(role.decoding, group=group, greedy=greedy)
  role = dataclasses.replace(role, decoding=decoding)
  if role.field == "z":  # one program for pairs with and without actions
    data = data._replace(z=None)
  if key is None:
    if not greedy:
      raise ValueError("decode: sampling needs a key")
    key = jax.random.key(0)
  return _over(_rollout, role, params, data, batch, key, temperature)


def score(role: TransformerRole, params, data: Transition, *, batch) -> Scores:
  """Teacher-forced log-probabilities of the role's own field."""
  return _over(_score, role, params, data, batch)


def texts(tokenizer, decoded: Decoded) -> list[str]:
  """The first completion of each prompt as text."""
  pairs = zip(decoded.tokens[:, 0], decoded.mask[:, 0], strict=True)
  return [tokenizer.decode(tokens[mask]) for tokens, mask in pairs]


# -- what is measured ----------------------------------------------------------------------------


def _compare(data: Transition, decoded: Decoded, sample: int = 0) -> text.Comparison:
  """One completion of each prompt against y; a cut one (no end marker in T tokens) isn't exact."""
  prediction = (decoded.tokens[:, sample], decoded.mask[:, sample])
  found = text.compare(data.x, data.y, prediction)
  return found._replace(exact=found.exact & decoded.complete[:, sample])


def _meanings(world, phrases: Sequence[str], decoded: Decoded) -> list[str | None]:
  """What each phrase means in the world; a cut one means nothing."""
  pairs = zip(phrases, decoded.complete[:, 0], strict=True)
  return [world.action_class(phrase) if whole else None for phrase, whole in pairs]


def _same_meaning(world, split: Examples, meanings) -> np.ndarray:
  truth = (world.action_class(record.z) for record in split.records)
  return np.array([m is not None and m == t for m, t in zip(meanings, truth, strict=True)])


def _likelihood(scores: Scores) -> dict[str, float]:
  return {
    "logp_sequence": float(np.mean(scores.logp)),
    "logp_token": text.share(scores.logp, scores.count),
  }


def _lists(by_example: dict[str, np.ndarray]) -> dict[str, list]:
  return {name: values.tolist() for name, values in by_example.items()}


def quick(role: TransformerRole, params, split: Examples, *, batch, world) -> float:
  """The one number of early stopping: greedy exact match (FWM), match by meaning (IDM)."""
  greedy = decode(role, params, split.data, group=1, greedy=True, batch=batch)
  if role.field == "y":
    return float(_compare(split.data, greedy).exact.mean())
  meanings = _meanings(world, texts(world.tokenizer, greedy), greedy)
  return float(_same_meaning(world, split, meanings).mean())


def fwm(role: TransformerRole, params, split: Examples, *, key, temperature, batch, world) -> dict:
  """How well ŷ ~ P(. | x, z) meets y, greedily and in one sample at `temperature`.

  metrics: exact and changed_exact (each with its interval, _low and _high: 95%, bootstrap over
  episodes), changed_accuracy and unchanged_accuracy by token, sampled_exact, sampled_changed_exact,
  complete, logp_sequence, logp_token, count, episodes.
  """
  data, episodes = split.data, [r.episode for r in split.records]
  greedy = decode(role, params, data, group=1, greedy=True, batch=batch)
  sampled = decode(role, params, data, group=1, greedy=False, batch=batch, key=key,
                   temperature=temperature)  # fmt: skip
  found, drawn = _compare(data, greedy), _compare(data, sampled)
  scores = score(role, params, data, batch=batch)
  metrics = {
    **text.with_interval("exact", found.exact, episodes),
    **text.with_interval("changed_exact", found.changed_exact, episodes),
    "changed_accuracy": text.share(found.changed_right, found.changed),
    "unchanged_accuracy": text.share(found.unchanged_right, found.unchanged),
    "sampled_exact": float(drawn.exact.mean()),
    "sampled_changed_exact": float(drawn.changed_exact.mean()),
    "complete": float(greedy.complete.mean()),
    **_likelihood(scores),
    "count": len(episodes),
    "episodes": len(set(episodes)),
  }
  by_example = found._asdict() | {
    "sampled_exact": drawn.exact,
    "sampled_changed_exact": drawn.changed_exact,
    "complete": greedy.complete[:, 0],
  }
  return {
    "metrics": metrics,
    "by_episode": text.by_episode(found.exact, episodes),
    "examples": {
      "prediction": texts(world.tokenizer, greedy),
      "exact": found.exact.tolist(),
    },
    "by_example": _lists(by_example | scores._asdict()),
  }


def idm(role: TransformerRole, params, split: Examples, *, key, temperature, batch, world) -> dict:
  """How well z ~ Q(. | x, y) meets the true action: by what it means, and by its very words.

  metrics: match (with its interval), phrase_match, sampled_match, by_class {class: count, match},
  logp_sequence, logp_token, count, episodes.
  """
  data, episodes = split.data, [r.episode for r in split.records]
  greedy = decode(role, params, data, group=1, greedy=True, batch=batch)
  sampled = decode(role, params, data, group=1, greedy=False, batch=batch, key=key,
                   temperature=temperature)  # fmt: skip
  phrases, drawn = texts(world.tokenizer, greedy), texts(world.tokenizer, sampled)
  match = _same_meaning(world, split, _meanings(world, phrases, greedy))
  same_words = [p.split() == r.z.split() for p, r in zip(phrases, split.records, strict=True)]
  sampled_match = _same_meaning(world, split, _meanings(world, drawn, sampled))
  scores = score(role, params, data, batch=batch)
  metrics = {
    **text.with_interval("match", match, episodes),
    "phrase_match": float(np.mean(same_words)),
    "sampled_match": float(sampled_match.mean()),
    "by_class": text.accuracy_by([r.action for r in split.records], match),
    **_likelihood(scores),
    "count": len(episodes),
    "episodes": len(set(episodes)),
  }
  return {
    "metrics": metrics,
    "by_episode": text.by_episode(match, episodes),
    "examples": {"prediction": phrases, "match": match.tolist()},
    "by_example": _lists(
      {
        "match": match,
        "phrase_match": np.array(same_words),
        "sampled_match": sampled_match,
        **scores._asdict(),
      }
    ),
  }


def best_of(fwm_role: TransformerRole, fwm_params, idm_role: TransformerRole, idm_params,
            split: Examples, *, n, key, temperature, batch, world) -> dict:  # fmt: skip
  """n samples of ŷ for the true z; the IDM picks the one with the largest mean log Q(z | x, ŷ).

  metrics, each for the whole state and (changed_) for what changed alone: pick, what the IDM's
  choice reaches; pass, one of n is right; single, the mean over samples; and picks, {N: pick} of
  the first N samples for N = 2, 4, … up to n, whole states. by_episode: of pick, and as single the
  right ones of n · size samples. by_example: single and pass of whole states; picked: {N: the texts
  that were picked of the first N samples, and their `text.Comparison`}, for N = 1 too, which picks
  nothing. Test-time verification of arXiv:2602.06130, with the true action.
  """
  decoding = dataclasses.replace(fwm_role.decoding, group=n, greedy=False)
  fwm_role = dataclasses.replace(fwm_role, decoding=decoding)
  drawn, rank = _over(
    _best, (fwm_role, idm_role), (fwm_params, idm_params), split.data, batch, key, temperature
  )
  found = text.Comparison(
    *(np.stack(a, 1) for a in zip(*(_compare(split.data, drawn, g) for g in range(n)), strict=True))
  )  # each [N, n]
  rows = np.arange(len(rank))
  counts = sorted({n, *(2**k for k in range(n.bit_length()) if 2**k <= n)})
  chosen = {m: rank[:, :m].argmax(1) for m in counts}  # the first of equals
  metrics = {"n": n, "count": len(rows)}
  for prefix, right in (("", found.exact), ("changed_", found.changed_exact)):
    metrics[f"{prefix}pick"] = float(right[rows, chosen[n]].mean())
    metrics[f"{prefix}pass"] = float(right.any(1).mean())
    metrics[f"{prefix}single"] = float(right.mean())
  metrics["picks"] = {
    str(m): float(found.exact[rows, chosen[m]].mean()) for m in counts if m > 1 or n == 1
  }
  episodes = [record.episode for record in split.records]
  picked = {}
  for m, at in chosen.items():
    answers = jax.tree.map(lambda a, at=at: a[rows, at][:, None], drawn)
    picked[str(m)] = {
      "prediction": texts(world.tokenizer, answers),
      **_lists({name: a[rows, at] for name, a in found._asdict().items()}),
    }
  return {
    "metrics": metrics,
    "by_episode": {
      **text.by_episode(found.exact[rows, chosen[n]], episodes),
      "single": text.by_episode(found.exact.sum(1), episodes)["correct"],
    },
    "by_example": _lists({"single": found.exact.mean(1), "pass": found.exact.any(1)}),
    "picked": picked,
  }


def latents(role: TransformerRole, params, split: Examples, *, key, temperature, batch, world,
            shown, reference: Sequence[str] = ()) -> dict:  # fmt: skip
  """What the IDM calls the actions of unlabelled pairs, one sample each (the paper's Figure 6).

  metrics: unique (distinct phrases / phrases) and phrases (how many distinct), length in words,
  known (share of phrases that mean something in the world), meanings (how many distinct), classes
  {first word of a meaning: share}, logp_token, count; of the first 16 pairs effective_actions and
  action_information (see `detectors`): whether the IDM has one word for everything. With
  `reference`, true phrases: unique_reference, length_reference and classes_reference; both shares
  of unique ones over equal numbers of phrases.
  """
  drawn = decode(role, params, split.data, group=1, greedy=False, batch=batch, key=key,
                 temperature=temperature)  # fmt: skip
  phrases = texts(world.tokenizer, drawn)
  meanings = _meanings(world, phrases, drawn)
  looked_at = min(len(phrases), len(reference)) if reference else len(phrases)
  metrics = {
    "unique": text.unique_share(phrases[:looked_at]),
    "phrases": len(set(phrases)),
    "length": float(np.mean([len(p.split()) for p in phrases])),
    "known": float(np.mean([m is not None for m in meanings])),
    "meanings": len({m for m in meanings if m is not None}),
    "classes": text.shares([m.split()[0] if m else "(unknown)" for m in meanings]),
    "logp_token": float(drawn.logp.mean()),
    "count": len(phrases),
  }
  metrics |= _collapse(role, params, split, drawn)
  if reference:
    classes = [world.action_class(phrase) for phrase in reference]
    metrics |= {
      "unique_reference": text.unique_share(reference[:looked_at]),
      "length_reference": float(np.mean([len(p.split()) for p in reference])),
      "classes_reference": text.shares([c.split()[0] if c else "(unknown)" for c in classes]),
    }
  pairs = list(zip(split.records, phrases, strict=True))[:shown]
  return {
    "metrics": metrics,
    "examples": [{"x": r.x, "y": r.y, "z": z, "true": r.z if r.z else None} for r, z in pairs],
    "by_example": {"phrase": phrases, "meaning": meanings},
  }


def _crossed(role, params, transition):
  """log Q(z_i | x_j, y_j) of the transitions' own actions, end marker included: [N (i), N (j)]."""
  n = transition.z.tokens.shape[0]
  target = role.target(Segment(*(jnp.broadcast_to(a[None], (n, *a.shape)) for a in transition.z)))
  logp, _ = role.logprobs(params, transition._replace(z=None), target)
  return (logp * target.mask).sum(-1).T


def _collapse(role, params, split: Examples, drawn: Decoded) -> dict[str, float]:
  mesh, n = sharding.mesh_in_use(), min(_CROSSED, len(drawn.tokens))
  own = Segment(drawn.tokens[:n, 0], drawn.mask[:n, 0])
  few = pipeline.take(split.data, np.arange(n))._replace(z=own)
  log_q = _compiled(_crossed, role, mesh)(params, sharding.put_batch(few, mesh))
  signs = detectors.effective_actions, detectors.action_information
  return {sign.__name__: float(sign(log_q)) for sign in signs}


def gallery(split: Examples, predictions: Sequence[str], rows: Sequence[int], *, method: str,
            split_name: str) -> list[dict[str, Any]]:  # fmt: skip
  """The given rows with what was predicted for them, as `samples.json` holds them."""
  records = split.records
  return [
    {
      "x": records[i].x,
      "z": records[i].z,
      "prediction": predictions[i],
      "truth": records[i].y,
      "method": method,
      "split": split_name,
    }
    for i in rows
  ]
