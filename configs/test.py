"""The whole program in under a minute: a tiny model on little MiniGrid data. It shows that
everything runs; it learns nothing."""

from configs import minigrid


def get_config():
  c = minigrid.base()
  c.compile = "quick"
  c.world.update({"labelled": 200, "unlabelled": 400, "validation": 40, "test": 40, "heldout": 20})
  c.data.update({"fwm_labels": 60, "idm_labels": 200})
  c.model.update(
    {
      "d_model": 16,
      "n_layers": 1,
      "n_heads": 2,
      "n_kv_heads": 1,
      "head_dim": 8,
      "d_ff": 32,
      "scan_layers": True,
    }
  )
  for stage in (c.pretrain, c.warmup_fwm, c.warmup_idm):
    stage.update({"steps": 6, "batch": 8, "validate_every": 3 if stage.patience else 0})
  for phase in (c.phase1, c.phase2):
    phase.update({"steps": 3, "prompts": 8, "keep": 4, "group": 4, "anchor": 4})
  c.rivals.paper_phase1.phase1.update({"prompts": 4, "group": 4})
  for rival in (c.rivals.labels_only, c.rivals.pseudo_labels):
    rival.sft.batch = 8
    rival.sft.optimizer.schedule = "constant"  # as the warm-up's, whose program then serves it
  c.evaluation.update({"batch": 40, "best_of": 2, "turns": 3, "chains": 8, "gallery": 4})
  c.checkpoint.every = 2
  return c
