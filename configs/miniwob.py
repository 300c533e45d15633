"""MiniWoB++ pages as text, a web world (docs/worlds/miniwob.md), with a model of 1.1M parameters:

    python -m swirl_jax.main --config=configs/miniwob.py --workdir=runs/miniwob

It needs the extra `miniwob`, chromium and chromium-driver. Steps are minigrid's: not tuned.

`--config=configs/miniwob.py:short` has forms with short texts alone, few labels, short warm-ups and
small batches: the web world of docs/results.md.
"""

from configs import minigrid

SETTINGS = ("default", "short")


def get_config(setting="default"):
  if setting not in SETTINGS:
    raise ValueError(f"configs/miniwob.py:{setting}: allowed are {', '.join(SETTINGS)}.")
  c = minigrid.base()
  c.world = {
    "name": "miniwob", "seed": 0, "labelled": 2000, "bpe": 1024, "longest": 700,
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
  if setting == "short":
    short(c)
  return c


def short(c):
  """Forms whose text is short. Few updates, so that rates rise in few."""
  c.world.update({
    "tasks": ("enter-time", "simple-algebra", "text-transform", "use-spinner"),
    "heldout_tasks": ("simple-arithmetic",), "longest": 140, "bpe": 1024,
    "train": 250, "validation": 15, "test": 25, "heldout": 40,
  })  # fmt: skip
  c.model.update(
    {"d_model": 144, "n_layers": 4, "n_heads": 4, "n_kv_heads": 4, "head_dim": 36, "d_ff": 384}
  )
  c.data.update({"fwm_labels": 150, "idm_labels": 1000})
  c.pretrain.steps = 200
  c.warmup_fwm.update({"steps": 100, "validate_every": 50})
  c.warmup_idm.update({"steps": 120, "validate_every": 60})
  rivals = [rival.sft for rival in c.rivals.values() if "sft" in rival]
  for stage in (c.pretrain, c.warmup_fwm, c.warmup_idm, *rivals):
    stage.batch = 32
    stage.optimizer.warmup_steps = 5
  for phase in (c.phase1, c.phase2):
    phase.update({"prompts": 16, "keep": 8, "anchor": 8})
    phase.optimizer.warmup_steps = 5
  c.evaluation.update({"validation": 150, "test": 300, "heldout": 100})
