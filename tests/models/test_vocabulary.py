"""New tokens: their rows are the mean of the known ones, all others stay bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swirl_jax import sharding
from swirl_jax.models import transformer, vocabulary
from tests import tiny


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_the_mean_and_the_rest_stays(tied):
  config = tiny.config(tie_embeddings=tied)
  params = tiny.params(config)
  known, added = 30, [30, 31, 41]  # two padding rows taken over, one row beyond the end
  new, grown = vocabulary.add_tokens(params, config, added, known=known)
  assert grown.vocab_size == 128
  assert set(new) == set(params)
  heads = ["embedding"] if tied else ["embedding", "head"]
  for name in heads:
    old, now = np.asarray(params[name]), np.asarray(new[name])
    if name == "head":
      old, now = old.T, now.T
    assert now.shape == (128, 16)
    fresh = [30, 31, *range(40, 128)]
    mean = old[:known].astype(np.float64).mean(0)
    np.testing.assert_allclose(now[fresh], np.broadcast_to(mean, (90, 16)), atol=1e-6)
    same = [i for i in range(40) if i not in fresh]
    np.testing.assert_array_equal(now[same], old[same])
  for name in set(params) - set(heads):
    assert new[name] is params[name]
  shape = jax.eval_shape(lambda: transformer.init_params(grown, jax.random.key(0)))
  assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, shape)


def test_what_has_room_does_not_grow():
  config = tiny.config()
  new, same = vocabulary.add_tokens(tiny.params(config), config, [38, 39], known=38)
  assert same == config and new["embedding"].shape == (40, 16)


def test_nothing_added_changes_nothing():
  config = tiny.config()
  new, same = vocabulary.add_tokens(tiny.params(config), config, [], known=40)
  assert same == config
  np.testing.assert_array_equal(new["embedding"], tiny.params(config)["embedding"])


def test_on_a_mesh_it_is_the_same_and_laid_out_by_the_rules():
  config = tiny.config(tie_embeddings=False)
  mesh = sharding.make_mesh(data=1, fsdp=2, tensor=2, devices=jax.devices()[:4])
  params = tiny.params(config)
  laid = jax.device_put(params, sharding.tree_shardings(params, mesh))
  one, grown = vocabulary.add_tokens(params, config, [40, 41, 42], known=40)
  many, same = vocabulary.add_tokens(laid, config, [40, 41, 42], known=40)
  assert grown == same and grown.vocab_size == 128
  for name in ("embedding", "head"):
    np.testing.assert_allclose(many[name], one[name], rtol=1e-6, atol=1e-7)
    assert many[name].sharding == sharding.tree_shardings(many, mesh)[name]
    assert not many[name].is_fully_replicated


def test_bfloat16_stays_bfloat16():
  config = tiny.config()
  half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), tiny.params(config))
  new, _ = vocabulary.add_tokens(half, config, [40], known=40)
  assert new["embedding"].dtype == jnp.bfloat16
  expected = np.asarray(half["embedding"], np.float32).mean(0).astype(jnp.bfloat16)
  np.testing.assert_allclose(
    np.asarray(new["embedding"][40], np.float32), expected.astype(np.float32), rtol=2**-8
  )


@pytest.mark.parametrize(
  "added, settings, message",
  [
    ([3], {"known": 30}, r"added = 3: a token that the model knows \(known = 30\)"),
    ([29], {"known": 30}, r"added = 29: a token that the model knows \(known = 30\)"),
    ([40], {"known": 0}, "known = 0: allowed is 1 to vocab_size = 40"),
    ([40], {"known": 41}, "known = 41"),
  ],
)
def test_what_cannot_be_is_refused(added, settings, message):
  config = tiny.config()
  with pytest.raises(ValueError, match=message):
    vocabulary.add_tokens(tiny.params(config), config, added, **settings)
