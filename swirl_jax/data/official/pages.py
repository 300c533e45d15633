"""A web page as text, compact: what can be read or acted on, one item a line.

    Try searching for a
    a "Plumber"
    input "Zip code" = "10203"
    button "Search" #2

An element that can be acted on is its tag, its name (what labels it, or else its text), what it
holds, and `#n` if it is the n-th of the page with that tag and name. A page is XML, as Mind2Web's
`cleaned_html` is, where `backend_node_id` tells elements apart.
"""

import collections
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from xml.etree import ElementTree

ACTED_ON = frozenset({"a", "button", "input", "select", "textarea", "option"})
ROLES = frozenset(
  {"button", "checkbox", "combobox", "link", "menuitem", "option", "radio", "searchbox", "switch",
   "tab", "textbox"}
)  # fmt: skip
LABELS = ("aria_label", "label", "title", "alt", "placeholder", "name")  # the first that says much
VALUES = ("input_value", "value")
STATES = ("input_checked", "checked", "option_selected", "selected")
NAME = 80  # the most characters of a name


class Page(NamedTuple):
  """text: the page's items; elements: backend_node_id → how an action names that element."""

  text: str
  elements: Mapping[str, str]


def acted_on(element: ElementTree.Element) -> bool:
  role = element.get("role", element.get("aria_role"))
  return element.tag in ACTED_ON or role in ROLES


def _squeezed(text: str | None) -> str:
  return "" if text is None else " ".join(text.split())


def _own(element: ElementTree.Element) -> str:
  """What an attribute says of the element."""
  return next((said for n in LABELS if (said := _squeezed(element.get(n)))), "")


def _within(element: ElementTree.Element) -> str:
  return _squeezed(" ".join(element.itertext()))


def _short(text: str) -> str:
  return text if len(text) <= NAME else text[: NAME - 1] + "…"


def _quoted(tag: str, name: str) -> str:
  return f'{tag} "{name}"' if name else tag


def _held(element: ElementTree.Element) -> str:
  """What a field holds and whether it is chosen."""
  value = next((said for n in VALUES if (said := _squeezed(element.get(n)))), "")
  on = any(element.get(n, "false").lower() != "false" for n in STATES)
  return (f' = "{value}"' if value else "") + (" (chosen)" if on else "")


def read(html: str) -> Page:
  """The page of a well-formed document; ElementTree.ParseError (a SyntaxError) for another."""
  root = ElementTree.fromstring(html)
  above = {below: element for element in root.iter() for below in element}
  counts, places, names = collections.Counter(), {}, {}
  for element in root.iter():
    name = _quoted(element.tag, _short(_name(element)))
    counts[name] += 1
    places[element] = f" #{counts[name]}" if counts[name] > 1 else ""
    names[element] = name + places[element]
  elements = {}
  for element in root.iter():
    shown = element  # what holds it and can be acted on stands for it, as it does in the text
    while shown is not None and not acted_on(shown):
      shown = above.get(shown)
    if key := element.get("backend_node_id"):
      elements.setdefault(key, names[element if shown is None else shown])
  return Page("\n".join(_items(root, places)), elements)


def _items(root: ElementTree.Element, places: Mapping[ElementTree.Element, str]) -> Iterator[str]:
  """The items in the order of the document."""
  waiting: list[ElementTree.Element | str | None] = [root]
  while waiting:
    found = waiting.pop()
    if not isinstance(found, ElementTree.Element):
      if text := _squeezed(found):
        yield text
      continue
    label, below = _own(found), [part for child in found for part in (child, child.tail)]
    if acted_on(found):
      name = _name(found)
      yield _quoted(found.tag, name) + places[found] + _held(found)
      if _within(found) == name:
        continue  # the name has said it all
    elif label:
      yield _quoted(found.tag, label)
    waiting += reversed([found.text, *below])


def _name(element: ElementTree.Element) -> str:
  """Its label, or else its text, unless that is the text of others that can be acted on."""
  label = _own(element)
  holds = acted_on(element) and any(acted_on(e) for e in element.iter() if e is not element)
  return label if label or holds else _within(element)
