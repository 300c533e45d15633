"""What a collected world tells the code that collects it: its episodes, and what was played."""

from typing import Any, NamedTuple


class Episode(NamedTuple):
  """An episode to play. `name` is unique in the world; `arguments` are JSON."""

  name: str
  level: str
  split: str
  arguments: dict[str, Any]


class Played(NamedTuple):
  """The lines of an episode, and what became of the steps that gave none, by reason."""

  lines: list[dict[str, Any]]
  counts: dict[str, int]
