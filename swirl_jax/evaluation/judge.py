"""Another model's score of predictions, from any endpoint that speaks chat-completions.

    SWIRL_JUDGE_URL=http://localhost:8000/v1 SWIRL_JUDGE_MODEL=... \\
    python -m swirl_jax.evaluation.judge --predictions=FILE.jsonl --template=state --out=FOLDER

Reads x, z, y and prediction line by line, texts or pictures, and writes judged.jsonl and
summary.json: docs/judge.md.
"""

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags

from swirl_jax import files, metrics, whole_files
from swirl_jax.data.image_codes import is_code
from swirl_jax.data.transition_lines import Refused, stop
from swirl_jax.evaluation import judge_asking, judge_pictures, text
from swirl_jax.evaluation.judge_asking import (
  JUDGED,
  LEFT,
  UNJUDGED,
  Item,
  Judged,
  Outcome,
  Settings,
  judge,
)
from swirl_jax.evaluation.judge_client import Patience, from_environment
from swirl_jax.evaluation.judge_ledger import Budget
from swirl_jax.evaluation.judge_templates import TEMPLATES, Content, Template

FIELDS = ("x", "z", "y", "prediction")
ABOUT = ("episode", "level")  # may be missing


# -- the files -----------------------------------------------------------------------------------


def read_predictions(
  path: str | os.PathLike, template: Template, *, longest: int = judge_pictures.LONGEST
) -> list[Item]:
  """The lines of a file of predictions for a template, or a ValueError that names the first bad
  one; every picture has then been opened once (see `judge_pictures`, which has `longest`).

  A line without an episode is one of its own.
  """
  if longest < 2:
    raise ValueError(f"longest_side is {longest}, must be 2 pixels or more")
  items, errors, field = [], [], _Fields(Path(path).parent, template, longest)
  try:
    with open(path, "rb") as file:
      for number, raw in enumerate(file, start=1):
        try:
          items.append(_item(number, raw, field))
        except Refused as error:
          errors.append((number, str(error)))
  except OSError as error:
    raise ValueError(f"predictions = {str(path)!r}: {error.strerror}") from None
  stop(str(path), errors)
  if not items:
    raise ValueError(f"predictions = {str(path)!r}: the file is empty")
  return items


@dataclasses.dataclass(frozen=True)
class _Fields:
  """What a line may hold in the four fields."""

  folder: Path
  template: Template
  longest: int

  def __call__(self, name: str, line: Mapping[str, Any]) -> Content | None:
    if name not in line:
      if name in self.template.optional:
        return None
      raise Refused(f"{name} is missing, must be text or pictures")
    found = line[name]
    if isinstance(found, dict):
      try:
        return judge_pictures.named(found, self.folder, self.longest)
      except Refused as error:
        raise Refused(f"{name} is {_shown(found)}: {error}") from None
    if not isinstance(found, str):
      raise Refused(f"{name} is {_shown(found)}, must be text or pictures")
    words = found.split()
    if name != "prediction" and not words:
      raise Refused(f"{name} is {_shown(found)}, must be text with a word in it")
    if words and all(map(is_code, words)):
      raise Refused(f"{name} is {_shown(found)}, codes of a picture: it must be the picture itself")
    return found


def _item(number: int, raw: bytes, field: _Fields) -> Item:
  try:
    found = json.loads(raw.decode("utf-8"))
  except (ValueError, RecursionError) as error:
    raise Refused(f"the line must be one JSON object in UTF-8 ({error})") from None
  if not isinstance(found, dict):
    raise Refused(f"the line is {_shown(found)}, must be one JSON object")
  for name in found:
    if name not in FIELDS + ABOUT:
      raise Refused(f"a field is {_shown(name)}, must be one of {', '.join(FIELDS + ABOUT)}")
  fields = [field(name, found) for name in FIELDS]
  episode, level = found.get("episode", f"line {number}"), found.get("level", "all")
  if not isinstance(episode, str | int | float) or isinstance(episode, bool):
    raise Refused(f"episode is {_shown(episode)}, must be text or a number")
  if not isinstance(level, str):
    raise Refused(f"level is {_shown(level)}, must be text")
  return Item(*fields, episode=str(episode), level=level)


def _shown(found: Any) -> str:
  shown = repr(found)
  return shown if len(shown) <= 80 else shown[:77] + "..."


def summary(items: Sequence[Item], outcomes: Sequence[Outcome]) -> dict[str, Any]:
  """{"all": figures, "by_level": {level: figures}, "unjudged": {kind: line numbers}}.

  Figures: judged, unjudged, left, episodes (of the judged), and of the judged the mean score with
  its 95% interval over episodes (score, score_low, score_high; None where nothing is judged).
  """
  levels = sorted({item.level for item in items})
  pairs = list(zip(items, outcomes, strict=True))
  unjudged: dict[str, list[int]] = {}
  for line, outcome in enumerate(outcomes, start=1):
    if outcome.status == UNJUDGED:
      unjudged.setdefault(outcome.kind, []).append(line)
  return {
    "all": _figures(pairs),
    "by_level": {level: _figures([p for p in pairs if p[0].level == level]) for level in levels},
    "unjudged": unjudged,
  }


def _figures(pairs: Sequence[tuple[Item, Outcome]]) -> dict[str, Any]:
  judged = [(item.episode, o.score) for item, o in pairs if o.status == JUDGED]
  count = {s: sum(o.status == s for _, o in pairs) for s in (JUDGED, UNJUDGED, LEFT)}
  if not judged:
    return {**count, "episodes": 0} | dict.fromkeys(("score", "score_low", "score_high"))
  episodes, scores = zip(*judged, strict=True)
  found = text.ratio(scores, 1, episodes)
  names = {"value": "score", "low": "score_low", "high": "score_high"}
  return {**count, "episodes": len(set(episodes))} | {n: found[k] for k, n in names.items()}


def table(found: Mapping[str, Any]) -> str:
  """A summary as lines of text."""
  names = ("judged", "unjudged", "left", "episodes")
  rows = [("level", "score", "95% interval", *names)]
  levels = found["by_level"] if len(found["by_level"]) > 1 else {}
  for level, row in {"all": found["all"], **{f"  {k}": v for k, v in levels.items()}}.items():
    none = row["score"] is None
    mean = "-" if none else f"{row['score']:.2f}"
    interval = "-" if none else f"{row['score_low']:.2f} to {row['score_high']:.2f}"
    rows.append((level, mean, interval, *(str(row[name]) for name in names)))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join(
    "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
  )


def write(folder: str | os.PathLike, items: Sequence[Item], judged: Judged, told: dict) -> dict:
  """judged.jsonl, a line for each line of the predictions, and summary.json, which it returns."""
  folder = Path(folder)
  lines = []
  for line, (item, outcome) in enumerate(zip(items, judged.outcomes, strict=True), start=1):
    place = {"line": line, "episode": item.episode, "level": item.level}
    lines.append(json.dumps(place | outcome._asdict()))
  whole_files.write_lines(folder / "judged.jsonl", lines)
  found = told | summary(items, judged.outcomes) | {"cost": judged.cost}
  found |= {"stopped": judged.stopped}
  files.write_json_atomic(folder / "summary.json", found)
  return found


# -- the command ---------------------------------------------------------------------------------


def main(argv):
  given = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  jax.config.update("jax_platforms", "cpu")  # the bar asks JAX; an accelerator may be another's
  try:
    endpoint = from_environment(os.environ)
    template = TEMPLATES[given.template]
    items = read_predictions(given.predictions, template, longest=given.longest_side)
    request = _request(given.request)
    settings = Settings(given.asks, given.threads, request=request)
    patience = Patience(given.seconds, given.tries, longest=given.longest_wait)
    budget = Budget(
      given.budget_tokens, given.budget_money, given.prompt_price, given.completion_price
    )
    files.folder_to_write("out", given.out)
    cache = files.folder_to_write("cache", given.out if given.cache is None else given.cache)
    with metrics.Progress(len(items), description=f"judge {template.name}") as progress:
      judged = judge(items, endpoint, template, cache, settings=settings, patience=patience,
                     budget=budget, progress=progress)  # fmt: skip
  except ValueError as error:
    sys.exit(f"Stopped: {error}")
  told = {"template": template.name, "scale": [template.low, template.high]}
  told |= {
    "request": judge_asking.REQUEST | request,
    "model": endpoint.model,
    "url": endpoint.url,
    "predictions": given.predictions,
    "pictures": judge_pictures.told(itertools.chain(*items), given.longest_side),
  }
  found = write(given.out, items, judged, told)
  print(table(found))
  for kind, lines in found["unjudged"].items():
    more = ", ..." if lines[10:] else ""
    print(f"unjudged, {kind}: {len(lines)} (lines {', '.join(map(str, lines[:10]))}{more})")
  print(_told(judged.cost))
  left = found["all"]["left"]
  if judged.stopped is not None:
    sys.exit(f"Stopped, {left} left: {judged.stopped}\nThe same command goes on from there.")
  if left:
    print(f"The budget is reached, {left} left. With a larger one the same command goes on.")


def _request(given: str) -> dict[str, Any]:
  try:
    found = json.loads(given)
  except (ValueError, RecursionError):
    found = None
  if not isinstance(found, dict):
    raise ValueError(f"request is {_shown(given)}, must be a JSON object")
  return found


def _told(cost: Mapping[str, Any]) -> str:
  run, money = cost["run"], cost["run"]["money"]
  return (
    f"{cost['requests']} requests ({cost['retries']} retries), {cost['cache_hits']} from the cache"
    f"; {run['prompt_tokens']} prompt and {run['completion_tokens']} completion tokens"
    + (f", of which {run['estimated_tokens']} are estimated" if run["estimated_tokens"] else "")
    + (f"; {money:.4f} at the given prices" if money is not None else "")
  )


if __name__ == "__main__":
  flags.DEFINE_string("predictions", None, "JSONL: x, z, y, prediction, episode, level.")
  flags.DEFINE_enum("template", None, list(TEMPLATES), "What the judge is asked.")
  flags.DEFINE_string("out", None, "The folder for judged.jsonl and summary.json.")
  flags.DEFINE_string("cache", None, "The folder of the cache, if it isn't --out.")
  flags.DEFINE_integer("budget_tokens", None, "Most tokens that the cache may come to.")
  flags.DEFINE_float("budget_money", None, "Most money that the cache may come to.")
  flags.DEFINE_float("prompt_price", None, "Of a million prompt tokens.")
  flags.DEFINE_float("completion_price", None, "Of a million completion tokens.")
  flags.DEFINE_integer("threads", 4, "Requests at a time.")
  flags.DEFINE_integer("asks", 3, "Most questions about one line, if answers are no judgements.")
  flags.DEFINE_integer("tries", 6, "Most tries of one request, if the endpoint doesn't answer it.")
  flags.DEFINE_float("seconds", 120.0, "Time limit of one request.")
  flags.DEFINE_float("longest_wait", 60.0, "Longest pause before a request is tried again.")
  flags.DEFINE_integer(
    "longest_side", judge_pictures.LONGEST, "Pixels; larger pictures are scaled down to it."
  )
  flags.DEFINE_string("request", "{}", "JSON: more fields of the request; null removes one.")
  flags.mark_flags_as_required(["predictions", "template", "out"])
  app.run(main)
