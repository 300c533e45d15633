"""Processes that read and prepare pictures, ahead of what is asked for."""

import collections
import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

from swirl_jax.data import images


class WorkerError(RuntimeError):
  """A worker process died."""


def reads(
  names: Sequence[str], root: str | os.PathLike, size: int, *, workers: int, ahead: int
) -> Iterator[images.Read]:
  """What comes of each file `root`/name, in order; `ahead` pictures at most are kept waiting.

  workers: processes; with 0 this one reads. Raises WorkerError where one dies.
  """
  tasks = ((os.path.join(root, name), name, size) for name in names)
  if not workers:
    yield from (images.read(*task) for task in tasks)
    return
  context = multiprocessing.get_context("spawn")  # JAX has threads, which forks don't survive
  pool = concurrent.futures.ProcessPoolExecutor(workers, context, _end_with_parent)
  try:
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    for task in tasks:
      waiting.append(pool.submit(images.read, *task))
      if len(waiting) > ahead:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  except BrokenProcessPool:
    raise WorkerError(
      "a process that reads pictures died, as one does that the system kills for want of memory."
    ) from None
  finally:
    pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
  """A worker whose parent is killed would wait for ever."""
  parent = multiprocessing.parent_process()

  def watch():
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
