"""A tokenizer of MiniGrid's pictures: `python -m swirl_jax.train_vq`."""

import ml_collections

from configs import minigrid_pixels


def get_config():
  main = minigrid_pixels.get_config()
  c = ml_collections.ConfigDict()
  c.world = {k: v for k, v in main.world.items() if k not in ("vq", "vq_training")}
  c.training = main.world.vq_training.to_dict()
  return c
