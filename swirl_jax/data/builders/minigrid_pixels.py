"""MiniGrid as pictures: the episodes of the world `minigrid`, each state drawn by MiniGrid's tiles.

A picture is the inner 4 × 4 room and below it a row of wall whose first tile is what is carried: 5
× 4 tiles of 8 × 8 pixels, uint8 [40, 32, 3]. A tokenizer turns it into codes, and records hold
those as text (`image_codes.py`). Episodes, splits, phrases and the level that is held out are those
of the text world, whose data is made first, in the same folder; so an evaluation transition whose
state training has met is dropped by the state itself. Where the tokenizer gives one code grid to
different states, more is lost, and counted: transitions whose x and y have the same codes, and
evaluation transitions whose codes training has met.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from swirl_jax.data import transitions
from swirl_jax.data.builders import World, minigrid
from swirl_jax.data.builders.text_world import settings_digest
from swirl_jax.data.builders.transition_builder import TransitionBuilder
from swirl_jax.data.codec import BATCH, Codec, decoder, encoder, in_batches, renderer
from swirl_jax.data.image_codes import codes_text
from swirl_jax.data.pipeline import Split
from swirl_jax.data.tokenizers import SPECIAL
from swirl_jax.data.transitions import Record

TILE = 8  # pixels a side
ROWS, COLUMNS = minigrid.WIDTH + 1, minigrid.WIDTH  # of tiles

# The text world's, and of the tokenizer: `vq` is its folder; where that is "", one is trained on
# the pictures of the training splits, as `vq_training` says (`models/vq_training.VQTraining`).
DEFAULTS = {**minigrid.DEFAULTS, "vq": "", "vq_training": {}}


def draw(states: Sequence[str]) -> np.ndarray:
  """States of the text world as pictures. uint8 [N, 40, 32, 3]"""
  tiles = np.stack(list(_tiles().values()))  # [kinds, 8, 8, 3]
  index = {word: i for i, word in enumerate(_tiles())}
  kinds = np.full((len(states), ROWS * COLUMNS), index["wall"])
  for kind, state in zip(kinds, states, strict=True):
    *cells, carried = state.split()
    carried = carried.removeprefix("carrying_").replace("nothing", "empty")
    kind[: len(cells) + 1] = [index[word] for word in (*cells, carried)]
  grid = tiles[kinds].reshape(len(states), ROWS, COLUMNS, TILE, TILE, 3)
  return grid.swapaxes(2, 3).reshape(len(states), ROWS * TILE, COLUMNS * TILE, 3)


@functools.cache
def _tiles() -> dict[str, np.ndarray]:
  """Word of a cell → its picture, uint8 [8, 8, 3]."""
  return {word: minigrid.tile(word, TILE) for word in minigrid.CELLS}


def _rooms(settings: Mapping[str, Any], data_dir: str) -> Any:
  """The prepared builder of the text world with the same episodes."""
  own = {name: settings[name] for name in minigrid.DEFAULTS}
  return minigrid.world(own, data_dir).prepare(data_dir)


def pictures(settings: Mapping[str, Any], data_dir: str) -> np.ndarray:
  """What a tokenizer is trained on: the distinct states of the training splits. [N, 40, 32, 3]"""
  rooms = _rooms(settings, data_dir)
  records = (r for split in transitions.TRAIN_SPLITS for r in Split(rooms, split))
  return draw(list(dict.fromkeys(state for r in records for state in (r.x, r.y))))


def encode(
  splits: Mapping[str, Sequence[Record]], codec: Codec
) -> tuple[dict[str, list[Record]], dict[str, dict[str, int]]]:
  """Records of the text world with codes for states, and counts by split: `kept`, `same_codes`
  (x and y look the same to the tokenizer), `met_codes` (training has met those of x or y); and of
  `pictures` how many states there were and how many code grids they became.
  """
  states = list(dict.fromkeys(s for rs in splits.values() for r in rs for s in (r.x, r.y)))
  codes: dict[str, str] = {}
  with tqdm(total=len(states), desc="encoding pictures", unit=" pictures") as bar:
    for first in range(0, len(states), BATCH):
      part = states[first : first + BATCH]
      codes |= zip(part, map(codes_text, in_batches(codec.encode, draw(part))), strict=True)
      bar.update(len(part))
  training = [r for name in transitions.TRAIN_SPLITS for r in splits[name]]
  met = {codes[s] for r in training for s in (r.x, r.y)}
  found, counts = {}, {"pictures": {"states": len(states), "grids": len(set(codes.values()))}}
  for name, records in splits.items():
    all_ = [dataclasses.replace(r, x=codes[r.x], y=codes[r.y]) for r in records]
    told = [r for r in all_ if r.x != r.y]
    new = [r for r in told if name in transitions.TRAIN_SPLITS or not {r.x, r.y} & met]
    found[name] = [transitions.validate(r, name) for r in new]
    counts[name] = {"kept": len(new), "same_codes": len(all_) - len(told),
                    "met_codes": len(told) - len(new)}  # fmt: skip
    if not new:
      raise ValueError(
        f"minigrid_pixels: the tokenizer leaves nothing of the split {name!r} ({counts[name]}); it "
        "can't tell the states from each other. Train it longer or with more codes."
      )
  return found, counts


class MinigridPixels(TransitionBuilder):
  """Transitions of MiniGrid pictures as codes; `info.metadata` holds the counts by split."""

  VERSION = tfds.core.Version("1.0.0")  # raise it whenever the same settings give other records

  def _split_generators(self, dl_manager):
    rooms = _rooms(self.settings, self.text_dir)
    found, counts = encode({name: list(Split(rooms, name)) for name in rooms.info.splits},
                           self.codec)  # fmt: skip
    text = dict(rooms.info.metadata)
    self.info.metadata.update({k: {**text.get(k, {}), **c} for k, c in counts.items()})
    return {name: self._generate_examples(records) for name, records in found.items()}


def _builder(settings, codec: Codec, data_dir: str, world: World) -> MinigridPixels:
  """The tfds builder, in a folder named by the episodes' settings and the tokenizer's digest."""
  own = {name: settings[name] for name in minigrid.DEFAULTS} | {"vq": codec.digest}
  builder = MinigridPixels(data_dir=os.path.join(data_dir, f"settings_{settings_digest(own)}"))
  builder.settings, builder.codec, builder.text_dir = settings, codec, data_dir
  return builder


def world(settings: Mapping[str, Any], data_dir: str | None, codec: Codec | None) -> World:
  """The world under a codec. Raises ValueError without one, and where its patches don't fit."""
  if codec is None:
    raise ValueError("minigrid_pixels: its states are codes, and there is no tokenizer for them.")
  if ROWS * TILE % codec.factor or COLUMNS * TILE % codec.factor:
    raise ValueError(
      f"config.world.vq = {settings['vq']!r}: a code of it stands for {codec.factor} pixels a "
      f"side, which must divide both sides of a picture, {ROWS * TILE} and {COLUMNS * TILE}."
    )
  text = minigrid.world({name: settings[name] for name in minigrid.DEFAULTS}, data_dir)
  rows, columns = ROWS * TILE // codec.factor, COLUMNS * TILE // codec.factor
  return dataclasses.replace(
    text,
    name="minigrid_pixels",
    words=(*codes_text(np.arange(codec.size)).split(), *minigrid.phrase_words()),
    state_len=rows * columns,
    source=codec.digest,
    codes=(len(SPECIAL), len(SPECIAL) + codec.size),
    builder=functools.partial(_builder, settings, codec),
    render=renderer(codec, rows, columns),
    pictures=decoder(codec, rows, columns),
    encode=encoder(codec),
  )
