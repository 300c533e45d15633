"""Files that are whole or not there, and folders that one process at a time writes to."""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def locked(path: os.PathLike, *, wait: bool = True) -> Iterator[None]:
  """Holds an exclusive lock on a file; the system releases it when the process dies. Where another
  holds it, waits, or raises BlockingIOError.
  """
  import fcntl

  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  with open(path, "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield


@contextlib.contextmanager
def replacing(path: os.PathLike) -> Iterator[pathlib.Path]:
  """A path beside `path` to write to: at the end, flushed to the disk, the file there becomes
  `path`. After an error, or if the process dies, `path` is what it was.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    yield temporary
    flush(temporary)
    os.replace(temporary, path)
    flush(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


def write_lines(path: os.PathLike, lines: Iterable[str]) -> None:
  """The whole file of lines, or none."""
  with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
    file.writelines(f"{line}\n" for line in lines)


def flush(path: pathlib.Path) -> None:
  """Has the system write a file, or the names in a folder, to the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
