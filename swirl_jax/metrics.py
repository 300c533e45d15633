"""What a run tells: rows of JSON, TensorBoard events, a progress bar, speed, memory, versions.

`metrics.jsonl` and `evaluations.jsonl` are the record: one row a line, each with its `position`,
flushed as it is written, the same from run to run except for the nested object `perf`, which alone
depends on the machine. On resume the rows after the checkpoint are cut. TensorBoard shows them.
Process 0 writes; on the others every writer here is silent.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorboardX
import tqdm

from swirl_jax.types import Mean
from swirl_jax.whole_files import replacing

PERF = "perf"  # the key of what may differ between two runs of one config
_COORDINATES = ("position", "stage", "iteration", "step")  # where a row stands; not plotted
_SCORED = ("method", "model", "split")  # what an evaluation is of

# Dense bfloat16 FLOP/s of one JAX device, by `device_kind`; the first prefix that fits counts.
# cloud.google.com/tpu/docs/system-architecture-tpu-vm; NVIDIA's A100, H100 and H200 data sheets.
_PEAK_FLOPS = (
  ("TPU v4", 275e12),
  ("TPU v5 lite", 197e12),
  ("TPU v5e", 197e12),
  ("TPU v5", 459e12),
  ("TPU v6 lite", 918e12),
  ("TPU v6e", 918e12),
  ("NVIDIA A100", 312e12),
  ("NVIDIA H100 PCIe", 756e12),
  ("NVIDIA H100 NVL", 835e12),
  ("NVIDIA H100", 989e12),
  ("NVIDIA H200 NVL", 835e12),
  ("NVIDIA H200", 989e12),
)


def to_floats(metrics: dict[str, Any]) -> dict[str, float]:
  """{'a': {'b': Mean}} -> {'a/b': sum / weight}; scalars stay. One transfer from the device.

  A Mean of weight 0 has no value and is left out. Infinity and NaN come through as they are.
  """
  flat = {}
  for name, value in _flatten(jax.device_get(metrics)):
    if not isinstance(value, Mean):
      flat[name] = float(value)
    elif float(value.weight) != 0.0:
      flat[name] = float(value.sum) / float(value.weight)
  return flat


class LogError(ValueError):
  """A line of a log that is no row of it."""


class JsonlLog:
  """Rows appended to a file, each a JSON object on a line of its own with an int `position`.

  Infinity and NaN, which JSON lacks, are written as null. Positions never go down.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = Path(path)
    self._file = None
    self._last: int | None = None

  def write(self, row: dict[str, Any]) -> None:
    position = row.get("position")
    if not isinstance(position, int) or isinstance(position, bool):
      raise TypeError(f"row of {self.path.name}: position = {position!r}: allowed is an int.")
    if jax.process_index() != 0:
      return
    if self._file is None:
      self._open()
    if self._last is not None and position < self._last:
      raise ValueError(f"row of {self.path.name}: position = {position} after {self._last}: "
                       "allowed is the same or a greater one (on resume, truncate_after first).")
    self._file.write(json.dumps(_plain(row), allow_nan=False) + "\n")
    self._file.flush()
    self._last = position

  def truncate_after(self, position: int) -> None:
    """Removes, atomically, the rows whose position is greater, and a torn last line.

    -1 removes all. The lines that stay keep their bytes.
    """
    self.close()
    if jax.process_index() != 0 or not self.path.exists():
      return
    kept = b"".join(line for line, row in _lines(self.path) if row["position"] <= position)
    with replacing(self.path) as temporary:
      temporary.write_bytes(kept)

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
    self._file = self._last = None

  def _open(self) -> None:
    self.path.parent.mkdir(parents=True, exist_ok=True)
    if self.path.exists():
      lines = list(_lines(self.path))
      self._last = lines[-1][1]["position"] if lines else None
      os.truncate(self.path, sum(len(line) for line, _ in lines))  # drops a torn line
    self._file = open(self.path, "a", encoding="utf-8")


def read_rows(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of a JsonlLog; none if the file is absent. A torn last line (no line end) is skipped;
  a torn line before it is a LogError with its number."""
  path = Path(path)
  return [row for _, row in _lines(path)] if path.exists() else []


class MetricWriter:
  """workdir/metrics.jsonl, workdir/evaluations.jsonl and both as events in workdir/tensorboard."""

  def __init__(self, workdir: str | os.PathLike):
    self._workdir = Path(workdir)
    self.metrics = JsonlLog(self._workdir / "metrics.jsonl")
    self.evaluations = JsonlLog(self._workdir / "evaluations.jsonl")
    self._events: tensorboardX.SummaryWriter | None = None
    self._purge: int | None = None

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *_):
    self.close()

  def write(self, row: dict[str, Any]) -> None:
    """A row of metrics.jsonl; its numbers are plotted under its stage, those of `perf` under it."""
    self.metrics.write(row)
    self._plot(row.get("stage", "train"), row)

  def write_evaluation(self, row: dict[str, Any]) -> None:
    """A row of evaluations.jsonl; its numbers are plotted under evaluation/method/model/split."""
    self.evaluations.write(row)
    self._plot("/".join(["evaluation", *(row[name] for name in _SCORED)]), row)

  def truncate_after(self, position: int) -> None:
    """To be called on resume, with the checkpoint's position (-1 without one), before any row.

    TensorBoard drops the older events after `position` through a SessionLog in a new file.
    """
    self.metrics.truncate_after(position)
    self.evaluations.truncate_after(position)
    self._close_events()
    self._purge = position + 1

  def close(self) -> None:
    self.metrics.close()
    self.evaluations.close()
    self._close_events()

  def _plot(self, prefix: str, row: dict[str, Any]) -> None:
    if jax.process_index() != 0:
      return
    if self._events is None:
      self._events = tensorboardX.SummaryWriter(
        str(self._workdir / "tensorboard"), purge_step=self._purge, flush_secs=10,
        filename_suffix=f".{os.getpid()}.{time.time_ns()}")  # no two files of one name
    for name, value in _flatten({k: v for k, v in row.items() if k not in _COORDINATES}):
      number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
      if number and math.isfinite(value):
        tag = name if name.startswith(f"{PERF}/") else f"{prefix}/{name}"
        self._events.add_scalar(tag, float(value), row["position"])

  def _close_events(self) -> None:
    if self._events is not None:
      self._events.close()
    self._events = None


class Progress:
  """A bar with rate, remaining time and the last values; where stderr is no terminal, a line at
  most every `every` seconds."""

  def __init__(self, total: int, *, initial: int = 0, description: str = "", file=None,
               every: float = 10.0, clock: Callable[[], float] = time.monotonic):
    self._file = sys.stderr if file is None else file
    self._total, self._initial, self._n = total, initial, initial
    self._description, self._every, self._clock = description, every, clock
    self._start = self._printed = clock()
    self._postfix, self._pending = "", False
    self._silent = jax.process_index() != 0
    self._bar = None
    if not self._silent and self._file.isatty():
      self._bar = tqdm.tqdm(total=total, initial=initial, desc=description, file=self._file,
                            dynamic_ncols=True)

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *_):
    self.close()

  def update(self, n: int = 1, **values: float | str) -> None:
    """Moves on by n; `values` (reward=0.5) are shown behind the bar."""
    self._n += n
    self._pending = True
    if values:
      self._postfix = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}"
                                for k, v in values.items())
    if self._bar is not None:
      self._bar.set_postfix_str(self._postfix, refresh=False)
      self._bar.update(n)
    elif self._clock() - self._printed >= self._every:
      self._print()

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()
    elif self._pending:
      self._print()

  def _print(self) -> None:
    if not self._silent:
      line = tqdm.tqdm.format_meter(
        self._n, self._total, self._clock() - self._start, ncols=100, prefix=self._description,
        postfix=self._postfix, initial=self._initial)
      print(line, file=self._file, flush=True)
    self._printed, self._pending = self._clock(), False


def device_peak_flops(device: jax.Device) -> float | None:
  """Dense bfloat16 FLOP/s of the device; None where it isn't known (a CPU)."""
  kind = device.device_kind
  return next((peak for prefix, peak in _PEAK_FLOPS if kind.startswith(prefix)), None)


def mfu(flops: float, seconds: float, n_devices: int, *, device=None) -> float | None:
  """Model FLOP utilisation: flops / (seconds · n_devices · peak of a device); None without a peak.

  `flops` is the work of all devices together; `device` is jax.devices()[0] unless given.
  """
  peak = device_peak_flops(jax.devices()[0] if device is None else device)
  return None if peak is None or seconds <= 0 else flops / (seconds * n_devices * peak)


def memory() -> dict[str, int]:
  """Peak resident bytes of this process and, where the backend tells, bytes on its devices (the
  fullest of them)."""
  unit = 1 if sys.platform == "darwin" else 1024
  found = {"host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
  stats = [s for device in jax.local_devices() if (s := device.memory_stats())]
  for name, key in (("device_bytes", "bytes_in_use"), ("device_peak_bytes", "peak_bytes_in_use")):
    values = [s[key] for s in stats if key in s]
    if values:
      found[name] = max(values)
  return found


def versions() -> dict[str, Any]:
  """What a run was made with: packages, Python, platform, devices, the cores that it may use (on a
  CPU they decide the last bits), XLA's flags, the commit of this package.
  """
  packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "swirl_jax")
  devices = jax.devices()
  return {
    "python": platform.python_version(),
    "platform": platform.platform(),
    **{name: _version(name) for name in packages},
    "device_kind": devices[0].device_kind,
    "device_count": len(devices),
    "process_count": jax.process_count(),
    "cpu_cores": _cores(),
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
    "commit": _commit(Path(__file__).parent),
  }


@contextlib.contextmanager
def profile(workdir: str | os.PathLike, enabled: bool) -> Iterator[None]:
  """Traces what runs inside into workdir/profile (TensorBoard, Perfetto), if `enabled`."""
  with jax.profiler.trace(str(Path(workdir) / "profile")) if enabled else contextlib.nullcontext():
    yield


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _commit(folder: Path) -> str | None:
  """The commit checked out around `folder`, '+' behind it where tracked files differ from it."""
  def git(*args):
    return subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True,
                          timeout=10, check=True).stdout.strip()
  try:
    if git("ls-files", "--", ".") == "":  # an installed copy inside somebody else's repository
      return None
    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
  except (OSError, subprocess.SubprocessError):
    return None


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """(line with its end, row) for each whole line."""
  with open(path, "rb") as f:
    for number, line in enumerate(f, 1):
      if not line.endswith(b"\n"):
        return  # only the last line can lack its end: torn
      try:
        row = json.loads(line)
        whole = isinstance(row, dict) and isinstance(row.get("position"), int)
      except ValueError:
        whole = False
      if not whole:
        found = line[:60].decode(errors="replace")
        raise LogError(f"{path}, line {number}: found {found!r}, expected a JSON object with an "
                       "int position. Mend or remove that line; nothing else reads its row.")
      yield line, row


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _flatten(value, f"{prefix}{key}/")
    else:
      yield f"{prefix}{key}", value


def _plain(value: Any) -> Any:
  """JSON's own types; scalars of NumPy and JAX as Python's, what isn't finite as None."""
  if isinstance(value, dict):
    return {str(key): _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, jax.Array | np.ndarray | np.generic):
    return _plain(value.tolist())
  return None if isinstance(value, float) and not math.isfinite(value) else value
