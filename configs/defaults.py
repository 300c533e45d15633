"""What the recipes for large models leave at its default, written into them: the command line sets
only what a config has."""

OPTIMIZER = {"mu_dtype": "float32"}
REWARD = {"prior": False, "random": False}
PHASE = {
  "keep": 0, "anchor": 0, "anchor_weight": 0.5, "top_k": 0, "guidance": 1.0,
  "kl": "k3", "kl_in": "loss", "reference": "snapshot",
  "advantages": "grpo", "ratio": "token", "reduction": "token",
  "clip_low": 0.2, "clip_high": 0.2, "inner_epochs": 1, "micro_group": 0,
  "correct_sampler": False, "importance_cap": 2.0, "mask_truncated": False,
  "latents": "fresh", "latent_temperature": 1.0, "latent_floor": -2.0, "validate_every": 0,
}  # fmt: skip
SPLITS = ("validation", "test", "heldout", "failing")


def fill(c):
  """The config, with these fields where it has none of its own."""
  for phase in (c.phase1, c.phase2):
    _add(phase, PHASE)
    _add(phase.reward, REWARD)
  for stage in (c.pretrain, c.warmup_fwm, c.warmup_idm, c.phase1, c.phase2):
    _add(stage.optimizer, OPTIMIZER)
  _add(c.model, {"attention_chunk": 0})
  _add(c.mesh, {"offload_frozen": False})
  _add(c.evaluation, {"failing": 300, "splits": SPLITS})
  _add(c, {"compile": "optimized"})
  return c


def _add(group, fields):
  for name, value in fields.items():
    if name not in group:
      group[name] = value
