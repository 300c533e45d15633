"""Worlds whose transitions come from playing an environment: collected once, into a file of lines.

The folder of a collection, `NAME_DIGEST` in the data folder (the digest is of the settings and the
collector's `VERSION`), holds `episodes.jsonl` and `versions.json` (see `collection.py`),
`transitions.jsonl`, which is in the format of docs/world.md, and `collection.json`: settings,
versions, counts, and every dropped episode with its reason. What a state hides can make a
transition no function of (x, z): all lines of an (x, z) that led to several y are left out, and
counted as `conflicting`.
"""

import functools
import importlib
import json
import pathlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from swirl_jax.data import collection, transition_lines
from swirl_jax.data.builders import World, text_world
from swirl_jax.data.transition_lines import same
from swirl_jax.whole_files import locked, write_lines

# labelled: the most labelled transitions of training, 0 for all. bpe: the size of the BPE
# vocabulary trained on training's text, 0 for one token a word. met: a key of `text_world.MET`.
COMMON = {"labelled": 0, "bpe": 1024, "met": "state"}

_LINES, _SUMMARY = "transitions.jsonl", "collection.json"
_SHOWN = 20  # dropped episodes that the run's own counts name


def defaults(module: str) -> dict[str, Any]:
  """What `config.world.*` may say: of the collector, and of what is made from its lines."""
  return {**importlib.import_module(module).DEFAULTS, **COMMON}


def world(
  name: str,
  module: str,
  settings: Mapping[str, Any],
  data_dir: str | None,
  workers: int | None = None,
) -> World:
  """The world that a collector's module plays, collected now if its data isn't in `data_dir`.

  Raises ValueError without a data folder, for settings that can't be and where the environment
  isn't installed, and `collection.CollectionError` where it doesn't work.
  """
  text_world.check(settings, ("labelled",))
  if data_dir is None:
    raise ValueError(f"the vocabulary of the world {name!r} is that of its data: set "
                     "config.data.dir, the folder that it is collected into.")  # fmt: skip
  own = {key: value for key, value in settings.items() if key not in COMMON}
  version = {"collector": importlib.import_module(module).VERSION}
  folder = pathlib.Path(data_dir) / f"{name}_{text_world.settings_digest(own | version)}"
  read = functools.partial(_read, module, own, folder, settings, workers)
  settings = {"name": name, **settings, **version}
  return text_world.make(name, settings, folder / _LINES, data_dir, read)


def _read(
  module: str, own: Mapping[str, Any], folder: pathlib.Path, settings, workers: int | None
) -> text_world.Source:
  path = folder / _LINES
  with locked(folder.with_suffix(".lock")):
    if not path.exists():
      _collect(module, own, folder, workers)
  digest, lines = transition_lines.read({"path": str(path), "heldout_levels": ()})
  summary = json.loads((folder / _SUMMARY).read_text())
  counts = {**summary["counts"], "dropped_episodes": len(summary["dropped"])}
  counts["dropped"] = dict(list(summary["dropped"].items())[:_SHOWN])
  shares = {"seed": 0, "heldout_levels": (), "path": str(path), **settings}
  return text_world.source_of(digest, lines, shares, {"collection": counts})


def _collect(module: str, own: Mapping[str, Any], folder: pathlib.Path, workers) -> None:
  """Writes the summary and then, as the mark that all is there, the lines."""
  found = collection.collect(module, own, folder, workers=workers)
  lines, conflicting = without_conflicts(
    {"episode": episode.name, "level": episode.level, "split": episode.split, **line}
    for episode, played in found.episodes
    for line in played.lines
  )
  counts: dict[str, Any] = {"episodes": len(found.episodes) + len(found.dropped)}
  counts |= {"transitions": len(lines), "conflicting": conflicting}
  for episode, played in found.episodes:
    by_split = counts.setdefault(episode.split, Counter())
    by_split.update({"episodes": 1, "transitions": len(played.lines), **played.counts})
  write_lines(folder / _SUMMARY, [json.dumps({
    "collector": module, "settings": dict(own), "counts": counts, "dropped": found.dropped,
    "versions": found.versions,
  }, indent=2)])  # fmt: skip
  write_lines(folder / _LINES, map(json.dumps, lines))


def without_conflicts(lines: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], int]:
  """Those lines whose (x, z) led to one y, and the number of the others."""
  lines, led = list(lines), defaultdict(set)
  cause = lambda line: (same(line["x"]), same(line["z"]))  # noqa: E731
  for line in lines:
    led[cause(line)].add(same(line["y"]))
  kept = [line for line in lines if len(led[cause(line)]) == 1]
  return kept, len(lines) - len(kept)
