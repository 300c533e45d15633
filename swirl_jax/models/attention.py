"""What attention computes with: keys and values, their cache, windows, one softmax over several
parts.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from swirl_jax.models.numerics import einsum

MASKED = -1e30  # finite, so that a row in which everything is masked gives garbage and not NaN


class KV(NamedTuple):
  """Keys [B, K, G, d, S] and values [B, K, G, S, d] of one layer, or with a leading L of all; laid
  out for the two matrix products.

  Where the layers are unrolled, all layers' are a tuple of KV. A shared prompt's lack the axis G.
  """

  k: jax.Array
  v: jax.Array


def write_cache(cache: KV, new: KV, index, layer=None) -> KV:
  """Puts one token's KV of one layer at place `index` of every sample's cache; `layer` says where
  in a stacked cache.
  """

  def put(old, new, axis):
    start = [0] * old.ndim
    start[axis] = index
    if layer is not None:
      start[0], new = layer, new[None]
    return jax.lax.dynamic_update_slice(old, new, start)

  return KV(put(cache.k, new.k, -1), put(cache.v, new.v, -2))


def softcap(x: jax.Array, cap: float) -> jax.Array:
  """cap · tanh(x / cap); x itself where cap is 0."""
  return cap * jnp.tanh(x / cap) if cap else x


def near(queries: jax.Array, keys: jax.Array, window) -> jax.Array:
  """Whether a key is one of the `window` latest tokens of a query, by the positions of real tokens.

  queries [B, G, S], keys [B, G, T] (the axis G may be 1), or [B, T] → bool [B, 1, G, 1, S, T].
  """
  keys = keys[:, None] if keys.ndim == 2 else keys
  distance = queries[:, None, :, None, :, None] - keys[:, None, :, None, None, :]
  return distance < window


def attend(
  q: jax.Array, parts: list[tuple[str, KV, jax.Array]], *, scale: float, cap: float = 0.0
) -> jax.Array:
  """softmax(cap · tanh(scale · q k / cap)) v over the concatenation of parts.

  q [B, K, G, R, S, d] → the same shape.

  A part is (the axes of its k between batch and features: 'bk' for a shared prompt or 'bkg' for a
  sample's own), its KV and a mask that broadcasts to [B, K, G, R, S, keys].
  """
  scores = []
  for axes, kv, mask in parts:
    s = einsum(f"bkgrsd,{axes}dt->bkgrst", q, kv.k, out=jnp.float32) * scale
    scores.append(jnp.where(mask, softcap(s, cap), MASKED))
  top = functools.reduce(jnp.maximum, [s.max(-1, keepdims=True) for s in scores])
  weights = [jnp.exp(s - jax.lax.stop_gradient(top)) for s in scores]
  total = sum(w.sum(-1, keepdims=True) for w in weights)
  out = sum(
    einsum(f"bkgrst,{axes}td->bkgrsd", w.astype(q.dtype), kv.v)
    for w, (axes, kv, _) in zip(weights, parts, strict=True)
  )
  return (out / total).astype(q.dtype)
