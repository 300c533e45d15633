"""The arithmetic of a policy update: advantages, ratios, surrogates, KL estimators, reductions.

Pure functions of arrays, jax only. Axes: B prompts, G samples per prompt, T tokens; "..." stands
for any leading axes. Per-token terms come first, the reduction over tokens is a separate, named
function.

Three rules hold throughout:
- what enters is promoted to float32 (float64 passes where x64 is enabled);
- the mask is applied before the non-linearity, so that inf or NaN in padding reaches neither a
  value nor a gradient: a masked token has log-ratio 0, ratio 1, KL 0, weight 0;
- shapes are never promoted in rank: what broadcasts does so along axes of size 1 that are there.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

ADVANTAGE_KINDS = ("grpo", "no_std", "leave_one_out", "best")
KL_KINDS = ("k1", "k2", "k3")
REDUCE_KINDS = ("mean", "sum")
MOST_LOG_RATIO = 80.0  # float32's exp overflows from 88.7 on


# ---------------------------------------------------------------------------------------- checks


def _floating(x) -> Array:
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _one_of(name: str, found, allowed: tuple[str, ...]) -> None:
  if found not in allowed:
    raise ValueError(f"{name}: unknown kind {found!r}; allowed: {', '.join(allowed)}")


def _same_shape(**arrays) -> None:
  shapes = {name: jnp.shape(a) for name, a in arrays.items()}
  if len(set(shapes.values())) > 1:
    raise ValueError(
      "arrays must share one shape; found " + ", ".join(f"{n} {s}" for n, s in shapes.items())
    )
  for name, shape in shapes.items():
    if not shape:
      raise ValueError(f"{name} must be [..., T]; found a scalar")


def _same_rank(**arrays) -> None:
  shapes = {name: jnp.shape(a) for name, a in arrays.items()}
  found = ", ".join(f"{n} {s}" for n, s in shapes.items())
  if len({len(s) for s in shapes.values()}) > 1:
    raise ValueError(
      f"arrays must have one rank (give a value per sequence as [..., 1]); found {found}"
    )
  try:
    jnp.broadcast_shapes(*shapes.values())
  except ValueError as e:
    raise ValueError(f"shapes do not broadcast; found {found}") from e


def _groups(rewards) -> Array:
  rewards = _floating(rewards)
  if rewards.ndim < 1 or rewards.shape[-1] < 2:
    raise ValueError(
      f"rewards must be [..., G] with at least 2 samples per prompt; found shape {rewards.shape}"
    )
  return rewards


# ------------------------------------------------------------------------------------ advantages


def _centred(rewards: Array) -> Array:
  """c_g = r_g − mean_g r, exactly 0 where all r_g are equal. [..., G] → [..., G].

  The mean of G equal float32 numbers is often not that number (for G = 3, 5, 6, 7 in a third to a
  half of all cases), so the group's first reward is taken off before the mean. A reward that is
  not finite makes its whole group NaN.
  """
  shifted = rewards - rewards[..., :1]
  return shifted - shifted.mean(-1, keepdims=True)


def group_spread(rewards) -> Array:
  """std_g r, with G − 1 in the denominator; exactly 0 for equal rewards. [..., G] → [...]."""
  centred = _centred(_groups(rewards))
  return jnp.sqrt(jnp.square(centred).sum(-1) / (centred.shape[-1] - 1))


def dead_groups(rewards, *, tolerance: float = 1e-5) -> Array:
  """1 where a group's rewards have no spread (std ≤ tolerance), else 0. [..., G] → [...], float.

  Its mean is the share of groups that teach nothing. The tolerance, a tenth of `std_floor`, is
  for equal samples whose rewards differ by rounding because they sat in other rows of a batch.
  """
  spread = group_spread(rewards)
  return (spread <= tolerance).astype(spread.dtype)


def group_advantages(rewards, *, kind: str, std_floor: float = 1e-4) -> Array:
  """Advantages of a prompt's G samples relative to each other. [B, G] → [B, G], no gradient.

  grpo:           A_bg = (r_bg − mean_g r) / (std_g r + std_floor), std with G − 1, as in the
                  SWIRL authors' code. GRPO, arXiv:2402.03300, section 4.1.
  no_std:         A_bg = r_bg − mean_g r. Dr. GRPO, arXiv:2503.20783.
  leave_one_out:  A_bg = r_bg − mean_{h≠g} r_bh = G/(G−1) (r_bg − mean_g r).
                  RLOO, arXiv:2402.14740.
  best:           A_bg = 1 for the group's largest reward (the first of equals), else 0: the
                  likelihood of the best of G, rejection sampling; all 0 in a group that
                  `dead_groups` counts. RAFT, arXiv:2304.06767.

  A group of equal rewards gives exactly zero. `std_floor` is read by grpo only.
  """
  _one_of("advantages", kind, ADVANTAGE_KINDS)
  rewards = _groups(rewards)
  size = rewards.shape[-1]
  centred = _centred(rewards)
  if kind == "grpo":
    centred = centred / (group_spread(rewards)[..., None] + std_floor)
  elif kind == "leave_one_out":
    centred = centred * (size / (size - 1))
  elif kind == "best":
    place = lax.broadcasted_iota(jnp.int32, centred.shape, centred.ndim - 1)
    first = place == centred.argmax(-1, keepdims=True)
    alive = dead_groups(rewards)[..., None] == 0.0
    centred = (first & alive) + 0.0 * centred  # not a number stays it
  return lax.stop_gradient(centred)


# ---------------------------------------------------------------------------------------- ratios


def _log_ratio(logp, logp_old, mask) -> Array:
  _same_shape(logp=logp, logp_old=logp_old, mask=mask)
  logp_old = lax.stop_gradient(_floating(logp_old))
  return jnp.where(jnp.asarray(mask, bool), _floating(logp) - logp_old, 0.0)


@jax.custom_jvp
def _ratio(log_ratio: Array) -> Array:
  """ρ = exp(min(log ρ, 80)), ∂ρ = ρ: finite where log ρ is, so that 0 times either is 0. [...]."""
  return jnp.exp(jnp.where(log_ratio < jnp.inf, jnp.minimum(log_ratio, MOST_LOG_RATIO), log_ratio))


_ratio.defjvps(lambda tangent, ratio, log_ratio: tangent * ratio)


def token_ratio(logp, logp_old, mask) -> Array:
  """ρ_t = exp(logp_t − logp_old_t); 1 at masked tokens. [..., T] each → [..., T].

  At most e^80. No gradient to `logp_old`, so `token_ratio(logp, logp, mask)` is the on-policy
  ratio: 1, with the gradient of log π. PPO, arXiv:1707.06347; GRPO, arXiv:2402.03300.
  """
  return _ratio(_log_ratio(logp, logp_old, mask))


def sequence_ratio(logp, logp_old, mask) -> Array:
  """s = exp(mean_t(logp_t − logp_old_t)), one per sequence. [..., T] each → [..., 1].

  The last axis of size 1 broadcasts against tokens; with `sequence_mean` this is GSPO's
  objective, whose clip bounds are of their own size (around 3e-4). No gradient to `logp_old`.
  An empty sequence has ratio 1; the most is e^80. GSPO, arXiv:2507.18071, section 4.
  """
  log_ratio = _log_ratio(logp, logp_old, mask)
  length = jnp.asarray(mask, bool).sum(-1, keepdims=True)
  return _ratio(log_ratio.sum(-1, keepdims=True) / jnp.maximum(length, 1))


def truncated_importance_weights(logp_old, logp_sampler, mask, *, cap) -> Array:
  """w_t = min(exp(logp_old_t − logp_sampler_t), cap), no gradient. [..., T] each → [..., T].

  Corrects the surrogate for a sampler that is not quite the trainer's policy (temperature,
  truncation, other kernels): multiply the per-token surrogate by it. A masked token has
  min(1, cap). `logp_sampler` is after temperature and truncation, `logp_old` before.
  Truncated importance sampling: Ionides, J. Comput. Graph. Stat. 17(2), 2008.
  """
  return lax.stop_gradient(jnp.minimum(jnp.exp(_log_ratio(logp_old, logp_sampler, mask)), cap))


# ------------------------------------------------------------------------------------- surrogates


def clipped(ratio, advantages, *, clip_low, clip_high) -> Array:
  """1 where the bound is active, so that no gradient flows; else 0. Shapes broadcast, float.

  Active where ρ > 1 + clip_high and A > 0, or ρ < 1 − clip_low and A < 0. Its mean over the mask
  is the clip fraction.
  """
  ratio, advantages = _floating(ratio), _floating(advantages)
  _same_rank(ratio=ratio, advantages=advantages)
  above = (ratio > 1.0 + clip_high) & (advantages > 0.0)
  below = (ratio < 1.0 - clip_low) & (advantages < 0.0)
  return (above | below).astype(ratio.dtype)


def clipped_surrogate(ratio, advantages, *, clip_low, clip_high) -> Array:
  """min(ρA, clip(ρ, 1 − clip_low, 1 + clip_high) A), to be maximised. Shapes broadcast.

  ratio [..., T] or [..., 1] (`token_ratio`, `sequence_ratio`); advantages of the same rank,
  [..., 1] for one per sequence. At ρ = 1 the gradient is A ∇log π, REINFORCE's, even with bounds
  of 0. PPO, arXiv:1707.06347, eq. 7; separate bounds: DAPO, arXiv:2503.14476.
  """
  ratio, advantages = _floating(ratio), _floating(advantages)
  active = clipped(ratio, advantages, clip_low=clip_low, clip_high=clip_high)
  bounded = jnp.where(advantages > 0.0, 1.0 + clip_high, 1.0 - clip_low)
  return jnp.where(active > 0.0, bounded, ratio) * advantages


# -------------------------------------------------------------------------------------------- KL


def kl_k1(logp, logp_ref) -> Array:
  """k1 = logp − logp_ref. E_π[k1] = KL(π ‖ ref); as a loss its on-policy gradient is 0.

  Equal shapes → the same. Schulman, "Approximating KL divergence", 2020.
  """
  return _floating(logp) - _floating(logp_ref)


def kl_k2(logp, logp_ref) -> Array:
  """k2 = (logp − logp_ref)² / 2, biased; as a loss its on-policy gradient is ∇KL(π ‖ ref).

  Equal shapes → the same. Schulman, "Approximating KL divergence", 2020.
  """
  return 0.5 * jnp.square(kl_k1(logp, logp_ref))


def kl_k3(logp, logp_ref) -> Array:
  """k3 = exp(d) − d − 1 ≥ 0, d = logp_ref − logp. E_π[k3] = KL(π ‖ ref).

  As a loss its on-policy gradient is ∇KL(ref ‖ π), not ∇KL(π ‖ ref). Equal shapes → the same.
  Schulman, "Approximating KL divergence", 2020; GRPO, arXiv:2402.03300, eq. 4.
  """
  d = -kl_k1(logp, logp_ref)
  return jnp.expm1(d) - d


def kl_estimate(logp, logp_ref, mask, *, kind: str) -> Array:
  """The estimator `kind` per token, 0 at masked tokens. [..., T] each → [..., T]."""
  _one_of("kl", kind, KL_KINDS)
  _same_shape(logp=logp, logp_ref=logp_ref, mask=mask)
  mask = jnp.asarray(mask, bool)
  logp = jnp.where(mask, _floating(logp), 0.0)
  logp_ref = jnp.where(mask, _floating(logp_ref), 0.0)
  return {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}[kind](logp, logp_ref)


def k1_reward_penalty(rewards, logp, logp_ref, mask, *, beta, reduce: str) -> Array:
  """r_bg − β reduce_t(logp − logp_ref), no gradient. [B, G], [B, G, T] × 3 → [B, G].

  Before the advantages are taken; with reduce "sum" and β = 1 the policy gradient of this reward
  is that of E[r] − KL(π ‖ ref). Where k1 is to carry the whole KL, the loss carries none.
  """
  penalty = sequence_logp(kl_estimate(logp, logp_ref, mask, kind="k1"), mask, reduce=reduce)
  _same_shape(rewards=rewards, penalty=penalty)
  return lax.stop_gradient(_floating(rewards) - beta * penalty)


# ------------------------------------------------------------------------------------- reductions


def token_weights(mask) -> Array:
  """w_t = m_t / Σ m, so that Σ w ℓ is the mean over all tokens. [..., T] → [..., T].

  An empty mask has weights 0. A loss is then a plain weighted sum and adds up exactly over
  micro-batches: take the weights of the whole batch, then slice. Token mean: DAPO,
  arXiv:2503.14476, section 3.3.
  """
  m = _floating(jnp.asarray(mask, bool))
  return m / jnp.maximum(m.sum(), 1.0)


def sequence_weights(mask) -> Array:
  """w_it = m_it / (len_i N), N the number of non-empty sequences. [..., T] → [..., T].

  Σ w ℓ is the mean over sequences of the mean over tokens, as in GRPO, arXiv:2402.03300, eq. 3.
  An empty sequence has weights 0 and is not counted; an empty mask has weights 0.
  """
  m = _floating(jnp.asarray(mask, bool))
  length = m.sum(-1, keepdims=True)
  count = (length > 0.0).sum().astype(m.dtype)
  return m / (jnp.maximum(length, 1.0) * jnp.maximum(count, 1.0))


def _weighted(values, mask, weights: Array) -> Array:
  _same_rank(values=values, mask=mask)
  return (jnp.where(jnp.asarray(mask, bool), _floating(values), 0.0) * weights).sum()


def token_mean(values, mask) -> Array:
  """Σ_t m_t v_t / Σ_t m_t, 0 for an empty mask. [..., T] or [..., 1], [..., T] → []."""
  return _weighted(values, mask, token_weights(mask))


def sequence_mean(values, mask) -> Array:
  """mean_i (Σ_t m_it v_it / len_i) over non-empty sequences, 0 if there is none. → []."""
  return _weighted(values, mask, sequence_weights(mask))


def sequence_logp(logp, mask, *, reduce: str, floor: float | None = None) -> Array:
  """max(reduce_t logp_t, floor), one number per sequence. [..., T] × 2 → [...].

  reduce "mean" (with floor −10: the authors' reward) or "sum" (the whole sequence's
  log-probability, which the theorems need); floor None for none. An empty sequence gives 0.
  """
  _one_of("reduce", reduce, REDUCE_KINDS)
  _same_shape(logp=logp, mask=mask)
  mask = jnp.asarray(mask, bool)
  value = jnp.where(mask, _floating(logp), 0.0).sum(-1)
  if reduce == "mean":
    value = value / jnp.maximum(mask.sum(-1), 1)
  return value if floor is None else jnp.maximum(value, floor)
