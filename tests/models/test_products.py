"""What is float32 is multiplied as float32 on every device; no product of a step is left out."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
import tiny

from swirl_jax import phases
from swirl_jax.models import lora, vqgan


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
