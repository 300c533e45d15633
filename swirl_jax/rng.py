"""Named, stateless random streams: a key is a function of the root key and of names alone.

A resumed run therefore draws what an uninterrupted one would: `stream(root, "rollout", iteration,
phase, step)` needs no state that would have to be saved.
"""

import hashlib
import numbers

import jax
import jax.numpy as jnp

_LIMIT = 2**31  # integers have the top bit clear, hashed strings have it set: they never meet


def _word(name):
  """One name → a 32-bit word: a string's hash with the top bit set, an integer itself."""
  if isinstance(name, str):
    return _LIMIT | int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
  if isinstance(name, bool):
    raise TypeError(f"stream: a name is a string or an integer; found {name!r}")
  if isinstance(name, numbers.Integral):
    if not 0 <= name < _LIMIT:
      raise ValueError(f"stream: an integer name must be in [0, 2**31); found {name}")
    return int(name)
  dtype = getattr(name, "dtype", None)
  if dtype is None or not jnp.issubdtype(dtype, jnp.integer) or jnp.shape(name):
    shape = f" of dtype {dtype}, shape {jnp.shape(name)}" if dtype is not None else ""
    raise TypeError(
      f"stream: a name is a string or an integer scalar; found {type(name).__name__}{shape}"
    )
  return name


def stream(root: jax.Array, *names) -> jax.Array:
  """key = fold_in(... fold_in(root, names[0]) ..., names[-1]). A typed key [] → a typed key [].

  Names are strings (static) or non-negative integers below 2**31 (which may be traced, and are
  then trusted). Order and nesting matter: ("a", "b"), ("b", "a") and ("ab",) are three streams, as
  are 1 and "1". Strings are hashed by SHA-256, the same in every process and version.
  """
  if not jnp.issubdtype(getattr(root, "dtype", None), jax.dtypes.prng_key):
    raise TypeError(f"stream: root must be a typed key (jax.random.key); found {root!r}")
  if not names:
    raise ValueError("stream: at least one name is needed; the root key itself is no stream")
  key = root
  for name in names:
    key = jax.random.fold_in(key, jnp.asarray(_word(name), jnp.uint32))
  return key
