"""Your own pictures, tokenised once (docs/images.md):

    python -m swirl_jax.tokenize_images --lines=pairs.jsonl --vq=FOLDER --out=codes
    python -m swirl_jax.main --config=configs/images.py --config.world.path=codes \
      --config.world.vq=FOLDER --workdir=runs/images

The FWM predicts the codes of the next picture, the IDM says in words what happened.
"""

from configs import minigrid


def get_config():
  c = minigrid.base()
  c.world = {
    "name": "images", "path": "", "vq": "", "seed": 0,
    "labelled": 0, "validation": 0.1, "test": 0.1, "heldout_levels": (), "met": "state",
  }  # fmt: skip
  c.data.update({"fwm_labels": 0, "idm_labels": 0})
  return c
