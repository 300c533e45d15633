"""How a batch is cut; `test_sft.py` and `test_phases.py` have the gradients."""

import jax.numpy as jnp
import numpy as np

from swirl_jax import micro_batches


def test_as_many_rows_at_a_time_as_asked_for():
  """Strided, so that each part has rows of every device; what lies beside is cut into as many."""
  rows, labels = jnp.arange(12).reshape(12, 1), jnp.arange(8)
  parts = micro_batches.split((rows, labels), 3)
  assert parts[0].shape == (4, 3, 1) and parts[1].shape == (4, 2)
  for i in range(4):
    np.testing.assert_array_equal(parts[0][i, :, 0], [i, i + 4, i + 8])
    np.testing.assert_array_equal(parts[1][i], [i, i + 4])


def test_zero_leaves_all_rows_together():
  (whole,) = micro_batches.split((jnp.arange(6),), 0)
  np.testing.assert_array_equal(whole, np.arange(6).reshape(1, 6))
