"""Every family against the logits that transformers computes, and config.json in and out.

The fixtures are `tests/fixtures/logits.npz` (see `make_logits.py` there); the group `torch`
computes logits anew, with other weights, where torch is installed.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax.models import decode_loop, tensor_table, transformer, variants
from swirl_jax.models.attention import softcap
from swirl_jax.models.transformer_config import TransformerConfig
from swirl_jax.types import Segment

FIXTURES = Path(__file__).parents[1] / "fixtures"
sys.path.insert(0, str(FIXTURES))
from cases import CASES, LENGTH, ROWS, VOCAB, draw  # noqa: E402

TOLERANCE = 2e-5  # of the logits, whose standard deviation is about 1, in float32
cases = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def fixture():
  """By case: config.json as transformers wrote it, ids [ROWS, LENGTH], logits."""
  with np.load(FIXTURES / "logits.npz") as file:
    arrays = dict(file)
  assert {name.split("/")[0] for name in arrays} == set(CASES)
  return {
    case: (json.loads(str(arrays[f"{case}/config"])), arrays[f"{case}/ids"],
           arrays[f"{case}/logits"])
    for case in CASES
  }  # fmt: skip


def params_of(config, seed=0):
  """Our parameters from the fixtures' weights, by the table that import reads."""
  shapes = jax.eval_shape(lambda: transformer.init_params(config, jax.random.key(0)))
  params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
  for row in tensor_table.rows(config):
    leaf = params
    for key in row.path.split("/"):
      leaf = leaf[key]
    place = tensor_table.place(row, config)
    cut = tuple(slice(o, o + n) for o, n in zip(place.offset, place.ours, strict=True))
    for layer, name in enumerate(tensor_table.names(row, config)):
      part = draw(name, place.file, offset=config.norm_offset, seed=seed)
      part = part.reshape(place.split).transpose(place.permutation)
      (leaf[layer] if row.layered else leaf)[cut] = part
  return jax.tree.map(jnp.asarray, params)


def logits_of(hidden, params, config):
  return softcap(hidden @ transformer.head_kernel(params, config), config.final_softcap)


@functools.partial(tiny.jit, static_argnums=1)
def forward(params, config, ids):
  """Logits [ROWS, LENGTH, V] of whole rows."""
  segment = Segment(ids[:, None], jnp.ones((len(ids), 1, ids.shape[1]), bool))
  hidden, _ = transformer.apply(params, config, segment)
  return logits_of(hidden, params, config)[:, 0]


@cases
def test_logits_equal_those_of_transformers(fixture, case):
  """Layers scanned: where they differ, windows and rotations go through the scan."""
  hf_config, ids, expected = fixture[case]
  config = variants.from_hf(hf_config)
  assert config.scan_layers
  assert expected.std() > 0.8 and expected.shape == (ROWS, LENGTH, VOCAB)
  found = forward(params_of(config), config, ids)
  np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


@functools.partial(tiny.jit, static_argnums=1)
def decode(params, config, prompt, rest):
  """Logits of the prompt's last place and of `rest` [ROWS, T], fed token by token."""
  last, prefix = transformer.prefill(params, config, prompt)
  cache = decode_loop.empty_cache(config, ROWS, 1, rest.shape[1])

  def step(cache, xs):
    t, token = xs
    rotation = transformer.rotary(config, prefix.length[:, None, None] + t)
    segment = Segment(token[:, None, None], jnp.ones((ROWS, 1, 1), bool))
    hidden, cache = transformer.apply(
      params, config, segment, prefix=prefix, cache=cache, index=t, rotation=rotation
    )
    return cache, hidden[:, 0, 0]

  _, hidden = jax.lax.scan(step, cache, (jnp.arange(rest.shape[1]), rest.T))
  return logits_of(jnp.concatenate([last[None], hidden]).swapaxes(0, 1), params, config)


# One of each family at least; the others differ from these in what a cache does not see.
@pytest.mark.parametrize(
  "case", sorted(set(CASES) - {"llama3_tied", "llama_linear", "gemma_untied", "qwen2_tied"})
)
def test_cached_decoding_equals_transformers(fixture, case):
  """A prompt of 6 and 14 tokens one by one, far beyond the windows: their logits are those of the
  whole row at once. The prompt has holes, full of other tokens, which count for nothing.
  """
  hf_config, ids, expected = fixture[case]
  config, length = dataclasses.replace(variants.from_hf(hf_config), scan_layers=False), 6
  assert config.window < LENGTH - length
  real = np.array([[1, 1, 0, 0, 1, 1, 0, 1, 1]] * ROWS, bool)
  tokens = np.full(real.shape, 3, np.int32)
  tokens[real] = ids[:, :length].reshape(-1)
  found = decode(params_of(config), config, Segment(tokens, real), ids[:, length:])
  np.testing.assert_allclose(found, expected[:, length - 1 :], atol=TOLERANCE, rtol=0)


# A case, and what a setting of it is flipped to.
FLIPS = {
  "rope_theta": ("llama2", 20.0),
  "rope_scaling": ("llama3_tied", "none"),
  "rope_factor": ("llama_linear", 1.5),
  "rope_low_freq_factor": ("llama3_untied", 0.2),
  "rope_high_freq_factor": ("llama3_untied", 9.0),
  "rope_original_len": ("llama3_untied", 30),
  "sliding_rope_theta": ("gemma3", 50.0),
  "window": ("mistral", 4),
  "layer_types": ("gemma2", ("full", "sliding")),
  "norm_eps": ("qwen2_tied", 3e-3),
  "norm_offset": ("gemma", False),
  "norms": ("chameleon_swin", "pre"),
  "activation": ("gemma_untied", "silu"),
  "tie_embeddings": ("chameleon", True),
  "scale_embedding": ("gemma", False),
  "qkv_bias": ("qwen2_untied", False),
  "out_bias": ("qwen3", False),
  "qk_norm": ("olmo2", "none"),
  "query_pre_attn_scalar": ("gemma2", 4.0),
  "attention_softcap": ("gemma2", 3.0),
  "final_softcap": ("gemma2", 3.0),
}
SHAPES = {"d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab_size"}
SILENT = {"max_len", *variants.EXECUTION}  # no part in the logits


def test_every_field_is_flipped():
  """Those of the shapes can't be: import refuses a tensor of another shape."""
  fields = {f.name for f in dataclasses.fields(TransformerConfig)}
  assert fields == set(FLIPS) | SHAPES | SILENT
  assert {case for case, _ in FLIPS.values()} == set(CASES)


@pytest.mark.parametrize("name", FLIPS)
def test_each_field_moves_the_logits(fixture, name):
  case, value = FLIPS[name]
  hf_config, ids, expected = fixture[case]
  config = variants.from_hf(hf_config)
  other = dataclasses.replace(config, **{name: value})
  params = params_of(config)
  if name == "norms":  # its norms have other names
    layers = dict(params["layers"])
    for part in ("attention", "mlp"):
      layers[f"{part}_norm"] = layers[f"{part}_post_norm"]
    params = {**params, "layers": layers}
  moved = np.abs(forward(params, other, ids) - expected).max()
  assert moved >= 50 * TOLERANCE


# ---------------------------------------------------------------------------------------- in, out


@cases
def test_what_is_written_is_read_back(fixture, case):
  """config.json as transformers writes it, as the class was called, and as we write it."""
  hf_config, _, _ = fixture[case]
  config = variants.from_hf(hf_config)
  assert variants.from_hf(CASES[case]) == config
  written = variants.to_hf(config, CASES[case]["model_type"], eos_token_id=3)
  assert variants.from_hf(written) == config
  assert written["eos_token_id"] == 3 and "architectures" in written
  assert variants.from_hf(json.loads(json.dumps(written))) == config
  # What we write means the same to transformers: its own fields have the same values.
  other = {"architectures", "eos_token_id", "max_window_layers", "rope_parameters"}
  assert same_rope(hf_config["rope_parameters"], written["rope_parameters"])
  for name in written.keys() & hf_config.keys() - other:
    assert hf_config[name] == written[name], name


def same_rope(found, written):
  if "full_attention" in found:
    return all(same_rope(found[k], written[k]) for k in found)
  return {k: v for k, v in found.items() if v is not None} == written


BASE = {
  "model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
  "num_hidden_layers": 6, "num_attention_heads": 4,
}  # fmt: skip


def read(**fields):
  return variants.from_hf(BASE | fields)


def test_the_old_layout_says_the_same():
  scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 64}  # fmt: skip
  new = {"rope_type": "llama3", "rope_theta": 5e5, **scaling}
  old = read(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **scaling})
  assert old == read(rope_parameters=new)
  assert old.rope_scaling == "llama3" and old.rope_theta == 5e5 and old.rope_original_len == 64
  assert read(rope_scaling={"type": "linear", "factor": 2}).rope_scaling == "linear"
  assert read(rope_theta=7).rope_theta == 7.0
  assert read(rope_parameters=new, rope_scaling=new) == read(rope_parameters=new)  # both, alike
  named = read(rope_scaling={"rope_type": "llama3", "type": "linear", **scaling})
  assert named.rope_scaling == "llama3"  # the newer name counts, as in transformers
  old = read(
    model_type="gemma3_text", rope_theta=1e6, rope_local_base_freq=500.0, sliding_window_pattern=3,
    sliding_window=8, rope_scaling={"rope_type": "linear", "factor": 8.0},
  )  # fmt: skip
  assert (old.rope_theta, old.sliding_rope_theta, old.rope_factor) == (1e6, 500.0, 8.0)
  assert old.layer_types == ("sliding", "sliding", "full") and old.window == 8


def test_what_is_missing_has_the_default_of_the_family():
  llama = read()
  assert (llama.n_kv_heads, llama.head_dim, llama.rope_theta, llama.norm_eps) == (4, 4, 1e4, 1e-6)
  assert not llama.tie_embeddings and llama.window == 0
  mistral = read(model_type="mistral", num_attention_heads=8, hidden_size=32)
  assert mistral.window == 4096 and mistral.n_kv_heads == 8
  assert read(model_type="mistral", num_key_value_heads=2, sliding_window=None).window == 0
  qwen = read(model_type="qwen3", num_key_value_heads=2, sliding_window=9)
  assert qwen.head_dim == 128 and qwen.window == 0 and qwen.qk_norm == "head"
  gemma = read(model_type="gemma", num_key_value_heads=1, hidden_act="gelu")
  assert gemma.activation == "gelu_tanh" and gemma.tie_embeddings and gemma.norm_offset
  gemma = read(model_type="gemma2")
  assert gemma.layer_types == ("sliding", "full") and gemma.query_pre_attn_scalar == 256.0
  assert (gemma.attention_softcap, gemma.final_softcap) == (50.0, 30.0)
  gemma = read(model_type="gemma3_text")
  assert gemma.layer_types == ("sliding",) * 5 + ("full",) and gemma.final_softcap == 0.0
  assert (gemma.rope_theta, gemma.sliding_rope_theta) == (1e6, 1e4)


LARGE = {"vocab_size": 300, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 31,
         "num_attention_heads": 64}  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"use_sliding_window": True}], ids=str)
@pytest.mark.parametrize("family", variants.FAMILIES)
def test_the_defaults_are_those_of_transformers(family, more):
  """A file of sizes alone means what the family's own configuration class makes of it."""
  if more and "use_sliding_window" not in variants.FAMILIES[family].defaults:
    return
  from transformers import AutoConfig

  theirs = AutoConfig.for_model(family, **LARGE, **more).to_dict()
  found = variants.from_hf({"model_type": family} | LARGE | more)
  assert variants.from_hf(theirs) == found


def test_the_original_length_of_llama3_is_by_default_the_context():
  rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
  assert read(rope_parameters=rope, max_position_embeddings=48).rope_original_len == 48


def gemma3(full, **fields):
  """Sliding layers have θ = 1e4, unscaled."""
  rope = {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
  return read(model_type="gemma3_text", sliding_window=3, rope_parameters=rope, **fields)


def test_rotations_by_layer_type_where_the_types_are_few_or_alike():
  plain = {"rope_type": "default", "rope_theta": 1e6}
  full = gemma3(plain, layer_types=["full_attention"] * 6)
  assert (full.rope_theta, full.sliding_rope_theta, full.window) == (1e6, 0.0, 0)
  sliding = gemma3(plain, layer_types=["sliding_attention"] * 6)
  assert (sliding.rope_theta, sliding.sliding_rope_theta, sliding.window) == (1e6, 1e4, 3)
  assert all(sliding.sliding)
  # The same θ, and yet the full layers' frequencies alone are scaled.
  scaled = gemma3({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})
  assert (scaled.rope_factor, scaled.sliding_rope_theta) == (2.0, 1e4)
  same = gemma3({"rope_type": "default", "rope_theta": 1e4})  # one rotation for all
  assert same.sliding_rope_theta == 0.0
  assert variants.from_hf(variants.to_hf(same, "gemma3_text")) == same


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"model_type": "bert"}, r"model_type = 'bert': allowed is one of \['chameleon', 'gemma', "),
    ({"model_type": None}, r"model_type = None: allowed is one of"),
    ({"model_type": "gemma3", "text_config": {}}, r"model_type = 'gemma3': allowed is one of"),
    ({"hidden_size": None}, r"hidden_size = None: allowed is a whole number from 1"),
    ({"num_hidden_layers": 2.0}, r"num_hidden_layers = 2\.0"),
    ({"rms_norm_eps": True}, r"rms_norm_eps = True: allowed is a number above 0"),
    ({"model_type": "gemma2", "attn_logit_softcapping": 0.0}, r"attn_logit_softcapping = 0\.0"),
    ({"rms_norm_eps": "1e-6"}, r"rms_norm_eps = '1e-6': allowed is a number above 0"),
    ({"tie_word_embeddings": "no"}, r"tie_word_embeddings = 'no': allowed is true or false"),
    ({"hidden_act": "gelu"}, r"hidden_act = 'gelu': allowed is one of"),
    ({"model_type": "gemma", "hidden_activation": "relu"}, r"hidden_activation = 'relu'"),
    ({"mlp_bias": True}, r"mlp_bias = True: allowed is null, as llama is implemented without"),
    ({"model_type": "qwen2", "attention_bias": True}, r"attention_bias = True: allowed is null"),
    ({"attention_dropout": 0.1}, r"attention_dropout = 0\.1: allowed is null"),
    ({"quantization_config": {"bits": 4}}, r"quantization_config = \{'bits': 4\}: allowed is null"),
    ({"sliding_window": 8}, r"sliding_window = 8: allowed is null, as llama"),
    ({"surprise": 1}, r"surprise = 1: allowed is null"),
    ({"model_type": "gemma", "use_bidirectional_attention": True}, r"use_bidirectional_attention"),
    ({"model_type": "gemma3_text", "attn_logit_softcapping": 5.0}, r"attn_logit_softcapping = 5"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
     r"rope_scaling\.rope_type = 'yarn': allowed is one of \['default', 'linear', 'llama3'\]"),
    ({"rope_scaling": {"type": "su"}}, r"rope_scaling\.rope_type = 'su'"),
    ({"rope_scaling": 2}, r"rope_scaling = 2: allowed is a group of fields"),
    ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, r"rope_parameters\.factor = 2"),
    ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, r"low_freq_factor is missing"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, r"partial_rotary_factor = 0\.5"),
    ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor = 0\.5: allowed is 1"),
    ({"rope_parameters": {"full_attention": {}}}, r"rope_parameters\.full_attention = \{\}"),
    ({"rope_parameters": {"rope_theta": 1.0}, "rope_scaling": {"factor": 2.0}},
     r"rope_scaling = .* allowed is null, as rope_parameters is given"),
    ({"rope_theta": -1.0}, r"rope_theta = -1\.0: allowed is a number above 0"),
    ({"rope_local_base_freq": 5.0}, r"rope_local_base_freq = 5\.0: allowed is null, as llama"),
    ({"model_type": "qwen2", "layer_types": ["sliding_attention"] * 6},
     r"sliding_window = None: allowed is a whole number, as layer_types names sliding layers"),
    ({"model_type": "gemma2", "layer_types": ["full_attention"] * 5}, r"layer_types = .* 6 names"),
    ({"model_type": "gemma2", "layer_types": ["chunked_attention"] * 6}, r"layer_types = .*chunk"),
    ({"model_type": "gemma3_text", "rope_parameters": {
      "sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
     r"sliding_attention\.rope_type = 'linear': allowed is default"),
    ({"model_type": "gemma3_text", "rope_parameters": {"full_attention": {}, "rope_theta": 7.0}},
     r"rope_parameters\.rope_theta = 7\.0: allowed is only \['full_attention', 'sl"),
    ({"model_type": "chameleon", "head_dim": 6}, r"head_dim = 6: allowed is hidden_size / num"),
  ],
)  # fmt: skip
def test_what_is_not_implemented_is_refused_by_name(fields, message):
  with pytest.raises(ValueError, match=r"config\.json .*" + message):
    read(**fields)


def test_what_changes_no_logit_is_let_pass():
  extra = {"bos_token_id": 1, "dtype": "bfloat16", "transformers_version": "5", "use_cache": True,
           "_name_or_path": "x", "quantization_config": None, "attention_dropout": 0.0}  # fmt: skip
  assert read(**extra) == read()
  missing = {k: v for k, v in BASE.items() if k != "vocab_size"}
  with pytest.raises(ValueError, match="vocab_size is missing: a whole number from 1 is needed"):
    variants.from_hf(missing)


@pytest.mark.parametrize(
  "changes, family, message",
  [
    ({}, "bert", r"family = 'bert': allowed are \['chameleon'"),
    ({"qk_norm": "head"}, "llama", r"model\.qk_norm = 'head': as llama allowed is 'none'"),
    ({"window": 4}, "llama", r"model\.window = 4: as llama allowed is 0"),
    ({"qkv_bias": True}, "llama", r"model\.out_bias = False: as llama allowed is True"),
    ({}, "qwen2", r"model\.qkv_bias = False: as qwen2 allowed is True"),
    ({"d_model": 18}, "llama", r"model\.d_model = 18: as llama allowed is a multiple of .* = 4"),
    ({"vocab_size": 0}, "llama", r"vocab_size = 0: allowed is a whole number from 1"),
  ],
)
def test_what_a_family_cannot_say_is_refused(changes, family, message):
  with pytest.raises(ValueError, match=message):
    variants.to_hf(tiny.config(**changes), family)


@pytest.mark.parametrize("scalar, written", [(0.0, 4), (9.0, 9), (6.5, 6.5)])
def test_the_scale_of_the_scores_is_written_whatever_it_is(scalar, written):
  """0 stands for head_dim, and transformers wants an integer where it is one."""
  gemma2 = {"norm_offset": True, "scale_embedding": True, "norms": "both", "window": 2,
            "activation": "gelu_tanh", "layer_types": ("sliding", "full")}  # fmt: skip
  config = tiny.config(query_pre_attn_scalar=scalar, **gemma2)
  fields = variants.to_hf(config, "gemma2")
  assert fields["query_pre_attn_scalar"] == written
  assert variants.same_model(variants.from_hf(fields), config) is None


def test_scanned_or_not_in_any_dtype_it_is_the_same_model():
  a = tiny.config()
  assert variants.same_model(a, tiny.config(scan_layers=False, dtype="bfloat16")) is None
  assert variants.same_model(a, tiny.config(query_pre_attn_scalar=4.0)) is None
  assert variants.same_model(a, tiny.config(d_ff=32)) == "d_ff"
  b = tiny.config(window=3)
  assert variants.same_model(b, tiny.config(window=3, layer_types=("sliding",))) is None
  other = tiny.config(window=3, layer_types=("sliding", "full"))
  assert variants.same_model(b, other) == "layer_types"


# ---------------------------------------------------------------------------------------- live


@pytest.mark.torch
@cases
def test_live_logits_with_other_weights(case):
  """What a fixture can't: this transformers, this torch. Longer rows, and right padding."""
  pytest.importorskip("torch")
  import make_logits

  seed, length = 7, 40
  model = make_logits.model_of(CASES[case], seed)
  ids = np.random.RandomState(2).randint(1, VOCAB, (1, length)).astype(np.int32)
  config = variants.from_hf(model.config.to_dict())
  found = forward(params_of(config, seed), config, ids)
  np.testing.assert_allclose(found, make_logits.logits_of(model, ids), atol=TOLERANCE, rtol=0)
