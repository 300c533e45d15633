"""What several processes of a run agree on: a flag, a number, and when to stop."""

import itertools
import signal

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
  return jax.process_index() == 0


def any_process(flag: bool) -> bool:
  """Whether `flag` holds on any process. Also a barrier."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.int32(flag)).any())


def from_first(value: int) -> int:
  """Process 0's value. Also a barrier."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


class PreemptionGuard:
  """SIGTERM on any process asks all to stop: `with PreemptionGuard() as guard` around the loop.

  One process: a handler sets a flag; the handler before is put back at the end. Several: JAX's
  preemption service, whose own handler `jax.distributed.initialize` installs, picks a call that
  no process has made yet, and `requested` is True from that call on. It goes by the number of
  calls, so every process must call `requested` equally often.
  """

  _calls = itertools.count()  # of the process, as the service is: a second guard goes on counting

  def __init__(self):
    self._requested = False
    self._previous = None

  def __enter__(self) -> "PreemptionGuard":
    if jax.process_count() == 1:
      self._previous = signal.signal(signal.SIGTERM, self._on_signal)
    return self

  def __exit__(self, *_):
    if jax.process_count() == 1:
      signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)

  def _on_signal(self, number, frame):
    self._requested = True

  def requested(self) -> bool:
    """Whether to save and stop; the same answer on every process. True stays True."""
    if jax.process_count() > 1 and not self._requested:
      self._requested = multihost_utils.reached_preemption_sync_point(next(self._calls))
    return self._requested
