"""One stage by itself: a warm-up on sequences of turns, stopped and gone on with."""

import dataclasses
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


def same(a, b):
  return all(
    np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_a_stage_that_stops_early_leaves_its_best_and_a_tie_is_no_progress(stage, monkeypatch):
  run, index, found = stage
  settings = dataclasses.replace(found.settings, validate_every=1, patience=2)
  early = run, index, dataclasses.replace(found, settings=settings)

  def scored(*values):
    values = iter(values)
    monkeypatch.setattr(one_step, "quick", lambda *_, **__: next(values))

  scored(0.1, 0.2, 0.9, 0.9, 0.3, 1.0)
  rows, params, saved = trained(early)
  assert [row["validation"] for row in rows] == [0.1, 0.2, 0.9, 0.9, 0.3]
  assert set(saved) == {2, 4, 5} and saved[5][0]["early"] == {"score": 0.9, "bad": 2}
  best = saved[4][1]["best"]
  assert same(params, best)
  assert not any(same(best, kept["state"].params) for _, kept in saved.values())
  scored(0.3)
  again, end, _ = trained(early, saved[4])
  assert again == rows[4:] and same(end, best)


def test_fresh_models_differ(stage):
  run, fresh = stage[0], []
  for name in ("pretrain", "warmup_idm"):
    work = StageRun(run, *next((i, s) for i, s in enumerate(run.plan) if s.name == name))
    work.begin()
    fresh.append(work.state.params)
  assert not same(*fresh)


class Called(Exception):
  """A program was called with these arguments."""


def first_call(*stage):
  """(state, slots, batch, key, hyper) of a phase's first step."""
  work = StageRun(*stage)
  work.begin()
  with pytest.raises(Called) as caught:
    work.train()
  return caught.value.args


@pytest.fixture
def calls(stage, monkeypatch):
  """A phase → itself and its first call, where every model of the plan has other parameters, labels
  0 to 99 are the FWM's and the others the IDM's; with a step more than its settings have, and the
  prior for its reference.
  """
  run = stage[0]
  fresh = programs.initial_params(run.players.fwm.config, run.root)
  names = enumerate(sorted({s.result for s in run.plan}), 1)
  models = {name: jax.tree.map(lambda a, i=i: a + i, fresh) for i, name in names}
  labels = run.data.arrays["fwm_labels"]
  halves = {
    name: jax.tree.map(lambda a, part=part: a[part], labels)
    for name, part in (("fwm_labels", slice(0, 100)), ("idm_labels", slice(100, 200)))
  }
  data = dataclasses.replace(run.data, arrays={**run.data.arrays, **halves})

  def called(*arguments):
    raise Called(*arguments)

  for name, fake in (("models", models), ("data", data), ("compiled", lambda *_: called)):
    monkeypatch.setattr(run, name, fake)
  found = {}
  for index, s in enumerate(run.plan):
    if s.kind != "sft":
      s = dataclasses.replace(s, steps=s.steps + 1, reference="prior")
      found[s.name, s.iteration] = s, *first_call(run, index, s)
  return found


def test_a_phase_has_its_start_the_frozen_model_and_the_reference(stage, calls):
  run = stage[0]
  frozen = lambda name: programs.frozen_copy(run.models[name], run.players.fwm.config)  # noqa: E731
  for s, state, slots, _, _, hyper in calls.values():
    assert same(state.params, run.models[s.start])
    assert same(slots.frozen, frozen(s.frozen))
    assert same(slots.reference, frozen(s.reference))
    assert hyper.schedule.total_steps == s.steps and hyper.schedule.learning_rate > 0


def test_keys_and_batches_differ_by_iteration(calls):
  for name in ("phase1", "phase2"):
    (*_, batch, key, _), (*_, later, other, _) = calls[name, 1], calls[name, 2]
    assert not same(jax.random.key_data(key), jax.random.key_data(other))
    assert not same(batch.transition.x.tokens, later.transition.x.tokens)


def test_an_anchor_reads_the_labels_of_the_model_it_trains(stage, calls):
  def rows(t):
    return set(map(tuple, np.concatenate([np.asarray(f.tokens) for f in t], axis=1)))

  for s, _, _, batch, _, _ in calls.values():
    labels = "fwm_labels" if s.kind == "phase1" else "idm_labels"
    assert rows(batch.anchor) <= rows(stage[0].data.arrays[labels])


def test_a_phase_is_scored_every_so_many_steps_and_keeps_no_best(stage, monkeypatch):
  run = stage[0]
  index, s = next((i, s) for i, s in enumerate(run.plan) if s.name == "phase1")
  settings = dataclasses.replace(s.settings, validate_every=2)
  seen = []
  monkeypatch.setattr(one_step, "quick", lambda *a, **_: seen.append(a) or 0.5)
  work = StageRun(run, index, dataclasses.replace(s, settings=settings))
  work.state = SimpleNamespace(params=run.models["prior"])
  for work.step in (1, 2, 3, 4):
    row = {}
    work._validate(row)
    assert row == ({} if work.step % 2 else {"validation": 0.5})
  assert len(seen) == 2 and seen[0][0] == run.players.fwm and work.best is None


@pytest.mark.parametrize("fields, own", [(("y",), "fwm_labels"), (("z",), "idm_labels")])
def test_mixed_labels_are_the_models_own_and_the_surest_of_the_idms(
  stage, monkeypatch, fields, own
):
  run = stage[0]
  index, s = next((i, s) for i, s in enumerate(run.plan) if s.name == "pseudo_labels")
  pairs, (low, high) = run.data.arrays["unlabelled"], (-1.0, -0.5)
  count, length = len(pairs.x.tokens), run.data.arrays[own].z.tokens.shape[1]
  sure = np.arange(count) % 4 == 0
  halves = {
    name: jax.tree.map(lambda a, part=part: a[part], run.data.arrays[own])
    for name, part in (("fwm_labels", slice(0, 100)), ("idm_labels", slice(100, 200)))
  }
  data = dataclasses.replace(run.data, arrays={**run.data.arrays, **halves})
  monkeypatch.setattr(run, "data", data)
  work = StageRun(run, index, dataclasses.replace(s, fields=fields, confident=0.25))
  written = jnp.zeros((count, length), jnp.int32)
  work.latents = inputs.Latents(written, written == 0, jnp.where(sure, high, low))

  def rows(t, part):
    return set(map(tuple, np.concatenate([np.asarray(f.tokens)[part] for f in t[:2]], axis=1)))

  (batch,) = work._batches()(0)
  half = s.settings.batch // 2
  assert rows(batch, slice(half)) <= rows(halves[own], slice(None))
  assert rows(batch, slice(half, None)) <= rows(pairs, sure)
