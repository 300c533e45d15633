"""Files that are whole or not there."""

import fcntl
import os
import queue
import threading

import pytest

from swirl_jax import whole_files


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
  path = tmp_path / "a"
  path.write_text("old")
  with whole_files.replacing(path) as temporary:
    temporary.write_text("new")
    assert path.read_text() == "old" and temporary.parent == tmp_path
  assert path.read_text() == "new" and os.listdir(tmp_path) == ["a"]


def test_an_error_leaves_what_was(tmp_path):
  path = tmp_path / "a"
  with pytest.raises(RuntimeError), whole_files.replacing(path) as temporary:
    temporary.write_text("half")
    raise RuntimeError
  assert not os.listdir(tmp_path)
  with pytest.raises(FileNotFoundError), whole_files.replacing(path):
    pass
  assert not os.listdir(tmp_path)


def test_lines(tmp_path):
  whole_files.write_lines(tmp_path / "a", iter(["ä", "b"]))
  assert (tmp_path / "a").read_bytes() == "ä\nb\n".encode()


def test_lines_that_end_in_an_error_leave_what_was(tmp_path):
  def lines():
    yield "new"
    raise RuntimeError

  (tmp_path / "a").write_text("old")
  with pytest.raises(RuntimeError):
    whole_files.write_lines(tmp_path / "a", lines())
  assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_two_processes_write_to_files_of_their_own(tmp_path, monkeypatch):
  with whole_files.replacing(tmp_path / "a") as one:
    one.write_text("one")
    monkeypatch.setattr(os, "getpid", lambda: -1)  # of another process
    with whole_files.replacing(tmp_path / "a") as other:
      other.write_text("other")
    assert one.read_text() == "one"
  assert (tmp_path / "a").read_text() == "one"


def test_a_lock_is_held_once(tmp_path):
  path = tmp_path / "new" / "lock"
  with whole_files.locked(path), open(path, "w") as file:
    for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
      with pytest.raises(BlockingIOError):
        fcntl.flock(file, kind | fcntl.LOCK_NB)
  with open(path, "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_is_waited_for_or_refused(tmp_path):
  path, found = tmp_path / "lock", queue.Queue()

  def take(wait):  # in a thread, or an error here would have the test wait for ever
    try:
      with whole_files.locked(path, wait=wait):
        found.put("held")
    except BlockingIOError:
      found.put("refused")

  def start(wait):
    threading.Thread(target=take, args=(wait,), daemon=True).start()

  with whole_files.locked(path):
    start(wait=False)
    assert found.get(timeout=5) == "refused"
    start(wait=True)
    with pytest.raises(queue.Empty):
      found.get(timeout=0.2)
  assert found.get(timeout=5) == "held"


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
  path, flushed = tmp_path / "a", []
  monkeypatch.setattr(whole_files, "flush", lambda p: flushed.append((p, path.exists())))
  with whole_files.replacing(path) as temporary:
    temporary.write_text("new")
  assert flushed == [(temporary, False), (tmp_path, True)]


def test_a_flush_is_of_the_file_and_of_the_folder(tmp_path, monkeypatch):
  flushed = []
  monkeypatch.setattr(os, "fsync", lambda n: flushed.append(os.fstat(n).st_ino))
  whole_files.write_lines(tmp_path / "a", ["new"])
  assert flushed == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]
