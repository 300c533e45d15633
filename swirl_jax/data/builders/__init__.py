"""Worlds: what a user brings to train on other data than ours.

A world is a file in this folder with `DEFAULTS`, what `config.world.*` may say, and one function
`world(settings, data_dir) -> World`; and one line in `WORLDS` below. It declares its vocabulary and
lengths, and how to make its tfds builder, which writes the splits and features of `transitions.py`
in array_record. `swirl_jax/data/builders/minigrid.py` is an example. A world of pictures has a
setting `vq`, is given its tokenizer as `codec`, and may have a function `pictures`, what one is
trained on (`minigrid_pixels.py`). An environment that is played by worker processes is a collector
(`data/collection.py`), and one line in `COLLECTED`.
"""

import dataclasses
import functools
import importlib
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from swirl_jax.data.codec import Codec
from swirl_jax.data.image_codes import codes_text, is_code
from swirl_jax.data.images import open_image, prepare  # a world is called images
from swirl_jax.data.tokenizers import WordTokenizer
from swirl_jax.data.transition_lines import composed
from swirl_jax.whole_files import locked

WORLDS = {  # name → module
  "images": "swirl_jax.data.builders.images",
  "jsonl": "swirl_jax.data.builders.jsonl",
  "minigrid": "swirl_jax.data.builders.minigrid",
  "minigrid_pixels": "swirl_jax.data.builders.minigrid_pixels",
}
_COLLECTED = "swirl_jax.data.builders.collected"  # makes worlds of these:
COLLECTED = {  # name → the collector's module
  "miniwob": "swirl_jax.data.collectors.miniwob",
  "scienceworld": "swirl_jax.data.collectors.scienceworld",
  "tools": "swirl_jax.data.collectors.tools",
}


# (settings, data_dir, pictures) → the tokenizer of a world of pictures, None where it needs none.
# pictures: () → uint8 [N, H, W, 3], what one could be trained on; None where there are none.
Codecs = Callable[
  [Mapping[str, Any], str | None, Callable[[], np.ndarray] | None], Codec | None
]


@dataclasses.dataclass(frozen=True, eq=False)  # one object a world: hashed by identity
class World:
  """An environment family as text, under given settings.

  name: as in `WORLDS` or `COLLECTED`.
  words: every word that a state or an action may hold, in a fixed order: the vocabulary.
  state_len, action_len: the greatest number of words of a state and of an action.
  builder: (data_dir, this world) → tfds builder, not yet prepared.
  action_class: an action phrase → what it means, the same for every paraphrase ("pickup red key"),
    or None where it is no phrase of this world. The first word is the class that records hold in
    `action`.
  render: (state text, marks) → a picture, uint8 [height, width, 3]; the words at the positions in
    `marks` are outlined. Draws whatever it is given, since predicted states may be impossible.
    None: a state is shown as its text.
  source: the SHA-256 of the file that the world was made from, where it was made from one.
  reader: a tokenizer of subwords, trained on the world's text or a language model's; state_len and
    action_len then count its tokens. None: one token a word.
  codes: the token ids (start, stop) of an image's codes; every state then is exactly `state_len` of
    them, and an action holds none. None: a state is text.
  vq: the digest of the VQ model whose codes those are, where data and model may lie apart.
  pictures: where a state is an image's codes, states as texts of codes → what they decode to, uint8
    [N, height, width, 3], all of one size and as the decoder gives them: nothing enlarged or
    outlined.
  encode: the other way: such pictures → their states as texts of codes.
  """

  name: str
  words: tuple[str, ...]
  state_len: int
  action_len: int
  builder: Callable[[str, "World"], Any]
  action_class: Callable[[str], str | None]
  render: Callable[..., np.ndarray] | None
  source: str = ""
  reader: Any = None
  codes: tuple[int, int] | None = None
  vq: str = ""
  pictures: Callable[[Sequence[str]], np.ndarray] | None = None
  encode: Callable[[np.ndarray], list[str]] | None = None

  @functools.cached_property
  def tokenizer(self) -> Any:
    """The reader, or one token for each of the world's words."""
    return WordTokenizer(self.words) if self.reader is None else self.reader

  @staticmethod
  def cells(state: str) -> tuple[str, ...]:
    """The state's words by position: what a comparison of two states goes through."""
    return tuple(state.split())

  def differences(self, state: str, truth: str) -> tuple[int, ...]:
    """The positions at which two states differ, for `render`'s marks; a missing word differs."""
    a, b = self.cells(state), self.cells(truth)
    return tuple(i for i in range(max(len(a), len(b))) if a[i : i + 1] != b[i : i + 1])

  def state(self, given: str, folder: os.PathLike | str = ".") -> str:
    """A state as the world has it: a text, composed, or the codes of the picture file that it
    names, from `folder`. A picture of another size is prepared (`images.prepare`) where this
    world's are squares.

    Raises ValueError for a picture that can't be read or has another size, and without a VQ model.
    """
    if self.codes is None:
      return composed(given)
    if all(map(is_code, given.split())):
      return given
    if self.encode is None or self.pictures is None:
      raise ValueError(f"{given!r} is a picture, but the run's config.world.vq names no VQ model.")
    blank = codes_text(np.zeros(self.state_len, int))
    height, width, _ = self.pictures([blank])[0].shape
    picture = open_image(pathlib.Path(folder) / given, name=given)
    if picture.size == (width, height):
      pixels = np.asarray(picture)
    elif width == height:
      pixels = prepare(picture, width)
    else:
      raise ValueError(f"{given!r} has {picture.size} pixels; this world's: {(width, height)}.")
    return self.encode(pixels[None])[0]

  def prepare(self, data_dir: str) -> Any:
    """The tfds builder with its data on disk under `data_dir`, collected now if not yet there.

    Other settings are other data, in a folder of their own. One process at a time collects into a
    folder; what a killed one left behind is removed first.
    """
    builder = self.builder(os.fspath(data_dir), self)
    folder = pathlib.Path(builder.data_dir)
    if not folder.exists():
      _collect(builder, folder)
      builder = self.builder(os.fspath(data_dir), self)
    return builder


def _collect(builder, folder: pathlib.Path) -> None:
  """Prepares under a lock; tfds writes beside `folder` and renames when whole."""
  import tensorflow_datasets as tfds

  with locked(folder.parent / ".lock"):
    if folder.exists():  # another process was first
      return
    for left in folder.parent.glob(f"incomplete.*_{folder.name}"):
      shutil.rmtree(left)
    tfds.disable_progress_bar()  # the builder shows its own
    builder.download_and_prepare(
      file_format="array_record",
      download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )


def get(
  name: str,
  settings: Mapping[str, Any] | None = None,
  data_dir: str | None = None,
  *,
  workers: int | None = None,
  codecs: Codecs | None = None,
) -> World:
  """The world called `name` under settings, the others at their defaults. `data_dir`: where its
  data lies or will lie, for a world whose vocabulary is that of its data; one that is `COLLECTED`
  is collected there if it wasn't, by `workers` processes (None: one a core). `codecs` finds the
  tokenizer of a world of pictures, one that has the setting `vq`. Raises ValueError for settings
  that it hasn't, and for values that can't be.
  """
  if name in COLLECTED:
    collected, module = importlib.import_module(_COLLECTED), COLLECTED[name]
    settings = _whole(name, settings, collected.defaults(module))
    return collected.world(name, module, settings, data_dir, workers=workers)
  module = _module(name)
  settings = _whole(name, settings, module.DEFAULTS)
  if "vq" not in settings:
    return module.world(settings, data_dir)
  own = getattr(module, "pictures", None)
  drawn = None if own is None else functools.partial(own, settings, data_dir)
  codec = None if codecs is None else codecs(settings, data_dir, drawn)
  return module.world(settings, data_dir, codec)


def pictures(name: str, settings: Mapping[str, Any], data_dir: str) -> np.ndarray:
  """What a tokenizer of the world is trained on, its data being made in `data_dir`. uint8 [N, H, W,
  3]. Raises ValueError as `get` does, and for a world that draws none.
  """
  module = _module(name)
  if not hasattr(module, "pictures"):
    raise ValueError(f"the world {name!r} draws no pictures that a tokenizer could be trained on.")
  return module.pictures(_whole(name, settings, module.DEFAULTS), data_dir)


def _module(name: str) -> Any:
  names = sorted({*WORLDS, *COLLECTED})
  if name not in names:
    raise ValueError(f"unknown world {name!r}; the worlds are {', '.join(names)}")
  return importlib.import_module(WORLDS[name] if name in WORLDS else COLLECTED[name])


def _whole(name: str, settings: Mapping[str, Any] | None, defaults: Mapping[str, Any]):
  """The settings, those that are not given at their defaults."""
  settings = {} if settings is None else settings
  for key in settings:
    if key not in defaults:
      allowed = ", ".join(defaults)
      raise ValueError(f"world {name!r} has no setting {key!r}; it has {allowed}")
  return {**defaults, **settings}
