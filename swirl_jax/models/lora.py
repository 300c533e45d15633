"""Low-rank adapters beside frozen weights: x W + (α / r) (x A) B for some of a layer's kernels.

A model is then two trees: the base, which every model of a run shares and nothing trains, and its
own adapters, stacked over the layers as the kernels are. `join` puts them together for a pass,
which multiplies by both: W + A B in bfloat16 would be W wherever an adapter has moved it by less
than half of its last place, which is most of it for most of a training. `merge` adds them once and
for all, for an export. arXiv:2106.09685.

The kernels are those of `models.transformer`: one A serves the queries, keys and values of "qkv",
one the gate and the input of "gate_up".
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from swirl_jax.models.numerics import einsum, precision, times

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
  """The tree that `models.transformer` runs: the base's, each part of its layers with the part's
  adapters under "lora".
  """
  layers = {part: {**base["layers"][part], "lora": own} for part, own in adapters.items()}
  return {**base, "layers": {**base["layers"], **layers}}


def product(
  subscripts: str, x: jax.Array, kernel: jax.Array, pair: Any, scale: float, *, pieces: int = 1
) -> jax.Array:
  """x W, x [..., inputs] and W [inputs, ...]; where there is an adapter x W + scale · (x A) B, by
  `subscripts`, whose letter i is the inputs' (n and r are taken), summed in float32 and rounded
  once to the dtype of x.

  pieces: the number of parts that the mesh's `tensor` cuts the inputs into. Each part's sum is
  rounded by itself and the parts are added in the dtype of x, as for x W alone: chips send no more
  than without adapters. Left to itself XLA sends x W in float32, and x A besides.
  """
  if pair is None:
    return times(x, kernel)
  rank = pair["a"].shape[-1]
  a = pair["a"].reshape(-1, rank).astype(x.dtype)
  b = pair["b"].reshape(rank, *kernel.shape[1:]).astype(x.dtype)
  # In front of the custom_vjp: behind it XLA's CPU compiler gathers them once more for a gradient.
  kernel, a = (w.reshape(pieces, -1, *w.shape[1:]) for w in (kernel, a))
  return _beside(subscripts, scale, pieces, x, kernel, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _beside(subscripts, scale, pieces, x, kernel, a, b):
  base, change = _products(subscripts, pieces, x, kernel, a, b, out=jnp.float32)
  return _sum((base + scale * change).astype(x.dtype))


def _products(subscripts, pieces, x, kernel, a, b, out=None):
  """x W and (x A) B of each piece of the inputs, [pieces, ...] each, as kernel and a are."""
  ins, inner, result = subscripts.replace("->", ",").split(",")
  x = jnp.moveaxis(x.reshape(*x.shape[:-1], pieces, -1), -2, 0)
  low = einsum(f"n{ins},nir->n{ins.replace('i', 'r')}", x, a)
  change = einsum(f"n{ins},{inner}->n{result}".replace("i", "r"), low, b, out=out)
  return einsum(f"n{ins},n{inner}->n{result}", x, kernel, out=out), change


def _sum(x):
  """Over the pieces. `jnp.sum` adds bfloat16 in float32, and that is what chips would send."""
  return jax.lax.reduce_sum(x, (0,))


def _saved(subscripts, scale, pieces, *operands):
  return _beside(subscripts, scale, pieces, *operands), operands


def _pulled_back(subscripts, scale, pieces, operands, d_out):
  """That of the products in the dtype of x, in which d_out comes: none with a float32 operand."""

  def plain(*operands):
    base, change = _products(subscripts, pieces, *operands)
    return _sum(base + scale * change)

  return jax.vjp(plain, *operands)[1](d_out)


_beside.defvjp(_saved, _pulled_back)


def merge(params: Any, scale: float) -> Any:
  """A joined tree as a plain one: W + scale · A B in the dtype of W, which should be float32."""
  layers = dict(params["layers"])
  for part in layers:
    layers[part] = dict(layers[part])
    for target, pair in layers[part].pop("lora", {}).items():
      kernel = layers[part][target]
      rank, lead = pair["a"].shape[-1], len(kernel)
      a = pair["a"].reshape(lead, -1, rank).astype(jnp.float32)
      b = pair["b"].reshape(lead, rank, -1).astype(jnp.float32)
      change = scale * jnp.matmul(a, b, precision=precision(a, b, kernel))
      layers[part][target] = kernel + change.reshape(kernel.shape).astype(kernel.dtype)
  return params | {"layers": layers}
