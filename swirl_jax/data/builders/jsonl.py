"""Your own transitions: a file with one JSON object a line becomes a world.

    {"x": "door closed key here", "y": "door closed holding key", "z": "take key", "episode": 7}

docs/world.md has the fields. Every line is checked before anything else happens. Episodes, never
transitions, are divided between training and evaluation: those whose lines name a split and those
of held-out levels as they say, the others by a hash of seed and episode. In training a transition
that occurs twice is kept once; an evaluation transition that was met there (`_MET` says what that
is) is dropped, as is one without an action. All of it is counted in the builder's metadata.

The vocabulary is the words of the file. It is kept beside the data, which a later command reads, so
that the file itself may be gone by then.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from swirl_jax.data import transitions
from swirl_jax.data.builders import World
from swirl_jax.data.builders.transition_builder import TransitionBuilder
from swirl_jax.data.transition_lines import NAMED, Line, Refused, meanings_of, read, same, stop
from swirl_jax.data.transitions import Record

# path: the file. labelled: the most labelled transitions, 0 for all that have z. validation, test:
# shares of the episodes whose lines name no split. heldout_levels: never trained on. met: a key of
# _MET.
DEFAULTS = {
  "path": "", "seed": 0, "labelled": 0, "validation": 0.1, "test": 0.1, "heldout_levels": (),
  "met": "state",
}  # fmt: skip

_WORLD = "world.json"  # beside the data: what `_Source` says without its records


@dataclasses.dataclass(frozen=True)
class _Source:
  """What a file says. digest: its SHA-256; meanings: an action's text → its class. `lines`,
  `splits` and `counts` are empty where it wasn't read, because its data lies there already.
  """

  digest: str
  words: Sequence[str]
  state_len: int
  action_len: int
  meanings: Mapping[str, str]
  lines: Sequence[Line] = ()
  splits: Mapping[str, Sequence[Record]] = dataclasses.field(default_factory=dict)
  counts: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)

  def described(self) -> dict[str, Any]:
    """All but the records, for `_WORLD`."""
    names = ("digest", "words", "state_len", "action_len", "meanings")
    return {name: getattr(self, name) for name in names}


# -- the splits ----------------------------------------------------------------------------------


def _states(n: Line) -> set:
  return {same(n.x), same(n.y)}


def _prompts(n: Line) -> set:
  """What a model is asked: x with z, and x with y."""
  return {(name, same(n.x), same(getattr(n, name))) for name in "zy" if getattr(n, name)}


# What evaluation may not share with training: a state, as x or y; or a prompt, in worlds whose x is
# a document that all of its calls share, or whose y is a common answer.
_MET = {"state": _states, "prompt": _prompts}


def assign(lines: Sequence[Line], settings: Mapping[str, Any]) -> dict[str, str]:
  """Every episode → "train" or its evaluation split, a function of the seed and the episodes."""
  found, free = {}, set()
  for n in lines:
    if n.split or n.level in settings["heldout_levels"]:
      found[n.episode] = n.split or "heldout"
    else:
      free.add(n.episode)
  by_chance = lambda name: hashlib.sha256(f"{settings['seed']}/{name}".encode()).digest()  # noqa: E731
  order = sorted(free, key=by_chance)
  for split in ("validation", "test"):
    share = settings[split]
    count = max(1, round(share * len(free))) if share else 0
    found |= dict.fromkeys(order[:count], split)
    order = order[count:]
  return found | dict.fromkeys(order, "train")


def divide(
  lines: Sequence[Line], meanings: Mapping[str, str], settings: Mapping[str, Any]
) -> tuple[dict[str, list[Record]], dict[str, dict[str, int]]]:
  """The records of every split, and the counts: each line is kept in one split, or a duplicate,
  without an action, or dropped. Raises ValueError for a split that would be empty.
  """
  where = assign(lines, settings)
  parts = {name: [n for n in lines if where[n.episode] == name] for name in NAMED}
  first = {(same(n.x), same(n.y), same(n.z)): n for n in reversed(parts["train"])}
  training = sorted(first.values())
  draw = np.random.default_rng(settings["seed"])
  shuffled = lambda found: [found[i] for i in draw.permutation(len(found))]  # noqa: E731
  with_z = shuffled([n for n in training if n.z])
  most = settings["labelled"] or len(with_z)
  bare = [n for n in training if not n.z] + with_z[most:]
  splits = {"labelled": with_z[:most], "unlabelled": shuffled(sorted(bare))}
  counts = {"file": {"lines": len(lines), "episodes": len(where),
                     "duplicates": len(parts["train"]) - len(training)}}  # fmt: skip
  keys = _MET[settings["met"]]
  met = {key for n in training for key in keys(n)}
  for name in transitions.EVALUATION_SPLITS:
    acted = [n for n in parts[name] if n.z]
    splits[name] = [n for n in acted if not keys(n) & met]
    counts[name] = {
      "without_z": len(parts[name]) - len(acted), "dropped": len(acted) - len(splits[name]),
    }  # fmt: skip
  for name in [name for name in transitions.OPTIONAL if not parts[name]]:
    del splits[name], counts[name]
  for name, found in splits.items():
    kept = {"kept": len(found), "episodes": len({n.episode for n in found})}
    counts[name] = kept | counts.get(name, {})
    if not found:
      raise ValueError(f"{settings['path']}: {_empty(name, counts, settings)}.")
  records = {
    name: [transitions.validate(_as_record(n, name, meanings), name) for n in found]
    for name, found in splits.items()
  }
  return records, counts


def _as_record(n: Line, split: str, meanings: Mapping[str, str]) -> Record:
  if split in transitions.NO_ACTIONS:
    return Record(n.x, n.y, "", n.episode, n.turn, "", n.level)
  kind = meanings[same(n.z)].split()[0]
  return Record(n.x, n.y, n.z, n.episode, n.turn, kind, n.level)


def _empty(split: str, counts: Mapping[str, Mapping[str, int]], settings) -> str:
  """What to change where a split would be empty."""
  nothing = f"no transition is left for the split {split!r}"
  if split == "labelled":
    return f"{nothing}: no transition of training has z; give some lines their action"
  if split == "unlabelled":
    n = counts["labelled"]["kept"]
    return (
      f"{nothing}: all {n} of training have z, and config.world.labelled = {settings['labelled']} "
      f"keeps them; set it below {n}, from 1, or leave z out of some lines"
    )
  c = counts[split]
  what = {"state": "x or y", "prompt": "x with z or x with y"}[settings["met"]]
  lost = f"{c['without_z']} had no z, and of {c['dropped']} training has met {what}"
  optional = split in transitions.OPTIONAL
  change = "" if optional else f"raise config.world.{split} = {settings[split]}, or "
  return f"{nothing}: {lost}; {change}give it other episodes by the field split"


# -- the world -----------------------------------------------------------------------------------


class JsonlText(TransitionBuilder):
  """Transitions from a user's file; `info.metadata` holds the counts."""

  source: _Source  # what it writes
  VERSION = tfds.core.Version("1.0.0")  # raise it whenever the same file gives other records

  def _split_generators(self, dl_manager):
    self.info.metadata.update(self.source.counts)
    (self.data_path / _WORLD).write_text(json.dumps(self.source.described()))
    return {name: self._generate_examples(records) for name, records in self.source.splits.items()}


def _open(data_dir: str, settings: Mapping[str, Any]) -> JsonlText:
  """The builder in a folder whose name is a digest of the settings: other settings, other folder.

  (A tfds config of that name would be logged as a custom one at every start.)
  """
  text = json.dumps(settings, sort_keys=True)
  name = f"settings_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
  return JsonlText(data_dir=os.path.join(data_dir, name))


def _kept(builder: JsonlText) -> _Source | None:
  """What lies beside the data, if it is there."""
  path = pathlib.Path(builder.data_dir) / _WORLD
  return _Source(**json.loads(path.read_text())) if path.exists() else None


def _builder(
  settings: Mapping[str, Any], source: _Source, data_dir: str, world: World
) -> JsonlText:
  """The tfds builder. Raises ValueError where the data there comes from another file, and for lines
  that don't fit the tokenizer of a checkpoint.
  """
  builder, path = _open(data_dir, settings), pathlib.Path(settings["path"])
  builder.source = source
  kept, now = _kept(builder), source.digest
  if kept is None:
    if world.reader is not None:
      stop(settings["path"], list(_misfits(source.lines, world)))
    return builder
  if not source.lines and path.exists():
    with open(path, "rb") as file:
      now = hashlib.file_digest(file, "sha256").hexdigest()
  if now != kept.digest:
    raise ValueError(
      f"{path} has changed: its SHA-256 is {now}, and the data in {builder.data_dir} was made from "
      f"{kept.digest}. Restore the file, or choose another folder for the data of this one."
    )
  return builder


def _misfits(lines: Sequence[Line], world: World) -> Iterator[tuple[int, str]]:
  """The lines that a checkpoint's tokenizer refuses, or that are longer than the run allows."""
  limits = {"x": "state_len", "y": "state_len", "z": "action_len"}
  for n in lines:
    try:
      for name, limit in limits.items():
        count, most = len(world.tokenizer.encode(getattr(n, name))), getattr(world, limit)
        if count > most:
          raise Refused(f"{name} is {count} tokens, must be at most config.data.{limit} = {most}")
    except Refused as error:
      yield n.number, str(error)
    except ValueError as error:
      yield n.number, f"{name}: {error}"


def _check(settings: Mapping[str, Any]) -> None:
  def refuse(name, allowed):
    raise ValueError(f"config.world.{name} = {settings[name]!r}: allowed is {allowed}.")

  if not isinstance(settings["path"], str) or not settings["path"]:
    refuse("path", "the path of a file with one JSON object a line")
  for name in ("seed", "labelled"):
    if type(settings[name]) is not int or not 0 <= settings[name] < 2**31:
      refuse(name, "a whole number from 0")
  for name in ("validation", "test"):
    if type(settings[name]) not in (int, float) or not 0 <= settings[name] < 1:
      refuse(name, "a share from 0, below 1")
  if settings["validation"] + settings["test"] >= 1:
    refuse("test", f"less than 1 together with validation = {settings['validation']}")
  levels = settings["heldout_levels"]
  if not isinstance(levels, list | tuple) or not all(isinstance(v, str) for v in levels):
    refuse("heldout_levels", "a tuple of names")
  if not isinstance(settings["met"], str) or settings["met"] not in _MET:
    refuse("met", " or ".join(map(repr, _MET)))


def _from_file(settings: Mapping[str, Any]) -> _Source:
  digest, lines = read(settings)
  levels = sorted({n.level for n in lines})
  for level in settings["heldout_levels"]:
    if level not in levels:
      raise ValueError(
        f"config.world.heldout_levels has {level!r}: the levels of {settings['path']} are "
        f"{', '.join(levels)}."
      )
  meanings = meanings_of(lines)
  splits, counts = divide(lines, meanings, settings)
  states = [text.split() for n in lines for text in (n.x, n.y)]
  actions = [text.split() for text in meanings]
  words = sorted({word for text in (*states, *actions) for word in text})
  state_len, action_len = (max(map(len, texts)) for texts in (states, actions))
  return _Source(digest, words, state_len, action_len, meanings, lines, splits, counts)


def world(settings: Mapping[str, Any], data_dir: str | None) -> World:
  """The world of a file, or of the data that was made from it and lies in `data_dir`."""
  _check(settings)
  kept = None if data_dir is None else _kept(_open(data_dir, settings))
  source = _from_file(settings) if kept is None else kept
  return World(
    name="jsonl",
    words=tuple(source.words),
    state_len=source.state_len,
    action_len=source.action_len,
    builder=functools.partial(_builder, settings, source),
    action_class=lambda phrase: source.meanings.get(same(phrase)),
    render=None,
    source=source.digest,
  )
