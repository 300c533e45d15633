"""Collects the episodes of an environment that runs outside Python's own process: a JVM, a browser.

A collector is a module of `data/collectors/` with `DEFAULTS`, what `config.world.*` may say;
`check(settings)`, which raises ValueError; `episodes(settings)`; `TIME_LIMIT`, seconds of one;
`PACKAGES`, whose versions are noted as a collection begins, in `versions.json`, and have to stay;
`VERSION`, raised whenever its code gives other lines; and `session(settings)`, a context manager
that opens the environment once and gives `play(episode) -> Played`, a pure function of (settings,
episode).

Worker processes play the episodes, each in a session of its own. What an episode gave is one line
of `episodes.jsonl`, appended as soon as it is there: a collection that was killed goes on behind
it, and the order in which workers finish doesn't show in the result. An episode that fails is
dropped whole, listed with its reason and not tried again; its worker starts anew. Where the process
died or the time limit was exceeded, which may have been the machine's fault, a new worker tries
once more.
"""

import contextlib
import importlib
import json
import os
import pathlib
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from tqdm import tqdm

from swirl_jax.whole_files import write_lines

START_LIMIT = 180.0  # seconds to open an environment
IN_A_ROW = 10  # so many failed episodes, one after the other, end the collection


class Episode(NamedTuple):
  """One episode to be played.

  name: unique in the world. level: kind of level. split: "train" or an evaluation split.
  arguments: what the collector needs to play it, as JSON.
  """

  name: str
  level: str
  split: str
  arguments: dict[str, Any]


class Played(NamedTuple):
  """What an episode gave. lines: transitions, dicts of x, y, z, turn and, where phrases have
  meanings, action. counts: what became of the steps that gave no line, by name.
  """

  lines: list[dict[str, Any]]
  counts: dict[str, int]


class Collected(NamedTuple):
  """Episodes in their order with what they gave, name → reason of those that were dropped, and
  package → version.
  """

  episodes: list[tuple[Episode, Played]]
  dropped: dict[str, str]
  versions: dict[str, str]


class CollectionError(RuntimeError):
  """The environment doesn't open, or fails in episode after episode."""


def collect(
  module: str, settings: Mapping[str, Any], folder: str | os.PathLike, *, workers: int | None = None
) -> Collected:
  """Plays all episodes of a collector by `workers` processes (None: one for each usable core).

  `folder` holds this collection alone, of this module under these settings. Raises the ValueError
  of the collector's `check`, ValueError for a folder that can't be gone on with, and
  CollectionError.
  """
  collector, folder = importlib.import_module(module), pathlib.Path(folder)
  settings = json.loads(json.dumps(dict(settings)))  # as the workers have them
  collector.check(settings)
  episodes = collector.episodes(settings)
  names = [episode.name for episode in episodes]
  if len(set(names)) != len(names):
    raise ValueError(f"{module}: two episodes have one name.")
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / "episodes.jsonl"
  versions = _begin(path, collector.PACKAGES)
  found = _resume(path)
  left = [episode for episode in episodes if episode.name not in found]
  count = min(workers or len(os.sched_getaffinity(0)), len(left))
  title = f"collecting {module.rpartition('.')[2]}"
  lines = sum(len(entry.get("lines", ())) for entry in found.values())
  worked = any("lines" in entry for entry in found.values())
  began, before = time.monotonic(), lines
  with (
    open(path, "ab") as file,
    tqdm(total=len(episodes), initial=len(found), desc=title, unit=" episodes") as bar,
  ):
    for entry in _play(module, settings, left, folder, count, collector.TIME_LIMIT, worked):
      file.write((json.dumps(entry) + "\n").encode())
      file.flush()
      found[entry["episode"]] = entry
      lines += len(entry.get("lines", ()))
      rate = 60 * (lines - before) / (time.monotonic() - began)
      bar.set_postfix_str(f"{lines} transitions, {rate:.0f} a minute")
      bar.update()
  whole = [(e, Played(found[e.name]["lines"], found[e.name]["counts"])) for e in episodes
           if "dropped" not in found[e.name]]  # fmt: skip
  dropped = {n: found[n]["dropped"] for n in names if "dropped" in found[n]}
  return Collected(whole, dropped, versions)


def _begin(path: pathlib.Path, packages: Sequence[str]) -> dict[str, str]:
  """The packages' versions, noted where nothing was played yet; ValueError if others are there."""
  versions = {package: metadata.version(package) for package in packages}
  noted = path.with_name("versions.json")
  if not path.exists() or not path.stat().st_size:
    write_lines(noted, [json.dumps(versions)])
  if not noted.exists():
    raise ValueError(f"{path.parent} has no {noted.name}: remove the folder to begin anew.")
  begun = json.loads(noted.read_text())
  for package, now in versions.items():
    if begun[package] != now:
      raise ValueError(
        f"{path.parent} was begun with {package} {begun[package]}, now it is {now}: install "
        f"{begun[package]} to go on, or remove the folder to begin anew."
      )
  return versions


def _resume(path: pathlib.Path) -> dict[str, dict[str, Any]]:
  """Episode → its entry, of an earlier start; a torn last line is cut off. ValueError for another
  line that is no entry.
  """
  if not path.exists():
    return {}
  text = path.read_bytes()
  whole = text[: text.rfind(b"\n") + 1]
  if len(whole) < len(text):
    os.truncate(path, len(whole))
  found = {}
  for number, line in enumerate(whole.splitlines(), start=1):
    try:
      entry = json.loads(line)
      found[entry["episode"]] = entry
    except (ValueError, TypeError, KeyError):
      raise ValueError(
        f"{path}, line {number}: it must be what an episode gave, as JSON. Delete it and all lines "
        "after it, or the file: their episodes are played again."
      ) from None
  return found


def _play(
  module: str, settings: Mapping[str, Any], episodes: Sequence[Episode], folder: pathlib.Path,
  workers: int, limit: float, worked: bool,
) -> Iterator[dict[str, Any]]:  # fmt: skip
  """Entries as they come. A thread attends to each worker; all stop when the caller does. `worked`:
  whether an episode ever did.
  """
  todo, done, stop = queue.SimpleQueue(), queue.SimpleQueue(), threading.Event()
  for episode in episodes:
    todo.put(episode)

  def attend():
    worker = None
    try:
      while not stop.is_set():
        try:
          episode = todo.get_nowait()
        except queue.Empty:
          return
        for _ in range(2):
          if worker is None:
            worker = _Worker(module, settings, folder, stop)
          entry, lost = worker.ask(episode, limit)
          if "dropped" in entry:
            worker.kill()
            worker = None
          if not lost:
            break
        done.put(entry)
    except BaseException as error:  # the caller raises it
      done.put(error)
    finally:
      if worker is not None:
        worker.close()

  threads = [threading.Thread(target=attend, daemon=True) for _ in range(workers)]
  for thread in threads:
    thread.start()
  failed = []
  try:
    for _ in episodes:
      entry = done.get()
      if isinstance(entry, BaseException):
        raise entry
      if "dropped" in entry:
        failed.append(entry)  # not yet known to be the episode's own fault
      else:
        worked = True
        yield from (*failed, entry)
        failed = []
      if len(failed) == IN_A_ROW:
        break
    if failed and not (worked and len(failed) < IN_A_ROW):
      raise CollectionError(
        f"{len(failed)} episodes failed one after the other, the last, {failed[-1]['episode']}: "
        f"{failed[-1]['dropped']}. {folder / 'workers.log'} has what the workers said."
      )
    yield from failed
  finally:
    stop.set()
    for thread in threads:
      thread.join()


class _Worker:
  """A process with the environment open, which plays one episode after the other."""

  def __init__(self, module, settings, folder: pathlib.Path, stop: threading.Event):
    self._stop, self._log = stop, folder / "workers.log"
    with open(self._log, "ab") as log:
      self._process = subprocess.Popen(
        [sys.executable, "-m", __name__, module],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
      )  # fmt: skip
    self._held = b""
    answer, _ = self._exchange(dict(settings), START_LIMIT)
    if "ready" not in answer:
      self.kill()
      raise CollectionError(
        f"{module}: the environment doesn't open: {answer['dropped']}. {self._log} has more."
      )

  def ask(self, episode: Episode, limit: float) -> tuple[dict[str, Any], bool]:
    """{"episode", "lines", "counts"}, or {"episode", "dropped": why}; whether no answer came."""
    answer, lost = self._exchange(episode._asdict(), limit)
    return {"episode": episode.name, **answer}, lost

  def _exchange(self, question: Any, limit: float) -> tuple[dict[str, Any], bool]:
    try:
      self._process.stdin.write((json.dumps(question) + "\n").encode())
      self._process.stdin.flush()
    except OSError:
      return {"dropped": "its process died"}, True
    out, end = self._process.stdout.fileno(), time.monotonic() + limit
    while b"\n" not in self._held:
      if self._stop.is_set():
        return {"dropped": "the collection was stopped"}, False  # nobody reads it any more
      if time.monotonic() > end:
        return {"dropped": f"it took more than {limit:g} s"}, True
      if select.select([out], [], [], min(0.2, max(0.0, end - time.monotonic())))[0]:
        read = os.read(out, 1 << 20)
        if not read:
          return {"dropped": "its process died"}, True
        self._held += read
    line, _, self._held = self._held.partition(b"\n")
    return json.loads(line), False

  def kill(self) -> None:
    """Ends the process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    self._process.stdin.close()
    self._process.stdout.close()

  def close(self) -> None:
    """Lets the process close its environment."""
    with contextlib.suppress(OSError):
      self._process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(timeout=0.0 if self._stop.is_set() else 20.0)
    self.kill()


def _serve(module: str) -> None:
  """The worker: settings first, then an episode a line; an answer a line.

  The answers have the process's output to themselves; whatever else is printed goes to the log.
  """
  answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)

  def answer(found: Mapping[str, Any]) -> None:
    answers.write(json.dumps(found) + "\n")
    answers.flush()

  try:
    settings = json.loads(sys.stdin.readline())
    with importlib.import_module(module).session(settings) as play:
      answer({"ready": True})
      for line in sys.stdin:
        answer(play(Episode(**json.loads(line)))._asdict())
  except Exception as error:
    traceback.print_exc()
    answer({"dropped": f"{type(error).__name__}: {error}".strip()})


if __name__ == "__main__":
  _serve(sys.argv[1])
