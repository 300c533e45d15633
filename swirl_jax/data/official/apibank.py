"""API-Bank's dialogues: people, an assistant, and calls of its APIs (arXiv:2304.08244).

x is the dialogue before a call, with earlier calls and their results, z the call, y its result,
`{"output": ..., "exception": ...}`. A file is a dialogue, and an episode; a call's turn is the
number of calls before it. What the APIs' databases hold is not in x.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from swirl_jax.data.official.records import (
  Absent,
  Benchmark,
  Found,
  Unusable,
  malformed,
  one_line,
  rows,
  take,
)

_NAME = re.compile(r"(level-\d)-\d+\.jsonl$")  # how a dialogue's file ends: its level and number


def read(folder: Path) -> Iterator[Found]:
  """Every call of every dialogue below the folder."""
  names = sorted(path.relative_to(folder) for path in folder.rglob("*.jsonl"))
  names = [name for name in names if _NAME.search(name.name)]
  if not names:
    raise Absent("level-1-given-desc/*-level-1-*.jsonl, level-2-toolsearcher/*-level-3-*.jsonl")
  for name in names:
    yield from _dialogue(folder / name, name.as_posix(), _NAME.search(name.name)[1])


def _dialogue(path: Path, name: str, level: str) -> Iterator[Found]:
  said, turn, whole = [], 0, True
  for number, record in rows(path):
    where = f"{name}, record {number}"
    try:
      if isinstance(record, Unusable):
        raise record
      role = take(record, "role", str)
      if role != "API":
        said.append(f"{role}: {take(record, 'text', str)}")
        continue
      z, y = _call(record)
      if not whole:
        raise Unusable("no history", "a record before it is malformed")
    except Unusable as error:
      whole = False
      yield Found(where, reason=error.reason, detail=error.detail)
      continue
    yield Found(where, {"x": "\n".join(said), "y": y, "z": z, "episode": name, "turn": turn,
                        "level": level})  # fmt: skip
    said.append(f"API: {z}\n{y}")
    turn += 1


def _call(record: dict) -> tuple[str, str]:
  """The call, and its result without the call, which the authors repeat in it."""
  result = take(record, "result", dict)
  for field in ("output", "exception"):
    if field not in result:
      malformed("result", result, "an object of output and exception")
  call = f"{take(record, 'api_name', str)} {one_line(take(record, 'param_dict', dict))}"
  return call, one_line({field: result[field] for field in ("output", "exception")})


BENCHMARK = Benchmark(
  "API-Bank",
  "AlibabaResearch/DAMO-ConvAI on GitHub (api-bank/lv1-lv2-samples in it)",
  read,
)
