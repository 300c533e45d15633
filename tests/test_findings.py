"""What is read out of a run's folder: verdicts, scores by method and phase, seconds."""

import json

import pytest

from swirl_jax import findings
from tests.test_report import EXACT, fabricate


def folder(steps=(), evaluations=()):
  return findings.RunFolder({}, {}, {}, {}, steps, evaluations, ())


def test_a_reward_is_compared_within_its_stage_and_iteration():
  """It falls in Phase I of the second; over both, and on to Phase II, it rises."""

  def run(slope):
    steps = [
      {"stage": "phase1", "iteration": i, "reward": (0, -3.0, -0.5)[i] + (0, 0.1, slope)[i] * t}
      for i in (1, 2)
      for t in range(10)
    ]
    steps += [{"stage": "phase2", "iteration": 2, "reward": 0.0}] * 10
    scores = (("warmup", "warmup_fwm", 0, 0.5), ("swirl", "phase1", 1, 0.6),
              ("swirl", "phase1", 2, 0.55))  # fmt: skip
    return folder(steps, [
      {"method": method, "model": "fwm", "split": "validation", "stage": stage, "iteration": i,
       "metrics": {"exact": exact}} for method, stage, i, exact in scores])  # fmt: skip

  assert findings.gamed(run(-0.03)) == []
  (said,) = findings.gamed(run(0.03))
  assert said.startswith("Phase I, iteration 2: the reward rose (-0.48 to -0.2")


def test_a_choice_that_is_level_with_one_sample_is_not_good():
  """Right as often in every episode: the lead is 0 without an interval around it."""
  row = {"method": "warmup", "model": "best_of", "split": "validation",
         "metrics": {"n": 8, "pick": 0.5, "pass": 0.9, "single": 0.5}}  # fmt: skip
  for correct, good in (([5, 5], False), ([6, 6], True)):
    counts = {"correct": correct, "size": [10, 10], "single": [40, 40]}
    pick = {"pick": correct[0] / 10}
    best = row | {"metrics": row["metrics"] | pick, "by_episode": counts}
    assert findings.regime(folder(evaluations=[best]))[2].good is good


def test_seconds_are_those_of_steps_and_of_annotating():
  steps = [
    {"method": "a", "perf": {"seconds": 2.0, "annotating": 3.0}},
    {"method": "a", "perf": {"seconds": 1.0}},
    {"method": "b", "perf": {"seconds": 9.0}},
    {"method": "a"},
  ]
  assert findings.seconds(folder(steps), "a") == 6.0


def test_scores_on_further_splits_are_those_of_each_method(tmp_path):
  found = findings.methods(findings.read(fabricate(tmp_path)))
  assert {m.name: m.further for m in found} == {n: {"heldout": v} for n, v in EXACT.items()}


def test_scores_by_phase_have_the_places_of_all_splits(tmp_path):
  """Of the phases only the last two were tested."""
  run = findings.read(fabricate(tmp_path))
  places = ["warm-up", "I · 1", "II · 1", "I · 2", "II · 2"]
  names, scores = findings.by_phase(run, "test")
  assert names == places and findings.by_phase(run, "validation")[0] == places
  assert scores == {"fwm": [EXACT["warmup"], None, None, EXACT["swirl"], None],
                    "idm": [0.93, None, None, None, 0.93 + 0.02 * 2]}  # fmt: skip


def test_a_worse_swirl_within_the_noise_is_called_below(tmp_path):
  path = fabricate(tmp_path, exact=EXACT | {"pseudo_labels": 0.81})
  rows = [json.loads(line) for line in (path / "evaluations.jsonl").read_text().splitlines()]
  for row in rows:
    row.pop("by_episode", None)
  (path / "evaluations.jsonl").write_text("\n".join(map(json.dumps, rows)))
  run = findings.read(path)
  found = {v.method.name: v for v in findings.versus(run)}
  assert found["pseudo_labels"].outcome == "unclear" and found["pseudo_labels"].interval is None
  assert "1.0 points below Pseudo-labels" in found["pseudo_labels"].sentence()
  assert found["warmup"].outcome == "ahead"


def test_paired_interval_sees_what_single_ones_do_not(tmp_path):
  path = fabricate(tmp_path, exact=EXACT | {"pseudo_labels": 0.7})
  found = {v.method.name: v for v in findings.versus(findings.read(path))}
  assert found["pseudo_labels"].interval == pytest.approx((0.1, 0.1))
