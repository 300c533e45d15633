"""PyTorch's side of the tokenising: transformers' ChameleonVQVAE, in an environment of its own."""

import argparse
import importlib.metadata
import os
import sys
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import common
import numpy as np
import torch
from safetensors.torch import load_file
from transformers.models.chameleon.configuration_chameleon import ChameleonVQVAEConfig
from transformers.models.chameleon.modeling_chameleon import ChameleonVQVAE


class Worker:
  """Answers `encode`: the codes of a file of pictures, and what they cost."""

  def __init__(self, folder: str):
    self.model = ChameleonVQVAE(ChameleonVQVAEConfig()).eval()
    self.model.load_state_dict(load_file(f"{folder}/model.safetensors"), strict=True)
    self.clock = common.Clock()

  @torch.inference_mode()
  def encode(self, pictures: str) -> dict[str, Any]:
    pixels = torch.from_numpy(np.load(pictures).transpose(0, 3, 1, 2).copy())
    self.clock.start()
    codes = self.model.encode(pixels).image_tokens.numpy()
    spent = self.clock.stop()
    return {"codes": codes.reshape(-1).tolist(), **spent}


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--problem", required=True, help="the folder of the VQ model")
  worker = Worker(parser.parse_args().problem)
  channel = common.Channel()
  versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
  channel.reply(ready=True, versions=versions)
  channel.serve_until_step({"encode": worker.encode})
  sys.exit(0)
