"""What a benchmark's records gave, as a file of transitions and a count of all that is left out.

Every record ends in one place: a line of the file, or a reason, with the first few names. The file
takes its name only after `transition_lines.read` has accepted every line of it.
"""

import collections
import contextlib
import json
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from swirl_jax.data import transition_lines
from swirl_jax.data.official.records import LINES, Found, Unusable
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

  files = (LINES,)  # what records may be for; each is a file

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
    notes = list(found.notes)
    try:
      line = self._accepted(found, notes)
    except Unusable as error:
      return self._leave(error.reason, ": ".join(filter(None, (found.where, error.detail))))
    self._count(found, line)
    self.notes.update(set(notes))
    return line

  def check(self, to: str, path: Path) -> str:
    """The SHA-256 of a file of lines, or ValueError where its reader would refuse it."""
    return transition_lines.read({"path": str(path), "heldout_levels": ()})[0]

  def _accepted(self, found: Found, notes: list[str]) -> dict[str, Any]:
    """The line as the world accepts it, or Unusable; adds to the notes."""
    line = {}
    for name, value in found.line.items():
      if isinstance(value, str):
        value, changed = spelled(value)
        notes += changed
      line[name] = value
    x, y, z = (same(line.get(name, "")) for name in "xyz")
    if not x or not y:
      raise Unusable("empty", f"{'y' if x else 'x'} has no word")
    if x == y:
      raise Unusable("x = y", "")
    self._short(line, TEXTS)
    key = tuple(hash(text) for text in (line.get("split", BY_CHANCE), x, z, y))
    self._new(key)
    if self._answers.setdefault(key[1:3], key[3]) != key[3]:
      notes.append("another y than before for the same x and z")
    return line

  def _short(self, line: Mapping[str, Any], names: Sequence[str]) -> None:
    long = {name: len(line.get(name, "")) for name in names}
    if self.longest and max(long.values()) > self.longest:
      name = max(long, key=long.get)
      raise Unusable("too long", f"{name} has {long[name]} characters")

  def _new(self, key: Hashable) -> None:
    if key in self._met:
      raise Unusable("duplicate", "")
    self._met.add(key)

  def _count(self, found: Found, line: Mapping[str, Any]) -> None:
    self.kept[line.get("split", BY_CHANCE)][line["level"]] += 1
    for name in TEXTS:
      self.lengths[name].append(len(line.get(name, "")))

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


def write(found: Iterable[Found], out: str | os.PathLike, collector: Collector) -> dict[str, Any]:
  """Writes the files of lines and returns the counts.

  The transitions go to `out`, what is `to` another file to `STEM.TO.jsonl` beside it; a file that
  would have no line is not there afterwards. Raises ValueError where no record gives a line.
  """
  out = Path(out)
  places = {to: out if to == LINES else out.with_suffix(f".{to}.jsonl") for to in collector.files}
  temporary = {to: p.with_name(f".{p.name}.{os.getpid()}.tmp") for to, p in places.items()}
  try:
    with contextlib.ExitStack() as stack:
      files = {
        to: stack.enter_context(open(path, "w", encoding="utf-8")) for to, path in temporary.items()
      }
      for record in tqdm(found, desc=f"reading for {out.name}", unit=" records", disable=None):
        line = collector.line(record)
        if line is not None:
          files[record.to].write(json.dumps(line, ensure_ascii=False) + "\n")
      for file in files.values():
        file.flush()
        os.fsync(file.fileno())
    counts = collector.counts()
    full = [to for to, path in temporary.items() if path.stat().st_size]
    if not full:
      raise ValueError(f"no record gives a transition: {_summary(counts)}")
    digests = {to: collector.check(to, temporary[to]) for to in full}
    for to, place in places.items():
      if to in full:
        os.replace(temporary[to], place)
      else:
        place.unlink(missing_ok=True)
  finally:
    for path in temporary.values():
      path.unlink(missing_ok=True)
  return counts | {"sha256": digests}


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
