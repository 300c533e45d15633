"""One stage by itself: a warm-up on sequences of turns, stopped and gone on with."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import test as test_config
from swirl_jax import inputs, programs, sharding, train
from swirl_jax.data import builders
from swirl_jax.settings import from_config

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
  assert [row["step"] for row in rows] == list(range(6)) and set(saved) == {2, 4}
  assert rows[-1]["nll_y"] < 0.8 * rows[0]["nll_y"]
  again, same, _ = trained(stage, saved[4])
  assert again == rows[4:]
  jax.tree.map(np.testing.assert_array_equal, params, same)
