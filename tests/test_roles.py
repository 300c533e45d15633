"""A state of a fixed number of codes, as images are: sampled from the codes alone, exactly so many,
with two markers behind them that are scored and never sampled.
"""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from swirl_jax import phases, rewards
from swirl_jax.types import Segment

CONFIG = tiny.config()
PARAMS = tiny.params(CONFIG)
CODES = (20, 36)
EOI = 4


def of_codes(role):
  decoding = dataclasses.replace(role.decoding, length=tiny.STATE, end=None, allowed=(CODES,))
  template = dataclasses.replace(role.template, end=(EOI, *role.template.end))
  return dataclasses.replace(role, decoding=decoding, template=template)


FWM, IDM = of_codes(tiny.fwm(CONFIG, group=3)), tiny.idm(CONFIG)


def states(seed):
  tokens = np.random.default_rng(seed).integers(*CODES, size=(4, tiny.STATE)).astype(np.int32)
  return Segment(tokens, np.ones(tokens.shape, bool))


BATCH = tiny.transitions(5, 4)._replace(x=states(0), y=states(1))


@pytest.fixture(scope="module")
def drawn():
  rollout = tiny.jit(FWM.rollout)(PARAMS, BATCH, jax.random.key(0), np.float32(1.0))
  return jax.tree.map(np.asarray, rollout)


def test_exactly_so_many_codes_and_no_marker(drawn):
  assert drawn.mask.all() and drawn.complete.all() and drawn.tokens.shape == (4, 3, tiny.STATE)
  assert (drawn.tokens >= CODES[0]).all() and (drawn.tokens < CODES[1]).all()
  content = FWM.content(drawn)
  assert content.tokens is drawn.tokens and content.mask.all()
  target = FWM.target(content)
  assert target.mask.all() and target.tokens.shape[-1] == tiny.STATE + 2
  np.testing.assert_array_equal(target.tokens[0, 0, -2:], FWM.template.end)


def test_the_policy_is_renormalised_over_the_codes_and_the_model_is_not(drawn):
  target = Segment(drawn.tokens, drawn.mask)
  score = tiny.jit(FWM.logprobs, static_argnames="sampled")
  policy, entropy = score(PARAMS, BATCH, target, sampled=True)
  model, _ = score(PARAMS, BATCH, target)
  np.testing.assert_allclose(policy, drawn.logp, atol=1e-5)
  assert (np.asarray(entropy) <= np.log(CODES[1] - CODES[0]) + 1e-5).all()
  for b, g in np.ndindex(4, 3):
    prompt = tiny.prompt_ids(FWM, x=tiny.real(BATCH.x, b), z=tiny.real(BATCH.z, b))
    expected = tiny.numpy_logprobs(PARAMS, CONFIG, prompt, tiny.real(target, b, g))
    np.testing.assert_allclose(model[b, g], expected, atol=2e-5)
  assert (np.asarray(policy) > np.asarray(model)).all()


def test_the_reward_scores_the_markers_over_the_whole_vocabulary():
  z = tiny.segment(np.random.default_rng(2), (4, 3), tiny.ACTION)
  spec = rewards.RewardSpec(reduce="sum", floor=None)
  found = tiny.jit(lambda p: rewards.frozen_reward(FWM, p, BATCH, z, "z", spec=spec))(PARAMS)
  for b, g in np.ndindex(4, 3):
    prompt = tiny.prompt_ids(FWM, x=tiny.real(BATCH.x, b), z=tiny.real(z, b, g))
    target = tiny.real(BATCH.y, b) + list(FWM.template.end)
    expected = tiny.numpy_logprobs(PARAMS, CONFIG, prompt, target).sum()
    np.testing.assert_allclose(found[b, g], expected, atol=1e-4)


def test_the_prior_scores_over_the_whole_vocabulary(drawn):
  spec = rewards.RewardSpec(reduce="sum", floor=None, prior=True)
  found = tiny.jit(lambda p: rewards.prior_reward(FWM, p, BATCH, drawn, spec=spec))(PARAMS)
  for b, g in np.ndindex(4, 3):
    prompt = tiny.prompt_ids(FWM, x=tiny.real(BATCH.x, b), z=[])
    sampled = drawn.tokens[b, g].tolist()
    expected = tiny.numpy_logprobs(PARAMS, CONFIG, prompt, sampled).sum()
    np.testing.assert_allclose(found[b, g], expected, atol=1e-3)


def test_a_phase_of_each_kind_with_a_label_anchor():
  """The anchor learns the markers, which the policy can't sample."""
  idm = tiny.idm(CONFIG, group=3)
  for policy, frozen in ((FWM, IDM), (idm, dataclasses.replace(FWM))):
    spec = phases.PhaseSpec(policy, frozen, tiny.PLAIN, anchor=True)
    batch = phases.Batch(BATCH, BATCH)
    slots = phases.Slots(PARAMS, reference=PARAMS)
    step = tiny.jit(phases.phase_step, static_argnames="spec")
    state, metrics = step(
      tiny.state(PARAMS), slots, batch, jax.random.key(1), tiny.hyper(), spec=spec
    )
    assert float(metrics["nonfinite"].sum) == 0
    values = {k: float(v.sum / v.weight) for k, v in metrics.items()}
    assert values["truncated"] == 0 or policy is idm
    assert abs(values["ratio"] - 1) < 1e-4 and 0 < values["anchor_nll_" + policy.field] < 50
    assert np.isfinite(values["loss"]) and float(state.step) == 1
