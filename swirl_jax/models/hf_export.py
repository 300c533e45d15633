"""Models out: a folder that `transformers` opens as is.

The rows of `tensor_table` backwards, one tensor at a time, into safetensors of a given size.
"""

import contextlib
import dataclasses
import functools
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from swirl_jax import sharding
from swirl_jax.models import safetensors_files, tensor_table, variants
from swirl_jax.models.huggingface import CONFIG, TOKENIZER
from swirl_jax.models.safetensors_files import Entry, Tensor
from swirl_jax.models.tensor_table import Row
from swirl_jax.models.transformer_config import DTYPES, TransformerConfig

GENERATION, CARD = "generation_config.json", "README.md"
SHARD_BYTES = 5 * 10**9
# What an earlier export may have left and a reader would take for this one's.
_READ = ("*.safetensors", safetensors_files.INDEX, GENERATION, *TOKENIZER)


def save(
  folder: str | os.PathLike,
  params: Any,
  config: TransformerConfig,
  hf_config: Mapping[str, Any],
  *,
  tokenizer: Any = None,
  generation: Mapping[str, Any] | None = None,
  card: str | None = None,
  rest: Sequence[Tensor] = (),
  dtype: str = "float32",
  shard_bytes: int = SHARD_BYTES,
  overwrite: bool = False,
) -> Path:
  """Writes a folder that `transformers` opens as is.

  hf_config: config.json as the model came, or `variants.to_hf(config, family)`; its vocabulary and
  dtype become the model's. tokenizer: what has `save_pretrained`. generation: the fields of
  generation_config.json (default: the token ids that hf_config names). card: the text of README.md.
  rest: tensors of other files to take along as they are.
  Of sharded arrays one tensor at a time is gathered; this process must be able to address them all.

  A folder that holds anything is left alone with a ValueError, unless `overwrite`: then files of
  the same names and all its safetensors are replaced, and others stay. Parameters that have no
  place in the files, as adapters that were not merged, are a ValueError too.
  """
  if dtype not in DTYPES:
    raise ValueError(f"dtype = {dtype!r}: allowed are {sorted(DTYPES)}.")
  if not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(params)):
    raise ValueError("save: the parameters are spread over several processes; export from one.")
  hf_config = {k: v for k, v in hf_config.items() if k != "torch_dtype"}
  hf_config |= {"vocab_size": config.vocab_size, "dtype": dtype}
  described = dataclasses.replace(variants.from_hf(hf_config), max_len=config.max_len)
  if (name := variants.same_model(described, config)) is not None:
    found, held = getattr(described, name), getattr(config, name)
    raise ValueError(f"save: {CONFIG} says {name} = {found!r}, the model has {held!r}.")
  if generation is None:
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    generation = {k: hf_config[k] for k in ids if hf_config.get(k) is not None}
  with new_folder(Path(folder), overwrite) as new:
    _write_weights(new, params, config, DTYPES[dtype], shard_bytes, rest)
    _write_json(new / CONFIG, hf_config)
    _write_json(new / GENERATION, {"_from_model_config": False, **generation})
    if tokenizer is not None:
      tokenizer.save_pretrained(new)
    if card is not None:
      (new / CARD).write_text(card)
  return Path(folder)


def _write_weights(folder: Path, params, config, dtype, shard_bytes: int, rest) -> None:
  leaves = {
    sharding.leaf_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }
  if extra := sorted(leaves.keys() - {row.path for row in tensor_table.rows(config)}):
    raise ValueError(f"save: the parameters have {extra[0]!r}, which no file of this family holds.")
  take: dict[str, Callable[[], np.ndarray]] = {}
  entries = []
  for row, layer, name in _in_file_order(config):
    entries.append(Entry(name, np.dtype(dtype), tensor_table.place(row, config).file))
    take[name] = functools.partial(_tensor, leaves[row.path], layer, row, config, dtype)
  for tensor in rest:
    entries.append(Entry(tensor.name, tensor.dtype, tensor.shape))
    take[tensor.name] = functools.partial(safetensors_files.read, tensor)
  shards = safetensors_files.plan_shards(entries, shard_bytes)
  for file, held in shards:
    safetensors_files.write(folder / file, held, (take[e.name]() for e in held))
  if len(shards) > 1:
    _write_json(folder / safetensors_files.INDEX, safetensors_files.index(shards))


def _in_file_order(config: TransformerConfig) -> Iterator[tuple[Row, int, str]]:
  """(row, layer, name): the embedding, the layers one after the other, the rest."""
  table = tensor_table.rows(config)
  first = next(i for i, row in enumerate(table) if row.layered)
  layered = [row for row in table if row.layered]
  for row in table[:first]:
    yield row, 0, row.name
  for layer in range(config.n_layers):
    for row in layered:
      yield row, layer, row.name.format(layer)
  for row in table[first:]:
    if not row.layered:
      yield row, 0, row.name


def _tensor(leaf: jax.Array, layer: int, row: Row, config, dtype) -> np.ndarray:
  where = leaf.sharding
  if isinstance(where, NamedSharding):
    where = NamedSharding(where.mesh, PartitionSpec())
  return np.asarray(_gather(leaf, np.int32(layer), row, config, dtype, where))


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _gather(leaf, layer, row: Row, config, dtype, where):
  if row.layered:
    leaf = jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)
  return jax.lax.with_sharding_constraint(
    tensor_table.to_file(leaf, row, config).astype(dtype), where
  )


def refuse_full(folder: Path, *, overwrite: bool) -> bool:
  """Whether a folder holds anything; ValueError where it does and `overwrite` wasn't said."""
  if folder.exists() and not folder.is_dir():
    raise ValueError(f"out = {str(folder)!r}: a file is there.")
  held = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
  if held and not overwrite:
    raise ValueError(
      f"out = {str(folder)!r} holds {held[0]!r} ({len(held)} in all): choose another folder, or "
      "say overwrite."
    )
  return bool(held)


@contextlib.contextmanager
def new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
  """A folder to write into, put in the place of `folder` when all is written. While files of an
  earlier one are replaced it lacks what readers begin with, so that no mixture is taken for whole.
  """
  folder = folder.resolve()
  held = refuse_full(folder, overwrite=overwrite)
  folder.parent.mkdir(parents=True, exist_ok=True)
  new = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
  new.mkdir()
  try:
    yield new
    if not held:
      os.replace(new, folder)  # over nothing, or an empty folder
      return
    written = {file.name for file in new.iterdir()}
    first_read = (safetensors_files.SINGLE, safetensors_files.INDEX)
    for name in first_read:
      (folder / name).unlink(missing_ok=True)
    for name in sorted(written, key=lambda name: (name in first_read, name)):
      if (folder / name).is_dir():
        shutil.rmtree(folder / name)
      os.replace(new / name, folder / name)
    for old in [path for pattern in _READ for path in folder.glob(pattern)]:
      if old.name not in written:
        old.unlink()
  finally:
    shutil.rmtree(new, ignore_errors=True)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
