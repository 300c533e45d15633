"""A reward that is not finite ends the step even where no token's loss shows it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax import phases
from swirl_jax.optimizer import AdamW
from swirl_jax.phases import Batch, PhaseSpec, Slots
from swirl_jax.rewards import RewardSpec

FWM, IDM = tiny.TableRole("y", group=4, length=3), tiny.TableRole("z", group=1, length=3)
SPEC = PhaseSpec(
  FWM, IDM, AdamW(), reference="none", reward=RewardSpec(floor=None), mask_truncated=True
)


@pytest.mark.parametrize("inner_epochs", [1, 2])
def test_an_infinite_reward_of_samples_that_carry_no_loss(inner_epochs):
  """Every sample of a prompt is truncated, so that its advantages, which are NaN, weigh nothing."""
  batch = Batch(tiny.table_transitions(3, 6))
  x = batch.transition.x.tokens[0, 0]
  policy = {"table": tiny.table(0)["table"].at[x, :, :, FWM.end].set(-50.0)}
  frozen = {"table": tiny.table(1)["table"].at[x, :, :, IDM.end].set(-jnp.inf)}
  step = tiny.jit(phases.phase_step, static_argnames="spec")
  before = tiny.state(policy, AdamW())
  after, metrics = step(
    before, Slots(frozen), batch, jax.random.key(0), tiny.hyper(),
    spec=dataclasses.replace(SPEC, inner_epochs=inner_epochs),
  )  # fmt: skip
  assert np.isfinite(metrics["loss"].sum) and np.isneginf(metrics["reward"].sum)
  assert metrics["nonfinite"].sum == 1
  jax.tree.map(np.testing.assert_array_equal, after, before)
