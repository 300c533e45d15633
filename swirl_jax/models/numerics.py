"""Products and sums whose precision is said: float32 is multiplied as float32, sums over tokens are
float32, on every device.

Products. Left to itself JAX multiplies float32 in TF32 on a GPU and in one pass of bfloat16 on a
TPU. On an H200 a small model's log-probabilities were then off by up to 6e-3 instead of 5e-6, so
the sampler, the policy and the reward of a "float32" run would disagree. Products of bfloat16,
which the recipes for large models have, are exact either way: nothing changes for them.

Sums. The gradient of a lookup or of a bias is a sum over all tokens of a batch. JAX takes it in the
dtype of the layer, and in bfloat16 a sum of equal terms stops growing after some hundreds: the
embedding of a frequent token and the biases would learn too little.
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


@jax.custom_vjp
def times(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x W for training: [*X, I], [I, *R] → [*X, *R], of one dtype, at their `precision`.

  The kernel's gradient, Σ x d over the axes X, has the narrower of x and d as its left operand; JAX
  alone always has d there. Where it is d the result must be turned, and of two axes XLA would turn
  an operand instead, to a product for which its CPU backend has no fast kernel: so there is a third
  axis, of length 1. (`benchmarks/compare.py` has what a step takes.)
  """
  return jnp.tensordot(x, kernel, 1, precision=precision(x, kernel))


def _times_saved(x, kernel):
  return times(x, kernel), (x, kernel)


def _times_pulled_back(operands, d):
  x, kernel = operands
  exact = precision(x, kernel)
  rows, results = tuple(range(x.ndim - 1)), tuple(range(1 - kernel.ndim, 0))
  d_x = jnp.tensordot(d, kernel, axes=(results, results), precision=exact)
  if x.size <= d.size:
    return d_x, jnp.tensordot(x, d, axes=(rows, rows), precision=exact)
  turned = jnp.tensordot(d[..., None], x, axes=(rows, rows), precision=exact)  # [*R, 1, I]
  return d_x, jnp.moveaxis(turned, -1, 0)[..., 0]


times.defvjp(_times_saved, _times_pulled_back)


def times_few(kernel: jax.Array, x: jax.Array, *, out=None) -> jax.Array:
  """x W of few rows, W with its inputs last: [*X, I], [*R, I] → [*R, *X] at their `precision`.

  It is computed as W xᵀ and then turned: XLA's CPU backend reads the left operand once and in
  order, and of the right one a few hundred bytes of each row again for every block of the other's
  rows. (`decode_loop.few` says what it is worth.)
  """
  y = jnp.tensordot(
    kernel, x, axes=(-1, -1), precision=precision(kernel, x), preferred_element_type=out
  )
  inner = kernel.ndim - 1
  return jnp.transpose(y, (*range(inner, y.ndim), *range(inner)))


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """x + bias in the dtype of x, the bias broadcast to its shape; the gradient of the bias is summed
  in float32.
  """
  return (x.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


def lookup(table: jax.Array, tokens: jax.Array) -> jax.Array:
  """table[tokens]: [V, D], int32 [...] → [..., D] in the table's dtype; the gradient of the table
  is summed in float32. Tokens must be from 0 to V − 1.
  """
  shape, dtype = table.shape, table.dtype

  def forward(table, tokens):
    return table[tokens]

  def save(table, tokens):
    return table[tokens], tokens

  def backward(tokens, d_out):
    total = jnp.zeros(shape, jnp.float32).at[tokens].add(d_out.astype(jnp.float32))
    return total.astype(dtype), None

  run = jax.custom_vjp(forward)
  run.defvjp(save, backward)
  return run(table, tokens)
