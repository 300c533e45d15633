"""What is float32 is multiplied as float32 on every device, no product of a step left out; what is
bfloat16 is summed in float32.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax import phases
from swirl_jax.models import lora, numerics, transformer, vqgan
from swirl_jax.types import Segment


def products(function, *arguments) -> set[tuple[str, ...]]:
  """(dtypes of the two operands, precision) of every product in a function's program."""
  found = set()
  for line in jax.jit(function).lower(*arguments).as_text().splitlines():
    if "stablehlo.dot_general" in line or "stablehlo.convolution" in line:
      dtypes = re.findall(r"tensor<(?:[0-9]+x)*([a-z]+[0-9]+)>", line)[:2]
      found.add((*dtypes, *set(re.findall("HIGHEST|HIGH|DEFAULT", line))))
  return found


def of_a_step(config, **algorithm) -> set[tuple[str, ...]]:
  """The products of Phase I: latent actions, rollout, reward, reference, anchor, gradient."""
  params = trained = tiny.params(config)
  base = None
  if config.lora_rank:
    base, trained = params, lora.init_adapters(
      params, jax.random.key(0), rank=config.lora_rank, targets=config.lora_targets
    )  # fmt: skip
  spec = phases.PhaseSpec(
    policy=tiny.fwm(config, group=4),
    frozen=tiny.idm(config),
    latent=tiny.idm(config),
    optimizer=tiny.PLAIN,
    anchor=True,
    **algorithm,
  )
  slots = phases.Slots(trained, reference=trained, base=base)
  batch = phases.Batch(tiny.transitions(0, 4), tiny.transitions(1, 4))
  step = functools.partial(phases.phase_step, spec=spec)
  return products(step, tiny.state(trained), slots, batch, jax.random.key(0), tiny.hyper())


STEPS = {
  "fused loss": ({}, {}),
  "GSPO's three passes": ({}, {"ratio": "sequence"}),
  "chunked attention": ({"attention_chunk": 2}, {}),
  "adapters": ({"lora_rank": 2}, {}),
}


@pytest.mark.parametrize("name", STEPS)
def test_every_product_of_a_step_has_its_precision(name):
  model, algorithm = STEPS[name]
  assert of_a_step(tiny.config(**model), **algorithm) == {("f32", "f32", "HIGHEST")}
  fast = of_a_step(tiny.config(dtype="bfloat16", **model), **algorithm)
  assert ("bf16", "bf16", "DEFAULT") in fast and not any("HIGHEST" in found for found in fast)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_product_of_a_picture_model_has_its_precision(dtype):
  """The codebook's distances are float32 whatever the layers compute in."""
  config = vqgan.VQConfig(
    ch=8, ch_mult=(1, 2), res_blocks=1, attn_levels=(1,), z_channels=6, embed_dim=4, codes=16,
    groups=4, dtype=dtype,
  )  # fmt: skip
  params = vqgan.init_params(config, jax.random.key(0))
  found = products(lambda p, x: vqgan.encode(p, config, x), params, jnp.zeros((1, 6, 8, 3)))
  layers = {("bf16", "bf16", "DEFAULT")} if dtype == "bfloat16" else set()
  assert found == {("f32", "f32", "HIGHEST")} | layers


def test_a_gradient_of_many_tokens_is_summed_in_float32():
  """One token 3,000 times beside others: in bfloat16 its sum would stop growing at 512."""
  r = np.random.default_rng(0)
  tokens = r.permutation(np.r_[np.zeros(3000, int), r.integers(1, 5, 1096)]).reshape(16, 256)
  table, bias = jnp.ones((5, 3), jnp.bfloat16), jnp.zeros((1, 1, 3), jnp.bfloat16)

  def loss(table, bias):
    return numerics.add_bias(numerics.lookup(table, tokens), bias).astype(jnp.float32).sum()

  value, grads = jax.value_and_grad(loss, argnums=(0, 1))(table, bias)
  assert value == 4096 * 3 and {g.dtype.name for g in grads} == {"bfloat16"}
  np.testing.assert_allclose(grads[0][:, 0], np.bincount(tokens.ravel()), rtol=2**-8)
  np.testing.assert_allclose(grads[1], np.full((1, 1, 3), 4096.0))


def test_a_lookup_is_indexing_and_its_gradient_too():
  r = np.random.default_rng(1)
  table, tokens = jnp.asarray(r.normal(size=(7, 4)), jnp.float32), r.integers(0, 7, (3, 2, 5))
  push = jnp.asarray(r.normal(size=(3, 2, 5, 4)), jnp.float32)
  (ours, back), (plain, back_plain) = (
    jax.vjp(take, table) for take in (lambda t: numerics.lookup(t, tokens), lambda t: t[tokens])
  )
  np.testing.assert_array_equal(ours, plain)
  np.testing.assert_array_equal(back(push)[0], back_plain(push)[0])


@pytest.mark.parametrize("tied", [False, True])
def test_a_frequent_tokens_embedding_learns_in_bfloat16(tied):
  """The gradient of a model of bfloat16 beside float32's, on rows that are mostly one token."""
  r = np.random.default_rng(2)
  tokens = np.where(r.random((16, 1, 128)) < 0.7, 3, r.integers(4, tiny.VOCAB, (16, 1, 128)))
  push = jnp.asarray(1 + r.normal(size=(16, 1, 128, 16)), jnp.float32)
  grads = {}
  for dtype in ("float32", "bfloat16"):
    config = tiny.config(
      n_layers=1, max_len=256, dtype=dtype, qkv_bias=True, out_bias=True, tie_embeddings=tied
    )

    def loss(params, config=config):
      whole = transformer.compute_params(params, config)
      prompt = Segment(jnp.asarray(tokens), jnp.ones(tokens.shape, bool))
      return (transformer.apply(whole, config, prompt)[0].astype(jnp.float32) * push).sum()

    grads[dtype] = jax.jit(jax.grad(loss))(tiny.params(config))
  for name in ("embedding", "qkv_bias", "out_bias"):
    exact, found = (
      next(np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(grads[d])
           if path[-1].key == name) for d in ("float32", "bfloat16")
    )  # fmt: skip
    if name == "embedding":
      exact, found = exact[3], found[3]
    assert np.linalg.norm(found - exact) < 0.03 * np.linalg.norm(exact), name
