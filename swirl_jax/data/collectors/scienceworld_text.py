"""ScienceWorld's text: its look and inventory as a compact canonical state, and what could be done.

    kitchen | counter [bowl (banana, orange), drawer]; freezer open; sink on [metal pot (water)] |
    doors: hallway, outside closed | have: thermometer reads 10

An item is a name, its flags (on, off, open, closed, a reading), and what it holds: in round
brackets for a vessel, in square ones for what stands in a room (a table, a sink). Items are sorted
and equal ones counted ("apple seed x3"): the simulator lists them in an order of its own. The agent
and air are left out; brackets that would be empty, too.
"""

import collections
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Item(NamedTuple):
  """A thing: `holds` is None for what shows no inside; `fixed` is what stands in its room."""

  name: str
  flags: tuple[str, ...]
  holds: tuple["Item", ...] | None
  fixed: bool


class State(NamedTuple):
  """What the agent sees: the items of its room, the doors (room, open), what it carries."""

  place: str
  items: tuple[Item, ...]
  doors: tuple[tuple[str, bool], ...]
  carried: tuple[Item, ...]


# -- reading -------------------------------------------------------------------------------------

_PLACE = re.compile(r"\A\s*This (?:room|outside location) is called the ([\w ]+)\.")
_DOOR = re.compile(r"A door to the ([\w ]+) \(that is (open|closed)\)")
_LISTED = re.compile(r"(is|see): *\n((?:\t.*\n)+)\n?")  # in a carried table: lines of their own
# The last sentence that says what is inside of something, which holds no other such sentence.
_INSIDE = re.compile(r"\A(.*)\b(?:In|On) the [^.:,()\[\]]+? (?:is|you see): ([^.:]*)\.")
_REWRITES = tuple(
  (re.compile(pattern), to)
  for pattern, to in (
    (r"\.?\s*its [\w ]+ is connected to: nothing\.?", ""),
    (r", which is (?:turned on|on\b|activated\.?)", " {on}"),
    (r", which is (?:turned off|off\b|deactivated\.?)", " {off}"),
    (r", which is (open|closed)\b", r" {\1}"),
    (r"\. The [\w ]+? door is (open|closed)\.", r" {\1}"),
    (r", currently reading a temperature of (-?\d+) degrees celsius", r" {reads \1}"),
    (r"\.? The time reads (\d+) ticks\.?", r" {reads \1}"),
    (r", with: +an? ([^,.()]*?) approximately (\d+)% down the plane", r" (\1 {\2% down})"),
    (r", with: +an? ([^,.()]*?) at the (top|bottom) of the plane", r" (\1 {at the \2})"),
    (r"\(containing ", "("),
  )
)
_SIGNS = re.compile(r"[()\[\],]|\{[^{}]*\}|[^()\[\],{}]+")
_CLOSING = {"(": ")", "[": "]"}
_ARTICLE = re.compile(r"^(?:(?:a|an|the|A|An|The) )?(?:substance called )?")
_UNSEEN = ("agent", "air", "nothing", "")


def parse(look: str, inventory: str) -> State:
  """The state in ScienceWorld's own words. ValueError for words of another form."""
  place = _PLACE.match(look)
  seen, _, beyond = look.partition("You also see:")
  _, colon, carried = inventory.partition("you see:")
  if not (place and colon):
    raise ValueError(f"neither a room nor an inventory: {look[:80]!r}, {inventory[:80]!r}")
  _, _, listed = seen.partition("you see:")
  doors = sorted((room, state == "open") for room, state in _DOOR.findall(beyond))
  return State(place[1], _listing(listed), tuple(doors), _listing(carried))


def _listing(text: str) -> tuple[Item, ...]:
  """The items of lines that each hold one."""
  text = _LISTED.sub(lambda m: f"{m[1]}: {', '.join(m[2].split(chr(10))).strip(', ')}.\n", text)
  lines = (_brackets(line) for line in text.splitlines() if line.strip())
  return _sorted(i for line in lines for i in _items(iter(_SIGNS.findall(line)), "", line))


def _brackets(line: str) -> str:
  """A line with every inside in brackets and every flag in braces."""
  for pattern, to in _REWRITES:
    line = pattern.sub(to, line)
  while found := _INSIDE.match(line):
    line = f"{found[1].rstrip(' .')} [{found[2]}]{line[found.end() :]}"
  return re.sub(r"[.\s]+", " ", line)


def _sorted(items: Iterable[Item]) -> tuple[Item, ...]:
  return tuple(sorted((i for i in items if i.name not in _UNSEEN), key=_shown))


def _items(signs: Iterator[str], closing: str, line: str) -> tuple[Item, ...]:
  """The items up to `closing`, or to the end of `line` where it is ""."""
  found, name, flags, holds, fixed = [], "", [], None, False
  for sign in itertools.chain(signs, [""]):
    if sign in (",", closing):
      closed = {"open", "closed"} & set(flags)
      name = _ARTICLE.sub("", " ".join(name.split()))
      found.append(Item(name, tuple(flags), holds, fixed or bool(closed)))
      name, flags, holds, fixed = "", [], None, False
      if sign == closing:
        return _sorted(found)
    elif sign in _CLOSING:
      holds = (holds or ()) + _items(signs, _CLOSING[sign], line)
      fixed = fixed or sign == "["
    elif sign in ("", ")", "]"):
      raise ValueError(f"brackets do not match in {line!r}")
    elif sign[0] == "{":
      flags.append(sign[1:-1])
    else:
      name += sign
  raise AssertionError("the last sign is the end")


# -- writing -------------------------------------------------------------------------------------


def _shown(item: Item) -> str:
  """'freezer open [metal pot (water)]'"""
  words = (item.name, *item.flags)
  if item.holds:
    inside = _joined(item.holds, ", ")
    words += (f"[{inside}]" if item.fixed else f"({inside})",)
  return " ".join(words)


def _joined(items: Iterable[Item], between: str) -> str:
  counts = collections.Counter(_shown(item) for item in items)
  return between.join(text if n == 1 else f"{text} x{n}" for text, n in sorted(counts.items()))


def render(state: State) -> str:
  """The state as one line: the same things in the same places give the same text."""
  doors = ", ".join(room if is_open else f"{room} closed" for room, is_open in state.doors)
  items, carried = _joined(state.items, "; "), _joined(state.carried, "; ")
  parts = (state.place, items or "nothing", f"doors: {doors or 'none'}")
  return " | ".join((*parts, f"have: {carried or 'nothing'}"))


# -- what could be done --------------------------------------------------------------------------

# Kind of command: how often it is tried where there is one. Moving about is rare, as what lies in
# the next room cannot be known; so is waiting, which mostly changes nothing that is seen.
WEIGHTS = {
  "open": 4, "close": 2, "activate": 4, "deactivate": 2, "go": 2.5, "pick up": 4, "drop": 2.5,
  "move": 5, "pour": 3, "dunk": 1, "mix": 2, "eat": 0.5, "wait1": 0.4,
}  # fmt: skip
_NO_SWITCH = ("light bulb", "buzzer", "motor", "solar panel", "switch")
_FOOD = ("apple", "banana", "orange", "potato", "avocado", "peach", "chocolate", "bread")
_STILL = (
  "ground", "drain", "drawer", "painting", "picture", "fountain", "fire pit", "self watering",
  "adult bee",
)  # fmt: skip
_SHUT = "bee hive"  # never opened: bees are everywhere from then on, at random
_ENOUGH = 4  # carried things: above that nothing is picked up


class _Thing(NamedTuple):
  """An item and where it is: the name of what holds it, "inventory", or the room."""

  item: Item
  inside: str
  depth: int


def _things(items: Iterable[Item], inside: str, depth: int = 0) -> Iterator[_Thing]:
  for item in items:
    yield _Thing(item, inside, depth)
    yield from _things(item.holds or (), item.name, depth + 1)


def _names(things: Sequence[_Thing]) -> list[str]:
  """What the simulator calls each thing: its name, and where that is not enough what it holds, and
  where it is.
  """

  def longer(names, details):
    count = collections.Counter(names)
    return [f"{n} {d}" if count[n] > 1 and d else n for n, d in zip(names, details, strict=True)]

  held = [t.item.holds or () for t in things]
  names = longer(
    [t.item.name for t in things],
    [f"containing {h[0].name}" if len(h) == 1 else "" for h in held],
  )
  return longer(names, [f"in {t.inside}" for t in things])


def candidates(state: State) -> dict[str, list[str]]:
  """Commands that probably change the state, by kind; all in the simulator's words."""
  room = [*_things(state.items, state.place)]
  held = [*_things(state.carried, "inventory")]
  things = [*room, *held]
  names = dict(zip(map(id, things), _names(things), strict=True))
  name = {id(t): names[id(t)] for t in things}
  found = {kind: [] for kind in WEIGHTS}
  for place, is_open in state.doors:
    found["close" if is_open else "open"].append(f"door to {place}")
    if is_open:
      found["go"].append(place)
  top = {id(t) for t in held if t.depth == 0}
  targets = [
    t for t in things
    if t.item.name.startswith("inclined plane")
    or (t.item.holds is not None and "closed" not in t.item.flags)
  ]  # fmt: skip
  for t in things:
    own, flags, holds = name[id(t)], t.item.flags, t.item.holds
    still = t.item.fixed or t.item.name.startswith(_STILL) or "inclined plane" in t.item.name
    if "closed" in flags and t.item.name != _SHUT:
      found["open"].append(own)
    if "open" in flags:
      found["close"].append(own)
    if not t.item.name.endswith(_NO_SWITCH):
      found["activate"] += [own] * ("off" in flags)
      found["deactivate"] += [own] * ("on" in flags)
    if not still and id(t) not in top and len(state.carried) < _ENOUGH:
      found["pick up"].append(own)
    if id(t) in top:
      found["drop"].append(own)
    if not still:
      inner = {id(i) for i in _items_of(t.item)}
      into = [u for u in targets if id(u.item) not in inner and u.item.name != t.inside]
      found["move"] += [f"{own} to {name[id(u)]}" for u in into]
      if holds:
        found["pour"] += [f"{own} into {name[id(u)]}" for u in into]
      if holds == ():
        wet = [u for u in into if any(i.name == "water" for i in u.item.holds or ())]
        found["dunk"] += [f"{own} into {name[id(u)]}" for u in wet]
    if holds and len(holds) > 1 and not t.item.fixed:
      found["mix"].append(own)
    if t.item.name.endswith(_FOOD):
      found["eat"].append(own)
  found["wait1"].append("")
  return {k: [f"{k} {rest}".strip() for rest in sorted(set(v))] for k, v in found.items() if v}


def _items_of(item: Item) -> Iterator[Item]:
  yield item
  for inner in item.holds or ():
    yield from _items_of(inner)


# -- commands that the simulator finds ambiguous -------------------------------------------------

_OPTION = re.compile(r"^(\d+):	(.*?)\s*$", re.MULTILINE)
_WHERE = re.compile(r" \(([^()]*)\)")


def options(said: str) -> dict[str, str]:
  """The numbers that an "Ambiguous request" asks to choose from → what each would do, in words:
  every thing with what holds it, unless that is the room. {} for any other answer.
  """

  def nearest(match):
    places = [p.strip().removeprefix("in ") for p in match[1].split(",") if p.strip()]
    return f" in {places[0]}" if len(places) > 1 else ""

  if "Ambiguous request" not in said:
    return {}
  return {number: _WHERE.sub(nearest, text) for number, text in _OPTION.findall(said)}
