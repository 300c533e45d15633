"""What a program asks of its own process before JAX computes anything."""

import contextlib
import ctypes
import os
import pathlib
import platform
import resource
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

import jaxlib.version
from absl import app, flags

# glibc's malloc.h, Linux' mman.h
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_MADV_HUGEPAGE, _LARGE_PAGE = 14, 2 << 20


def keep_freed_memory() -> bool:
  """Has glibc keep what is freed for the next step, in pages of 2 MiB where the kernel has them;
  elsewhere nothing changes. Returns whether it keeps.

  XLA's CPU backend frees its temporaries after every step. By default glibc gives large ones back
  to the kernel, which must then clear and map every page anew; large pages spare the processor most
  lookups of addresses. Together that is a quarter of the CPU time of a small model's step
  (`benchmarks/kept_memory.py`). Memory stays at its peak instead of falling between steps. For the
  whole process, so the programs call it and the library does not; before the first computation,
  since a thread keeps the arena that it began with.
  """
  if platform.libc_ver()[0] != "glibc":
    return False
  libc = ctypes.CDLL(None)
  wanted = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1))
  kept = [libc.mallopt(name, value) for name, value in wanted]
  # The heap grows by half of the memory, which costs nothing until it is touched, so that all that
  # comes later lies in one stretch that the kernel can be asked about. Not where it does cost.
  if not _addresses_are_free():
    return all(kept)
  libc.malloc.restype = ctypes.c_void_p
  size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
  if heap := libc.malloc(ctypes.c_size_t(size)):
    start = -(-heap // _LARGE_PAGE) * _LARGE_PAGE
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(heap + size - start), _MADV_HUGEPAGE)
    libc.free(ctypes.c_void_p(heap))
  return all(kept)


def _addresses_are_free() -> bool:
  """Whether memory that isn't touched counts against no limit."""
  limits = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
  strict = pathlib.Path("/proc/sys/vm/overcommit_memory")
  counted = strict.exists() and strict.read_text().strip() == "2"
  return not counted and all(limit == resource.RLIM_INFINITY for limit in limits)


def parse_flags(argv: Sequence[str]) -> list[str]:
  """For `app.run`: absl's parsing, where a config that isn't there, or a field that it hasn't, is
  one line, as other flags that can't be are.
  """
  try:
    rest = app.parse_flags_with_usage(argv)
    flags.FLAGS["config"].value.to_dict()  # a file that isn't there is an error when it is used
    return rest
  except OSError as error:
    if not _raised_in(error, "config_flags"):
      raise
    sys.exit(f"FATAL Flags parsing error: {error}")
  except (AttributeError, KeyError) as error:
    if not _raised_in(error, "config_path"):
      raise  # of the config's own code
    while isinstance(error, Exception):  # the AttributeError of a KeyError
      error = error.args[0]
    quoted, _, hint = error.partition("\n")
    name = quoted.strip("\"'")
    given = [a for a in argv if name in a.partition("=")[0].split(".")]
    sys.exit(
      f"FATAL Flags parsing error: {' '.join(given)}: the config has no field {name!r}. "
      f"{hint or 'Allowed are those of the file that --config names.'}"
    )


def _raised_in(error: BaseException, module: str) -> bool:
  return any(module in frame.filename for frame in traceback.extract_tb(error.__traceback__))


def repeat_on_gpu() -> None:
  """Has XLA's GPU backend compute the same bits whenever it runs: sums in one order, and kernels
  chosen by rule and not by a race, whose winner another process may not find.

  Without it two runs on an H200 differed in the last bits of the fifth update, so that a resumed
  run would not be the run that was never stopped. It also compiles faster. Before the backend
  starts, which reads the flag then; it does nothing to other backends, and gives way to the same
  flag in XLA_FLAGS.
  """
  given = os.environ.get("XLA_FLAGS", "")
  os.environ["XLA_FLAGS"] = f"--xla_gpu_deterministic_ops=true {given}".strip()


def leave(said: str) -> NoReturn:
  """Ends this process with an error that the other processes of a run may not share: they wait for
  it in a collective, and it must not wait for them in `jax.distributed`'s own farewell.
  """
  if not _one_of_several():
    sys.exit(said)
  leave_at_once(said)


def leave_at_once(said: str) -> NoReturn:
  """The same, without what Python does at its end: threads that write to a full disk would go on
  to fail, and print it.
  """
  sys.stdout.flush()
  print(said, file=sys.stderr, flush=True)
  os._exit(1)


@contextlib.contextmanager
def ending_on_sigterm(said: str) -> Iterator[None]:
  """SIGTERM inside ends this process with 0 and what is said, for what has nothing to save. One of
  several processes goes on: `hosts.PreemptionGuard` sees the signal once they work together.
  """

  def end(number, frame):
    print(said, flush=True)
    sys.exit(0)

  before = None if _one_of_several() else signal.signal(signal.SIGTERM, end)
  try:
    yield
  finally:
    if before is not None:
      signal.signal(signal.SIGTERM, before)


def fail() -> NoReturn:
  """Ends this process with the exception under way, which nobody foresaw: see `leave`."""
  if not _one_of_several():
    raise  # noqa: PLE0704
  leave(traceback.format_exc())


def _one_of_several() -> bool:
  """Without starting a backend, whose failure may be what is told."""
  import jax

  return jax.distributed.is_initialized()


def compile_quickly() -> None:
  """Has XLA's CPU backend compile without LLVM's optimisations, and with the older of its two
  emitters where jaxlib still has both: in a fraction of the time, to slower code.

  For tiny models, whose whole run takes less time than compiling it. Before the backend starts,
  which reads the flags then; they do nothing to other backends.
  """
  chosen = ["--xla_backend_optimization_level=0"]
  if jaxlib.version.__version_info__ <= (0, 10, 2):  # an unknown flag would end the process
    chosen.append("--xla_cpu_use_fusion_emitters=false")
  os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *chosen]).strip()
