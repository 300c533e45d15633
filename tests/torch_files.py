"""Files as torch.save writes them, written without torch: for the tests of what reads them."""

import collections
import pickle
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

STORAGES = {
  "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
  "bfloat16": "BFloat16Storage", "int64": "LongStorage", "bool": "BoolStorage",
}  # fmt: skip
REBUILD = "torch._utils", "_rebuild_tensor_v2"


class Global(NamedTuple):
  """What a pickle names and its reader looks up."""

  module: str
  name: str


class Call(NamedTuple):
  """A call that the pickle makes when it is read."""

  function: Global
  arguments: tuple


class Stored(NamedTuple):
  """A tensor: a view of one storage of the file."""

  key: str
  dtype: str
  numel: int
  size: tuple[int, ...]
  stride: tuple[int, ...]
  offset: int = 0


class _Pickler(pickle._Pickler):
  """In Python, because only there what is saved can be told apart by class."""

  dispatch = pickle._Pickler.dispatch.copy()

  def save_global_(self, what):
    self.write(pickle.GLOBAL + f"{what.module}\n{what.name}\n".encode())

  def save_call(self, call):
    self.save_reduce(*call)

  def save_stored(self, tensor):
    storage = ("storage", Global("torch", STORAGES[tensor.dtype]), tensor.key, "cpu", tensor.numel)
    self.save_call(
      Call(
        Global(*REBUILD),
        (_Persistent(storage), tensor.offset, tensor.size, tensor.stride, False,
         collections.OrderedDict()),
      )
    )  # fmt: skip

  def save_persistent(self, what):
    self.save(what.id)
    self.write(pickle.BINPERSID)

  def save_reduce(self, func, args, *rest, **kinds):
    if not isinstance(func, Global):
      return super().save_reduce(func, args, *rest, **kinds)
    self.save(func)
    self.save(args)
    self.write(pickle.REDUCE)

  dispatch[Global], dispatch[Call] = save_global_, save_call
  dispatch[Stored] = save_stored


class _Persistent(NamedTuple):
  id: tuple


_Pickler.dispatch[_Persistent] = _Pickler.save_persistent


def write(path: Path, saved, storages: dict[str, bytes] | None = None, **zip_options) -> Path:
  """A file of `saved`, in which NumPy arrays become tensors with storages of their own.

  `storages`: those of the Stored tensors in it.
  """
  held = dict(storages or {})

  def plain(value):
    if isinstance(value, dict):
      return type(value)((key, plain(v)) for key, v in value.items())
    if not isinstance(value, np.ndarray):
      return value
    key = str(len(held))
    held[key] = np.ascontiguousarray(value).tobytes()
    stride = [s // value.itemsize for s in np.empty(value.shape, value.dtype).strides]
    return Stored(key, value.dtype.name, value.size, value.shape, tuple(stride))

  saved = plain(saved)
  with zipfile.ZipFile(path, "w", **zip_options) as archive:
    with archive.open("archive/data.pkl", "w") as file:
      _Pickler(file, protocol=2).dump(saved)
    archive.writestr("archive/byteorder", "little")
    for key, content in held.items():
      archive.writestr(f"archive/data/{key}", content)
    archive.writestr("archive/version", "3\n")
  return path


def some_arrays() -> dict[str, np.ndarray]:
  """One of every kind that is read."""
  rng = np.random.default_rng(0)
  kinds = {name: rng.normal(size=(3, 4)).astype(name) for name in ("float32", "float64", "float16")}
  return kinds | {
    "bfloat16": rng.normal(size=(2, 3)).astype(jnp.bfloat16),
    "int64": np.arange(5),
    "bool": np.array([True, False]),
    "scalar": np.array(3.0, np.float32),
    "empty": np.zeros((0, 3), np.float32),
  }
