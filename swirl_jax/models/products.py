"""Products whose float32 operands are multiplied as float32, on every device.

Left to itself JAX multiplies float32 in TF32 on a GPU and in one pass of bfloat16 on a TPU. On an
H200 a small model's log-probabilities were then off by up to 6e-3 instead of 5e-6, so the sampler,
the policy and the reward of a "float32" run would disagree. Products of bfloat16, which the recipes
for large models have, are exact either way: nothing changes for them.
"""

import jax
import jax.numpy as jnp


def precision(*arrays: jax.Array) -> jax.lax.Precision | None:
  """What a product of these, or into one of these, needs: HIGHEST if all are float32, else None,
  the backend's own.

  A gradient taken by JAX has the precision of the product that it is of.
  """
  exact = all(array.dtype == jnp.float32 for array in arrays)
  return jax.lax.Precision.HIGHEST if exact else None


def einsum(subscripts: str, a: jax.Array, b: jax.Array, *, out=None) -> jax.Array:
  """`jnp.einsum` of two operands at their `precision`; `out` is the dtype that it sums in, by
  default that of the operands.
  """
  return jnp.einsum(subscripts, a, b, precision=precision(a, b), preferred_element_type=out)
