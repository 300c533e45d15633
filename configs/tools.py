"""Calls of tools, the stateful APIs of bfcl-eval (docs/worlds/tools.md):

    python -m swirl_jax.main --config=configs/tools.py --workdir=runs/tools

A model of 1.4M parameters, its BPE vocabulary included; states of up to about 170 tokens.
"""

from configs import minigrid


def get_config():
  c = minigrid.base()
  c.world = {
    "name": "tools", "seed": 0, "labelled": 4000, "bpe": 1024,
    "heldout": "MessageAPI", "episodes": 12, "evaluation_episodes": 4, "turns": 12, "longest": 400,
  }  # fmt: skip
  c.data.update({"fwm_labels": 0, "idm_labels": 0})
  c.model.update(
    {"d_model": 160, "n_layers": 4, "n_heads": 5, "n_kv_heads": 5, "head_dim": 32, "d_ff": 448}
  )
  return c
