"""What a run reads: as many labels as it asks for, and the pairs whose action is surest."""

import numpy as np
import pytest

from configs import test as test_config
from swirl_jax import inputs
from swirl_jax.data import builders
from swirl_jax.settings import from_config


def test_the_label_budget_of_each_model(tmp_path):
  c = test_config.get_config().to_dict()
  c["data"] |= {"fwm_labels": 60, "idm_labels": 50}
  world = builders.get("minigrid", {k: v for k, v in c["world"].items() if k != "name"})
  arrays = inputs.load(from_config(c), world, str(tmp_path)).arrays
  assert [len(arrays[n].x.tokens) for n in ("fwm_labels", "idm_labels")] == [60, 50]
  assert arrays["unlabelled"].z is None and arrays["fwm_labels"].z is not None


def test_the_surest_pairs():
  rows = inputs.Segment(np.arange(10)[:, None], np.ones((10, 1), bool))
  logp = -np.array([3.0, 1, 2, 5, 4, 9, 8, 7, 6, 2.5])
  found = inputs.Latents(rows.tokens + 10, rows.mask, logp)

  def kept(**limits):
    t = inputs.with_latents(inputs.Transition(rows, rows), found, **limits)
    np.testing.assert_array_equal(t.x.tokens + 10, t.z.tokens)  # each with its own action
    return t.y.tokens[:, 0].tolist()

  assert kept(floor=-5.0) == [0, 1, 2, 3, 4, 9]
  assert kept(floor=-5.0, share=0.5) == [1, 2, 9]
  assert kept(floor=-9.0, share=0.01) == [1]
  with pytest.raises(ValueError, match="latent_floor = -0.5: no annotated .* reaches it; best: -1"):
    kept(floor=-0.5)
