"""The table of tensors covers every parameter exactly once, whatever the config."""

import collections

import jax
import numpy as np
import pytest

from swirl_jax import sharding
from swirl_jax.models import tensor_table, transformer
from swirl_jax.models.tensor_table import NORMS, QK_NORMS
from tests import tiny

CONFIGS = [{"norms": n} for n in NORMS]
CONFIGS += [{"qk_norm": q, "head_dim": 6} for q in QK_NORMS]
CONFIGS += [{"tie_embeddings": False}, {"qkv_bias": True, "out_bias": True}, {"n_kv_heads": 4}]


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_every_number_of_every_parameter_has_one_place(changes):
  config = tiny.config(**changes)
  shapes = jax.eval_shape(lambda: transformer.init_params(config, jax.random.key(0)))
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  count = {sharding.leaf_path(path): np.zeros(leaf.shape, int) for path, leaf in leaves}
  seen = collections.Counter()
  for row in tensor_table.rows(config):
    place = tensor_table.place(row, config)
    names = tensor_table.names(row, config)
    seen.update(names)
    assert np.prod(place.file) == np.prod(place.ours)
    for layer in range(len(names)):
      part = count[row.path][layer] if row.layered else count[row.path]
      part[tuple(slice(o, o + n) for o, n in zip(place.offset, place.ours, strict=True))] += 1
  for path, times in count.items():
    assert (times == 1).all(), path
  assert max(seen.values()) == 1  # no tensor is read twice


def test_to_file_undoes_the_way_in():
  config = tiny.config(qk_norm="layer", qkv_bias=True)
  rng = np.random.default_rng(0)
  for row in tensor_table.rows(config):
    place = tensor_table.place(row, config)
    tensor = rng.normal(size=place.file)
    whole = np.full([n + o for n, o in zip(place.ours, place.offset, strict=True)], np.nan)
    at = tuple(slice(o, None) for o in place.offset)
    whole[at] = tensor.reshape(place.split).transpose(place.permutation)
    np.testing.assert_array_equal(tensor_table.to_file(whole, row, config), tensor)
