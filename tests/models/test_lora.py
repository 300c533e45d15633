"""Adapters beside frozen weights: what they compute, who is trained, and through a whole phase."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax import phases, programs, sft, sharding
from swirl_jax.models import lora, transformer

PLAIN = tiny.config()
CONFIG = dataclasses.replace(PLAIN, lora_rank=2, lora_alpha=6.0)
BASE = tiny.params(PLAIN)
G = 3


def adapters(seed=0, config=CONFIG):
  """Nothing at zero."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(functools.partial(programs.trained_params, config), jax.random.key(0))
  return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), jnp.float32), shapes)


def hidden(config, params):
  segment = tiny.segment(np.random.default_rng(1), (2, G), 7, low=3)
  return tiny.jit(lambda p: transformer.apply(p, config, segment)[0])(params)


def test_fresh_adapters_change_nothing():
  fresh = programs.trained_params(CONFIG, jax.random.key(0))
  assert all(jnp.any(pair["a"] != 0) for part in fresh.values() for pair in part.values())
  np.testing.assert_array_equal(hidden(CONFIG, lora.join(BASE, fresh)), hidden(PLAIN, BASE))


def test_every_adapter_begins_with_a_normal_of_its_own():
  """A has variance 1 / inputs, also where the inputs are several axes; no two are one draw."""
  shapes = {"attention": {"qkv": (2, 64, 2, 4, 8), "out": (2, 2, 4, 8, 64)},
            "mlp": {"gate_up": (2, 64, 2, 96), "down": (2, 96, 64)}}  # fmt: skip
  base = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s, jnp.float32), {"layers": shapes},
    is_leaf=lambda s: isinstance(s, tuple),
  )  # fmt: skip
  own = lora.init_adapters(base, jax.random.key(0), rank=8, targets=tuple(lora.TARGETS))
  inputs = {"qkv": 64, "out": 64, "gate_up": 64, "down": 96}
  drawn = []
  for target, (part, _) in lora.TARGETS.items():
    a = np.asarray(own[part][target]["a"]).reshape(2, inputs[target], 8)
    np.testing.assert_allclose(a.var(), 1 / inputs[target], rtol=0.15)
    drawn += [layer[:64].ravel() / layer.std() for layer in a]
  alike = np.corrcoef(drawn) - np.eye(len(drawn))
  assert np.abs(alike).max() < 0.2


def test_the_merged_kernel_is_w_plus_alpha_over_r_a_b():
  own = adapters()
  joined = lora.join(BASE, own)
  merged = lora.merge(joined, CONFIG.lora_scale)
  jax.tree.map(np.testing.assert_array_equal, joined, lora.join(BASE, own))  # left as it was
  assert jax.tree.structure(merged) == jax.tree.structure(BASE)
  rules = {"qkv": "ldr,lrkgi->ldkgi", "out": "lkgir,lrd->lkgid", "gate_up": "ldr,lrcf->ldcf",
           "down": "lfr,lrd->lfd"}  # fmt: skip
  for target, (part, _) in lora.TARGETS.items():
    pair = jax.tree.map(np.asarray, own[part][target])
    expected = BASE["layers"][part][target] + 3.0 * np.einsum(rules[target], pair["a"], pair["b"])
    np.testing.assert_allclose(merged["layers"][part][target], expected, atol=1e-5)
  kept = dict(merged["layers"]["attention"], qkv=0, out=0)
  assert kept == dict(BASE["layers"]["attention"], qkv=0, out=0)


@pytest.mark.parametrize("changes", [{}, {"scan_layers": False}, {"remat": "full"}], ids=str)
def test_merged_equals_unmerged(changes):
  config, plain = (dataclasses.replace(c, **changes) for c in (CONFIG, PLAIN))
  joined = lora.join(BASE, adapters())
  merged = lora.merge(joined, config.lora_scale)
  found, expected = hidden(config, joined), hidden(plain, merged)
  np.testing.assert_allclose(found, expected, atol=2e-5)
  assert np.abs(np.asarray(found) - np.asarray(hidden(plain, BASE))).max() > 0.1


@pytest.mark.parametrize("scan", [True, False])
def test_what_moves_no_bit_of_a_bfloat16_kernel_counts(scan):
  """After a step or two W + s A B rounds to W: the loss must still go the way that float32 says."""
  low = dataclasses.replace(CONFIG, dtype="bfloat16", scan_layers=scan)
  base = transformer.compute_params(BASE, low)
  exact = jax.tree.map(lambda a: a.astype(jnp.float32), base)
  fresh, segment = adapters(), tiny.segment(np.random.default_rng(1), (16, G), 12, low=12)
  fresh = jax.tree_util.tree_map_with_path(lambda p, x: x * (p[-1].key == "a"), fresh)
  toward = jnp.asarray(np.random.default_rng(2).normal(size=(1, 1, 1, 16)), jnp.float32)

  def loss(config, base, own):
    joined = transformer.compute_params(lora.join(base, own), config)
    return (transformer.apply(joined, config, segment)[0].astype(jnp.float32) * toward).mean()

  step = tiny.jit(jax.grad(functools.partial(loss, CONFIG), 1))(exact, fresh)
  moved = jax.tree_util.tree_map_with_path(
    lambda p, x, g: x - 2e-4 * jnp.sign(g) if p[-1].key == "b" else x, fresh, step
  )
  kernel = lambda own: lora.merge(lora.join(base, own), CONFIG.lora_scale)["layers"]["mlp"]["down"]  # noqa: E731
  assert (kernel(moved) == kernel(fresh)).mean() > 0.5
  runs = [(tiny.jit(functools.partial(loss, c)), b) for c, b in ((CONFIG, exact), (low, base))]
  change = [run(b, moved) - run(b, fresh) for run, b in runs]
  assert change[0] < 0
  np.testing.assert_allclose(change[1], change[0], rtol=0.3)


def test_a_bfloat16_product_is_rounded_once():
  """Sixteenths, so that every sum is exact in float32; what lies between A and B is rounded."""
  rng = np.random.default_rng(3)
  draw = lambda *shape: np.round(16 * rng.normal(size=shape)).astype(np.float32) / 16  # noqa: E731
  x, w, a, b = draw(8, 16), draw(16, 12), draw(16, 2), draw(2, 12)
  low = [jnp.asarray(v, jnp.bfloat16) for v in (x, w, a, b)]
  for given, exact in zip(low, (x, w, a, b), strict=True):
    np.testing.assert_array_equal(given.astype(jnp.float32), exact)
  found = lora.product("bi,io->bo", low[0], low[1], {"a": low[2], "b": low[3]}, 3.0)
  between = (x @ a).astype(jnp.bfloat16).astype(np.float32)
  assert (between != x @ a).any()
  np.testing.assert_array_equal(found, (x @ w + 3.0 * (between @ b)).astype(jnp.bfloat16))


def test_pieces_are_added_as_they_are_sent():
  """Each is rounded once, and their sum is of the dtype of x: on a TPU chips send that."""
  rng = np.random.default_rng(4)
  x, w, a, b = (jnp.asarray(rng.normal(size=s), jnp.bfloat16)
                for s in ((8, 16), (16, 12), (16, 2), (2, 12)))  # fmt: skip
  run = functools.partial(lora.product, "bi,io->bo", scale=3.0, pieces=4)
  whole = jax.make_jaxpr(lambda x, w, a, b: run(x, w, {"a": a, "b": b}))(x, w, a, b)
  found = re.findall(r"(\w+)\[[\d,]*\] = reduce_sum", str(whole))
  assert found == ["bf16"]
  alone = functools.partial(lora.product, "bi,io->bo", scale=3.0)
  parts = [slice(i, i + 4) for i in range(0, 16, 4)]
  total = sum(alone(x[:, i], w[i], {"a": a[i], "b": b}) for i in parts)
  apart = np.abs(np.asarray(run(x, w, {"a": a, "b": b}) - total, np.float32))
  assert apart.max() <= 2**-7 * np.abs(np.asarray(total, np.float32)).max()


def test_what_a_bfloat16_gradient_costs():
  """Adapters bring no product with a float32 operand, and gather nothing over `tensor`."""
  config = dataclasses.replace(CONFIG, dtype="bfloat16", remat="full")
  own = programs.trained_params(config, jax.random.key(0))
  segment = tiny.segment(np.random.default_rng(1), (4, G), 12, low=12)
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=2, devices=jax.devices()[:2])

  def loss(own, base):
    joined = transformer.compute_params(lora.join(base, own), config)
    return transformer.apply(joined, config, segment)[0].astype(jnp.float32).mean()

  with jax.set_mesh(mesh):
    trees = [jax.device_put(t, sharding.tree_shardings(t, mesh)) for t in (own, BASE)]
    lowered = tiny.jit(jax.grad(loss)).lower(*trees)
  dots = re.findall(r"dot_general .*: \((.*?)\) ->", lowered.as_text())
  kinds = {kind for dot in dots if "bf16" in dot for kind in re.findall(r"x([a-z]\w+)>", dot)}
  assert len(dots) > 20 and kinds == {"bf16"}
  assert " all-gather(" not in lowered.compile().as_text()


def test_a_rollout_of_adapters_draws_what_the_merged_model_draws():
  joined, batch = lora.join(BASE, adapters()), tiny.transitions(2, 3)
  draw = lambda config, p: tiny.jit(tiny.fwm(config, group=G).rollout)(  # noqa: E731
    p, batch, jax.random.key(0), np.float32(1.0)
  )
  found, expected = draw(CONFIG, joined), draw(PLAIN, lora.merge(joined, CONFIG.lora_scale))
  np.testing.assert_array_equal(found.tokens, expected.tokens)
  np.testing.assert_allclose(found.logp, expected.logp, atol=2e-5)
  score = tiny.jit(functools.partial(tiny.fwm(CONFIG).logprobs, sampled=True))
  again, _ = score(joined, batch, phases.Segment(found.tokens, found.mask))
  np.testing.assert_allclose(jnp.where(found.mask, again, 0), found.logp, atol=2e-5)


def spec_of(config, kind):
  fwm, idm = tiny.fwm(config, group=G), tiny.idm(config, group=G)
  policy, frozen = (fwm, idm) if kind == "phase1" else (idm, fwm)
  return phases.PhaseSpec(policy, frozen, tiny.PLAIN, anchor=True, keep=2)


@pytest.mark.parametrize("kind", ["phase1", "phase2"])
def test_a_phase_trains_the_adapters_as_the_merged_models_would_be(kind):
  """One base under policy, reference, frozen model and anchor. The gradient of the adapters is that
  of the dense kernels, through W + s A B.
  """
  own, other, reference = (adapters(seed) for seed in (0, 1, 2))
  batch = phases.Batch(tiny.transitions(3, 4), tiny.transitions(4, 4))
  whole = functools.partial(lambda p: lora.merge(lora.join(BASE, p), CONFIG.lora_scale))
  step = tiny.jit(phases.phase_step, static_argnames="spec")
  arguments = batch, jax.random.key(5), tiny.hyper()
  slots = phases.Slots(other, reference=reference, base=BASE)
  state, found = step(tiny.state(own), slots, *arguments, spec=spec_of(CONFIG, kind))
  slots = phases.Slots(whole(other), reference=whole(reference))
  dense, expected = step(tiny.state(whole(own)), slots, *arguments, spec=spec_of(PLAIN, kind))

  assert found.keys() == expected.keys()
  for name in ("reward", "kl", "loss", "length", "entropy"):
    a, b = found[name], expected[name]
    np.testing.assert_allclose(a.sum / a.weight, b.sum / b.weight, rtol=1e-3, atol=1e-5)
  assert jax.tree.structure(state.params) == jax.tree.structure(own)
  kernels = tiny.gradient(dense)["layers"]
  _, pull = jax.vjp(lambda p: whole(p)["layers"], own)
  tiny.assert_gradients_close(tiny.gradient(state), pull(kernels)[0], tolerance=1e-3)


def test_the_warm_up_trains_the_adapters_alone():
  spec = sft.SftSpec((tiny.fwm(CONFIG), tiny.idm(CONFIG)), tiny.PLAIN)
  state, batch = (
    tiny.state(programs.trained_params(CONFIG, jax.random.key(1))),
    tiny.transitions(6, 4),
  )
  step = tiny.jit(sft.sft_step, static_argnames="spec")
  new, metrics = step(state, (batch, batch), tiny.hyper().schedule, BASE, spec=spec)
  assert float(metrics["nonfinite"].sum) == 0
  for (path, grad), old in zip(
    jax.tree.leaves_with_path(tiny.gradient(new)), jax.tree.leaves(state.params), strict=True
  ):
    # At first B = 0, so that A moves nothing.
    assert bool(jnp.any(grad)) == (path[-1].key == "b"), path
    assert grad.shape == old.shape


def test_every_adapter_has_a_layout():
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  own = jax.eval_shape(functools.partial(programs.trained_params, CONFIG), jax.random.key(0))
  for path, at in jax.tree.leaves_with_path(sharding.tree_shardings(own, mesh)):
    assert any(axis for axis in at.spec), path


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"lora_rank": -1}, r"model\.lora_rank = -1: allowed is a whole number from 0"),
    ({"lora_alpha": 0.0}, r"model\.lora_alpha = 0\.0: allowed is a number above 0"),
    ({"lora_targets": ("q",)}, r"model\.lora_targets = \('q',\): allowed are qkv, out"),
    ({"lora_targets": ()}, r"model\.lora_targets = \(\): allowed are"),
    ({"lora_targets": ("out", "out")}, r"model\.lora_targets"),
  ],
)
def test_impossible_adapters(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **changes)
