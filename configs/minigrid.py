"""MiniGrid rooms as text, from nothing to a report, on two CPU cores.

The paper's Phase I in its plain setting is beside SWIRL in the report; with
`--config=configs/minigrid.py:paper` SWIRL itself, both phases, has the paper's setting.

Every field of a run is here, so that every one can be set on the command line; what they mean is
written where they are defined, in `swirl_jax/settings.py`.
"""

import ml_collections

SETTINGS = ("default", "paper")


def get_config(setting="default"):
  if setting not in SETTINGS:
    raise ValueError(f"configs/minigrid.py:{setting}: allowed are {', '.join(SETTINGS)}.")
  c = base()
  # Where scores on validation had levelled off: the time goes to the paper's setting, beside ours.
  c.warmup_fwm.steps, c.warmup_idm.steps = 400, 800
  if setting == "paper":
    c.phase1 = paper(c.phase1.to_dict(), count_end=False)
    c.phase2 = paper(c.phase2.to_dict(), count_end=True)
  else:
    c.compare += ("paper_phase1",)
  return c


def base():
  """The fields of a run, which the configs of other worlds begin with."""
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.weights = "separate"
  c.pretrained = ""
  c.prompts = "plain"
  c.compile = "optimized"
  c.world = {
    "name": "minigrid", "seed": 0,
    "labelled": 4000, "unlabelled": 16000, "validation": 400, "test": 600, "heldout": 300,
  }
  c.data = {"fwm_labels": 150, "idm_labels": 1000, "dir": "", "state_len": 0, "action_len": 0}
  c.model = {
    "d_model": 96, "n_layers": 3, "n_heads": 4, "n_kv_heads": 4, "head_dim": 24, "d_ff": 256,
    "vocab_size": 0, "max_len": 0, "rope_theta": 10_000.0, "rope_scaling": "none",
    "rope_factor": 1.0, "rope_low_freq_factor": 1.0, "rope_high_freq_factor": 4.0,
    "rope_original_len": 0, "sliding_rope_theta": 0.0, "window": 0, "layer_types": (),
    "norm_eps": 1e-6, "norm_offset": False, "norms": "pre", "activation": "silu",
    "tie_embeddings": True, "scale_embedding": False, "qkv_bias": False, "out_bias": False,
    "qk_norm": "none", "query_pre_attn_scalar": 0.0, "attention_softcap": 0.0,
    "final_softcap": 0.0,
    "scan_layers": False, "remat": "none", "dtype": "float32", "logprob_chunk": 2048,
    "attention_chunk": 0,
    "lora_rank": 0, "lora_alpha": 16.0, "lora_targets": ("qkv", "out", "gate_up", "down"),
  }
  c.mesh = {"data": 1, "fsdp": 1, "tensor": 1, "rollout_gather": True, "offload_frozen": False}
  c.pretrain = sft(steps=1000)
  c.warmup_fwm = sft(steps=1200, schedule="constant", validate_every=100, patience=3)
  c.warmup_idm = sft(steps=1200, schedule="constant", validate_every=200, patience=2)
  c.swirl = {"iterations": 2, "order": ("phase1", "phase2"), "reset_reference": True}
  c.phase1 = phase(steps=100, learning_rate=3e-4)
  c.phase2 = phase(steps=35, learning_rate=1e-4)
  c.compare = ("labels_only", "pseudo_labels")
  c.rivals = rivals()
  c.evaluation = {
    "validation": 400, "test": 600, "heldout": 300, "failing": 300, "batch": 100,
    "best_of": 8, "turns": 5, "chains": 50, "gallery": 24,
    "splits": ("validation", "test", "heldout", "failing"),
  }
  c.checkpoint = {"every": 200, "keep": 2}
  return c


def rivals():
  """For as many updates as SWIRL has: steps 0."""
  return {
    "labels_only": {"title": "Labels only", "data": "fwm_labels", "sft": sft(steps=0)},
    "pseudo_labels": {"title": "Pseudo-labels + labels", "data": "mixed", "sft": sft(steps=0)},
    "paper_phase1": {
      "title": "Phase I as in the paper",
      "phase1": paper(phase(steps=0, learning_rate=3e-4), count_end=False),
    },
  }


def sft(*, steps, schedule="cosine", validate_every=0, patience=0):
  """Supervised training; without `patience` it runs all its steps."""
  return {
    "steps": steps, "batch": 64, "micro_batch": 0, "turns": 1,
    "validate_every": validate_every, "patience": patience,
    "optimizer": {
      "learning_rate": 1e-3, "warmup_steps": 20, "schedule": schedule, "weight_decay": 0.0,
      "clip_norm": 1.0, "mu_dtype": "float32",
    },
  }


def phase(*, steps, learning_rate):
  """With dynamic sampling (64 prompts rolled out, 32 kept) and a label anchor, which the paper does
  not have.
  """
  return {
    "steps": steps, "prompts": 64, "keep": 32, "group": 8, "anchor": 32, "anchor_weight": 0.5,
    "optimizer": {
      "learning_rate": learning_rate, "warmup_steps": 10, "schedule": "constant",
      "weight_decay": 0.0, "clip_norm": 1.0, "mu_dtype": "float32",
    },
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 1.0,
    "beta": 0.04, "kl": "k3", "kl_in": "loss", "reference": "snapshot",
    "advantages": "grpo", "ratio": "token", "reduction": "token",
    "clip_low": 0.2, "clip_high": 0.2, "inner_epochs": 1, "micro_batch": 0,
    "micro_group": 0,
    "reward": {
      "reduce": "mean", "floor": -10.0, "count_end": True, "prior": False, "random": False,
    },
    "correct_sampler": False, "importance_cap": 2.0, "mask_truncated": False,
    "latents": "fresh", "latent_temperature": 1.0, "latent_floor": -2.0, "validate_every": 0,
  }


def paper(phase, *, count_end):
  """A phase in the setting that arXiv:2602.06130 has for text, with the method and the reward of
  the authors' code; latent actions fresh, as in its Algorithm 1, from the whole vocabulary. Steps,
  prompts that are updated on, group and learning rate stay this world's.
  """
  c = ml_collections.ConfigDict(phase).to_dict()  # its own
  c |= {
    "prompts": c["keep"] or c["prompts"], "keep": 0, "anchor": 0,
    "temperature": 0.7, "top_p": 0.96, "latent_temperature": 0.7, "beta": 0.1,
  }
  c["optimizer"]["schedule"] = "cosine"
  c["reward"]["count_end"] = count_end
  return c
