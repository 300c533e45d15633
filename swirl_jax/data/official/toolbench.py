"""ToolBench's answers: trees of calls to real APIs and their responses (arXiv:2307.16789).

x is the document of the API that is called and the calls before it on its branch, with their
responses; z the call; y the response. A file is a tree, and an episode; a call's turn is the number
of calls before it on its branch. The model's thoughts are left out: no response depends on them.

ToolBench itself cut responses at 1,024 characters, marked by "...": the model saw no more, and the
cut is the same for all of them, so y stays as it is, and is counted.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from swirl_jax.data.official.records import (
  Absent,
  Benchmark,
  Found,
  Unusable,
  load,
  malformed,
  one_line,
  take,
)

FINISH = "Finish"  # not an API: it ends a try
NO_FUNCTION, TIMED_OUT = 1, 5  # observation_code
MOST = 1024
CUT = f"response cut at {MOST} characters by the authors"

_GROUP = re.compile(r"(G\d)_answer")


class Call(NamedTuple):
  """A node to visit, the function that was chosen for it, and the calls before, with responses;
  None where one of them isn't known.
  """

  node: Any
  function: str | None
  history: tuple[str, ...] | None


def read(folder: Path) -> Iterator[Found]:
  """Every call of every tree below the folder, where the path has `answer` in it."""
  names = sorted(p.relative_to(folder) for p in folder.rglob("*.json"))
  names = [name for name in names if "answer" in name.as_posix()]
  if not names:
    raise Absent("answer/G1_answer/*.json, answer/G2_answer/*.json, answer/G3_answer/*.json")
  for name in names:
    try:
      yield from _tree(load(folder / name), name.as_posix())
    except Unusable as error:
      yield Found(name.as_posix(), reason=error.reason, detail=error.detail)


def _tree(answer: Any, name: str) -> Iterator[Found]:
  functions = take(take(answer, "answer_generation", dict), "function", list)
  documents = {take(f, "name", str): one_line(f) for f in functions}
  group = _GROUP.search(name)
  fixed = {"episode": name, "level": group[1] if group else "all"}
  waiting, number = [Call(take(take(answer, "tree", dict), "tree", dict), None, ())], 0
  while waiting:
    node, function, history = waiting.pop()
    number += 1
    where, children = f"{name}, node {number}", []
    try:
      children = take(node, "children", list)
      kind, said = take(node, "node_type", str), take(node, "description", str)
      if kind == "Action":
        function = said
      elif "observation" in node:
        call, response = f"{function} {_arguments(said)}", take(node, "observation", str)
        if history is None:
          raise Unusable("no history", "a node above it is malformed")
        yield _found(where, node, function, history, call, response, documents, fixed)
        history = (*history, f"{call}\n{response}")
    except Unusable as error:
      yield Found(where, reason=error.reason, detail=error.detail)
      history = None  # of what follows a call that isn't known
    waiting += [Call(child, function, history) for child in reversed(children)]


def _arguments(text: str) -> str:
  """As JSON on one line, or as the model wrote them if that is no JSON."""
  try:
    return one_line(json.loads(text))
  except (ValueError, RecursionError):
    return text.strip()


def _found(
  where: str,
  node: Mapping[str, Any],
  function: str | None,
  history: tuple[str, ...],
  call: str,
  response: str,
  documents: Mapping[str, str],
  fixed: Mapping[str, Any],
) -> Found:
  code = take(node, "observation_code", int)
  if function == FINISH:
    return Found(where, reason="no API call", detail=f"{FINISH} ends a try")
  if code == NO_FUNCTION or function not in documents:
    return Found(where, reason="no such function", detail=f"{function} has no document")
  if code == TIMED_OUT:
    return Found(where, reason="timed out", detail="the response is the network's")
  if not response.strip():
    malformed("observation", response, "text with a word in it")
  cut = len(response) >= MOST and response.endswith("...")
  x = "\n".join((documents[function], *history))
  line = {"x": x, "y": response, "z": call, "turn": len(history), **fixed}
  return Found(where, line, notes=(CUT,) if cut else ())


BENCHMARK = Benchmark(
  "ToolBench",
  "OpenBMB/ToolBench on GitHub (its README links the data; data/answer in it)",
  read,
)
