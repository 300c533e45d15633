"""MirrorAPI-Bench: an API server's answers, recorded from real servers (arXiv:2503.20527).

x is the API's document, z the request (the API's name and the tool input), y the server's answer,
`{"error": ..., "response": ...}`: P(y | x, z). Each record is an episode of one turn.

Two layouts of a record are read. The authors' own files (test_sft/*.json, train_sft.json) have
`system`, `instruction` and `output`. LLaMA-Factory's predictions on them have `prompt`, the same
rendered as Qwen's chat, `label`, which is `output`, and `predict`, another model's answer, which
is never looked at. LLaMA-Factory cuts: what it left of a label may not parse, and a prompt may have
lost its request.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from swirl_jax.data.official.records import (
  Absent,
  Benchmark,
  Found,
  Unusable,
  malformed,
  of_training,
  one_line,
  rows,
  take,
)


class Part(NamedTuple):
  """A split of the benchmark: its name in either layout, and our split and level."""

  theirs: str
  rendered: str
  split: str
  level: str


PARTS = (
  Part("id_high", "id_high", "test", "id_high"),
  Part("id_medium", "id_medium", "test", "id_medium"),
  Part("id_low", "id_low", "test", "id_low"),
  Part("ood", "ood_successful", "heldout", "ood"),
  Part("ood_failure", "ood_failed", "failing", "ood_failure"),
)
TRAIN = Part("train_sft", "train_sft", "train", "train")  # of MirrorAPI-Training; may be absent

_USER = re.compile(r"<\|im_start\|>user\n(.*)<\|im_end\|>\n<\|im_start\|>assistant\s*", re.DOTALL)
_PARTS = re.compile(r"API doc:\n(.*)\n\s*Request:\n(.*)", re.DOTALL)


def _file(folder: Path, part: Part) -> Path | None:
  names = (f"test_sft/{part.theirs}.json", f"{part.theirs}.json",
           f"{part.rendered}.predictions.jsonl")  # fmt: skip
  return next((folder / name for name in names if (folder / name).is_file()), None)


def read(folder: Path) -> Iterator[Found]:
  """Every record of the five splits, and of the training file if it is there."""
  files = {part: _file(folder, part) for part in (*PARTS, TRAIN)}
  absent = [part for part in PARTS if files[part] is None]
  if absent:
    names = (f"test_sft/{part.theirs}.json (or {part.rendered}.predictions.jsonl)"
             for part in absent)  # fmt: skip
    raise Absent(", ".join(names))
  for part, path in files.items():
    if path is not None:
      yield from _read(path, path.relative_to(folder).as_posix(), part)


def _read(path: Path, name: str, part: Part) -> Iterator[Found]:
  for number, record in rows(path):
    where = f"{name}, record {number}"
    try:
      if isinstance(record, Unusable):
        raise record
      x, z, y = _texts(record)
    except Unusable as error:
      yield Found(where, reason=error.reason, detail=error.detail)
      continue
    episode = f"{part.theirs}/{number}"
    split = of_training(episode) if part is TRAIN else part.split
    yield Found(where, {"x": x, "y": y, "z": z, "episode": episode, "turn": 0,
                        "level": part.level, "split": split})  # fmt: skip


def _texts(record: Any) -> tuple[str, str, str]:
  if isinstance(record, dict) and "instruction" in record:
    user, label = take(record, "instruction", str), take(record, "output", str)
  else:
    prompt, label = take(record, "prompt", str), take(record, "label", str)
    user = _USER.search(prompt)
    user = user[1] if user else ""
  parts = _PARTS.search(user)
  if parts is None:
    raise Unusable("cut prompt", "no API document and request, each whole")
  document = parts[1].strip()
  take(_value(document, "the API document"), "api_name", str)
  return document, _call(_value(parts[2].strip(), "the request")), _answer(label)


def _value(text: str, name: str) -> Any:
  """The authors render objects as Python does, or as JSON."""
  for read_as in (ast.literal_eval, json.loads):
    try:
      return read_as(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
      pass
  malformed(name, text, "an object, as Python or JSON writes it")


def _call(request: Any) -> str:
  """The API's name and the tool's input: text, of one object or several, or an object itself.

  `category` and `tool_name` are in the document; `strip` is the same in all requests: "filter".
  """
  name = take(request, "api_name", str)
  if "tool_input" not in request:
    raise Unusable("malformed", "tool_input is missing, must be text or an object")
  found, strip = request["tool_input"], request.get("strip", "filter")
  if not isinstance(found, str | dict | list):
    malformed("tool_input", found, "text or an object")
  text = found if isinstance(found, str) else one_line(found)
  return f"{name} {text}" if strip == "filter" else f"{name} {text} strip={strip}"


def _answer(label: str) -> str:
  text = label.strip()
  try:
    found = json.loads(text)
  except (ValueError, RecursionError) as error:
    detail = f"label doesn't parse ({getattr(error, 'msg', error)}), its end is {text[-20:]!r}"
    raise Unusable("cut label", detail) from None
  if not isinstance(found, dict) or set(found) != {"error", "response"}:
    malformed("label", text, "an object of error and response")
  return text


BENCHMARK = Benchmark(
  "MirrorAPI-Bench",
  "stabletoolbench/MirrorAPI-Bench on the Hugging Face hub",
  read,
)
