"""PSNR and SSIM against arithmetic by hand and scikit-image's own figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swirl_jax.evaluation import pictures


def grey(value, size=12):
  return jnp.full((1, size, size, 3), value, jnp.float32)


def pair(height, width, share):
  """Two patterned pictures, the second one moved to the first but for `share` of the difference."""
  i, j, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
  a = ((7 * i + 13 * j + 31 * c) % 64) / 63
  b = ((7 * i + 11 * j + 29 * c + i * j) % 64) / 63
  return jnp.float32(a[None]), jnp.float32((a + share * (b - a))[None])


def test_psnr_by_hand():
  """Differences of 0.1 everywhere: MSE 0.01, 20 dB; of 1: 0 dB; in one of four pixels: −log10 ¼."""
  assert pictures.psnr(grey(0.5), grey(0.6)) == pytest.approx(20.0, abs=1e-4)
  assert pictures.psnr(grey(0.0), grey(1.0)) == 0.0
  a = jnp.zeros((2, 2, 2, 3))
  b = a.at[1, 0, 0].set(1.0)
  found = pictures.psnr(a, b)
  assert found[0] == jnp.inf and found[1] == pytest.approx(10 * np.log10(4), abs=1e-4)
  np.testing.assert_array_equal(pictures.capped(found), [60.0, found[1]])
  level = pictures.psnr(grey(100 / 255), grey(101 / 255))
  assert level == pytest.approx(20 * np.log10(255), abs=1e-3) and level < pictures.PSNR_CAP


def test_ssim_by_hand():
  """Without variance it is (2 a b + C1) / (a² + b² + C1)."""
  for a, b in ((0.5, 0.6), (0.0, 1.0), (0.2, 0.2)):
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert pictures.ssim(grey(a), grey(b)) == pytest.approx(expected, abs=2e-5)


# structural_similarity(a, b, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5,
# use_sample_covariance=False) and peak_signal_noise_ratio(a, b, data_range=1) of scikit-image
# 0.26.0, in float64.
SCIKIT = (
  ((11, 11, 1.0), 0.12278713821490556, 8.880230069709846),
  ((11, 11, 0.25), 0.9327670549937706, 20.921429896269093),
  ((16, 24, 1.0), 0.013854857928690255, 8.03863989936779),
  ((16, 24, 0.02), 0.9995950855162746, 42.01803998608817),
  ((40, 33, 0.25), 0.9247163899222658, 19.912856537818815),
)


@pytest.mark.parametrize("given, ssim, psnr", SCIKIT)
def test_against_scikit_image(given, ssim, psnr):
  a, b = pair(*given)
  assert pictures.ssim(a, b)[0] == pytest.approx(ssim, abs=2e-6)
  assert pictures.psnr(a, b)[0] == pytest.approx(psnr, abs=1e-3)


def test_identities():
  """Equal pictures score 1; the order doesn't matter; a picture's score doesn't depend on those
  beside it; jit changes nothing.
  """
  a, b = (jnp.concatenate(p) for p in zip(pair(16, 24, 1.0), pair(16, 24, 0.25), strict=True))
  np.testing.assert_allclose(pictures.ssim(a, a), 1.0, atol=1e-6)
  for score in (pictures.psnr, pictures.ssim):
    found = score(a, b)
    np.testing.assert_allclose(score(b, a), found, rtol=1e-5)
    np.testing.assert_allclose(score(a[1:], b[1:]), found[1:], rtol=1e-5)
    np.testing.assert_allclose(jax.jit(score)(a, b), found, rtol=1e-5)


def test_bad_shapes():
  with pytest.raises(ValueError, match=r"ssim: pictures of 12 × 10 pixels; allowed are 11 × 11"):
    pictures.ssim(jnp.zeros((1, 12, 10, 3)), jnp.zeros((1, 12, 10, 3)))
  for score in (pictures.psnr, pictures.ssim):
    with pytest.raises(ValueError, match=r"shapes \(1, 12, 12, 3\) and \(2, 12, 12, 3\); allowed"):
      score(jnp.zeros((1, 12, 12, 3)), jnp.zeros((2, 12, 12, 3)))
