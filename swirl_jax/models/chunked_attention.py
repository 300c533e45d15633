"""Attention in memory that is linear in the lengths: the scores of one block exist at a time.

The softmax runs over blocks of keys with a running maximum, arXiv:2112.05682; the backward pass
computes the scores once more from the saved log of their sum, arXiv:2205.14135. In plain JAX, so
that it compiles everywhere. Blocks of keys that lie behind all queries of a block are left out.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from swirl_jax.models.attention import KV, MASKED, near, softcap
from swirl_jax.models.numerics import einsum


class Keys(NamedTuple):
  """Keys and values with, [B, G, T] (the axis G may be 1), which are real and their positions."""

  kv: KV
  real: jax.Array
  at: jax.Array


def chunked_attend(
  q: jax.Array, at: jax.Array, own: Keys, prefix: Keys | None, window, *, scale, cap, chunk: int
) -> jax.Array:
  """What `attend` gives for tokens that attend to a shared prompt and, causally, to themselves.

  q [B, K, G, R, S, d], its positions int32 [B, G, S]; own has S keys, prefix any number; window: a
  number of tokens, which may be traced, or None → the shape of q. Positions of real tokens rise
  along a row. Blocks are of at most `chunk` queries and `chunk` keys. The rows of masked tokens
  hold other numbers than those of `attend`.
  """
  size = q.shape[-2]
  block = min(chunk, size)
  args = (
    _pad(q, -2, block), _pad(at, -1, block), _pad_keys(own, block),
    None if prefix is None else _pad_keys(prefix, min(chunk, prefix.at.shape[-1])), window,
  )  # fmt: skip
  return _attend(scale, cap, block, chunk, *args)[..., :size, :]


def _pad(x, axis, multiple):
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % multiple)
  return jnp.pad(x, widths)


def _pad_keys(keys: Keys, block: int) -> Keys:
  kv = KV(_pad(keys.kv.k, -1, block), _pad(keys.kv.v, -2, block))
  return Keys(kv, _pad(keys.real, -1, block), _pad(keys.at, -1, block))


def _cut(x, axis, block, i):
  return jax.lax.dynamic_slice_in_dim(x, i * block, block, axis)


def _cut_keys(keys: Keys, block: int, j) -> Keys:
  kv = KV(_cut(keys.kv.k, -1, block, j), _cut(keys.kv.v, -2, block, j))
  return Keys(kv, _cut(keys.real, -1, block, j), _cut(keys.at, -1, block, j))


def _axes(kv: KV) -> str:
  return "bk" if kv.k.ndim == 4 else "bkg"


def _scores(q, at, keys: Keys, window, scale, cap):
  """Scores and their mask [B, K, G, R, s, t] (the mask broadcasts)."""
  s = einsum(f"bkgrsd,{_axes(keys.kv)}dt->bkgrst", q, keys.kv.k, out=jnp.float32)
  mask = keys.real[:, None, :, None, None, :] & ~near(at, keys.at, 0)
  if window is not None:
    mask = mask & near(at, keys.at, window)
  return softcap(s * scale, cap), mask


def _parts(own: Keys, prefix: Keys | None, block: int, chunk: int, i):
  """(keys, size of their blocks, how many blocks the i-th block of queries attends to)."""
  parts = [(own, block, i + 1)]
  if prefix is not None:
    length = prefix.at.shape[-1]
    size = min(chunk, length)
    parts.append((prefix, size, length // size))
  return parts


def _forward(scale, cap, block, chunk, q, at, own, prefix, window):
  """(out, log Σ exp scores [..., S, 1] float32)."""

  def one(_, i):
    q_i, at_i = _cut(q, -2, block, i), _cut(at, -1, block, i)

    def step(j, carry, keys, size):
      top, total, out = carry
      keys = _cut_keys(keys, size, j)
      s, mask = _scores(q_i, at_i, keys, window, scale, cap)
      s = jnp.where(mask, s, MASKED)
      new = jnp.maximum(top, s.max(-1, keepdims=True))
      shrink, w = jnp.exp(top - new), jnp.exp(s - new)
      axes = _axes(keys.kv)
      more = einsum(f"bkgrst,{axes}td->bkgrsd", w.astype(q.dtype), keys.kv.v, out=jnp.float32)
      return new, total * shrink + w.sum(-1, keepdims=True), out * shrink + more

    one_each = jnp.zeros((*q_i.shape[:-1], 1), jnp.float32)
    carry = (one_each + MASKED, one_each, jnp.zeros(q_i.shape, jnp.float32))
    for keys, size, count in _parts(own, prefix, block, chunk, i):
      carry = jax.lax.fori_loop(0, count, functools.partial(step, keys=keys, size=size), carry)
    top, total, out = carry
    return None, ((out / total).astype(q.dtype), top + jnp.log(total))

  _, blocks = jax.lax.scan(one, None, jnp.arange(q.shape[-2] // block))
  return tuple(_join(b) for b in blocks)


def _join(blocks):
  """[n, ..., s, d] → [..., n · s, d]."""
  blocks = jnp.moveaxis(blocks, 0, -3)
  return blocks.reshape(*blocks.shape[:-3], -1, blocks.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _attend(scale, cap, block, chunk, q, at, own, prefix, window):
  return _forward(scale, cap, block, chunk, q, at, own, prefix, window)[0]


def _save(scale, cap, block, chunk, q, at, own, prefix, window):
  out, lse = _forward(scale, cap, block, chunk, q, at, own, prefix, window)
  return out, (q, at, own, prefix, window, out, lse)


def _backward(scale, cap, block, chunk, saved, d_out):
  q, at, own, prefix, window, out, lse = saved
  delta = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)

  def one(d_keys, i):
    q_i, at_i = _cut(q, -2, block, i), _cut(at, -1, block, i)
    d_out_i, lse_i, delta_i = (_cut(a, -2, block, i) for a in (d_out, lse, delta))

    def step(j, carry, keys, size):
      d_q, d_kv = carry
      keys = _cut_keys(keys, size, j)
      axes = _axes(keys.kv)
      s, mask = _scores(q_i, at_i, keys, window, scale, cap)
      p = jnp.where(mask, jnp.exp(jnp.where(mask, s, MASKED) - lse_i), 0.0)
      f32 = {"out": jnp.float32}
      d_p = einsum(f"bkgrsd,{axes}td->bkgrst", d_out_i, keys.kv.v, **f32)
      d_s = p * (d_p - delta_i) * scale
      if cap:
        d_s = d_s * (1.0 - jnp.square(s / cap))
      p, d_s = p.astype(q.dtype), d_s.astype(q.dtype)
      d_q = d_q + einsum(f"bkgrst,{axes}dt->bkgrsd", d_s, keys.kv.k, **f32)
      d_k = einsum(f"bkgrst,bkgrsd->{axes}dt", d_s, q_i, **f32)
      d_v = einsum(f"bkgrst,bkgrsd->{axes}td", p, d_out_i, **f32)
      return d_q, KV(_add(d_kv.k, d_k, -1, j), _add(d_kv.v, d_v, -2, j))

    d_q, new = jnp.zeros(q_i.shape, jnp.float32), []
    parts = _parts(own, prefix, block, chunk, i)
    for (keys, size, count), d_kv in zip(parts, d_keys, strict=True):
      body = functools.partial(step, keys=keys, size=size)
      d_q, d_kv = jax.lax.fori_loop(0, count, body, (d_q, d_kv))
      new.append(d_kv)
    return new, d_q.astype(q.dtype)

  zeros = [
    jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), keys.kv)
    for keys in (own, prefix) if keys is not None
  ]  # fmt: skip
  d_keys, d_q = jax.lax.scan(one, zeros, jnp.arange(q.shape[-2] // block))
  d_keys = [
    Keys(jax.tree.map(lambda d, a: d.astype(a.dtype), d, keys.kv), None, None)
    for d, keys in zip(d_keys, (own, prefix), strict=False)
  ]
  return _join(d_q), None, d_keys[0], d_keys[1] if prefix is not None else None, None


def _add(total, more, axis, j):
  size = more.shape[axis]
  now = jax.lax.dynamic_slice_in_dim(total, j * size, size, axis) + more
  return jax.lax.dynamic_update_slice_in_dim(total, now, j * size, axis)


_attend.defvjp(_save, _backward)
