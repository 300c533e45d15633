"""All methods of a world beside each other: tuned alike, then run over seeds, then counted.

One run of many stages holds every method, from the same warm models. The tuning runs, one for each
factor of all learning rates, have a seed of their own and are scored on validation alone; in the
other runs each method has the factor that was best for it there, and the test set is read at the
end. `docs/results.md` has the protocol.
"""

import copy
import dataclasses
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from swirl_jax import findings
from swirl_jax.evaluation import text
from swirl_jax.findings import RunFolder
from swirl_jax.plan import make_plan
from swirl_jax.settings import PHASES, from_config


@dataclasses.dataclass(frozen=True)
class Comparison:
  """run: the config of a run, whose `compare` names the methods beside SWIRL. seeds: of the runs
  that are tested; tuning_seed: of the one that chooses. factors: what every method's learning rates
  are multiplied by to tune it; one factor alone is taken as it is.
  """

  run: Mapping[str, Any]
  seeds: tuple[int, ...]
  tuning_seed: int
  factors: tuple[float, ...]

  def __post_init__(self):
    if not self.seeds or len(set(self.seeds)) != len(self.seeds):
      raise ValueError(f"seeds = {self.seeds}: allowed are one or more, each once.")
    if self.tuning_seed in self.seeds:
      raise ValueError(f"tuning_seed = {self.tuning_seed}: allowed is one that isn't in seeds.")
    if not self.factors or min(self.factors) <= 0 or len(set(self.factors)) != len(self.factors):
      raise ValueError(f"factors = {self.factors}: allowed are numbers above 0, each once.")
    if not from_config(self.run).swirl.iterations:
      raise ValueError("run.swirl.iterations = 0: allowed is a whole number from 1.")
    for seed in (*self.seeds, self.tuning_seed):
      make_plan(from_config({**self.run, "seed": seed}))  # refuses now what the runs would


# -- the configs of the runs ---------------------------------------------------------------------


def tuning_config(plan: Comparison, factor: float, data_dir: str) -> dict[str, Any]:
  """Every method with one factor, scored on validation alone."""
  factors = dict.fromkeys(("swirl", *plan.run["compare"]), factor)
  run = seed_config(plan, plan.tuning_seed, factors, data_dir)
  run["evaluation"]["splits"] = ["validation"]
  return run


def seed_config(
  plan: Comparison, seed: int, factors: Mapping[str, float], data_dir: str
) -> dict[str, Any]:
  """Every method with its factor (1 where it has none)."""
  run = copy.deepcopy(json.loads(json.dumps(dict(plan.run))))
  run["seed"], run["data"]["dir"] = seed, data_dir
  for name in run["compare"]:
    run["rivals"][name] = _scaled(run["rivals"][name], factors.get(name, 1.0))
  return run | _scaled({kind: run[kind] for kind in PHASES}, factors.get("swirl", 1.0))


def _scaled(method: Mapping[str, Any], factor: float) -> dict[str, Any]:
  method = copy.deepcopy(dict(method))
  for group in ("sft", *PHASES):
    if method.get(group):
      method[group]["optimizer"]["learning_rate"] *= factor
  return method


def steps(config: Mapping[str, Any]) -> int:
  """The most steps that a run of a config takes."""
  return sum(stage.steps for stage in make_plan(from_config(config)))


# -- what came out -------------------------------------------------------------------------------


def scores(tuning: Mapping[float, RunFolder]) -> dict[str, dict[float, float]]:
  """Method → factor → validation score (FWM: exact match; a method of the IDM alone: match), from
  factor → its tuning run.
  """
  found: dict[str, dict[float, float]] = {}
  for factor, run in tuning.items():
    for name in findings.titles(run):
      fwm, idm = (findings.last(run, model=m, split="validation", method=name)
                  for m in ("fwm", "idm"))  # fmt: skip
      score = findings.value(fwm, "exact") if fwm else findings.value(idm, "match")
      if score is not None and name != "warmup":
        found.setdefault(name, {})[factor] = score
  return found


def chosen(found: Mapping[str, Mapping[float, float]]) -> dict[str, float]:
  """Method → its best factor, the first of equals."""
  return {name: max(by_factor, key=by_factor.get) for name, by_factor in found.items()}


class Row(NamedTuple):
  """A method over the seeds. Shares from 0 to 1; None where it has none.

  exact: mean test exact match of the FWM, with its 95% interval (bootstrap over episodes, all
  seeds of an episode together). lead: SWIRL's exact minus this one's, with its paired interval.
  by_seed: exact of each seed. further: exact by further split. idm: mean test match. updates: of
  the FWM (with shared weights of both parts). samples: transitions that Phase I or supervised steps
  of its FWM rolled out or read as labels; those of Phase II and of warm-ups count for no method.
  cost: seconds of all its steps, each stage at its median, and of annotating pairs with actions.
  """

  name: str
  title: str
  exact: float | None
  interval: tuple[float, float] | None
  lead: tuple[float, float, float] | None
  by_seed: tuple[float, ...]
  further: Mapping[str, float]
  idm: float | None
  updates: int
  samples: int
  cost: float


def table(runs: Sequence[RunFolder]) -> list[Row]:
  """The methods that every run has tested, the test-time verification of the warm FWM among them,
  in the order of the config.
  """
  names = [(n, t, "fwm", "exact") for n, t in findings.titles(runs[0]).items()]
  best = findings.last(runs[0], model="best_of", split="test", method="warmup")
  if best:
    title = f"Warm-up, best of {best['metrics']['n']} by the IDM"
    names.insert(1, ("warmup", title, "best_of", "pick"))
  ours = _pooled(runs, "swirl", "fwm")
  return [row for name in names if (row := _row(runs, *name, ours)) is not None]


def _row(runs, name, title, model, metric, ours) -> Row | None:
  found = [findings.last(run, model=model, split="test", method=name) for run in runs]
  idm = [findings.last(run, model="idm", split="test", method=name) for run in runs]
  exact = interval = lead = None
  by_seed: tuple[float, ...] = ()
  if all(found):
    by_seed = tuple(row["metrics"][metric] for row in found)
    exact, pooled = statistics.mean(by_seed), _pooled(runs, name, model)
    interval = text.interval(pooled)
    if ours is not None and name != "swirl":
      lead = text.paired_interval(ours, pooled)
  elif not all(idm):
    return None
  further = {}
  for split in findings.FURTHER:
    values = [findings.value(findings.last(run, model=model, split=split, method=name), metric)
              for run in runs]  # fmt: skip
    if all(v is not None for v in values):
      further[split] = statistics.mean(values)
  match = statistics.mean(row["metrics"]["match"] for row in idm) if all(idm) else None
  verified = model == "best_of"
  return Row(
    name, title, exact, interval, lead, by_seed, further, None if verified else match,
    max((row.get("updates", 0) for row in found if row), default=0),
    _samples(runs[0], name), statistics.mean(0.0 if verified else cost(run, name) for run in runs),
  )  # fmt: skip


def _pooled(runs: Sequence[RunFolder], name: str, model: str) -> dict[str, list[int]] | None:
  """Right ones and transitions of each test episode, all runs together."""
  rows = [findings.last(run, model=model, split="test", method=name) for run in runs]
  if not all(rows):
    return None
  return {key: np.sum([row["by_episode"][key] for row in rows], 0).tolist()
          for key in ("correct", "size")}  # fmt: skip


def cost(run: RunFolder, name: str) -> float:
  """Seconds of a method's steps, each stage at its median step, which other work on the machine and
  compilation don't move; and the time that decoding an action for every pair took, where it trains
  on those. 0 for the warm-up, which all methods share.
  """
  by_stage: dict[tuple, list[float]] = {}
  annotating = 0.0
  for row in run.steps:
    if row.get("method") == name and name != "warmup":
      key = row["stage"], row["iteration"]
      by_stage.setdefault(key, []).append(row["perf"]["seconds"])
      annotating += row["perf"].get("annotating", 0.0)
  return annotating + sum(len(times) * statistics.median(times) for times in by_stage.values())


def _samples(run: RunFolder, name: str) -> int:
  """Transitions that Phase I or supervised steps of a method's FWM rolled out or read."""
  return max((x for x, _ in curve(run, name)), default=0)


def curve(run: RunFolder, name: str) -> list[tuple[int, float | None]]:
  """(transitions seen, validation score or None) after each step of a method's FWM."""
  per_step = batch_sizes(run.config, name)
  seen, found = 0, []
  for row in run.steps:
    size = per_step.get(row["kind"]) if row.get("method") == name else None
    if size:
      seen += size
      found.append((seen, row.get("validation")))
  return found


def batch_sizes(config: Mapping[str, Any], name: str) -> dict[str, int]:
  """Kind of stage → transitions that a step of a method's FWM rolls out or reads as labels."""
  method = config if name == "swirl" else config["rivals"].get(name, {})
  found = {}
  if method.get("phase1"):
    found["phase1"] = method["phase1"]["prompts"] + method["phase1"].get("anchor", 0)
  if method.get("sft") and method.get("model", "fwm") == "fwm":
    found["sft"] = method["sft"]["batch"]
  return found


def curves(runs: Sequence[RunFolder], name: str) -> tuple[list[int], np.ndarray]:
  """Samples, and validation scores [runs, len(samples)], where every run was scored."""
  found = [{x: y for x, y in curve(run, name) if y is not None} for run in runs]
  places = sorted(set.intersection(*map(set, found))) if found else []
  return places, np.array([[scores[x] for x in places] for scores in found])


def by_iteration(runs: Sequence[RunFolder], name: str, model: str) -> np.ndarray:
  """Validation score after the warm-up, its own where it has one (shared weights), and after each
  iteration of a method. [runs, 1 + K]
  """
  metric, rows = {"fwm": "exact", "idm": "match"}[model], []
  where = {"model": model, "split": "validation"}
  for run in runs:
    own = findings.last(run, method=name, iteration=0, **where)
    first = findings.value(own or findings.last(run, method="warmup", **where), metric)
    mine = findings.rows(run, method=name, **where)
    last = {row["iteration"]: findings.value(row, metric) for row in mine if row["iteration"]}
    rows.append([first, *(last[i] for i in sorted(last))])
  return np.array(rows, float)


def markdown(rows: Sequence[Row], unit: str = "labels_only") -> str:
  """The table for docs: cost in units of the method `unit`, or in seconds without it."""
  base = next((row.cost for row in rows if row.name == unit), 0.0)
  splits = [s for s in findings.FURTHER if any(s in row.further for row in rows)]
  head = ["method", "test", "95% interval", "seeds", "SWIRL's lead (paired 95%)",
          *(findings.FURTHER[s] for s in splits), "IDM", "updates", "samples",
          "cost" if base else "seconds"]  # fmt: skip
  lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
  for row in rows:
    lead = "" if row.lead is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*row.lead)
    cells = [
      row.title, findings.share(row.exact),
      "" if row.interval is None else "–".join(findings.share(v) for v in row.interval),
      " ".join(findings.share(v) for v in row.by_seed), lead,
      *(findings.share(row.further.get(s)) for s in splits), findings.share(row.idm),
      f"{row.updates:,}", f"{row.samples:,}", f"{row.cost / (base or 1.0):.1f}",
    ]  # fmt: skip
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def folders(plan: Comparison, workdir: str) -> dict[int, pathlib.Path]:
  """Seed → the folder of its run."""
  return {seed: pathlib.Path(workdir) / f"seed-{seed}" for seed in plan.seeds}


def tuning_folders(plan: Comparison, workdir: str) -> dict[float, pathlib.Path]:
  """Factor → the folder of its tuning run; none where there is nothing to choose."""
  if len(plan.factors) == 1:
    return {}
  return {factor: pathlib.Path(workdir) / f"tuning-{factor:g}" for factor in plan.factors}
