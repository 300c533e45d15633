"""The families: what a config.json of Hugging Face says in settings of `TransformerConfig`, and
back.

Nothing is guessed. A field that is missing has the default of its family's own configuration class;
one that is there is read, or can't change a logit (`HARMLESS`), or is off (null or false), or is
refused by its name. Both layouts are read: `rope_theta` and `rope_scaling` at the top, as
transformers wrote until version 4, and `rope_parameters`, since 5; what is written is the latter.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from swirl_jax.models import hf_rope
from swirl_jax.models.hf_rope import TYPES, number, refusal
from swirl_jax.models.transformer_config import TransformerConfig

ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}  # theirs → ours
EXECUTION = (  # of these config.json is silent
  "scan_layers", "remat", "dtype", "logprob_chunk", "attention_chunk",
  "lora_rank", "lora_alpha", "lora_targets",
)  # fmt: skip

# Fields that change no logit of a pass over given tokens: of files, generation, training.
HARMLESS = frozenset(
  """architectures model_type dtype torch_dtype transformers_version name_or_path use_cache
  initializer_range pretraining_tp cache_implementation tokenizer_class bos_token_id eos_token_id
  pad_token_id sep_token_id unk_token_id cls_token_id mask_token_id decoder_start_token_id
  forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens bad_words_ids prefix
  output_attentions output_hidden_states return_dict torchscript use_bfloat16 tf_legacy_loss
  chunk_size_feed_forward id2label label2id num_labels problem_type task_specific_params
  finetuning_task pruned_heads temperature top_k top_p typical_p do_sample max_length min_length
  max_new_tokens num_beams num_beam_groups num_return_sequences diversity_penalty length_penalty
  repetition_penalty encoder_no_repeat_ngram_size no_repeat_ngram_size early_stopping
  remove_invalid_values exponential_decay_length_penalty output_scores return_dict_in_generate
  """.split()
)


@dataclasses.dataclass(frozen=True)
class Family:
  """architecture: the class that opens its checkpoints. defaults: of fields of config.json; those
  that not all families have are read where they stand here. ours: what all its models share.

  windows: which layers have the window: "none", "all", or by layer_types, which, where they are
  missing, come from "max_window_layers" (Qwen), "alternate" (Gemma 2), "sliding_window_pattern"
  (Gemma 3). thetas: rope_parameters differ by layer type. harmless: more fields of that kind.
  """

  architecture: str
  defaults: Mapping[str, Any]
  ours: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  activation: str = "hidden_act"
  windows: str = "none"
  thetas: bool = False
  harmless: tuple[str, ...] = ()


_SILU = {"hidden_act": "silu", "tie_word_embeddings": False, "rms_norm_eps": 1e-6}
_QWEN = _SILU | {
  "num_key_value_heads": 32, "max_position_embeddings": 32768, "use_sliding_window": False,
  "sliding_window": 4096, "max_window_layers": 28, "layer_types": None,
}  # fmt: skip
_GEMMA = {
  "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
  "head_dim": 256, "attention_bias": False, "max_position_embeddings": 8192,
}  # fmt: skip
_GEMMA_OURS = {"norm_offset": True, "scale_embedding": True}
_GEMMA_2 = _GEMMA | {
  "hidden_activation": "gelu_pytorch_tanh", "num_key_value_heads": 4, "sliding_window": 4096,
  "layer_types": None, "query_pre_attn_scalar": 256, "final_logit_softcapping": 30.0,
  "attn_logit_softcapping": 50.0,
}  # fmt: skip

FAMILIES: Mapping[str, Family] = {
  "llama": Family(
    "LlamaForCausalLM", _SILU | {"attention_bias": False, "max_position_embeddings": 2048}
  ),
  "mistral": Family(
    "MistralForCausalLM",
    _SILU | {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072},
    windows="all",
  ),
  "qwen2": Family(
    "Qwen2ForCausalLM", _QWEN, {"qkv_bias": True}, windows="max_window_layers"
  ),
  "qwen3": Family(
    "Qwen3ForCausalLM", _QWEN | {"head_dim": 128, "attention_bias": False}, {"qk_norm": "head"},
    windows="max_window_layers",
  ),
  "gemma": Family(
    "GemmaForCausalLM", _GEMMA | {"num_key_value_heads": 16, "hidden_activation": None}, _GEMMA_OURS
  ),
  "gemma2": Family(
    "Gemma2ForCausalLM", _GEMMA_2, _GEMMA_OURS | {"norms": "both"},
    activation="hidden_activation", windows="alternate",
  ),
  "gemma3_text": Family(
    "Gemma3ForCausalLM",
    {k: v for k, v in _GEMMA_2.items() if k != "attn_logit_softcapping"} | {
      "final_logit_softcapping": None, "max_position_embeddings": 131072,
      "sliding_window_pattern": 6,
    },
    _GEMMA_OURS | {"norms": "both", "qk_norm": "head"},
    activation="hidden_activation", windows="sliding_window_pattern", thetas=True,
  ),
  "olmo2": Family(
    "Olmo2ForCausalLM",
    _SILU | {"rms_norm_eps": 1e-5, "attention_bias": False, "max_position_embeddings": 2048},
    {"norms": "post", "qk_norm": "width"},
  ),
  "chameleon": Family(
    "ChameleonForConditionalGeneration",
    _SILU | {
      "rms_norm_eps": 1e-5, "attention_bias": False, "max_position_embeddings": 4096,
      "num_key_value_heads": 32, "swin_norm": False,
    },
    {"qk_norm": "layer"},
    harmless=("vq_config", "vocabulary_map", "model_parallel_size", "image_token_id"),
  ),
}  # fmt: skip


class _Reader:
  """A config.json with its family's defaults, that remembers what was read."""

  def __init__(self, config: Mapping[str, Any], family: Family):
    self.config, self.family, self.read = config, family, set()

  def get(self, name: str, default: Any = None) -> Any:
    self.read.add(name)
    return self.config.get(name, self.family.defaults.get(name, default))

  def size(self, name: str, default: int | None = None) -> int:
    value = self.get(name, default)
    if value is None:
      value = default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      if name not in self.config and value is None:
        raise ValueError(f"config.json {name} is missing: a whole number from 1 is needed.")
      raise refusal(name, value, "a whole number from 1")
    return value

  def number(self, name: str, default: Any = None) -> float:
    """A positive number; 0.0 for null."""
    return number(self.get(name, default), name)

  def flag(self, name: str) -> bool:
    value = self.get(name, False)
    if value not in (True, False, None):
      raise refusal(name, value, "true or false")
    return bool(value)

  def refuse_unread(self) -> None:
    known = self.read | HARMLESS | set(self.family.harmless)
    for name, value in self.config.items():
      off = value is None or value is False or (name == "attention_dropout" and value == 0)
      if not off and name not in known and not name.startswith("_"):
        raise refusal(name, value, f"null, as {self.config['model_type']} is implemented without")


def from_hf(config: Mapping[str, Any]) -> TransformerConfig:
  """The settings that a config.json describes; those of execution have their defaults.

  ValueError names the field, what was found and what is allowed.
  """
  model_type = config.get("model_type")
  if model_type not in FAMILIES:
    raise refusal("model_type", model_type, f"one of {sorted(FAMILIES)}")
  family = FAMILIES[model_type]
  r = _Reader(config, family)
  d_model, heads = r.size("hidden_size"), r.size("num_attention_heads")
  settings = {
    "vocab_size": r.size("vocab_size"),
    "d_model": d_model,
    "n_layers": r.size("num_hidden_layers"),
    "n_heads": heads,
    "n_kv_heads": r.size("num_key_value_heads", heads),
    "head_dim": r.size("head_dim", max(1, d_model // heads)),
    "d_ff": r.size("intermediate_size"),
    "max_len": r.size("max_position_embeddings"),
    "norm_eps": r.number("rms_norm_eps"),
    "tie_embeddings": r.flag("tie_word_embeddings"),
    "activation": _activation(r),
    **family.ours,
  }
  if model_type == "chameleon":
    if settings["head_dim"] * heads != d_model:
      raise refusal("head_dim", settings["head_dim"], "hidden_size / num_attention_heads")
    settings["norms"] = "post" if r.flag("swin_norm") else "pre"
  if "attention_bias" in family.defaults and r.flag("attention_bias"):
    settings |= {"qkv_bias": True, "out_bias": True}
  for ours, theirs in (
    ("query_pre_attn_scalar", "query_pre_attn_scalar"),
    ("attention_softcap", "attn_logit_softcapping"),
    ("final_softcap", "final_logit_softcapping"),
  ):
    if theirs in family.defaults:
      settings[ours] = r.number(theirs)
  types = _layer_types(r, settings["n_layers"])
  names = hf_rope.FIELDS + ((hf_rope.SLIDING_FIELD,) if family.thetas else ())
  found = {name: r.get(name) for name in names}
  settings |= hf_rope.read(
    found, settings["max_len"], nested=family.thetas, sliding="sliding" in types
  )
  if "sliding" in types:
    settings["window"] = r.size("sliding_window")
    if "full" in types or "sliding_rope_theta" in settings:
      settings["layer_types"] = _pattern(types)
  r.refuse_unread()
  return TransformerConfig(**settings)


def _activation(r: _Reader) -> str:
  """Gemma's "gelu" has always meant the tanh form, and its files have two fields for it."""
  name, gemma = r.family.activation, r.config["model_type"].startswith("gemma")
  names = ACTIVATIONS | ({"gelu": "gelu_tanh"} if gemma else {})
  for field in ("hidden_act", "hidden_activation") if gemma else ("hidden_act",):
    found = r.get(field)
    if found not in names and not (found is None and field != name):
      raise refusal(field, found, f"one of {sorted(names)}")
  return names[r.get(name)]


def _layer_types(r: _Reader, n_layers: int) -> tuple[str, ...]:
  """ "full" or "sliding" for every layer."""
  rule = r.family.windows
  if rule == "none":
    return ("full",) * n_layers
  window = r.get("sliding_window")
  if rule == "all":
    return ("full" if window is None else "sliding",) * n_layers
  number = 2  # of the layers: every second is full
  if rule == "sliding_window_pattern":
    number = r.size(rule)
  if rule == "max_window_layers":
    number = r.get(rule)
  if rule == "max_window_layers" and not r.flag("use_sliding_window"):
    window = None
  given = r.get("layer_types")
  if given is not None:
    if not isinstance(given, Sequence) or len(given) != n_layers or set(given) - set(TYPES):
      raise refusal("layer_types", given, f"{n_layers} names out of {sorted(TYPES)}")
    types = tuple(TYPES[name] for name in given)
    if "sliding" in types and window is None:
      raise refusal("sliding_window", window, "a whole number, as layer_types names sliding layers")
    return types
  if window is None:
    return ("full",) * n_layers
  if rule == "max_window_layers":
    return tuple("sliding" if i >= number else "full" for i in range(n_layers))
  return tuple("sliding" if (i + 1) % number else "full" for i in range(n_layers))


def _pattern(types: tuple[str, ...]) -> tuple[str, ...]:
  """The shortest names that, repeated, give `types`."""
  n = len(types)
  return next(types[:k] for k in range(1, n + 1) if all(types[i] == types[i % k] for i in range(n)))


def to_hf(config: TransformerConfig, family: str, **tokens: Any) -> dict[str, Any]:
  """The config.json of a model with these settings as one of `family`; `tokens` are more of its
  fields, as bos_token_id.

  from_hf(to_hf(config, family)) has the same settings, execution aside. ValueError names the one
  that the family can't express.
  """
  if family not in FAMILIES:
    raise ValueError(f"family = {family!r}: allowed are {sorted(FAMILIES)}.")
  c, kind = config, FAMILIES[family]
  names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
  fields = {
    "model_type": family, "architectures": [kind.architecture], "vocab_size": c.vocab_size,
    "hidden_size": c.d_model, "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads,
    "num_key_value_heads": c.n_kv_heads, "intermediate_size": c.d_ff, "rms_norm_eps": c.norm_eps,
    "max_position_embeddings": c.max_len, "tie_word_embeddings": c.tie_embeddings,
    kind.activation: names[c.activation], "rope_parameters": hf_rope.write(c, nested=kind.thetas),
  }  # fmt: skip
  if family != "chameleon":
    fields["head_dim"] = c.head_dim
  else:  # transformers reads the map, and has no way without one
    fields |= {"swin_norm": c.norms == "post", "vocabulary_map": {}}
  if "attention_bias" in kind.defaults:
    fields["attention_bias"] = c.qkv_bias
  if "query_pre_attn_scalar" in kind.defaults:
    scalar = c.query_pre_attn_scalar if c.query_pre_attn_scalar else float(c.head_dim)
    fields["query_pre_attn_scalar"] = int(scalar) if scalar == int(scalar) else scalar
  for theirs, cap in (
    ("attn_logit_softcapping", c.attention_softcap), ("final_logit_softcapping", c.final_softcap),
  ):  # fmt: skip
    if theirs in kind.defaults:
      fields[theirs] = cap if cap else None
  if kind.windows != "none":
    fields["sliding_window"] = c.window if c.window else None
  if kind.windows not in ("none", "all"):
    fields["layer_types"] = [("full", "sliding")[s] + "_attention" for s in c.sliding]
  if kind.windows == "max_window_layers":
    fields |= {"use_sliding_window": any(c.sliding), "max_window_layers": c.n_layers}
  fields |= tokens
  _check_expressed(c, family, fields)
  return fields


def same_model(a: TransformerConfig, b: TransformerConfig) -> str | None:
  """The first setting in which two models differ, execution aside, or None."""
  for field in dataclasses.fields(TransformerConfig):
    name, x, y = field.name, getattr(a, field.name), getattr(b, field.name)
    if name == "query_pre_attn_scalar":
      x, y = a.query_scale, b.query_scale
    if name == "layer_types":
      x, y = a.sliding, b.sliding
    if name not in EXECUTION and x != y:
      return name
  return None


def _check_expressed(config: TransformerConfig, family: str, fields: Mapping[str, Any]) -> None:
  back = from_hf(fields)
  name = same_model(back, config)
  if name is not None:
    raise ValueError(
      f"model.{name} = {getattr(config, name)!r}: as {family} allowed is {getattr(back, name)!r}."
    )
  # transformers refuses to open what it is not a multiple of.
  if config.d_model % config.n_heads and family in ("llama", "gemma2", "gemma3_text", "chameleon"):
    raise ValueError(
      f"model.d_model = {config.d_model}: as {family} allowed is a multiple of model.n_heads = "
      f"{config.n_heads}."
    )
