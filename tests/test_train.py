"""Whole runs of `configs/test.py` in processes of their own: kills, signals, errors, processes."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from swirl_jax import metrics
from swirl_jax.predict import Predictor

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATIENCE = 600  # seconds that a run may take before a test gives up


def command(workdir, *overrides, module=("swirl_jax.main",)):
  return [
    sys.executable,
    "-m",
    *module,
    "--config=configs/test.py",
    f"--workdir={workdir}",
    *(f"--config.{o}" for o in overrides),
  ]


def start(workdir, *overrides, launcher=(), **environment):
  return subprocess.Popen(
    [*launcher, *command(workdir, *overrides)],
    env=os.environ | environment,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


def run(workdir, *overrides, **options):
  """Exit code and output of a run that is left alone."""
  process = start(workdir, *overrides, **options)
  try:
    out, _ = process.communicate(timeout=PATIENCE)
  except subprocess.TimeoutExpired:
    process.terminate()  # a launcher passes it on, to processes in sessions of their own
    raise
  return process.returncode, out


def rows(workdir, name="metrics.jsonl"):
  """The rows of a log without what depends on the machine."""
  return [
    {k: v for k, v in row.items() if k != "perf"}
    for row in metrics.read_rows(pathlib.Path(workdir) / name)
  ]


def reached(workdir, stage):
  """Whether a row of a stage is there."""
  path = pathlib.Path(workdir) / "metrics.jsonl"
  return path.exists() and f'"stage": "{stage}"' in path.read_text()


def kill_when(workdir, condition, *overrides):
  """SIGKILL, to the whole process group, as soon as the condition holds."""
  process = start(workdir, *overrides)
  end = time.monotonic() + PATIENCE
  while not condition():
    assert process.poll() is None, process.communicate()[0]
    assert time.monotonic() < end
    time.sleep(0.002)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def same_ends(a, b):
  """Both runs hold the same rows, but for `perf`, and models of the same bits."""
  for name in ("metrics.jsonl", "evaluations.jsonl"):
    assert rows(a, name) == rows(b, name), name
  one, other = Predictor(str(a)).models, Predictor(str(b)).models
  assert one.keys() == other.keys()
  for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
  texts = [json.loads((pathlib.Path(w) / "samples.json").read_text()) for w in (a, b)]
  assert texts[0] == texts[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that nobody touched, and what it printed, JAX's word on each compilation included."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  code, out = run(workdir, JAX_LOG_COMPILES="1")
  assert code == 0, out
  return workdir, out


def test_a_run_leaves_what_reproduces_it(whole):
  workdir, out = whole
  for name in (
    "config.json",
    "versions.json",
    "dataset.json",
    "metrics.jsonl",
    "evaluations.jsonl",
    "samples.json",
    "report.html",
  ):
    assert (workdir / name).stat().st_size > 0, name
  stages = list(dict.fromkeys(row["stage"] for row in rows(workdir)))
  assert stages == [
    "pretrain",
    "warmup_fwm",
    "warmup_idm",
    "phase1",
    "phase2",
    "labels_only",
    "pseudo_labels",
  ]
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  annotating = [r["stage"] for r in map(json.loads, lines) if "annotating" in r["perf"]]
  assert annotating == ["pseudo_labels"]  # told once
  positions = [row["position"] for row in rows(workdir)]
  assert positions == sorted(set(positions))
  scored = {(r["method"], r["model"], r["split"]) for r in rows(workdir, "evaluations.jsonl")}
  for method in ("warmup", "swirl", "labels_only", "pseudo_labels"):
    assert (method, "fwm", "test") in scored and (method, "fwm", "heldout") in scored
  assert {("warmup", "idm", "test"), ("swirl", "idm", "test")} <= scored
  assert "reward" in out or "phase1" in out  # the progress bar


def test_each_step_is_compiled_once(whole):
  """Two iterations of two phases: two programs. Supervised: P0, the FWM's warm-up (which labels
  alone share), the IDM's, and labels with pseudo-labels, whose actions are wider."""
  _, out = whole
  # Supervised stages have one optimizer, phases another.
  for name, programs in (("phase_step", 2), ("sft_step", 4), ("_frozen", 1), ("new_state", 2)):
    assert out.count(f"Finished jaxpr to MLIR module conversion jit({name})") == programs


@pytest.mark.parametrize(
  "overrides",
  [
    ("compare=()", "weights=shared", "mesh.offload_frozen=True", "warmup_fwm.turns=3"),
    ("compare=('labels_only',)", "model.lora_rank=2"),
    (
      "compare=('paper_phase1',)",
      "phase1.latents=cached",
      "phase1.latent_floor=-9.0",
      "phase1.reward.prior=True",
    ),
    (
      "compare=()",
      "phase1.reference=prior",
      "swirl.reset_reference=False",
      "swirl.order=('phase2','phase1')",
    ),
  ],
)
def test_other_settings_run_too(overrides, tmp_path):
  code, out = run(tmp_path / "run", "swirl.iterations=1", *overrides)
  assert code == 0, out
  scored = rows(tmp_path / "run", "evaluations.jsonl")
  assert {r["model"] for r in scored if r["method"] == "swirl"} >= {"fwm", "idm", "multi_turn"}
  plain = [r for r in scored if r["method"] == "paper_phase1"]
  assert bool(plain) == ("compare=('paper_phase1',)" in overrides)


def test_starting_a_finished_run_again_does_nothing(whole):
  workdir, _ = whole
  before = {p: p.read_bytes() for p in workdir.glob("*.json*")}
  saved = sorted(p.name for p in (workdir / "checkpoints").iterdir())
  code, out = run(workdir)
  assert code == 0, out
  assert {p: p.read_bytes() for p in workdir.glob("*.json*")} == before
  assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == saved


def test_killed_anywhere_it_ends_with_the_same_bits(whole, tmp_path):
  """SIGKILL in collection, warm-up, Phase I, between two evaluations of one stage, in a save and in
  Phase II; one run after the other in one folder.
  """
  workdir = tmp_path / "run"
  kill_when(workdir, lambda: list(workdir.glob("data/**/incomplete.*")))
  kill_when(workdir, lambda: reached(workdir, "warmup_fwm"))
  kill_when(workdir, lambda: reached(workdir, "phase1"))
  scored = lambda model: any(  # noqa: E731  the first of the IDM's two evaluations after a phase
    (r["stage"], r["model"]) == ("phase2", model) for r in rows(workdir, "evaluations.jsonl")
  )
  kill_when(workdir, lambda: scored("idm"))
  assert not scored("latents")
  kill_when(workdir, lambda: list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")))
  second = lambda: any(  # noqa: E731
    (r["stage"], r["iteration"]) == ("phase2", 2) for r in rows(workdir)
  )
  kill_when(workdir, second)
  code, out = run(workdir)
  assert code == 0, out
  same_ends(workdir, whole[0])


def test_sigterm_saves_and_says_how_to_go_on(whole, tmp_path):
  workdir = tmp_path / "run"
  process = start(workdir)
  end = time.monotonic() + PATIENCE
  while not reached(workdir, "warmup_idm"):
    assert process.poll() is None and time.monotonic() < end
    time.sleep(0.005)
  process.send_signal(signal.SIGSTOP)
  code, out = run(workdir)
  assert code != 0 and f"workdir = '{workdir}': another process is at work there" in out
  process.send_signal(signal.SIGTERM)
  process.send_signal(signal.SIGCONT)
  out, _ = process.communicate(timeout=PATIENCE)
  assert process.returncode == 0, out
  assert "goes on from here" in out and str(workdir) in out
  assert list((workdir / "checkpoints").glob("*/MANIFEST.json"))
  code, out = run(workdir)
  assert code == 0, out
  same_ends(workdir, whole[0])


def test_sigterm_before_training_ends_at_once(tmp_path):
  workdir = tmp_path / "run"
  process = start(workdir, "world.unlabelled=50000")
  end = time.monotonic() + PATIENCE
  while not list(workdir.glob("data/**/*incomplete*")):
    assert process.poll() is None and time.monotonic() < end
    time.sleep(0.005)
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=PATIENCE)
  assert process.returncode == 0, out
  assert "Stopped by SIGTERM before training began. The same command" in out
  assert not (workdir / "checkpoints").exists() and "Traceback" not in out


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(whole, tmp_path):
  workdir = tmp_path / "run"
  kill_when(workdir, lambda: len(list((workdir / "checkpoints").glob("*/MANIFEST.json"))) == 2)
  newest = max(
    (p.parent for p in workdir.glob("checkpoints/*/MANIFEST.json")), key=lambda p: int(p.name)
  )
  victim = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  content = bytearray(victim.read_bytes())
  content[len(content) // 2] ^= 1
  victim.write_bytes(content)
  code, out = run(workdir)
  assert code == 0, out
  assert victim.name in out and "damaged" in out
  assert list((workdir / "checkpoints" / "damaged").iterdir())
  same_ends(workdir, whole[0])


def test_two_processes_equal_one(tmp_path):
  """Two processes with a device each, the batch split over both, against one: every step of every
  stage, and every score, at a learning rate at which all have the same parameters.
  """
  stages = ("pretrain", "warmup_fwm", "warmup_idm", "phase1", "phase2")
  short = (
    "compare=()",
    "swirl.iterations=1",
    *(f"{stage}.optimizer.learning_rate=1e-12" for stage in stages),
    *(f"{stage}.steps=2" for stage in stages),
  )
  code, out = run(tmp_path / "one", *short)
  assert code == 0, out
  launcher = (sys.executable, "-m", "launch.local", "--processes=2", "--")
  code, out = run(tmp_path / "two", "mesh.data=2", *short, launcher=launcher)
  assert code == 0, out
  for log in ("metrics.jsonl", "evaluations.jsonl"):
    one, two = (rows(tmp_path / name, log) for name in ("one", "two"))
    assert len(one) == len(two) > 5
    for alone, together in zip(one, two, strict=True):
      assert alone.keys() == together.keys()
      for name, value in alone.items():
        if isinstance(value, float):
          close = 1e-4 * abs(value) if name == "grad_norm" else 1e-5 * max(1.0, abs(value))
          assert abs(together[name] - value) <= close, (alone["stage"], name, value, together[name])
        elif not isinstance(value, dict):
          assert value == together[name]


def test_a_damaged_line_of_a_log_is_one_error(whole, tmp_path):
  workdir = shutil.copytree(whole[0], tmp_path / "run")
  log = workdir / "evaluations.jsonl"
  lines = log.read_bytes().splitlines(keepends=True)
  log.write_bytes(b"".join([lines[0], lines[1][5:], *lines[2:]]))
  code, out = run(workdir)
  assert code == 1 and "Traceback" not in out
  assert f"Stopped: {log}, line 2: found" in out
  log.write_bytes(b"".join([lines[0], *lines[2:]]))
  code, out = run(workdir)
  assert code == 0, out


def test_another_config_is_refused(whole):
  workdir, _ = whole
  code, out = run(workdir, "seed=1")
  assert code != 0 and "Traceback" not in out
  assert "seed" in out and "0" in out and "1" in out


@pytest.mark.parametrize(("override", "said"), [
  ("model.n_kv_heads=3", "model.n_heads = 2 is not a multiple of model.n_kv_heads = 3"),
  ("mesh.data=3", "mesh"),
  ("phase1.group=1", "config.phase1: group = 1"),
  ("model.max_len=20", "max_len = 20"),
  ("data.fwm_labels=201", "data.fwm_labels = 201: allowed is 0 (all) to world.labelled = 200"),
  ("phase2.ratio=sequences", "phase.ratio = 'sequences'"),
  ("phase1.optimizer.schedule=linear", "optimizer.schedule = 'linear'"),
  ("phase1.temprature=1", "--config.phase1.temprature=1: the config has no field 'temprature'. Did "
                          'you mean "temperature"'),
  ("phas1.steps=2", "--config.phas1.steps=2: the config has no field 'phas1'. Did you mean "),
  ("phase1.other=2", "no field 'other'. Allowed are those of the file that --config names"),
])  # fmt: skip
def test_bad_settings_get_one_clear_error(override, said, tmp_path):
  code, out = run(tmp_path / "run", override)
  assert code != 0 and "Traceback" not in out, out
  assert said in out
  left = [tmp_path / "run" / name for name in ("checkpoints", "config.json")]
  assert not any(path.exists() for path in left)  # the mended command starts there


def test_an_error_in_a_configs_own_code_is_shown_whole(tmp_path):
  (tmp_path / "broken.py").write_text("def get_config():\n  return {}.steps\n")
  out = subprocess.run(
    [sys.executable, "-m", "swirl_jax.main", f"--config={tmp_path}/broken.py", "--workdir=x"],
    capture_output=True, text=True, cwd=ROOT, check=False,
  )  # fmt: skip
  assert out.returncode != 0 and "AttributeError: 'dict' object has no attribute" in out.stderr


def test_a_config_file_that_is_not_there_is_one_line(tmp_path):
  out = subprocess.run(
    [sys.executable, "-m", "swirl_jax.main", "--config=configs/mingrid.py",
     f"--workdir={tmp_path}/x"],
    capture_output=True, text=True, cwd=ROOT, check=False,
  )  # fmt: skip
  assert out.returncode != 0 and "Traceback" not in out.stderr
  assert "No such file or directory: 'configs/mingrid.py'" in out.stderr
  assert not (tmp_path / "x").exists()


def test_a_number_that_is_not_finite_stops_the_run(tmp_path):
  workdir = tmp_path / "run"
  code, out = run(
    workdir, "pretrain.optimizer.learning_rate=1e38", "pretrain.optimizer.clip_norm=0.0"
  )
  assert code != 0 and "Traceback" not in out, out
  assert "stage pretrain" in out and "not finite" in out
  (dumped,) = (workdir / "failed").iterdir()
  with np.load(dumped) as found:
    assert any("params" in name for name in found) and any(
      name.startswith("batch") for name in found
    )
