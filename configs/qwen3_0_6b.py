"""Qwen3-0.6B with the settings of `configs/qwen2_5_3b.py`, as adapters of rank 16 over one base.

`--config=configs/qwen3_0_6b.py:tiny` is the same run in a few steps on one CPU.
"""

from configs import qwen2_5_3b


def get_config(size="full"):
  c = qwen2_5_3b.get_config(size)
  c.pretrained = "Qwen/Qwen3-0.6B"
  c.model.lora_rank = 16 if size == "full" else 2
  if size == "full":
    c.mesh.fsdp = 8
  return c
