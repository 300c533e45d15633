"""A scorecard for people: a table for the terminal, and a page that stands alone."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from swirl_jax import charts
from swirl_jax.charts import Line
from swirl_jax.evaluation.pictures import PSNR_CAP

FWM, IDM, GREY = "#3366d6", "#d9691e", "#98a1b3"
_NONE: Mapping[str, Any] = {}
_HUNDREDS = ("bleu", "chrf", "sentence_bleu", "sentence_chrf", "rouge_l", "bert_score")
# Score → what it is called, in the order in which they are shown.
FORWARD = {
  "exact": "exact match, greedy",
  "changed_exact": "exact where x and y differ",
  "sampled_exact": "exact match, sampled",
  "sampled_changed_exact": "exact where they differ, sampled",
  "complete": "ended within the length",
  "changed_accuracy": "changed places right",
  "unchanged_accuracy": "unchanged places right",
  "new_words": "new words had",
  "kept_words": "kept words had",
  "gone_words": "gone words left out",
  "spurious_words": "words that y has not",
  "bleu": "BLEU",
  "sentence_bleu": "BLEU, mean by text",
  "chrf": "chrF",
  "sentence_chrf": "chrF, mean by text",
  "rouge_l": "ROUGE-L",
  "bert_score": "BERTScore",
  "logp_token": "log p per token",
  "logp_sequence": "log p per state",
}
# Where a state is an image's codes, a place is a patch.
PATCHES = {"changed_accuracy": "changed patches right",
           "unchanged_accuracy": "unchanged patches right"}  # fmt: skip
PICTURES = {
  "psnr": "PSNR, dB",
  "ssim": "SSIM",
  "lpips": "LPIPS (less is better)",
  "clip": "CLIP similarity",
  "clip_direction": "CLIP direction",
  "clip_text_direction": "CLIP direction, captions",
}
INVERSE = {
  "match": "match by meaning, greedy",
  "phrase_match": "same words, greedy",
  "sampled_match": "match by meaning, sampled",
  "sentence_bleu": "BLEU, mean by text",
  "chrf": "chrF",
  "rouge_l": "ROUGE-L",
  "logp_token": "log q per token",
  "logp_sequence": "log q per action",
}
CHOICES = {"states": "FWM, choice of a state", "actions": "FWM and IDM, choice of actions"}
CHOSEN = {
  "fwm": "log P of y",
  "fwm_mean": "log P, per token",
  "fwm_sum": "log P",
  "idm_mean": "log Q, per token",
  "idm_sum": "log Q",
}
KINDS = {
  "unchanged": "x itself",
  "level": "a y of another episode",
  "episode": "the nearest y of the episode",
}
LATENTS = {
  "known": "phrases that mean something",
  "length": "words a phrase",
  "length_reference": "… in the data",
  "naturalness": "perplexity / that of true actions",
  "perplexity": "perplexity to the warm IDM",
  "perplexity_reference": "… of true actions",
  "unique": "distinct / all phrases",
  "unique_reference": "… in the data",
  "phrases": "distinct phrases",
  "meanings": "distinct meanings",
  "effective_actions": "effective actions, 16 pairs",
  "action_information": "information, nats, 16 pairs",
}


def number(value: float | None) -> str:
  if value is None:
    return "–"
  if isinstance(value, int):
    return str(value)
  return f"{value:.3f}" if abs(value) < 10_000 else f"{value:.2e}"


def between(score: Mapping[str, float | None]) -> str:
  return "" if score["value"] is None else f"{number(score['low'])} – {number(score['high'])}"


def _scale(name: str) -> float | None:
  """What a full bar stands for; None for what is no share."""
  if name in _HUNDREDS:
    return 100.0
  return None if name.startswith(("logp", "psnr", "lpips", "clip_")) else 1.0


def rows(card: Mapping[str, Any]) -> list[tuple[str, list[tuple]]]:
  """[(heading, [(title, score or number, its scale or None, the same of repeating x or None)])]."""
  drawn, titles = card["pictures"], FORWARD
  if card["places"] == "patches":
    titles = FORWARD | PATCHES
  told = [
    (f"{title}, {name} per token" if name == "mean" else f"{title}, {name}", kind[name], 1.0, None)
    for key, title in KINDS.items()
    for kind in [card["discedit"][key]]
    for name in ("mean", "sum")
  ]
  return [
    ("FWM, one step", _named(titles, card["fwm"], card["repeating_x"])),
    *([] if drawn is None else _pictures(drawn)),
    ("FWM, DiscEdit: the truth is likelier than …", told),
    ("FWM, verified by the IDM", _verified(card, titles)),
    *_chosen(card["candidates"] or {}),
    ("IDM, one step", _named(INVERSE, card["idm"])),
    ("Latent actions", [(t, card["latents"][k], 1.0 if k == "known" else None, None)
                        for k, t in LATENTS.items()]),
  ]  # fmt: skip


def _named(titles: Mapping[str, str], scores: Mapping[str, Any], same: Mapping[str, Any] = _NONE):
  return [(t, scores[k], _scale(k), same.get(k)) for k, t in titles.items() if k in scores]


def _pictures(drawn: Mapping[str, Any]) -> list[tuple[str, list[tuple]]]:
  """Overall, by level and by turn."""
  found = [("FWM, pictures", _named(PICTURES, drawn["fwm"], drawn["repeating_x"]))]
  for name, level in drawn["by_level"].items():
    heading = f"FWM, pictures of {name}: {level['count']}"
    found.append((heading, _named(PATCHES | PICTURES, level["scores"], level["repeating_x"])))
  turns = drawn["turns"]
  for t in range(len(turns["psnr"])):
    mine, kept = ({k: turns[k + end][t] for k in PICTURES if k in turns} for end in ("", "_kept"))
    found.append((f"FWM, pictures at turn {t + 1}", _named(PICTURES, mine, kept)))
  return found


def _chosen(found: Mapping[str, Any]) -> list[tuple[str, list[tuple]]]:
  """Choices among candidates, overall and by task."""
  told = []
  for kind, parts in found.items():
    for task, part in {"": parts["all"], **parts["by_task"]}.items():
      heading = f"{CHOICES[kind]}{f', {task}' * bool(task)}: {part['count']}"
      titles = {
        k: f"{CHOSEN[k]} ({one['count']}, chance {number(one['chance'])})"
        for k, one in part["scores"].items()
      }
      told.append((heading, _named(titles, part["scores"])))
  return told


def _verified(card: Mapping[str, Any], titles: Mapping[str, str]) -> list[tuple]:
  """What the IDM picks of n samples; of one sample it picks nothing."""
  found, names = card["verification"], {**PICTURES, **titles, "exact": "exact"}
  told = [("exact, mean over samples", found["single"], 1.0, None)]
  for n, scores in found["picks"].items():
    if card["pictures"] is not None:
      scores = scores | card["pictures"]["verification"][n]
    how = f"best of {n}" if n != "1" else "one sample"
    told += [(f"{names[k]}, {how}", score, _scale(k), None) for k, score in scores.items()]
  return [*told, ("exact, one of all is right", found["pass"], 1.0, None)]


def table(result: Mapping[str, Any]) -> str:
  """The scores as plain text, at most 100 columns but for long names of levels and actions."""
  card, lines = result["scores"], [_about(result), ""]
  for heading, found in rows(card):
    compared = any(same is not None for *_, same in found)
    lines.append(f"{heading:<48} {'score':>9}  {'95% interval':<20}")
    lines[-1] = lines[-1].rstrip() if not compared else f"{lines[-1]} repeating x"
    for title, score, _, same in found:
      value, interval = _parts(score)
      more = "" if same is None else f" {number(same['value']):>11}"
      lines.append(f"  {title:<46} {value:>9}  {interval:<20}{more}".rstrip())
    lines.append("")
  turns, place = card["turns"], card["places"]
  if turns["exact"]:
    lines.append(f"{'FWM, turn by turn':<18} {'exact':>7}  {'95% interval':<16} {place:>7}  "
                 f"{'95% interval':<16} {'kept x':>7}")  # fmt: skip
    for t, (exact, words, kept) in enumerate(
      zip(turns["exact"], turns["words"], turns["words_kept"], strict=True), 1
    ):
      lines.append(f"  turn {t:<11} {number(exact['value']):>7}  {between(exact):<16} "
                   f"{number(words['value']):>7}  {between(words):<16} "
                   f"{number(kept['value']):>7}")  # fmt: skip
    lines.append("")
  for key, heading in (("by_level", "By level"), ("by_action", "By action")):
    width = max([22, *map(len, card[key])])
    lines.append(f"{heading:<{width + 2}} {'n':>6}  {'FWM':>7}  {'95% interval':<16} {'IDM':>7}  "
                 f"{'95% interval':<16}".rstrip())  # fmt: skip
    for name, one in card[key].items():
      exact, match = one["exact"], one["match"]
      lines.append(f"  {name:<{width}} {one['count']:>6}  {number(exact['value']):>7}  "
                   f"{between(exact):<16} {number(match['value']):>7}  "
                   f"{between(match):<16}".rstrip())  # fmt: skip
    lines.append("")
  return "\n".join(lines).rstrip()


def _parts(score) -> tuple[str, str]:
  if isinstance(score, Mapping):
    return number(score["value"]), between(score)
  return number(score), ""


def _about(result: Mapping[str, Any]) -> str:
  c = result["scores"]["counts"]
  return (
    f"{result['world']}, split {result['split']}, {result['model']} models "
    f"({', '.join(dict.fromkeys(result['models'].values()))}): {c['transitions']} transitions of "
    f"{c['episodes']} episodes, {c['levels']} kinds of level; 95% intervals over episodes"
  )


# -- the page ------------------------------------------------------------------------------------


def page(result: Mapping[str, Any], shown: str = "") -> str:
  """The same with charts, without scripts or network; shown: a section more, as HTML."""
  card = result["scores"]
  place = card["places"]
  how = (
    "New, kept and gone words are found by aligning y with x; changed and unchanged places by "
    "position. Overlap is out of 100."
    if place == "words"
    else "A patch is right where its code is."
  )
  notes = {
    "FWM, one step": f"Grey: what repeating x would score. {how}",
    "FWM, pictures": "The prediction's codes decoded, against the true codes decoded: what the "
    "tokenizer itself loses of a picture isn't counted. Means over pictures; a PSNR above "
    f"{PSNR_CAP:g} dB (equal pictures have no finite one) counts as {PSNR_CAP:g}.",
    "FWM, verified by the IDM": "Of n samples of the next state under the true action, the one "
    "under which the IDM finds that action likeliest.",
    "FWM, DiscEdit: the truth is likelier than …": "Share of transitions in which the FWM finds "
    "the true y likelier than a wrong one. 0.5 is chance.",
    "Latent actions": "What the IDM says of the split's pairs, one sample each.",
  }
  sections = {
    heading: section(heading, notes.get(heading, ""),
                      _rows_table(found, FWM if "FWM" in heading else IDM))
    for heading, found in rows(card)
  }  # fmt: skip
  forward = [section for heading, section in sections.items() if heading.startswith("FWM")]
  others = [section for heading, section in sections.items() if not heading.startswith("FWM")]
  parts = [*forward, shown, _turns(card["turns"], place), *others, _classes(card["latents"]),
           _groups(card), _details(result)]  # fmt: skip
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f"<title>{escape(result['world'])}: {escape(result['split'])}</title>"
    f"<style>{charts.STYLE}</style>"
    f"</head><body><main><h1><b>{escape(result['world'])}</b>, {escape(result['split'])}</h1>"
    f'<p class="note">{escape(_about(result))}.</p>' + "".join(parts) + "</main></body></html>\n"
  )


def escape(words: Any) -> str:
  return html.escape(str(words))


def section(title: str, note: str, *body: str) -> str:
  words = f'<p class="note">{escape(note)}</p>' if note else ""
  return f"<section><h2>{escape(title)}</h2>{words}{''.join(body)}</section>"


def _bar(score: Any, scale: float | None, color: str) -> str:
  if scale is None or not isinstance(score, Mapping) or score["value"] is None:
    return ""
  return charts.whisker(*(score[k] / scale for k in ("value", "low", "high")), color)


def html_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
  top = "".join(f"<th>{cell}</th>" for cell in head)
  lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body)
  return f"<table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>"


def _rows_table(found: Sequence[tuple], color: str) -> str:
  compared = any(same is not None for *_, same in found)
  head = ["", "score", charts.scale(), "95%", *["repeating x"] * compared]
  body = []
  for title, score, scale, same in found:
    value, interval = _parts(score)
    row = [escape(title), value, _bar(score, scale, color), interval]
    if compared:
      grey = "" if same is None else f"{_bar(same, scale, GREY)} {number(same['value'])}"
      row.append(grey)
    body.append(row)
  return html_table(head, body)


def _turns(turns: Mapping[str, Sequence[Mapping]], place: str) -> str:
  if not turns["exact"]:
    return ""
  places = list(range(len(turns["exact"])))
  shape = {"names": [str(t + 1) for t in places], "x_label": "turn", "y_range": (0.0, 1.0)}

  def line(name, key, color, **style):
    values = {k: [s[k] for s in turns[key]] for k in ("value", "low", "high")}
    return Line(name, places, values["value"], color, points=not style, low=values["low"],
                high=values["high"], **style)  # fmt: skip

  kept = line("x kept for ever", "words_kept", GREY, dash=True)
  drawn = (("Exact match", [line("exact", "exact", FWM)]),
           (f"Right {place}", [line(place, "words", FWM), kept]))  # fmt: skip
  body = "".join(
    f"<div><h3>{title}</h3>{charts.legend([(x.name, x.color, x.dash) for x in lines])}"
    f"{charts.line_chart(lines, **shape)}</div>"
    for title, lines in drawn
  )
  note = "The FWM goes on from its own predictions, under the true actions. Bands: 95%."
  return section("Several turns", note, f'<div class="grid two">{body}</div>')


def _classes(latents: Mapping[str, Any]) -> str:
  shares = (latents["classes_reference"], latents["classes"])
  names = sorted({n for share in shares for n in share}, key=lambda n: (n[0] == "(", n))
  bars = charts.bars([(n, [s.get(n, 0.0) for s in shares]) for n in names], (GREY, IDM), width=1040)
  legend = charts.legend([("in the data", GREY, False), ("the IDM's", IDM, False)])
  return section("Kinds of action", "By the first word of their meaning.", legend, bars)


def _groups(card: Mapping[str, Any]) -> str:
  parts = []
  for key, title in (("by_level", "By level"), ("by_action", "By action")):
    head = ["", "transitions", "episodes", "FWM exact", charts.scale(), "IDM match", charts.scale()]
    body = [
      [
        escape(name), str(one["count"]), str(one["episodes"]),
        number(one["exact"]["value"]), _bar(one["exact"], 1.0, FWM),
        number(one["match"]["value"]), _bar(one["match"], 1.0, IDM),
      ]
      for name, one in card[key].items()
    ]  # fmt: skip
    parts.append(section(title, "", html_table(head, body)))
  return "".join(parts)


def _details(result: Mapping[str, Any]) -> str:
  about = {k: v for k, v in result.items() if k != "scores"}
  return section(
    "How it was made", "", f"<pre>{escape(json.dumps(about, indent=2, ensure_ascii=False))}</pre>"
  )
