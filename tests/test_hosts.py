"""A request to stop, of one process; `test_checkpoint.py` has two that stop together."""

import os
import signal

from swirl_jax import hosts


def test_guard_of_one_process():
  previous = signal.getsignal(signal.SIGTERM)
  with hosts.PreemptionGuard() as guard:
    assert not guard.requested()
    os.kill(os.getpid(), signal.SIGTERM)
    assert guard.requested() and guard.requested()
  assert signal.getsignal(signal.SIGTERM) is previous
  with hosts.PreemptionGuard() as guard:
    assert not guard.requested()
