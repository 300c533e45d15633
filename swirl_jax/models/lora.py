"""Low-rank adapters beside frozen weights: W + (α / r) · A B for some of a layer's kernels.

A model is then two trees: the base, which every model of a run shares and nothing trains, and its
own adapters, stacked over the layers as the kernels are. `join` puts them together for a pass,
which adds A B to a layer's kernels where it runs that layer, so that no second copy of the weights
exists; `merge` adds them once and for all. arXiv:2106.09685.

The kernels are those of `models.transformer`: one A serves the queries, keys and values of "qkv",
one the gate and the input of "gate_up".
"""

from typing import Any

import jax
import jax.numpy as jnp

from swirl_jax.models.numerics import precision

# Where a target lies in a layer, and how many axes of its kernel are inputs.
TARGETS = {
  "qkv": ("attention", 1),  # [D, K, H/K + 2, d]
  "out": ("attention", 3),  # [K, H/K, d, D]
  "gate_up": ("mlp", 1),  # [D, 2, F]
  "down": ("mlp", 1),  # [F, D]
}


def init_adapters(base: Any, key: jax.Array, *, rank: int, targets: tuple[str, ...]) -> Any:
  """{"attention": {"qkv": {"a": [L, in, r], "b": [L, r, out]}, ...}, "mlp": {...}}, float32.

  A is normal with variance 1 / inputs and B zero, so that the joined model is the base. `base` may
  be the shapes of one.
  """
  out: dict[str, dict[str, Any]] = {}
  for target, subkey in zip(targets, jax.random.split(key, len(targets)), strict=True):
    part, inputs = TARGETS[target]
    lead, *shape = base["layers"][part][target].shape
    size = 1
    for n in shape[:inputs]:
      size *= n
    a = jax.random.normal(subkey, (lead, *shape[:inputs], rank)) * size**-0.5
    out.setdefault(part, {})[target] = {"a": a, "b": jnp.zeros((lead, rank, *shape[inputs:]))}
  return out


def join(base: Any, adapters: Any) -> Any:
  """The tree that `models.transformer` runs: the base's, with the adapters under "lora"."""
  return {**base, "lora": adapters}


def adapt(layers: Any, adapters: Any, scale: float) -> Any:
  """Kernels + scale · A B in the kernels' dtype: of one layer, or of all, stacked."""
  out = dict(layers)
  for part, targets in adapters.items():
    out[part] = dict(out[part])
    for target, pair in targets.items():
      kernel = layers[part][target]
      stacked = pair["a"].ndim - TARGETS[target][1] - 1
      lead, rank = kernel.shape[:stacked], pair["a"].shape[-1]
      a = pair["a"].reshape(*lead, -1, rank).astype(jnp.float32)
      b = pair["b"].reshape(*lead, rank, -1).astype(jnp.float32)
      change = scale * jnp.matmul(a, b, precision=precision(a, b, kernel))
      out[part][target] = kernel + change.reshape(kernel.shape).astype(kernel.dtype)
  return out


def merge(params: Any, scale: float) -> Any:
  """A joined tree as a plain one; a plain one as it is."""
  if "lora" not in params:
    return params
  plain = {k: v for k, v in params.items() if k != "lora"}
  return plain | {"layers": adapt(params["layers"], params["lora"], scale)}
