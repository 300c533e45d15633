"""The tokenizers of worlds of pictures: a VQ model as the `Codec` that a world is handed.

`data/` knows no models: who opens a world hands it its codec (`start.codec_of_world`).
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from swirl_jax.data import images
from swirl_jax.data.codec import Codec
from swirl_jax.models import vqgan, vqgan_files
from swirl_jax.models.vqgan import VQConfig


def open_codec(folder: str | os.PathLike, *, draws: bool = True) -> Codec:
  """The codec of a VQ model's folder (`models/vqgan_files.py`). The model goes to the device when
  it is first asked.

  Raises ValueError naming what is wrong with the folder; with `draws`, that is also a model without
  a decoder, before a run comes to its report.
  """
  config, found = vqgan_files.load(folder)
  if draws:
    vqgan.require_decoder(found)
  params = functools.cache(lambda: vqgan_files.load(folder).params)
  return codec_of(config, params, digest=vqgan_files.digest(folder))


def codec_of(config: VQConfig, params: Callable[[], Any], *, digest: str = "") -> Codec:
  """The codec of a model, one compiled program for each config and shape."""
  return Codec(
    size=config.codes,
    factor=config.factor,
    digest=digest,
    encode=lambda pictures: np.asarray(_encode(params(), config, pictures)),
    decode=lambda codes: np.asarray(_decode(params(), config, codes)),
  )


@functools.partial(jax.jit, static_argnums=1)
def _encode(params, config, pictures):
  return vqgan.encode(params, config, images.to_pixels(pictures))


@functools.partial(jax.jit, static_argnums=1)
def _decode(params, config, codes):
  return images.to_uint8(vqgan.decode(params, config, codes))
