"""A request to stop, of one process; `test_checkpoint.py` has two that stop together."""

import os
import signal

import jax
import numpy as np
import pytest

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


def test_the_handler_before_comes_back():
  def mine(*_):
    pass

  before = signal.signal(signal.SIGTERM, mine)
  try:
    with hosts.PreemptionGuard():
      assert signal.getsignal(signal.SIGTERM) is not mine
    assert signal.getsignal(signal.SIGTERM) is mine
  finally:
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("flags", [(0, 1), (1, 0), (1, 1), (0, 0)])
def test_one_process_is_enough(monkeypatch, flags):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(hosts.multihost_utils, "process_allgather", lambda _: np.array(flags))
  assert hosts.any_process(bool(flags[0])) == any(flags)


def test_once_asked_all_stop_from_then_on(monkeypatch):
  """JAX's service says so at one call alone."""
  answers = iter([False, True, False])
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(
    hosts.multihost_utils, "reached_preemption_sync_point", lambda _: next(answers)
  )
  with hosts.PreemptionGuard() as guard:
    assert [guard.requested() for _ in range(4)] == [False, True, True, True]
