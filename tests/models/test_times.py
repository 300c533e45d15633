"""x W for training: the product, its gradients, and how the compiler multiplies them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax.models import numerics

# Kernels [I, *R]: inputs fewer than results, as many, more; an odd number of results.
KERNELS = [(6, 2, 8), (6, 6), (12, 6), (12, 5), (12, 2, 3)]


def operands(shape, dtype="float32"):
  r = np.random.default_rng(0)
  shapes = (2, 3, 4, shape[0]), shape, (2, 3, 4, *shape[1:])
  return [jnp.asarray(r.normal(size=s), dtype) for s in shapes]


def pull_back(x, kernel, d):
  return jax.vjp(numerics.times, x, kernel)[1](d)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", KERNELS, ids=str)
def test_is_the_product_and_has_its_gradients(shape, dtype):
  x, kernel, d = operands(shape, dtype)
  found = numerics.times(x, kernel), *jax.jit(pull_back)(x, kernel, d)
  x, kernel, d = (np.float64(a) for a in (x, kernel, d))
  expected = (
    np.tensordot(x, kernel, 1),
    np.einsum("abcy,iy->abci", d.reshape(*d.shape[:3], -1), kernel.reshape(len(kernel), -1)),
    np.einsum("abci,abc...->i...", x, d),
  )
  for a, b in zip(found, expected, strict=True):
    assert a.dtype == dtype and a.shape == b.shape
    np.testing.assert_allclose(np.float64(a), b, **tolerance(dtype))


def tolerance(dtype):
  return {"float32": {"atol": 1e-5}, "bfloat16": {"rtol": 0.02, "atol": 0.1}}[dtype]


@pytest.mark.parametrize("shape", KERNELS[:-1], ids=str)
def test_the_compiler_keeps_the_narrower_on_the_left(shape):
  """And reads it along its rows. (The last kernel's gradient it multiplies so in any case.)"""
  arguments = operands(shape)
  text = jax.jit(lambda *a: pull_back(*map(jnp.sin, a))[1]).lower(*arguments).compile().as_text()
  (found,) = re.findall(r"= f32\[(\d+),(\d+)\]\S* dot\(.*lhs_contracting_dims={(\d)}", text)
  inputs, results = shape[0], arguments[2].size // 24
  assert tuple(map(int, found)) == (*sorted((inputs, results)), 1)


def test_under_scan_and_remat_the_gradients_are_those_of_jax():
  """Of kernels with fewer inputs than results, and with more."""
  r = np.random.default_rng(1)
  kernels = [jnp.asarray(r.normal(size=s) / 3, "float32") for s in ((3, 5, 7), (3, 7, 5))]
  x = jnp.asarray(r.normal(size=(2, 5)), "float32")

  def loss(product, kernels):
    layer = jax.checkpoint(lambda h, k: (jnp.tanh(product(jnp.tanh(product(h, k[0])), k[1])), None))
    return (jax.lax.scan(layer, x, kernels)[0] ** 2).sum()

  found, expected = (jax.grad(loss, 1)(p, kernels) for p in (numerics.times, jnp.dot))
  tiny.assert_gradients_close(found, expected, tolerance=1e-5)
