"""Files of a work directory: JSON that is never half-written, dumps, and the config on resume."""

import itertools
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from swirl_jax.hosts import from_first, is_first
from swirl_jax.sharding import leaf_path
from swirl_jax.whole_files import replacing


def write_json_atomic(path: str | os.PathLike, obj: Any) -> None:
  """Writes JSON so that `path` holds the old content or the new, even after a power cut."""
  with replacing(path) as temporary:
    temporary.write_text(json.dumps(obj, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
  """What a run wrote; ValueError, which names the file, where it isn't JSON."""
  try:
    return json.loads(Path(path).read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{path}: not JSON ({error}); allowed is what a run wrote.") from None


def folder_to_write(field: str, path: str) -> Path:
  """The folder, made if it isn't there. ValueError, which names the field, where nothing can be
  written into it.
  """
  if not path:
    raise ValueError(f"{field} = '': allowed is a folder.")
  folder = Path(path)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(f"{field} = {path!r}: allowed is a folder ({error.strerror}).") from None
  if not os.access(folder, os.W_OK):
    raise ValueError(f"{field} = {path!r}: this folder can't be written into; choose another.")
  return folder


def dump(directory: str | os.PathLike, name: str, tree: Any) -> Path:
  """Saves a pytree as directory/name.npz, or name-1.npz and so on: never over another file.

  The arrays go by their leaf paths; bfloat16 is widened to float32 (exact), which npz can hold.
  """
  directory = Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  stems = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(1)))
  path = next(p for stem in stems if not (p := directory / f"{stem}.npz").exists())
  arrays = {key: _to_numpy(leaf) for key, leaf in named_leaves(tree)}
  from_first(0)  # every process has picked the name by now
  if is_first():
    with open(path, "xb") as f:
      np.savez(f, **arrays)
  return path


def check_config(saved: dict, new: dict, may_change: Collection[str]) -> None:
  """Raises ValueError where `new` differs from `saved` in fields that `may_change` doesn't name.

  Fields are dotted paths; 'mesh' covers 'mesh.data'. Lists and tuples of equal items are equal.
  """
  old, now = (_flatten(json.loads(json.dumps(config))) for config in (saved, new))

  def shown(config, field):
    return json.dumps(config[field]) if field in config else "absent"

  def allowed(field):
    return any(field == name or field.startswith(f"{name}.") for name in may_change)

  lines = "".join(f"\n  {field}: saved {shown(old, field)}, now {shown(now, field)}"
                  for field in sorted(old.keys() | now.keys())
                  if shown(old, field) != shown(now, field) and not allowed(field))
  if lines:
    raise ValueError(f"the config differs from the one this work directory was begun with:{lines}\n"
                     f"May change on resume: {', '.join(sorted(may_change)) or 'nothing'}. "
                     "Restore these values, or choose another work directory.")


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
  return [(leaf_path(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _flatten(config: dict, prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in config.items():
    inner = isinstance(value, dict) and value
    flat |= _flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
  return flat


def _to_numpy(leaf: Any) -> np.ndarray:
  if isinstance(leaf, jax.Array):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    if not leaf.is_fully_addressable:
      leaf = multihost_utils.process_allgather(leaf, tiled=True)
  array = np.asarray(leaf)
  return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
