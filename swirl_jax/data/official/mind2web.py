"""Mind2Web: what people did on real web pages, step by step (arXiv:2306.06070).

x is the page before a step, compact (pages.py), z the operation on the element in words, y the page
of the next step of the same task (`annotation_id`). The last step of a task has no page after it,
nor has a step whose next one is missing: they give no line, and are counted.

Two layouts are read: tasks, each with its `actions` (data/train/*.json and the three test folders),
and steps, one a record, each with `annotation_id` (as others pass them on). Of steps, those that
follow each other directly in a file are consecutive, if `previous_actions`, where it is given,
says so too.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from swirl_jax.data.official import pages
from swirl_jax.data.official.records import (
  Absent,
  Benchmark,
  Found,
  Unusable,
  malformed,
  of_training,
  rows,
  take,
)

# What a folder's or a file's name begins with → our split and level.
PARTS = {
  "train": ("train", "train"),
  "test_task": ("test", "cross_task"),
  "test_website": ("heldout", "cross_website"),
  "test_domain": ("heldout", "cross_domain"),
}
OPERATIONS = ("CLICK", "TYPE", "SELECT", "HOVER", "ENTER")
ALONE = "no page after"


class Step(NamedTuple):
  """One step of a task at its turn: the page before it as text, and the action ("": not known)."""

  where: str
  task: str
  turn: int
  page: str
  z: str


def read(folder: Path) -> Iterator[Found]:
  """Every step of every .json and .jsonl file below the folder."""
  paths = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl"))
  if not paths:
    tests = ", ".join(f"{name}/*.json" for name in PARTS if name != "train")
    raise Absent(f"data/train/*.json, {tests}, or *.jsonl of steps")
  for path in paths:
    name = path.relative_to(folder)
    steps = itertools.chain(_steps(path, name.as_posix()), [None])
    for step, after in itertools.pairwise(steps):
      yield step if isinstance(step, Found) else _transition(step, after, *_part(name))


def _part(name: Path) -> tuple[str, str]:
  """Our split ("" where the names don't say) and level."""
  for part in name.parts:
    for theirs, ours in PARTS.items():
      if part.startswith(theirs):
        return ours
  return "", "all"


def _transition(step: Step, after: Step | Found | None, split: str, level: str) -> Found:
  if not isinstance(after, Step) or (after.task, after.turn) != (step.task, step.turn + 1):
    return Found(step.where, reason=ALONE, detail=f"turn {step.turn} of {step.task}")
  episode = f"{level}/{step.task}"
  line = {"x": step.page, "y": after.page, "episode": episode, "turn": step.turn, "level": level}
  if split:
    line["split"] = of_training(episode) if split == "train" else split
  if not step.z:
    return Found(step.where, line, notes=("without z: the page doesn't show its element",))
  return Found(step.where, line | {"z": step.z})


def _steps(path: Path, name: str) -> Iterator[Step | Found]:
  for number, record in rows(path):
    where = f"{name}, record {number}"
    try:
      if isinstance(record, Unusable):
        raise record
      task = take(record, "annotation_id", str)
      if "actions" not in record:
        given = "previous_actions" in record
        turn = len(take(record, "previous_actions", list)) if given else number
        yield _step(where, task, turn, record)
        continue
      for turn, action in enumerate(take(record, "actions", list)):
        yield _step(f"{where}, action {turn + 1}", task, turn, action)
    except Unusable as error:
      yield Found(where, reason=error.reason, detail=error.detail)


def _step(where: str, task: str, turn: int, record: Any) -> Step | Found:
  try:
    take(record, "action_uid", str)
    page = _page(take(record, "cleaned_html", str))
    z = _action(take(record, "operation", dict), take(record, "pos_candidates", list), page)
  except Unusable as error:
    return Found(where, reason=error.reason, detail=error.detail)
  return Step(where, task, turn, page.text, z)


def _page(html: str) -> pages.Page:
  try:
    page = pages.read(html)
  except (SyntaxError, ValueError) as error:
    raise Unusable("malformed", f"cleaned_html isn't XML ({error})") from None
  if not page.text:
    raise Unusable("malformed", "cleaned_html shows nothing, must show a word")
  return page


def _action(operation: dict, candidates: list, page: pages.Page) -> str:
  """The operation in words, or "" where no candidate of the authors' is on the page.

  `original_op` is what was done; `op` has CLICK for HOVER and ENTER, which change a page otherwise.
  """
  kind = take(operation, "original_op" if "original_op" in operation else "op", str)
  if kind not in OPERATIONS:
    malformed("operation", kind, f"one of {', '.join(OPERATIONS)}")
  value = take(operation, "value", str) if "value" in operation else ""
  known = [c for c in candidates if take(c, "backend_node_id", str) in page.elements]
  if not known:
    return ""
  known.sort(key=lambda c: c.get("is_original_target") is not True)
  element = page.elements[known[0]["backend_node_id"]]
  words = {"TYPE": f'TYPE "{value}" into {element}', "SELECT": f'SELECT "{value}" in {element}'}
  return words.get(kind, f"{kind} {element}")


BENCHMARK = Benchmark("Mind2Web", "osunlp/Mind2Web on the Hugging Face hub", read)
