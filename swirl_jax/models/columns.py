"""Some ranges of the vocabulary as a vocabulary of its own, in which a token's id is its place.

What a role may sample is often a small part of the vocabulary: 8,192 image codes of 264,192 tokens.
The softmax renormalised over that part needs only the head's columns there. `None` is everything:
then an id is its own place, and nothing is computed.
"""

import itertools

import jax
import jax.numpy as jnp

from swirl_jax import sharding
from swirl_jax.models import transformer

Ranges = tuple[tuple[int, int], ...]  # (start, stop) of token ids, rising and disjoint


def check(ranges: Ranges | None, name: str) -> None:
  """Raises ValueError, naming the field, for ranges that are none, empty, or don't rise."""
  if ranges is None:
    return
  edges = [edge for part in ranges for edge in part]
  rising = all(a < b for a, b in ranges) and edges == sorted(edges) and edges[:1] >= [0]
  if not rising:
    raise ValueError(
      f"{name} = {ranges}: allowed are ranges (start, stop) of token ids, rising and disjoint."
    )


def count(ranges: Ranges | None, vocab_size: int) -> int:
  """How many tokens the ranges hold."""
  return vocab_size if ranges is None else sum(b - a for a, b in ranges)


def head(params, config: transformer.TransformerConfig, ranges: Ranges | None) -> jax.Array:
  """The matrix from hidden states to the logits of the ranges alone: W columns of [D, V], [D, W].

  Over a mesh it is split as the head is. Slices with that constraint make XLA send columns from
  device to device; it doesn't gather the head. Raises ValueError for ids beyond the vocabulary.
  """
  if ranges is None:
    return transformer.head_kernel(params, config)
  if ranges[-1][1] > config.vocab_size:
    raise ValueError(f"ranges {ranges}: the vocabulary has {config.vocab_size} tokens.")
  name, axis = ("embedding", 0) if config.tie_embeddings else ("head", 1)
  parts = [jax.lax.slice_in_dim(params[name], a, b, axis=axis) for a, b in ranges]
  kernel = transformer.head_kernel({name: jnp.concatenate(parts, axis)}, config)
  return sharding.constrain(kernel, sharding.ANY, "tensor")


def ids(place: jax.Array, ranges: Ranges | None) -> jax.Array:
  """The token ids of places in the columns, int32 [...] → [...]."""
  if ranges is None:
    return place
  out = place + ranges[0][0]
  for (_, stop), (start, _) in itertools.pairwise(ranges):
    out = jnp.where(out < stop, out, out + (start - stop))
  return out


def places(token: jax.Array, ranges: Ranges | None) -> jax.Array:
  """The places of token ids in the columns, int32 [...] → [...]; 0 for an id that has none, as
  padding may not.
  """
  if ranges is None:
    return token
  out, before = jnp.zeros_like(token), 0
  for start, stop in ranges:
    out = jnp.where((start <= token) & (token < stop), token + (before - start), out)
    before += stop - start
  return out
