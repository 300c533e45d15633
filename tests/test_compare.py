"""The command around a comparison: where its data lie, and how each of its runs is started."""

import os
import sys

import pytest

from configs import comparison as config
from swirl_jax import compare, process, start, train


def test_the_data_lie_where_the_config_says(tmp_path, monkeypatch):
  """Once for all runs, whose own config then names the place."""

  class Prepared(Exception):
    pass

  class World:
    def prepare(self, folder):
      raise Prepared(folder, seen.data.dir, seen.seed)

  def world_of(settings):
    nonlocal seen
    seen = settings
    return World()

  seen = None
  monkeypatch.setattr(start, "world_of", world_of)
  c = config.get_config("test").to_dict()
  for given, expected in (("", str(tmp_path / "data")), ("/mine", "/mine")):
    c["run"]["data"]["dir"] = given
    with pytest.raises(Prepared) as found:
      compare.compare(c, str(tmp_path), 1)
    assert found.value.args[:2] == (expected, expected)


@pytest.mark.parametrize("kind", ["quick", ""])
def test_a_run_has_its_cores_its_flags_and_a_log_that_goes_on(kind, tmp_path, monkeypatch):
  """A run that goes on keeps what it had logged."""
  begun = []
  monkeypatch.setattr(compare, "stop_with_parent", lambda: None)
  monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: begun.append(tuple(cores)))
  for name in ("keep_freed_memory", "repeat_on_gpu", "compile_quickly"):
    monkeypatch.setattr(process, name, lambda name=name: begun.append(name))
  monkeypatch.setattr(train, "prepare", lambda c, folder: folder)

  def played(folder):
    begun.append(folder)
    print("trained")
    print("warned", file=sys.stderr)

  monkeypatch.setattr(train, "train", played)
  folder = tmp_path / "seed-0"
  folder.mkdir()
  (folder / "log.txt").write_text("before\n")
  compare._run({"compile": kind}, str(folder), (2, 3))
  quick = ["compile_quickly"] if kind else []
  assert begun == [(2, 3), "keep_freed_memory", "repeat_on_gpu", *quick, str(folder)]
  assert (folder / "log.txt").read_text() == "before\ntrained\nwarned\n"
