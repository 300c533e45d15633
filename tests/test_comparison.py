"""A comparison: the configs of its runs, what is counted, and a whole one on a tiny world."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from configs import comparison as config
from swirl_jax import compare, comparison, comparison_page, findings, settings, start
from swirl_jax.comparison import Comparison
from swirl_jax.plan import make_plan
from swirl_jax.typed import build

ROOT = pathlib.Path(__file__).resolve().parents[1]


def plan_of(world="test", **changes):
  return build(Comparison, config.get_config(world).to_dict() | changes, "config")


# -- the configs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("world", config.WORLDS)
def test_methods_have_as_many_updates_as_swirl(world):
  run = settings.from_config(comparison.seed_config(plan_of(world), 0, {}, "data"))
  stages = make_plan(run)
  updates = {
    "y": run.swirl.iterations * run.phase1.steps,
    "z": run.swirl.iterations * run.phase2.steps,
  }
  found = {}
  for stage in stages:
    if stage.method != "warmup" and not stage.name.endswith("-warmup"):
      by_field = found.setdefault(stage.method, {})
      by_field[stage.fields[0]] = by_field.get(stage.fields[0], 0) + stage.steps
  last = {(stage.method, stage.fields[0]): stage.updates for stage in stages}
  assert set(found) == {"swirl", *run.compare}
  for method, by_field in found.items():
    assert all(count == updates[field] for field, count in by_field.items()), method
    mine = {field: last[method, field] for field in by_field}
    if method == "paper_shared":  # both phases train its one model
      assert mine["z"] == sum(updates.values())
    else:
      assert mine == by_field
  assert set(found["idm_self"]) == {"z"} and set(found["paper_shared"]) == {"y", "z"}


def test_learning_rates_are_scaled_and_nothing_else():
  plan = plan_of("minigrid")
  one = comparison.seed_config(plan, 3, {}, "data")
  other = comparison.seed_config(plan, 3, {"labels_only": 0.5, "swirl": 0.1, "random": 2.0}, "data")
  rate = lambda c, *path: path and rate(c[path[0]], *path[1:]) or c["optimizer"]["learning_rate"]  # noqa: E731
  for path, factor in (
    (("rivals", "labels_only", "sft"), 0.5), (("phase1",), 0.1), (("phase2",), 0.1),
    (("rivals", "random", "phase1"), 2.0), (("rivals", "with_prior", "phase1"), 1.0),
    (("warmup_fwm",), 1.0), (("rivals", "paper_shared", "phase2"), 1.0),
  ):  # fmt: skip
    assert rate(other, *path) == pytest.approx(factor * rate(one, *path)), path
  assert (one["seed"], one["data"]["dir"]) == (3, "data")
  tuning = comparison.tuning_config(plan, 0.3, "data")
  assert tuning["seed"] == 100 and tuning["evaluation"]["splits"] == ["validation"]
  assert rate(tuning, "phase1") == pytest.approx(0.3 * rate(one, "phase1"))
  assert rate(tuning, "rivals", "with_prior", "phase1") == pytest.approx(
    0.3 * rate(one, "rivals", "with_prior", "phase1")
  )
  assert rate(tuning, "warmup_fwm") == rate(one, "warmup_fwm")


STILL = config.get_config("test").run.to_dict()
STILL["swirl"]["iterations"] = 0


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"seeds": (1, 1)}, "config: seeds = (1, 1): allowed are one or more, each once"),
    ({"tuning_seed": 1}, "config: tuning_seed = 1: allowed is one that isn't in seeds"),
    ({"factors": (1.0, 0.0)}, "config: factors = (1.0, 0.0): allowed are numbers above 0"),
    ({"factors": (1.0, 1.0)}, "config: factors = (1.0, 1.0): allowed are numbers above 0, each"),
    ({"sedes": (1,)}, "config.sedes is not a field; allowed are run, seeds"),
    ({"run": STILL}, "config: run.swirl.iterations = 0: allowed is a whole number from 1"),
    ({"run": {"seed": 0}}, "config.weights is missing"),
  ],
)
def test_bad_settings_are_named(changes, said):
  with pytest.raises(ValueError) as error:
    plan_of(**changes)
  assert said in str(error.value)


# -- what is counted -----------------------------------------------------------------------------


def row(method, model, split, value, correct=None, **more):
  metric = {"fwm": "exact", "idm": "match", "best_of": "pick"}[model]
  found = {"method": method, "model": model, "split": split, "stage": method, "iteration": 0}
  found |= {"metrics": {metric: value, "n": 8}, "updates": 7} | more
  if correct is not None:
    found["by_episode"] = {"correct": list(correct), "size": [4] * len(correct)}
  return found


def folder(shift=0, seconds=0.5):
  """A run with two methods: SWIRL has one more right in every episode."""
  run = {"phase1": {"prompts": 3, "anchor": 1}, "compare": ["labels", "self"]}
  run["rivals"] = {
    "labels": {"title": "Labels", "sft": {"batch": 8}},
    "self": {"title": "Self", "model": "idm", "sft": {"batch": 4}},
  }
  right = np.array([1, 2, 1, 0, 2, 1]) + shift
  exact = right.mean() / 4
  evaluations = [
    row("warmup", "fwm", "test", exact, right),
    row("warmup", "fwm", "validation", 0.2),
    row("warmup", "idm", "test", 0.6),
    row("warmup", "best_of", "test", 0.4, right),
    row("labels", "fwm", "test", exact, right),
    row("self", "idm", "test", 0.7),
    row("swirl", "fwm", "test", exact + 0.25, right + 1),
    row("swirl", "fwm", "validation", 0.9, iteration=1),  # of shared weights, between the phases
    *(row("swirl", "fwm", "validation", 0.3 + 0.1 * i, iteration=i) for i in (1, 2)),
  ]
  steps = [step("labels", "sft", 0, t, seconds if t else 60.0) for t in range(5)]
  steps[3]["validation"] = 0.25
  steps[0]["perf"]["annotating"] = 0.7
  for i in (1, 2):
    steps += [step("swirl", "phase1", i, t, 2.0) | {"validation": 0.1 * i} for t in range(2)]
  return findings.RunFolder(run, {}, {}, {}, steps, evaluations, ())


def step(method, kind, iteration, number, seconds):
  return {"stage": kind, "method": method, "kind": kind, "iteration": iteration, "step": number,
          "perf": {"seconds": seconds}}  # fmt: skip


def test_the_regime_is_the_mean_of_the_seeds():
  """What stands beside it too: the FWM's samples, one and the best of them."""
  runs = []
  for fwm, single in ((0.4, 0.2), (0.6, 0.3)):
    best = {"n": 8, "pick": 0.5, "single": single, "pass": 2 * single}
    chosen = {"correct": [5, 5], "size": [10, 10], "single": [int(80 * single)] * 2}
    found = [
      row("warmup", "fwm", "validation", 0.1, metrics={"changed_exact": fwm}),
      row("warmup", "best_of", "validation", 0.5, metrics=best, by_episode=chosen),
    ]
    runs.append(dataclasses.replace(folder(), evaluations=found))
  fwm, idm, best = findings.regime(*runs)
  assert (fwm.value, idm.value, best.value) == (0.5, None, 0.5)
  assert best.title.startswith("IDM's best of 8") and best.note == "one sample 0.250, any 0.500"
  assert best.low == pytest.approx(0.25)  # episodes all alike: no interval about the lead


def test_the_table_by_hand():
  runs = [folder(), folder(shift=1)]
  rows = {r.title: r for r in comparison.table(runs)}
  assert list(rows) == ["Warm-up", "Warm-up, best of 8 by the IDM", "Labels", "Self", "SWIRL"]
  swirl, labels = rows["SWIRL"], rows["Labels"]
  assert swirl.lead is None and labels.lead == pytest.approx((0.25, 0.25, 0.25))
  assert labels.by_seed == pytest.approx((7 / 24, 13 / 24)) and labels.exact == pytest.approx(
    10 / 24
  )
  assert labels.interval[0] < labels.exact < labels.interval[1]
  assert rows["Self"].exact is None and rows["Self"].idm == pytest.approx(0.7)
  assert labels.cost == pytest.approx(2.5 + 0.7)  # the steps, and annotating
  assert swirl.cost == 8.0 and rows["Warm-up"].cost == 0.0
  assert (labels.samples, swirl.samples, rows["Self"].samples) == (40, 16, 0)
  lines = comparison.markdown(list(rows.values()), "labels").splitlines()
  assert (
    len(lines) == 7 and lines[-1].startswith("| SWIRL | 0.667 |") and lines[-1].endswith("| 2.5 |")
  )


def test_a_method_that_a_seed_lacks_is_left_out():
  late = folder()
  late = late.__class__(**{**vars(late), "evaluations": late.evaluations[:-4]})
  assert "SWIRL" not in {r.title for r in comparison.table([folder(), late])}


def test_curves_and_iterations():
  runs = [folder(), folder(shift=1)]
  x, values = comparison.curves(runs, "labels")
  assert x == [32] and values.tolist() == [[0.25], [0.25]]
  x, values = comparison.curves(runs, "swirl")
  assert x == [4, 8, 12, 16] and values.shape == (2, 4)
  found = comparison.by_iteration(runs, "swirl", "fwm")
  np.testing.assert_allclose(found, [[0.2, 0.4, 0.5]] * 2)
  for run in runs:  # shared weights have a warm-up of their own
    run.evaluations.insert(0, row("swirl", "fwm", "validation", 0.1))
  found = comparison.by_iteration(runs, "swirl", "fwm")
  np.testing.assert_allclose(found, [[0.1, 0.4, 0.5]] * 2)


def test_the_best_factor_of_each_method_is_chosen():
  tuning = {}
  for factor, score in ((1.0, 0.4), (0.3, 0.6)):
    rows = [
      row("swirl", "fwm", "validation", score), row("swirl", "idm", "validation", 1 - score),
      row("self", "idm", "validation", 1 - score), row("warmup", "fwm", "validation", 0.9),
    ]  # fmt: skip
    tuning[factor] = findings.RunFolder({}, {}, {}, {}, (), rows, ())
  found = comparison.scores(tuning)
  assert found == {"swirl": {1.0: 0.4, 0.3: 0.6}, "self": {1.0: 0.6, 0.3: 0.4}}
  assert comparison.chosen(found) == {"swirl": 0.3, "self": 1.0}
  assert comparison.chosen({"a": {1.0: 0.5, 0.3: 0.5}}) == {"a": 1.0}


# -- its page --------------------------------------------------------------------------------------


def test_the_page_shows_the_best_factor_in_bold():
  tuned = {"a": {1.0: 0.4, 0.3: 0.6}, "b": {1.0: 0.2, 0.3: 0.1}}
  found = comparison_page._tuning(plan_of(factors=(1.0, 0.3)), tuned, {"a": "A<b>", "b": "B"})
  assert "<td>A&lt;b&gt;</td><td>0.400</td><td><b>0.600</b></td>" in found
  assert "<td>B</td><td><b>0.200</b></td><td>0.100</td>" in found
  del tuned["b"][1.0]  # a run that has no score for it
  found = comparison_page._tuning(plan_of(factors=(1.0, 0.3)), tuned, {"a": "A", "b": "B"})
  assert "<td>B</td><td>–</td><td><b>0.100</b></td>" in found


def test_the_band_is_from_the_lowest_to_the_highest_seed():
  values = np.array([[0.1, 0.5], [0.3, 0.2], [0.2, 0.2]])
  line = comparison_page._band("a", [1, 2], values, "#123456")
  assert (line.low, line.high) == ([0.1, 0.2], [0.3, 0.5])
  assert line.y == pytest.approx([0.2, 0.3])
  alone = comparison_page._band("a", [1, 2], values[:1], "#123456")
  assert not alone.low and not alone.high


def test_costs_on_the_page_are_in_units_of_labels_only():
  run = folder()
  costs = {"Labels": "1.0", "Self": "0.0", "SWIRL": "2.5"}
  rows = [r._replace(name="labels_only") if r.name == "labels" else r
          for r in comparison.table([run])]  # fmt: skip
  run.steps.append(step("labels_only", "sft", 0, 0, 1.0))  # for the colour
  found = comparison_page._methods(rows, [run])
  for title, cost in costs.items():
    (line,) = (r for r in found.split("<tr ") if f"</i>{title}</td>" in r)
    assert line.split("<td>")[-1].startswith(f"{cost}</td>"), title


# -- a whole one ---------------------------------------------------------------------------------

SMALL = (
  "pretrain.steps=2", "warmup_fwm.steps=3", "warmup_idm.steps=3", "phase1.steps=1",
  "phase2.steps=1", "evaluation.test=20", "evaluation.validation=20", "evaluation.heldout=10",
  "compare=('pseudo_sure','idm_self','paper_shared')",
)  # fmt: skip


def test_tuning_decides_the_rates_of_the_seeds(tmp_path, monkeypatch):
  """Played without training: each run's validation score is better the lower its rates are."""
  begun, rate_of = [], lambda group: group["optimizer"]["learning_rate"]

  def play(jobs, parallel, title):
    begun.append((title, dict(jobs)))
    for path, run in jobs.items():
      path.mkdir()
      split = run["evaluation"]["splits"][-1]
      split = "validation" if split == "validation" else "test"
      rates = {n: c[next(iter({"sft", "phase1"} & set(c)))] for n, c in run["rivals"].items()}
      rates["swirl"] = run["phase1"]
      rows = [
        row(name, model, split, 0.5 - rate_of(rates[name]), [1, 1], position=0)
        for name in ("swirl", *run["compare"])
        for model in ("idm" if name == "idm_self" else "fwm",)
      ]
      (path / "config.json").write_text(json.dumps(run))
      (path / "evaluations.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
      (path / "dataset.json").write_text('{"fwm_labels": 1, "idm_labels": 2}')

  monkeypatch.setattr(compare, "_together", play)
  c = config.get_config("test").to_dict()
  c["run"]["world"] |= {"labelled": 200, "unlabelled": 30, "validation": 5, "test": 5, "heldout": 5}
  table = compare.compare(c, str(tmp_path), 2)
  (tuning, first), (seeds, second) = begun
  assert (tuning, seeds) == ("tuning", "seeds")
  assert [p.name for p in first] == ["tuning-1", "tuning-0.3"]
  assert [p.name for p in second] == ["seed-0", "seed-1"]
  own = rate_of(c["run"]["rivals"]["labels_only"]["sft"])
  for run in second.values():
    for name in ("labels_only", "idm_self"):
      assert rate_of(run["rivals"][name]["sft"]) == pytest.approx(0.3 * own)
    assert run["data"]["dir"] == str(tmp_path / "data")
  assert "| SWIRL |" in table and table == (tmp_path / "comparison.md").read_text().strip()
  tuned = json.loads((tmp_path / "comparison.json").read_text())["factors"]["labels_only"]
  assert tuned["0.3"] > tuned["1"]
  assert "× 0.3" in (tmp_path / "comparison.html").read_text()
  kept = json.loads((tmp_path / "config.json").read_text())  # what a later start is held to
  assert kept["factors"] == [1.0, 0.3]


@pytest.mark.parametrize("field, value, said", [
  ("seeds", (0, 2**32), "seed = 4294967296: allowed is"),
  ("run.rivals.paper_iterative.iterations", 7, "paper_iterative.phase1.steps = 0: SWIRL's 6 up"),
])  # fmt: skip
def test_what_a_run_would_refuse_is_refused_before_the_data(field, value, said, tmp_path):
  c = config.get_config("test")
  c.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=said):
    compare.compare(c.to_dict(), str(tmp_path), 1)
  assert not list(tmp_path.iterdir())


def test_a_comparison_does_not_go_on_with_another_run(tmp_path, monkeypatch):
  def began(*_):
    raise RuntimeError("began")

  monkeypatch.setattr(start, "world_of", began)
  c = config.get_config("test").to_dict()
  (tmp_path / "config.json").write_text(json.dumps(c))
  with pytest.raises(RuntimeError, match="began"):
    compare.compare(c | {"seeds": (7,)}, str(tmp_path), 1)
  c["run"]["mesh"]["data"] = 2
  with pytest.raises(RuntimeError, match="began"):
    compare.compare(c, str(tmp_path), 1)
  with pytest.raises(ValueError, match="factors.*: saved"):  # they have chosen what is there
    compare.compare(c | {"factors": (1.0,)}, str(tmp_path), 1)
  c["run"]["phase1"]["steps"] += 1
  with pytest.raises(ValueError, match=r"run\.phase1\.steps: saved"):
    compare.compare(c, str(tmp_path), 1)


@pytest.mark.parametrize("count, parallel, expected", [
  (3, 2, [{1, 3}, {0, 2}, {0, 1, 2, 3}]),
  (5, 3, [{2}, {1}, {0, 3}, {1, 3}, {0, 2}]),
  (2, 2, [{1, 3}, {0, 2}]),
  (2, 1, [{0, 1, 2, 3}, {0, 1, 2, 3}]),
  (5, 8, [{3}, {2}, {1}, {0}, {0, 1, 2, 3}]),
])  # fmt: skip
def test_the_last_runs_share_all_cores(count, parallel, expected, tmp_path, monkeypatch):
  """Where fewer are left than may go side by side, a core beside them would stay idle."""
  seen = {}
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
  monkeypatch.setattr(compare, "_run", lambda _, folder, cores: seen.update({folder: set(cores)}))
  monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor",
                      lambda n, *_, **__: concurrent.futures.ThreadPoolExecutor(n))  # fmt: skip
  run = comparison.seed_config(plan_of(), 0, {}, str(tmp_path))
  folders = [tmp_path / str(i) for i in range(count)]
  compare._together(dict.fromkeys(folders, run), parallel, "")
  assert [seen[str(folder)] for folder in folders] == expected


def test_a_run_that_fails_is_named_and_those_under_way_end_first(tmp_path, monkeypatch):
  ended = []

  def play(config, folder, cores):
    if folder.endswith("0"):
      raise ValueError("the disk is full")
    time.sleep(0.2)
    ended.append(folder)

  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
  monkeypatch.setattr(compare, "_run", play)
  monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor",
                      lambda n, *_, **__: concurrent.futures.ThreadPoolExecutor(n))  # fmt: skip
  run = comparison.seed_config(plan_of(), 0, {}, str(tmp_path))
  folders = [tmp_path / str(i) for i in range(3)]
  with pytest.raises(RuntimeError, match="0: the disk is full .*log.txt has more"):
    compare._together(dict.fromkeys(folders, run), 2, "")
  assert ended == [str(folders[1])]  # and no other was begun


PARENT = """
import multiprocessing, pathlib, signal, sys, threading, time
from swirl_jax import compare

def child(folder):
  signal.signal(signal.SIGTERM, lambda *_: (folder / "stopped").touch() or sys.exit())
  threading.Thread(target=compare.stop_with_parent, daemon=True).start()
  (folder / "began").touch()
  time.sleep(60)

if __name__ == "__main__":
  multiprocessing.get_context("spawn").Process(
    target=child, args=(pathlib.Path(sys.argv[1]),)).start()
"""


@pytest.mark.multiprocess
def test_runs_stop_when_the_comparison_is_killed(tmp_path):
  def appears(name):
    until = time.monotonic() + 50
    while not (tmp_path / name).exists() and time.monotonic() < until:
      time.sleep(0.05)
    return (tmp_path / name).exists()

  (tmp_path / "parent.py").write_text(PARENT)
  parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", tmp_path],
                            env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
  try:
    assert appears("began") and not (tmp_path / "stopped").exists()
  finally:
    parent.kill()
    parent.wait()
  assert appears("stopped")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_whole_comparison(tmp_path):
  command = [sys.executable, "-m", "swirl_jax.compare", "--config=configs/comparison.py:test",
             f"--workdir={tmp_path}", "--config.seeds=(0,)",
             "--config.factors=(1.0,)",
             *(f"--config.run.{o}" for o in SMALL)]  # fmt: skip
  done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr
  found = json.loads((tmp_path / "comparison.json").read_text())
  methods = {m["name"] for m in found["methods"]}
  assert methods == {"warmup", "swirl", "pseudo_sure", "idm_self", "paper_shared"}
  assert (tmp_path / "comparison.md").read_text() in done.stdout
  page = (tmp_path / "comparison.html").read_text()
  for title in ("Who is ahead?", "Score by samples", "Score by iteration"):
    assert title in page
  before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/metrics.jsonl")}
  again = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
  assert again.returncode == 0 and again.stdout in done.stdout
  assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/metrics.jsonl")} == before
  other = subprocess.run([*command, "--config.factors=(0.5,)"], cwd=ROOT, env=os.environ,
                         capture_output=True, text=True)  # fmt: skip
  assert other.returncode == 1 and "Nothing was started: the config differs" in other.stderr
