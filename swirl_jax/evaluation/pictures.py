"""How alike two pictures are, pixel by pixel: PSNR and SSIM. Pure functions, jittable.

N pairs of pictures, float32 [N, H, W, 3] in [0, 1] → float32 [N]. ValueError for other shapes. And
`Measure`, what these and other ways of comparing pictures are to a scorecard.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax.data.transitions import Record

# dB. Equal pictures have no finite PSNR, and a mean over pictures needs one: larger ones count as
# this much. A picture that is wrong by one of 255 levels everywhere has 48.1 dB.
PSNR_CAP = 60.0
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03  # Wang et al. 2004


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
  """−10 log10 of the mean squared difference over all pixels and channels, in dB; the peak is 1.

  Infinite where the pictures are equal: see `capped`.
  """
  _check("psnr", a, b)
  return -10.0 * jnp.log10(jnp.square(a - b).mean((1, 2, 3)))


def capped(decibels: jax.Array) -> jax.Array:
  """min(PSNR, `PSNR_CAP`): what means over pictures are taken of."""
  return jnp.minimum(decibels, PSNR_CAP)


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
  """Structural similarity: with means, variances and the covariance under a Gaussian window,

    (2 μ_a μ_b + C1)(2 σ_ab + C2) / ((μ_a² + μ_b² + C1)(σ_a² + σ_b² + C2)),  C_i = K_i²,

  averaged over the places at which the whole window lies within the picture, then over channels.
  The window has 11 × 11 pixels, σ = 1.5 and weights that sum to 1 (so the variances are those of a
  population); K1 = 0.01, K2 = 0.03. Wang, Bovik, Sheikh & Simoncelli 2004, IEEE TIP 13(4). There is
  no place for the window in a picture of under 11 pixels: ValueError, instead of another window
  whose figures couldn't be compared.
  """
  _check("ssim", a, b)
  if min(a.shape[1:3]) < _WINDOW:
    raise ValueError(
      f"ssim: pictures of {a.shape[1]} × {a.shape[2]} pixels; allowed are {_WINDOW} × {_WINDOW} "
      "and more"
    )
  a, b = a - 0.5, b - 0.5  # E[a²] − E[a]² loses least around 0
  mean_a, mean_b = _blurred(a), _blurred(b)
  var_a, var_b = _blurred(a * a) - mean_a * mean_a, _blurred(b * b) - mean_b * mean_b
  covariance = _blurred(a * b) - mean_a * mean_b
  mean_a, mean_b = mean_a + 0.5, mean_b + 0.5
  c1, c2 = _K1**2, _K2**2
  over = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
  under = (mean_a * mean_a + mean_b * mean_b + c1) * (var_a + var_b + c2)
  return (over / under).mean((1, 2, 3))


def _blurred(a: jax.Array) -> jax.Array:
  """The Gaussian mean at every place of the whole window: [N, H, W, 3] → [N, H − 10, W − 10, 3].

  Sums of shifted pictures and no convolution, which an accelerator would round to bfloat16.
  """
  at = np.arange(_WINDOW) - _WINDOW // 2
  weights = np.exp(-0.5 * (at / _SIGMA) ** 2)
  weights = (weights / weights.sum()).astype(np.float32)
  for axis in (1, 2):
    room = a.shape[axis] - _WINDOW + 1
    parts = (jax.lax.slice_in_dim(a, i, i + room, axis=axis) for i in range(_WINDOW))
    a = sum(w * part for w, part in zip(weights, parts, strict=True))
  return a


def _check(name: str, a: jax.Array, b: jax.Array) -> None:
  if a.ndim != 4 or a.shape[-1] != 3 or a.shape != b.shape:
    raise ValueError(f"{name}: shapes {a.shape} and {b.shape}; allowed is [N, H, W, 3], twice")


class Measure(NamedTuple):
  """A way to compare pictures.

  names: its scores. features: uint8 [B, H, W, 3] → whatever it needs of a picture. scores:
  (records, features of x, of the prediction, of the truth) → {name: float [B]}, NaN where a score
  isn't defined.
  """

  names: tuple[str, ...]
  features: Callable[[np.ndarray], Any]
  scores: Callable[[Sequence[Record], Any, Any, Any], Mapping[str, np.ndarray]]


@jax.jit
def _pixels(prediction, truth):
  decibels = capped(psnr(prediction, truth))
  return {"psnr": decibels, "ssim": ssim(prediction, truth)}


PIXELS = Measure(
  ("psnr", "ssim"),
  lambda found: jnp.float32(found) / 255,
  lambda records, x, prediction, truth: _pixels(prediction, truth),
)
