"""The lines of a user's file of transitions: read, and checked one by one and against each other.

docs/world.md has the fields. A file with a bad line is one error, which names file, line, field,
what was found and what is allowed.
"""

import collections
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from swirl_jax.data import transitions
from swirl_jax.data.tokenizers import SPECIAL

NAMED = ("train", *transitions.EVALUATION_SPLITS)  # what a line may say of its split
REQUIRED = {"x": str, "y": str, "episode": (str, int, float)}
FIELDS = {**REQUIRED, "z": str, "turn": int, "level": str, "split": str, "action": str}
KINDS = {str: "text", int: "a whole number", (str, int, float): "text or a number"}

# Control characters but tab and line ends, and halves of surrogate pairs, which are no text.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Line(NamedTuple):
  """A line of the file; z and action are "" where it has none, split "" where it names none."""

  number: int
  x: str
  y: str
  z: str
  episode: str
  turn: int
  level: str
  split: str
  action: str


# -- one line ------------------------------------------------------------------------------------


class Refused(ValueError):
  """What is wrong with a line: field, what was found, what is allowed."""


def _refuse(field: str, found: Any, allowed: str) -> NoReturn:
  shown = repr(found)
  shown = shown if len(shown) <= 80 else shown[:77] + "..."
  raise Refused(f"{field} is {shown}, must be {allowed}")


def composed(text: str) -> str:
  """A text in Unicode's normal form NFC, which tokenizers bring texts to as well."""
  return unicodedata.normalize("NFC", text)


def same(text: str) -> str:
  """A text, composed and its white space normalised: what decides whether two are the same."""
  return " ".join(composed(text).split())


def _object(raw: bytes) -> dict[str, Any]:
  """The JSON object of a line, no field twice."""

  def once(pairs):
    names = collections.Counter(name for name, _ in pairs)
    for name, count in names.items():
      if count > 1:
        raise Refused(f"{name} is there {count} times, must be there once")
    return dict(pairs)

  def finite(constant):
    _refuse("a number", constant, "finite")

  try:
    text = raw.decode("utf-8-sig")  # some editors put a byte order mark in front
  except UnicodeDecodeError as error:
    place = f"byte {raw[error.start]:#x} at place {error.start + 1}"
    raise Refused(f"the line has the {place}, must be UTF-8") from None

  def number(digits):
    return float(digits) if math.isfinite(float(digits)) else finite(digits)

  try:
    found = json.loads(text, object_pairs_hook=once, parse_constant=finite, parse_float=number)
  except Refused:
    raise
  except (ValueError, RecursionError) as error:
    reason = getattr(error, "msg", error)
    _refuse("the line", text.strip(), f"one JSON object ({reason})")
  if not isinstance(found, dict):
    _refuse("the line", found, "one JSON object")
  return found


def _line(number: int, raw: bytes, settings: Mapping[str, Any], pictures: bool) -> dict[str, Any]:
  """The fields of one line, checked as far as a line alone can be, texts composed."""
  found = _object(raw)
  for name in found:
    if name not in FIELDS:
      _refuse("a field", name, f"one of {', '.join(FIELDS)}")
  for name, kind in FIELDS.items():
    if name not in found:
      if name in REQUIRED and not (pictures and name == "y"):
        raise Refused(f"{name} is missing, must be {KINDS[kind]}")
      continue
    value = found[name]
    if not isinstance(value, kind) or isinstance(value, bool):
      _refuse(name, value, KINDS[kind])
    if isinstance(value, str):
      if control := CONTROL.search(value):
        _refuse(name, value, f"free of control characters ({control.group()!r})")
      if name != "z" and not value.strip():
        _refuse(name, value, "text with a word in it")
  x, y, z = found["x"], found.get("y", ""), composed(found.get("z", ""))
  if not pictures:
    x, y = composed(x), composed(y)
  for name, text in (("x", x), ("y", y), ("z", z)):
    if special := set(text.split()) & set(SPECIAL):
      _refuse(name, text, f"free of special tokens ({', '.join(sorted(special))})")
  if x == y if pictures else same(x) == same(y):
    _refuse("y", y, "another state than x")
  if not 0 <= found.get("turn", 0) < 2**31:
    _refuse("turn", found["turn"], f"from 0 to {2**31 - 1}")
  if found.get("action") and not z.strip():
    _refuse("action", found["action"], "left out where z is (it is the class of z)")
  level, split = found.get("level", "all"), found.get("split", "")
  if split and split not in NAMED:
    _refuse("split", split, f"one of {', '.join(NAMED)}")
  if split not in ("", *transitions.OPTIONAL) and level in settings["heldout_levels"]:
    allowed = "'heldout', 'failing' or left out"
    _refuse("split", split, f"{allowed} (heldout_levels has {level!r})")
  return {**found, "number": number, "x": x, "y": y, "z": z if z.strip() else "", "level": level,
          "split": split, "episode": str(found["episode"]),
          "action": same(found.get("action", ""))}  # fmt: skip


# -- the file ------------------------------------------------------------------------------------


def stop(path: str, errors: Sequence[tuple[int, str]]) -> None:
  """Raises ValueError with the first error, if there is one, and how many more lines have one."""
  if errors:
    number, what = errors[0]
    more = f" ({len(errors) - 1} more lines have an error.)" if errors[1:] else ""
    raise ValueError(f"{path}, line {number}: {what}.{more}")


def read(
  settings: Mapping[str, Any], *, name: str = "config.world.path", pictures: bool = False
) -> tuple[str, list[Line]]:
  """The SHA-256 of the file and its lines, or a ValueError that names the first bad one.

  name: what errors call the file's setting. pictures: x and y are names of files, which stay as
  they are, and y may be missing, and is "" then.
  """
  path, digest = settings["path"], hashlib.sha256()
  lines, errors, episodes, actions = [], [], {}, {}
  try:
    with open(path, "rb") as file:
      for number, raw in enumerate(file, start=1):
        digest.update(raw)
        try:
          found = _line(number, raw, settings, pictures)
          _agree(found, episodes, actions)
        except Refused as error:
          errors.append((number, str(error)))
          continue
        turn = episodes[found["episode"]]["lines"] - 1
        lines.append(Line(**{"turn": turn} | found))
  except OSError as error:
    raise ValueError(f"{name} = {path!r}: {error.strerror}.") from None
  stop(path, errors)
  if not lines:
    raise ValueError(f"{name} = {path!r}: the file is empty.")
  named = {key: episode["split"][0] for key, episode in episodes.items() if episode["split"]}
  return digest.hexdigest(), [n._replace(split=named.get(n.episode, "")) for n in lines]


def _agree(found: Mapping[str, Any], episodes: dict, actions: dict) -> None:
  """Refuses a line that contradicts an earlier one: an episode has one level and one split, its
  turns are given or not, an action's text has one class.
  """
  number, name = found["number"], found["episode"]
  turn = "given" if "turn" in found else "left out"
  own = {"level": found["level"], "split": found["split"] or None, "turn": turn}
  episode = episodes.setdefault(name, {"lines": 0} | dict.fromkeys(own))
  for field, value in own.items():
    was, line = episode[field] or (value, number)
    if value is not None and was != value:
      raise Refused(f"{field} is {value}, must be {was}, as in line {line} of episode {name!r}")
  text, kind = same(found["z"]), found["action"]
  if kind and text in actions and actions[text][0] != kind:
    was, line = actions[text]
    _refuse("action", kind, f"{was!r}, as in line {line} for the same z")
  episode["lines"] += 1
  for field, value in own.items():
    if value is not None and episode[field] is None:
      episode[field] = (value, number)
  if kind:
    actions.setdefault(text, (kind, number))


def meanings_of(lines: Sequence[Line]) -> dict[str, str]:
  """Every action's text → its class: what a line says, or else the text itself."""
  said = {same(n.z): n.action for n in lines if n.action}
  return {text: said.get(text, text) for text in sorted({same(n.z) for n in lines if n.z})}
