"""What a comparison's table counts, where its runs differ: costs, samples, means over the seeds."""

import dataclasses

import numpy as np
import pytest

from swirl_jax import comparison
from tests.test_comparison import folder, plan_of, row, step


def with_rows(*evaluations, steps=(), shift=0):
  """`folder`, with these first or behind: the last of a kind counts."""
  found = folder(shift)
  return dataclasses.replace(
    found, evaluations=[*found.evaluations, *evaluations], steps=[*found.steps, *steps]
  )


def test_a_cost_is_each_stages_own_median():
  """Iterations apart, since what a step costs may change between them; the warm-up is everyone's,
  and so is verification.
  """
  steps = [step("swirl", "phase2", 1, t, 1.0) for t in range(3)]
  steps += [step("swirl", "phase2", 2, 0, 5.0), step("warmup", "sft", 0, 0, 9.0)]
  run = with_rows(steps=steps)
  assert comparison.cost(run, "swirl") == 8.0 + 3.0 + 5.0
  assert [r.cost for r in comparison.table([run]) if r.name == "warmup"] == [0.0, 0.0]


def test_a_method_of_the_idm_alone_reads_nothing_for_the_fwm():
  run = with_rows(steps=[step("self", "sft", 0, t, 1.0) for t in range(5)])
  (found,) = (r for r in comparison.table([run]) if r.name == "self")
  assert found.samples == 0 and found.cost == 5.0


def test_scores_are_means_over_the_seeds():
  """The IDM's and those of a further split, which is left out where a seed lacks it."""
  runs = [
    with_rows(row("self", "idm", "test", idm), row("labels", "fwm", "heldout", held), *more)
    for idm, held, more in ((0.5, 0.2, [row("swirl", "fwm", "heldout", 0.9)]), (0.9, 0.4, []))
  ]
  rows = {r.title: r for r in comparison.table(runs)}
  assert rows["Self"].idm == pytest.approx(0.7)
  assert rows["Labels"].further == {"heldout": pytest.approx(0.3)}
  assert rows["SWIRL"].further == {}
  assert rows["Warm-up"].idm == pytest.approx(0.6)
  assert rows["Warm-up, best of 8 by the IDM"].idm is None  # it trains none


def test_updates_are_the_most_of_any_seed():
  """A run may stop early."""
  last = row("labels", "fwm", "test", 0.5, [2] * 6)
  runs = [with_rows(last | {"updates": n}) for n in (3, 9, 5)]
  (found,) = (r for r in comparison.table(runs) if r.name == "labels")
  assert found.updates == 9


def test_a_curve_has_the_places_where_every_run_was_scored():
  early = folder()
  early.steps[1]["validation"] = 0.15
  x, values = comparison.curves([early, folder()], "labels")
  assert x == [32] and np.shape(values) == (2, 1)


def test_a_line_of_the_table_says_the_lead_and_its_interval():
  (found,) = (r for r in comparison.table([folder()]) if r.name == "labels")
  found = found._replace(lead=(0.1, -0.2, 0.3), cost=4.0)
  head, _, line = comparison.markdown([found], unit="labels").splitlines()
  assert "| +0.100 (-0.200 to +0.300) |" in line
  assert head.endswith("| cost |") and line.endswith("| 1.0 |")
  head, _, line = comparison.markdown([found], unit="another").splitlines()
  assert head.endswith("| seconds |") and line.endswith("| 4.0 |")


def test_one_factor_alone_is_not_tuned():
  found = comparison.tuning_folders(plan_of(factors=(0.5,)), "runs")
  assert found == {}
  found = comparison.tuning_folders(plan_of(factors=(1.0, 0.5)), "runs")
  assert [(factor, path.name) for factor, path in found.items()] == [
    (1.0, "tuning-1"), (0.5, "tuning-0.5"),
  ]  # fmt: skip
