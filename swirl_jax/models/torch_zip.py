"""Tensors out of a file that torch.save wrote, without torch.

Such a file is a zip: `NAME/data.pkl`, a pickle of the saved object in which a tensor is a call of a
rebuild function on a storage, and `NAME/data/KEY`, the storages' bytes, little-endian and not
compressed. A pickle can call anything, so this reader knows the calls that make tensors and
dictionaries and refuses every other by its name.
"""

import collections
import math
import os
import pickle
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from swirl_jax.models.safetensors_files import CheckpointFilesError

STORAGES = {
  "FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
  "BFloat16Storage": jnp.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
  "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}  # fmt: skip


class Storage(NamedTuple):
  """Where a storage lies in the zip, and what it is said to hold."""

  key: str
  dtype: np.dtype
  numel: int


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """{name: array} of a saved state dict, or of the one below "state_dict" (then what else the file
  holds is not looked at).

  Raises CheckpointFilesError, naming the file and what it is about: no zip of torch.save, a pickle
  that calls something else than what makes tensors, a value that is no tensor or not finite, a
  storage that is missing, compressed, or too short.
  """
  path = Path(path)
  if not path.is_file():
    raise CheckpointFilesError(f"{path}: no such file.")
  try:
    with zipfile.ZipFile(path) as archive:
      pickles = [n for n in archive.namelist() if PurePosixPath(n).name == "data.pkl"]
      if len(pickles) != 1:
        raise CheckpointFilesError(f"{path}: {len(pickles)} entries data.pkl in it, expected one.")
      records = Records(path, archive, pickles[0].removesuffix("data.pkl"))
      with archive.open(pickles[0]) as file:
        saved = Unpickler(file, records).load()
  except (CheckpointFilesError, PermissionError, MemoryError):
    raise
  except Exception as error:  # whatever a damaged archive or pickle makes the machine stumble over
    raise CheckpointFilesError(f"{path}: it is damaged ({error}).") from error
  return tensors(path, saved)


def tensors(path: Path, saved) -> dict[str, np.ndarray]:
  if isinstance(saved, dict) and "state_dict" in saved:
    saved = saved["state_dict"]
  if not isinstance(saved, dict):
    raise CheckpointFilesError(f"{path}: holds a {type(saved).__name__}, expected a state dict.")
  for name, value in saved.items():
    if not isinstance(name, str) or not isinstance(value, np.ndarray):
      raise CheckpointFilesError(
        f"{path}: {name!r} is a {type(value).__name__}; a state dict holds tensors by name."
      )
    if not np.isfinite(value).all():
      raise CheckpointFilesError(f"tensor {name!r} in {path}: NaN or infinity in it.")
  return dict(saved)


class Records:
  """The storages of an archive, each read once, and tensors as views of them."""

  def __init__(self, path: Path, archive: zipfile.ZipFile, root: str):
    self.path, self.archive, self.root = path, archive, root
    self.held: dict[str, np.ndarray] = {}
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
      raise CheckpointFilesError(f"{path}: its numbers are not little-endian.")

  def flat(self, storage: Storage) -> np.ndarray:
    """A storage's numbers [numel]."""
    if storage.key not in self.held:
      name = f"{self.root}data/{storage.key}"
      try:
        entry = self.archive.getinfo(name)
      except KeyError:
        raise CheckpointFilesError(f"{self.path}: the storage {name!r} is missing.") from None
      nbytes = storage.numel * storage.dtype.itemsize
      if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != nbytes:
        raise CheckpointFilesError(
          f"{self.path}: the storage {name!r} has {entry.file_size} bytes "
          f"(compression {entry.compress_type}), expected {nbytes} without compression."
        )
      try:
        self.held[storage.key] = np.frombuffer(self.archive.read(entry), np.uint8)
      except zipfile.BadZipFile as error:
        raise CheckpointFilesError(f"{self.path}: {name!r} is damaged ({error}).") from None
    return self.held[storage.key].view(storage.dtype)

  def tensor(self, storage: Storage, offset, size, stride, *_) -> np.ndarray:
    """_rebuild_tensor_v2: the array of `size` whose axes step by `stride` numbers from `offset` on.

    Only within its storage: numbers that lie outside raise CheckpointFilesError.
    """
    flat = self.flat(storage)
    steps = [(n - 1) * s for n, s in zip(size, stride, strict=True)]
    inside = min((offset, *size, *stride)) >= 0
    if math.prod(size) and inside:
      inside = offset + sum(steps) < flat.size
    if not inside:
      raise CheckpointFilesError(
        f"{self.path}: a tensor of size {size}, stride {stride} and offset {offset} lies outside "
        f"its storage {storage.key!r} of {flat.size} numbers."
      )
    strides = [s * flat.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(flat[offset:], size, strides).copy()


class Unpickler(pickle.Unpickler):
  """Knows tensors, parameters and dictionaries; everything else is refused by its name."""

  def __init__(self, file, records: Records):
    super().__init__(file)
    self.records = records
    self.known = {
      ("collections", "OrderedDict"): collections.OrderedDict,
      ("torch._utils", "_rebuild_tensor_v2"): records.tensor,
      ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
      ("torch", "Size"): tuple,
    } | {("torch", name): np.dtype(dtype) for name, dtype in STORAGES.items()}

  def find_class(self, module, name):
    if (module, name) not in self.known:
      raise CheckpointFilesError(
        f"{self.records.path}: its pickle calls {module}.{name}; only tensors and dictionaries of "
        "them are read."
      )
    return self.known[module, name]

  def persistent_load(self, pid):
    kind, dtype, key, _, numel = pid
    if kind != "storage" or not isinstance(dtype, np.dtype):
      raise CheckpointFilesError(f"{self.records.path}: its pickle refers to {kind!r} {dtype!r}.")
    return Storage(str(key), dtype, int(numel))
