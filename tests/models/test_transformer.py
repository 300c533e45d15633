"""The transformer: a reference by hand, cache, padding, scan and remat, dtypes, bad sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax.models import decode_loop, lora, transformer
from swirl_jax.models.attention import softcap
from swirl_jax.types import Segment

# Each turns several choices at once; together they cover every value of every choice. Windows are
# shorter than the sequences.
VARIANTS = {
  "gqa_tied_silu_scan": {},
  "bias_norm_untied_gelu_unrolled": {
    "qkv_bias": True, "out_bias": True, "qk_norm": "head", "tie_embeddings": False,
    "activation": "gelu_tanh", "scan_layers": False,
  },
  "one_kv_head_scaled_linear_scan": {
    "n_kv_heads": 1, "scale_embedding": True, "qkv_bias": True, "tie_embeddings": False,
    "rope_scaling": "linear", "rope_factor": 3.0, "window": 3,
  },
  "wide_norm_post_llama3_unrolled": {
    "qk_norm": "width", "norms": "post", "rope_scaling": "llama3", "rope_factor": 4.0,
    "rope_original_len": 12, "rope_theta": 10.0, "head_dim": 6, "scan_layers": False,
  },
  "layer_norm_heads_window_unrolled": {
    "n_kv_heads": 4, "qk_norm": "layer", "scan_layers": False, "rope_theta": 100.0, "window": 2,
  },
  "gemma_like_scan": {
    "qk_norm": "head", "norms": "both", "norm_offset": True, "window": 2, "n_layers": 3,
    "layer_types": ("sliding", "full"), "rope_theta": 50.0, "sliding_rope_theta": 5.0,
    "rope_scaling": "linear", "rope_factor": 2.0, "query_pre_attn_scalar": 3.0,
    "attention_softcap": 2.0, "final_softcap": 3.0,
  },
  "gemma_like_unrolled": {
    "qk_norm": "width", "norms": "both", "norm_offset": True, "window": 3, "n_layers": 3,
    "layer_types": ("sliding", "sliding", "full"), "sliding_rope_theta": 7.0, "scan_layers": False,
    "attention_softcap": 2.0, "final_softcap": 3.0,
  },
  "one_rope_full_first_scan": {"window": 3, "layer_types": ("full", "sliding")},
}  # fmt: skip
variants = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)


def logits(params, config, segment):
  hidden, _ = transformer.apply(params, config, segment)
  return softcap(hidden @ transformer.head_kernel(params, config), config.final_softcap)


def holed(seed, rows, length):
  """A segment [rows, length] with masked places, full of tokens, in mid-row; the last is real."""
  rng = np.random.default_rng(seed)
  mask = rng.random((rows, length)) < 0.7
  mask[:, -1] = True
  return Segment(rng.integers(6, tiny.VOCAB, (rows, length)).astype(np.int32), mask)


@variants
def test_equals_the_reference_by_hand_whatever_stands_in_masked_places(changes):
  """Every row of a batch with holes is its real tokens alone, in NumPy."""
  config = tiny.config(**changes)
  params = tiny.params(config)
  segment = holed(1, 3, 9)
  found = tiny.jit(logits, static_argnums=1)(
    params, config, Segment(*(a[:, None] for a in segment))
  )
  for row in range(3):
    ids = tiny.real(segment, row)
    expected = tiny.numpy_logits(params, config, ids)
    np.testing.assert_allclose(found[row, 0][segment.mask[row]], expected, atol=2e-5)
    assert expected.std() > 0.3  # the comparison is not between constants


@functools.partial(tiny.jit, static_argnums=1)
def decode(params, config, prompt, target):
  """Hidden states of a target [B, G, T] fed token by token through prefill and cache."""
  b, g, length = target.tokens.shape
  last, prefix = transformer.prefill(params, config, prompt)
  cache, out = decode_loop.empty_cache(config, b, g, length), []
  for t in range(length):
    token = Segment(target.tokens[..., t : t + 1], jnp.ones((b, g, 1), bool))
    rotation = transformer.rotary(config, prefix.length[:, None, None] + t)
    hidden, cache = transformer.apply(
      params, config, token, prefix=prefix, cache=cache, index=t, rotation=rotation
    )
    out.append(hidden[:, :, 0])
  return last, jnp.stack(out, 2)


@functools.partial(tiny.jit, static_argnums=1)
def full(params, config, prompt, target):
  """The same by one forward pass over whole rows, every sample with its own copy of the prompt."""
  g, length = target.tokens.shape[1:]
  rows = [jnp.repeat(a[:, None], g, 1) for a in prompt]
  whole = Segment(*(jnp.concatenate([a, b], -1) for a, b in zip(rows, target, strict=True)))
  hidden, _ = transformer.apply(params, config, whole)
  return hidden[:, 0, -length - 1], hidden[:, :, -length:]


@variants
def test_cached_decoding_equals_the_full_forward(changes):
  """Ragged prompts with holes, a group that shares them, teacher-forced tokens."""
  config = tiny.config(**changes)
  params = tiny.params(config)
  prompt = holed(2, 2, 7)
  tokens = np.random.default_rng(3).integers(6, tiny.VOCAB, (2, 3, 5)).astype(np.int32)
  target = Segment(tokens, np.ones(tokens.shape, bool))
  found, expected = (f(params, config, prompt, target) for f in (decode, full))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, found, expected)
  assert np.abs(np.diff(expected[1], axis=1)).max() > 0.1  # samples of a group differ


def test_padded_rows_equal_lone_rows():
  """Right padding and neighbours in the batch change nothing, not by a bit of the reference."""
  config = tiny.config()
  params = tiny.params(config)
  run = tiny.jit(logits, static_argnums=1)
  batch = tiny.segment(np.random.default_rng(0), (3, 2), 8, low=3)
  garbage = Segment(np.where(batch.mask, batch.tokens, 17), batch.mask)
  found, other = (np.asarray(run(params, config, s)) for s in (batch, garbage))
  np.testing.assert_array_equal(found[batch.mask], other[batch.mask])
  for b, g in np.ndindex(3, 2):
    expected = tiny.numpy_logits(params, config, tiny.real(batch, b, g))
    np.testing.assert_allclose(found[b, g][batch.mask[b, g]], expected, atol=2e-5)


def loss_and_gradient(config, params, segment):
  def loss(params):
    logp = jax.nn.log_softmax(logits(params, config, segment)[:, :, :-1])
    logp = jnp.take_along_axis(logp, segment.tokens[:, :, 1:, None], -1)[..., 0]
    return -jnp.where(segment.mask[:, :, 1:], logp, 0.0).sum()

  return tiny.jit(jax.value_and_grad(loss))(params)


def test_scan_unrolled_and_remat_agree_in_value_and_gradient():
  base = tiny.config(qkv_bias=True)
  params = tiny.params(base)
  segment = tiny.segment(np.random.default_rng(5), (2, 2), 6, low=2)
  value, grads = loss_and_gradient(base, params, segment)
  ways = {"scan_layers": False, "remat": "full"}, {"remat": "dots"}
  for changes in (*ways, {"scan_layers": False, "remat": "dots"}):
    other = dataclasses.replace(base, **changes)
    found = loss_and_gradient(other, params, segment)
    np.testing.assert_allclose(found[0], value, rtol=1e-6)
    tiny.assert_gradients_close(found[1], grads, tolerance=1e-5)


@pytest.mark.parametrize("rank", [0, 2])
def test_remat_recomputes(rank):
  """Its program holds the layer's forward pass once more than without; with "dots" without the
  products by kernels, beside adapters too.
  """
  segment = tiny.segment(np.random.default_rng(5), (2, 2), 6, low=2)

  def products(remat):
    config = tiny.config(remat=remat, lora_rank=rank)
    params = tiny.params(config)
    if rank:
      targets = config.lora_targets
      own = lora.init_adapters(params, jax.random.key(0), rank=rank, targets=targets)
      params = lora.join(params, own)
    run = lambda p: jax.grad(lambda p: logits(p, config, segment).sum())(p)  # noqa: E731
    return str(jax.make_jaxpr(run)(params)).count("dot_general")

  assert products("dots") - products("none") == 2  # attention's own
  assert products("dots") < products("full")


def test_bfloat16_compute_keeps_float32_masters():
  config = tiny.config(dtype="bfloat16")
  params = jax.eval_shape(lambda k: transformer.init_params(config, k), jax.random.key(0))
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
  params = tiny.params(tiny.config())
  segment = tiny.segment(np.random.default_rng(0), (2, 1), 6)

  def run(params):
    low = transformer.compute_params(params, config)
    hidden, kv = transformer.apply(low, config, segment)
    return (hidden * hidden).sum().astype(jnp.float32), (hidden, kv, low)

  grads, (hidden, kv, low) = tiny.jit(jax.grad(run, has_aux=True))(params)
  for tree in (hidden, kv, low):
    assert {a.dtype for a in jax.tree.leaves(tree)} == {jnp.dtype(jnp.bfloat16)}
  assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}
  exact, _ = transformer.apply(params, tiny.config(), segment)
  difference = np.abs(np.asarray(hidden, np.float32) - exact)[segment.mask]
  assert 1e-4 < difference.max() < 0.25  # near float32's, and not float32 in disguise


def test_the_compute_dtype_is_the_identity_on_what_has_it():
  params = tiny.params(tiny.config())
  jaxpr = jax.make_jaxpr(lambda p: transformer.compute_params(p, tiny.config()))(params)
  assert not jaxpr.eqns


def test_initial_scale():
  """Normal with variance 1 / fan-in; what adds to the residual stream is scaled down by depth."""
  config = tiny.config(d_ff=96)
  p = tiny.jit(transformer.init_params, static_argnums=0)(config, jax.random.key(0))
  layers = p["layers"]
  for leaf, variance in (
    (p["embedding"], 1 / 16),
    (layers["attention"]["qkv"], 1 / 16),
    (layers["attention"]["out"], 0.5 / 2 / 16),
    (layers["mlp"]["gate_up"], 1 / 16),
    (layers["mlp"]["down"], 0.5 / 2 / 96),
  ):
    np.testing.assert_allclose(np.var(leaf), variance, rtol=0.25)
  assert not np.allclose(layers["mlp"]["down"][0], layers["mlp"]["down"][1])


@pytest.mark.parametrize("offset", [False, True])
def test_norms_begin_as_plain_norms_and_biases_at_zero(offset):
  """Whether a norm multiplies by its scale or by 1 + scale."""
  for qk_norm in ("head", "width", "layer"):
    config = tiny.config(
      norm_offset=offset, norms="both", qk_norm=qk_norm, qkv_bias=True, out_bias=True
    )
    p = tiny.jit(transformer.init_params, static_argnums=0)(config, jax.random.key(0))
    for path, leaf in jax.tree.leaves_with_path(p):
      if (name := path[-1].key) == "scale":
        np.testing.assert_array_equal(leaf + offset, 1.0)
      elif name.endswith("bias"):
        np.testing.assert_array_equal(leaf, 0.0)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"n_heads": 3}, r"model\.n_heads = 3 is not a multiple of model\.n_kv_heads = 2"),
    ({"head_dim": 3}, r"model\.head_dim = 3"),
    ({"d_model": 0}, r"model\.d_model = 0: allowed is a whole number from 1"),
    ({"n_layers": -1}, r"model\.n_layers = -1"),
    ({"qk_norm": True}, r"model\.qk_norm = True: allowed are \['head', 'layer', 'none', 'width'\]"),
    ({"norms": "none"}, r"model\.norms = 'none': allowed are \['both', 'post', 'pre'\]"),
    ({"rope_scaling": "yarn"}, r"model\.rope_scaling = 'yarn': allowed are"),
    ({"rope_scaling": "llama3"}, r"model\.rope_original_len = 0: rope_scaling llama3 needs it"),
    (
      {"rope_scaling": "llama3", "rope_original_len": 8, "rope_low_freq_factor": 4.0},
      r"model\.rope_high_freq_factor = 4\.0: allowed is a number above .* = 4\.0",
    ),
    ({"rope_theta": 0.0}, r"model\.rope_theta = 0\.0: allowed is a number above 0"),
    ({"final_softcap": -1.0}, r"model\.final_softcap = -1\.0: allowed is a number from 0"),
    ({"window": -1}, r"model\.window = -1: allowed is a whole number from 0"),
    ({"window": 2, "layer_types": ("f",)}, r"model\.layer_types = \('f',\): allowed are"),
    ({"window": 2, "layer_types": ("full",) * 3}, r"model\.layer_types names 3 layers: .* = 2"),
    ({"layer_types": ("full",)}, r"model\.layer_types is set: it needs model\.window"),
    ({"sliding_rope_theta": 2.0}, r"model\.sliding_rope_theta is set: model\.layer_types must"),
    ({"n_kv_heads": 2.0}, r"model\.n_kv_heads = 2\.0"),
    ({"vocab_size": True}, r"model\.vocab_size = True"),
    ({"d_ff": None}, r"model\.d_ff = None"),
    ({"max_len": "64"}, r"model\.max_len = '64'"),
    ({"activation": "relu"}, r"model\.activation = 'relu': allowed are \['gelu_tanh', 'silu'\]"),
    ({"dtype": "float16"}, r"model\.dtype = 'float16': allowed are"),
    ({"remat": "some"}, r"model\.remat = 'some': allowed are"),
  ],
)
def test_impossible_sizes_name_the_field(changes, message):
  with pytest.raises(ValueError, match=message):
    tiny.config(**changes)
