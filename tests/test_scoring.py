"""What is measured on which model, and what a step costs: the model FLOPs behind `perf.mfu`."""

import dataclasses
import types

import jax
import pytest
import tiny

from configs import minigrid
from swirl_jax import programs, rewards, scoring, settings
from swirl_jax.plan import make_plan

LENGTHS = programs.Lengths(state=tiny.STATE, action=tiny.ACTION)
CONFIG = settings.from_config(minigrid.get_config().to_dict())
PLAIN = dataclasses.replace(  # 4 prompts x 2 samples, nothing but sampler, reward and update
  CONFIG.phase1, prompts=4, group=2, keep=0, beta=0.0, anchor=0, latents="cached",
  reward=rewards.RewardSpec(random=True),
)  # fmt: skip
PROMPT, SAMPLED = 4 * (tiny.STATE + tiny.ACTION), 40
SCORED = 4 * tiny.STATE + 8 * (tiny.STATE + tiny.ACTION)  # by the IDM: x once, then each y and z
DRAWN = 4 * (2 * tiny.STATE + tiny.ACTION)  # the latent actions


@pytest.mark.parametrize(
  "changes, of_policy, of_frozen, labelled",
  [
    ({}, 1 + 3, 0, 0),
    ({"keep": 1}, 1 + 3 / 4, 0, 0),
    ({"inner_epochs": 4}, 1 + 1 + 4 * 3, 0, 0),
    ({"inner_epochs": 4, "keep": 2, "beta": 0.1}, 1 + (1 + 1 + 4 * 3) / 2, 0, 0),
    ({"guidance": 3.0}, 2 + 3, 0, 0),
    ({"anchor": 5}, 1 + 3, 0, 3 * 5),
    ({"reward": rewards.RewardSpec()}, 1 + 3, SCORED, 0),
    ({"reward": rewards.RewardSpec(prior=True)}, 1 + 3 + 1, SCORED, 0),
    ({"latents": "fresh"}, 1 + 3, DRAWN, 0),
  ],
)
def test_a_phase_counts_every_pass(changes, of_policy, of_frozen, labelled):
  """2 FLOPs per parameter and token of a forward pass, 6 of an update on what is kept."""
  stage = next(s for s in make_plan(CONFIG) if s.kind == "phase1")
  stage = dataclasses.replace(stage, settings=dataclasses.replace(PLAIN, **changes))
  config = tiny.config()
  players = programs.Roles(tiny.fwm(config), tiny.idm(config))
  layers = 2 * (16 * 4 * 2 * (4 + 2) + 3 * 16 * 24)
  weights = layers + 16 * tiny.VOCAB
  tokens = of_policy * (PROMPT + SAMPLED) + of_frozen + labelled * (2 * tiny.STATE + tiny.ACTION)
  found = scoring.phase_flops(stage, players, LENGTHS, SAMPLED)
  assert found == pytest.approx(2 * weights * tokens)


@pytest.fixture
def run():
  """A run that has ended, whose models are their names."""
  config = tiny.config()
  examples = {name: types.SimpleNamespace(data=name, records=[]) for name in ("validation", "test")}
  world = types.SimpleNamespace(tokenizer=None)
  return types.SimpleNamespace(
    settings=CONFIG, plan=make_plan(CONFIG), root=jax.random.key(0), model=lambda name: name,
    data=types.SimpleNamespace(examples=examples, world=world, lengths=LENGTHS),
    players=programs.Roles(tiny.fwm(config), tiny.idm(config)), stop_if_asked=lambda: None,
  )  # fmt: skip


@pytest.fixture
def named(monkeypatch):
  """What is measured names what it is of."""

  def best_of(fwm, fwm_params, idm, idm_params, split, **_):
    return {"metrics": (fwm_params, idm_params, split.data), "by_episode": {}}

  def turns(fwm, params, split, chains, **_):
    return {"metrics": (params, split.data), "chains": []}

  monkeypatch.setattr(scoring.one_step, "best_of", best_of)
  monkeypatch.setattr(scoring.multi_turn, "multi_turn", turns)
  monkeypatch.setattr(scoring.one_step, "decode", lambda role, params, *_, **__: params)
  monkeypatch.setattr(scoring.one_step, "texts", lambda tokenizer, decoded: [decoded])
  monkeypatch.setattr(
    scoring.one_step, "gallery", lambda test, texts, rows, method, **_: [(method, *texts)]
  )
  monkeypatch.setattr(scoring, "_latents", lambda run, params, *_, **__: {"examples": params})


def test_the_last_measurements_are_of_the_models_that_they_name(run, named):
  rows, samples = scoring.final(run)
  assert [(row["method"], row["model"], row["metrics"]) for row in rows] == [
    ("warmup", "best_of", ("warm_fwm", "warm_idm", "validation")),
    ("warmup", "best_of", ("warm_fwm", "warm_idm", "test")),
    ("warmup", "multi_turn", ("warm_fwm", "test")),
    ("swirl", "multi_turn", ("fwm", "test")),
  ]
  assert samples["gallery"] == [("swirl", "fwm"), ("warmup", "warm_fwm")]
  assert samples["latents"] == "idm"


def test_without_iterations_nothing_is_called_swirls(run, named):
  swirl = dataclasses.replace(CONFIG.swirl, iterations=0)
  run.plan = make_plan(dataclasses.replace(CONFIG, swirl=swirl))
  rows, samples = scoring.final(run)
  assert {row["method"] for row in rows} == {"warmup"} and len(rows) == 3
  assert samples["gallery"] == [("warmup", "warm_fwm")] and samples["latents"] == "warm_idm"


def test_a_stages_rows_are_of_the_model_that_it_left(run, monkeypatch):
  def measure(kind):
    return lambda role, params, split, **_: {"metrics": (kind, params, split.data), "by_episode": 0}

  for kind in ("fwm", "idm"):
    monkeypatch.setattr(scoring.one_step, kind, measure(kind))
  monkeypatch.setattr(scoring, "_latents", lambda run, params, *_, **__: {"metrics": params})
  found = {}
  for stage in run.plan:
    for row in scoring.stage_rows(run, stage):
      found.setdefault((stage.name, stage.iteration), []).append((row["model"], row["metrics"]))
  assert found["warmup_fwm", 0][0] == ("fwm", ("fwm", "warm_fwm", "validation"))
  assert found["phase1", 1] == [("fwm", ("fwm", "fwm", "validation"))]
  assert found["phase2", 2] == [
    ("idm", ("idm", "idm", "validation")), ("idm", ("idm", "idm", "test")), ("latents", "idm"),
  ]  # fmt: skip
  assert found["labels_only", 0][-1] == ("fwm", ("fwm", "labels_only", "test"))
