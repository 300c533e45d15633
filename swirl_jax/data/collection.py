"""What a collected world and the code that collects it tell each other."""

from typing import Any, NamedTuple


class Episode(NamedTuple):
  """An episode to be played: `name` is unique in the world, `arguments` are JSON."""

  name: str
  level: str
  split: str
  arguments: dict[str, Any]


class Played(NamedTuple):
  """The lines of an episode in their order, and the steps that gave none, counted by reason."""

  lines: list[dict[str, Any]]
  counts: dict[str, int]
