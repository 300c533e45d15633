"""MiniGrid rooms as text, from nothing to a report, on two CPU cores."""

import ml_collections


def get_config():
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.weights = "separate"
  c.world = {"name": "minigrid"}
  c.data = {"fwm_labels": 300, "idm_labels": 4000}
  c.model = {
    "d_model": 96, "n_layers": 3, "n_heads": 4, "n_kv_heads": 4, "head_dim": 24, "d_ff": 256, "scan_layers": False,
  }
  c.pretrain = sft(steps=1400, batch=64, learning_rate=1e-3)
  c.warmup_fwm = sft(steps=800, batch=64, learning_rate=1e-3, schedule="constant", validate_every=100, patience=3)
  c.warmup_idm = sft(steps=2500, batch=64, learning_rate=1e-3, schedule="constant", validate_every=200, patience=3)
  c.swirl = {"iterations": 2, "order": ("phase1", "phase2")}
  c.phase1 = {
    "steps": 100, "prompts": 64, "keep": 32, "group": 8, "beta": 0.04, "anchor": 32, "anchor_weight": 0.5,
    "optimizer": {"learning_rate": 3e-4, "warmup_steps": 10, "schedule": "constant"},
  }
  c.phase2 = {
    "steps": 60, "prompts": 64, "keep": 32, "group": 8, "beta": 0.04, "anchor": 32, "anchor_weight": 0.5,
    "optimizer": {"learning_rate": 1e-4, "warmup_steps": 10, "schedule": "constant"},
  }
  c.compare = ("labels_only", "pseudo_labels", "plain_phase1")
  c.baseline = sft(steps=0, batch=64, learning_rate=1e-3)
  return c


def sft(*, steps, batch, learning_rate, schedule="cosine", validate_every=0, patience=0):
  return {
    "steps": steps, "batch": batch, "validate_every": validate_every, "patience": patience,
    "optimizer": {"learning_rate": learning_rate, "warmup_steps": 20, "schedule": schedule},
  }
