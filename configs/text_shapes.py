"""The shapes of language models at the longest text lengths of arXiv:2602.06130, to be compiled
without a TPU, a checkpoint or data: prompts of 8,126 tokens, 4,096 sampled, groups of 64, 64 chips.

`--config=configs/text_shapes.py:qwen2_5_3b`, `:llama3_8b`, and both with `_lora`. The IDM's prompt
holds both states. See `benchmarks/compile_tpu.py`.
"""

import ml_collections

MODELS = {
  "qwen2_5_3b": {
    "vocab_size": 151_936, "d_model": 2048, "n_layers": 36, "n_heads": 16, "n_kv_heads": 2,
    "head_dim": 128, "d_ff": 11_008, "rope_theta": 1e6, "qkv_bias": True,
  },
  "llama3_8b": {
    "vocab_size": 128_256, "d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8,
    "head_dim": 128, "d_ff": 14_336, "rope_theta": 5e5, "tie_embeddings": False,
  },
}  # fmt: skip
# As many chips along `tensor` as there are kv heads: the cache of 64 samples is then divided.
MESHES = {"qwen2_5_3b": {"fsdp": 32, "tensor": 2}, "llama3_8b": {"fsdp": 8, "tensor": 8}}
SAMPLES = {"qwen2_5_3b": 4, "llama3_8b": 2}  # of a prompt whose activations exist at a time


def get_config(name="qwen2_5_3b"):
  model = name.removesuffix("_lora")
  if model not in MODELS:
    raise ValueError(f"model {name!r}: allowed are {', '.join(MODELS)}, and these with _lora.")
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.weights = "separate"
  c.world = {
    "name": "lengths", "vocabulary": MODELS[model]["vocab_size"], "state": 4095, "action": 63,
    "fwm_prompt": 8126, "idm_prompt": 8200,
  }  # fmt: skip
  c.data = {"fwm_labels": 1, "idm_labels": 1}
  c.model = MODELS[model] | {
    "max_len": 12_416, "remat": "full", "dtype": "bfloat16", "logprob_chunk": 16_384,
    "attention_chunk": 512, "lora_rank": 16 if name.endswith("_lora") else 0,
  }  # fmt: skip
  c.pretrain = sft(steps=0)
  c.warmup_fwm = sft(steps=160)
  c.warmup_idm = sft(steps=160)
  c.swirl = {"iterations": 1}
  c.phase1 = phase(prompts=MESHES[model]["fsdp"], micro_group=SAMPLES[model])
  c.phase2 = phase(prompts=MESHES[model]["fsdp"], micro_group=SAMPLES[model])
  c.mesh = MESHES[model] | {"rollout_gather": True, "offload_frozen": False}
  return c


def sft(*, steps):
  return {"steps": steps, "batch": 128, "optimizer": {"learning_rate": 2e-5, "warmup_steps": 8}}


def phase(*, prompts, micro_group):
  """A prompt at a time on the chips that share one, and some of its samples."""
  return {
    "steps": 125, "prompts": prompts, "group": 64, "micro_batch": prompts,
    "micro_group": micro_group, "beta": 0.1, "temperature": 0.7, "top_p": 0.96,
    "optimizer": {"learning_rate": 5e-5, "warmup_steps": 25, "weight_decay": 0.01},
  }  # fmt: skip
