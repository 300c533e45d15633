"""Your own transitions: a file with one JSON object a line becomes a world.

    {"x": "door closed key here", "y": "door closed holding key", "z": "take key", "episode": 7}

docs/world.md has the fields, `text_world.py` what becomes of the lines. Every line is checked
before anything else happens. The file itself may be gone once its data is made.
"""

import functools
from collections.abc import Mapping
from typing import Any

from swirl_jax.data.builders import World, text_world
from swirl_jax.data.transition_lines import read

# path: the file. labelled: the most labelled transitions, 0 for all that have z. validation, test:
# shares of the episodes whose lines name no split. heldout_levels: never trained on. bpe: the size
# of a BPE vocabulary trained on training's text, 0 for one token a word. met: a key of
# `text_world.MET`.
DEFAULTS = {
  "path": "", "seed": 0, "labelled": 0, "validation": 0.1, "test": 0.1, "heldout_levels": (),
  "bpe": 0, "met": "state",
}  # fmt: skip


def _check(settings: Mapping[str, Any]) -> None:
  def refuse(name, allowed):
    raise ValueError(f"config.world.{name} = {settings[name]!r}: allowed is {allowed}.")

  if not isinstance(settings["path"], str) or not settings["path"]:
    refuse("path", "the path of a file with one JSON object a line")
  text_world.check(settings)
  for name in ("validation", "test"):
    if type(settings[name]) not in (int, float) or not 0 <= settings[name] < 1:
      refuse(name, "a share from 0, below 1")
  if settings["validation"] + settings["test"] >= 1:
    refuse("test", f"less than 1 together with validation = {settings['validation']}")
  levels = settings["heldout_levels"]
  if not isinstance(levels, list | tuple) or not all(isinstance(v, str) for v in levels):
    refuse("heldout_levels", "a tuple of names")


def _from_file(settings: Mapping[str, Any]) -> text_world.Source:
  digest, lines = read(settings)
  levels = sorted({n.level for n in lines})
  for level in settings["heldout_levels"]:
    if level not in levels:
      raise ValueError(
        f"config.world.heldout_levels has {level!r}: the levels of {settings['path']} are "
        f"{', '.join(levels)}."
      )
  return text_world.source_of(digest, lines, settings, {})


def world(settings: Mapping[str, Any], data_dir: str | None) -> World:
  """The world of a file, or of the data that was made from it and lies in `data_dir`."""
  _check(settings)
  read_file = functools.partial(_from_file, settings)
  return text_world.make("jsonl", settings, settings["path"], data_dir, read_file)
