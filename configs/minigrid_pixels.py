"""MiniGrid rooms as pictures, from nothing to a report, on two CPU cores: collects, trains a VQ
tokenizer on the pictures of the training splits, and alternates on their codes.

`--config=configs/minigrid_pixels.py:test` is the same program, tiny; it learns nothing.
"""

from configs import minigrid
from configs import test as tiny

SETTINGS = ("default", "test")


def get_config(setting="default"):
  if setting not in SETTINGS:
    raise ValueError(f"configs/minigrid_pixels.py:{setting}: allowed are {', '.join(SETTINGS)}.")
  c = minigrid.base() if setting == "default" else tiny.get_config()
  c.world.name = "minigrid_pixels"
  c.world.vq = ""  # the folder of a tokenizer; empty: one is trained
  c.world.vq_training = vq_training()
  if setting == "test":
    c.world.vq_training.update({"steps": 40, "continuous": 20, "batch": 16, "revive_every": 2})
    c.world.vq_training.vq.update({"ch": 8, "z_channels": 8, "embed_dim": 8})
    c.data.idm_labels = 100
    c.evaluation.turns = 2
  else:
    c.evaluation.turns = 6
  return c


def vq_training():
  """The model looks at squares of 8 × 8 pixels, MiniGrid's tiles here, one by one."""
  return {
    "vq": {
      "channels": 3, "ch": 16, "ch_mult": (1, 1, 2, 2), "res_blocks": 1, "attn_levels": (),
      "mid_attention": False, "z_channels": 32, "embed_dim": 16, "codes": 64, "groups": 4,
      "patch": 8, "dtype": "float32",
    },
    "steps": 1500, "batch": 32, "learning_rate": 4e-3, "warmup_steps": 20, "continuous": 300,
    "commitment": 0.25, "revive_every": 20, "seed": 0,
  }  # fmt: skip
