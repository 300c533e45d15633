"""The plan of a run: its stages, what each starts from and leaves, and what must be kept."""

import dataclasses

import pytest

from configs import minigrid
from swirl_jax import plan, settings


def made(**changes):
  c = minigrid.base().to_dict()
  for where, value in changes.items():
    group, _, name = where.partition("__")
    if name:
      c[group][name] = value
    else:
      c[group] = value
  return settings.from_config(c)


def rows(s, *names):
  return [tuple(getattr(stage, n) for n in names) for stage in plan.make_plan(s)]


def test_separate_weights():
  s = made()
  assert rows(s, "name", "iteration", "start", "frozen", "reference", "result") == [
    ("pretrain", 0, None, None, None, "prior"),
    ("warmup_fwm", 0, "prior", None, None, "warm_fwm"),
    ("warmup_idm", 0, None, None, None, "warm_idm"),
    ("phase1", 1, "warm_fwm", "warm_idm", "warm_fwm", "fwm"),
    ("phase2", 1, "warm_idm", "fwm", "warm_idm", "idm"),
    ("phase1", 2, "fwm", "idm", "fwm", "fwm"),
    ("phase2", 2, "idm", "fwm", "idm", "idm"),
    ("labels_only", 0, "warm_fwm", None, None, "labels_only"),
    ("pseudo_labels", 0, "warm_fwm", "warm_idm", None, "pseudo_labels"),
  ]
  stages = plan.make_plan(s)
  assert [x.data for x in stages[:3]] == [("unlabelled",), ("fwm_labels",), ("idm_labels",)]
  assert [x.hide_z for x in stages] == [True] + [False] * 8
  assert plan.warm_models(stages) == {"y": "warm_fwm", "z": "warm_idm"}
  assert plan.final_models(stages) == {"y": "fwm", "z": "idm"}


def test_shared_weights():
  """One model, both fields in the warm-up; the frozen tree is the policy as the phase began."""
  s = made(weights="shared", compare=())
  assert rows(s, "name", "iteration", "start", "frozen", "reference", "result", "fields") == [
    ("pretrain", 0, None, None, None, "prior", ("y",)),
    ("warmup", 0, "prior", None, None, "warm", ("y", "z")),
    ("phase1", 1, "warm", "warm", "warm", "model", ("y",)),
    ("phase2", 1, "model", "model", "model", "model", ("z",)),
    ("phase1", 2, "model", "model", "model", "model", ("y",)),
    ("phase2", 2, "model", "model", "model", "model", ("z",)),
  ]
  stages = plan.make_plan(s)
  assert plan.warm_models(stages) == {"y": "warm", "z": "warm"}
  assert plan.final_models(stages) == {"y": "model", "z": "model"}


def test_the_reference_may_stay_where_the_warm_up_left_it():
  stages = plan.make_plan(made(swirl__reset_reference=False, compare=()))
  assert [s.reference for s in stages[3:]] == ["warm_fwm", "warm_idm"] * 2


def test_order_and_iterations_are_settings():
  s = made(swirl={"iterations": 1, "order": ("phase2", "phase1", "phase1")}, compare=())
  assert rows(s, "name", "start", "frozen")[3:] == [
    ("phase2", "warm_idm", "warm_fwm"),
    ("phase1", "warm_fwm", "idm"),
    ("phase1", "fwm", "idm"),
  ]
  none = made(swirl__iterations=0)
  assert [r[0] for r in rows(none, "name")] == ["pretrain", "warmup_fwm", "warmup_idm"]
  assert plan.final_models(plan.make_plan(none)) == {"y": "warm_fwm", "z": "warm_idm"}
  only = made(phase2__steps=0, compare=())
  assert plan.final_models(plan.make_plan(only)) == {"y": "fwm", "z": "warm_idm"}
  assert [r[0] for r in rows(only, "name")][3:] == ["phase1", "phase1"]


def test_comparisons_have_as_many_updates_as_swirl():
  s = made(phase1__steps=7, phase2__steps=5)
  stages = {(x.name, x.iteration): x for x in plan.make_plan(s)}
  assert stages["phase1", 2].updates == 14 and stages["phase2", 2].updates == 10
  for name in s.compare:
    (stage,) = (x for x in plan.make_plan(s) if x.method == name)
    assert (stage.steps, stage.updates) == (14, 14)


def test_what_is_scored_at_the_end():
  """The warm-up, the last phase of each model and every comparison are scored on all splits."""
  for weights, full in (("separate", 6), ("shared", 4)):
    stages = plan.make_plan(made(weights=weights))
    assert [x.splits for x in stages if x.name == "pretrain"] == [()]
    assert sum(x.splits == plan.FINAL for x in stages) == full
    first = [x.splits for x in stages if (x.method, x.iteration) == ("swirl", 1)]
    assert first == [("validation",)] * 2


@pytest.mark.parametrize("weights", settings.WEIGHTS)
@pytest.mark.parametrize("prior", [False, True])
def test_every_model_is_there_when_it_is_read_and_kept_as_long_as_needed(weights, prior):
  """Plays the plan, dropping after each stage what `needed` does not name."""
  s = made(weights=weights)
  if prior:
    s = dataclasses.replace(s, phase1=dataclasses.replace(s.phase1, reference="prior"))
  stages = plan.make_plan(s)
  there = set()
  for i, stage in enumerate(stages):
    assert stage.reads <= there, f"{stage.name} reads {stage.reads - there}"
    there = (there | {stage.result}) & plan.needed(stages, i + 1)
  ends = {*plan.final_models(stages).values(), *plan.warm_models(stages).values()}
  assert there == ends  # neither the prior nor a comparison outlives its use
  assert any("prior" in x.reads for x in stages if x.kind == "phase1") == prior


def test_a_prior_with_beta_zero_is_not_read():
  s = made(compare=())
  phase1 = dataclasses.replace(s.phase1, reference="prior", beta=0.0)
  stages = plan.make_plan(dataclasses.replace(s, phase1=phase1))
  assert not any("prior" in x.reads for x in stages if x.kind != "sft")


def test_without_pretraining_models_start_fresh():
  stages = {s.name: s for s in plan.make_plan(made(pretrain__steps=0, compare=()))}
  assert stages["warmup_fwm"].start is None and stages["warmup_idm"].start is None
  assert not any("prior" in s.reads for s in stages.values())


RIVALS = {
  "all_labels": {"title": "", "data": "idm_labels", "sft": minigrid.sft(steps=0)},
  "sure": {"title": "", "data": "pseudo", "confident": 0.5, "sft": minigrid.sft(steps=9)},
  "self": {"title": "", "model": "idm", "data": "mixed", "sft": minigrid.sft(steps=0)},
  "turns": {
    "title": "", "iterations": 3,
    "phase1": minigrid.phase(steps=0, learning_rate=1e-4),
    "phase2": minigrid.phase(steps=7, learning_rate=1e-4),
  },
  "one": {
    "title": "", "weights": "shared", "phase1": minigrid.phase(steps=0, learning_rate=1e-4),
    "phase2": minigrid.phase(steps=0, learning_rate=1e-4),
  },
}  # fmt: skip


def test_rivals():
  s = made(rivals=RIVALS, compare=tuple(RIVALS), phase1__steps=6, phase2__steps=5)
  names = ("name", "iteration", "start", "frozen", "result", "fields", "data", "steps")
  assert rows(s, *names)[7:] == [
    ("all_labels", 0, "warm_fwm", None, "all_labels", ("y",), ("idm_labels",), 12),
    ("sure", 0, "warm_fwm", "warm_idm", "sure", ("y",), ("pseudo",), 9),
    ("self", 0, "warm_idm", "warm_idm", "self", ("z",), ("mixed",), 10),
    ("turns-phase1", 1, "warm_fwm", "warm_idm", "turns", ("y",), (), 4),
    ("turns-phase2", 1, "warm_idm", "turns", "turns-idm", ("z",), (), 7),
    ("turns-phase1", 2, "turns", "turns-idm", "turns", ("y",), (), 4),
    ("turns-phase2", 2, "turns-idm", "turns", "turns-idm", ("z",), (), 7),
    ("turns-phase1", 3, "turns", "turns-idm", "turns", ("y",), (), 4),
    ("turns-phase2", 3, "turns-idm", "turns", "turns-idm", ("z",), (), 7),
    ("one-warmup", 0, "prior", None, "one-warm", ("y", "z"), ("fwm_labels", "idm_labels"), 1200),
    ("one-phase1", 1, "one-warm", "one-warm", "one", ("y",), (), 12),
    ("one-phase2", 1, "one", "one", "one", ("z",), (), 10),
  ]
  stages = {x.name: x for x in plan.make_plan(s) if x.method not in ("warmup", "swirl")}
  assert stages["sure"].confident == 0.5 and stages["sure"].annotates
  assert not stages["all_labels"].annotates
  assert stages["one-phase2"].scored == stages["one-warmup"].scored == ("y", "z")
  assert stages["turns-phase2"].updates == 21
  ends = [x for x in plan.make_plan(s)[7:] if x.splits == plan.FINAL]
  assert [(x.name, x.iteration) for x in ends] == [
    ("all_labels", 0), ("sure", 0), ("self", 0), ("turns-phase1", 3), ("turns-phase2", 3),
    ("one-phase2", 1),
  ]  # fmt: skip
  shared = made(weights="shared", rivals=RIVALS, compare=("one",))
  assert [r[0] for r in rows(shared, "name")[6:]] == ["one-phase1", "one-phase2"]
  none = made(rivals=RIVALS, compare=tuple(RIVALS), swirl__iterations=0)
  assert [r[0] for r in rows(none, "name")[3:]] == ["sure", *["turns-phase2"] * 3]


def test_a_rivals_iterations_share_out_all_of_swirls_updates():
  turns = {"turns": RIVALS["turns"]}
  with pytest.raises(ValueError, match="rivals.turns.phase1.steps = 0: SWIRL's 10 updates .* 3 it"):
    plan.make_plan(made(rivals=turns, compare=("turns",), phase1__steps=5))


def test_inner_epochs_are_updates():
  s = made(rivals=RIVALS, compare=tuple(RIVALS), phase1__steps=6, phase1__inner_epochs=3)
  stages = {(x.name, x.iteration): x for x in plan.make_plan(s)}
  assert stages["phase1", 2].updates == 2 * 6 * 3 == stages["all_labels", 0].steps
  assert stages["one-phase1", 1].steps == 36
  rival = RIVALS["one"]["phase1"] | {"inner_epochs": 2}
  s = made(rivals={"one": RIVALS["one"] | {"phase1": rival}}, compare=("one",), phase1__steps=6)
  stage = next(x for x in plan.make_plan(s) if x.name == "one-phase1")
  assert (stage.steps, stage.updates) == (6, 12)


def test_updates_of_one_model_for_both_parts():
  s = made(weights="shared", compare=(), phase1__steps=7, phase2__steps=5)
  assert [x.updates for x in plan.make_plan(s) if x.method == "swirl"] == [7, 12, 19, 24]
  s = made(compare=(), phase1__steps=7, phase2__steps=5)  # two models: each its own
  assert [x.updates for x in plan.make_plan(s) if x.method == "swirl"] == [7, 5, 14, 10]


def test_only_phase_1_annotates():
  s = made(phase1__latents="cached", phase2__latents="cached", compare=())
  assert [x.annotates for x in plan.make_plan(s) if x.method == "swirl"] == [True, False] * 2


def test_phase_1_as_in_the_paper_takes_its_place_beside_swirl():
  s = made(compare=("paper_phase1",))
  stage = next(x for x in plan.make_plan(s) if x.name == "paper_phase1")
  rival = s.rivals["paper_phase1"]
  assert stage.settings == dataclasses.replace(rival.phase1, steps=stage.steps)
  assert (stage.kind, stage.steps) == ("phase1", s.swirl.iterations * s.phase1.steps)
