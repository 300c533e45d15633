"""Signs that latent actions went wrong, from log-probabilities that a run without labels has.

Two failures (arXiv:2602.06130 names neither): the FWM tells z in parts of ŷ that do not matter, and
the IDM calls every transition the same. What each sign catches, and how often it errs, is measured
on tables by `swirl_jax.theory.experiments.failures`; docs/theory.md has the figures. N transitions
(x, y) of the state-only data, z_n ~ Q(. | x_n, y_n), ŷ_n ~ P(. | x_n, z_n).
"""

import chex
import jax
import jax.numpy as jnp
from jax import Array


def imagined_gap(imagined, real) -> tuple[Array, Array]:
  """(mean_n (a_n − b_n), its standard error): what ŷ has that its counterpart has not. [N] → [].

  a and b are one score of the same z_n, at ŷ_n and at the counterpart:

    log Q(z_n | x_n, ·)   y_n: self-consistency; the IDM reads z from ŷ more easily than from y
    log P(· | x_n, z_n)   y_n: calibration; the FWM is surer of what it makes than of what happens
    log P0(· | x_n)       y_n: typicality (the z-free model); below 0 where ŷ leaves the data
    Q(z_n | x_n, ·)       ŷ_n with its irrelevant part from another transition: swap; how much the
                          IDM reads there. Needs to be told which part is irrelevant.

  The first three have mean 0 where P and Q are one joint distribution with the data, P̃(z|x)
  P(y|x,z) = p̃(y|x) Q(z|x,y), and P0 its marginal. The converse is false: a z that tells something
  irrelevant of the real y too passes all three, and only the last sees it. N ≥ 2.
  """
  imagined, real = jnp.asarray(imagined), jnp.asarray(real)
  chex.assert_rank([imagined, real], 1)
  chex.assert_equal_shape([imagined, real])
  if imagined.shape[0] < 2:
    raise ValueError(f"imagined_gap: {imagined.shape[0]} transition; allowed is 2 or more")
  difference = imagined - real
  return difference.mean(), difference.std(ddof=1) / jnp.sqrt(difference.shape[0])


def _scored(log_q) -> tuple[Array, Array]:
  """(log Q(z_i | x_i, y_i), log mean_j Q(z_i | x_j, y_j)): [N, N] → [N], [N]."""
  log_q = jnp.asarray(log_q)
  chex.assert_rank(log_q, 2)
  if log_q.shape[0] != log_q.shape[1]:
    raise ValueError(f"log_q must be [N, N]: z_i given pair j; found shape {log_q.shape}")
  belief = jax.nn.logsumexp(log_q, axis=-1) - jnp.log(log_q.shape[0])
  return jnp.diagonal(log_q), belief


def action_information(log_q) -> Array:
  """mean_i [log Q(z_i | x_i, y_i) − log mean_j Q(z_i | x_j, y_j)] ≤ log N. [N, N] → [].

  log_q[i, j] = log Q(z_i | x_j, y_j): the N sampled actions under the N pairs. It estimates
  I(Z; X, Y) under Q, in nats: 0 where the IDM says the same of every pair. InfoNCE's form with
  the exact critic, arXiv:1807.03748.
  """
  own, belief = _scored(log_q)
  return (own - belief).mean()


def effective_actions(log_q) -> Array:
  """exp(−mean_i log mean_j Q(z_i | x_j, y_j)): the belief's perplexity. [N, N] → [].

  log_q as in `action_information`. 1 where the IDM has one word for everything; the number of
  actions where all are as common. Over whole batches, whose states differ: an IDM that has one word
  for each x passes.
  """
  return jnp.exp(-_scored(log_q)[1].mean())
