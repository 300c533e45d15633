"""The arrays that travel between the parts, and the axis alphabet.

B prompts (one prompt is one transition), G samples of a prompt, P prompt tokens, T completion
tokens, S any run of tokens, V vocabulary, D width, F feed-forward width, H query heads, K key-value
heads, L layers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Segment(NamedTuple):
  """A ragged run of tokens: the first n are real. tokens int32 [..., S], mask bool [..., S]."""

  tokens: jax.Array
  mask: jax.Array


class Transition(NamedTuple):
  """A batch of transitions: x becomes y under the action z; z is None where it is latent.

  Fields are [B, S]. K turns that follow each other, of which each begins where the one before
  ended, are one whose y and z are [B, K, S].
  """

  x: Segment
  y: Segment
  z: Segment | None = None


class Rollout(NamedTuple):
  """G completions of each prompt; `tokens` includes the end marker and `mask` covers it.

  tokens int32 [B, G, T]; mask bool [B, G, T]; logp float32 [B, G, T], of the policy itself
  (temperature 1, renormalised over the allowed tokens); logp_sampler float32 [B, G, T], of the
  distribution that was drawn from (guidance, temperature, top-k, top-p); complete bool [B, G],
  whether the end marker was reached within T tokens.
  """

  tokens: jax.Array
  mask: jax.Array
  logp: jax.Array
  logp_sampler: jax.Array
  complete: jax.Array


class Mean(NamedTuple):
  """A metric as a sum and a weight, so that it adds up over micro-batches and hosts; its value is
  sum / weight.
  """

  sum: jax.Array
  weight: jax.Array

  @classmethod
  def of(cls, values, mask=None) -> "Mean":
    """Σ values and their number, over the places where `mask` holds (everywhere without one)."""
    values = jnp.asarray(values, jnp.float32)
    if mask is None:
      return cls(values.sum(), jnp.float32(values.size))
    return cls(jnp.where(mask, values, 0.0).sum(), mask.sum().astype(jnp.float32))


class PolicyState(NamedTuple):
  """What a phase trains: parameters, optimizer state, and the number of updates made in this phase
  (int32 scalar).
  """

  params: Any
  opt_state: Any
  step: jax.Array
