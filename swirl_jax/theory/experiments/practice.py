"""Experiment 4: what practice changes in Phase II, one departure at a time and all together.

The exact expectation and variance of the sampled step by enumeration of all groups, beside the
gradient of the ELBO; the sampled step itself, held against its own expectation; and where each
expected field comes to rest. Words are of unequal length, so that a mean per token is no sum.
Last, what cached latent actions change in Phase I.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from swirl_jax import objectives, phases
from swirl_jax.rewards import RewardSpec
from swirl_jax.theory import exact, learning, results, worlds
from swirl_jax.theory.results import COLORS, Line, Result, Table
from swirl_jax.theory.tables import Code, Codes

Z_CODE = Code(((0,), (1, 0), (1, 1, 0, 0)))  # phrases of one, two and four tokens
Y_CODE = Code.unary(4)
SHAPE = (2, 4, 3)  # [X, Y, Z]
CHECKED = (0, 2, 4, 10, 12)  # the departures in DEPARTURES whose real steps are drawn
MOVING = 0.01  # the field's largest entry above which no rest was reached


@dataclasses.dataclass(frozen=True)
class Departure:
  """How a step differs from the theorem's: leave-one-out, k1 in the reward, sums, no floor, β = 1,
  a reference that knows x alone.

  reduction: of the update's tokens, "sum" (each sample's sum; the mean over samples), or as in
  `phases.PhaseSpec`. reduce, floor: of the reward.
  """

  name: str
  advantages: str = "leave_one_out"
  kl: str = "k1"
  kl_in: str = "reward"
  beta: float = 1.0
  sees_y: bool = False
  reduction: str = "sum"
  reduce: str = "sum"
  floor: float | None = None


DEPARTURES = (
  Departure("the theorem's step"),
  Departure("group mean instead of leave-one-out", advantages="no_std"),
  Departure("division by the group's std", advantages="grpo"),
  Departure("update: mean per token of the batch", reduction="token"),
  Departure("update: mean per token of a sample", reduction="sequence"),
  Departure("reward: mean per token", reduce="mean"),
  Departure("reward: floor at −1.5", floor=-1.5),
  Departure("β = 0.1", beta=0.1),
  Departure("reference sees y", sees_y=True),
  Departure("k2 per token in the loss", kl="k2", kl_in="loss"),
  Departure("k3 per token in the loss", kl="k3", kl_in="loss"),
  Departure("k1 per token in the loss", kl="k1", kl_in="loss"),
  Departure(
    "the paper's step", advantages="grpo", kl="k3", kl_in="loss", beta=0.1, sees_y=True,
    reduction="sequence", reduce="mean", floor=-10.0,
  ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
  """count: sampled steps to hold against the expectation; ends: worlds in which the expected field
  of `end_group` samples is followed for `steps`.
  """

  seed: int = 0
  groups: tuple[int, ...] = (2, 4, 8, 32)
  count: int = 10_000
  ends: int = 8
  end_group: int = 4
  steps: int = 4000
  rate: float = 0.5
  cached: int = 64

  def __post_init__(self):
    results.check_positive(self)
    if min(*self.groups, self.end_group) < 2:
      raise ValueError(f"groups = {self.groups}: allowed is from 2.")


def group_moments(
  logits, log_ref, reward_tokens, reward_mask, *, step: Departure, group: int, code: Code
) -> tuple[Array, Array]:
  """(E g, E |g|²) of one prompt's on-policy step, over all groups. [N], [N], [N, T], [T] → [N], [].

  reward_tokens: the frozen model's log-probability of its word's tokens for each outcome. All
  C(N + G − 1, G) multisets are enumerated, each as the batch that it would be.
  """
  found, orders, counts = learning.groups(code.size, group)
  mask = jnp.asarray(code.arrays.mask)  # [N, L]
  probs = jnp.exp(orders + counts @ exact.log_table(logits))  # [M]

  def token_logp(t):
    return code.token_logprobs(exact.log_table(t))[0]

  logp, ref = token_logp(logits), token_logp(log_ref)
  scores = jax.jacobian(token_logp)(logits)  # [N, L, N]
  rewards = objectives.sequence_logp(
    reward_tokens,
    jnp.broadcast_to(reward_mask, reward_tokens.shape),
    reduce=step.reduce,
    floor=step.floor,
  )
  slope = jnp.zeros_like(logp)  # of the KL's estimate in the token's log-probability
  if step.kl_in == "reward":
    rewards = objectives.k1_reward_penalty(
      rewards, logp, ref, mask, beta=step.beta, reduce=step.reduce
    )
  else:
    slope = jax.grad(lambda v: objectives.kl_estimate(v, ref, mask, kind=step.kl).sum())(logp)
  advantages = objectives.group_advantages(rewards[found], kind=step.advantages)  # [M, G]
  drawn = mask[found]  # [M, G, L]
  if step.reduction == "sum":
    weights = drawn / group
  else:
    weights = jax.vmap(phases.REDUCTIONS[step.reduction])(drawn)
  pull = weights * (advantages[..., None] - step.beta * slope[found])
  outcome = jax.nn.one_hot(found, code.size, dtype=logp.dtype)  # [M, G, N]
  of_words = jnp.einsum("mgn,mgl->mnl", outcome, pull)
  each = jnp.tensordot(of_words, scores, 2)  # [M, N]
  return probs @ each, probs @ jnp.square(each).sum(-1)


def reference(log_prior, log_snapshot, *, step: Departure) -> Array:
  """[X, Z], [X, Y, Z] → [X, Y, Z]."""
  prior = jnp.broadcast_to(log_prior[:, None, :], log_snapshot.shape)
  return log_snapshot if step.sees_y else prior


def reward_tokens(log_fwm, code: Code) -> tuple[Array, Array]:
  """log P of each token of each y's word, given x and z: [X, Z, Y] → [X, Y, Z, T]; mask [Y, T]."""
  each = code.token_logprobs(log_fwm)[0]  # [X, Z, Y, T]
  return each.swapaxes(1, 2), jnp.asarray(code.arrays.mask)


def field_moments(
  logits, log_fwm, log_ref, *, step: Departure, group: int, codes: Codes
) -> tuple[Array, Array]:
  """`group_moments` for every (x, y). [X, Y, Z] logits → [X, Y, Z], [X, Y]."""
  tokens, mask = reward_tokens(log_fwm, codes.y)
  one = functools.partial(group_moments, step=step, group=group, code=codes.z)
  over_y = jax.vmap(one)
  return jax.vmap(over_y, in_axes=(0, 0, 0, None))(logits, log_ref, tokens, mask)


@dataclasses.dataclass(frozen=True)
class Case:
  """A world, its own FWM and prior, and a snapshot: about half-way from the prior to the
  posterior, with errors.
  """

  world: Any
  fwm: Any
  prior: Any
  snapshot: Any


jax.tree_util.register_dataclass(Case, ["world", "fwm", "prior", "snapshot"], [])


def draw_case(key) -> Case:
  of_world, of_errors = jax.random.split(key)
  x, y, z = SHAPE
  world = worlds.random_world(
    of_world, states=x, outcomes=y, actions=z, outcomes_per_action=2, noise=0.3
  )
  fwm, prior = exact.log_true_fwm(world), exact.log_actions(world)
  half = exact.log_phase2_optimum(prior, fwm, beta=2.0)
  errors = 0.7 * jax.random.normal(of_errors, half.shape)
  return Case(world, fwm, prior, exact.log_normalise(half + errors))


# --------------------------------------------------------------------- bias and noise against G


def compare(case: Case, *, step: Departure, group: int, codes: Codes) -> tuple[Array, Array, Array]:
  """(expected direction [X, Y, Z], its angle's sine against the ELBO's, noise over signal).

  One prompt a step; noise over signal is sqrt(tr Var) / |E|.
  """
  ref = reference(case.prior, case.snapshot, step=step)
  mean, second = field_moments(case.snapshot, case.fwm, ref, step=step, group=group, codes=codes)
  pairs = exact.pair_probs(case.world)
  mean = pairs[..., None] * mean
  truth = exact.phase2_gradient(case.world, case.prior, case.fwm, case.snapshot, beta=1.0)
  length = jnp.sqrt(jnp.square(mean).sum())
  cosine = (mean * truth).sum() / (length * jnp.sqrt(jnp.square(truth).sum()))
  sine = jnp.sqrt(jnp.maximum(0.0, 1.0 - jnp.square(cosine)))
  sine = jnp.where(cosine < 0.0, 2.0 - sine, sine)  # beyond a right angle: from 1 to 2
  noise = jnp.sqrt(jnp.maximum((pairs * second).sum() - jnp.square(length), 0.0)) / length
  return mean, sine, noise


@functools.partial(jax.jit, static_argnames=("group",))
def compare_all(case: Case, *, group: int):
  """`compare` for each of DEPARTURES: sine and noise."""
  codes = Codes(Code.one_token(SHAPE[0]), Y_CODE, Z_CODE)
  return [compare(case, step=d, group=group, codes=codes)[1:] for d in DEPARTURES]


# ------------------------------------------------------------ the sampled step, held against it


def sampled_scores(case: Case, key, *, step: Departure, group: int, count: int) -> float:
  """Root mean square, over the table's entries, of z: the mean of `count` real steps against
  `compare`, in standard errors. 1 where noise is all there is between them.

  `phases` has no plain sum, which one-token phrases make of the token mean.
  """
  z_code = Code.one_token(SHAPE[2]) if step.reduction == "sum" else Z_CODE
  codes = Codes(Code.one_token(SHAPE[0]), Y_CODE, z_code)
  spec = learning.phase2_spec(
    codes,
    group=group,
    reward=RewardSpec(reduce=step.reduce, floor=step.floor),
    advantages=step.advantages,
    kl=step.kl,
    kl_in=step.kl_in,
    reduction="token" if step.reduction == "sum" else step.reduction,
  )
  ref = reference(case.prior, case.snapshot, step=step)
  slots = phases.Slots(learning.table(case.fwm), learning.table(ref))
  draw = learning.from_world(case.world, codes, prompts=1)

  @jax.jit
  def both(key):
    found = learning.sampled_gradients(
      learning.table(case.snapshot), slots, draw, key, learning.hyper(1.0, beta=step.beta),
      spec=spec, count=count,
    )["table"]  # fmt: skip
    return found.mean(0), found.std(0), compare(case, step=step, group=group, codes=codes)[0]

  mean, std, expected = (np.asarray(a, float) for a in both(key))
  z = (mean - expected) / (std / np.sqrt(count) + 1e-7)
  return float(np.sqrt(np.square(z).mean()))


# -------------------------------------------------------------------------------- where it ends


@functools.partial(jax.jit, static_argnames=("step", "settings"))
def end(cases: Case, *, step: Departure, settings: Settings):
  """Following the expected field from the snapshot: (ELBO's gap there, its largest entry)."""
  codes = Codes(Code.one_token(SHAPE[0]), Y_CODE, Z_CODE)

  def one(case):
    ref = reference(case.prior, case.snapshot, step=step)

    def field(t):
      mean = field_moments(
        t, case.fwm, ref, step=step, group=settings.end_group, codes=codes
      )[0]  # fmt: skip
      # Against the policy's own probabilities, as a natural gradient is: the same zeros, sooner.
      return mean / (jax.nn.softmax(t) + 1e-3)

    last, _ = learning.ascend(field, case.snapshot, steps=settings.steps, rate=settings.rate)
    gap = exact.elbo_gap(case.world, case.prior, case.fwm, exact.log_table(last))
    return gap, jnp.abs(field(last)).max()

  return jax.vmap(one)(cases)


# ------------------------------------------------------------- fresh and cached latents, Phase I


@functools.partial(jax.jit, static_argnames=("count",))
def cached_latents(case: Case, keys, *, count: int):
  """Phase I's gradient where z is drawn once for each of `count` pairs, greedily or by Q, against
  fresh z on the same pairs. → {way: relative error, mean over the keys}, {way: what of it is left
  where the gradients are averaged first}.
  """
  idm, free = case.snapshot, exact.log_outcomes(case.world)
  logits = jnp.broadcast_to(free[:, None, :], case.fwm.shape)

  def gradient(weights):  # [X, Z], how often each prompt occurs
    def objective(t):
      fwm = exact.log_table(t)
      score = (jnp.exp(fwm) * idm.swapaxes(1, 2)).sum(-1)  # [X, Z]
      return (
        weights * (score - exact.kl(fwm, jnp.broadcast_to(free[:, None, :], fwm.shape)))
      ).sum()

    return jax.grad(objective)(logits)

  def one(key):
    of_pairs, of_z = jax.random.split(key)
    log_pairs = jnp.log(exact.pair_probs(case.world)).ravel()
    at = jax.random.categorical(of_pairs, log_pairs, shape=(count,))
    x, y = jnp.unravel_index(at, case.world.shape[:2])
    rows = idm[x, y]  # [count, Z]
    named = {
      "fresh": jnp.exp(rows),
      "greedy": jax.nn.one_hot(rows.argmax(-1), rows.shape[-1]),
      "sampled": jax.nn.one_hot(jax.random.categorical(of_z, rows), rows.shape[-1]),
    }
    grads = {
      k: gradient(jnp.zeros(case.prior.shape).at[x].add(v / count)) for k, v in named.items()
    }
    length = jnp.sqrt(jnp.square(grads["fresh"]).sum())
    error = {
      k: jnp.sqrt(jnp.square(grads[k] - grads["fresh"]).sum()) / length
      for k in ("greedy", "sampled")
    }
    return error, grads

  errors, grads = jax.vmap(one)(keys)
  # What is left when the draws are averaged: the bias.
  mean = jax.tree.map(lambda a: a.mean(0), grads)
  length = jnp.sqrt(jnp.square(mean["fresh"]).sum())
  bias = {
    k: jnp.sqrt(jnp.square(mean[k] - mean["fresh"]).sum()) / length for k in ("greedy", "sampled")
  }
  return jax.tree.map(jnp.mean, errors), bias


# ---------------------------------------------------------------------------------- the experiment


def run(settings: Settings) -> Result:
  of_case, of_ends, of_steps, of_cache = jax.random.split(jax.random.key(settings.seed), 4)
  case = draw_case(of_case)
  by_group = {g: jax.device_get(compare_all(case, group=g)) for g in settings.groups}
  cases = jax.vmap(draw_case)(jax.random.split(of_ends, settings.ends))
  rows, found = [], {}
  for i, step in enumerate(DEPARTURES):
    gap, rest = (np.asarray(a) for a in end(cases, step=step, settings=settings))
    key = jax.random.fold_in(of_steps, i)
    score = None
    if i in CHECKED:
      score = sampled_scores(
        case, key, step=step, group=settings.end_group, count=settings.count
      )  # fmt: skip
    sines, noises = zip(*(by_group[g][i] for g in settings.groups), strict=True)
    found[step.name] = {
      "sine": [float(s) for s in sines],
      "noise": [float(n) for n in noises],
      "gap": float(gap.mean()),
      "rest": float(rest.max()),
      "z": score,
    }
    ends = float(gap.mean()), float(gap.max()), float(rest.max())
    of_groups = *found[step.name]["sine"], *found[step.name]["noise"]
    rows.append((step.name, *of_groups, *ends, score))
  columns = (
    "step",
    *(f"sine, G = {g}" for g in settings.groups),
    *(f"noise / signal, G = {g}" for g in settings.groups),
    "ELBO gap at the end, mean", "largest", "field there", "rms z of the sampled step",
  )  # fmt: skip
  errors, bias = jax.device_get(
    cached_latents(case, jax.random.split(of_cache, 400), count=settings.cached)
  )
  cached = Table(
    "cached",
    ("latents", "error of one data set", "bias"),
    tuple((k, float(errors[k]), float(bias[k])) for k in errors),
  )
  return Result(
    "practice",
    "4. What practice changes",
    _paragraph(settings, found, errors, bias),
    (Table("departures", columns, tuple(rows)), cached),
    _pictures(settings, found),
  )


def _paragraph(settings: Settings, found, errors, bias) -> str:
  def told(name):
    f = found[name]
    moving = " (still moving)" if f["rest"] > MOVING else ""
    return f"{f['sine'][0]:.3f} → {f['sine'][-1]:.3f}, gap {abs(f['gap']):.2g}{moving}"

  first, last = settings.groups[0], settings.groups[-1]
  scores = [f["z"] for f in found.values() if f["z"] is not None]
  least, worst = min(scores), max(scores)
  plain = found["the theorem's step"]
  parts = "; ".join(f"{d.name}: {told(d.name)}" for d in DEPARTURES)
  return (
    f"Every departure's expected direction by enumeration of all groups, and for "
    f"{len(CHECKED)} of them {settings.count} real steps of G = {settings.end_group} against it: "
    f"{least:.2f} to {worst:.2f} standard errors between them, rms over the table. "
    f"Sine of the angle to the ELBO's gradient, G = {first} → {last}, and the ELBO's gap (nats, "
    f"mean of {settings.ends} worlds) where the field of G = {settings.end_group} comes to rest: "
    f"{parts}. The theorem's step has noise over signal {plain['noise'][0]:.1f} at G = {first} and "
    f"{plain['noise'][-1]:.1f} at {last}, one prompt a step. Phase I with latent actions drawn "
    f"once for {settings.cached} pairs: relative to fresh ones on the same pairs the gradient errs "
    f"by {100 * errors['sampled']:.0f}% where they were sampled ({100 * bias['sampled']:.1f}% on "
    f"average over data sets, the rest of noise) and by {100 * errors['greedy']:.0f}% where they "
    f"are greedy ({100 * bias['greedy']:.0f}% on average: a bias). On a table each row (x, z) has "
    "its own optimum, so cached actions move weights and not optima, but for rows that are never "
    "named."
  )


def _pictures(settings: Settings, found) -> tuple:
  names = [str(g) for g in settings.groups]
  places = list(range(len(names)))
  shown = (
    "the theorem's step", "division by the group's std", "update: mean per token of a sample",
    "k2 per token in the loss", "k3 per token in the loss", "β = 0.1", "the paper's step",
  )  # fmt: skip

  def lines(what):
    return [
      Line(name, places, found[name][what], COLORS[i % len(COLORS)], points=True)
      for i, name in enumerate(shown)
    ]

  bars = [(str(i + 1), (found[d.name]["gap"],)) for i, d in enumerate(DEPARTURES)]
  title = "ELBO's gap at rest (nats), departures in the text's order"
  return (
    results.curves(
      "Bias: sine of the angle to the ELBO's gradient", lines("sine"), names=names, x_label="G"
    ),
    results.curves(
      "Noise over signal, one prompt a step", lines("noise"), names=names, x_label="G"
    ),
    results.columns(title, bars, ("gap",)),
  )
