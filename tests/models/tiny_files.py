"""Tiny Hugging Face checkpoints with random weights, of every family: written, read, compared."""

import json

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from swirl_jax import sharding
from swirl_jax.models import variants

V, D, L, H, K, F = 40, 16, 2, 4, 2, 24

BASE = {
  "vocab_size": V, "hidden_size": D, "num_hidden_layers": L, "num_attention_heads": H,
  "num_key_value_heads": K, "intermediate_size": F, "max_position_embeddings": 64,
  "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
  "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
  "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
  "llama": {},
  "mistral": {"sliding_window": 5},
  "qwen2": {"tie_word_embeddings": True},
  "qwen3": {"head_dim": 6, "attention_bias": True},
  "gemma": {"tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "head_dim": 6},
  "gemma2": {"tie_word_embeddings": True, "head_dim": 6, "sliding_window": 5},
  "gemma3_text": {"tie_word_embeddings": True, "head_dim": 6, "sliding_window": 5},
  "olmo2": {},
  "chameleon": {"vocabulary_map": {}},
}
NORMS = {  # before "_layernorm"
  "olmo2": ("post_attention", "post_feedforward"),
  "gemma2": ("input", "post_attention", "pre_feedforward", "post_feedforward"),
}
NORMS["gemma3_text"] = NORMS["gemma2"]


def config_of(family: str, vocab_size: int = V) -> dict:
  gemma = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
  config = BASE | {"model_type": family, "vocab_size": vocab_size} | FAMILIES[family]
  if family in ("gemma2", "gemma3_text"):
    config |= gemma | {"query_pre_attn_scalar": 6}
  if family == "gemma3_text":
    config["rope_parameters"] = {
      f"{kind}_attention": BASE["rope_parameters"] for kind in ("full", "sliding")
    }
  return config | {"architectures": [variants.FAMILIES[family].architecture]}


def tensors(family: str, vocab_size: int = V) -> tuple[dict, dict]:
  """(config.json, {name: array}) of a tiny random model, by the names that transformers gives."""
  config = config_of(family, vocab_size)
  d = config.get("head_dim", D // H)
  shapes = {"model.embed_tokens.weight": (vocab_size, D), "model.norm.weight": (D,)}
  if not config["tie_word_embeddings"]:
    shapes["lm_head.weight"] = (vocab_size, D)
  for i in range(L):
    block = f"model.layers.{i}."
    shapes |= {
      f"{block}{norm}_layernorm.weight": (D,)
      for norm in NORMS.get(family, ("input", "post_attention"))
    }
    heads = {"q": H, "k": K, "v": K}
    at = block + "self_attn."
    shapes |= {f"{at}{x}_proj.weight": (n * d, D) for x, n in heads.items()}
    shapes |= {
      at + "o_proj.weight": (D, H * d), block + "mlp.gate_proj.weight": (F, D),
      block + "mlp.up_proj.weight": (F, D), block + "mlp.down_proj.weight": (D, F),
    }  # fmt: skip
    if family == "qwen2" or config.get("attention_bias"):
      shapes |= {f"{at}{x}_proj.bias": (n * d,) for x, n in heads.items()}
    if config.get("attention_bias"):
      shapes[at + "o_proj.bias"] = (D,)
    if family in ("qwen3", "gemma3_text"):
      shapes |= {f"{at}{x}_norm.weight": (d,) for x in "qk"}
    if family == "olmo2":
      shapes |= {f"{at}{x}_norm.weight": (heads[x] * d,) for x in "qk"}
    if family == "chameleon":
      shapes |= {f"{at}{x}_norm.{y}": (heads[x], d) for x in "qk" for y in ("weight", "bias")}
  rng = np.random.default_rng(0)
  centred = family.startswith("gemma")
  mean = lambda name: float(not centred and name.endswith("norm.weight"))  # noqa: E731
  draw = lambda name, shape: mean(name) + 0.3 * rng.normal(size=shape)  # noqa: E731
  return config, {n: draw(n, s).astype(np.float32) for n, s in shapes.items()}


def write(folder, config, arrays, *, shards: int = 1):
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  if shards == 1:
    save_file(arrays, folder / "model.safetensors")
    return folder
  index = {}
  for i in range(shards):
    file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
    held = dict(list(arrays.items())[i::shards])
    save_file(held, folder / file)
    index |= dict.fromkeys(held, file)
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
  return folder


def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1):
  devices = jax.devices()[: data * fsdp * tensor]
  return sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=devices)


def read(folder) -> dict[str, np.ndarray]:
  return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


def assert_same_bits(found: dict, expected: dict):
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
    assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name
