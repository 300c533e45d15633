"""What a run's folder says: the regime, the methods beside each other, and who is ahead of whom.

Reads files alone, and works on a run that is still going: what is not there yet is None or left
out, and named in `missing`.
"""

import dataclasses
import json
import pathlib
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from swirl_jax import metrics
from swirl_jax.evaluation import text

FURTHER = {"heldout": "held-out level", "failing": "failing actions"}  # split → its column
PHASES = {"phase1": "I", "phase2": "II"}
FILES = ("config.json", "versions.json", "dataset.json", "samples.json")
LOGS = ("metrics.jsonl", "evaluations.jsonl")
ONE_RUN = (
  "The intervals are over the test transitions of this one run. Training's own chance is not in "
  "them: another seed, machine or build can move what was trained by more."
)


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """The parsed files of a work directory; an empty object or list where one is missing."""

  config: Mapping[str, Any]
  versions: Mapping[str, Any]
  dataset: Mapping[str, Any]
  samples: Mapping[str, Any]
  steps: Sequence[Mapping[str, Any]]
  evaluations: Sequence[Mapping[str, Any]]
  missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Method:
  """One line of the table. further: exact match on the other splits of `FURTHER`; idm: the IDM's
  match where the method trains one. Shares 0 to 1.
  """

  name: str
  title: str
  metrics: Mapping[str, Any]
  by_episode: Mapping[str, Any] | None
  further: Mapping[str, float]
  idm: float | None
  updates: int
  seconds: float


@dataclasses.dataclass(frozen=True)
class Versus:
  """SWIRL against a method: the difference in exact match, its paired interval (or None, where the
  rows do not hold the same episodes), and the outcome: "ahead", "behind" or "unclear"."""

  method: Method
  difference: float
  interval: tuple[float, float] | None
  outcome: str

  def sentence(self) -> str:
    points = f"{abs(100 * self.difference):.1f} points"
    if self.interval:
      low, high = sorted(100 * v for v in self.interval)
      sure = f"paired 95% interval of SWIRL's lead: {low:+.1f} to {high:+.1f}"
    else:
      sure = "no paired interval; judged by whether the two intervals overlap"
    title = self.method.title
    if self.outcome == "ahead":
      return f"SWIRL is ahead of {title} by {points} ({sure})."
    if self.outcome == "behind":
      return f"{title} beats SWIRL by {points} ({sure})."
    if not self.difference:
      return f"SWIRL is level with {title} ({sure})."
    more = "above" if self.difference > 0 else "below"
    return f"SWIRL is {points} {more} {title}, which is within the noise ({sure})."


@dataclasses.dataclass(frozen=True)
class Gauge:
  """A number of the regime, the range that it should lie in (None: any; above: it must be
  more than `low`), and what else to know.
  """

  title: str
  value: float | None
  low: float | None = None
  high: float | None = None
  above: bool = False
  note: str = ""

  @property
  def good(self) -> bool | None:
    if self.value is None or self.low is None:
      return None
    enough = self.value > self.low if self.above else self.value >= self.low
    return enough and (self.high is None or self.value <= self.high)

  @property
  def wanted(self) -> str:
    if self.low is None:
      return self.note
    least = f"{'>' if self.above else '≥'} {self.low:.2f}"
    found = least if self.high is None else f"{self.low:.2f}–{self.high:.2f}"
    return f"{found} ({self.note})" if self.note else found


def read(workdir) -> RunFolder:
  """The work directory as it stands; a torn last line is passed over."""
  folder = pathlib.Path(workdir)
  parsed = [_json(folder / name) for name in FILES]
  logs = [metrics.read_rows(folder / name) for name in LOGS]
  missing = [name for name, value in zip(FILES + LOGS, parsed + logs, strict=True) if not value]
  return RunFolder(*(p if isinstance(p, dict) else {} for p in parsed), *logs, tuple(missing))


def _json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}


def rows(run: RunFolder, **where) -> list[Mapping[str, Any]]:
  """Evaluation rows whose fields are as given, in the order they were written."""
  return [r for r in run.evaluations if all(r.get(k) == v for k, v in where.items())]


def last(run: RunFolder, **where) -> Mapping[str, Any] | None:
  found = rows(run, **where)
  return found[-1] if found else None


def value(row: Mapping[str, Any] | None, name: str) -> float | None:
  return None if row is None else row.get("metrics", {}).get(name)


def titles(run: RunFolder) -> dict[str, str]:
  """Method → what tables call it, in their order: the warm-up, the rivals of the run, SWIRL. A
  method that the config doesn't know goes by its name. Without a step of a phase there is no
  SWIRL, and no rival that has as many updates.
  """
  rivals, compare = (run.config.get(name, ()) for name in ("rivals", "compare"))
  ours = _alternates(run.config)
  own = {name: rivals[name]["title"] for name in compare if ours or _has_steps(rivals[name])}
  logged = {row["method"]: row["method"] for row in (*run.steps, *run.evaluations)}
  first = {"warmup": "Warm-up"}
  found = {**first, **logged, **own, **first}
  ours |= found.pop("swirl", None) is not None
  return found | ({"swirl": "SWIRL"} if ours else {})


def _alternates(config: Mapping[str, Any]) -> bool:
  swirl = config.get("swirl", {})
  steps = [config.get(kind, {}).get("steps", 1) for kind in swirl.get("order", PHASES)]
  return swirl.get("iterations", 1) > 0 and any(steps)


def _has_steps(rival: Mapping[str, Any]) -> bool:
  return any((rival.get(part) or {}).get("steps") for part in ("sft", *PHASES))


def seconds(run: RunFolder, method: str) -> float:
  """Wall seconds of a method's steps, compilation included, and of annotating pairs with actions;
  evaluation is not.
  """
  mine = [r.get("perf", {}) for r in run.steps if r.get("method") == method]
  return float(sum(perf.get("seconds", 0.0) + perf.get("annotating", 0.0) for perf in mine))


def methods(run: RunFolder, split: str = "test") -> list[Method]:
  """The methods whose FWM has been scored on the split, in the table's order."""
  found = []
  for name, title in titles(run).items():
    row = last(run, model="fwm", split=split, method=name)
    if row is None:
      continue
    found.append(Method(
      name, title, row["metrics"], row.get("by_episode"),
      {s: score for s in FURTHER
       if (score := value(last(run, model="fwm", split=s, method=name), "exact")) is not None},
      value(last(run, model="idm", split=split, method=name), "match"),
      int(row.get("updates", 0)), seconds(run, name)))  # fmt: skip
  return found


def judges(run: RunFolder, split: str = "test") -> dict[str, float]:
  """Title → match of its IDM, of the methods that train one."""
  found = {title: value(last(run, model="idm", split=split, method=name), "match")
           for name, title in titles(run).items()}  # fmt: skip
  return {title: match for title, match in found.items() if match is not None}


def further(found: Sequence[Method]) -> list[str]:
  """The splits beside test that the table has a column for: not every world has them."""
  return [split for split in FURTHER if any(split in m.further for m in found)]


def absent(run: RunFolder) -> list[str]:
  """What a finished run would have and this one has not: files, and methods without a test."""
  there = {row.get("method") for row in rows(run, split="test")}
  untested = [title for name, title in titles(run).items() if name not in there]
  return [*run.missing, *(f"the test of “{title}”" for title in untested)]


def versus(run: RunFolder) -> list[Versus]:
  """SWIRL against every other method on the test split."""
  found = {m.name: m for m in methods(run)}
  ours = found.pop("swirl", None)
  return [_versus(ours, theirs) for theirs in found.values()] if ours else []


def _versus(ours: Method, theirs: Method) -> Versus:
  difference = ours.metrics["exact"] - theirs.metrics["exact"]
  a, b = ours.by_episode, theirs.by_episode
  if a and b and a["size"] == b["size"]:
    difference, low, high = text.paired_interval(a, b)
    ahead, behind, found = low > 0, high < 0, (low, high)
  else:
    ahead = ours.metrics["exact_low"] > theirs.metrics["exact_high"]
    behind = ours.metrics["exact_high"] < theirs.metrics["exact_low"]
    found = None
  outcome = "ahead" if ahead else "behind" if behind else "unclear"
  return Versus(theirs, difference, found, outcome)


def gamed(run: RunFolder) -> list[str]:
  """The phases in which the reward rose and the score on validation fell: the two have parted."""
  found, before = [], {}
  for row in rows(run, split="validation"):
    model, metric = row.get("model"), {"fwm": "exact", "idm": "match"}.get(row.get("model"))
    if metric is None or row.get("method") not in ("warmup", "swirl"):
      continue
    now, was = value(row, metric), before.get(model)
    before[model] = now
    stage, iteration = row["stage"], row["iteration"]
    curve = [r["reward"] for r in run.steps if r.get("reward") is not None
             and (r["stage"], r.get("iteration")) == (stage, iteration)]  # fmt: skip
    part = max(1, len(curve) // 5)
    first, final = (sum(c) / part for c in (curve[:part], curve[-part:]))
    if was is not None and curve and now < was and final > first:
      phase = f"Phase {PHASES.get(stage, stage)}, iteration {iteration}"
      found.append(
        f"{phase}: the reward rose ({first:.2f} to {final:.2f}) while the {model.upper()}’s score "
        f"on validation fell ({was:.3f} to {now:.3f})."
      )
  return found


def regime(*runs: RunFolder) -> list[Gauge]:
  """Is there room to improve, and a judge to improve by? On validation, before SWIRL begins; the
  mean of the runs that have a number. An IDM can name actions and still not tell a right next
  state from a wrong one: then its choice is no better than one sample, which half of all guessing
  ones are by luck. So the choice must be above a sample by more than the paired 95% interval.
  """

  def mean(model: str, metric: str) -> float | None:
    rows = (last(run, model=model, split="validation", method="warmup") for run in runs)
    found = [v for row in rows if (v := value(row, metric)) is not None]
    return statistics.mean(found) if found else None

  n, one, some, pick = (mean("best_of", name) for name in ("n", "single", "pass", "pick"))
  lead = _choice(runs)
  return [
    Gauge("Warm FWM, changed content", mean("fwm", "changed_exact"), 0.30, 0.75),
    Gauge("Warm IDM, by meaning", mean("idm", "match"), 0.70),
    Gauge(f"IDM's best of {8 if n is None else n}, whole state", pick,
          None if lead is None else pick - lead[1], above=True,
          note=f"one sample {share(one)}, any {share(some)}"),
  ]


def _choice(runs: Sequence[RunFolder]) -> tuple[float, float, float] | None:
  """The IDM's choice minus the mean sample it chose from, and its paired interval; all runs."""
  rows = [last(r, model="best_of", split="validation", method="warmup") for r in runs]
  rows = [row for row in rows if row is not None and "single" in row.get("by_episode", {})]
  if not rows:
    return None
  n = rows[0]["metrics"]["n"]
  pick, size, single = (
    [sum(counts) for counts in zip(*(row["by_episode"][name] for row in rows), strict=True)]
    for name in ("correct", "size", "single")
  )
  size = [n * count for count in size]
  picked = {"correct": [n * count for count in pick], "size": size}
  return text.paired_interval(picked, {"correct": single, "size": size})


def by_phase(run: RunFolder, split: str) -> tuple[list[str], dict[str, list[float | None]]]:
  """Both models' scores after the warm-up and every phase: (names of the places, {model: …})."""
  names: list[str] = []
  scores: dict[str, dict[str, float]] = {"fwm": {}, "idm": {}}
  for row in run.evaluations:
    if row.get("method") not in ("warmup", "swirl") or row.get("model") not in scores:
      continue
    if row["method"] == "warmup":
      place = "warm-up"
    else:
      place = f"{PHASES.get(row['stage'], row['stage'])} · {row['iteration']}"
    if place not in names:
      names.append(place)
    if row.get("split") == split:
      metric = "exact" if row["model"] == "fwm" else "match"
      scores[row["model"]][place] = value(row, metric)
  return names, {m: [found.get(name) for name in names] for m, found in scores.items()}


def share(number: float | None, digits: int = 3) -> str:
  return "–" if number is None else f"{number:.{digits}f}"


def duration(total: float) -> str:
  return f"{total:.0f} s" if total < 600 else f"{total / 60:.0f} min"


def terminal(run: RunFolder) -> str:
  """The table that ends a run: plain text, at most 100 columns."""
  lines = ["Regime (validation)"]
  for gauge in regime(run):
    words = {True: f"in {gauge.wanted}", False: f"OUTSIDE {gauge.wanted}", None: gauge.note}
    lines.append(f"  {gauge.title:<32} {share(gauge.value):>6}  {words[gauge.good]}".rstrip())
  found = methods(run)
  lines += ["", "Test, greedy exact match of the FWM"]
  others = further(found)
  head = ("method", "exact", "95% interval", "changed", "sampled", *others, "updates",
          "time")  # fmt: skip
  form = "  {:<24} {:>6} {:>16}" + " {:>8}" * (len(head) - 3)
  lines.append(form.format(*head))
  for m in found:
    between = f"{share(m.metrics.get('exact_low'))} – {share(m.metrics.get('exact_high'))}"
    cells = (m.metrics.get(k) for k in ("exact", "changed_exact", "sampled_exact"))
    exact, changed, sampled = (share(c) for c in cells)
    lines.append(form.format(
      m.title, exact, between, changed, sampled, *(share(m.further.get(s)) for s in others),
      m.updates, duration(m.seconds)))  # fmt: skip
  if not found:
    lines.append("  no test yet")
  if idms := judges(run):
    lines.append("IDM, match by meaning: " + ", ".join(f"{t} {v:.3f}" for t, v in idms.items()))
  lines += ["", *(v.sentence() for v in versus(run)), *([ONE_RUN] if found else []), *gamed(run)]
  if absent(run):
    lines.append("Missing: " + ", ".join(absent(run)) + ".")
  return "\n".join(
    part for line in lines for part in ([line] if len(line) <= 100 else textwrap.wrap(line, 100))
  )
