"""The shapes of Liquid 7B (arXiv:2412.04332) under SWIRL, to be compiled without a TPU or any data.

| `--config=configs/liquid_7b_shape.py` | 64 chips | weights |
|---|---|---|
| | v5p 4x4x4 | separate, all parameters by Adam |
| `:v5e` | v5e 8x8 | the same |
| `:v5e_shared` | v5e 8x8 | one model for both parts, all parameters |
| `:v5e_lora` | v5e 8x8 | separate adapters over one base |

The world "lengths" is read by `benchmarks/compile_tpu.py` and `swirl_jax/memory.py` alone: it has a
vocabulary and lengths and no data.
"""

import ml_collections

# A chip of a v5e holds 16 GB: a frozen tree gathered over `fsdp` must stay small, so `tensor` takes
# a head a chip; and the activations of 4 prompts exist at a time.
CHIPS = {
  "v5p": {"mesh": {"fsdp": 16, "tensor": 4, "rollout_gather": True}, "micro_batch": 0},
  "v5e": {"mesh": {"fsdp": 4, "tensor": 16, "rollout_gather": True}, "micro_batch": 4},
}
NAMES = ("v5p", "v5e", "v5e_shared", "v5e_lora")


def get_config(name="v5p"):
  if name not in NAMES:
    raise ValueError(f"shape {name!r}: allowed are {', '.join(NAMES)}.")
  chip, _, kind = name.partition("_")
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.weights = "shared" if kind == "shared" else "separate"
  # A state is 1,024 codes, sampled from `codes` alone; two markers behind them are scored. The
  # prompts' lengths are reached by literal tokens, where Liquid's have an instruction.
  c.world = {
    "name": "lengths",
    "vocabulary": 264_448,
    "codes": (256_000, 264_192),
    "state": 1024,
    "action": 63,
    "fwm_prompt": 1152,
    "idm_prompt": 2200,
  }
  c.data = {"fwm_labels": 1, "idm_labels": 1}
  c.model = {
    "d_model": 3072,
    "n_layers": 28,
    "n_heads": 16,
    "n_kv_heads": 16,
    "head_dim": 256,
    "d_ff": 24576,
    "max_len": 2304,
    "activation": "gelu_tanh",
    "scale_embedding": True,
    "remat": "full",
    "dtype": "bfloat16",
    "logprob_chunk": 16_384,
    "lora_rank": 16 if kind == "lora" else 0,
  }
  c.pretrain = sft(steps=0)
  c.warmup_fwm = sft(steps=1000)
  c.warmup_idm = sft(steps=1000)
  c.swirl = {"iterations": 2}
  c.phase1 = phase(chip, temperature=0.75, top_p=0.96)
  c.phase2 = phase(chip, temperature=0.75, top_p=0.96)
  c.mesh = CHIPS[chip]["mesh"]
  return c


def sft(*, steps):
  return {"steps": steps, "batch": 128, "optimizer": optimizer(2e-5, 50)}


def optimizer(learning_rate, warmup_steps):
  return {"learning_rate": learning_rate, "warmup_steps": warmup_steps, "weight_decay": 0.01}


def phase(chip, **sampling):
  return {
    "steps": 200,
    "prompts": 32,
    "group": 8,
    "beta": 0.1,
    "micro_batch": CHIPS[chip]["micro_batch"],
    "optimizer": optimizer(2e-7, 50),
    **sampling,
  }
