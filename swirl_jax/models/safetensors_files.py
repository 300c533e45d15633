"""Safetensors on disk, by ranges: what a checkpoint holds, a few rows of one tensor, a shard
written as it is made.

A file is the length of its header in 8 bytes, the header (JSON: name → dtype, shape, place), and
the tensors' bytes in row-major order. The library's own reader maps a file, whose touched pages
count as this process's memory, and names no tensor when a file was cut short; its writer wants a
whole shard at once. Here memory is one piece of one tensor, whatever the file's size.
"""

import dataclasses
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

DTYPES = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16), "F16": np.dtype(np.float16)}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PIECE = 64 * 2**20  # bytes that are read at a time


class CheckpointFilesError(ValueError):
  """A file isn't what it should be; the message names it and the tensor."""


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Where one tensor lies: `begin` counts bytes from the start of its file."""

  name: str
  file: Path
  dtype: np.dtype
  shape: tuple[int, ...]
  begin: int

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  def __str__(self) -> str:
    return f"tensor {self.name!r} in {self.file}"


class Entry(NamedTuple):
  """A tensor to be written."""

  name: str
  dtype: np.dtype
  shape: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


def find(folder: Path) -> dict[str, Tensor]:
  """{name: Tensor} of a folder with one safetensors file, or an index and its shards.

  No weights are read, but sizes are compared: a shard that is missing or cut short, a tensor that
  the index promises and the shard lacks raise CheckpointFilesError.
  """
  if (folder / SINGLE).exists():
    return header(folder / SINGLE)
  if not (folder / INDEX).exists():
    found = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
    raise CheckpointFilesError(f"{folder}: neither {SINGLE} nor {INDEX} there; found {found}.")
  promised = _read_json(folder / INDEX).get("weight_map")
  if not isinstance(promised, dict) or not promised:
    raise CheckpointFilesError(f"{folder / INDEX}: no weight_map in it.")
  found: dict[str, Tensor] = {}
  for file in sorted(set(promised.values())):
    wanted = [name for name, where in promised.items() if where == file]
    if Path(file).name != file:
      raise CheckpointFilesError(f"{folder / INDEX}: {file!r} is no name of a file beside it.")
    if not (folder / file).exists():
      raise CheckpointFilesError(
        f"tensor {wanted[0]!r} and {len(wanted) - 1} more: the shard {folder / file} is missing."
      )
    held = header(folder / file, first=wanted[0])
    for name in wanted:
      if name not in held:
        raise CheckpointFilesError(
          f"tensor {name!r} is not in {folder / file}, where {INDEX} says it is."
        )
    for name, tensor in held.items():
      if name in found:
        raise CheckpointFilesError(f"{tensor} is in {found[name].file.name} too.")
    found |= held
  return found


def header(file: Path, *, first: str | None = None) -> dict[str, Tensor]:
  """{name: Tensor} of one file. `first`: a tensor that should be in it, for the message where not
  even the header can be read.
  """
  about = f"{file}" if first is None else f"tensor {first!r} in {file}"
  size = file.stat().st_size
  with open(file, "rb") as f:
    lead = f.read(8)
    length = struct.unpack("<Q", lead)[0] if len(lead) == 8 else 0
    if len(lead) < 8 or 8 + length > size:
      raise CheckpointFilesError(f"{about}: cut short: {size} bytes don't hold its header.")
    try:
      table = json.loads(f.read(length))
      table.pop("__metadata__", None)
      order = sorted(table.items(), key=lambda item: item[1]["data_offsets"])
      found = {name: _tensor(name, file, entry, 8 + length, size) for name, entry in order}
    except CheckpointFilesError:
      raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise CheckpointFilesError(f"{about}: its header is damaged ({error}).") from None
  end = 8 + length
  for tensor in found.values():
    if tensor.begin != end:
      raise CheckpointFilesError(
        f"{tensor}: its header is damaged (it begins at byte {tensor.begin}, not at {end})."
      )
    end += tensor.nbytes
  if end != size:
    raise CheckpointFilesError(f"{about}: {size - end} bytes behind its last tensor.")
  return found


def _tensor(name: str, file: Path, entry: Mapping, start: int, size: int) -> Tensor:
  about = f"tensor {name!r} in {file}"
  if entry["dtype"] not in DTYPES:
    raise CheckpointFilesError(f"{about}: dtype {entry['dtype']}; allowed are {', '.join(DTYPES)}.")
  begin, end = entry["data_offsets"]
  tensor = Tensor(name, file, DTYPES[entry["dtype"]], tuple(entry["shape"]), start + begin)
  if end - begin != tensor.nbytes:
    raise CheckpointFilesError(
      f"{about}: {end - begin} bytes for shape {tensor.shape}, which needs {tensor.nbytes}."
    )
  if start + end > size:
    raise CheckpointFilesError(
      f"{about}: cut short: it ends at byte {start + end}, the file has {size}."
    )
  return tensor


def pieces(
  tensor: Tensor, units: int, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
  """Units start to stop of a tensor in order, as (first unit, array [n, elements of a unit]) of at
  most PIECE bytes, or of one unit; `units` is into how many equal, contiguous parts it can be cut.

  Raises CheckpointFilesError where a number is NaN or infinite, or the file ends.
  """
  stop = units if stop is None else stop
  width = math.prod(tensor.shape) // units
  step = max(1, PIECE // max(1, width * tensor.dtype.itemsize))
  with open(tensor.file, "rb", buffering=0) as f:
    f.seek(tensor.begin + start * width * tensor.dtype.itemsize)
    for first in range(start, stop, step):
      array = np.empty((min(step, stop - first), width), tensor.dtype)
      left = memoryview(array.reshape(-1).view(np.uint8))
      while left:
        count = f.readinto(left)
        if not count:
          raise CheckpointFilesError(f"{tensor}: cut short while it was read.")
        left = left[count:]
      if not np.isfinite(array).all():
        raise CheckpointFilesError(f"{tensor}: NaN or infinity in it.")
      yield first, array


def read(tensor: Tensor) -> np.ndarray:
  """A whole tensor."""
  return next(iter(pieces(tensor, 1)))[1].reshape(tensor.shape)


def plan_shards(entries: Sequence[Entry], limit: int) -> list[tuple[str, list[Entry]]]:
  """(file name, its entries): in order, each shard at most `limit` bytes unless one tensor alone
  is larger; one shard takes the name of a single file.
  """
  if limit < 1:
    raise ValueError(f"shard size = {limit} bytes: allowed is a number above 0.")
  shards: list[list[Entry]] = [[]]
  for entry in entries:
    if shards[-1] and sum(e.nbytes for e in shards[-1]) + entry.nbytes > limit:
      shards.append([])
    shards[-1].append(entry)
  if len(shards) == 1:
    return [(SINGLE, shards[0])]
  n = len(shards)
  return [(f"model-{i:05d}-of-{n:05d}.safetensors", s) for i, s in enumerate(shards, start=1)]


def index(shards: Sequence[tuple[str, Sequence[Entry]]]) -> dict:
  """What INDEX holds for `plan_shards`' shards."""
  return {
    "metadata": {"total_size": sum(e.nbytes for _, entries in shards for e in entries)},
    "weight_map": {e.name: file for file, entries in shards for e in entries},
  }


def write(file: Path, entries: Sequence[Entry], arrays: Iterable[np.ndarray]) -> None:
  """Writes a new file from arrays that come one at a time, in the order of `entries`."""
  names = {dtype: name for name, dtype in DTYPES.items()}
  table, at = {"__metadata__": {"format": "pt"}}, 0
  for e in entries:
    place = [at, at + e.nbytes]
    table[e.name] = {"dtype": names[e.dtype], "shape": list(e.shape), "data_offsets": place}
    at += e.nbytes
  text = json.dumps(table, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # the format wants the data at a multiple of 8
  with open(file, "xb") as f:
    f.write(struct.pack("<Q", len(text)) + text)
    for e, array in zip(entries, arrays, strict=True):
      if array.shape != e.shape or array.dtype != e.dtype:
        raise ValueError(
          f"{e.name}: found {array.dtype}{array.shape}, expected {e.dtype}{e.shape}."
        )
      f.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    f.flush()
    os.fsync(f.fileno())


def _read_json(path: Path) -> dict:
  try:
    value = json.loads(path.read_text())
  except ValueError as error:
    raise CheckpointFilesError(f"{path}: not JSON ({error}).") from None
  if not isinstance(value, dict):
    raise CheckpointFilesError(f"{path}: no JSON object.")
  return value
