"""What worlds of text have in common, wherever their lines come from: the splits, the vocabulary
(words, or a BPE tokenizer trained on training's text), the tfds builder, and what of it is kept
beside the data, so that a later command needs nothing else.

Episodes, never transitions, are divided between training and evaluation: those whose lines name a
split and those of held-out levels as they say, the others by a hash of seed and episode. In
training a transition that occurs twice is kept once; an evaluation transition that was met there
(`MET` says what that is) is dropped, as is one without an action. All of it is counted in the
builder's metadata. Training splits are in a random order of their transitions, evaluation splits in
one of their episodes, whose turns stay together: the first n records of each are a sample of it.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from swirl_jax.data import fast_tokenizers, transitions
from swirl_jax.data.builders import World
from swirl_jax.data.builders.transition_builder import TransitionBuilder
from swirl_jax.data.transition_lines import NAMED, Line, Refused, meanings_of, same, stop
from swirl_jax.data.transitions import Record

_WORLD = "world.json"  # beside the data: what `Source` says without its records
_TOKENIZER = "tokenizer"  # beside it: the reader's files, where there is one


@dataclasses.dataclass(frozen=True)
class Source:
  """What a file says. digest: its SHA-256; words: its vocabulary, empty where `reader`, a BPE
  tokenizer, is; state_len, action_len: in tokens; meanings: an action's text → its class. `lines`,
  `splits` and `counts` are empty where it wasn't read, because its data lies there already.

  spell: a state of the lines → the state as the data holds it, where lines have a short name for
  it. vq: the digest of the VQ model whose codes states are, where they are pictures.
  """

  digest: str
  words: Sequence[str]
  state_len: int
  action_len: int
  meanings: Mapping[str, str]
  lines: Sequence[Line] = ()
  splits: Mapping[str, Sequence[Record]] = dataclasses.field(default_factory=dict)
  counts: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  reader: Any = None
  spell: Callable[[str], str] = str
  vq: str = ""

  def described(self) -> dict[str, Any]:
    """All but the records, for `_WORLD`."""
    names = ("digest", "words", "state_len", "action_len", "meanings", "vq")
    return {name: getattr(self, name) for name in names}


# -- the splits ----------------------------------------------------------------------------------


def _states(n: Line) -> set:
  return {same(n.x), same(n.y)}


def _prompts(n: Line) -> set:
  """What a model is asked: x with z, and x with y."""
  return {(name, same(n.x), same(getattr(n, name))) for name in "zy" if getattr(n, name)}


# What evaluation may not share with training: a state, as x or y; or a prompt, in worlds whose x is
# a document that all of its calls share, or whose y is a common answer.
MET = {"state": _states, "prompt": _prompts}


def assign(lines: Sequence[Line], settings: Mapping[str, Any]) -> dict[str, str]:
  """Every episode → "train" or its evaluation split, a function of the seed and the episodes."""
  found, free = {}, set()
  for n in lines:
    if n.split or n.level in settings["heldout_levels"]:
      found[n.episode] = n.split or "heldout"
    else:
      free.add(n.episode)
  order = sorted(free, key=lambda name: _by_chance(name, settings))
  for split in ("validation", "test"):
    share = settings.get(split, 0)
    count = max(1, round(share * len(free))) if share else 0
    found |= dict.fromkeys(order[:count], split)
    order = order[count:]
  return found | dict.fromkeys(order, "train")


def _by_chance(episode: str, settings: Mapping[str, Any]) -> bytes:
  """What puts episodes into a random order, a function of the seed and their names."""
  return hashlib.sha256(f"{settings['seed']}/{episode}".encode()).digest()


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
  keys = MET[settings["met"]]
  met = {key for n in training for key in keys(n)}
  for name in transitions.EVALUATION_SPLITS:
    acted = [n for n in parts[name] if n.z]
    acted.sort(key=lambda n: _by_chance(n.episode, settings))
    splits[name] = [n for n in acted if not keys(n) & met]
    counts[name] = {
      "without_z": len(parts[name]) - len(acted), "dropped": len(acted) - len(splits[name]),
    }  # fmt: skip
  for name in [name for name in transitions.OPTIONAL if not parts[name]]:
    del splits[name], counts[name]
  for name, found in splits.items():
    kept = {"kept": len(found), "episodes": len({n.episode for n in found})}
    counts[name] = kept | counts.get(name, {})
  for name, found in splits.items():
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
  if split == "labelled" and not counts["unlabelled"]["kept"]:
    shares = [f"config.world.{name} = {settings[name]!r}" for name in
              ("validation", "test", "heldout_levels") if name in settings]  # fmt: skip
    return (
      f"{nothing}: {', '.join(shares)} and the field split leave training none of the "
      f"{counts['file']['episodes']} episodes; evaluate fewer of them, or add some"
    )
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
  change = f"raise config.world.{split} = {settings[split]}, or " if split in settings else ""
  return f"{nothing}: {lost}; {change}give it other episodes by the field split"


# -- the vocabulary ------------------------------------------------------------------------------


def source_of(
  digest: str, lines: Sequence[Line], settings: Mapping[str, Any], counts: Mapping[str, Any]
) -> Source:
  """What checked lines say under settings (`seed`, `labelled`, `heldout_levels`, `bpe`, `met`,
  perhaps `validation` and `test`; `path` names the file in errors). `counts` go beside its own.
  """
  meanings = meanings_of(lines)
  splits, own = divide(lines, meanings, settings)
  reader = _train(splits, settings["bpe"]) if settings["bpe"] else None
  cut = reader.encode if reader else str.split
  states = [cut(text) for text in dict.fromkeys(t for n in lines for t in (n.x, n.y))]
  actions = [cut(text) for text in {n.z for n in lines if n.z}]
  words = () if reader else sorted({word for text in (*states, *actions) for word in text})
  state_len, action_len = (max(map(len, texts)) for texts in (states, actions))
  return Source(
    digest, words, state_len, action_len, meanings, lines, splits, {**own, **counts}, reader
  )


def _train(splits: Mapping[str, Sequence[Record]], size: int) -> fast_tokenizers.FastTokenizer:
  """BPE on what training may see: its states, and the actions that keep their label."""
  records = [r for name in transitions.TRAIN_SPLITS for r in splits[name]]
  texts = [text for r in records for text in (r.x, r.y, r.z) if text]
  return fast_tokenizers.train_bpe(texts, vocab_size=size)


def check(settings: Mapping[str, Any], names: Sequence[str] = ("seed", "labelled")) -> None:
  """Raises ValueError for whole numbers that are none, a vocabulary too small for bytes, and a
  `met` that is no key of `MET`.
  """

  def refuse(name, allowed):
    raise ValueError(f"config.world.{name} = {settings[name]!r}: allowed is {allowed}.")

  for name in names:
    if type(settings[name]) is not int or not 0 <= settings[name] < 2**31:
      refuse(name, "a whole number from 0")
  bpe = settings["bpe"]
  if type(bpe) is not int or bpe and not fast_tokenizers.LEAST <= bpe < 2**20:
    refuse("bpe", f"0 (one token a word) or a whole number from {fast_tokenizers.LEAST}")
  if not isinstance(settings["met"], str) or settings["met"] not in MET:
    refuse("met", " or ".join(map(repr, MET)))


def check_own(settings: Mapping[str, Any], what: str) -> None:
  """`check`, and what else worlds of a user's own lines are told; `what` should be at `path`."""

  def refuse(name, allowed):
    raise ValueError(f"config.world.{name} = {settings[name]!r}: allowed is {allowed}.")

  if not isinstance(settings["path"], str) or not settings["path"]:
    refuse("path", f"the path of {what}")
  check(settings)
  for name in ("validation", "test"):
    if type(settings[name]) not in (int, float) or not 0 <= settings[name] < 1:
      refuse(name, "a share from 0, below 1")
  if settings["validation"] + settings["test"] >= 1:
    refuse("test", f"less than 1 together with validation = {settings['validation']}")
  levels = settings["heldout_levels"]
  if not isinstance(levels, list | tuple) or not all(isinstance(v, str) for v in levels):
    refuse("heldout_levels", "a tuple of names")


def check_levels(lines: Sequence[Line], settings: Mapping[str, Any]) -> None:
  """Raises ValueError for a level that is held out and that no line has."""
  levels = sorted({n.level for n in lines})
  for level in settings["heldout_levels"]:
    if level not in levels:
      raise ValueError(
        f"config.world.heldout_levels has {level!r}: the levels of {settings['path']} are "
        f"{', '.join(levels)}."
      )


# -- the world -----------------------------------------------------------------------------------


class TextWorld(TransitionBuilder):
  """Transitions of a file of lines; `info.metadata` holds the counts."""

  source: Source  # what it writes
  VERSION = tfds.core.Version("1.2.0")  # raise it whenever the same file gives other records

  def _split_generators(self, dl_manager):
    self.info.metadata.update(self.source.counts)
    if self.source.reader is not None:
      self.source.reader.save_pretrained(self.data_path / _TOKENIZER)
    (self.data_path / _WORLD).write_text(json.dumps(self.source.described()))
    return {name: self._generate_examples(records) for name, records in self.source.splits.items()}

  def _generate_examples(self, records):
    spell = self.source.spell
    whole = (dataclasses.replace(r, x=spell(r.x), y=spell(r.y)) for r in records)
    yield from super()._generate_examples(whole)


def settings_digest(settings: Mapping[str, Any]) -> str:
  """What names the folder of what was made under settings."""
  return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _open(data_dir: str, settings: Mapping[str, Any]) -> TextWorld:
  """The builder in a folder whose name is a digest of the settings: other settings, other folder.

  (A tfds config of that name would be logged as a custom one at every start.)
  """
  return TextWorld(data_dir=os.path.join(data_dir, f"settings_{settings_digest(settings)}"))


def _kept(builder: TextWorld) -> Source | None:
  """What lies beside the data, if it is there."""
  folder = pathlib.Path(builder.data_dir)
  if not (folder / _WORLD).exists():
    return None
  tokenizer = folder / _TOKENIZER
  reader = fast_tokenizers.open_tokenizer(tokenizer) if tokenizer.exists() else None
  return Source(**json.loads((folder / _WORLD).read_text()), reader=reader)


def _builder(
  settings: Mapping[str, Any], path: pathlib.Path, source: Source, data_dir: str, world: World
) -> TextWorld:
  """The tfds builder. Raises ValueError where the data there comes from another file, and for lines
  that don't fit the tokenizer of a checkpoint.
  """
  builder = _open(data_dir, settings)
  builder.source = source
  kept, now = _kept(builder), source.digest
  if kept is None:
    if world.reader is not None:
      stop(str(path), list(_misfits(source, world)))
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


def _misfits(source: Source, world: World) -> Iterator[tuple[int, str]]:
  """The lines that a checkpoint's tokenizer refuses, or that are longer than the run allows."""
  limits = {"x": "state_len", "y": "state_len", "z": "action_len"}
  for n in source.lines:
    try:
      for name, limit in limits.items():
        text = getattr(n, name) if name == "z" else source.spell(getattr(n, name))
        count, most = len(world.tokenizer.encode(text)), getattr(world, limit)
        if text and not count:
          raise Refused(f"{name} is 0 tokens by this tokenizer, must be 1 or more")
        if count > most:
          raise Refused(f"{name} is {count} tokens, must be at most config.data.{limit} = {most}")
    except Refused as error:
      yield n.number, str(error)
    except ValueError as error:
      yield n.number, f"{name}: {error}"


def make(
  name: str,
  settings: Mapping[str, Any],
  path: os.PathLike,
  data_dir: str | None,
  read: Callable[[], Source],
) -> World:
  """The world of the file at `path`, or of the data that was made from it and lies in `data_dir`.

  `settings` decide its folder there. `read` is called where there is no data yet.
  """
  kept = None if data_dir is None else _kept(_open(data_dir, settings))
  source = read() if kept is None else kept
  return World(
    name=name,
    words=tuple(source.words),
    state_len=source.state_len,
    action_len=source.action_len,
    builder=functools.partial(_builder, settings, pathlib.Path(path), source),
    action_class=lambda phrase: source.meanings.get(same(phrase)),
    render=None,
    source=source.digest,
    reader=source.reader,
    vq=source.vq,
  )
