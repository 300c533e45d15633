"""Your own pictures: a folder of tokenised ones (`tokenized.py`) becomes a world of codes.

A state is a picture's codes as text, one word a patch, row by row; an action is text. Everything
else is as of `jsonl`: fields, splits by episode, what is dropped. Two pictures are the same state
where all their codes are the same; a line whose x and y are is left out, as are those that the job
found without y or with a picture that can't be read. All of it is counted. docs/images.md.
"""

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from swirl_jax.data import tokenized
from swirl_jax.data.builders import World, text_world
from swirl_jax.data.codec import Codec, decoder, encoder, renderer
from swirl_jax.data.image_codes import codes_text, is_code
from swirl_jax.data.tokenizers import SPECIAL
from swirl_jax.data.transition_lines import meanings_of

# path: the tokenised folder. vq: the folder of the VQ model that it was made with, to draw states;
# "": they are shown as codes. The others as of `jsonl`.
DEFAULTS = {
  "path": "", "vq": "", "seed": 0, "labelled": 0, "validation": 0.1, "test": 0.1,
  "heldout_levels": (), "met": "state",
}  # fmt: skip


def _from_folder(settings: Mapping[str, Any]) -> text_world.Source:
  found = tokenized.read_folder(settings["path"])
  path = pathlib.Path(settings["path"]) / tokenized.LINES
  _, lines = tokenized.read_lines(
    path, name="config.world.path", heldout_levels=settings["heldout_levels"]
  )
  text_world.check_levels(lines, settings)
  first: dict[bytes, str] = {}  # codes' digest → the state's name
  states = {
    name: first.setdefault(hashlib.sha256(found.codes[row]).digest(), f"picture {row}")
    for name, row in found.rows.items()
  }
  seen = [n for n in lines if {n.x, n.y} <= states.keys()]
  seen = [n._replace(x=states[n.x], y=states[n.y]) for n in seen]
  usable = [n for n in seen if n.x != n.y]
  counts = {**found.summary["counts"], "same_codes": len(seen) - len(usable)}
  if not usable:
    raise ValueError(f"{path}: no line is left that can train anything ({counts}).")
  meanings = meanings_of(usable)
  splits, own = text_world.divide(usable, meanings, settings)
  words = sorted({word for text in meanings for word in text.split()})
  return text_world.Source(
    digest=found.digest,
    words=(*(f"<{code}>" for code in range(found.summary["codes"])), *words),
    state_len=found.codes.shape[1],
    action_len=max(len(text.split()) for text in meanings),
    meanings=meanings,
    lines=usable,
    splits=splits,
    counts={**own, "images": counts},
    spell=lambda state: codes_text(found.codes[int(state.split()[1])]),
    vq=found.summary["vq"],
  )


def world(settings: Mapping[str, Any], data_dir: str | None, codec: Codec | None) -> World:
  """The world of a tokenised folder, or of the data that was made from it and lies in `data_dir`.

  Raises ValueError where `codec` is not the VQ model that the folder was made with.
  """
  text_world.check_own({**settings, "bpe": 0}, "a folder that swirl_jax.tokenize_images has made")
  own = {name: value for name, value in settings.items() if name != "vq"}
  path = pathlib.Path(settings["path"]) / tokenized.SUMMARY
  made = text_world.make("images", own, path, data_dir, functools.partial(_from_folder, own))
  count, side = sum(map(is_code, made.words)), math.isqrt(made.state_len)
  if codec is not None and (codec.digest, codec.size) != (made.vq, count):
    raise ValueError(
      f"config.world.vq = {settings['vq']!r} has {codec.size} codes and the digest {codec.digest}; "
      f"{settings['path']!r} was made with one of {count} codes and the digest {made.vq}."
    )
  return dataclasses.replace(
    made,
    codes=(len(SPECIAL), len(SPECIAL) + count),
    render=None if codec is None else renderer(codec, side, side),
    pictures=None if codec is None else decoder(codec, side, side),
    encode=None if codec is None else encoder(codec),
  )
