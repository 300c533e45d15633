"""A part of the vocabulary is the whole vocabulary with everything else masked, and costs less."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from swirl_jax import logprob, sampling, sharding
from swirl_jax.models import columns
from swirl_jax.types import Mean, Segment

N, T = 3, 7
RANGES = {"one": ((20, 36),), "several": ((2, 3), (6, 11), (11, 24), (30, tiny.VOCAB))}
ranges = pytest.mark.parametrize("ranges", RANGES.values(), ids=RANGES)


def ids_of(ranges):
  return np.flatnonzero(tiny.allowed_mask(ranges, tiny.VOCAB))


@ranges
def test_ids_and_places(ranges):
  columns.check(ranges, "field")  # also ranges of which one begins where another ends
  ids = ids_of(ranges).astype(np.int32)
  place = np.arange(len(ids), dtype=np.int32)
  assert columns.count(ranges, tiny.VOCAB) == len(ids)
  np.testing.assert_array_equal(columns.ids(place, ranges), ids)
  np.testing.assert_array_equal(columns.places(ids, ranges), place)
  outside = np.setdiff1d(np.arange(tiny.VOCAB, dtype=np.int32), ids)
  assert not np.asarray(columns.places(outside, ranges)).any()
  assert columns.ids(place, ranges).dtype == columns.places(ids, ranges).dtype == jnp.int32


def test_everything_is_left_as_it_is():
  config = tiny.config()
  token = jnp.arange(4)
  assert columns.ids(token, None) is token and columns.places(token, None) is token
  assert columns.count(None, 7) == 7
  np.testing.assert_array_equal(
    columns.head(tiny.params(config), config, None),
    columns.head(tiny.params(config), config, ((0, tiny.VOCAB),)),
  )


@pytest.mark.parametrize(
  "bad", [(), ((3, 3),), ((5, 4),), ((6, 9), (2, 3)), ((2, 6), (5, 9)), ((-1, 4),)], ids=str
)
def test_ranges_that_are_none(bad):
  with pytest.raises(ValueError, match=r"field = .*: allowed are ranges \(start, stop\)"):
    columns.check(bad, "field")


def test_ids_beyond_the_vocabulary():
  config = tiny.config()
  with pytest.raises(ValueError, match=r"ranges .*: the vocabulary has 40 tokens"):
    columns.head(tiny.params(config), config, ((30, 41),))


# ------------------------------------------------------------------- equal to masking, in less work


def inputs(ranges, *, tie, cap=0.0):
  """Hidden states, the parameters that hold the head, targets of which one row is not allowed."""
  rng = np.random.default_rng(0)
  config = tiny.config(tie_embeddings=tie, final_softcap=cap)
  name = "embedding" if tie else "head"
  params = {name: tiny.params(config)[name]}
  hidden = rng.normal(size=(N, T, config.d_model)).astype(np.float32)
  targets = rng.choice(ids_of(ranges), (N, T)).astype(np.int32)
  targets[-1] = 0
  return config, params, hidden, targets, np.arange(N)[:, None] < N - 1


def masked(hidden, params, targets, ranges, cap):
  """log_softmax of all logits, those that aren't allowed at −∞, and its entropy."""
  head = params["head"] if "head" in params else params["embedding"].T
  logits = cap * jnp.tanh(hidden @ head / cap) if cap else hidden @ head
  inside = tiny.allowed_mask(ranges, tiny.VOCAB)
  logp = jax.nn.log_softmax(jnp.where(inside.reshape(1, 1, -1), logits, -jnp.inf))
  entropy = -(jnp.exp(logp) * jnp.where(inside.reshape(1, 1, -1), logp, 0.0)).sum(-1)
  return jnp.take_along_axis(logp, targets[..., None], -1)[..., 0], entropy


@pytest.mark.parametrize("tie, cap", [(True, 0.0), (False, 1.5)], ids=["tied", "untied, capped"])
@ranges
def test_log_probabilities_equal_masking(ranges, tie, cap):
  """Values, entropies and gradients of both forms; padding outside the ranges does no harm."""
  config, params, hidden, targets, mask = inputs(ranges, tie=tie, cap=cap)
  weights = np.random.default_rng(1).normal(size=(N, T)).astype(np.float32) * mask
  place = columns.places(targets, ranges)
  options = {"chunk": 2 * N, "cap": cap}

  def terms(logp, entropy, weights):
    return weights * jnp.exp(0.3 * logp), {"entropy": Mean.of(entropy)}

  def fused(hidden, params):
    head = columns.head(params, config, ranges)
    loss, _ = logprob.separable_loss(hidden, head, place, weights, terms, **options)
    return loss, None

  def three_passes(hidden, params):
    head = columns.head(params, config, ranges)
    logp, entropy = logprob.token_logprobs(hidden, head, place, **options)
    return terms(logp, entropy, weights)[0].sum(), (logp, entropy)

  def whole(hidden, params):
    logp, entropy = masked(hidden, params, targets, ranges, cap)
    logp = jnp.where(mask, logp, 0.0)
    return terms(logp, entropy, weights)[0].sum(), (logp, entropy)

  run = lambda f: tiny.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(hidden, params)  # noqa: E731
  (expected, (logp, entropy)), grads = run(whole)
  for f in (fused, three_passes):
    (found, numbers), found_grads = run(f)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    tiny.assert_gradients_close(found_grads, grads, tolerance=1e-5)
    (kernel,) = jax.tree.leaves(found_grads[1])
    outside = np.setdiff1d(np.arange(tiny.VOCAB), ids_of(ranges))
    assert not np.asarray(kernel[outside] if tie else kernel[:, outside]).any()
  np.testing.assert_allclose(np.where(mask, numbers[0], 0.0), logp, atol=1e-5)
  np.testing.assert_allclose(numbers[1], entropy, atol=1e-5)
  assert np.isfinite(numbers[0]).all()


def flops(width, *, vocab=2048):
  """Of a rollout, a loop's body counted once, and of a gradient, by the compiler."""
  config = tiny.config(vocab_size=vocab, n_layers=1, tie_embeddings=False)
  shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tiny.params(config))
  allowed = None if width == vocab else ((vocab - width, vocab),)
  decoding = sampling.Decoding(length=3, group=2, end=None, greedy=True, allowed=allowed)
  prompt = Segment(np.ones((4, 5), np.int32), np.ones((4, 5), bool))
  rollout = functools.partial(sampling.rollout, config=config, decoding=decoding)
  hidden, targets = np.zeros((8, 3, config.d_model), np.float32), np.zeros((8, 3), np.int32)

  def loss(params):
    head = columns.head(params, config, allowed)
    return logprob.token_logprobs(hidden, head, targets, chunk=24)[0].sum()

  found = []
  for f, arguments in ((rollout, (shapes, prompt, jax.random.key(0), np.float32(1))),
                       (jax.grad(loss), (shapes,))):  # fmt: skip
    found.append(tiny.jit(f).lower(*arguments).compile().cost_analysis()["flops"])
  return np.array(found)


def test_work_falls_with_the_columns():
  """2 · rows · D a column for each product: of a rollout before the loop and in it, of the head's
  gradient the logits and what is pushed through them.
  """
  whole, part = flops(2048), flops(64)
  products = 2 * 2 * 16 * np.array([8, 24])
  assert (whole - part >= (2048 - 64) * products).all()
  assert (part < 0.15 * whole).all()


# ------------------------------------------------------------------------------------------- meshes


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
  "ranges", [((16_000, 16_512),), ((0, 16_000), (16_512, 16_528))], ids=["codes", "text"]
)
def test_a_part_of_a_sharded_head_gathers_nothing(ranges, tie):
  """Liquid's vocabulary and codes in small: no device ever has more than about its part of the head
  and its part of the columns.
  """
  mesh = sharding.make_mesh(data=1, fsdp=2, tensor=4)
  config = tiny.config(vocab_size=16_528, d_model=64, tie_embeddings=tie)
  name, shape = ("embedding", (16_528, 64)) if tie else ("head", (64, 16_528))
  layout = sharding.tree_shardings({name: jax.ShapeDtypeStruct(shape, jnp.float32)}, mesh)
  shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=layout[name])}
  with jax.set_mesh(mesh):
    run = tiny.jit(lambda params: columns.head(params, config, ranges)).lower(shapes).compile()
  assert run.output_shardings.spec == P("fsdp", "tensor")
  text, width = run.as_text(), columns.count(ranges, 16_528)
  assert "collective-permute" in text and "all-gather" not in text and "all-reduce" not in text
  own = 4 * 32 * (16_528 + width) // 4
  assert run.memory_analysis().temp_size_in_bytes < 1.5 * own
