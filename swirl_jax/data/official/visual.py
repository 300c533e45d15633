"""Lines whose states are pictures, and the sets of candidates that lie beside them.

docs/worlds/official.md has the fields of the three files.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swirl_jax.data import image_codes, tokenized
from swirl_jax.data.official import pictures
from swirl_jax.data.official.convert import BY_CHANCE, Collector, spelled
from swirl_jax.data.official.records import LINES, Found, Unusable, malformed
from swirl_jax.data.transition_lines import same

_WORD = re.compile(r"\S+")

STATES, ACTIONS = "candidates", "actions"  # which state follows; which actions lead there
SETS = (STATES, ACTIONS)


class PictureCollector(Collector):
  """As `Collector`, where x, y and candidates are pictures; `out` is the file of lines.

  Every picture must be there and have a picture's header. Those in `made` are named from the
  folder of `out`, the authors' own by their absolute paths. `longest` limits z.
  """

  files = (LINES, *SETS)

  def __init__(self, longest: int, out: Path, made: pictures.Made):
    super().__init__(longest)
    self._base, self._made = out.parent, made.folder
    self._seen: dict[Path, Unusable | None] = {}

  def check(self, to: str, path: Path) -> str:
    if to == LINES:
      return tokenized.read_lines(path, name="lines")[0]
    with open(path, "rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()

  def _accepted(self, found: Found, notes: list[str]) -> dict[str, Any]:
    line = dict(found.line)
    for name in ("z", "episode", "level", "task"):
      if name in line:
        line[name] = self._text(line[name], notes)
        if name != "z" and not same(line[name]):
          malformed(name, line[name], "text with a word in it")
    if not same(line.get("z", "-")):
      del line["z"]
    for name in ("x", "y"):
      if name in line:
        line[name] = self._path(line[name])
    self._short(line, ("z",))
    if found.to == LINES:
      self._transition(line, notes)
    else:
      self._set(found.to, line, notes)
    decisive = ("x", "z", "y", "split" if found.to == LINES else "candidates")
    episode = line["episode"] if found.shared else None
    self._new((found.to, json.dumps([episode, *(line.get(name) for name in decisive)])))
    return line

  def _transition(self, line: Mapping[str, Any], notes: list[str]) -> None:
    if "y" not in line:
      notes.append("without y")
    if "z" not in line:
      notes.append("without z")
    if line["x"] == line.get("y"):
      raise Unusable("x = y", "")

  def _set(self, to: str, line: dict[str, Any], notes: list[str]) -> None:
    """A set of candidates: the truth is one of them, and no other is the same."""
    if to == STATES:
      line["candidates"] = [self._path(path) for path in line["candidates"]]
    else:
      line["candidates"] = [
        [self._text(action, notes) for action in actions] for actions in line["candidates"]
      ]
    candidates, truth = line["candidates"], line["truth"]
    if len(candidates) < 2:
      malformed("candidates", candidates, "two or more")
    if not 0 <= truth < len(candidates):
      malformed("the true candidate", truth, f"from 0 to {len(candidates) - 1}")
    if candidates.count(candidates[truth]) > 1:
      raise Unusable("no choice", f"another candidate is the true one: {candidates[truth]}")

  def _text(self, text: str, notes: list[str]) -> str:
    """As `spelled`, and a word that reads as a picture's code gets a space: `< 17>`."""
    text, changed = spelled(text)
    apart = _WORD.sub(
      lambda word: f"< {word[0][1:]}" if image_codes.is_code(word[0]) else word[0], text
    )
    notes += changed + ["codes taken apart"] * (apart != text)
    return apart

  def _path(self, path: Path) -> str:
    """The picture as a line names it, or Unusable."""
    if path not in self._seen:
      self._seen[path] = None
      try:
        if spelled(str(path))[1]:
          raise Unusable("bad name", f"{str(path)!r} has control characters or special tokens")
        pictures.header(path)
      except Unusable as error:
        self._seen[path] = error
    if self._seen[path] is not None:
      raise self._seen[path]
    made = path.is_relative_to(self._made)
    return path.relative_to(self._base).as_posix() if made else path.as_posix()

  def _count(self, found: Found, line: Mapping[str, Any]) -> None:
    if found.to != LINES:
      self.kept[found.to][line["task"]] += 1
      return
    self.kept[line.get("split", BY_CHANCE)][line["level"]] += 1
    self.lengths["z"].append(len(line.get("z", "")))
