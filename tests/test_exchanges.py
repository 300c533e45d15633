"""What chips exchange: counted in programs whose collectives are known, and in a rollout, where the
layers' own are all that a token costs.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import exchanges
from swirl_jax import programs, sampling, sharding
from swirl_jax.models import lora, transformer
from swirl_jax.types import Segment


def mesh_of(data, fsdp, tensor):
  return sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor)


def compiled(f, *arguments):
  return jax.jit(f).lower(*arguments).compile().as_text()


def test_a_loops_exchanges_count_as_often_as_it_runs():
  """Six numbers of each chip, summed over four chips five times."""
  mesh, rows = mesh_of(1, 2, 4), PartitionSpec("tensor")

  @functools.partial(jax.shard_map, mesh=mesh, in_specs=rows, out_specs=rows)
  def program(x):
    step = lambda x, _: (x + jax.lax.psum(x, "tensor"), None)  # noqa: E731
    return jax.lax.scan(step, x, length=5)[0]

  at = NamedSharding(mesh, rows)
  (found,) = exchanges.exchanges(
    compiled(program, jax.ShapeDtypeStruct((24,), jnp.float32, sharding=at))
  )
  assert found == ("other", "all-reduce", 4, 5, 5 * 6 * 4 * 2 * 3 / 4, True)


HLO = """HloModule phase, entry_computation_layout={()->f32[]}

%part (p: f32[4]) -> f32[8] {
  ROOT %ag.1 = f32[8]{0} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
}

%body (b: (s32[], f32[4])) -> (s32[], f32[4]) {
  %f.1 = f32[8]{0} fusion(%b), kind=kCustom, calls=%part
  %f.2 = f32[8]{0} fusion(%b), kind=kCustom, calls=%part
  %a2a = s32[3]{0} all-to-all(%b), channel_id=5, replica_groups=mesh['a'=4,'b'=16], device_ids=([4,16]T(1,0)) {'b'}, dimensions={0}
  %rs = bf16[6,2]{1,0} reduce-scatter(%f.2), channel_id=8, replica_groups={{0,1},{2,3}}, dimensions={0}
}

%all-reduce-scatter.1 (p: f32[12]) -> f32[3] {
  ROOT %ar = f32[12]{0} all-reduce(%p), channel_id=4, replica_groups=[2,4]<=[8]
}

%condition (c: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(28)
  ROOT %less = pred[] compare(%c, %limit), direction=LT
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]) while(%a), condition=%condition, body=%body
  %f.3 = f32[3]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(phase)/optimizer/x"}
  %s = (f32[4]{0}, f32[10]{0}, u32[], u32[]) collective-permute-start(%a), channel_id=9, source_target_pairs={{0,1},{1,0}}, metadata={op_name="jit(phase)/rollout/x"}
}
"""  # noqa: E501


def test_an_exchange_beside_several_operations_counts_once():
  found = exchanges.exchanges(HLO)
  assert found == [
    ("other", "all-gather", 4, 28, 28 * 8 * 4 * 3 / 4, True),
    ("other", "all-to-all", 16, 28, 28 * 3 * 4 * 15 / 16, True),
    ("other", "reduce-scatter", 2, 28, 28 * 6 * 2 * 2 * 1, True),
    ("optimizer", "reduce-scatter", 4, 1, 12 * 4 * 3 / 4, True),
    ("rollout", "collective-permute", 2, 1, 10 * 4, True),
  ]
  assert exchanges.table(found).splitlines()[1].split() == ["rollout", "0.00", "1"]
  told = exchanges.exchanges(HLO.replace("constant(28)", "parameter(1)"))
  assert {x.times for x in told} == {1}
  assert [x.counted for x in told] == [False] * 3 + [True] * 2
  assert "at least" in exchanges.table(told) and "at least" not in exchanges.table(found)


LENGTH, LAYERS = 9, 3


def config_of(rank):
  return tiny.config(n_layers=LAYERS, n_kv_heads=4, scan_layers=True, remat="full", lora_rank=rank)


def shapes_of(tree, mesh, *, gather_fsdp=False):
  """The shapes of what `tree` makes, laid out by the rules."""
  shapes = jax.eval_shape(tree)
  layout = sharding.tree_shardings(shapes, mesh, gather_fsdp=gather_fsdp)
  return jax.tree.map(
    lambda p, at: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=at), shapes, layout
  )


def segment(shape, mesh):
  rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH))
  kinds = (jnp.int32, jnp.bool)
  return Segment(*(jax.ShapeDtypeStruct(shape, kind, sharding=rows) for kind in kinds))


def of_a_token(group, *, lora_rank=0, **cut):
  """Sums of a token over `tensor`, the bytes they send, and its other exchanges."""
  config = config_of(lora_rank)

  def model():
    params = transformer.init_params(config, jax.random.key(0))
    own = programs.trained_params(config, jax.random.key(1))
    return lora.join(params, own) if lora_rank else params

  decoding = sampling.Decoding(length=LENGTH, group=group, end=2, **cut)
  with jax.set_mesh(mesh := mesh_of(1, 2, 4)):
    roll = functools.partial(sampling.rollout, config=config, decoding=decoding)
    hlo = compiled(
      roll, shapes_of(model, mesh, gather_fsdp=True), segment((4, 6), mesh), jax.random.key(0),
      jnp.float32(1),
    )  # fmt: skip
  found = [x for x in exchanges.exchanges(hlo) if x.times >= LENGTH]
  sums = [x for x in found if x.kind == "all-reduce"]
  moves = [x for x in found if x.kind in ("all-to-all", "collective-permute", "all-gather")]
  count = lambda which: sum(x.times for x in which) / LENGTH  # noqa: E731
  return count(sums), sum(x.sent for x in sums) / LENGTH, count(moves)


@pytest.mark.parametrize("group", [8, 3])
def test_a_draw_exchanges_nothing_over_the_vocabulary(group):
  """With the vocabulary split over `tensor`, a token costs two sums a layer and the embedding's;
  the logits change hands once, and top-k and top-p cost nothing more.
  """
  found = of_a_token(group, top_k=5, top_p=0.9)
  sums, _, moves = found
  assert sums == 2 * LAYERS + 1 and moves <= 6
  assert found == of_a_token(group)


def test_adapters_exchange_nothing_more():
  """Neither x A, nor their own part of a layer's sums."""
  assert of_a_token(3, lora_rank=2) == of_a_token(3)


def test_a_gradient_gathers_no_kernel_beside_an_adapter_twice():
  """Over fsdp: a kernel once for the forward pass and once for the backward pass, in which the
  recomputed product has it, too. Of adapters there is no more than that.
  """
  mesh, config = mesh_of(2, 2, 2), config_of(2)

  def loss(own, base, tokens):
    hidden, _ = transformer.apply(lora.join(base, own), config, tokens)
    return jnp.square(hidden).mean()

  with jax.set_mesh(mesh):
    own = shapes_of(lambda: programs.trained_params(config, jax.random.key(1)), mesh)
    base = shapes_of(lambda: transformer.init_params(config, jax.random.key(0)), mesh)
    hlo = compiled(jax.grad(loss), own, base, segment((4, 2, 6), mesh))
  found = [x for x in exchanges.exchanges(hlo) if x.kind == "all-gather" and x.times == LAYERS]
  kernels, adapters = 4, 4  # with an axis over fsdp: W, and A or B
  assert len(found) <= 2 * (kernels + adapters)
