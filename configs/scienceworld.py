"""ScienceWorld, a house in which matter is heated, mixed and grown (docs/worlds/scienceworld.md):

    python -m swirl_jax.main --config=configs/scienceworld.py --workdir=runs/scienceworld

Collecting takes about 13 minutes of one core. The two models have 1.4 million parameters each.
"""

from configs import minigrid


def get_config():
  c = minigrid.base()
  c.world = {
    "name": "scienceworld", "seed": 0, "labelled": 3000, "bpe": 1024,
    "train": 420, "validation": 56, "test": 84, "heldout": 40,
    "heldout_tasks": ("chemistry-mix", "inclined-plane-determine-angle"),
    "gold": 0.25, "detours": 0.3, "steps": 40, "characters": 450,
  }  # fmt: skip
  c.model.update(
    {"d_model": 160, "n_layers": 4, "n_heads": 5, "n_kv_heads": 5, "head_dim": 32, "d_ff": 432}
  )
  c.data.update({"fwm_labels": 0, "idm_labels": 0})
  return c
