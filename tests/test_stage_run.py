"""One stage by itself: a warm-up on sequences of turns, stopped and gone on with."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import test as test_config
from swirl_jax import inputs, metrics, programs, sharding, train
from swirl_jax.checkpoint import CheckpointError
from swirl_jax.data import builders
from swirl_jax.evaluation import one_step
from swirl_jax.settings import from_config
from swirl_jax.stage_run import Preempted, StageRun, TrainingError

TURNS = 3


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
  """The FWM's warm-up of a run on all 200 labels, ready to begin: (run, its place, the stage)."""
  c = test_config.get_config().to_dict()
  c["data"]["fwm_labels"] = 0
  c["warmup_fwm"] |= {"turns": TURNS, "validate_every": 0, "patience": 0}
  c["warmup_fwm"]["optimizer"] |= {"learning_rate": 1e-2, "warmup_steps": 0}
  settings = from_config(c)
  world = builders.get("minigrid", {k: v for k, v in c["world"].items() if k != "name"})
  data = inputs.load(settings, world, str(tmp_path_factory.mktemp("data")))
  players = programs.make_roles(settings, world.tokenizer, data.lengths)
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])):
    guard = SimpleNamespace(requested=lambda: False)
    run = train.Run(settings, data, players, None, None, guard, None)
    index, found = next((i, s) for i, s in enumerate(run.plan) if s.name == "warmup_fwm")
    run.models = {"prior": programs.initial_params(players.fwm.config, run.root)}
    yield run, index, found


def trained(stage, saved=None):
  """(rows without what the machine decides, parameters at the end, every checkpoint)."""
  run, rows, kept = stage[0], [], {}
  run.position, run.writer = -1, SimpleNamespace(write=rows.append)
  run.save = lambda _, *, step, stage, early: kept.update(
    {step: ({"step": step, "early": early}, jax.device_get(stage))}
  )
  work = train.StageRun(*stage)
  if saved is None:
    work.begin()
  else:
    work.resume(saved[0], jax.tree.map(jnp.asarray, saved[1]))
  work.train()
  drop = ("perf", "position")
  rows = [{k: v for k, v in row.items() if k not in drop} for row in rows]
  return rows, jax.device_get(work.params()), kept


def test_every_label_is_in_one_sequence(stage):
  run, _, found = stage
  counts = run.data.summary["sequences"]
  assert set(counts) == {found.name} and set(counts[found.name]) == {"1", "2", "3"}
  assert sum(int(turns) * count for turns, count in counts[found.name].items()) == 200
  assert counts[found.name]["3"] > 20  # with all labels most transitions are in whole sequences
  rows = run.data.turns[found.name]
  assert sorted(rows[rows >= 0]) == list(range(200))


def test_a_warm_up_on_sequences_goes_on_bit_for_bit(stage):
  rows, params, saved = trained(stage)
  assert [row["step"] for row in rows] == list(range(6))
  assert set(saved) == {2, 4, 6}  # the last before it is scored
  assert rows[-1]["nll_y"] < 0.8 * rows[0]["nll_y"]
  again, same, _ = trained(stage, saved[4])
  assert again == rows[4:]
  jax.tree.map(np.testing.assert_array_equal, params, same)


def test_a_stage_is_saved_before_it_is_scored_and_sigterm_is_seen_between_splits(
  stage, monkeypatch
):
  run, index, _ = stage
  said, asked = [], []

  def measure(*_, **__):
    said.append("measured")
    asked.extend(["SIGTERM"] * (said.count("measured") == 2))
    return {"metrics": {}, "by_episode": {}}

  writer = SimpleNamespace(
    write=lambda row: None, write_evaluation=lambda row: said.append(row["split"])
  )
  for owner, name, fake in (
    (run, "position", -1),
    (run, "models", dict(run.models)),
    (run, "writer", writer),
    (run, "save", lambda _, *, step=0, **more: said.append(step)),
    (run, "checkpointer", SimpleNamespace(wait=lambda: said.append("wait"))),
    (run.guard, "requested", lambda: bool(asked)),
    (one_step, "fwm", measure),
  ):
    monkeypatch.setattr(owner, name, fake)
  models = dict(run.models)
  with pytest.raises(Preempted):
    run.run_stage(index)
  assert said == [2, 4, 6, "measured", "validation", "measured", "test", "wait"]

  def full():
    raise CheckpointError("the disk is full")

  monkeypatch.setattr(run, "models", models)
  monkeypatch.setattr(run, "checkpointer", SimpleNamespace(wait=full))
  with pytest.raises(CheckpointError, match="the disk is full"):  # not "everything saved"
    run.run_stage(index)


def test_pairs_that_no_action_serves_end_the_run_in_one_line(stage, monkeypatch):
  def none(_):
    raise ValueError("latent_floor = -1.0: no annotated pair reaches it; best: -2.00.")

  monkeypatch.setattr(StageRun, "_batches", none)
  work = StageRun(*stage)
  work.begin()
  with pytest.raises(TrainingError, match="stage warmup_fwm: latent_floor = -1.0: no annotated"):
    work.train()


def test_versions_json_keeps_what_the_run_began_with(tmp_path, monkeypatch):
  found = []
  for now in ({"jax": "1", "cores": 2}, {"jax": "1", "cores": 2}, {"jax": "1", "cores": 1},
              {"jax": "1", "cores": 1}, {"jax": "2", "cores": 2}):  # fmt: skip
    monkeypatch.setattr(metrics, "versions", lambda now=now: now)
    train.record_start({}, tmp_path)
    found.append(json.loads((tmp_path / "versions.json").read_text()))
  assert found[0] == found[1] == {"jax": "1", "cores": 2}
  assert found[2] == found[3] == found[0] | {"later": [{"cores": 1}]}
  assert found[4] == found[0] | {"later": [{"cores": 1}, {"jax": "2", "cores": 2}]}


def test_a_work_directory_that_cannot_be(tmp_path):
  config = test_config.get_config().to_dict() | {"mesh": {"data": jax.device_count()}}
  (tmp_path / "file").write_text("")
  (tmp_path / "torn").mkdir()
  (tmp_path / "torn" / "config.json").write_text('{"seed"')
  for folder, said in (
    ("gs://bucket/run", "workdir = 'gs://bucket/run': allowed is a path of a mounted file system"),
    (str(tmp_path / "file"), "workdir = .*file': allowed is a folder"),
    (str(tmp_path / "torn"), "torn/config.json: not JSON"),
  ):
    with pytest.raises(ValueError, match=said):
      train.prepare(config, folder)
