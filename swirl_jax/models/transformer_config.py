"""Sizes and choices of a transformer: the one place of its fields."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from swirl_jax.models import lora

ACTIVATIONS = {"silu": nn.silu, "gelu_tanh": lambda x: nn.gelu(x, approximate=True)}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PRODUCT = "product"  # what x times a layer's kernel is called in a program
REMAT = {
  "none": None,
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
}
NORMS = ("pre", "post", "both")
QK_NORMS = ("none", "head", "width", "layer")
ROPE_SCALINGS = ("none", "linear", "llama3")
LAYER_TYPES = ("full", "sliding")

CHOICES = {
  "activation": ACTIVATIONS, "dtype": DTYPES, "remat": REMAT, "norms": NORMS, "qk_norm": QK_NORMS,
  "rope_scaling": ROPE_SCALINGS,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """The settings of every family (`variants`), and of a run's own model.

  `vocab_size` and `max_len` (the context) may be 0 in a run's config, and are then the world's.

  norms: where a layer's parts are normed: "pre" h + f(norm h), "post" h + norm f(h), "both" h +
  norm f(norm h). norm_offset: RMS norms multiply by 1 + scale. activation: silu makes the
  feed-forward SwiGLU, gelu_tanh GeGLU. scale_embedding: the embedded tokens times √D.

  qk_norm, of queries and keys before they are rotated: "head" RMS over a head, "width" RMS over all
  heads together, "layer" LayerNorm over a head with scale and bias of its own (ε 1e-5). qkv_bias,
  out_bias: of the attention's projections. query_pre_attn_scalar: scores are q k / √ of it; 0: of
  head_dim. attention_softcap, final_softcap: c tanh(x / c) of scores and logits; 0: none.

  window: a token attends to that many of the latest tokens, itself included; 0: to all.
  layer_types: names "full" and "sliding" by layer, repeated until there are n_layers; then full
  layers ignore the window. Empty: all layers are alike. sliding_rope_theta: θ of the sliding
  layers, whose frequencies are then not scaled; 0: they rotate as the full ones.

  rope_scaling: "linear" divides the frequencies by rope_factor; "llama3" only those whose
  wavelength exceeds rope_original_len / rope_low_freq_factor, none below rope_original_len /
  rope_high_freq_factor, and in between in part.

  lora_rank: of the adapters that are trained in place of the parameters, 0 for none; they are
  scaled by lora_alpha / lora_rank and lie beside the kernels lora_targets. See `models.lora`.

  Execution alone: dtype is the compute dtype; scan_layers scans over the layers instead of
  unrolling them: a small program, for deep models and accelerators (unrolled is faster on CPU, and
  a rollout then copies the layers' weights once); remat; logprob_chunk: how many tokens' logits
  exist at a time where a completion is scored; attention_chunk: of how many queries and keys the
  scores exist at a time, 0: of all; for prompts so long that those do not fit.

  Raises ValueError, naming the field, for what it can't be.
  """

  d_model: int
  n_layers: int
  n_heads: int
  n_kv_heads: int
  head_dim: int
  d_ff: int
  vocab_size: int = 0
  max_len: int = 0
  rope_theta: float = 10_000.0
  rope_scaling: str = "none"
  rope_factor: float = 1.0
  rope_low_freq_factor: float = 1.0
  rope_high_freq_factor: float = 4.0
  rope_original_len: int = 0
  sliding_rope_theta: float = 0.0
  window: int = 0
  layer_types: tuple[str, ...] = ()
  norm_eps: float = 1e-6
  norm_offset: bool = False
  norms: str = "pre"
  activation: str = "silu"
  tie_embeddings: bool = True
  scale_embedding: bool = False
  qkv_bias: bool = False
  out_bias: bool = False
  qk_norm: str = "none"
  query_pre_attn_scalar: float = 0.0
  attention_softcap: float = 0.0
  final_softcap: float = 0.0
  scan_layers: bool = True
  remat: str = "none"
  dtype: str = "float32"
  logprob_chunk: int = 256
  attention_chunk: int = 0
  lora_rank: int = 0
  lora_alpha: float = 16.0
  lora_targets: tuple[str, ...] = tuple(lora.TARGETS)

  def __post_init__(self):
    sizes = ("d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff", "logprob_chunk")
    zero = ("vocab_size", "max_len", "window", "rope_original_len", "attention_chunk", "lora_rank")
    for name in (*sizes, *zero):
      value, least = getattr(self, name), int(name in sizes)
      if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"model.{name} = {value!r}: allowed is a whole number from {least}.")
    for name, allowed in CHOICES.items():
      if getattr(self, name) not in allowed:
        raise ValueError(f"model.{name} = {getattr(self, name)!r}: allowed are {sorted(allowed)}.")
    positive = ("rope_theta", "rope_factor", "rope_low_freq_factor", "rope_high_freq_factor")
    positive += ("lora_alpha",)
    zero = ("norm_eps", "sliding_rope_theta", "query_pre_attn_scalar", "attention_softcap")
    for name in (*positive, *zero, "final_softcap"):
      value = getattr(self, name)
      if not (0 <= value < math.inf) or (name in positive and not value):
        least = "above 0" if name in positive else "from 0"
        raise ValueError(f"model.{name} = {value!r}: allowed is a number {least}.")
    if self.n_heads % self.n_kv_heads:
      raise ValueError(
        f"model.n_heads = {self.n_heads} is not a multiple of model.n_kv_heads = {self.n_kv_heads}."
      )
    if self.head_dim % 2:
      raise ValueError(f"model.head_dim = {self.head_dim}: rotary embedding needs an even number.")
    self._check_layers()
    targets = self.lora_targets
    if not targets or set(targets) - set(lora.TARGETS) or len(set(targets)) < len(targets):
      raise ValueError(f"model.lora_targets = {targets}: allowed are {', '.join(lora.TARGETS)}.")
    if self.rope_scaling == "llama3":
      if not self.rope_original_len:
        raise ValueError("model.rope_original_len = 0: rope_scaling llama3 needs it.")
      if self.rope_high_freq_factor <= self.rope_low_freq_factor:
        raise ValueError(
          f"model.rope_high_freq_factor = {self.rope_high_freq_factor}: allowed is a number above "
          f"model.rope_low_freq_factor = {self.rope_low_freq_factor}."
        )

  def _check_layers(self):
    for name in self.layer_types:
      if name not in LAYER_TYPES:
        raise ValueError(f"model.layer_types = {self.layer_types}: allowed are {LAYER_TYPES}.")
    if len(self.layer_types) > self.n_layers:
      raise ValueError(
        f"model.layer_types names {len(self.layer_types)} layers: allowed are at most "
        f"model.n_layers = {self.n_layers}."
      )
    if self.layer_types and not (self.window or self.sliding_rope_theta):
      raise ValueError("model.layer_types is set: it needs model.window or sliding_rope_theta.")
    if self.sliding_rope_theta and not self.layer_types:
      raise ValueError("model.sliding_rope_theta is set: model.layer_types must name the layers.")

  @property
  def compute_dtype(self):
    return DTYPES[self.dtype]

  @property
  def sliding(self) -> tuple[bool, ...]:
    """Whether each layer is a sliding one."""
    types = self.layer_types or ("sliding" if self.window else "full",)
    return tuple(types[i % len(types)] == "sliding" for i in range(self.n_layers))

  @property
  def lora_scale(self) -> float:
    return self.lora_alpha / max(1, self.lora_rank)

  @property
  def query_scale(self) -> float:
    return (self.query_pre_attn_scalar if self.query_pre_attn_scalar else self.head_dim) ** -0.5
