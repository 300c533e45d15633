"""Meshes and rules: eight simulated devices equal one, no matrix is copied without a word."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from swirl_jax import phases, programs, sharding
from swirl_jax.models import decode_loop, lora, numerics, transformer
from swirl_jax.optimizer import AdamW
from swirl_jax.phases import PhaseSpec, Slots

MESHES = [(8, 1, 1), (2, 2, 2), (1, 2, 4)]
CONFIG = tiny.config(n_layers=1, qkv_bias=True, scan_layers=False)
ADAPTED = dataclasses.replace(CONFIG, lora_rank=2)


FURTHER = {  # what the other tests' phase has not
  "ratio": "sequence", "correct_sampler": True, "kl": "k1", "kl_in": "reward", "inner_epochs": 2,
  "advantages": "leave_one_out", "reduction": "sequence", "anchor": True,
}  # fmt: skip


def spec_of(config, **settings):
  roles = tiny.fwm(config, group=3, top_p=0.9), tiny.idm(config)
  return PhaseSpec(*roles, tiny.PLAIN, keep=8, micro_batch=4, **settings)


def mesh_of(shape):
  return sharding.make_mesh(**dict(zip(sharding.AXES, shape, strict=True)))


def update(params, slots, batch, key, hyper, spec):
  """What a phase step does up to the optimizer: samples, log-probabilities, gradient, of a second
  epoch where there is one.
  """
  e, metrics = phases._collect(tiny.state(params), slots, batch.transition, key, hyper, spec)
  if spec.inner_epochs > 1:
    params = jax.tree.map(lambda a: 1.2 * a, params)
  loss, grads, terms = phases._gradient(params, slots, e, batch.anchor, hyper, spec)
  logps = (e.logp_sampler, jnp.where(e.mask, e.logp_ref, 0.0))
  return (e.transition, e.target), logps, {**metrics, **terms}, loss, grads


def trees(config):
  """A policy and what it reads; moderate parameters: log-probabilities of a few units, which
  float32 holds to 1e-6.
  """
  if not config.lora_rank:
    params, *others = (
      jax.tree.map(lambda a: 0.6 * a, tiny.params(config, seed)) for seed in range(3)
    )
    return params, Slots(*others)
  base, shapes = tiny.params(CONFIG), programs.trained_params(config, jax.random.key(0))
  rng = np.random.default_rng(0)
  params, *others = (
    jax.tree.map(lambda a: jnp.asarray(0.1 * rng.normal(size=a.shape), jnp.float32), shapes)
    for _ in range(3)
  )
  return params, Slots(*others, base=jax.tree.map(lambda a: 0.6 * a, base))


def on(mesh, config=CONFIG, *, offload=False, **settings):
  """`update` on a mesh, everything laid out by the rules, with `offload` the slots in host memory;
  without a mesh on one device.
  """
  (params, slots), spec = trees(config), spec_of(config, **settings)
  batch = phases.Batch(tiny.transitions(0, 16), tiny.transitions(1, 8) if spec.anchor else None)
  key, run = jax.random.key(1), tiny.jit(functools.partial(update, spec=spec))
  if mesh is None:
    return jax.device_get(run(params, slots, batch, key, tiny.hyper()))
  layout = sharding.tree_shardings((params, slots), mesh)
  params, slots = jax.device_put((params, slots), layout)
  if offload:
    slots = jax.device_put(slots, sharding.on_host(layout[1]))
    assert {a.sharding.memory_kind for a in jax.tree.leaves(slots)} == {sharding.HOST}
  with jax.set_mesh(mesh):
    return jax.device_get(run(params, slots, sharding.put_batch(batch, mesh), key, tiny.hyper()))


@pytest.fixture(scope="module")
def one_device():
  return on(None)


def assert_equal(found, expected):
  samples, logps, metrics, loss, grads = found
  jax.tree.map(np.testing.assert_array_equal, samples, expected[0])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), logps, expected[1])
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # noqa: E731
  jax.tree.map(close, (metrics, loss), expected[2:4])
  tiny.assert_gradients_close(grads, expected[4])


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_eight_devices_equal_one(one_device, shape):
  """One of them with frozen trees that lie in host memory."""
  assert_equal(on(mesh_of(shape), offload=shape == MESHES[-1]), one_device)


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 4)], ids=str)
def test_eight_devices_equal_one_for_adapters_over_one_base(shape):
  """On the second mesh `tensor` cuts the feed-forward and not the two kv heads."""
  assert_equal(on(mesh_of(shape), ADAPTED), on(None, ADAPTED))


def test_eight_devices_equal_one_where_kernels_are_turned_for_decoding(one_device, monkeypatch):
  """By themselves these rollouts, of few tokens, turn none."""
  turned = []
  monkeypatch.setattr(decode_loop, "few", lambda config, rows, length: True)
  monkeypatch.setattr(
    transformer, "times_few", lambda kernel, x: turned.append(x) or numerics.times_few(kernel, x)
  )
  assert_equal(on(mesh_of((2, 2, 2))), one_device)
  assert turned


def test_the_pieces_of_a_dimension():
  assert sharding.pieces("tensor", 8) == 1
  for size, mesh, expected in ((8, (2, 1, 4), 4), (6, (2, 1, 4), 1), (8, (4, 2, 1), 1)):
    with jax.set_mesh(mesh_of(mesh)):
      assert sharding.pieces("tensor", size) == expected


def test_eight_devices_equal_one_in_all_that_a_phase_may_have():
  found, expected = on(mesh_of((2, 2, 2)), **FURTHER), on(None, **FURTHER)
  assert_equal(found, expected)
  for name in ("kl", "anchor_nll_y", "clip_fraction"):
    assert expected[2][name].sum != 0


# ------------------------------------------------------------------------------------------- rules

EVERYTHING = {"qkv_bias": True, "qk_norm": "head", "tie_embeddings": False}


def specs(mesh, tree, **options):
  found = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = sharding.leaf_path(path)
    found[name] = sharding.partition_spec(name, leaf.shape, mesh, **options)
  return found


def shapes(config):
  make = functools.partial(transformer.init_params, config)
  return jax.eval_shape(make, jax.random.key(0))


@pytest.mark.parametrize("scan_layers", [True, False])
def test_every_parameter_has_its_place(scan_layers):
  config = tiny.config(n_heads=4, n_kv_heads=4, scan_layers=scan_layers, **EVERYTHING)
  assert specs(mesh_of((2, 2, 2)), shapes(config)) == {
    "embedding": P("tensor", "fsdp"),
    "head": P("fsdp", "tensor"),
    "final_norm/scale": P(),
    "layers/attention_norm/scale": P(),
    "layers/mlp_norm/scale": P(),
    "layers/attention/q_norm/scale": P(),
    "layers/attention/k_norm/scale": P(),
    "layers/attention/qkv": P(None, "fsdp", "tensor", None, None),
    "layers/attention/qkv_bias": P(None, "tensor", None, None),
    "layers/attention/out": P(None, "tensor", None, None, "fsdp"),
    "layers/mlp/gate_up": P(None, "fsdp", None, "tensor"),
    "layers/mlp/down": P(None, "tensor", "fsdp"),
  }


def test_adapters_are_split_as_their_kernels_are():
  """The inputs of A and the outputs of B; the rank between them is whole."""
  config = tiny.config(n_heads=4, n_kv_heads=4, lora_rank=2)
  own = jax.eval_shape(functools.partial(programs.trained_params, config), jax.random.key(0))
  found, kernels = (specs(mesh_of((2, 2, 2)), tree) for tree in (own, shapes(config)))
  assert len(found) == 2 * len(lora.TARGETS)
  for target, (part, inputs) in lora.TARGETS.items():
    layer, *axes = kernels[f"layers/{part}/{target}"]
    assert found[f"{part}/{target}/a"] == P(layer, *axes[:inputs], None)
    assert found[f"{part}/{target}/b"] == P(layer, None, *axes[inputs:])


def test_norms_with_a_scale_by_head_go_where_the_heads_go():
  found = specs(mesh_of((2, 2, 2)), shapes(tiny.config(qk_norm="layer", out_bias=True)))
  for name in ("q_norm/scale", "q_norm/bias", "k_norm/scale", "k_norm/bias"):
    assert found[f"layers/attention/{name}"] == P(None, "tensor", None, None)
  assert found["layers/attention/out_bias"] == P()


def test_what_an_axis_does_not_divide_stays_whole():
  found = specs(mesh_of((1, 2, 4)), shapes(tiny.config(n_kv_heads=2)))
  assert found["layers/attention/qkv"] == P(None, "fsdp", None, None, None)
  assert found["layers/mlp/gate_up"] == P(None, "fsdp", None, "tensor")
  odd = specs(mesh_of((1, 2, 4)), shapes(tiny.config(vocab_size=41)))
  assert odd["embedding"] == P(None, "fsdp")


def test_a_rollout_may_gather_the_width():
  found = specs(mesh_of((2, 2, 2)), shapes(tiny.config()), gather_fsdp=True)
  assert found["embedding"] == P("tensor", None)
  assert not any("fsdp" in spec for spec in found.values())


def test_moments_lie_where_their_parameters_do():
  params = shapes(tiny.config(**EVERYTHING))
  state = jax.eval_shape(AdamW(weight_decay=0.1).init, params)
  mesh = mesh_of((2, 2, 2))
  mine, theirs = specs(mesh, params), specs(mesh, state)
  for moment in ("mu", "nu"):
    found = {k.split(f"{moment}/")[1]: v for k, v in theirs.items() if f"{moment}/" in k}
    assert found == mine


def test_layout_of_arrays():
  mesh = mesh_of((2, 2, 2))
  params = tiny.params(CONFIG)
  placed = jax.device_put(params, sharding.tree_shardings(params, mesh))
  down = placed["layers"]["mlp"]["down"]
  assert {s.data.shape for s in down.addressable_shards} == {(1, 12, 8)}
  with jax.set_mesh(mesh):
    gathered, _ = tiny.jit(lambda p: sharding.gather(p, after=jnp.int32(0)))(placed)
  down = gathered["layers"]["mlp"]["down"]
  assert {s.data.shape for s in down.addressable_shards} == {(1, 12, 16)}


def test_put_batch():
  """Split over (data, fsdp) where both divide it, replicated where not; host types are kept."""
  mesh = mesh_of((2, 2, 2))
  batch = {"a": np.arange(16).reshape(8, 2).astype(np.int32), "b": np.ones((6, 2), bool)}
  found = sharding.put_batch(batch, mesh)
  jax.tree.map(np.testing.assert_array_equal, found, batch)
  assert {s.data.shape for s in found["a"].addressable_shards} == {(2, 2)}
  assert {s.data.shape for s in found["b"].addressable_shards} == {(6, 2)}
  assert (found["a"].dtype, found["b"].dtype) == (np.int32, np.bool_)


def test_constrain():
  x = jnp.ones((8, 3))
  assert sharding.constrain(x, sharding.BATCH) is x  # no mesh is set
  pinned = tiny.jit(lambda x: sharding.constrain(x, sharding.BATCH, "tensor"))
  with jax.set_mesh(mesh_of((2, 2, 2))):
    found = pinned(x)
  assert {s.data.shape for s in found.addressable_shards} == {(2, 3)}  # 3 is not divided by 2


def test_mesh_in_use():
  with pytest.raises(RuntimeError, match="no mesh is set"):
    sharding.mesh_in_use()
  with jax.set_mesh(mesh_of((2, 2, 2))) as _:
    assert dict(sharding.mesh_in_use().shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
  "shape, message",
  [
    ((2, 2, 1), r"mesh \(data, fsdp, tensor\) = \(2, 2, 1\) needs 4 devices, found 8"),
    ((4, 2, 2), r"needs 16 devices, found 8"),
    ((8, 0, 1), r"mesh\.fsdp = 0: allowed is a whole number from 1"),
    ((8, 1, 1.0), r"mesh\.tensor = 1\.0"),
    ((-8, -1, 1), r"mesh\.data = -8"),
  ],
)
def test_impossible_meshes(shape, message):
  with pytest.raises(ValueError, match=message):
    mesh_of(shape)
