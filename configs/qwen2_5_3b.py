"""Qwen2.5-3B-Instruct with the settings that arXiv:2602.06130 has for text: one round, 64 chips.

`--config=configs/qwen2_5_3b.py:tiny` is the same run in a few steps on one CPU; point `pretrained`
at a small folder of the same family:

    python -m swirl_jax.main --config=configs/qwen2_5_3b.py:tiny --workdir=runs/tiny \
      --config.pretrained=FOLDER

The world is MiniGrid; another one changes `world`, `data` and the lengths there.
"""

import ml_collections

from configs import defaults

SIZES = ("full", "tiny")


def get_config(size="full"):
  if size not in SIZES:
    raise ValueError(f"size {size!r}: allowed are {', '.join(SIZES)}.")
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.weights = "separate"
  c.pretrained = "Qwen/Qwen2.5-3B-Instruct"
  c.prompts = "chat"
  c.world = {
    "name": "minigrid", "seed": 0,
    "labelled": 4000, "unlabelled": 16000, "validation": 400, "test": 600, "heldout": 300,
  }
  c.data = {"fwm_labels": 4000, "idm_labels": 4000, "dir": "", "state_len": 128, "action_len": 32}
  c.model = {
    "scan_layers": True, "remat": "full", "dtype": "bfloat16", "logprob_chunk": 4096,
    "lora_rank": 0, "lora_alpha": 16.0, "lora_targets": ("qkv", "out", "gate_up", "down"),
  }
  c.mesh = {"data": 1, "fsdp": 64, "tensor": 1, "rollout_gather": True}
  c.pretrain = sft(steps=0)
  c.warmup_fwm = sft(steps=160)  # five epochs of the labels
  c.warmup_idm = sft(steps=160)
  c.swirl = {"iterations": 1, "order": ("phase1", "phase2"), "reset_reference": True}
  c.phase1 = phase(count_end=False)
  c.phase2 = phase(count_end=True)
  c.compare = ()
  c.evaluation = {
    "validation": 400, "test": 600, "heldout": 300, "batch": 128,
    "best_of": 8, "turns": 5, "chains": 50, "gallery": 24,
  }
  c.checkpoint = {"every": 25, "keep": 2}
  if size == "tiny":
    _shrink(c)
  return defaults.fill(c)


def sft(*, steps):
  return {
    "steps": steps, "batch": 128, "micro_batch": 64, "turns": 1,
    "validate_every": 0, "patience": 0,
    "optimizer": {
      "learning_rate": 2e-5, "warmup_steps": 8, "schedule": "cosine", "weight_decay": 0.01,
      "clip_norm": 1.0,
    },
  }


def phase(*, count_end):
  """The paper's row for text: batch 128, G 16, β 0.1, T 0.7, top-p 0.96, 5e-5 cosine after 25."""
  return {
    "steps": 125, "prompts": 128, "group": 16, "micro_batch": 64,
    "optimizer": {
      "learning_rate": 5e-5, "warmup_steps": 25, "schedule": "cosine", "weight_decay": 0.01,
      "clip_norm": 1.0,
    },
    "temperature": 0.7, "top_p": 0.96, "latent_temperature": 0.7, "beta": 0.1,
    "reward": {"reduce": "mean", "floor": -10.0, "count_end": count_end},
  }


def _shrink(c):
  """Everything that is large: splits, steps, batches, the mesh."""
  c.world.update({"labelled": 60, "unlabelled": 80, "validation": 8, "test": 8, "heldout": 8})
  c.data.update({"fwm_labels": 30, "idm_labels": 30})
  c.model.update({"dtype": "float32", "remat": "none"})
  c.mesh.update({"fsdp": 1})
  for stage in (c.warmup_fwm, c.warmup_idm):
    stage.update({"steps": 2, "batch": 4, "micro_batch": 0})
  for stage in (c.phase1, c.phase2):
    stage.update({"steps": 2, "prompts": 4, "group": 2, "micro_batch": 0})
  c.evaluation.update({
    "validation": 8, "test": 8, "heldout": 8, "batch": 8,
    "best_of": 2, "turns": 2, "chains": 2, "gallery": 2,
  })
  c.checkpoint.every = 2
