"""A large batch as several small ones: the activations of one at a time, and the same gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def split(tree: Any, micro: int) -> Any:
  """[R, ...] → [M, R / M, ...], M = R / micro; strided, so that each holds rows of every device.

  The leading axis of the first leaf is R; others may be shorter or longer, and divide by M. A
  `micro` of 0 leaves all rows together. Raises ValueError for what doesn't divide.
  """

  def cut(a):
    if size % (micro or size) or a.shape[0] % count:
      raise ValueError(
        f"micro_batch = {micro}: {size} rows and {a.shape[0]} rows beside them must divide into "
        "micro-batches of it."
      )
    return a.reshape(a.shape[0] // count, count, *a.shape[1:]).swapaxes(0, 1)

  size = jax.tree.leaves(tree)[0].shape[0]
  count = size // (micro or size)
  return jax.tree.map(cut, tree)


def gradient(
  loss: Callable[[Any, Any], tuple[jax.Array, Any]], params: Any, parts: Any
) -> tuple[jax.Array, Any, Any]:
  """Σ over the parts [M, ...] of a loss, of its gradient by `params`, and of its metrics.

  loss: (params, part) → (loss, metrics). Exact where its terms have the weights of the whole batch.
  """

  def add(total, part):
    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params, part)
    return jax.tree.map(jnp.add, total, (value, grads, metrics)), None

  first = jax.tree.map(lambda a: a[0], parts)
  (value, metrics), grads = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), params, first)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (value, grads, metrics))
  return jax.lax.scan(add, zeros, parts)[0]
