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


def _from_file(settings: Mapping[str, Any]) -> text_world.Source:
  digest, lines = read(settings)
  text_world.check_levels(lines, settings)
  return text_world.source_of(digest, lines, settings, {})


def world(settings: Mapping[str, Any], data_dir: str | None) -> World:
  """The world of a file, or of the data that was made from it and lies in `data_dir`."""
  text_world.check_own(settings, "a file with one JSON object a line")
  read_file = functools.partial(_from_file, settings)
  return text_world.make("jsonl", settings, settings["path"], data_dir, read_file)
