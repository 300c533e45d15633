"""The frozen slot's score: how likely the frozen model finds its own field, given what the policy
sampled.

Phase I: r = log Q(z | x, ŷ). Phase II: r = log P(y | x, z). Sum or mean over tokens, with or
without the end marker, floored.
"""

import dataclasses

import jax

from swirl_jax import objectives, prompts
from swirl_jax.roles import Role
from swirl_jax.types import Rollout, Segment, Transition


@dataclasses.dataclass(frozen=True)
class RewardSpec:
  """Static. Mean over tokens and a floor of −10 are the authors' settings (arXiv:2602.06130, code).

  count_end: whether the end marker's log-probability counts; with the authors in Phase II alone.
  prior: add the z-free model's log P0(ŷ|x), reduced alike (Phase I): then reward and samples obey
  Bayes' rule. random: uniform on [0, 1) in place of all that, a control that must not help.
  """

  reduce: str = "mean"
  floor: float | None = -10.0
  count_end: bool = True
  prior: bool = False
  random: bool = False

  def __post_init__(self):
    if self.reduce not in objectives.REDUCE_KINDS:
      raise ValueError(
        f"reward.reduce = {self.reduce!r}: allowed are {list(objectives.REDUCE_KINDS)}."
      )
    if self.floor is not None and not self.floor < 0:
      raise ValueError(f"reward.floor = {self.floor}: allowed is a number below 0, or None.")
    if self.random and self.prior:
      raise ValueError("reward.prior = True: a random reward has no prior; allowed is False.")


def frozen_reward(
  role: Role, params, transition: Transition, sampled: Segment, field: str, *, spec: RewardSpec
) -> jax.Array:
  """log-probability of `role.field` with `field` replaced by what was sampled, [B, G, T] → float32
  [B, G], over the whole vocabulary, no gradient.
  """
  given = transition._replace(**{field: sampled})
  known = prompts.per_sample(getattr(transition, role.field), sampled.tokens.shape[1])
  target = role.target(known)
  logp, _ = role.logprobs(params, given, target)
  mask = target.mask
  if not spec.count_end:
    mask = mask & (mask.cumsum(-1) <= known.mask.sum(-1, keepdims=True))
  return jax.lax.stop_gradient(
    objectives.sequence_logp(logp, mask, reduce=spec.reduce, floor=spec.floor)
  )


def prior_reward(
  role: Role, params, transition: Transition, rollout: Rollout, *, spec: RewardSpec
) -> jax.Array:
  """log P0(ŷ | x), of the policy's own samples under the z-free model in the same role: [B, G]."""
  logp, _ = role.logprobs(
    params, prompts.hide(transition, "z"), Segment(rollout.tokens, rollout.mask)
  )
  return jax.lax.stop_gradient(
    objectives.sequence_logp(logp, rollout.mask, reduce=spec.reduce, floor=spec.floor)
  )
