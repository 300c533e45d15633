"""A work directory's files: whole or not there, never overwritten, and of one config."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swirl_jax import files


def test_check_config():
  saved = {"seed": 1, "mesh": {"data": 8, "fsdp": 1}, "phase": {"steps": 10, "clip": (0.2, 0.3)},
           "lora": {}}
  same = {"lora": {}, "phase": {"clip": [0.2, 0.3], "steps": 10}, "mesh": {"fsdp": 1, "data": 8},
          "seed": 1}
  files.check_config(saved, same, ())
  files.check_config(saved, {**saved, "mesh": {"data": 1}}, {"mesh"})
  files.check_config(saved, {**saved, "mesh": {"data": 1, "fsdp": 1}}, {"mesh.data"})
  changed = {**saved, "seed": 2, "mesh": {"data": 1}, "phase": {"steps": 10}, "new": None}
  with pytest.raises(ValueError) as caught:
    files.check_config(saved, changed, {"steps", "mesh"})
  message = str(caught.value)
  assert "seed: saved 1, now 2" in message
  assert "phase.clip: saved [0.2, 0.3], now absent" in message
  assert "new: saved absent, now null" in message
  assert "mesh.data" not in message and "phase.steps" not in message
  assert "May change on resume: mesh, steps." in message
  with pytest.raises(ValueError, match="meshes: saved absent"):
    files.check_config(saved, {**saved, "meshes": 1}, {"mesh"})
  with pytest.raises(ValueError, match="lora: saved {}, now absent"):
    files.check_config({"seed": 1, "lora": {}}, {"seed": 1}, ())


def test_write_json_atomic(tmp_path):
  path = tmp_path / "config.json"
  files.write_json_atomic(path, {"a": 1})
  for bad in ({"a": object()}, {"a": float("nan")}):
    with pytest.raises((TypeError, ValueError)):
      files.write_json_atomic(path, bad)
  assert path.read_text() == '{\n  "a": 1\n}\n'
  assert os.listdir(tmp_path) == ["config.json"]


def test_dump_never_overwrites(tmp_path):
  tree = {"batch": {"x": jnp.arange(3)}, "half": jnp.asarray([1.5], jnp.bfloat16),
          "key": jax.random.key(3), "loss": np.float32("nan"), "none": None}
  paths = [files.dump(tmp_path / "d", "step-7", tree) for _ in range(3)]
  assert [p.name for p in paths] == ["step-7.npz", "step-7-1.npz", "step-7-2.npz"]
  for path, loaded in zip(paths, map(np.load, paths), strict=True):
    assert sorted(loaded) == ["batch/x", "half", "key", "loss"], path
    np.testing.assert_array_equal(loaded["batch/x"], [0, 1, 2])
    np.testing.assert_array_equal(loaded["key"], jax.random.key_data(jax.random.key(3)))
    assert loaded["half"].dtype == np.float32 and loaded["half"][0] == 1.5
