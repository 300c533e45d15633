"""Hugging Face checkpoints in: config.json and safetensors, from a folder or the Hub.

Every tensor is read in pieces of at most 64 MiB, and each piece is written into its place in each
device's part of the (stacked, fused) parameter; the part is donated from piece to piece. So host
memory holds one piece beyond the resident arrays, whatever the size of a shard or parameter.
"""

import collections
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from swirl_jax import sharding
from swirl_jax.models import safetensors_files, tensor_table, transformer, variants
from swirl_jax.models.safetensors_files import CheckpointFilesError, Tensor
from swirl_jax.models.tensor_table import Row
from swirl_jax.models.transformer_config import DTYPES, TransformerConfig

CONFIG = "config.json"
FILES = (
  "*.json",
  "model*.safetensors",
  "*.model",
  "*.txt",
  "*.jinja",
)  # what is fetched from the Hub
TOKENIZER = (
  "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
  "chat_template*",
)  # fmt: skip
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name
NOT_WEIGHTS = re.compile(r"\.rotary_emb\.inv_freq$")  # computed from the config
OTHERS = re.compile(r"^model\.vqmodel\.")  # an image tokenizer beside the language model


class Checkpoint(NamedTuple):
  """A model that was read: its config, parameters, and config.json as it stood in the folder.

  rest: tensors of another model that the files hold too (Chameleon's image tokenizer), left where
  they are; an export takes them along.
  """

  config: TransformerConfig
  params: Any
  hf_config: dict[str, Any]
  folder: Path
  rest: tuple[Tensor, ...] = ()


def load(source: str | os.PathLike, mesh: Mesh, *, dtype: str = "float32") -> Checkpoint:
  """Reads a checkpoint (see `resolve`) onto the mesh; parameters float32 or bfloat16.

  Raises ValueError naming the field of config.json, or the tensor and file, that isn't as it must
  be: nothing is guessed, skipped or left at random.
  """
  folder = resolve(source)
  hf_config = read_config(folder)
  config = variants.from_hf(hf_config)
  params = load_params(folder, config, mesh, dtype=dtype)
  return Checkpoint(config, params, hf_config, folder, rest(folder))


def rest(folder: Path) -> tuple[Tensor, ...]:
  """The tensors of another model that a checkpoint's files hold too."""
  return tuple(t for name, t in safetensors_files.find(folder).items() if OTHERS.match(name))


def resolve(source: str | os.PathLike) -> Path:
  """The local folder of a checkpoint; one on the Hub (owner/name, or owner/name@revision) is
  fetched into its cache.
  """
  if Path(source).is_dir():
    return Path(source)
  name, _, revision = str(source).partition("@")
  if not HUB_NAME.fullmatch(name):
    raise ValueError(f"checkpoint {str(source)!r}: no such folder, and no owner/name of the Hub.")
  from huggingface_hub import errors, snapshot_download

  try:
    return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
  except (OSError, errors.HfHubHTTPError, errors.HFValidationError) as error:
    reason = str(error).strip().splitlines()
    raise ValueError(
      f"checkpoint {str(source)!r}: no such folder, and it could not be fetched from the Hub "
      f"({type(error).__name__}: {reason[0] if reason else 'no reason given'}). Where there is no "
      "network, give the path of a folder with config.json and safetensors."
    ) from error


def digest(folder: Path) -> str:
  """SHA-256 over the names and contents of a checkpoint's config, tokenizer and weights."""
  weights = {tensor.file for tensor in safetensors_files.find(folder).values()}
  others = {path for pattern in (CONFIG, *TOKENIZER) for path in folder.glob(pattern)}
  whole = hashlib.sha256()
  for path in sorted(weights | others):
    with open(path, "rb") as file:
      whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
  return whole.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
  if not (folder / CONFIG).exists():
    raise ValueError(f"checkpoint {folder}: no {CONFIG} there.")
  try:
    return json.loads((folder / CONFIG).read_text())
  except ValueError as error:
    raise ValueError(f"{folder / CONFIG}: not JSON ({error}).") from None


def load_params(
  folder: Path, config: TransformerConfig, mesh: Mesh, *, dtype: str = "float32"
) -> Any:
  """The parameters of `config` from the folder's safetensors, laid out on the mesh by the rules of
  `sharding`.

  Every process reads the parts that its own devices hold. CheckpointFilesError for a tensor that is
  missing, has no place here, or has another shape or dtype: before anything is allocated; for NaN,
  as it is read.
  """
  if dtype not in DTYPES:
    raise ValueError(f"dtype = {dtype!r}: allowed are {sorted(DTYPES)}.")
  tensors = safetensors_files.find(Path(folder))
  by_path = collections.defaultdict(list)
  for row in tensor_table.rows(config):
    by_path[row.path].append(row)
  shapes = jax.eval_shape(functools.partial(transformer.init_params, config), jax.random.key(0))
  _check(tensors, [row for rows in by_path.values() for row in rows], config, Path(folder))
  layouts = sharding.tree_shardings(shapes, mesh)

  def fill(path, shape, layout):
    rows = by_path[sharding.leaf_path(path)]
    if not rows:
      raise ValueError(f"parameter {sharding.leaf_path(path)}: tensor_table has no row for it.")
    return _fill(shape.shape, layout, rows, tensors, config, DTYPES[dtype])

  with jax.set_mesh(sharding.NO_MESH):  # each device's part is filled by itself
    return jax.tree_util.tree_map_with_path(fill, shapes, layouts)


def _check(tensors: dict[str, Tensor], rows: Sequence[Row], config: TransformerConfig, folder):
  """Names and shapes against the table; a head that is tied and stored all the same must equal the
  embedding.
  """
  expected = {name: row for row in rows for name in tensor_table.names(row, config)}
  missing = [name for name in expected if name not in tensors]
  if missing:
    raise CheckpointFilesError(
      f"tensor {missing[0]!r}{_more(missing)}: in none of the safetensors files of {folder}."
    )
  tied = "lm_head.weight" if config.tie_embeddings else None
  known = lambda n: (  # noqa: E731
    n in expected or n == tied or NOT_WEIGHTS.search(n) or OTHERS.match(n)
  )
  extra = [t for n, t in tensors.items() if not known(n)]
  if extra:
    raise CheckpointFilesError(
      f"{extra[0]}{_more(extra)}: the model that {CONFIG} describes has no such tensor."
    )
  for name, row in expected.items():
    found, shape = tensors[name].shape, tensor_table.place(row, config).file
    if found != shape:
      raise CheckpointFilesError(f"{tensors[name]}: found shape {found}, expected {shape}.")
  if tied in tensors:
    embedding, head = tensors["model.embed_tokens.weight"], tensors[tied]
    pairs = (safetensors_files.pieces(t, config.vocab_size) for t in (embedding, head))
    if head.shape != embedding.shape or not all(
      np.array_equal(a, b) for (_, a), (_, b) in zip(*pairs, strict=True)
    ):
      raise CheckpointFilesError(f"{head}: differs from the embedding to which {CONFIG} ties it.")


def _more(names: Sequence) -> str:
  return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _fill(shape, layout: NamedSharding, rows: Sequence[Row], tensors, config, dtype) -> jax.Array:
  """One parameter [L, ...], each addressable device's part filled piece by piece."""
  windows = {
    device: tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
    for device, index in layout.addressable_devices_indices_map(shape).items()
  }
  parts = {
    device: _zeros(tuple(hi - lo for lo, hi in window), dtype, device)
    for device, window in windows.items()
  }
  for row in rows:
    for layer, name in enumerate(tensor_table.names(row, config)):
      for piece, corner in _pieces(tensors[name], row, config, layer, windows.values()):
        for device, window in windows.items():
          cut = _intersection(corner, piece.shape, window)
          if cut is not None:
            within, start = cut
            parts[device] = _put(parts[device], piece[within], start)
        jax.block_until_ready(list(parts.values()))  # or the pieces pile up on the host
  return jax.make_array_from_single_device_arrays(shape, layout, list(parts.values()))


def _pieces(tensor: Tensor, row: Row, config, layer: int, windows) -> Iterator[tuple]:
  """A tensor as (piece, corner): the piece in our axes, and where in our parameter it begins. Only
  what some window covers is read.
  """
  place = tensor_table.place(row, config)
  lead = place.permutation.index(0)  # our axis that runs slowest in the file
  axis = lead + row.layered
  low = max(0, min(w[axis][0] for w in windows) - place.offset[lead])
  high = min(place.split[0], max(w[axis][1] for w in windows) - place.offset[lead])
  for first, flat in safetensors_files.pieces(tensor, place.split[0], low, max(low, high)):
    piece = flat.reshape(-1, *place.split[1:]).transpose(place.permutation)
    corner = list(place.offset)
    corner[lead] += first
    yield (piece[None], [layer, *corner]) if row.layered else (piece, corner)


def _intersection(corner: Sequence[int], size: Sequence[int], window) -> tuple | None:
  """Where a piece overlaps a device's window: (slices of the piece, start in the window), or
  None.
  """
  low = [max(c, lo) for c, (lo, _) in zip(corner, window, strict=True)]
  high = [min(c + n, hi) for c, n, (_, hi) in zip(corner, size, window, strict=True)]
  if any(a >= b for a, b in zip(low, high, strict=True)):
    return None
  within = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))
  return within, np.array([a - lo for a, (lo, _) in zip(low, window, strict=True)], np.int32)


def _zeros(shape: tuple[int, ...], dtype, device) -> jax.Array:
  """Made in its place: `jnp.zeros(device=...)` makes them elsewhere first."""
  make = functools.partial(jnp.zeros, shape, dtype)
  return jax.jit(make, out_shardings=SingleDeviceSharding(device))()


@functools.partial(jax.jit, donate_argnums=0)
def _put(part: jax.Array, piece: jax.Array, start: jax.Array) -> jax.Array:
  at = [start[i] for i in range(part.ndim)]
  return jax.lax.dynamic_update_slice(part, piece.astype(part.dtype), at)
