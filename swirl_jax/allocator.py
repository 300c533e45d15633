"""How the process gets its memory from the system."""

import ctypes
import platform

# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
  """Has glibc keep what is freed for the next step; elsewhere nothing changes. Returns whether.

  XLA's CPU backend frees its temporaries after every step. By default glibc gives large ones back
  to the kernel, which must then clear and map every page anew: a quarter of the CPU time of a
  small model's step. Memory stays at its peak instead of falling between steps. For the whole
  process, so the programs call it and the library does not; before the first computation, since a
  thread keeps the arena that it began with.
  """
  if platform.libc_ver()[0] != "glibc":
    return False
  mallopt = ctypes.CDLL(None).mallopt
  kept = [mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_ARENA_MAX, 1)]
  return all(kept)
