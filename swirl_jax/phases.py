"""One phase of SWIRL as one pure function: latent action → rollout → reward → advantage → update.
arXiv:2602.06130.

Phase I: the FWM is the policy, the IDM is frozen. Phase II: the other way round. They are two
`PhaseSpec`s of one function, and "separate" and "shared" weights are two ways to fill its slots.
Only `state` is differentiated and returned.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from swirl_jax import micro_batches, objectives, prompts, rewards, rng, sft
from swirl_jax.models import lora
from swirl_jax.optimizer import AdamW, Schedule
from swirl_jax.rewards import RewardSpec
from swirl_jax.roles import Role
from swirl_jax.types import Mean, PolicyState, Rollout, Segment, Transition

RATIOS = ("token", "sequence")
REDUCTIONS = {"token": objectives.token_weights, "sequence": objectives.sequence_weights}
REFERENCES = ("none", "snapshot", "frozen", "prior")
KL_PLACES = ("loss", "reward")


class Slots(NamedTuple):
  """What a phase reads and never trains.

  frozen: the opposite model (with shared weights, the snapshot). reference: the policy as the phase
  began, None unless `spec.reference` is "snapshot". prior: the z-free model, None unless the reward
  or the reference uses it. base: where models are adapters, the weights that they all share.
  All but base may lie in host memory, and are then copied to the device where they are read.
  """

  frozen: Any
  reference: Any = None
  prior: Any = None
  base: Any = None

  def whole(self, params: Any) -> Any:
    """What a role runs: the parameters, or adapters joined to the base."""
    return params if self.base is None else lora.join(self.base, params)

  def read(self, slot: str) -> Any:
    """A slot's model as a role runs it, on the device."""
    return self.whole(jax.device_put(getattr(self, slot), jax.memory.Space.Device))


class Batch(NamedTuple):
  """Transitions to roll out (z None: latent, drawn afresh), and labelled ones for the anchor, or
  None.
  """

  transition: Transition
  anchor: Transition | None = None


class Hyper(NamedTuple):
  """Traced scalars: changing one compiles nothing."""

  schedule: Schedule
  beta: jax.Array
  temperature: jax.Array
  latent_temperature: jax.Array
  clip_low: jax.Array
  clip_high: jax.Array
  importance_cap: jax.Array
  anchor_weight: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
  """The static choices of a phase's algorithm. Raises ValueError, naming the field, for what it
  does not know.

  reward: how the frozen role's log-probability becomes a number. advantages, ratio, reduction, kl,
  kl_in: see `objectives`.
  reference: "none" (β = 0: no reference pass), "snapshot", "frozen" (the same tree as the frozen
  slot, passed once) or "prior" (P0).
  keep: prompts that are updated on, those with the largest spread of rewards; 0 for all that were
  rolled out (dynamic sampling).
  micro_batch, micro_group: how many prompts, and how many samples of each, have activations at a
  time; 0 for all. A prompt is computed once for those samples of it.
  inner_epochs: μ, updates per rollout.
  correct_sampler: truncated importance weights. mask_truncated: samples without end marker carry no
  loss.
  """

  reward: RewardSpec = RewardSpec()
  advantages: str = "grpo"
  ratio: str = "token"
  reduction: str = "token"
  reference: str = "snapshot"
  kl: str = "k3"
  kl_in: str = "loss"
  keep: int = 0
  micro_batch: int = 0
  micro_group: int = 0
  inner_epochs: int = 1
  correct_sampler: bool = False
  mask_truncated: bool = False

  def __post_init__(self):
    choices = {
      "advantages": objectives.ADVANTAGE_KINDS,
      "ratio": RATIOS,
      "reduction": tuple(REDUCTIONS),
      "reference": REFERENCES,
      "kl": objectives.KL_KINDS,
      "kl_in": KL_PLACES,
    }
    for name, allowed in choices.items():
      if getattr(self, name) not in allowed:
        raise ValueError(f"phase.{name} = {getattr(self, name)!r}: allowed are {list(allowed)}.")
    if self.kl_in == "reward" and self.kl != "k1":
      raise ValueError(f"phase.kl = {self.kl!r}: in the reward only 'k1' is allowed.")
    if self.inner_epochs < 1:
      raise ValueError(
        f"phase.inner_epochs = {self.inner_epochs}: allowed is a whole number from 1."
      )
    for name in ("keep", "micro_batch", "micro_group"):
      if getattr(self, name) < 0:
        raise ValueError(f"phase.{name} = {getattr(self, name)}: allowed is a whole number from 0.")


@dataclasses.dataclass(frozen=True)
class PhaseSpec(Algorithm):
  """A phase: the algorithm and who plays.

  policy, frozen: the two roles. latent: the role that draws z where a batch has none (the IDM with
  a group of 1), Phase I only. anchor: a labelled loss beside the surrogate.
  """

  policy: Role
  frozen: Role
  optimizer: AdamW
  latent: Role | None = None
  anchor: bool = False


class Experience(NamedTuple):
  """What an update reads, leading axis B: all [B, G, T] but `transition` and advantages [B, G, 1].

  `logp_old` is None for one inner epoch.
  """

  transition: Transition
  target: Segment
  mask: jax.Array
  weight: jax.Array
  advantages: jax.Array
  logp_sampler: jax.Array
  logp_old: jax.Array | None
  logp_ref: jax.Array | None


def phase_step(
  state: PolicyState, slots: Slots, batch: Batch, key: jax.Array, hyper: Hyper, *, spec: PhaseSpec
) -> tuple[PolicyState, dict[str, Mean]]:
  """One step of GRPO with another model's log-probability as the reward.

  Pure; jit it with `state` donated.

  Where a loss, a gradient or a reward isn't finite the state comes back as it was and the metric
  `nonfinite` is not 0.
  """
  batch = batch._replace(transition=_with_latent(slots, batch.transition, key, hyper, spec))
  experience, metrics = _collect(state, slots, batch.transition, key, hyper, spec)
  before, finite = state, metrics["nonfinite"].sum == 0
  for _ in range(spec.inner_epochs):
    with jax.named_scope("update"):
      loss, grads, terms = _gradient(state.params, slots, experience, batch.anchor, hyper, spec)
    with jax.named_scope("optimizer"):
      state, applied = sft.apply_update(
        state, grads, loss, hyper.schedule, optimizer=spec.optimizer
      )
    finite = finite & (applied["nonfinite"].sum == 0)
    metrics |= {"loss": Mean.of(loss), **terms, **applied}
  state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), state, before)
  return state, metrics | {"nonfinite": Mean.of(~finite)}


def _with_latent(
  slots: Slots, transition: Transition, key, hyper: Hyper, spec: PhaseSpec
) -> Transition:
  """z ~ Q(. | x, y) of the frozen model, where the policy needs one and the batch carries none."""
  if spec.latent is None or transition.z is not None:
    return transition
  with jax.named_scope("latent"):
    drawn = spec.latent.rollout(
      slots.read("frozen"), transition, rng.stream(key, "latent"), hyper.latent_temperature
    )
  z = spec.latent.content(drawn)
  return transition._replace(z=Segment(z.tokens[:, 0], z.mask[:, 0]))


def _collect(
  state, slots, transition: Transition, key, hyper: Hyper, spec: PhaseSpec
) -> tuple[Experience, dict[str, Mean]]:
  """Rollouts, their rewards, the groups to keep, and the log-probabilities that the update compares
  with.
  """
  policy = slots.whole(state.params)
  with jax.named_scope("rollout"):
    drawn = spec.policy.rollout(policy, transition, rng.stream(key, "rollout"), hyper.temperature)
  with jax.named_scope("reward"):
    if spec.reward.random:
      reward = jax.random.uniform(rng.stream(key, "reward"), drawn.complete.shape)
    else:
      reward = _micro(lambda t, d: _reward(slots, t, d, spec), transition, drawn, spec)
  metrics = _rollout_metrics(drawn, reward)
  if spec.keep:
    best = jax.lax.top_k(objectives.group_spread(reward), spec.keep)[1]
    transition, drawn, reward = jax.tree.map(lambda a: a[best], (transition, drawn, reward))
    metrics["kept_spread"] = Mean.of(objectives.group_spread(reward))

  target = Segment(drawn.tokens, drawn.mask)
  logprobs = lambda p, t, s: spec.policy.logprobs(p, t, s, sampled=True)[0]  # noqa: E731
  logp_old = logp_ref = None
  if spec.inner_epochs > 1:
    logp_old = _micro(lambda t, s: logprobs(policy, t, s), transition, target, spec)
  if spec.reference != "none":
    slot = "reference" if spec.reference == "snapshot" else spec.reference
    hidden = prompts.hide(transition, "z") if spec.reference == "prior" else transition
    with jax.named_scope("reference"):
      logp_ref = _micro(lambda t, s: logprobs(slots.read(slot), t, s), hidden, target, spec)
    if spec.kl_in == "reward":
      reward = objectives.k1_reward_penalty(
        reward, drawn.logp, logp_ref, drawn.mask, beta=hyper.beta, reduce=spec.reward.reduce
      )
      metrics["kl"] = Mean.of(drawn.logp - logp_ref, drawn.mask)
  mask = drawn.mask & drawn.complete[..., None] if spec.mask_truncated else drawn.mask
  advantages = objectives.group_advantages(reward, kind=spec.advantages)[..., None]
  weight = REDUCTIONS[spec.reduction](mask)
  out = Experience(
    transition, target, mask, weight, advantages, drawn.logp_sampler, logp_old, logp_ref
  )
  return jax.lax.stop_gradient(out), metrics


def _reward(slots: Slots, transition: Transition, drawn: Rollout, spec: PhaseSpec) -> jax.Array:
  reward = rewards.frozen_reward(
    spec.frozen,
    slots.read("frozen"),
    transition,
    spec.policy.content(drawn),
    spec.policy.field,
    spec=spec.reward,
  )
  if spec.reward.prior:
    prior = slots.read("prior")
    reward += rewards.prior_reward(spec.policy, prior, transition, drawn, spec=spec.reward)
  return reward


def _rollout_metrics(drawn: Rollout, reward: jax.Array) -> dict[str, Mean]:
  length = drawn.mask.sum(-1)
  return {
    "reward": Mean.of(reward),
    "reward_spread": Mean.of(objectives.group_spread(reward)),
    "dead_groups": Mean.of(objectives.dead_groups(reward)),
    "length": Mean.of(length),
    "truncated": Mean.of(~drawn.complete),
    "sampler_gap": Mean.of(drawn.logp - drawn.logp_sampler, drawn.mask),
    "nonfinite": Mean.of(~jnp.isfinite(reward)),
  }


def _gradient(
  params,
  slots: Slots,
  experience: Experience,
  anchor: Transition | None,
  hyper: Hyper,
  spec: PhaseSpec,
):
  """Loss, gradient and metrics over all micro-batches.

  The weights are those of the whole batch, so the sum over micro-batches is exact.
  """

  def one(params, part):
    (transition, groups), anchor = part
    experience = groups._replace(transition=transition)
    params = slots.whole(params)
    loss, metrics = policy_loss(params, experience, hyper, spec)
    if spec.anchor:
      anchor_loss, terms = sft.supervised_loss(spec.policy, params, anchor)
      loss += hyper.anchor_weight * anchor_loss
      metrics |= {f"anchor_{k}": v for k, v in terms.items()}
    return loss, metrics

  labelled = sft.supervised(spec.policy, anchor) if spec.anchor else None
  rows = _rows(experience.transition, experience._replace(transition=None), spec)
  parts = micro_batches.split((rows, labelled), spec.micro_batch)
  return micro_batches.gradient(one, params, parts)


def policy_loss(
  params, experience: Experience, hyper: Hyper, spec: PhaseSpec
) -> tuple[jax.Array, dict[str, Mean]]:
  """Σ weight · (β KL − surrogate) over the tokens of a (micro-)batch, with metrics.

  Where the loss is a sum over tokens of a function of each one's log-probability it is taken in one
  fused pass; the sequence ratio is not, and takes the form in three passes (`logprob`).
  """
  e = experience
  data = (e.mask, e.weight, e.advantages, e.logp_sampler, e.logp_old, e.logp_ref)

  def terms(logp, entropy, data):
    mask, weight, advantages, logp_sampler, logp_old, logp_ref = data
    logp_old = jax.lax.stop_gradient(logp) if logp_old is None else logp_old
    ratio_of = objectives.token_ratio if spec.ratio == "token" else objectives.sequence_ratio
    ratio = ratio_of(logp, logp_old, mask)
    clip = {"clip_low": hyper.clip_low, "clip_high": hyper.clip_high}
    value = objectives.clipped_surrogate(ratio, advantages, **clip)
    clipped = objectives.clipped(ratio, advantages, **clip)
    if spec.correct_sampler:
      cap = hyper.importance_cap
      value *= objectives.truncated_importance_weights(logp_old, logp_sampler, mask, cap=cap)
    metrics = {
      "entropy": Mean.of(entropy, mask),
      "clip_fraction": Mean.of(jnp.broadcast_to(clipped, mask.shape), mask),
      "ratio": Mean.of(jnp.broadcast_to(ratio, mask.shape), mask),
    }
    loss = -value
    if logp_ref is not None and spec.kl_in == "loss":
      kl = objectives.kl_estimate(logp, logp_ref, mask, kind=spec.kl)
      metrics["kl"] = Mean.of(kl, mask)
      loss += hyper.beta * kl
    return weight * jnp.where(mask, loss, 0.0), metrics

  if spec.ratio == "token":
    return spec.policy.separable_loss(params, e.transition, e.target, data, terms, sampled=True)
  logp, entropy = spec.policy.logprobs(params, e.transition, e.target, sampled=True)
  loss, metrics = terms(logp, entropy, data)
  return loss.sum(), metrics


def _rows(transition: Transition, groups: Any, spec: PhaseSpec) -> tuple[Transition, Any]:
  """[B, ...] and [B, G, ...] as B · G / micro_group prompts with micro_group samples each."""
  prompts_in, size = jax.tree.leaves(groups)[0].shape[:2]
  if spec.micro_group and size % spec.micro_group:
    raise ValueError(
      f"phase.micro_group = {spec.micro_group}: {size} samples are not a multiple of it."
    )
  parts = size // (spec.micro_group or size)
  repeat = lambda a: jnp.repeat(a, parts, axis=0)  # noqa: E731
  cut = lambda a: a.reshape(prompts_in * parts, size // parts, *a.shape[2:])  # noqa: E731
  return jax.tree.map(repeat, transition), jax.tree.map(cut, groups)


def _micro(fn, transition: Transition, groups: Any, spec: PhaseSpec):
  """`fn` over micro-batches of prompts and of their samples, put together again."""
  count = jax.tree.leaves(groups)[0].shape[0]
  parts = micro_batches.split(_rows(transition, groups, spec), spec.micro_batch)
  out = jax.lax.map(lambda part: fn(*part), parts)
  out = jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:]), out)
  return jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[2:]), out)
