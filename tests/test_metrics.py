"""Rows that survive a kill, two runs that write the same, and figures about the machine."""

import io
import json
import os
import struct
import subprocess
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from swirl_jax import metrics
from swirl_jax.metrics import JsonlLog, LogError, MetricWriter, read_rows
from swirl_jax.types import Mean


def row(position, **values):
  return {"position": position, "stage": "phase1", "iteration": 0, "step": position, **values}


def test_to_floats():
  found = metrics.to_floats({
    "reward": Mean(jnp.float32(3), jnp.float32(4)),
    "kl": {"idm": Mean(jnp.float32(1), jnp.float32(8)), "deep": {"er": jnp.int32(2)}},
    "absent": Mean(jnp.float32(0), jnp.float32(0)),
    "lr": 0.5,
    "bad": Mean(jnp.float32(jnp.inf), jnp.float32(1)),
  })
  assert found == {"reward": 0.75, "kl/idm": 0.125, "kl/deep/er": 2.0, "lr": 0.5, "bad": np.inf}
  assert all(type(value) is float for value in found.values())


def test_rows_are_json_and_flushed(tmp_path):
  log = JsonlLog(tmp_path / "new" / "a.jsonl")
  log.write({"position": 0, "loss": float("nan"), "n": np.int64(3), "x": jnp.float32(0.1),
             "perf": {"s": np.float32("inf"), "l": (1, 2.5)}, "note": "é\n"})
  text = log.path.read_text()  # before close
  assert "NaN" not in text and text.count("\n") == 1
  assert json.loads(text) == {"position": 0, "loss": None, "n": 3, "x": float(np.float32(0.1)),
                              "perf": {"s": None, "l": [1, 2.5]}, "note": "é\n"}
  assert read_rows(log.path) == [json.loads(text)]
  assert read_rows(tmp_path / "absent") == []


def test_positions(tmp_path):
  log = JsonlLog(tmp_path / "a.jsonl")
  for bad in (None, 1.0, True, "1"):
    with pytest.raises(TypeError, match="position = "):
      log.write({"position": bad})
  log.write({"position": 5})
  log.write({"position": 5})
  for writer in (log, JsonlLog(log.path)):  # a new writer knows what the old one wrote
    with pytest.raises(ValueError, match="position = 4 after 5"):
      writer.write({"position": 4})
  assert len(read_rows(log.path)) == 2


@pytest.mark.parametrize("torn", [b'{"posi', b'{"position": 3, "a": 1}', b"\x00\x00", b"\xc3", b""])
def test_a_torn_last_line(tmp_path, torn):
  path = tmp_path / "a.jsonl"
  whole = b'{"position": 1,  "a": 0.10}\n{"position": 2}\n'
  path.write_bytes(whole + torn)
  assert [r["position"] for r in read_rows(path)] == [1, 2]
  log = JsonlLog(path)
  log.write({"position": 3})
  log.close()
  assert path.read_bytes() == whole + b'{"position": 3}\n'
  path.write_bytes(whole + torn)
  JsonlLog(path).truncate_after(2)
  assert path.read_bytes() == whole


@pytest.mark.parametrize("torn", [b'{"posi\n', b"[1]\n", b'{"a": 1}\n', b"\n",
                                  b'{"position": 1, "a": "\xff"}\n'])  # fmt: skip
def test_a_torn_line_in_the_middle(tmp_path, torn):
  path = tmp_path / "a.jsonl"
  content = b'{"position": 1}\n' + torn + b'{"position": 2}\n'
  path.write_bytes(content)
  for act in (lambda: read_rows(path), lambda: JsonlLog(path).truncate_after(1),
              lambda: JsonlLog(path).write({"position": 9})):
    with pytest.raises(LogError, match=r"a\.jsonl, line 2"):
      act()
  assert path.read_bytes() == content


def test_truncate_after(tmp_path):
  log = JsonlLog(tmp_path / "a.jsonl")
  log.truncate_after(3)  # no file: nothing to do
  for position in (0, 1, 2, 2, 3):
    log.write({"position": position})
  log.truncate_after(2)
  assert [r["position"] for r in read_rows(log.path)] == [0, 1, 2, 2]
  log.write({"position": 3, "again": True})
  assert read_rows(log.path)[-1] == {"position": 3, "again": True}
  log.truncate_after(-1)
  assert log.path.read_bytes() == b"" and os.listdir(tmp_path) == ["a.jsonl"]
  log.write({"position": 0})


def test_files_of_other_processes_stay(tmp_path, monkeypatch):
  path = tmp_path / "a.jsonl"
  path.write_text('{"position": 1}\n')
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  JsonlLog(path).truncate_after(-1)
  assert path.read_text() == '{"position": 1}\n'


def events(folder):
  """(file number, event) of all event files, in the order in which TensorBoard reads them."""
  for number, name in enumerate(sorted(os.listdir(folder))):
    data = (folder / name).read_bytes()
    while data:
      (size,) = struct.unpack("<Q", data[:8])  # then 4 bytes of CRC, the event, 4 bytes of CRC
      yield number, Event.FromString(data[12:12 + size])
      data = data[16 + size:]


def test_writer_and_resume(tmp_path):
  """Interrupted after 4, with a checkpoint at 2: the record is that of an unbroken run."""
  def run(folder, positions):
    with MetricWriter(folder) as writer:
      if positions[0]:
        writer.truncate_after(positions[0] - 1)
      for p in positions:
        writer.write(row(p, loss=1 / (p + 1), none=None, perf={"seconds": os.urandom(1)[0]}))
        if p % 2 == 0:
          for split in ("validation", "test"):
            writer.write_evaluation({"position": p, "method": "swirl", "model": "fwm",
                                     "split": split, "metrics": {"exact": p / 10}})

  def record(folder):
    rows = read_rows(folder / "metrics.jsonl") + read_rows(folder / "evaluations.jsonl")
    return [json.dumps({k: v for k, v in r.items() if k != metrics.PERF}) for r in rows]

  run(tmp_path / "one", range(0, 7))
  run(tmp_path / "two", range(0, 5))
  with open(tmp_path / "two" / "metrics.jsonl", "a") as f:
    f.write('{"position": 5, "lo')
  run(tmp_path / "two", range(3, 7))
  assert record(tmp_path / "one") == record(tmp_path / "two")
  assert len(record(tmp_path / "one")) == 15

  found = list(events(tmp_path / "two" / "tensorboard"))
  assert {number for number, _ in found} == {0, 1}
  purges = [(n, e.step) for n, e in found if e.HasField("session_log")]
  assert purges == [(1, 3)]
  tags = {v.tag for _, e in found for v in e.summary.value}
  assert tags == {"phase1/loss", "perf/seconds", "evaluation/swirl/fwm/validation/metrics/exact",
                  "evaluation/swirl/fwm/test/metrics/exact"}
  assert [e.step for n, e in found for v in e.summary.value
          if n == 1 and v.tag == "phase1/loss"] == [3, 4, 5, 6]


def test_other_processes_write_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with MetricWriter(tmp_path) as writer:
    writer.truncate_after(-1)
    writer.write(row(0, loss=1.0))
    writer.write_evaluation({"position": 0, "method": "swirl", "model": "fwm", "split": "test"})
  out = io.StringIO()
  with metrics.Progress(2, file=out, every=0) as progress:
    progress.update()
  assert os.listdir(tmp_path) == [] and out.getvalue() == ""


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


def test_progress_without_a_terminal_prints_lines_now_and_then():
  out, clock = io.StringIO(), Clock()
  with metrics.Progress(1000, initial=100, description="phase1", file=out, clock=clock) as bar:
    for _ in range(250):
      clock.now += 0.125
      bar.update(reward=0.123456)
  lines = out.getvalue().splitlines()
  assert len(lines) == 4  # after 10, 20 and 30 s, and at the end
  assert "\r" not in out.getvalue()
  assert "phase1" in lines[0] and "180/1000" in lines[0] and "reward=0.1235" in lines[0]
  assert "8.00it/s" in lines[0] and "01:42" in lines[0]  # 820 left
  assert "350/1000" in lines[-1]


def test_progress_on_a_terminal_draws_a_bar():
  out = io.StringIO()
  out.isatty = lambda: True
  with metrics.Progress(3, file=out) as progress:
    for _ in range(3):
      progress.update(reward=0.5)
  assert "\r" in out.getvalue() and "3/3" in out.getvalue() and "reward=0.5" in out.getvalue()


@pytest.mark.parametrize("kind, peak", [
  ("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5e", 197e12), ("TPU v5", 459e12),
  ("TPU v5p", 459e12), ("TPU v6 lite", 918e12), ("TPU v6e", 918e12),
  ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12),
  ("NVIDIA A100-SXM4-80GB", 312e12), ("TPU v3", None), ("cpu", None),
])
def test_peak_and_utilisation(kind, peak):
  device = SimpleNamespace(device_kind=kind)
  assert metrics.device_peak_flops(device) == peak
  found = metrics.mfu(1e15, 2.0, 4, device=device)
  assert found is None if peak is None else found == pytest.approx(1e15 / 8 / peak)
  assert metrics.mfu(1e15, 0.0, 4, device=device) is None


def test_the_fullest_device_counts(monkeypatch):
  stats = (
    {"bytes_in_use": 3, "peak_bytes_in_use": 9},
    {"bytes_in_use": 5, "peak_bytes_in_use": 7},
    None,
  )
  devices = [SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  found = metrics.memory()
  assert (found["device_bytes"], found["device_peak_bytes"]) == (5, 9)


def test_a_commit_is_marked_where_files_differ_from_it(tmp_path):
  def git(*args):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(tmp_path), *who, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

  git("init", "-q")
  (tmp_path / "a").write_text("a")
  assert metrics._commit(tmp_path) is None  # nothing of it is in the repository
  git("add", "a")
  git("commit", "-q", "-m", "a")
  (tmp_path / "new").write_text("a")
  commit = git("rev-parse", "HEAD")
  assert metrics._commit(tmp_path) == commit
  (tmp_path / "a").write_text("b")
  assert metrics._commit(tmp_path) == commit + "+"


def test_memory_and_versions(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
  assert 10**7 < metrics.memory()["host_peak_bytes"] < 10**12
  found = metrics.versions()
  assert found["jax"] == jax.__version__ and found["numpy"] == np.__version__
  assert found["device_count"] == jax.device_count() and found["device_kind"] == "cpu"
  assert found["cpu_cores"] == len(os.sched_getaffinity(0))
  assert found["xla_flags"] == "--xla_gpu_deterministic_ops=true"
  assert {"python", "platform", "jaxlib", "flax", "optax", "orbax-checkpoint", "swirl_jax",
          "commit"} <= set(found)
  json.dumps(found)


def test_profile(tmp_path):
  with metrics.profile(tmp_path, False):
    pass
  assert os.listdir(tmp_path) == []
  with metrics.profile(tmp_path, True):
    jnp.ones(3).block_until_ready()
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))
