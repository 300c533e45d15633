"""AURORA and AURORA-Bench: edits of pictures, by people and out of videos (arXiv:2407.03471).

x is a picture, z the instruction, y the picture after it; where the authors give none, a line has
no y. The level is the task. A record whose input is an earlier one's output is that one's next
turn. Training's split goes by video, scene or photograph, which several records may share.

DiscEdit's records are candidates. `prompt` leads from `input` to `output`, and not to `input`. The
authors' own question is another: of `pos` and `neg`, or `prompt` where that is absent, `pos` says
what is already so, and has to change the input less. As a choice: which leads from x to y = x?
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from swirl_jax.data.official import pictures
from swirl_jax.data.official.records import (
  Absent,
  Benchmark,
  Found,
  Unusable,
  malformed,
  numbered,
  of_training,
  take,
)
from swirl_jax.data.official.visual import ACTIONS, STATES

_TRAIN = re.compile(r"(?:^|/)(?:([^/]+)/train|([^/]+?)_train[^/]*)\.jsonl?$")
_DISC = re.compile(r"(?:^|/)disc_edit(?:_data/([^/]+)/|_([^/]+?)\.)(?:valid|itm_test)\.json$")


def read(folder: Path, made: pictures.Made) -> Iterator[Found]:
  """Every record of test.json, of the training files and of DiscEdit's files below the folder."""
  names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.json*") if p.is_file())
  names = [n for n in names if _DISC.search(n) or _TRAIN.search(n) or n == "test.json"]
  if not names:
    raise Absent("test.json, data/*/train.json (or .jsonl), disc_edit_data/*/valid.json")
  for name in names:
    disc, train = _DISC.search(name), _TRAIN.search(name)
    if disc is not None:
      yield from _disc_edit(folder, name, disc[1] or disc[2])
    else:
      yield from _edits(folder, name, train and (train[1] or train[2]))


def _edits(folder: Path, name: str, task: str | None) -> Iterator[Found]:
  """The lines of a file; `task` for one of training's, whose records name none."""
  after = {}  # level and output → episode and split, and the turn that comes then
  for number, where, record in numbered(folder / name, name):
    try:
      if isinstance(record, Unusable):
        raise record
      x, level = take(record, "input", str), task or take(record, "task", str)
      notes, z = _instruction(record)
      split = of_training(f"{level}/{_source(x, record)}") if task else "test"
      episode, split, turn = after.get((level, x), (f"{name}/{number}", split, 0))
      line = {"x": folder / x, "z": z, "episode": episode, "turn": turn, "level": level,
              "split": split}  # fmt: skip
      if record.get("output") is not None:
        y = take(record, "output", str)
        after[level, y] = (episode, split, turn + 1)
        line["y"] = folder / y
    except Unusable as error:
      yield Found(where, reason=error.reason, detail=error.detail)
      continue
    yield Found(where, line, notes=notes)


def _instruction(record: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
  """What is to be noted, and the instruction; of several, the first, as the authors train on."""
  found = record.get("instruction")
  if not isinstance(found, list):
    return (), take(record, "instruction", str)
  if not found or not all(isinstance(text, str) for text in found):
    malformed("instruction", found, "text, or a list of texts")
  return ("the first of several instructions",) if found[1:] else (), found[0]


def _source(x: str, record: Mapping[str, Any]) -> str:
  """What a picture was taken from: MagicBrush's photograph, a video, or a folder of its own."""
  if "img_id" in record:
    return str(record["img_id"])
  path = PurePosixPath(x)
  own = path.parent.name if path.parent.name != "images" else path.stem
  return path.name.split(".mp4_")[0] if ".mp4_" in path.name else f"{path.parent.parent}/{own}"


def _disc_edit(folder: Path, name: str, task: str) -> Iterator[Found]:
  for _, where, record in numbered(folder / name, name):
    try:
      if isinstance(record, Unusable):
        raise record
      yield from _sets(folder, where, task, record)
    except Unusable as error:
      yield Found(where, reason=error.reason, detail=error.detail)


def _sets(folder: Path, where: str, task: str, record: Any) -> Iterator[Found]:
  x = folder / take(record, "image" if "image" in record else "input", str)
  prompt, pos, neg = (
    take(record, field, str) if record.get(field) else "" for field in ("prompt", "pos", "neg")
  )
  if record.get("output") is not None:
    y = folder / take(record, "output", str)
    yield Found(where, {"x": x, "z": take(record, "prompt", str), **_choice(where, y, x),
                        "task": task, "where": where}, to=STATES)  # fmt: skip
  if not pos:
    yield Found(where, reason="no pos", detail="no instructions to choose from", to=ACTIONS)
  elif not (neg or prompt):
    malformed("neg", neg, "text, where prompt is missing too")
  else:
    yield Found(where, {"x": x, "y": x, **_choice(where, [pos], [neg or prompt]), "task": task,
                        "where": where}, to=ACTIONS)  # fmt: skip


def _choice(where: str, truth: Any, other: Any) -> dict[str, Any]:
  """The two in an order by a hash, so that who always takes the first is right half the time."""
  first = hashlib.sha256(where.encode("utf-8", "surrogatepass")).digest()[0] % 2
  return {"candidates": [other, truth] if first else [truth, other], "truth": first}


BENCHMARK = Benchmark("AURORA", "McGill-NLP/AURORA on GitHub", read, visual=True)
