"""Attention by blocks: equal to the plain one in value and gradient, in memory linear in length."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax.models import transformer
from swirl_jax.models.attention import KV, attend, near
from swirl_jax.models.chunked_attention import Keys, chunked_attend
from swirl_jax.types import Segment

B, K, G, R, S, P, HEAD = 2, 2, 3, 2, 13, 7, 4


def inputs(prefix: bool):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
  real = rng.random((B, G, S)) < 0.7
  shared_real = rng.random((B, P)) < 0.7
  real[..., -1] = shared_real[:, -1] = True
  arrays = {"q": draw(B, K, G, R, S, HEAD),
            "own": KV(draw(B, K, G, HEAD, S), draw(B, K, G, S, HEAD))}  # fmt: skip
  if prefix:
    arrays["prefix"] = KV(draw(B, K, HEAD, P), draw(B, K, P, HEAD))
  return arrays, real, shared_real


def both(prefix, window, cap, chunk):
  """(chunked, plain): functions of the arrays; rows of masked tokens are zeroed."""
  _, real, shared_real = inputs(prefix)
  shared_at = transformer.real_positions(shared_real)
  start = shared_real.sum(-1)[:, None, None] if prefix else 0
  at = (transformer.real_positions(real) + start).astype(jnp.int32)
  options = {"scale": 0.6, "cap": cap}
  rows = real[:, None, :, None, :, None]

  def chunked(a):
    shared = Keys(a["prefix"], shared_real[:, None], shared_at[:, None]) if prefix else None
    own = Keys(a["own"], real, at)
    out = chunked_attend(a["q"], at, own, shared, window, chunk=chunk, **options)
    return jnp.where(rows, out, 0.0)

  def plain(a):
    width = 1000 if window is None else window
    causal = np.tril(np.ones((S, S), bool))[None, None, None, None]
    own = causal & real[:, None, :, None, None] & near(at, at, width)
    parts = [("bkg", a["own"], own)]
    if prefix:
      mask = shared_real[:, None, None, None, None] & near(at, shared_at, width)
      parts.append(("bk", a["prefix"], mask))
    return jnp.where(rows, attend(a["q"], parts, **options), 0.0)

  return chunked, plain


@pytest.mark.parametrize(
  "prefix, window, cap, chunk",
  [(False, None, 0.0, 4), (True, 3, 1.5, 5), (True, None, 0.0, 100)],
)  # fmt: skip
def test_equals_the_plain_attention_in_value_and_gradient(prefix, window, cap, chunk):
  """Holes in rows and prompt, blocks that do not divide the lengths, one block."""
  arrays, _, _ = inputs(prefix)
  weights = jnp.asarray(np.random.default_rng(1).normal(size=arrays["q"].shape), jnp.float32)

  def run(f):
    def loss(a):
      out = f(a)
      return (out * weights).sum() + jnp.square(out).sum(), out

    return tiny.jit(jax.grad(loss, has_aux=True))(arrays)

  (found, out), (expected, plain) = map(run, both(prefix, window, cap, chunk))
  np.testing.assert_allclose(out, plain, atol=2e-6)
  assert np.abs(plain).max() > 0.5
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


MIXED = {"window": 3, "layer_types": ("sliding", "full"), "attention_softcap": 2.0}


@pytest.mark.parametrize("changes", [MIXED | {"remat": "full"}, {"scan_layers": False}])
def test_a_transformer_by_blocks_is_the_same(changes):
  """Through prompts, completions behind them, scan and remat: hidden states and gradients."""
  plain = tiny.config(**changes)
  params = tiny.params(plain)
  rng = np.random.default_rng(2)
  prompt = tiny.segment(rng, (2,), 11, low=8)
  prompt = Segment(*(a[:, ::-1] for a in prompt))  # the last place is a real token
  target = tiny.segment(rng, (2, 2), 9, low=4)

  def run(config):
    def loss(params):
      last, prefix = transformer.prefill(params, config, prompt)
      hidden, _ = transformer.apply(params, config, target, prefix=prefix)
      hidden = jnp.where(target.mask[..., None], hidden, 0.0)
      return jnp.square(hidden + 0.3).sum() + last.sum(), (last, hidden)

    return tiny.jit(jax.grad(loss, has_aux=True))(params)

  (found, out), (expected, other) = run(dataclasses.replace(plain, attention_chunk=4)), run(plain)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), out, other)
  tiny.assert_gradients_close(found, expected, tolerance=1e-5)


def test_memory_grows_with_the_length_and_not_its_square():
  """Temporaries of a gradient at 512 and 2048 tokens, as the compiler plans them."""

  def temporaries(length, chunk):
    config = tiny.config(attention_chunk=chunk, remat="full")
    params = jax.eval_shape(lambda: transformer.init_params(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((1, 1, length), jnp.int32)

    def loss(params, tokens):
      segment = Segment(tokens, jnp.ones(tokens.shape, bool))
      return jnp.square(transformer.apply(params, config, segment)[0]).sum()

    compiled = tiny.jit(jax.grad(loss)).lower(params, tokens).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  short, long, plain = temporaries(512, 64), temporaries(2048, 64), temporaries(2048, 0)
  assert long < 6 * short  # 4 where all is linear
  assert plain > 10 * long
