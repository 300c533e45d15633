"""Where bfloat16 may round and where it may not: norms, rotation and scores against float64."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax.models.attention import KV, attend
from swirl_jax.models.chunked_attention import Keys, chunked_attend
from swirl_jax.models.norms import RMSNorm, WideNorm
from swirl_jax.models.rotary import rotate


def draw(seed, *shape, mean=0.0, std=1.0):
  """Numbers of bfloat16, and the same in float64."""
  values = np.random.default_rng(seed).normal(mean, std, shape)
  low = jnp.asarray(values, jnp.bfloat16)
  return low, np.asarray(low, np.float64)


def assert_rounded_once(found, exact):
  """All but a few, whose float32 result lies beside a tie, are the exact number rounded."""
  assert found.dtype == jnp.bfloat16
  assert (np.asarray(found) == exact.astype(jnp.bfloat16)).mean() > 0.99


@pytest.mark.parametrize("offset", [False, True])
def test_an_rms_norm_rounds_once(offset):
  x, exact = draw(0, 64, 48, std=3.0)
  scale, s = draw(1, 48, mean=0.0 if offset else 1.0, std=0.2)
  y = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6) * (s + offset)
  assert_rounded_once(RMSNorm(1e-6, offset).apply({"params": {"scale": scale}}, x), y)


@pytest.mark.parametrize("kind", ["width", "layer"])
def test_a_norm_over_heads_rounds_once(kind):
  x, exact = draw(2, 2, 2, 3, 2, 40, 6, std=3.0)  # [B, K, G, R, S, d]
  scale, s = draw(3, 2, 2, 6, mean=1.0, std=0.2)
  bias, b = draw(4, 2, 2, 6, std=0.2)
  s, b = (a[None, :, None, :, None] for a in (s, b))
  if kind == "width":
    y = exact / np.sqrt((exact**2).mean((1, 3, 5), keepdims=True) + 1e-6) * s
  else:
    centred = exact - exact.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * s + b
  params = {"scale": scale} | ({"bias": bias} if kind == "layer" else {})
  config = tiny.config(qk_norm=kind, head_dim=6)
  assert_rounded_once(WideNorm(config).apply({"params": params}, x), y)


def test_a_rotation_rounds_once():
  """Sine and cosine stay float32, whatever is rotated."""
  x, exact = draw(5, 1, 2, 1, 2, 50, 8)
  angle = np.arange(50)[:, None] * 10.0 ** -np.arange(4)
  rotation = tuple(f(angle)[None, None].astype(np.float32) for f in (np.sin, np.cos))
  turned = (exact[..., :4] + 1j * exact[..., 4:]) * np.exp(1j * angle)
  expected = np.concatenate([turned.real, turned.imag], -1)
  assert_rounded_once(rotate(x, rotation), expected)


def one_by_one(q, k, v, scale, visible):
  """Attention in float64: q [S, d], k [T, d], v [T, d], visible [S, T]."""
  scores = np.where(visible, q @ k.T * scale, -np.inf)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True) @ v


def own(k, v):
  """Keys [T, d] and values as the one head of one sample."""
  return KV(k.T[None, None, None], v[None, None, None])


def both(q, k, v, scale, real):
  """Plain attention and that by blocks of S causal queries; real: which keys are."""
  size = len(q)
  at = np.arange(size, dtype=np.int32)[None, None]
  causal = np.tril(np.ones((size, size), bool)) & real
  q = q[None, None, None, None]
  plain = attend(q, [("bkg", own(k, v), causal[None, None, None, None])], scale=scale)
  keys = Keys(own(k, v), real[None, None], at)
  chunked = chunked_attend(q, at, keys, None, None, scale=scale, cap=0.0, chunk=5)
  return [np.asarray(a, np.float64)[0, 0, 0, 0] for a in (plain, chunked)], causal


def test_large_scores_of_bfloat16_are_not_rounded():
  """Scores about 100 would be rounded to halves, and their weights be wrong by a factor of e^¼."""
  rng = np.random.default_rng(6)
  base = rng.normal(size=16)
  low = lambda a: jnp.asarray(a, jnp.bfloat16)  # noqa: E731
  q, k = (low(4 * (base + 0.05 * rng.normal(size=(12, 16)))) for _ in range(2))
  v, values = draw(7, 12, 16)
  exact = [np.asarray(a, np.float64) for a in (q, k)]
  assert 60 < (exact[0] @ exact[1].T * 0.5).mean() < 250
  found, causal = both(q, k, v, 0.5, np.ones(12, bool))
  expected = one_by_one(*exact, values, 0.5, causal)
  for out in found:
    np.testing.assert_allclose(out, expected, atol=0.02)


def test_a_masked_key_counts_nothing_beside_the_lowest_scores():
  """A visible score of −2,000 and a hidden one of +2,000."""
  rng = np.random.default_rng(8)
  q = np.full((4, 2), 100.0, np.float32)
  k = np.array([[-10, -10], [10, 10], [-10, -10], [10, 10]], np.float32)
  v = rng.normal(size=(4, 2)).astype(np.float32)
  real = np.array([True, False, True, False])
  found, causal = both(q, k, v, 1.0, real)
  expected = one_by_one(q, k, v, 1.0, causal)
  np.testing.assert_allclose(expected[:2], np.tile(v[0], (2, 1)))
  for out in found:
    np.testing.assert_allclose(out, expected, atol=1e-6)
