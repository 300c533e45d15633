"""Our side of the tokenising: the shipped loader and the shipped `vqgan.encode`, jitted."""

import argparse
import sys
from typing import Any

import common
import jax
import numpy as np

import swirl_jax
from swirl_jax.models import vqgan, vqgan_files


class Worker:
  """Answers `encode`: the codes of a file of pictures, and what they cost."""

  def __init__(self, folder: str):
    self.vq = vqgan_files.load(folder)
    self.encode_batch = jax.jit(vqgan.encode, static_argnums=1)
    self.clock = common.Clock()

  def encode(self, pictures: str) -> dict[str, Any]:
    pixels = np.load(pictures)
    self.clock.start()
    codes = np.asarray(self.encode_batch(self.vq.params, self.vq.config, pixels))
    spent = self.clock.stop()
    return {"codes": codes.reshape(-1).tolist(), **spent}


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--problem", required=True, help="the folder of the VQ model")
  worker = Worker(parser.parse_args().problem)
  channel = common.Channel()
  channel.reply(ready=True, versions={"swirl_jax": swirl_jax.__version__, "jax": jax.__version__})
  channel.serve_until_step({"encode": worker.encode})
  sys.exit(0)
