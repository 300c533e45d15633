"""Checkpoints: bit for bit, on any mesh; damage is found and set aside; errors say what to do."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from swirl_jax import checkpoint as ckpt
from swirl_jax.checkpoint import Checkpointer, CheckpointError


class Empty(NamedTuple):
  pass


class Adam(NamedTuple):
  count: Any
  mu: Any


def make_mesh(*shape):
  return jax.make_mesh(shape, ("data", "fsdp", "tensor"))


def make_state(mesh, seed=0):
  """A named tuple, an empty node, a tuple, and the dtypes that a run holds."""
  rng = np.random.default_rng(seed)
  split = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
  whole = NamedSharding(mesh, PartitionSpec())
  weights = rng.integers(0, 2**32, (8, 4), dtype=np.uint32).view(np.float32)  # any bits, NaN too
  return {
    "params": {"layers": {"down": jax.device_put(weights, split)},
               "half": jax.device_put(jnp.asarray(rng.normal(size=(4, 4)), jnp.bfloat16), split)},
    "opt": (Adam(jax.device_put(jnp.int32(7), whole), {"down": jax.device_put(weights, whole)}),
            Empty()),
    "key": jax.device_put(jax.random.key_data(jax.random.key(seed)), whole),
    "done": jax.device_put(np.array([True, False, True]), whole),
  }


def template(state, mesh=None):
  def leaf(x):
    sharding = x.sharding if mesh is None else NamedSharding(mesh, x.sharding.spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
  return jax.tree.map(leaf, state)


def assert_same_bits(got, expected):
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def files_of(folder):
  return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A folder with whole checkpoints at 10 and 20 (copied, never written to), and their state."""
  folder = tmp_path_factory.mktemp("saved") / "checkpoints"
  states = {p: make_state(make_mesh(2, 2, 2), seed=p) for p in (10, 20)}
  with Checkpointer(folder) as checkpointer:
    for position, state in states.items():
      checkpointer.save(position, state, {"position": position, "best": 0.1})
  return folder, states


@pytest.fixture
def copy(saved, tmp_path):
  return shutil.copytree(saved[0], tmp_path / "checkpoints")


@pytest.mark.parametrize("shape", [(2, 2, 2), (8, 1, 1), (1, 2, 4), (1, 4, 2)])
def test_restores_bits_and_dtypes_on_any_mesh(saved, shape):
  folder, states = saved
  mesh = make_mesh(*shape)
  with Checkpointer(folder, read_only=True) as checkpointer:
    assert checkpointer.latest() == (20, {"position": 20, "best": 0.1})
    for position, state in states.items():
      got = checkpointer.restore(position, template(state, mesh))
      assert_same_bits(got, state)
      assert got["params"]["layers"]["down"].sharding.mesh == mesh


def test_save_is_not_disturbed_by_donation(tmp_path):
  make = jax.jit(lambda k: jnp.broadcast_to(jnp.arange(512.0)[:, None] + k, (512, 512)) * 1.0)
  step = jax.jit(lambda x: x * 0 - 7, donate_argnums=0)
  with Checkpointer(tmp_path / "c") as checkpointer:
    for k in range(3):
      x = make(k)
      checkpointer.save(k, {"x": x}, {})
      for _ in range(20):
        x = step(x)
      x.block_until_ready()
      got = checkpointer.restore(k, template({"x": x}))["x"]
      expected = np.broadcast_to(np.arange(512.0)[:, None] + k, (512, 512))
      np.testing.assert_array_equal(got, expected)


def test_a_flipped_bit_in_any_file_is_found_and_set_aside(saved, tmp_path, caplog):
  source, states = saved
  names = files_of(source / "20")
  assert len(names) > 8 and any("ocdbt" in str(name) for name in names)
  for n, name in enumerate(names):
    folder = shutil.copytree(source, tmp_path / str(n))
    file = folder / "20" / name
    data = bytearray(file.read_bytes())
    data[(7 * n) % len(data)] ^= 1 << (n % 8)
    file.write_bytes(data)
    caplog.clear()
    with Checkpointer(folder) as checkpointer:
      assert checkpointer.latest() == (10, {"position": 10, "best": 0.1}), name
      warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
      assert len(warnings) == 1 and str(name) in warnings[0] and "is damaged" in warnings[0]
      assert files_of(folder / "damaged" / "20-1") == names and not (folder / "20").exists()
      if n == 0:  # life goes on: the position is written anew
        checkpointer.save(20, states[20], {"position": 20, "best": 0.1})
        checkpointer.wait()
        assert checkpointer.latest()[0] == 20


def test_every_bit_of_the_manifest_counts(copy):
  file = copy / "20" / ckpt.MANIFEST
  good = file.read_bytes()
  checkpointer = Checkpointer(copy, read_only=True)
  for place in range(0, len(good), 17):
    bad = bytearray(good)
    bad[place] ^= 1 << (place % 8)
    file.write_bytes(bad)
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json is damaged"):
      ckpt.verify(copy / "20")
  assert checkpointer.latest()[0] == 10


@pytest.mark.parametrize("harm, reason", [
  (lambda step: os.truncate(step / "meta" / "metadata", 3), "metadata is damaged: found 3 bytes"),
  (lambda step: os.truncate(step / "state" / "_METADATA", 9), "_METADATA is damaged: found 9"),
  (lambda step: (step / "state" / "manifest.ocdbt").unlink(), "manifest.ocdbt cannot be read"),
  (lambda step: (step / ckpt.MANIFEST).unlink(), "MANIFEST.json is missing"),
  (lambda step: shutil.rmtree(step) or step.mkdir(), "MANIFEST.json is missing"),
  (lambda step: shutil.rmtree(step) or shutil.copytree(step.parent / "10", step),
   "MANIFEST.json is damaged"),  # whole, but of another position
])
def test_a_step_that_is_not_whole_gives_way_to_the_one_before(copy, caplog, harm, reason):
  harm(copy / "20")
  before = files_of(copy)
  with Checkpointer(copy, read_only=True) as checkpointer:
    assert checkpointer.latest()[0] == 10
  assert files_of(copy) == before and reason in caplog.text
  caplog.clear()
  with Checkpointer(copy) as checkpointer:
    assert checkpointer.latest()[0] == 10
  assert reason in caplog.text and (copy / "damaged" / "20-1").is_dir()
  shutil.copytree(copy / "damaged" / "20-1", copy / "20")
  with Checkpointer(copy) as checkpointer:
    assert checkpointer.latest()[0] == 10
    assert (copy / "damaged" / "20-2").is_dir()


def test_nothing_whole_is_none(copy, tmp_path):
  (copy / "10" / ckpt.MANIFEST).unlink()
  (copy / "20" / ckpt.MANIFEST).unlink()
  assert Checkpointer(copy).latest() is None
  assert Checkpointer(tmp_path / "absent", read_only=True).latest() is None
  assert not (tmp_path / "absent").exists()


def test_restoring_a_damaged_position_raises(copy):
  state = make_state(make_mesh(8, 1, 1))
  os.truncate(copy / "20" / "meta" / "metadata", 1)
  with Checkpointer(copy) as checkpointer:
    with pytest.raises(CheckpointError, match="metadata is damaged"):
      checkpointer.restore(20, template(state))
    with pytest.raises(CheckpointError, match="does not exist"):
      checkpointer.restore(30, template(state))


def test_keeps_the_newest_and_deletes_only_behind_a_manifest(tmp_path, monkeypatch):
  folder = tmp_path / "c"
  with Checkpointer(folder, keep=2) as checkpointer:
    for position in (1, 2, 3):
      checkpointer.save(position, {"x": jnp.float32(position)}, {})
    checkpointer.wait()
    assert sorted(os.listdir(folder)) == ["2", "3"]

    def fail(*_):
      raise RuntimeError("no manifest today")
    monkeypatch.setattr(ckpt, "write_manifest", fail)
    checkpointer.save(4, {"x": jnp.float32(4)}, {})
    with pytest.raises(CheckpointError, match="position 4 .*no manifest today.*untouched: 2, 3"):
      checkpointer.wait()
    monkeypatch.undo()
    checkpointer.save(4, {"x": jnp.float32(4)}, {})  # the remains are set aside, then written anew
    checkpointer.wait()
    assert sorted(os.listdir(folder)) == ["3", "4", "damaged"]
    assert os.listdir(folder / "damaged") == ["4-1"]


def test_remains_do_not_count_among_the_kept(tmp_path, monkeypatch):
  def fail(*_):
    raise RuntimeError("no manifest today")

  with Checkpointer(tmp_path, keep=2) as checkpointer:
    for position in (1, 2, 3, 4):
      with monkeypatch.context() as broken:
        if position == 3:
          broken.setattr(ckpt, "write_manifest", fail)
        checkpointer.save(position, {"x": jnp.float32(position)}, {})
        with contextlib.suppress(CheckpointError):
          checkpointer.wait()
  assert {"2", "4"} <= set(os.listdir(tmp_path)) and "1" not in os.listdir(tmp_path)


def test_damage_behind_a_readers_first_look_is_seen(copy):
  with Checkpointer(copy, keep=2, read_only=True) as checkpointer:
    position, _ = checkpointer.latest()
    path = max((p for p in (copy / str(position)).rglob("*") if p.is_file()
                and p.name != ckpt.MANIFEST), key=lambda p: p.stat().st_size)  # fmt: skip
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    checkpointer.latest()
    with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
      checkpointer.restore(position, template(make_state(make_mesh(8, 1, 1))))


def test_the_newest_is_so_by_number_not_by_name(tmp_path):
  with Checkpointer(tmp_path, keep=2) as checkpointer:
    for position in (8, 9, 10):
      checkpointer.save(position, {"x": jnp.float32(position)}, {})
    assert checkpointer.latest() == (10, {})
  assert set(os.listdir(tmp_path)) == {"9", "10"}


def test_a_position_saved_already(copy):
  state = make_state(make_mesh(2, 2, 2), seed=20)
  before = (copy / "20" / ckpt.MANIFEST).stat().st_mtime_ns
  with Checkpointer(copy) as checkpointer:
    checkpointer.save(20, state, {"position": 20, "best": 0.1})
    checkpointer.wait()
    assert (copy / "20" / ckpt.MANIFEST).stat().st_mtime_ns == before
    with pytest.raises(CheckpointError, match="saved already .* with another meta"):
      checkpointer.save(20, state, {"position": 20, "best": 0.2})


def test_remains_are_removed_at_the_start(copy):
  (copy / f"30{ckpt._UNFINISHED}").mkdir()
  (copy / f"5{ckpt._DELETING}").mkdir()
  assert Checkpointer(copy, read_only=True).latest()[0] == 20
  assert len(os.listdir(copy)) == 4
  assert Checkpointer(copy).latest()[0] == 20
  assert sorted(os.listdir(copy)) == ["10", "20"]


@pytest.mark.parametrize("where", ["commit", "manifest"])
def test_full_disk(copy, monkeypatch, where):
  before = files_of(copy)
  state = make_state(make_mesh(2, 2, 2))
  checkpointer = Checkpointer(copy)

  def full(*_):
    if where == "manifest":
      raise OSError(28, "No space left on device")
    if threading.current_thread() is not threading.main_thread():
      raise ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device")
  with monkeypatch.context() as patch:
    if where == "manifest":
      patch.setattr(ckpt, "write_json_atomic", full)
    else:
      patch.setattr(checkpointer._orbax, "wait_until_finished", full)
    checkpointer.save(30, state, {})
    checkpointer._thread.join()
  if where == "commit":
    checkpointer._orbax.wait_until_finished()
  with pytest.raises(CheckpointError, match=r"position 30 .* disk is full .*MiB free.*: 10, 20\."):
    checkpointer.save(40, state, {})  # the next call raises, once
  assert [f for f in files_of(copy) if f.parts[0] != "30"] == before
  checkpointer.save(40, state, {})
  checkpointer.close()
  assert Checkpointer(copy).latest()[0] == 40


def test_an_error_before_the_write_is_explained(copy, monkeypatch):
  checkpointer = Checkpointer(copy)

  def full(*_, **__):
    raise OSError(28, "No space left on device")
  monkeypatch.setattr(checkpointer._orbax, "save", full)
  with pytest.raises(CheckpointError, match="disk is full"):
    checkpointer.save(30, {"x": jnp.float32(0)}, {})


def test_a_full_disk_is_known_by_its_number_and_behind_another_error():
  assert ckpt.is_disk_full(OSError(errno.ENOSPC, "x"))
  assert ckpt.is_disk_full(OSError(errno.EDQUOT, "x"))
  assert not ckpt.is_disk_full(OSError(errno.EIO, "x")) and not ckpt.is_disk_full(None)
  for chained in (True, False):
    with pytest.raises(ValueError) as caught:
      try:
        raise OSError(errno.ENOSPC, "x")
      except OSError as error:
        if chained:
          raise ValueError("y") from error
        raise ValueError("y")  # noqa: B904
    assert ckpt.is_disk_full(caught.value)


def test_template_mismatches_name_the_leaf(saved):
  folder, states = saved
  good = template(states[20])
  down = good["params"]["layers"]["down"]
  with Checkpointer(folder, read_only=True) as checkpointer:
    bad = template(states[20])
    layer = bad["params"]["layers"]
    layer["down"] = jax.ShapeDtypeStruct((8, 8), down.dtype, sharding=down.sharding)
    with pytest.raises(CheckpointError, match=(
        r"params/layers/down: found float32\[8,4\], expected float32\[8,8\]")):
      checkpointer.restore(20, bad)
    layer["down"] = jax.ShapeDtypeStruct((8, 4), jnp.bfloat16, sharding=down.sharding)
    with pytest.raises(CheckpointError, match=r"found float32\[8,4\], expected bfloat16\[8,4\]"):
      checkpointer.restore(20, bad)
    with pytest.raises(CheckpointError, match=r"new: found nothing, expected float32\[8,4\]"):
      checkpointer.restore(20, good | {"new": down})
    few = {"params": good["params"]}
    with pytest.raises(CheckpointError, match=r"opt/0/count: found int32\[\], expected nothing"):
      checkpointer.restore(20, few)
    got = checkpointer.restore(20, few, partial=True)
    assert_same_bits(got, {"params": states[20]["params"]})
    with pytest.raises(CheckpointError, match="new: found nothing"):
      checkpointer.restore(20, few | {"new": down}, partial=True)
    layer["down"] = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    with pytest.raises(ValueError, match="'params/layers/down': found no sharding"):
      checkpointer.restore(20, bad)


def test_what_cannot_be_saved_is_refused(tmp_path, saved):
  checkpointer = Checkpointer(tmp_path / "c")
  x = jnp.float32(0)
  with pytest.raises(TypeError, match="'a/b': found float, expected a jax.Array"):
    checkpointer.save(0, {"a": {"b": 1.0}}, {})
  with pytest.raises(TypeError, match="'key': found key<"):
    checkpointer.save(0, {"key": jax.random.key(0)}, {})
  with pytest.raises(ValueError, match="at least one leaf"):
    checkpointer.save(0, {}, {})
  for meta in ({"a": (1, 2)}, {1: 2}, {"a": float("nan")}, {"a": x}, [1]):
    with pytest.raises(TypeError, match="meta = "):
      checkpointer.save(0, {"x": x}, meta)
  with pytest.raises(CheckpointError, match="read_only"):
    Checkpointer(saved[0], read_only=True).save(30, {"x": x}, {})
  with pytest.raises(ValueError, match="keep = 0"):
    Checkpointer(tmp_path, keep=0)
  with pytest.raises(ValueError, match="gs://bucket"):
    Checkpointer("gs://bucket/run")
  assert os.listdir(tmp_path / "c") == []


def test_leaving_on_an_exception_finishes_the_save(tmp_path):
  with pytest.raises(KeyError):
    with Checkpointer(tmp_path / "c") as checkpointer:
      checkpointer.save(1, {"x": jnp.float32(1)}, {})
      raise KeyError
  assert Checkpointer(tmp_path / "c").latest()[0] == 1


def child(code, *args, **kwargs):
  env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
  return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)


SAVES = """
import sys, jax, jax.numpy as jnp
from swirl_jax.checkpoint import Checkpointer
state = {f"w{i}": jnp.full((512, 1024), i, jnp.float32) for i in range(8)}
checkpointer = Checkpointer(sys.argv[1])
checkpointer.latest()
for position in range(int(sys.argv[2]), 10**6):
  checkpointer.save(position, state, {"position": position})
  print(position, flush=True)
"""


@pytest.mark.multiprocess
def test_killed_amid_a_save(tmp_path):
  """SIGKILL at four moments after `save` has returned: what `latest` gives is always whole."""
  folder = tmp_path / "c"
  start = 0
  for delay in (0.0, 0.02, 0.05, 0.1):
    process = child(SAVES, folder, start)
    for line in process.stdout:
      if line.strip() == str(start + 2):
        break
    time.sleep(delay)
    process.kill()
    process.wait()
    with Checkpointer(folder) as checkpointer:
      position, meta = checkpointer.latest()
      assert meta == {"position": position} and position >= start + 1  # waited for by save(+2)
      one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
      leaf = jax.ShapeDtypeStruct((512, 1024), jnp.float32, sharding=one)
      got = checkpointer.restore(position, {f"w{i}": leaf for i in range(8)})
      assert all((np.asarray(got[f"w{i}"]) == i).all() for i in range(8))
    assert set(os.listdir(folder)) - {"damaged"} <= {str(p) for p in range(position + 1)}
    start = position + 1


TWO = """
import sys, time, jax
index, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=index)
import numpy as np
from swirl_jax.checkpoint import Checkpointer
from swirl_jax.files import dump
from swirl_jax.hosts import PreemptionGuard
mesh = jax.make_mesh((2,), ("d",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
x = jax.make_array_from_process_local_data(sharding, np.arange(4, dtype=np.float32) + 4 * index)
add = jax.jit(lambda x: x + 1, donate_argnums=0)
with Checkpointer(folder) as checkpointer, PreemptionGuard() as guard:
  assert checkpointer.latest() is None
  for n in range(2000):
    if guard.requested():
      break
    x = add(x)
    print("step", n, flush=True)
    time.sleep(0.01)
  else:
    sys.exit("never asked to stop")
  checkpointer.save(n, {"x": x}, {"n": n})
  assert checkpointer.latest() == (n, {"n": n})
  got = checkpointer.restore(n, {"x": jax.ShapeDtypeStruct((8,), np.float32, sharding=sharding)})
  own = np.asarray(got["x"].addressable_shards[0].data)
  np.testing.assert_array_equal(own, np.arange(4) + 4 * index + n)
  path = dump(folder + "/dump", "x", {"x": x})
  if index == 0:
    np.testing.assert_array_equal(np.load(path)["x"], np.arange(8) + n)
print("stopped", n, flush=True)
"""


@pytest.mark.multiprocess
def test_two_processes_stop_together_when_one_is_asked(tmp_path):
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  processes = [child(TWO, i, port, tmp_path / "c") for i in range(2)]
  try:
    for line in processes[1].stdout:
      if line.startswith("step 5"):
        break
    processes[1].send_signal(signal.SIGTERM)  # the one that isn't process 0
    outputs = [p.communicate(timeout=60)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  assert [p.returncode for p in processes] == [0, 0], outputs
  stops = [[li for li in out.splitlines() if li.startswith("stopped")] for out in outputs]
  assert len(stops[0]) == 1 and stops[0] == stops[1]
  position = int(stops[0][0].split()[1])
  whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # and one process reads it on its own
  with Checkpointer(tmp_path / "c") as checkpointer:
    got = checkpointer.restore(
      position, {"x": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=whole)})
  np.testing.assert_array_equal(got["x"], np.arange(8) + position)


def test_two_leaves_of_one_path_are_refused(tmp_path):
  state = jax.tree.map(jnp.float32, {"a/b": 1, "a": {"b": 2}})
  with pytest.raises(ValueError, match="no two with the same path"):
    Checkpointer(tmp_path / "c").save(0, state, {})
  assert os.listdir(tmp_path / "c") == []
