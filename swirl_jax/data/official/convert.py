"""What a benchmark's records gave, as a file of transitions and a count of all that is left out.

Every record ends in one place: a line of the file, or a reason, with the first few names. The file
takes its name only after `transition_lines.read` has accepted every line of it.
"""

import collections
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swirl_jax.data import transition_lines
from swirl_jax.data.official.records import Found
from swirl_jax.data.tokenizers import SPECIAL
from swirl_jax.data.transition_lines import CONTROL, same

FIRST = 5  # names that are given with each reason
TEXTS = ("x", "z", "y")
BY_CHANCE = "by chance"  # the split of a line that names none: the jsonl world assigns it

_SPECIAL = re.compile("|".join(rf"(?<!\S){re.escape(word)}(?!\S)" for word in SPECIAL))


def spelled(text: str) -> tuple[str, list[str]]:
  r"""The text as a world accepts it, and what was changed: control characters and halves of
  surrogate pairs become `\u0007`, as JSON spells them; a word that is one of our special tokens
  gets a space, `< sep>`.
  """
  notes = []
  if CONTROL.search(text):
    text = CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
    notes.append("control characters spelled out")
  if _SPECIAL.search(text):
    text = _SPECIAL.sub(lambda found: f"< {found.group()[1:]}", text)
    notes.append("special tokens taken apart")
  return text, notes


class Collector:
  """Decides on every record. `longest`: the most characters of x, y or z, 0 for no limit."""

  def __init__(self, longest: int):
    self.longest = longest
    self.kept = collections.defaultdict(collections.Counter)  # split → level → lines
    self.left_out = collections.defaultdict(list)  # reason → what was found, with names
    self.notes = collections.Counter()
    self.lengths = {name: [] for name in TEXTS}
    self._met, self._answers = set(), {}

  def line(self, found: Found) -> dict[str, Any] | None:
    """The line to be written, or None."""
    if found.line is None:
      return self._leave(found.reason, f"{found.where}: {found.detail}")
    line, notes = {}, list(found.notes)
    for name, value in found.line.items():
      if isinstance(value, str):
        value, changed = spelled(value)
        notes += changed
      line[name] = value
    x, y, z = (same(line.get(name, "")) for name in "xyz")
    split = line.get("split", BY_CHANCE)
    if not x or not y:
      return self._leave("empty", f"{found.where}: {'y' if x else 'x'} has no word")
    if x == y:
      return self._leave("x = y", found.where)
    long = {name: len(line.get(name, "")) for name in TEXTS}
    if self.longest and max(long.values()) > self.longest:
      name = max(long, key=long.get)
      return self._leave("too long", f"{found.where}: {name} has {long[name]} characters")
    key = tuple(hash(text) for text in (split, x, z, y))
    if key in self._met:
      return self._leave("duplicate", found.where)
    self._met.add(key)
    if self._answers.setdefault(key[1:3], key[3]) != key[3]:
      notes.append("another y than before for the same x and z")
    self.kept[split][line["level"]] += 1
    self.notes.update(set(notes))
    for name in TEXTS:
      self.lengths[name].append(long[name])
    return line

  def _leave(self, reason: str, what: str) -> None:
    self.left_out[reason].append(what)

  def counts(self) -> dict[str, Any]:
    return {
      "kept": {split: dict(levels) for split, levels in self.kept.items()},
      "left_out": {
        reason: {"records": len(found), "first": found[:FIRST]}
        for reason, found in self.left_out.items()
      },
      "noted": dict(self.notes),
      "characters": {
        name: {"median": int(np.median(n)), "90%": int(np.percentile(n, 90)), "most": max(n)}
        for name, n in self.lengths.items()
        if n
      },
    }


def write(found: Iterable[Found], out: str | os.PathLike, *, longest: int = 0) -> dict[str, Any]:
  """Writes the file and returns the counts. Raises ValueError where no record gives a line."""
  out, collector = Path(out), Collector(longest)
  temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
  try:
    with open(temporary, "w", encoding="utf-8") as file:
      for record in found:
        line = collector.line(record)
        if line is not None:
          file.write(json.dumps(line, ensure_ascii=False) + "\n")
      file.flush()
      os.fsync(file.fileno())
    counts = collector.counts()
    if not counts["kept"]:
      raise ValueError(f"no record gives a transition: {_summary(counts)}")
    digest, _ = transition_lines.read({"path": str(temporary), "heldout_levels": ()})
    os.replace(temporary, out)
  finally:
    temporary.unlink(missing_ok=True)
  return counts | {"sha256": digest}


def _summary(counts: Mapping[str, Any]) -> str:
  parts = (f"{n['records']} {reason} ({n['first'][0]})" for reason, n in counts["left_out"].items())
  return "; ".join(parts) or "the files hold no records."


def table(counts: Mapping[str, Any]) -> str:
  """The counts, for people."""
  rows = [("split", "level", "lines")]
  rows += [(split, level, n) for split, levels in counts["kept"].items()
           for level, n in levels.items()]  # fmt: skip
  left = [("left out", "", "records")]
  left += [(reason, n["first"][0], n["records"]) for reason, n in counts["left_out"].items()]
  noted = [("noted", "", "lines"), *((what, "", n) for what, n in counts["noted"].items())]
  lengths = [("characters", "median, 90%", "most")]
  lengths += [(name, f"{n['median']}, {n['90%']}", n["most"])
              for name, n in counts["characters"].items()]  # fmt: skip
  parts = [_aligned(part) for part in (rows, left, noted, lengths) if part[1:]]
  return "\n\n".join(parts)


def _aligned(rows: Sequence[tuple]) -> str:
  widths = [max(len(str(row[i])) for row in rows) for i in (0, 2)]
  return "\n".join(f"{a:<{widths[0]}}  {n:>{widths[1]}}  {b}".rstrip() for a, b, n in rows)
