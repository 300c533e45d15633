"""Log-probabilities of given tokens in chunks, so that [B, T, V] never exists.

One chunk's logits are all there is at any time.

Two forms. `token_logprobs` returns the log-probabilities, and its gradient computes the logits of
each chunk once more: three passes over the head, for any objective of [N, T] numbers.
`separable_loss` is for losses that are a sum over tokens of a function of that token's
log-probability: there the gradient is taken inside the forward scan, and one pass suffices.

Axes: N rows (B, or B × G), T tokens, D width, V vocabulary. Logits, log-probabilities and entropies
are float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from swirl_jax.models.attention import softcap
from swirl_jax.models.numerics import einsum


def _chunks(x: jax.Array, width: int) -> jax.Array:
  """[N, T, ...] → [T / width, N, width, ...], with zeros behind the last token; rows stay whole, so
  that their sharding does.
  """
  rows, length = x.shape[:2]
  count = -(-length // width)
  x = jnp.pad(x, [(0, 0), (0, count * width - length)] + [(0, 0)] * (x.ndim - 2))
  return jnp.moveaxis(x.reshape(rows, count, width, *x.shape[2:]), 1, 0)


def _unchunk(x: jax.Array, length: int) -> jax.Array:
  """[T / width, N, width, ...] → [N, T, ...]."""
  x = jnp.moveaxis(x, 0, 1)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def _width(rows: int, length: int, chunk: int) -> int:
  return max(1, min(length, chunk // rows))


def _logits(hidden, head, cap):
  logits = einsum("ntd,dv->ntv", hidden, head.astype(hidden.dtype), out=jnp.float32)
  return softcap(logits, cap)


def _one_hot(targets, size):
  # A comparison, not a gather: it stays where it is when the vocabulary is sharded.
  return targets[..., None] == jnp.arange(size, dtype=targets.dtype).reshape(1, 1, -1)


def _logp_entropy(logits, targets):
  """log p(target) and −Σ p log p = lse − Σ p·logit, [N, t] each, and p [N, t, V]."""
  lse = jax.nn.logsumexp(logits, -1)
  p = jnp.exp(logits - lse[..., None])
  logp = jnp.where(_one_hot(targets, logits.shape[-1]), logits, 0.0).sum(-1) - lse
  return logp, lse - (p * logits).sum(-1), p


def token_logprobs(hidden, head, targets, *, chunk: int, cap: float = 0.0):
  """log softmax(hidden · head)[target] and the entropy, by chunks of about `chunk` tokens.

  hidden [N, T, D], head [D, V], targets int32 [N, T] → (logp [N, T], entropy [N, T]), float32. With
  `cap` the logits are cap · tanh(logits / cap). V may be a part of a vocabulary (`models.columns`):
  then the distribution is renormalised over it. Gradients reach hidden and head through logp; the
  entropy is a measurement and carries none.
  """
  length = targets.shape[1]
  width = _width(*targets.shape, chunk)

  def forward(hidden, head):
    def one(_, xs):
      h, t = xs
      logp, entropy, _ = _logp_entropy(_logits(h, head, cap), t)
      return None, (logp, entropy)

    _, out = jax.lax.scan(one, None, (_chunks(hidden, width), _chunks(targets, width)))
    return jax.tree.map(lambda x: _unchunk(x, length), out)

  def save(hidden, head):
    return forward(hidden, head), (hidden, head)

  def backward(saved, cotangents):
    hidden, head = saved

    def one(d_head, xs):
      h, t, c = xs
      logits = _logits(h, head, cap)
      _, _, p = _logp_entropy(logits, t)
      d_h, d_head = _push(h, head, t, c, p, d_head, _slope(logits, cap))
      return d_head, d_h

    xs = (_chunks(hidden, width), _chunks(targets, width), _chunks(cotangents[0], width))
    d_head, d_hidden = jax.lax.scan(one, jnp.zeros(head.shape, jnp.float32), xs)
    return _unchunk(d_hidden, length).astype(hidden.dtype), d_head.astype(head.dtype)

  run = jax.custom_vjp(forward)
  run.defvjp(save, backward)
  return run(hidden, head)


def _slope(logits, cap):
  """d softcap(x) / dx = 1 − (logits / cap)²; None without a cap."""
  return 1.0 - jnp.square(logits / cap) if cap else None


def _push(h, head, targets, c, p, d_head, slope):
  """Gradient of Σ c·logp through one chunk: with dlogits = c (one-hot − p), times the slope of the
  soft-cap where there is one, dh = dlogits · headᵀ and head's sum gains hᵀ · dlogits.
  """
  d_logits = c[..., None] * (_one_hot(targets, p.shape[-1]) - p)
  d_logits = (d_logits if slope is None else d_logits * slope).astype(h.dtype)
  d_h = einsum("ntv,dv->ntd", d_logits, head.astype(h.dtype))
  return d_h, d_head + einsum("ntd,ntv->dv", h, d_logits, out=jnp.float32)


def separable_loss(
  hidden,
  head,
  targets,
  data: Any,
  token_loss: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]],
  *,
  chunk: int,
  cap: float = 0.0,
):
  """Σ_nt ℓ(logp_nt, entropy_nt, data_nt) and summed metrics, its gradient taken in the same pass
  over the head.

  hidden [N, T, D], head [D, V], targets int32 [N, T], data: a tree of [N, T]. `token_loss(logp,
  entropy, data)` gets [N, t] slices and returns (the terms of the loss [N, t], a tree of scalars
  that add up over tokens). Places of padding behind T carry zeros in `data`: their terms must be
  zero there, as a weight or mask in `data` makes them. Returns (loss, tree). Gradients reach hidden
  and head only.
  """
  length = targets.shape[1]
  width = _width(*targets.shape, chunk)
  xs = jax.tree.map(lambda x: _chunks(x, width), (targets, data))

  def chunk_terms(logp, entropy, d):
    terms, metrics = token_loss(logp, entropy, d)
    return terms.sum(), metrics

  def add(total, new):
    return jax.tree.map(jnp.add, total, new)

  def forward(hidden, head):
    def one(total, xs):
      h, (t, d) = xs
      logp, entropy, _ = _logp_entropy(_logits(h, head, cap), t)
      return add(total, chunk_terms(logp, entropy, d)), None

    return jax.lax.scan(one, zero, (_chunks(hidden, width), xs))[0]

  def forward_and_gradient(hidden, head):
    def one(carry, xs):
      total, d_head = carry
      h, (t, d) = xs
      logits = _logits(h, head, cap)
      logp, entropy, p = _logp_entropy(logits, t)
      value, pull, metrics = jax.vjp(lambda lp: chunk_terms(lp, entropy, d), logp, has_aux=True)
      d_h, d_head = _push(h, head, t, pull(jnp.ones_like(value))[0], p, d_head, _slope(logits, cap))
      return (add(total, (value, metrics)), d_head), d_h

    start = (zero, jnp.zeros(head.shape, jnp.float32))
    (total, d_head), d_hidden = jax.lax.scan(one, start, (_chunks(hidden, width), xs))
    return total, (_unchunk(d_hidden, length), d_head.astype(head.dtype))

  def backward(saved, cotangents):
    return jax.tree.map(lambda g: g * cotangents[0].astype(g.dtype), saved)

  shape = jax.ShapeDtypeStruct((targets.shape[0], width), jnp.float32)
  first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs[1])
  zero = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(chunk_terms, shape, shape, first)
  )
  run = jax.custom_vjp(forward)
  run.defvjp(forward_and_gradient, backward)
  return run(hidden, head)
