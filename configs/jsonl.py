"""Your own transitions, a file with one JSON object a line (docs/world.md):

    python -m swirl_jax.main --config=configs/jsonl.py --config.world.path=transitions.jsonl \
      --workdir=runs/mine

All labelled transitions of training serve both models; `--config.data.fwm_labels` and
`--config.world.labelled` say otherwise.
"""

from configs import minigrid


def get_config():
  c = minigrid.base()
  c.world = {
    "name": "jsonl", "path": "", "seed": 0,
    "labelled": 0, "validation": 0.1, "test": 0.1, "heldout_levels": (),
    "bpe": 0, "met": "state",
  }  # fmt: skip
  c.data.update({"fwm_labels": 0, "idm_labels": 0})
  return c
