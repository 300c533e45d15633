"""Checkpoints that are whole or not used: Orbax writes them, a manifest vouches for them.

    <position>/state/...       the arrays (Orbax, OCDBT): a nested dict of the pytree's leaf paths
    <position>/meta/metadata   what isn't an array (JSON)
    <position>/MANIFEST.json   size and SHA-256 of every file above, written last
    damaged/<position>-<n>/    what failed its manifest or has none: set aside, never deleted

Orbax restores flipped bits without noticing; the manifest notices. A background thread writes it
once Orbax has committed and every byte is fsynced, and only then do older checkpoints go. The
directory must lie on a POSIX file system that every process sees.
"""

import errno
import hashlib
import itertools
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.path import atomicity

from swirl_jax import whole_files
from swirl_jax.files import named_leaves, write_json_atomic
from swirl_jax.hosts import any_process, from_first, is_first

MANIFEST = "MANIFEST.json"
DAMAGED = "damaged"
_UNFINISHED = atomicity.TMP_DIR_SUFFIX  # what Orbax writes into until it commits
_DELETING = ".deleting"


class CheckpointError(RuntimeError):
  """A checkpoint could not be written, or isn't what was asked for."""


class Checkpointer:
  """Saves (position, state, meta) under `directory` and keeps the `keep` newest that are whole.

  `state` is a pytree of `jax.Array` (typed PRNG keys as their `key_data`); `meta` is plain JSON.
  With `read_only` nothing on disk is touched: damaged checkpoints are skipped where they lie.
  Every process calls every method.
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int = 2, read_only: bool = False):
    if "://" in str(directory):
      raise ValueError(f"checkpoint directory = {str(directory)!r}: allowed is a path of a mounted "
                       "file system.")
    if keep < 1:
      raise ValueError(f"keep = {keep}: allowed is a whole number from 1.")
    self.directory = Path(directory).absolute()
    self._keep = keep
    self._read_only = read_only
    self._thread: threading.Thread | None = None
    self._error: CheckpointError | None = None
    self._verified: set[int] = set()
    if not read_only:
      self.directory.mkdir(parents=True, exist_ok=True)
    self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(
      state=ocp.PyTreeCheckpointHandler(), meta=ocp.JsonCheckpointHandler()))

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, kind, error, trace):
    if kind is None:
      self.close()
      return
    self._join()  # the run fails already: finish what is under way, wait for no other process
    if self._error is not None:
      logging.error("A checkpoint under way was lost as well: %s", self._error)

  def save(self, position: int, state: Any, meta: dict[str, Any]) -> None:
    """Copies `state` to host memory and returns; a thread writes it.

    Waits for the save before, and raises what befell it. A position saved already is left as it
    is, provided that `meta` is the same.
    """
    if self._read_only:
      raise CheckpointError(f"cannot save position {position}: {self.directory} is read_only here.")
    leaves = _checked_leaves(state)
    _check_json(meta)
    self.wait()
    path = self._path(position)
    if is_first() and path.exists() and not (path / MANIFEST).exists():
      self._set_aside(position, f"{MANIFEST} is missing: it was never finished")
    if from_first(path.exists()):
      if (found := self._read_meta(position)) != meta:
        raise CheckpointError(f"position {position} is saved already in {path}, with another meta: "
                              f"found {found}, expected {meta}.")
      return
    try:
      self._orbax.save(path, args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(_nest(leaves)), meta=ocp.args.JsonSave(meta)))
    except Exception as error:
      raise self._explain(error, position) from error
    table = {name: _describe(leaf) for name, leaf in leaves.items()}
    self._thread = threading.Thread(target=self._finish, args=(position, table))
    self._thread.start()

  def wait(self) -> None:
    """Returns once the save under way is whole on disk; raises CheckpointError, on every process,
    if it failed on any."""
    self._join()
    error, self._error = self._error, None
    if any_process(error is not None):
      raise error or CheckpointError(f"a save in {self.directory} failed on another process.")

  def close(self) -> None:
    self.wait()
    self._orbax.close()

  def latest(self) -> tuple[int, dict[str, Any]] | None:
    """Position and meta of the newest whole checkpoint, or None.

    What isn't whole is set aside on the way, with a warning. Remains of saves that never
    committed, and of deletions under way, are removed.
    """
    self.wait()
    position = -1
    if is_first():
      if not self._read_only:
        self._sweep()
      position = next((p for p in reversed(self._positions()) if self._is_whole(p)), -1)
    position = from_first(position)
    return None if position < 0 else (position, self._read_meta(position))

  def restore(self, position: int, template: Any, *, partial: bool = False) -> Any:
    """The state saved at `position`, bit for bit, laid out as `template`: a pytree of
    ShapeDtypeStruct with shardings, whose mesh may differ from the one that saved.

    Raises CheckpointError where a leaf's path, shape or dtype differs. With `partial`, leaves
    that only the checkpoint has are left unread (parameters without their optimizer).
    """
    self.wait()
    path, error = self._path(position), None
    try:  # process 0 reads every byte, the others only the manifest
      manifest = verify(path, contents=is_first() and position not in self._verified)
    except CheckpointError as e:
      error = e
    if any_process(error is not None):
      raise error or CheckpointError(f"checkpoint {path} is not whole.")
    self._verified.add(position)
    wanted = dict(named_leaves(template))
    _check_template(path, manifest["leaves"], wanted, partial)
    nested = _nest(wanted)
    state = self._orbax.restore(path, args=ocp.args.Composite(state=ocp.args.PyTreeRestore(
      nested, ocp.checkpoint_utils.construct_restore_args(nested), partial_restore=partial))).state
    leaves = [_lookup(state, name) for name in wanted]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(template), leaves)

  # Below: what the methods above are made of.

  def _path(self, position: int) -> Path:
    return self.directory / str(position)

  def _positions(self, *, with_manifest: bool = False) -> list[int]:
    if not self.directory.is_dir():
      return []
    found = [p for p in self.directory.iterdir() if p.is_dir() and p.name.isdecimal()]
    return sorted(int(p.name) for p in found if not with_manifest or (p / MANIFEST).exists())

  def _read_meta(self, position: int) -> dict[str, Any]:
    return json.loads((self._path(position) / "meta" / "metadata").read_text())

  def _is_whole(self, position: int) -> bool:
    self._verified.discard(position)
    try:
      verify(self._path(position))
    except CheckpointError as error:
      if self._read_only:
        logging.warning("Skipped: %s", error)
      else:
        self._set_aside(position, str(error))
      return False
    self._verified.add(position)
    return True

  def _set_aside(self, position: int, reason: str) -> None:
    damaged = self.directory / DAMAGED
    damaged.mkdir(exist_ok=True)
    targets = (damaged / f"{position}-{n}" for n in itertools.count(1))
    target = next(t for t in targets if not t.exists())
    os.rename(self._path(position), target)
    logging.warning("Checkpoint %d is not whole, moved to %s: %s", position, target, reason)

  def _sweep(self) -> None:
    for path in self.directory.iterdir():
      if path.is_dir() and (_UNFINISHED in path.name or path.name.endswith(_DELETING)):
        shutil.rmtree(path)

  def _join(self) -> None:
    if self._thread is not None:
      self._thread.join()
      self._thread = None

  def _finish(self, position: int, table: dict[str, str]) -> None:
    """In the background: waits for Orbax's commit on all processes; then process 0 vouches for it
    and clears older ones away."""
    try:
      self._orbax.wait_until_finished()
      if is_first():
        write_manifest(self._path(position), table)
        for old in self._positions(with_manifest=True)[:-self._keep]:
          doomed = self.directory / f"{old}{_DELETING}"
          os.rename(self._path(old), doomed)  # gone at once, even if the next line is cut short
          shutil.rmtree(doomed)
    except BaseException as error:  # a thread has nobody to raise to: the next save or wait does
      self._error = self._explain(error, position)
      self._error.__cause__ = error

  def _explain(self, error: BaseException, position: int) -> CheckpointError:
    kept = ", ".join(map(str, self._positions(with_manifest=True))) or "none yet"
    reason = f"{type(error).__name__}: {error}"
    if is_disk_full(error):
      free = shutil.disk_usage(self.directory).free / 2**20
      reason = f"the disk is full ({free:.1f} MiB free). Free some space and start again"
    return CheckpointError(f"saving position {position} to {self._path(position)} failed: "
                           f"{reason}. Earlier checkpoints are untouched: {kept}.")


def write_manifest(path: Path, leaves: dict[str, str]) -> None:
  """Fsyncs all under `path`, then writes MANIFEST.json: files, leaves, and a digest of itself."""
  files = {}
  for file in sorted(p for p in path.rglob("*") if p.is_file() and p.name != MANIFEST):
    with open(file, "rb") as f:
      os.fsync(f.fileno())
      files[file.relative_to(path).as_posix()] = {
        "size": os.fstat(f.fileno()).st_size,
        "sha256": hashlib.file_digest(f, "sha256").hexdigest(),
      }
  for folder in [*(p for p in path.rglob("*") if p.is_dir()), path, path.parent]:
    whole_files.flush(folder)
  body = {"format": 1, "position": int(path.name), "leaves": leaves, "files": files}
  write_json_atomic(path / MANIFEST, {**body, "digest": _digest(body)})


def verify(path: Path, *, contents: bool = True) -> dict:
  """The manifest of the checkpoint at `path`, once it and (`contents`) every file it lists have
  been read and found as they were written. Raises CheckpointError naming the file and reason."""
  if not path.is_dir():
    raise CheckpointError(f"checkpoint {path} does not exist.")
  if not (path / MANIFEST).exists():
    raise CheckpointError(f"checkpoint {path}: {MANIFEST} is missing: it was never finished.")
  try:
    manifest = json.loads((path / MANIFEST).read_text())
    body = {key: manifest[key] for key in ("format", "position", "leaves", "files")}
    intact = manifest == {**body, "digest": _digest(body)} and str(body["position"]) == path.name
  except (ValueError, KeyError, TypeError):
    intact = False
  if not intact:
    raise CheckpointError(f"checkpoint {path}: {MANIFEST} is damaged.")
  if contents:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # SHA-256 releases the GIL
      names = body["files"]
      for name, problem in zip(names, pool.map(
          lambda name: _problem(path / name, **names[name]), names), strict=True):
        if problem:
          raise CheckpointError(f"checkpoint {path}: {name} {problem}.")
  return manifest


def _problem(file: Path, *, size: int, sha256: str) -> str | None:
  try:
    with open(file, "rb") as f:
      if (found := os.fstat(f.fileno()).st_size) != size:
        return f"is damaged: found {found} bytes, expected {size}"
      found = hashlib.file_digest(f, "sha256").hexdigest()
  except OSError as error:
    return f"cannot be read ({error.strerror})"
  if found != sha256:
    return f"is damaged: found SHA-256 {found[:12]}..., expected {sha256[:12]}..."
  return None


def _checked_leaves(state: Any) -> dict[str, jax.Array]:
  named = named_leaves(state)
  for name, leaf in named:
    if not isinstance(leaf, jax.Array) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      raise TypeError(f"state leaf {name!r}: found {_describe(leaf)}, expected a jax.Array "
                      "(of a typed PRNG key, its key_data).")
  if not named or len({name for name, _ in named}) != len(named):
    raise ValueError("state: expected at least one leaf, and no two with the same path.")
  return dict(named)


def _check_template(path: Path, saved: dict[str, str], wanted: dict[str, Any], partial: bool):
  problems = [f"{name}: found {saved.get(name, 'nothing')}, expected {_describe(leaf)}"
              for name, leaf in wanted.items() if saved.get(name) != _describe(leaf)]
  if not partial:
    problems += [f"{name}: found {saved[name]}, expected nothing"
                 for name in saved if name not in wanted]
  if problems:
    more = [f"... and {len(problems) - 20} more"] if len(problems) > 20 else []
    lines = "".join(f"\n  {line}" for line in problems[:20] + more)
    raise CheckpointError(f"checkpoint {path} is of another model or setting:{lines}")
  for name, leaf in wanted.items():
    if leaf.sharding is None:
      raise ValueError(f"template leaf {name!r}: found no sharding, expected one "
                       "(jax.ShapeDtypeStruct(shape, dtype, sharding=...)).")


def _check_json(meta: dict[str, Any]) -> None:
  try:
    plain = isinstance(meta, dict) and json.loads(json.dumps(meta)) == meta
  except (TypeError, ValueError):
    plain = False
  if not plain:
    raise TypeError(f"meta = {meta!r}: allowed is a dict of plain JSON that reads back equal "
                    "(string keys, lists not tuples, no NaN).")


def _describe(leaf: Any) -> str:
  if not hasattr(leaf, "dtype"):
    return type(leaf).__name__
  return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _nest(leaves: dict[str, Any]) -> dict[str, Any]:
  """{'a/b': x} -> {'a': {'b': x}}, so that named tuples and empty nodes never reach Orbax."""
  root: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *folders, last = name.split("/")
    node = root
    for folder in folders:
      node = node.setdefault(folder, {})
    node[last] = leaf
  return root


def _lookup(tree: dict[str, Any], name: str) -> Any:
  for part in name.split("/"):
    tree = tree[part]
  return tree


def _digest(body: dict) -> str:
  return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def is_disk_full(error: BaseException | None) -> bool:
  """Whether an error, or what caused it, is that of a full disk."""
  while error is not None:  # tensorstore raises no OSError
    said = str(error)
    full = "No space left" in said or "Disk quota exceeded" in said
    if full or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
      return True
    error = error.__cause__ or error.__context__
  return False
