"""Which tensor of a Hugging Face checkpoint is which part of which of our parameters.

One row a tensor, read by import and export alike: a row only reorders numbers, so that its inverse
needs no row of its own and a tensor comes back bit for bit. Axes are letters,

    v vocabulary   m width   f feed-forward   k kv heads   r query heads per kv head   d head
    o one place

and "krd m" is a matrix [k·r·d, m] in the file. Rotary pairs are (i, i + d/2) on both sides.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from swirl_jax.models.transformer import TransformerConfig

LAYERS = "layers/"  # our parameters below it carry a leading axis L

# What `config.norms` calls for: our norm → what stands before "_layernorm" in the file.
NORMS = {
  "pre": {"attention_norm": "input", "mlp_norm": "post_attention"},
  "post": {"attention_post_norm": "post_attention", "mlp_post_norm": "post_feedforward"},
  "both": {
    "attention_norm": "input",
    "attention_post_norm": "post_attention",
    "mlp_norm": "pre_feedforward",
    "mlp_post_norm": "post_feedforward",
  },
}

# What `config.qk_norm` calls for: the axes of each norm's scale, in the file and here.
QK_NORMS = {
  "none": (),
  "head": (("q_norm", "d", "d"), ("k_norm", "d", "d")),
  "width": (("q_norm", "krd", "krd"), ("k_norm", "kod", "kod")),
  "layer": (("q_norm", "kr d", "krd"), ("k_norm", "ko d", "kod")),
}


@dataclasses.dataclass(frozen=True)
class Row:
  """`name` in the file, axes `file`, is `path` in our tree, axes `ours` (without L); where several
  tensors share a parameter, it fills the places from `start` on of the axis `axis`.
  """

  path: str
  name: str  # {} stands for the layer
  file: str
  ours: str
  axis: int = 0
  start: int = 0

  @property
  def layered(self) -> bool:
    return self.path.startswith(LAYERS)


class Place(NamedTuple):
  """A row's shapes under a config, and where in our parameter (without L) it goes."""

  file: tuple[int, ...]  # as the file has it
  split: tuple[int, ...]  # the same with every axis apart
  permutation: tuple[int, ...]  # from `split` to `ours`
  ours: tuple[int, ...]
  offset: tuple[int, ...]


def rows(config: TransformerConfig) -> tuple[Row, ...]:
  """The tensors of a model with this config, in the order in which they are exported."""
  ratio = config.n_heads // config.n_kv_heads
  block, at = "model.layers.{}.", LAYERS + "attention/"
  attention = block + "self_attn."
  found = [
    Row("embedding", "model.embed_tokens.weight", "v m", "vm"),
    Row(at + "qkv", attention + "q_proj.weight", "krd m", "mkrd", 2, 0),
    Row(at + "qkv", attention + "k_proj.weight", "kod m", "mkod", 2, ratio),
    Row(at + "qkv", attention + "v_proj.weight", "kod m", "mkod", 2, ratio + 1),
    Row(at + "out", attention + "o_proj.weight", "m krd", "krdm"),
    Row(LAYERS + "mlp/gate_up", block + "mlp.gate_proj.weight", "fo m", "mof", 1, 0),
    Row(LAYERS + "mlp/gate_up", block + "mlp.up_proj.weight", "fo m", "mof", 1, 1),
    Row(LAYERS + "mlp/down", block + "mlp.down_proj.weight", "m f", "fm"),
  ]
  if config.qkv_bias:
    found += [
      Row(at + "qkv_bias", attention + "q_proj.bias", "krd", "krd", 1, 0),
      Row(at + "qkv_bias", attention + "k_proj.bias", "kod", "kod", 1, ratio),
      Row(at + "qkv_bias", attention + "v_proj.bias", "kod", "kod", 1, ratio + 1),
    ]
  if config.out_bias:
    found.append(Row(at + "out_bias", attention + "o_proj.bias", "m", "m"))
  for norm, file, ours in QK_NORMS[config.qk_norm]:
    found.append(Row(f"{at}{norm}/scale", f"{attention}{norm}.weight", file, ours))
    if config.qk_norm == "layer":
      found.append(Row(f"{at}{norm}/bias", f"{attention}{norm}.bias", file, ours))
  # Chameleon, which alone has qk_norm "layer", names its norms alike wherever they stand.
  chameleon = {"attention_post_norm": "input", "mlp_post_norm": "post_attention"}
  swin = config.qk_norm == "layer" and config.norms == "post"
  for ours, theirs in (chameleon if swin else NORMS[config.norms]).items():
    found.append(Row(f"{LAYERS}{ours}/scale", f"{block}{theirs}_layernorm.weight", "m", "m"))
  found.append(Row("final_norm/scale", "model.norm.weight", "m", "m"))
  if not config.tie_embeddings:
    found.append(Row("head", "lm_head.weight", "v m", "mv"))
  return tuple(found)


def place(row: Row, config: TransformerConfig) -> Place:
  sizes = {
    "v": config.vocab_size, "m": config.d_model, "f": config.d_ff, "k": config.n_kv_heads,
    "r": config.n_heads // config.n_kv_heads, "d": config.head_dim, "o": 1,
  }  # fmt: skip
  letters = row.file.replace(" ", "")
  offset = [0] * len(row.ours)
  offset[row.axis] = row.start
  return Place(
    tuple(math.prod(sizes[a] for a in word) for word in row.file.split()),
    tuple(sizes[a] for a in letters),
    tuple(letters.index(a) for a in row.ours),
    tuple(sizes[a] for a in row.ours),
    tuple(offset),
  )


def names(row: Row, config: TransformerConfig) -> tuple[str, ...]:
  """The row's tensors, by layer."""
  return tuple(map(row.name.format, range(config.n_layers))) if row.layered else (row.name,)


def to_file(array: np.ndarray, row: Row, config: TransformerConfig) -> np.ndarray:
  """A row's tensor out of (one layer of) our parameter."""
  p = place(row, config)
  cut = tuple(slice(o, o + n) for o, n in zip(p.offset, p.ours, strict=True))
  return array[cut].transpose(np.argsort(p.permutation)).reshape(p.file)
