"""Tensors out of a file that torch.save wrote, in either of its formats, without torch.

The format of today is a zip (`torch_zip`). The one before torch 1.6, which files of that time are
still passed on in, is a row of pickles: a magic number, the version 1001, a description of the
machine, the object, in which a tensor is a call on a storage that is named and not there yet, and
the storages' keys; behind them, for each key, the count of its numbers (int64) and the numbers.
"""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np

from swirl_jax.models import torch_zip
from swirl_jax.models.safetensors_files import CheckpointFilesError

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """{name: array} of a saved state dict, or of the one below "state_dict".

  Raises CheckpointFilesError as `torch_zip.read` does, and for what is neither format.
  """
  path = Path(path)
  if not path.is_file():
    raise CheckpointFilesError(f"{path}: no such file.")
  if zipfile.is_zipfile(path):
    return torch_zip.read(path)
  data = path.read_bytes()
  try:
    storages, at = _storages(path, data)
    file = io.BytesIO(data)
    file.seek(at)
    return torch_zip.tensors(path, _Unpickler(file, _Storages(path, storages)).load())
  except CheckpointFilesError:
    raise
  except Exception as error:  # whatever a damaged pickle makes the machine stumble over
    raise CheckpointFilesError(f"{path}: it is damaged ({error}).") from error


def _storages(path: Path, data: bytes) -> tuple[dict[str, np.ndarray], int]:
  """{key: numbers} of the storages, and where the pickle of the object begins. The object is read
  for what it says of its storages alone, since their numbers lie behind it.
  """
  file = io.BytesIO(data)
  plain = _Unpickler(file, _Storages(path, None))
  try:
    magic = plain.load()
  except Exception:
    magic = None
  if magic != _MAGIC:
    raise CheckpointFilesError(f"{path}: none of torch.save's files: it begins with {data[:8]!r}.")
  version, machine = (_Unpickler(file, _Storages(path, None)).load() for _ in range(2))
  if version != _VERSION or not machine.get("little_endian"):
    raise CheckpointFilesError(
      f"{path}: version {version}, little-endian {machine.get('little_endian')}; allowed are "
      f"{_VERSION}, True. Write it anew: torch.save(torch.load(old), new)."
    )
  at, said = file.tell(), _Storages(path, None)
  _Unpickler(file, said).load()
  found = {}
  for key in _Unpickler(file, _Storages(path, None)).load():
    storage = said.named.get(str(key))
    (count,) = np.frombuffer(file.read(8), "<i8")
    if storage is None or storage.numel != count:
      raise CheckpointFilesError(
        f"{path}: a storage {key!r} of {count} numbers, where the object names {storage}."
      )
    numbers = file.read(int(count) * storage.dtype.itemsize)
    found[storage.key] = np.frombuffer(numbers, storage.dtype)
  return found, at


class _Storages(torch_zip.Records):
  """The storages by key; without their numbers a tensor is None, and `named` learns what they are.
  """

  def __init__(self, path: Path, numbers: dict[str, np.ndarray] | None):
    self.path, self.numbers = path, numbers
    self.named: dict[str, torch_zip.Storage] = {}

  def flat(self, storage: torch_zip.Storage) -> np.ndarray:
    if storage.key not in self.numbers:
      raise CheckpointFilesError(f"{self.path}: the storage {storage.key!r} is missing.")
    return self.numbers[storage.key]

  def tensor(self, storage: torch_zip.Storage, offset, size, stride, *rest):
    if self.numbers is None:
      self.named[storage.key] = storage
      return None
    return super().tensor(storage, offset, size, stride, *rest)


class _Unpickler(torch_zip.Unpickler):
  def persistent_load(self, pid):
    *storage, view = pid
    if view is not None:  # of a storage in another one: no state dict of a module holds these
      raise pickle.UnpicklingError(f"a view {view!r} of a storage")
    return super().persistent_load(storage)
