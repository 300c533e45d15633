"""report.html: a run in one self-contained page, without scripts or network.

What a run has not reached yet is left out and named, so the page can be made at any time.
"""

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence

from swirl_jax import charts, findings, pages
from swirl_jax.charts import Line
from swirl_jax.findings import RunFolder
from swirl_jax.pages import absent, chart, escape, grid, section, table
from swirl_jax.whole_files import replacing

FWM, IDM = "#3366d6", "#d9691e"
WARM, SWIRL = "#98a1b3", "#6a3fd1"
RIVALS = (  # in turn
  "#5d6b82", "#d39b1c", "#2a9d8f", "#c8553d", "#4f772d", "#b5179e", "#0077b6", "#8d5524", "#e07a9b",
  "#1b4332", "#00a5cf", "#a3b18a",
)  # fmt: skip
PALE = {"phase1": ("#a9bff0", FWM), "phase2": ("#f2bf9b", IDM)}  # first and last iteration
SMOOTH = 9  # steps
SHOWN = {"gallery": 12, "chains": 3, "latents": 12}


def write(workdir, world) -> str:
  """Writes `report.html` into the work directory and returns the table for the terminal."""
  run = findings.read(workdir)
  picture = functools.cache(lambda state, marks=(): charts.png_uri(world.render(state, marks)))

  def draw(state: str, truth: str | None = None) -> str:
    """A state as a picture or as text; its differences from the truth, if given, are outlined."""
    marks = () if truth is None else world.differences(state, truth)
    if world.render is None:
      return _text(world.cells(state), marks)
    words = "" if world.codes else escape(state)  # codes tell nobody anything
    return f'<img alt="{words}" src="{picture(state, marks)}">'

  path = pathlib.Path(workdir) / "report.html"
  with replacing(path) as temporary:
    temporary.write_text(page(run, draw), encoding="utf-8")
  return f"{findings.terminal(run)}\n\nReport: {path}"


def page(run: RunFolder, draw) -> str:
  """The whole page."""
  parts = [
    _header(run), _tiles(run), _methods(run), _scores(run), _rewards(run), _diagnostics(run),
    _gallery(run, draw), _turns(run, draw), _latents(run, draw), _details(run),
  ]  # fmt: skip
  return pages.document(f"SWIRL: {_world(run)}", parts)


# -- small pieces --------------------------------------------------------------------------------


def _text(words: Sequence[str], marks: Sequence[int]) -> str:
  """Words with those at the positions in `marks` outlined; a missing word is an empty box."""
  padded = [*words, *[" "] * (max((*marks, -1)) + 1 - len(words))]
  shown = (f"<mark>{escape(w)}</mark>" if i in marks else escape(w) for i, w in enumerate(padded))
  return f'<p class="state">{" ".join(shown)}</p>'


def _world(run: RunFolder) -> str:
  found = run.config.get("world", {})
  return found.get("name", "a world") if isinstance(found, Mapping) else str(found)


# -- the sections --------------------------------------------------------------------------------


def _header(run: RunFolder) -> str:
  d = run.dataset
  splits, dropped = d.get("splits", {}), d.get("dropped", {})
  sizes = ", ".join(f"{escape(name)} {count:,}" for name, count in splits.items())
  data = f"Transitions: {sizes}. " if sizes else ""
  if "fwm_labels" in d:
    data += f"Labels: FWM {d['fwm_labels']:,}, IDM {d['idm_labels']:,}. "
  if dropped:
    lost = ", ".join(f"{escape(k)} {v:,}" for k, v in dropped.items())
    met = "prompt" if run.config.get("world", {}).get("met") == "prompt" else "x or y"
    data += f"Dropped, because training had met their {met}: {lost}."
  lacking = findings.absent(run)
  missing = absent("Not there (yet): " + ", ".join(lacking) + ".") if lacking else ""
  weights = {"shared": "one model plays both parts"}.get(
    run.config.get("weights", ""), "two models")
  return (
    f"<h1><b>SWIRL</b> on {escape(_world(run))}</h1>"
    '<p class="note">A forward world model (FWM: state and action → next state) and an inverse '
    f"one (IDM: two states → action in words), {weights}, each the other's reward on pairs of "
    f"states without actions (arXiv:2602.06130). {data}</p>{missing}"
  )


def _tiles(run: RunFolder) -> str:
  tiles = []
  for gauge in findings.regime(run):
    css = {True: "good", False: "bad", None: "plain"}[gauge.good]
    words = gauge.note if gauge.low is None else f"wanted {gauge.wanted}"
    if gauge.good is False:
      words = f"outside the regime, {gauge.wanted}"
    if gauge.value is None:
      css, words = "plain", "not measured yet"
    tiles.append(
      f'<div class="tile"><span>{escape(gauge.title)}</span><b>{findings.share(gauge.value)}</b>'
      f'<em class="badge {css}" style="font-style:normal">{escape(words)}</em></div>'
    )
  found = {m.name: m.metrics["exact"] for m in findings.methods(run)}
  if "swirl" in found:
    before = f"from {found['warmup']:.3f} after the warm-up" if "warmup" in found else ""
    tiles.append(
      f'<div class="tile main"><span>SWIRL’s FWM, test exact match</span>'
      f"<b>{found['swirl']:.3f}</b><span>{before}</span></div>"
    )
  return f'<div class="grid tiles">{"".join(tiles)}</div>'


def _methods(run: RunFolder) -> str:
  found = findings.methods(run)
  note = (
    "Greedy exact match of the whole next state, with its 95% interval (bootstrap over episodes). "
    "“Changed” asks only for the words that differ between x and y. Updates are those of the FWM "
    "since the warm-up that all methods start from; time is that of the steps, compilation "
    f"included, and SWIRL’s covers both phases. {findings.ONE_RUN}"
  )
  if not found:
    return section("Methods", note, absent("No method has been tested yet."))
  rows, others = [], findings.further(found)
  colors = colors_of(run)
  for m in found:
    color, x = colors[m.name], m.metrics
    values = [findings.share(x.get(k)) for k in ("changed_exact", "sampled_exact")]
    between = f"{findings.share(x.get('exact_low'))} – {findings.share(x.get('exact_high'))}"
    line = charts.whisker(x["exact"], x["exact_low"], x["exact_high"], color)
    rows.append((m.name, [
      f'<i class="dot" style="background:{color}"></i>{escape(m.title)}',
      findings.share(x["exact"]), line, between, *values,
      *(findings.share(m.further.get(s)) for s in others), findings.share(m.idm),
      f"{m.updates:,}", findings.duration(m.seconds)]))  # fmt: skip
  head = ("method", "exact", charts.scale(), "95%", "changed", "sampled",
          *(findings.FURTHER[s] for s in others), "IDM", "updates", "time")  # fmt: skip
  verdicts = "".join(
    f'<li class="{v.outcome}">{escape(v.sentence())}</li>' for v in findings.versus(run)
  )
  verdicts = f'<ul class="verdicts">{verdicts}</ul>'
  return section("Does it help?", note, table(head, rows), verdicts)


def _scores(run: RunFolder) -> str:
  note = (
    "Both models after the warm-up and after each phase (I trains the FWM, II the IDM; the number "
    "is the iteration): greedy exact match of the FWM, match by meaning of the IDM. The paper’s "
    "Figure 2."
  )
  drawn = []
  for split in ("validation", "test"):
    names, scores = findings.by_phase(run, split)
    lines = []
    for model, title, color in (("fwm", "FWM, exact match", FWM), ("idm", "IDM, match", IDM)):
      there = [(i, v) for i, v in enumerate(scores[model]) if v is not None]
      x, y = [i for i, _ in there], [v for _, v in there]
      lines.append(Line(title, x, y, color, points=True))
    drawn.append(chart(split.capitalize(), lines, names=names, y_range=(0.0, 1.0)))
  return section("Scores by iteration", note, grid("two", drawn)) if any(drawn) else ""


def colors_of(run: RunFolder) -> dict[str, str]:
  """Method → its colour."""
  rivals = [name for name in findings.titles(run) if name not in ("warmup", "swirl")]
  own = {name: RIVALS[i % len(RIVALS)] for i, name in enumerate(rivals)}
  return {"warmup": WARM, **own, "swirl": SWIRL}


def _curves(run: RunFolder, metric: str, kind: str) -> list[Line]:
  """One line for each stage and iteration of a kind that has the metric, by step."""
  found: dict[tuple[str, str, int], list] = {}
  for row in run.steps:
    if row.get("kind") == kind and metric in row:
      found.setdefault((row["method"], row["stage"], row.get("iteration", 0)), []).append(row)
  lines, titles, colors = [], findings.titles(run), colors_of(run)
  for (method, stage, iteration), rows in found.items():
    shades, count = PALE.get(stage), max(i for _, s, i in found if s == stage)
    if shades:
      name = f"Phase {findings.PHASES[stage]}, iteration {iteration}"
      color = shades[-1] if iteration == count else shades[0]
    else:
      name = stage.replace("_", " ") if method == "warmup" else titles[method]
      name += f", iteration {iteration}" if count > 1 else ""
      color = {"warmup_idm": IDM, "warmup_fwm": FWM}.get(stage, colors[method])
    x, y = [r["step"] for r in rows], [r[metric] for r in rows]
    dash = kind != "sft" and method != "swirl"
    lines.append(Line(name, x, y, color, dash=dash, smooth=SMOOTH))
  return lines


def _rewards(run: RunFolder) -> str:
  note = (
    "Mean reward of the samples at each step: in Phase I the IDM’s log Q(z | x, ŷ), in Phase II "
    "the FWM’s log P(y | x, z). A reward that rises while the scores above fall would be a reward "
    "that is being gamed."
  )
  drawn = [
    chart("Phase I: the FWM learns", _curves(run, "reward", "phase1"), x_label="step"),
    chart("Phase II: the IDM learns", _curves(run, "reward", "phase2"), x_label="step"),
  ]  # fmt: skip
  body = grid("two", drawn) or absent("No phase has begun yet.")
  parted = "".join(f'<li class="behind">{escape(line)}</li>' for line in findings.gamed(run))
  return section("Rewards", note, body, f'<ul class="verdicts">{parted}</ul>' if parted else "")


def _diagnostics(run: RunFolder) -> str:
  small = {"height": 200, "width": 340, "key": False, "x_label": "step"}
  names = {"kl": "KL to the reference", "entropy": "entropy per token",
           "dead_groups": "groups without spread"}  # fmt: skip
  drawn = [
    chart(f"{title}: {words}", _curves(run, metric, kind), **small)
    for kind, title in findings.PHASES.items()
    for metric, words in names.items()
  ]
  supervised = [
    chart("FWM: −log p per token", _curves(run, "nll_y", "sft"), x_label="step"),
    chart("IDM: −log p per token", _curves(run, "nll_z", "sft"), x_label="step"),
  ]
  note = "Colours as above: phases of other methods are dashed. Pale lines are single steps."
  parts = [grid("three", drawn), grid("two", supervised)]
  return section("Inside the training", note, *parts) if any(parts) else ""


def _figure(image: str, caption: str) -> str:
  return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _gallery(run: RunFolder, draw) -> str:
  note = (
    "Test transitions: a state, the action in words, what the FWM predicts, what happened. "
    "What differs from the truth is outlined."
  )
  groups: dict[tuple, dict[str, str]] = {}
  for s in run.samples.get("gallery", ()):
    key = (s["x"], s["z"], s["truth"], s.get("split", ""))
    groups.setdefault(key, {})[s.get("method", "swirl")] = s["prediction"]
  if not groups:
    return section("Gallery", note, absent("The gallery is made when the run is over."))
  cards, titles = [], findings.titles(run)
  for (x, z, truth, _), predictions in list(groups.items())[: SHOWN["gallery"]]:
    wrong = any(p != truth for p in predictions.values())
    figures = [_figure(draw(x), "before")]
    for method, prediction in predictions.items():
      right = "✓" if prediction == truth else "✗"
      title = f"{titles[method]} {right}"
      figures.append(_figure(draw(prediction, truth), escape(title)))
    figures.append(_figure(draw(truth), "truth"))
    cards.append(
      f'<div class="card{" wrong" if wrong else ""}"><div class="words">“{escape(z)}”</div>'
      f'<div class="strip" style="margin-top:8px">{"".join(figures)}</div></div>'
    )
  return section("Gallery", note, f'<div class="grid cards">{"".join(cards)}</div>')


def _turns(run: RunFolder, draw) -> str:
  note = (
    "The FWM goes on from its own predictions, under the true actions. Exact match asks for the "
    "whole state; “parts” are the words of a state, or the patches of a picture: the share of "
    "right ones, beside what repeating the first state would reach."
  )
  exact, words, titles, colors = [], [], findings.titles(run), colors_of(run)
  for row in findings.rows(run, model="multi_turn"):
    m, color = row["metrics"], colors[row["method"]]
    if not m.get("exact"):
      continue
    turns, title = list(range(len(m["exact"]))), titles[row["method"]]
    band = {"low": m["exact_low"], "high": m["exact_high"]}
    exact.append(Line(title, turns, m["exact"], color, points=True, **band))
    words.append(Line(title, turns, m["cells"], color, points=True))
    kept = Line("first state kept", turns, m["kept_cells"], charts.MUTED, dash=True)
  if not exact and not run.samples.get("chains"):
    return section("Several turns", note, absent("Measured when the run is over."))
  names = [str(t + 1) for t in range(max((len(x.x) for x in exact), default=0))]
  shape = {"names": names, "x_label": "turn", "y_range": (0.0, 1.0)}
  drawn = [chart("Exact match by turn", exact, **shape),
           chart("Right parts by turn", [*words, kept] if words else [], **shape)]  # fmt: skip
  films = [_film(chain, draw) for chain in run.samples.get("chains", ())[: SHOWN["chains"]]]
  return section("Several turns", note, grid("two", drawn), *films)


def _film(chain: Sequence[Mapping[str, str]], draw) -> str:
  """The truth above what is predicted, turn by turn."""
  words = "".join(f'<td><span class="words">{escape(t["z"])}</span></td>' for t in chain)
  truth = "".join(f"<td>{draw(t['truth'])}</td>" for t in chain)
  guess = "".join(f"<td>{draw(t['prediction'], t['truth'])}</td>" for t in chain)
  first = draw(chain[0]["x"])
  return (
    f'<div class="film"><table><tr><td></td><td>start</td>{words}</tr>'
    f"<tr><td>truth</td><td>{first}</td>{truth}</tr>"
    f"<tr><td>predicted</td><td>{first}</td>{guess}</tr></table></div>"
  )


def _latents(run: RunFolder, draw) -> str:
  note = (
    "What the IDM calls what happened between two states, one sample a pair, beside the data’s own "
    "words for as many pairs. Unique: distinct phrases / phrases. Known: phrases that mean "
    "something in this world. Effective actions: the perplexity of the mean IDM over 16 pairs, 1 "
    "where it says the same of all. The paper’s Figure 6."
  )
  found = findings.rows(run, model="latents")
  if not found:
    return section("Latent actions", note, absent("The IDM has not been evaluated yet."))
  names = ("unique", "phrases", "length", "known", "meanings", "effective_actions", "logp_token")
  body = []
  for row in found:
    m = row["metrics"]
    phase = findings.PHASES.get(row["stage"])
    title = f"after Phase {phase}, iteration {row['iteration']}" if phase else "after the warm-up"
    body.append(("", [title, *(_number(m.get(name)) for name in names)]))
  m = found[-1]["metrics"]
  if "unique_reference" in m:
    own = {"unique": m["unique_reference"], "length": m["length_reference"]}
    body.append(("", ["in the data", *(_number(own.get(name)) for name in names)]))
  head = ("", "unique", "distinct phrases", "words", "known", "distinct meanings",
          "effective actions", "log q per token")  # fmt: skip
  titles, colors = ("in the data", "warm-up", "at the end"), (WARM, "#f2bf9b", IDM)
  shares = (m.get("classes_reference", {}), found[0]["metrics"]["classes"], m["classes"])
  kinds = sorted({name for share in shares for name in share}, key=lambda n: (n[0] == "(", n))
  bars = charts.bars([(k, [s.get(k, 0.0) for s in shares]) for k in kinds], colors, width=1040)
  legend = charts.legend([(t, c, False) for t, c in zip(titles, colors, strict=True)])
  head_of = "Kinds of action, by the first word of their meaning"
  chart = f'<h3 style="margin-top:20px">{head_of}</h3>{legend}{bars}'
  return section("Latent actions", note, table(head, body), chart, _examples(run, draw))


def _number(found: float | int | None) -> str:
  return str(found) if isinstance(found, int) else findings.share(found, 2)


def _examples(run: RunFolder, draw) -> str:
  """Pairs of states with what the IDM says of them."""
  cards = []
  for s in run.samples.get("latents", ())[: SHOWN["latents"]]:
    true = f'<div class="note">in the data: “{escape(s["true"])}”</div>' if s.get("true") else ""
    cards.append(
      f'<div class="card"><div class="strip">{_figure(draw(s["x"]), "x")}'
      f'{_figure(draw(s["y"]), "y")}</div><div class="words">“{escape(s["z"])}”</div>{true}</div>'
    )
  style = 'style="grid-template-columns:repeat(4,minmax(0,1fr))"'
  return f'<div class="grid cards" {style}>{"".join(cards)}</div>' if cards else ""


def _details(run: RunFolder) -> str:
  parts = (("Config", run.config), ("Data", run.dataset), ("Versions", run.versions))
  body = "".join(
    f"<details><summary>{name}</summary><pre>{escape(json.dumps(found, indent=2))}</pre></details>"
    for name, found in parts if found
  )  # fmt: skip
  return section("How it was made", "Everything that the run read and ran on.", body)
