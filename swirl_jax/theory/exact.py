"""Worlds as tables: both theorems' objectives, bounds, gaps, optima and gradients, exactly.

Axes: X states before, Y states after, Z actions. A world is the joint D(x, y, z), probabilities
[X, Y, Z]. Every other distribution is a table of log-probabilities (−inf for what cannot happen),
normalised over its last axis and named for it:

  log_fwm    log P_θ(y | x, z)            [X, Z, Y]
  log_idm    log Q_φ(z | x, y)            [X, Y, Z]
  log_prior  log π(z | x) or π(z | x, y)  [X, Z] or [X, Y, Z] (the theorems have the first)

All functions but the checks are pure and may be jitted, differentiated and vmapped; the dtype is
the input's, float64 where x64 is enabled. The convention 0 log 0 = 0 holds in values and in
gradients; what conditions on an impossible event is uniform, and weighs nothing.
Theorems 3.1 and 3.2: arXiv:2602.06130.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# ------------------------------------------------------------------------------------- arithmetic


def log_table(logits) -> Array:
  """log softmax over the last axis: a softmax table's log-probabilities. [..., N] → [..., N]."""
  return jax.nn.log_softmax(logits, axis=-1)


def _impossible(log_weights: Array) -> Array:
  """True where every entry of the last axis is −inf. [..., N] → [..., 1]."""
  return jnp.isneginf(log_weights.max(-1, keepdims=True))


def log_normalise(log_weights) -> Array:
  """log(w / Σ w) over the last axis, uniform where all w are 0. [..., N] → [..., N]."""
  return log_table(jnp.where(_impossible(log_weights), 0.0, log_weights))


def _log_sum(log_weights: Array) -> Array:
  """log Σ w over the last axis, −inf with gradient 0 where all w are 0. [..., N] → [...]."""
  none = _impossible(log_weights)
  total = jax.nn.logsumexp(jnp.where(none, 0.0, log_weights), axis=-1)
  return jnp.where(none[..., 0], -jnp.inf, total)


def _mean_log(p: Array, log_q: Array) -> Array:
  """Σ p log q over all axes, with 0 log 0 = 0. Equal shapes → []."""
  chex.assert_equal_shape([p, log_q])
  return (p * jnp.where(p > 0.0, log_q, 0.0)).sum()


def entropy(log_p) -> Array:
  """H(p) = −Σ p log p, in nats. [..., N] → [...]."""
  p = jnp.exp(log_p)
  return -(p * jnp.where(p > 0.0, log_p, 0.0)).sum(-1)


def kl(log_p, log_q) -> Array:
  """KL(p ‖ q) = Σ p (log p − log q), inf where q = 0 < p. [..., N] twice → [...]."""
  p = jnp.exp(log_p)
  return (p * (jnp.where(p > 0.0, log_p, 0.0) - jnp.where(p > 0.0, log_q, 0.0))).sum(-1)


# ------------------------------------------------------------------------ what a world's tables are


def state_probs(world) -> Array:
  """D(x). [X, Y, Z] → [X]."""
  chex.assert_rank(world, 3)
  return world.sum((1, 2))


def pair_probs(world) -> Array:
  """p̃(x, y) = Σ_z D(x, y, z): the state-only data. [X, Y, Z] → [X, Y]."""
  chex.assert_rank(world, 3)
  return world.sum(2)


def log_outcomes(world) -> Array:
  """log D(y | x), the exact z-free model P0. [X, Y, Z] → [X, Y]."""
  return log_normalise(jnp.log(pair_probs(world)))


def log_actions(world) -> Array:
  """log D(z | x). [X, Y, Z] → [X, Z]."""
  return log_normalise(jnp.log(world.sum(1)))


def log_true_fwm(world) -> Array:
  """log D(y | x, z). [X, Y, Z] → [X, Z, Y]."""
  return log_normalise(jnp.log(world).swapaxes(1, 2))


def log_true_idm(world) -> Array:
  """log D(z | x, y). [X, Y, Z] → [X, Y, Z]."""
  return log_normalise(jnp.log(world))


def log_belief(world, log_idm) -> Array:
  """log P̃(z | x), P̃(z|x) = Σ_y D(y|x) Q(z|x,y). [X, Y, Z], [X, Y, Z] → [X, Z]. Theorem 3.1."""
  chex.assert_equal_shape([world, log_idm])
  return _log_sum((log_outcomes(world)[..., None] + log_idm).swapaxes(1, 2))


def _prior_given_pair(log_prior: Array, log_fwm: Array) -> Array:
  """A prior on z given x, or given x and y, as a table that has all axes. → [X, Y, Z]."""
  x, z, y = log_fwm.shape
  if log_prior.ndim == 2:
    chex.assert_shape(log_prior, (x, z))
    return jnp.broadcast_to(log_prior[:, None, :], (x, y, z))
  chex.assert_shape(log_prior, (x, y, z))
  return log_prior


def log_marginal(log_prior, log_fwm) -> Array:
  """log P_θ(y | x) = log Σ_z π(z|x) P_θ(y|x,z). [X, Z] or [X, Y, Z], [X, Z, Y] → [X, Y].

  With P̃ as prior it is the distribution of Phase I's ŷ; with π(z | x, y) it need not sum to one.
  """
  return _log_sum(_prior_given_pair(log_prior, log_fwm) + log_fwm.swapaxes(1, 2))


def log_posterior(log_prior, log_fwm) -> Array:
  """log P_θ(z | x, y) ∝ π(z|x) P_θ(y|x,z). [X, Z] or [X, Y, Z], [X, Z, Y] → [X, Y, Z]."""
  return log_normalise(_prior_given_pair(log_prior, log_fwm) + log_fwm.swapaxes(1, 2))


# --------------------------------------------------------------- Theorem 3.1: information, Phase I


def _imagined(world, log_prior, log_fwm) -> Array:
  """P(x, z, ŷ) = D(x) P̃(z|x) P_θ(ŷ|x,z). → [X, Z, Y]."""
  x, z, y = log_fwm.shape
  chex.assert_shape(world, (x, y, z))
  chex.assert_shape(log_prior, (x, z))
  return state_probs(world)[:, None, None] * jnp.exp(log_prior[..., None] + log_fwm)


def action_entropy(world, log_prior) -> Array:
  """H(Z | X) = E_x H(π(. | x)); free of θ. [X, Y, Z], [X, Z] → []."""
  return state_probs(world) @ entropy(log_prior)


def posterior_entropy(world, log_prior, log_fwm) -> Array:
  """H(Z | Ŷ, X) = −E log p(z | x, ŷ), p(z|x,ŷ) ∝ P̃(z|x) P_θ(ŷ|x,z). → []."""
  posterior = log_posterior(log_prior, log_fwm).swapaxes(1, 2)
  return -_mean_log(_imagined(world, log_prior, log_fwm), posterior)


def mutual_information(world, log_prior, log_fwm) -> Array:
  """I(Z; Ŷ | X) = E log(P_θ(ŷ|x,z) / P_θ(ŷ|x)). [X, Y, Z], [X, Z], [X, Z, Y] → []. Theorem 3.1.

  Of the world it reads D(x) alone; `log_prior` is the frozen IDM's belief P̃.
  """
  joint = _imagined(world, log_prior, log_fwm)
  marginal = jnp.broadcast_to(log_marginal(log_prior, log_fwm)[:, None, :], joint.shape)
  return _mean_log(joint, log_fwm) - _mean_log(joint, marginal)


def expected_reward(world, log_prior, log_fwm, log_idm) -> Array:
  """E_{x, z~P̃, ŷ~P_θ}[log Q(z | x, ŷ)]: what Phase I's samples estimate. → []. Theorem 3.1."""
  return _mean_log(_imagined(world, log_prior, log_fwm), log_idm.swapaxes(1, 2))


def information_bound(world, log_prior, log_fwm, log_idm) -> Array:
  """H_P̃(Z | X) + E[log Q(z | x, ŷ)] ≤ I(Z; Ŷ | X). → []. Theorem 3.1."""
  return action_entropy(world, log_prior) + expected_reward(world, log_prior, log_fwm, log_idm)


def information_gap(world, log_prior, log_fwm, log_idm) -> Array:
  """I − bound = E_{x, ŷ} KL(p(z | x, ŷ) ‖ Q(z | x, ŷ)) ≥ 0. → []. Theorem 3.1."""
  predicted = _imagined(world, log_prior, log_fwm).sum(1)  # [X, Y]
  divergence = kl(log_posterior(log_prior, log_fwm), log_idm)
  return (predicted * jnp.where(predicted > 0.0, divergence, 0.0)).sum()


def phase1_objective(world, log_prior, log_fwm, log_idm, log_ref, *, beta) -> Array:
  """E[log Q(z | x, ŷ)] − β E_{x, z~P̃} KL(P_θ(.|x,z) ‖ ref(.|x,z)). → []. Phase I as practised.

  log_ref [X, Z, Y], or [X, Y] for a z-free one, P0(y | x); at β = 0 it may exclude what it likes.
  """
  ref = jnp.broadcast_to(log_ref[:, None, :] if log_ref.ndim == 2 else log_ref, log_fwm.shape)
  ref = jnp.where(beta == 0.0, 0.0, ref)  # not 0 · inf
  weight = state_probs(world)[:, None] * jnp.exp(log_prior)
  divergence = (weight * jnp.where(weight > 0.0, kl(log_fwm, ref), 0.0)).sum()
  return expected_reward(world, log_prior, log_fwm, log_idm) - beta * divergence


def log_phase1_optimum(log_ref, log_idm, *, beta) -> Array:
  """argmax of `phase1_objective`: log of ref(y|x,z) Q(z|x,y)^{1/β}, normalised. → [X, Z, Y].

  With ref = P0(y | x) and β = 1 it is Bayes' rule: the true P(y|x,z) where P0 and Q are exact.
  log_ref [X, Z, Y] or [X, Y]; log_idm [X, Y, Z]; β > 0.
  """
  ref = log_ref[:, None, :] if log_ref.ndim == 2 else log_ref
  return log_normalise(ref + log_idm.swapaxes(1, 2) / beta)


# ---------------------------------------------------------------------- Theorem 3.2: ELBO, Phase II


def _over_pairs(world, values: Array) -> Array:
  """E_{(x, y) ~ p̃} of values [X, Y], of which those of impossible pairs do not count. → []."""
  pairs = pair_probs(world)
  chex.assert_equal_shape([pairs, values])
  return (pairs * jnp.where(pairs > 0.0, values, 0.0)).sum()


def log_likelihood(world, log_prior, log_fwm) -> Array:
  """E_{p̃(x,y)} log P_θ(y | x), P_θ(y|x) = Σ_z π(z|x) P_θ(y|x,z). → []. Theorem 3.2."""
  return _over_pairs(world, log_marginal(log_prior, log_fwm))


def phase2_objective(world, log_prior, log_fwm, log_idm, *, beta) -> Array:
  """E_{p̃(x,y)} [E_{z~Q} log P_θ(y|x,z) − β KL(Q(.|x,y) ‖ π)]. → []. The ELBO at β = 1.

  A prior [X, Y, Z] is a reference that sees y, as practice has it; at β = 0 it may exclude what it
  likes.
  """
  q = jnp.exp(log_idm)
  prior = jnp.where(beta == 0.0, 0.0, _prior_given_pair(log_prior, log_fwm))  # not 0 · inf
  fit = (q * jnp.where(q > 0.0, log_fwm.swapaxes(1, 2), 0.0)).sum(-1)
  return _over_pairs(world, fit - beta * kl(log_idm, prior))


def elbo(world, log_prior, log_fwm, log_idm) -> Array:
  """E_{p̃(x,y)} [E_{z~Q} log P_θ(y|x,z) − KL(Q(.|x,y) ‖ π)] ≤ log_likelihood. → []. Thm 3.2."""
  return phase2_objective(world, log_prior, log_fwm, log_idm, beta=1.0)


def elbo_gap(world, log_prior, log_fwm, log_idm) -> Array:
  """log_likelihood − elbo = E_{p̃(x,y)} KL(Q(.|x,y) ‖ P_θ(z|x,y)) ≥ 0. → []. Theorem 3.2."""
  return _over_pairs(world, kl(log_idm, log_posterior(log_prior, log_fwm)))


def log_phase2_optimum(log_prior, log_fwm, *, beta) -> Array:
  """argmax of `phase2_objective`: log of π(z|x) P_θ(y|x,z)^{1/β}, normalised. → [X, Y, Z].

  The posterior at β = 1; the prior as β → ∞; the likeliest action as β → 0. β > 0.
  """
  scores = log_fwm.swapaxes(1, 2) / beta
  return log_normalise(_prior_given_pair(log_prior, log_fwm) + scores)


# ---------------------------------------------------------------------------------- exact gradients
# Ascent directions in the logits of softmax tables; whatever is not named *_logits is frozen.


def information_gradient(world, log_prior, fwm_logits) -> Array:
  """∇_θ I(Z; Ŷ | X). → [X, Z, Y]."""
  return jax.grad(lambda t: mutual_information(world, log_prior, log_table(t)))(fwm_logits)


def phase1_gradient(world, log_prior, fwm_logits, log_idm, log_ref, *, beta) -> Array:
  """∇_θ of `phase1_objective`; at β = 0 that of the information bound. → [X, Z, Y]."""
  return jax.grad(
    lambda t: phase1_objective(world, log_prior, log_table(t), log_idm, log_ref, beta=beta)
  )(fwm_logits)


def likelihood_gradient(world, log_prior, fwm_logits) -> Array:
  """∇_θ E log P_θ(y | x). → [X, Z, Y]."""
  return jax.grad(lambda t: log_likelihood(world, log_prior, log_table(t)))(fwm_logits)


def phase2_gradient(world, log_prior, log_fwm, idm_logits, *, beta) -> Array:
  """∇_φ of `phase2_objective`; at β = 1 that of the ELBO. → [X, Y, Z]."""
  return jax.grad(lambda t: phase2_objective(world, log_prior, log_fwm, log_table(t), beta=beta))(
    idm_logits
  )


def elbo_gradients(world, log_prior, fwm_logits, idm_logits) -> tuple[Array, Array]:
  """(∇_θ, ∇_φ) of the ELBO: an M-step's and an E-step's direction. → [X, Z, Y], [X, Y, Z]."""
  return jax.grad(lambda t, f: elbo(world, log_prior, log_table(t), log_table(f)), argnums=(0, 1))(
    fwm_logits, idm_logits
  )


# ------------------------------------------------------------------------------------------- checks
# On the host, before the numbers enter; the functions above assert shapes alone.


def _check_probabilities(name: str, p: np.ndarray, rank: int, axes: str) -> None:
  if p.ndim != rank or 0 in p.shape:
    raise ValueError(f"{name} must be [{axes}], no axis empty; found shape {p.shape}")
  if not np.issubdtype(p.dtype, np.floating):
    raise ValueError(f"{name} must be floating point; found {p.dtype}")
  for wrong, rule in ((~np.isfinite(p), "finite"), (p < 0, "at least 0")):
    if wrong.any():
      index = tuple(int(i) for i in np.argwhere(wrong)[0])
      raise ValueError(f"{name}{list(index)} = {p[index]}: a probability must be {rule}")


def _tolerance(p: np.ndarray) -> float:
  return 64 * float(np.finfo(p.dtype).eps)


def check_world(world) -> np.ndarray:
  """D(x, y, z) [X, Y, Z] as it came, or a ValueError: rank, NaN, negative, sum other than 1."""
  p = np.asarray(world)
  _check_probabilities("world", p, 3, "X, Y, Z")
  if abs(p.sum(dtype=np.float64) - 1.0) > _tolerance(p):
    raise ValueError(f"world sums to {p.sum(dtype=np.float64)}; a joint distribution sums to 1")
  return p


def check_table(table, *, name: str, shape: tuple[int, ...], axes: str) -> np.ndarray:
  """Probabilities (not logs) of a given shape, each row of the last axis summing to 1.

  Returned as they came; else a ValueError with the offending index. `axes` names the shape, as in
  `check_table(p, name="fwm", shape=(x, z, y), axes="X, Z, Y")`.
  """
  p = np.asarray(table)
  _check_probabilities(name, p, len(shape), axes)
  if p.shape != tuple(shape):
    raise ValueError(f"{name} must be [{axes}] = {list(shape)}; found {list(p.shape)}")
  sums = p.sum(-1, dtype=np.float64)
  wrong = np.abs(sums - 1.0) > _tolerance(p)
  if wrong.any():
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    raise ValueError(f"{name}{list(index)} sums to {sums[index]}; a row must sum to 1")
  return p


def check_tables(world, *, fwm=None, idm=None, prior=None) -> None:
  """A world and the probability tables that go with it: [X, Z, Y], [X, Y, Z], [X, Z]."""
  x, y, z = check_world(world).shape
  for table, name, shape, axes in (
    (fwm, "fwm", (x, z, y), "X, Z, Y"),
    (idm, "idm", (x, y, z), "X, Y, Z"),
    (prior, "prior", (x, z), "X, Z"),
  ):
    if table is not None:
      check_table(table, name=name, shape=shape, axes=axes)
