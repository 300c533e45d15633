"""The tokenizers of worlds of pictures: from a VQ model's folder to the `Codec` that a world asks.

`data/` knows no models: who opens a world (`start.world_of`, `collect`) opens its codec here and
hands it over.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from swirl_jax.data import images
from swirl_jax.data.codec import Codec
from swirl_jax.models import vqgan, vqgan_files


def of_world(world: Mapping[str, Any]) -> Codec | None:
  """The codec of `config.world`; None for a world that names none (`vq` is "" or no setting)."""
  folder = world.get("vq", "")
  if not isinstance(folder, str):
    raise ValueError(f"config.world.vq = {folder!r}: allowed is the folder of a VQ model, or ''.")
  return open_codec(folder) if folder else None


def open_codec(folder: str | os.PathLike) -> Codec:
  """The codec of a VQ model's folder (`models/vqgan_files.py`), one compiled program for each
  shape. The model goes to the device when it is first asked.

  Raises ValueError, or another of `vqgan_files.load`, naming what is wrong with the folder.
  """
  config = vqgan_files.load(folder).config
  params = functools.cache(lambda: vqgan_files.load(folder).params)

  @jax.jit
  def encode(params, pictures):
    return vqgan.encode(params, config, images.to_pixels(pictures))

  @jax.jit
  def decode(params, codes):
    return images.to_uint8(vqgan.decode(params, config, codes))

  return Codec(
    size=config.codes,
    factor=config.factor,
    digest=vqgan_files.digest(folder),
    encode=lambda pictures: np.asarray(encode(params(), pictures)),
    decode=lambda codes: np.asarray(decode(params(), codes)),
  )
