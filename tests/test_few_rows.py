"""Decoding few rows: the same tokens and log-probabilities, kernels as the left operands."""

import functools
import re

import jax
import numpy as np
import pytest
import tiny

from swirl_jax import prompts, sampling
from swirl_jax.models import decode_loop, lora, numerics

PROMPTS, GROUP, LENGTH = 3, 4, decode_loop.MANY_TOKENS
ROWS = PROMPTS * GROUP
DECODING = sampling.Decoding(length=LENGTH, group=GROUP, end=None)


def adapted(config):
  """Two of the four kernels of a layer have adapters."""
  base = tiny.params(config)
  own = lora.init_adapters(base, jax.random.key(5), rank=2, targets=("out", "gate_up"))
  r = np.random.default_rng(6)
  return lora.join(base, jax.tree.map(lambda a: (0.3 * r.normal(size=a.shape)).astype("f"), own))


def run(config, params):
  prompt = prompts.prompt(prompts.fwm_template(tiny.TOKENIZER), tiny.transitions(0, PROMPTS))
  draw = functools.partial(sampling.rollout, config=config, decoding=DECODING)
  return jax.jit(draw), (params, prompt, jax.random.key(0), np.float32(1.0))


MODELS = {
  "tied": ({}, tiny.params),
  "untied, biases": ({"tie_embeddings": False, "qkv_bias": True, "out_bias": True}, tiny.params),
  "adapters": ({"lora_rank": 2}, adapted),
}


@pytest.mark.parametrize(("changes", "make"), MODELS.values(), ids=MODELS)
def test_draws_what_many_rows_draw(changes, make, monkeypatch):
  config = tiny.config(scan_layers=False, **changes)
  outs = []
  for limit in (ROWS, ROWS - 1):
    monkeypatch.setattr(decode_loop, "FEW_ROWS", limit)
    draw, arguments = run(config, make(config))
    outs.append(jax.tree.map(np.asarray, draw(*arguments)))
  few, many = outs
  np.testing.assert_array_equal(few.tokens, many.tokens)
  np.testing.assert_allclose(few.logp, many.logp, atol=1e-5)
  assert len(np.unique(few.tokens)) > 5


def products(config, limit, monkeypatch):
  """The shapes of what the loop's products by kernels give, as the compiler has them."""
  monkeypatch.setattr(decode_loop, "FEW_ROWS", limit)
  draw, arguments = run(config, tiny.params(config))
  text = draw.lower(*arguments).compile().as_text()
  shapes = re.findall(r"= f32\[(\d+),(\d+)\]\S* dot\(.*op_name=\"[^\"]*while/body", text)
  return {tuple(map(int, shape)) for shape in shapes}


def test_the_compiler_keeps_the_kernels_on_the_left(monkeypatch):
  config = tiny.config(scan_layers=False, d_ff=40)
  widths = {4 * 4 + 2 * 2 * 4, config.d_model, 2 * config.d_ff, config.vocab_size}
  few = products(config, ROWS, monkeypatch)
  assert few >= {(width, ROWS) for width in widths} and not {x for x in few if x[0] == ROWS}
  many = products(config, ROWS - 1, monkeypatch)
  assert many >= {(ROWS, width) for width in widths} and not {x for x in many if x[1] == ROWS}


def test_where_it_pays():
  unrolled, rows, tokens = tiny.config(scan_layers=False), decode_loop.FEW_ROWS, LENGTH
  assert decode_loop.few(unrolled, rows, tokens)
  assert not decode_loop.few(unrolled, rows + 1, tokens)
  assert not decode_loop.few(unrolled, rows, tokens - 1)
  assert not decode_loop.few(tiny.config(scan_layers=True), rows, tokens)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_times_few_is_the_product(dtype):
  r = np.random.default_rng(0)
  kernel = jax.numpy.asarray(r.normal(size=(2, 3, 7)), dtype)
  x = jax.numpy.asarray(r.normal(size=(4, 1, 7)), dtype)
  found = numerics.times_few(kernel, x, out=np.float32)
  assert found.shape == (4, 1, 2, 3) and found.dtype == np.float32
  expected = np.einsum("abi,xyi->xyab", np.float64(kernel), np.float64(x))
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert numerics.times_few(kernel, x).dtype == dtype
