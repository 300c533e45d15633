"""MiniWoB++ pages as text, a web world (docs/worlds/miniwob.md), with a model of 1.1M parameters:

    python -m swirl_jax.main --config=configs/miniwob.py --workdir=runs/miniwob

It needs the extra `miniwob`, chromium and chromium-driver. Steps are minigrid's: not tuned.
"""

from configs import minigrid


def get_config():
  c = minigrid.get_config()
  c.world = {
    "name": "miniwob", "seed": 0, "labelled": 2000, "bpe": 1024,
    "tasks": (
      "choose-list", "click-checkboxes-soft", "click-tab-2-hard", "email-inbox-nl-turk",
      "enter-time", "form-sequence-2", "login-user", "multi-orderings", "navigate-tree",
      "odd-or-even", "use-spinner",
    ),
    "heldout_tasks": ("click-checkboxes", "enter-password", "multi-layouts"),
    "train": 150, "validation": 10, "test": 20, "heldout": 30,
  }  # fmt: skip
  c.model.update(
    {"d_model": 144, "n_layers": 4, "n_heads": 6, "n_kv_heads": 6, "head_dim": 24, "d_ff": 384}
  )
  c.data.update({"fwm_labels": 0, "idm_labels": 0})
  return c
