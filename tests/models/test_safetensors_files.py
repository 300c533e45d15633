"""Safetensors by ranges: parts of a tensor, short reads, shards, and what an index may say."""

import io
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from swirl_jax.models import safetensors_files
from swirl_jax.models.safetensors_files import CheckpointFilesError, Entry

F32 = np.dtype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_any_rows_of_a_tensor_are_those_rows(tmp_path, monkeypatch, dtype):
  """As a process reads that holds a part: from the middle, in pieces, behind another tensor."""
  whole = np.random.default_rng(0).normal(size=(11, 6)).astype(jnp.dtype(dtype))
  save_file({"a": np.ones(3, np.float32), "b": whole}, tmp_path / "model.safetensors")
  tensor = safetensors_files.find(tmp_path)["b"]
  monkeypatch.setattr(safetensors_files, "PIECE", 3 * 6 * 4)
  for start, stop in ((0, 11), (4, 9), (10, 11), (5, 5)):
    found = [(first, a) for first, a in safetensors_files.pieces(tensor, 11, start, stop)]
    rows = [first + i for first, a in found for i in range(len(a))]
    assert rows == list(range(start, stop))
    for first, a in found:
      np.testing.assert_array_equal(a, whole[first : first + len(a)])
  np.testing.assert_array_equal(safetensors_files.read(tensor), whole)


class Slow(io.FileIO):
  """A file that gives at most five bytes at a time, as a network's may."""

  def readinto(self, buffer):
    return super().readinto(memoryview(buffer)[:5])


def test_a_read_that_gives_less_is_continued(tmp_path, monkeypatch):
  whole = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
  save_file({"a": whole}, tmp_path / "model.safetensors")
  tensor = safetensors_files.find(tmp_path)["a"]
  monkeypatch.setattr(safetensors_files, "open", lambda path, *_, **__: Slow(path), raising=False)
  np.testing.assert_array_equal(safetensors_files.read(tensor), whole)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
  file = tmp_path / "model.safetensors"
  save_file({"a": np.ones(9, np.float32)}, file)
  tensor = safetensors_files.find(tmp_path)["a"]
  file.write_bytes(file.read_bytes()[:-4])
  with pytest.raises(CheckpointFilesError, match=f"'a' in {file}: cut short while it was read"):
    safetensors_files.read(tensor)


def test_shards_are_filled_to_the_limit_and_none_is_empty():
  entries = [Entry(f"{i}", F32, (n,)) for i, n in enumerate((30, 4, 6, 1))]
  shards = safetensors_files.plan_shards(entries, 40)
  assert [[e.name for e in held] for _, held in shards] == [["0"], ["1", "2"], ["3"]]
  assert [file for file, _ in shards][0] == "model-00001-of-00003.safetensors"
  assert safetensors_files.plan_shards(entries, 164) == [("model.safetensors", entries)]


@pytest.mark.parametrize("name", ["w" * n for n in range(1, 9)])
def test_a_written_file_is_what_other_readers_want(tmp_path, name):
  """Data at a multiple of 8 bytes, and the mark without which transformers opens no file."""
  file, array = tmp_path / "model.safetensors", np.arange(6, dtype=np.float32).reshape(3, 2)
  safetensors_files.write(file, [Entry(name, F32, (3, 2))], [array])
  assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0
  np.testing.assert_array_equal(load_file(file)[name], array)
  with safe_open(file, "numpy") as opened:
    assert opened.metadata() == {"format": "pt"}


@pytest.mark.parametrize("array", [np.zeros(3, np.float32), np.zeros((3, 2), np.float16)])
def test_an_array_that_is_not_its_entry_is_not_written(tmp_path, array):
  with pytest.raises(ValueError, match=r"w: found .* expected float32\(3, 2\)"):
    safetensors_files.write(tmp_path / "f", [Entry("w", F32, (3, 2))], [array])


def index(folder: pathlib.Path, **where):
  text = json.dumps({"weight_map": where})
  (folder / "model.safetensors.index.json").write_text(text)


def test_an_index_names_files_of_its_folder_alone(tmp_path):
  inside = tmp_path / "in"
  inside.mkdir()
  save_file({"a": np.ones(2, np.float32)}, tmp_path / "other.safetensors")
  index(inside, a="../other.safetensors")
  with pytest.raises(CheckpointFilesError, match="'../other.safetensors' is no name of a file"):
    safetensors_files.find(inside)


def test_a_tensor_that_two_shards_hold_is_named(tmp_path):
  """Which of them is the model's, nothing says."""
  one, two = np.ones(2, np.float32), np.zeros(2, np.float32)
  save_file({"a": one, "b": one}, tmp_path / "1.safetensors")
  save_file({"b": two, "c": two}, tmp_path / "2.safetensors")
  index(tmp_path, a="1.safetensors", b="1.safetensors", c="2.safetensors")
  with pytest.raises(CheckpointFilesError, match="tensor 'b' in .*2.safetensors is in 1.safet"):
    safetensors_files.find(tmp_path)


def test_a_single_file_stands_before_an_index(tmp_path):
  """As transformers reads a folder that has both."""
  save_file({"a": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
  index(tmp_path, a="gone.safetensors")
  assert set(safetensors_files.find(tmp_path)) == {"a"}
