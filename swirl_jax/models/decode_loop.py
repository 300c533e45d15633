"""What a decoding loop has beside the transformer: an empty cache, and for unrolled layers each
layer's variables, their kernels turned where that pays.
"""

from typing import Any

import jax
import jax.numpy as jnp

from swirl_jax.models import lora
from swirl_jax.models.attention import KV
from swirl_jax.models.transformer_config import TransformerConfig

FEW_ROWS, MANY_TOKENS = 32, 32  # the most rows and the fewest tokens for which `few` holds


def empty_cache(config: TransformerConfig, batch: int, group: int, length: int):
  """Zeros for `length` tokens of B × G samples, [B, K, G, d, T] and [B, K, G, T, d], in the layout
  that the config's layers take. T is `length` rounded up to a multiple of 16, which vectors like.
  """
  length = -(-length // 16) * 16
  lead = (config.n_layers,) if config.scan_layers else ()
  shape, d = lead + (batch, config.n_kv_heads, group), config.head_dim

  def make():
    dtype = config.compute_dtype
    return KV(jnp.zeros((*shape, d, length), dtype), jnp.zeros((*shape, length, d), dtype))

  return make() if config.scan_layers else tuple(make() for _ in range(config.n_layers))


def few(config: TransformerConfig, rows: int, length: int) -> bool:
  """Whether a loop that decodes so many tokens of so many rows takes its products by `times_few`:
  few rows, and tokens enough. With 32 rows and 20 MB of weights on two CPU cores (AVX2) 64 tokens
  then cost three quarters to four fifths of the CPU-seconds (`benchmarks/compare.py`). A short
  latent action does not save what turning the kernels costs.

  Not with scanned layers, whose kernels stay where they are.
  """
  return not config.scan_layers and rows <= FEW_ROWS and length >= MANY_TOKENS


def split_layers(params: Any, config: TransformerConfig, *, turn: bool, after: jax.Array) -> Any:
  """The parameters for a loop of many passes. Where layers are unrolled, each gets variables of its
  own: a slice of the stack is a copy, and XLA moves plain slices into the loop, to every pass. With
  `turn` (see `few`) kernels without adapters are among them as `times_few` has them, in the
  collection "turned".

  `after`, a non-negative integer that the program computes, keeps them out of the loop, and the
  copies from being made before it is known, so that they use the memory of what came before.
  (optimization_barrier does not: XLA's CPU compiler drops it before it orders operations.)
  """
  if config.scan_layers:
    return params
  zero = jnp.minimum(after, 0)

  def take(i):
    at = lambda p: jax.lax.dynamic_index_in_dim(p, i + zero, keepdims=False)  # noqa: E731
    layer = jax.tree.map(at, params["layers"])
    return {"params": layer} | ({"turned": _turned(layer)} if turn else {})

  return {**params, "layers": tuple(take(i) for i in range(config.n_layers))}


def _turned(layer: Any) -> Any:
  """A layer's kernels with their inputs last, as one axis."""
  out: dict[str, dict[str, jax.Array]] = {}
  for target, (part, inputs) in lora.TARGETS.items():
    if target not in layer[part].get("lora", {}):
      kernel = layer[part][target]
      kernel = kernel.reshape(-1, *kernel.shape[inputs:])
      out.setdefault(part, {})[target] = jnp.moveaxis(kernel, 0, -1)
  return out
