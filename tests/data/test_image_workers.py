"""Pictures read by worker processes come in order, and a worker's death is one error."""

import multiprocessing

import numpy as np
import pytest
from PIL import Image

from swirl_jax.data import image_workers, images


@pytest.mark.multiprocess
def test_pictures_come_in_order_and_a_dead_worker_is_an_error(tmp_path):
  names = [f"{i}.png" for i in range(30)]
  for i, name in enumerate(names):
    Image.new("RGB", (400 - 10 * i, 8), (8 * i, 0, 0)).save(tmp_path / name)
  (tmp_path / "3.png").unlink()
  here = list(image_workers.reads(names, tmp_path, 8, workers=0, ahead=0))
  there = image_workers.reads(names, tmp_path, 8, workers=2, ahead=5)
  for expected in here[:10]:
    found = next(there)
    assert (found.kind, found.reason) == (expected.kind, expected.reason)
    if not found.kind:
      np.testing.assert_array_equal(found.pixels, expected.pixels)
  assert here[3].kind == "missing" and not here[4].kind
  for process in multiprocessing.active_children():
    process.kill()
  with pytest.raises(image_workers.WorkerError, match="died, as one does that the system kills"):
    list(there)


@pytest.mark.multiprocess
def test_processes_are_given_as_many_as_may_wait(tmp_path):
  asked = []

  def names():
    for i in range(20):
      asked.append(i)
      yield f"{i}.png"

  reads = image_workers.reads(names(), tmp_path, 8, workers=1, ahead=3)
  for i in range(5):
    assert next(reads).kind == "missing" and len(asked) == i + 1 + 3
  assert [found.kind for found in reads] == ["missing"] * 15


def test_no_more_is_read_ahead_than_asked(tmp_path, monkeypatch):
  """Nothing before the first is asked for; with no processes, one at a time."""
  seen = []
  monkeypatch.setattr(images, "read", lambda *task: seen.append(task))
  reads = image_workers.reads(["a", "b"], tmp_path, 8, workers=0, ahead=5)
  assert not seen
  next(reads)
  assert seen == [(str(tmp_path / "a"), "a", 8)]
