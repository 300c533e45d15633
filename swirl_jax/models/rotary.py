"""Rotary positions: frequencies, their angles, the rotation. arXiv:2104.09864."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax.models.transformer_config import TransformerConfig

Rotation = tuple[jax.Array, jax.Array]  # sine and cosine


def frequencies(config: TransformerConfig) -> np.ndarray:
  """θ^(−2i/d), i < d/2, scaled as the config says: float32 [R, d/2].

  R is 1, or 2 where sliding layers have a θ of their own: the full layers' and the sliding ones'.
  """
  f = _scaled(_unscaled(config.rope_theta, config.head_dim), config)
  if not config.sliding_rope_theta:
    return f[None]
  return np.stack([f, _unscaled(config.sliding_rope_theta, config.head_dim)])


def _unscaled(theta: float, head_dim: int) -> np.ndarray:
  # The order of float32 operations that the checkpoints were trained with.
  exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
  return np.float32(1) / np.float32(theta) ** exponent


def _scaled(f: np.ndarray, config: TransformerConfig) -> np.ndarray:
  """linear: f / factor. llama3: with x = original_len · f / 2π, the turns in the original context,

      f' = f (w + (1 − w) / factor),  w = clip((x − low) / (high − low), 0, 1)

  low and high being the low and high frequency factors. arXiv:2407.21783.
  """
  if config.rope_scaling == "none":
    return f
  factor = np.float32(config.rope_factor)
  if config.rope_scaling == "linear":
    return f / factor
  low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
  turns = config.rope_original_len / (2 * math.pi / f.astype(np.float64))
  w = np.clip((turns - low) / (high - low), 0.0, 1.0).astype(np.float32)
  return (1 - w) * f / factor + w * f


def rotary(config: TransformerConfig, positions: jax.Array) -> Rotation:
  """Sine and cosine of positions · frequency. [B, G, S] → float32 [B, G, S, d/2] each, or where two
  kinds of layers differ [2, B, G, S, d/2].

  Once a pass and not once a layer.
  """
  f = frequencies(config)
  if len(f) == 1:
    angle = positions.astype(jnp.float32)[..., None] * f.reshape(1, 1, 1, -1)
  else:
    angle = positions.astype(jnp.float32)[None, ..., None] * f.reshape(2, 1, 1, 1, -1)
  return jnp.sin(angle), jnp.cos(angle)


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
  """Rotates pairs (i, i + d/2).

  x [B, K, G, R, S, d], rotation [B, G, S, d/2]; its axis G may be 1 → the shape of x.
  """
  half = x.shape[-1] // 2
  sin, cos = (a[:, None, :, None] for a in rotation)
  a, b = (h.astype(jnp.float32) for h in jax.lax.split(x, (half, half), x.ndim - 1))
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)
