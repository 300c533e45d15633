"""Chunked log-probabilities: equal to `log_softmax` in value and gradient, in bounded memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax import logprob
from swirl_jax.types import Mean

N, T, D, V = 3, 7, 8, 13

CAP = 1.5  # of the logits, whose standard deviation is about 3


def inputs():
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(N, T, D)).astype(np.float32)
  head = rng.normal(size=(D, V)).astype(np.float32)
  targets = rng.integers(0, V, (N, T)).astype(np.int32)
  weights = rng.normal(size=(N, T)).astype(np.float32)
  return hidden, head, targets, weights


def plain(hidden, head, targets, cap=0.0):
  """log_softmax over [N, T, V] and its entropy."""
  logits = cap * jnp.tanh(hidden @ head / cap) if cap else hidden @ head
  logp = jax.nn.log_softmax(logits)
  entropy = -(jnp.exp(logp) * logp).sum(-1)
  return jnp.take_along_axis(logp, targets[..., None], -1)[..., 0], entropy


# Any width: one token a row at a time, widths that do not divide T, more than there is.
chunks = pytest.mark.parametrize(
  "chunk, cap", [(1, 0.0), (3 * N, CAP), (5 * N + 1, CAP), (10_000, 0.0)]
)


@chunks
def test_token_logprobs_equal_log_softmax(chunk, cap):
  hidden, head, targets, weights = inputs()

  def objective(f):
    def run(hidden, head):
      logp, entropy = f(hidden, head)
      return (weights * jnp.exp(0.3 * logp)).sum() + (logp * logp[::-1]).sum(), (logp, entropy)

    return tiny.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(hidden, head)

  options = {"chunk": chunk, "cap": cap}
  chunked = functools.partial(logprob.token_logprobs, targets=targets, **options)
  (_, found), grads = objective(lambda h, w: chunked(h, w))
  (_, expected), plain_grads = objective(lambda h, w: plain(h, w, targets, cap))
  assert all(a.shape == (N, T) and a.dtype == jnp.float32 for a in found)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
  for one, other in zip(grads, plain_grads, strict=True):
    tiny.assert_gradients_close(one, other)


@chunks
def test_separable_loss_equals_log_softmax(chunk, cap):
  """A loss that is neither linear in logp nor blind to `data`, scaled from outside."""
  hidden, head, targets, weights = inputs()
  mask = np.arange(T) < np.array([[7], [2], [0]])

  def token_loss(logp, entropy, data):
    weight, mask = data
    terms = jnp.where(mask, weight * jnp.square(logp) - weight * entropy, 0.0)
    return terms, {"entropy": Mean.of(entropy, mask), "logp": Mean.of(logp, mask)}

  def fused(hidden, head):
    loss, metrics = logprob.separable_loss(
      hidden, head, targets, (weights, mask), token_loss, chunk=chunk, cap=cap
    )
    return 3.0 * loss, metrics

  def whole(hidden, head):
    logp, entropy = plain(hidden, head, targets, cap)
    terms, metrics = token_loss(logp, jax.lax.stop_gradient(entropy), (weights, mask))
    return 3.0 * terms.sum(), metrics

  run = [
    tiny.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(hidden, head) for f in (fused, whole)
  ]
  (found, expected) = run
  np.testing.assert_allclose(found[0][0], expected[0][0], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found[0][1], expected[0][1]
  )
  assert found[0][1]["entropy"].weight == 9
  for one, other in zip(found[1], expected[1], strict=True):
    tiny.assert_gradients_close(one, other)
  # Without a gradient the loss is the same number.
  np.testing.assert_allclose(tiny.jit(fused)(hidden, head)[0], expected[0][0], rtol=1e-5)


def test_bfloat16_hidden_gives_float32_numbers():
  hidden, head, targets, _ = inputs()
  low = hidden.astype(jnp.bfloat16)
  found = logprob.token_logprobs(low, head, targets, chunk=9)
  expected = plain(low.astype(np.float32), head.astype(jnp.bfloat16).astype(np.float32), targets)
  assert all(a.dtype == jnp.float32 for a in found)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)


@pytest.mark.parametrize("form", ["separable", "three_passes"])
def test_the_heads_gradient_of_bfloat16_is_summed_in_float32(form):
  """A head of zeros over two tokens: each place adds ± hidden / 2, which bfloat16 holds exactly,
  while it can't hold their sum.
  """
  rng = np.random.default_rng(5)
  hidden = jnp.asarray(rng.normal(size=(4, 64, D)), jnp.bfloat16)
  targets = rng.integers(0, 2, (4, 64)).astype(np.int32)

  def loss(head):
    if form == "three_passes":
      return logprob.token_logprobs(hidden, head, targets, chunk=64)[0].sum()
    terms = lambda logp, entropy, w: (w * logp, {})  # noqa: E731
    weights = jnp.ones(targets.shape)
    return logprob.separable_loss(hidden, head, targets, weights, terms, chunk=64)[0]

  sign = np.where(targets[..., None] == np.arange(2), 0.5, -0.5)
  expected = np.einsum("ntd,ntv->dv", np.asarray(hidden, np.float64), sign)
  found = tiny.jit(jax.grad(loss))(jnp.zeros((D, 2)))
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("form", ["separable", "three_passes"])
def test_temporaries_of_a_large_vocabulary(form):
  """V = 151,936, D = 256, 4,096 tokens, with gradient: at most 400 MB (whole logits are 2.5 GB)."""
  rows, length, width, vocab, chunk = 8, 512, 256, 151_936, 128

  def separable(hidden, head, targets):
    terms = lambda logp, entropy, w: (-w * logp, Mean.of(entropy))  # noqa: E731
    weights = jnp.ones(targets.shape)
    return logprob.separable_loss(hidden, head, targets, weights, terms, chunk=chunk)

  def three_passes(hidden, head, targets):
    logp, entropy = logprob.token_logprobs(hidden, head, targets, chunk=chunk)
    return jnp.exp(logp.mean(-1)).sum(), Mean.of(entropy)

  loss = {"separable": separable, "three_passes": three_passes}[form]
  program = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True)).lower(
    jax.ShapeDtypeStruct((rows, length, width), jnp.float32),
    jax.ShapeDtypeStruct((width, vocab), jnp.float32),
    jax.ShapeDtypeStruct((rows, length), jnp.int32),
  )
  assert program.compile().memory_analysis().temp_size_in_bytes <= 400e6
