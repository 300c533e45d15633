"""A MiniWoB++ page's state as text, and what the collector would do in it.

Both read what `swirl.read` in miniwob_page.py returns.
"""

import collections
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

DISTRACTORS = ("7", "42", "red", "hello", "Anna", "blue sky")
_QUOTED = re.compile(r'"([^"]+)"')
_NAMES = re.compile(r"(?<=[\w,] )[A-Z][\w-]+")
_CLOCK = re.compile(r"(\d+):(\d\d) (AM|PM)")
_NUMBER = re.compile(r"-?\d+")


class Action(NamedTuple):
  """What the page is told, and how it is said."""

  index: int  # the control's place among the page's controls
  hand: str  # click, type, set, clear or choose
  text: str
  phrase: str


def describe(seen: Mapping[str, Any]) -> str:
  """The page's state as text, of what `swirl.read` in miniwob_page.py returns."""
  parts = [("right" if seen["success"] else "wrong")] if seen["done"] else []
  parts.append(f"task {seen['task']}")
  for item in seen["items"]:
    words = [">" * item.get("depth", 0), item.get("ref", item["text"])]
    if "value" in item:
      words.append(f"={item['value']}")
    if "options" in item:
      words.append(f"of {', '.join(filter(None, item['options']))}")
    parts.append(" ".join(filter(None, [*words, *item.get("marks", ())])))
  return " ; ".join(parts)


def choices(seen: Mapping[str, Any], ready: bool, ends: re.Pattern, draw) -> list:
  """[(weight, action)]: what the collector would do now, one or more for each control."""
  found = []
  texts = _texts(seen, ends)
  controls = [item for item in seen["items"] if "ref" in item]
  same = collections.Counter(c["text"] for c in controls)
  fields = [i for i, c in enumerate(controls) if c["kind"] in ("text", "password", "textarea")]
  values = [controls[i]["value"] for i in fields]
  kinds = collections.Counter()
  for i, control in enumerate(controls):
    kind, ref, value = control["kind"], control["ref"], control.get("value", "")
    kinds[kind] += 1
    named = _named(control, kinds[kind], seen["task"])
    if control["locked"]:
      continue
    if kind == "time":
      for weight, text in ((1.0, _any_time(draw)), *((2.0, t) for t in _times(seen["task"]))):
        if text != value:
          found.append((weight, Action(i, "set", text, f"set {ref} to '{text}'")))
    elif kind == "list":
      for text in filter(None, control["options"]):
        weight = 2.5 if text in seen["task"] else 1.0
        if text != value:
          found.append((weight, Action(i, "choose", text, f"choose '{text}' in {ref}")))
    elif i in fields:
      own = _follows(control["text"].partition(" ")[2], seen["task"], texts)
      if not own and texts:  # the fields are often in the instruction's order
        own = [texts[fields.index(i) % len(texts)]]
      text = _typed(value, own, texts, draw)
      begun = any(t.startswith(value) for t in texts)
      weight = 0.2 if value in texts else 2.0 if begun else 0.3
      found.append((weight * (1 + named), Action(i, "type", text, f"type '{text}' into {ref}")))
      if "*" not in control["marks"]:
        found.append((0.3, _click(i, ref)))
    elif ends.search(ref) or (kind == "folder" and named):
      goal = named and kind != "button"  # "click Submit" is no reason to do it at once
      found.append(((1.5 if ready else 0.15) * (1 + 2 * goal), _click(i, ref)))
    elif kind == "checkbox":  # ticks what is named, unticks what is not
      found.append((2.5 if named == (value == "[ ]") else 0.5, _click(i, ref)))
    elif value == "[x]" or (kind != "item" and "on" in control["marks"]):
      found.append((0.1, _click(i, ref)))
    else:
      weight = 2.0 * _toward(ref, values, seen["task"]) * (1 + named) / same[control["text"]]
      found.append((weight, _click(i, ref)))
    if value and (i in fields or kind == "time"):
      begun = i in fields and any(t.startswith(value) for t in texts)
      found.append((0.3 if begun else 1.0, Action(i, "clear", "", f"clear {ref}")))
  return found


def _click(index: int, ref: str) -> Action:
  return Action(index, "click", "", f"click {ref}")


def _named(control: Mapping[str, Any], place: int, task: str) -> bool:
  """Whether the instruction names the control, or counts to it, the place-th of its kind."""
  name = control["text"].partition(" ")[2]
  noun = {"text": "textbox"}.get(control["kind"], control["kind"])
  counted = re.search(rf"\b{place}(st|nd|rd|th) {re.escape(noun)}", task)
  return bool(counted) or (bool(name) and name in task)


def _follows(label: str, task: str, texts: list[str]) -> list[str]:
  """[the text that follows a label's word in the instruction], as "Banks" in "directed by Banks"
  that of Director; [] where it doesn't have the word.
  """
  start = task.lower().find(label[:6].lower()) if label else -1
  after = [(task.find(t, start), t) for t in texts if start >= 0 and task.find(t, start) >= 0]
  return [min(after)[1]] if after else []


def _texts(seen: Mapping[str, Any], ends: re.Pattern) -> list[str]:
  """What the instruction wants typed, as far as its quotes, bold type and capitals tell."""
  wanted = _QUOTED.findall(seen["task"])
  names = [name for name in _NAMES.findall(seen["task"]) if not ends.search(name)]
  return list(dict.fromkeys([*wanted, *([] if wanted else seen["hints"]), *names]))


def _times(task: str) -> list[str]:
  """The times of an instruction, as a field for times has them: 10:15 PM → 22:15."""
  return [
    f"{int(hour) % 12 + 12 * (half == 'PM'):02}:{minute}"
    for hour, minute, half in _CLOCK.findall(task)
  ]


def _any_time(draw) -> str:
  return f"{draw.integers(24):02}:{draw.integers(60):02}"


def _toward(ref: str, values: list[str], task: str) -> float:
  """How much a spinner's button leads from the first field's value to the instruction's number."""
  wanted, value = _NUMBER.search(task), _NUMBER.fullmatch("".join(values[:1]))
  if "spinner-" not in ref or not wanted or not value:
    return 1.0
  gap = int(wanted[0]) - int(value[0])
  return 1.0 if (gap > 0 if "spinner-up" in ref else gap < 0) else 0.4


def _typed(value: str, own: list[str], texts: list[str], draw) -> str:
  """What to type into a field that holds `value`: the rest of a text that is begun; else its own
  text or any, whole or the first half.
  """
  rests = [t[len(value) :] for t in texts if value and t.startswith(value) and t != value]
  if rests and draw.random() < 0.8:
    return rests[0]
  if not texts or draw.random() < 0.1:
    return str(draw.choice(DISTRACTORS))
  text = own[0] if draw.random() < 0.7 else texts[draw.integers(len(texts))]
  return text[: -(-len(text) // 2)].rstrip() if draw.random() < 0.3 else text
