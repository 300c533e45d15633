"""The norms of a transformer, in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from swirl_jax.models.transformer_config import TransformerConfig

LAYER_NORM_EPS = 1e-5  # of qk_norm "layer": Chameleon's configuration has no field for it


class RMSNorm(nn.Module):
  """y = x / sqrt(mean x² + ε) · scale, in float32. [..., D] → [..., D]. arXiv:1910.07467.

  With `offset` · (1 + scale), as Gemma stores it.
  """

  eps: float
  offset: bool = False

  @nn.compact
  def __call__(self, x):
    scale = scale_param(self, (x.shape[-1],), offset=self.offset)
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
    return (y * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


def scale_param(module: nn.Module, shape: tuple[int, ...], *, offset: bool):
  """What a norm multiplies by, at first 1: `scale`, or 1 + `scale`."""
  initial = nn.initializers.zeros if offset else nn.initializers.ones
  scale = module.param("scale", initial, shape)
  return 1.0 + scale.astype(jnp.float32) if offset else scale


class WideNorm(nn.Module):
  """Norms of queries or keys [B, K, G, R, S, d] with a scale for every head, in float32.

  qk_norm "width": RMS over all heads (K, R, d) of a token together. "layer": LayerNorm over d.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(self, x):
    c, shape = self.config, (x.shape[1], x.shape[3], x.shape[5])
    over_heads = lambda a: a[None, :, None, :, None, :]  # noqa: E731
    scale = over_heads(scale_param(self, shape, offset=c.norm_offset))
    y = x.astype(jnp.float32)
    if c.qk_norm == "width":
      y = y * jax.lax.rsqrt(jnp.square(y).mean((1, 3, 5), keepdims=True) + c.norm_eps)
      return (y * scale).astype(x.dtype)
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + LAYER_NORM_EPS)
    bias = over_heads(self.param("bias", nn.initializers.zeros, shape))
    return (y * scale + bias).astype(x.dtype)
