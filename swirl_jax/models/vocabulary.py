"""Tokens that a model was not trained with: where their rows of embedding and head come from."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from swirl_jax import sharding
from swirl_jax.models.transformer import TransformerConfig

_MULTIPLE = 128  # tensor axes of 2, 4, ... divide it; the mesh itself may be another later on


def grown(vocab_size: int, needed: int) -> int:
  """The rows of a vocabulary that needs so many: those it has, or, where they are too few, `needed`
  rounded up to a multiple of 128.
  """
  return vocab_size if needed <= vocab_size else -(-needed // _MULTIPLE) * _MULTIPLE


def add_tokens(
  params: Any, config: TransformerConfig, added: Sequence[int], *, known: int
) -> tuple[Any, TransformerConfig]:
  """e_i = mean_{j < known} e_j for every added id i: embedding rows and, where it is not tied, head
  columns, in float32 before rounding. → (params, config), laid out by the rules of `sharding`.

  The vocabulary grows to hold the added ids (`grown`); rows beyond them are the mean too. It never
  shrinks: where a checkpoint has padding rows behind its `known` tokens, added ids take those over,
  and other rows stay as they are, bit for bit. The mean puts the new logits where an average
  token's are, so that a trained model's distribution moves little.
  """
  if not 1 <= known <= config.vocab_size:
    raise ValueError(f"known = {known}: allowed is 1 to vocab_size = {config.vocab_size}.")
  if any(i < known for i in added):
    raise ValueError(f"added = {min(added)}: a token that the model knows (known = {known}).")
  size = grown(config.vocab_size, max(added, default=-1) + 1)
  fresh = np.zeros(size, bool)
  fresh[list(added)] = True
  fresh[config.vocab_size :] = True
  new = dict(params)
  for name, axis in (("embedding", 0), ("head", 1)):
    if name not in params:  # tied
      continue
    leaf = params[name]
    shape = (size, config.d_model) if axis == 0 else (config.d_model, size)
    where = leaf.sharding
    if isinstance(where, NamedSharding):
      spec = sharding.partition_spec(name, shape, where.mesh)
      where = NamedSharding(where.mesh, spec)
    new[name] = jax.jit(functools.partial(_grow, axis=axis, known=known), out_shardings=where)(
      leaf, fresh
    )
  return new, dataclasses.replace(config, vocab_size=size)


def _grow(leaf: jax.Array, fresh: jax.Array, *, axis: int, known: int) -> jax.Array:
  mean = jax.lax.slice_in_dim(leaf, 0, known, axis=axis)
  mean = mean.astype(jnp.float32).mean(axis, keepdims=True).astype(leaf.dtype)
  pad = [(0, 0), (0, 0)]
  pad[axis] = (0, fresh.shape[0] - leaf.shape[axis])
  return jnp.where(jnp.expand_dims(fresh, 1 - axis), mean, jnp.pad(leaf, pad))
