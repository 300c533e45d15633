"""The page of a comparison: who is ahead, by how much, after how many samples, at what cost."""

import html
import json
from collections.abc import Mapping, Sequence

import numpy as np

from swirl_jax import charts, comparison, findings, report
from swirl_jax.charts import Line
from swirl_jax.comparison import Comparison, Row
from swirl_jax.findings import RunFolder
from swirl_jax.pages import absent, chart, document, escape, grid, section, table


def page(
  plan: Comparison, runs: Sequence[RunFolder], tuned: Mapping[str, Mapping[float, float]]
) -> str:
  """HTML that stands alone."""
  world, rows = plan.run["world"]["name"], comparison.table(runs)
  done = f"{len(runs)} of {len(plan.seeds)} seeds"
  parts = [
    f"<h1><b>SWIRL</b> and its rivals: {escape(world)}</h1><p class='note'>{done}. "
    "Every method starts from the same warm models; intervals are 95%.</p>",
    _regime(runs), _methods(rows, runs), _samples(runs, rows), _iterations(runs, rows),
    _tuning(plan, tuned, findings.titles(runs[0])), _details(runs),
  ]  # fmt: skip
  return document(f"SWIRL and its rivals: {world}", parts)


def _regime(runs: Sequence[RunFolder]) -> str:
  data = runs[0].dataset
  labels = f"{data.get('fwm_labels'):,} labels for the FWM, {data.get('idm_labels'):,} for the IDM"
  rows = [("", [escape(gauge.title), findings.share(gauge.value), escape(gauge.wanted)])
          for gauge in findings.regime(*runs)]  # fmt: skip
  note = f"{labels}. On validation, before SWIRL begins; mean over the seeds."
  return section("The regime", note, table(("", "found", "wanted"), rows))


def _methods(rows: Sequence[Row], runs: Sequence[RunFolder]) -> str:
  note = (
    "Test exact match of the FWM, greedy: mean over the seeds, bootstrap over episodes. The lead "
    "is SWIRL’s, paired. All have as many updates of a model as SWIRL; shared weights have those "
    "of both models. Samples are the transitions that Phase I or supervised steps rolled out or "
    "read as labels, Phase II’s for no method; cost is the time of all steps, each stage at its "
    "median, and of decoding pseudo-labels, in units of labels only."
  )
  base = next((row.cost for row in rows if row.name == "labels_only"), 0.0) or 1.0
  colors, body = report.colors_of(runs[0]), []
  splits = [s for s in findings.FURTHER if any(s in row.further for row in rows)]
  for row in rows:
    dot = f'<i class="dot" style="background:{colors[row.name]}"></i>{escape(row.title)}'
    exact, line, lead = findings.share(row.exact), "", ""
    if row.exact is not None:
      line = charts.whisker(row.exact, *row.interval, colors[row.name])
      exact += f"<br><small>{' – '.join(findings.share(v) for v in row.interval)}</small>"
    if row.lead is not None:
      lead = "{:+.3f}<br><small>{:+.3f} to {:+.3f}</small>".format(*row.lead)
    further = [findings.share(row.further.get(s)) for s in splits]
    body.append((row.name, [
      dot, exact, line, lead, *further, findings.share(row.idm),
      f"{row.samples:,}", f"{row.cost / base:.1f}"]))  # fmt: skip
  head = ("method", "exact", charts.scale(), "SWIRL’s lead",
          *(findings.FURTHER[s] for s in splits), "IDM", "samples", "cost")  # fmt: skip
  return section("Who is ahead?", note, table(head, body))


def _band(name: str, x: Sequence[float], values: np.ndarray, color: str) -> Line:
  """The mean over seeds, and from the least to the greatest of them."""
  low, high = (f(values, 0).tolist() if len(values) > 1 else () for f in (np.min, np.max))
  return Line(name, x, values.mean(0).tolist(), color, points=len(x) < 12, low=low, high=high)


def _samples(runs: Sequence[RunFolder], rows: Sequence[Row]) -> str:
  """The paper's Figure 3."""
  note = (
    "Validation exact match by the transitions that a method’s Phase I or supervised steps rolled "
    "out or read as labels; the band is from the lowest to the highest seed. The paper’s Figure 3."
  )
  colors, lines = report.colors_of(runs[0]), []
  for name, title in {row.name: row.title for row in rows[::-1]}.items():
    x, values = comparison.curves(runs, name)
    if x:
      lines.append(_band(title, x, values, colors[name]))
  drawn = chart("FWM", lines, x_label="transitions", width=1040, height=360, y_range=(0.0, 1.0))
  return section("Score by samples", note, drawn or absent("No method was scored on its way."))


def _iterations(runs: Sequence[RunFolder], rows: Sequence[Row]) -> str:
  """The paper's Figure 2."""
  note = "Validation score after the warm-up and after each iteration. The paper’s Figure 2."
  colors, drawn = report.colors_of(runs[0]), []
  for model, metric in (("fwm", "exact match"), ("idm", "match by meaning")):
    lines, most = [], 0
    for row in rows:
      values = comparison.by_iteration(runs, row.name, model)
      if values.shape[1] > 2:
        most = max(most, values.shape[1])
        x = list(range(values.shape[1]))
        lines.append(_band(row.title, x, values, colors[row.name]))
    names = ["warm-up", *map(str, range(1, most))]
    drawn.append(chart(f"{model.upper()}: {metric}", lines, names=names, y_range=(0.0, 1.0)))
  return section("Score by iteration", note, grid("two", drawn)) if any(drawn) else ""


def _tuning(
  plan: Comparison, tuned: Mapping[str, Mapping[float, float]], titles: Mapping[str, str]
) -> str:
  note = (
    f"Validation score with the learning rates multiplied by each factor, seed {plan.tuning_seed}; "
    "the best was taken for all seeds."
  )
  if not tuned:
    return section("Tuning", "The settings were taken as they are; no method was tuned.")
  best, body = comparison.chosen(tuned), []
  for name, found in tuned.items():
    scores = {factor: findings.share(found.get(factor)) for factor in plan.factors}
    cells = [f"<b>{v}</b>" if f == best[name] else v for f, v in scores.items()]
    body.append(("", [escape(titles[name]), *cells]))
  return section("Tuning", note, table(("method", *(f"× {f:g}" for f in plan.factors)), body))


def _details(runs: Sequence[RunFolder]) -> str:
  found = {"versions": runs[0].versions, "data": runs[0].dataset, "config": runs[0].config}
  text = html.escape(json.dumps(found, indent=1))
  return section("Details", "Of the first seed’s run.", f"<details><summary>config, data, versions"
                 f"</summary><pre>{text}</pre></details>")  # fmt: skip
