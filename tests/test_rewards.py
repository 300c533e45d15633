"""The reward is the frozen model's log-probability of its own field, sequence by sequence."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny

from swirl_jax import prompts, rewards
from swirl_jax.rewards import RewardSpec
from swirl_jax.types import Rollout

CONFIG = tiny.config(n_layers=1, scan_layers=False)
PARAMS = tiny.params(CONFIG, seed=1)
BATCH = tiny.transitions(4, 2)
FWM, IDM = tiny.fwm(CONFIG), tiny.idm(CONFIG)
EOS = tiny.TOKENIZER.eos


def sampled(length):
  """[B, 3, T], an empty one among them."""
  out = tiny.segment(np.random.default_rng(7), (2, 3), length)
  out.mask[1, 2] = False
  return out


@functools.partial(tiny.jit, static_argnames=("role", "field", "spec"))
def reward(role, params, transition, given, field, spec):
  return rewards.frozen_reward(role, params, transition, given, field, spec=spec)


def by_hand(role, given, spec, b, g):
  if role.field == "z":  # Phase I: log Q(z | x, ŷ)
    fields, answer = {"y": tiny.real(given, b, g)}, tiny.real(BATCH.z, b)
  else:  # Phase II: log P(y | x, ẑ)
    fields, answer = {"z": tiny.real(given, b, g)}, tiny.real(BATCH.y, b)
  prompt = tiny.prompt_ids(role, x=tiny.real(BATCH.x, b), **fields)
  logp = tiny.numpy_logprobs(PARAMS, CONFIG, prompt, [*answer, EOS])
  logp = logp if spec.count_end else logp[:-1]
  value = logp.mean() if spec.reduce == "mean" else logp.sum()
  return value if spec.floor is None else max(value, spec.floor)


SPECS = {
  "paper": RewardSpec(),
  "no_end": RewardSpec(count_end=False, floor=None),
  "sum": RewardSpec(reduce="sum", floor=None),
  "floored": RewardSpec(reduce="sum", floor=-8.0),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("role", [IDM, FWM], ids=["phase1", "phase2"])
def test_equals_the_reference_sequence_by_sequence(role, spec):
  given, field = (sampled(tiny.STATE), "y") if role is IDM else (sampled(tiny.ACTION), "z")
  found = reward(role, PARAMS, BATCH, given, field, spec)
  expected = [[by_hand(role, given, spec, b, g) for g in range(3)] for b in range(2)]
  np.testing.assert_allclose(found, expected, atol=2e-5)
  if spec.floor == -8.0:
    assert (np.asarray(found) == -8.0).any()


def test_actions_that_differ_by_sample_and_fields_by_sample():
  """z may be given per sample, [B, G, S], as candidates are: the IDM then scores each one's own."""
  ys = sampled(tiny.STATE)
  zs = tiny.segment(np.random.default_rng(8), (2, 3), tiny.ACTION)
  found = reward(IDM, PARAMS, BATCH._replace(z=zs), ys, "y", RewardSpec())
  for b, g in np.ndindex(2, 3):
    lone = BATCH._replace(z=jax.tree.map(lambda a, g=g: a[:, g], zs))
    one = jax.tree.map(lambda a, g=g: a[:, g : g + 1], ys)
    expected = reward(IDM, PARAMS, lone, one, "y", RewardSpec())[b, 0]
    np.testing.assert_allclose(found[b, g], expected, atol=1e-5)


@pytest.mark.parametrize("prior", [False, True], ids=["frozen", "prior"])
def test_no_gradient_leaves_the_reward(prior):
  given, spec = sampled(tiny.STATE), RewardSpec(prior=prior)

  @tiny.jit
  @jax.grad
  def grads_of(params):
    if prior:
      drawn = Rollout(*given, None, None, None)
      return rewards.prior_reward(FWM, params, BATCH, drawn, spec=spec).sum()
    return rewards.frozen_reward(IDM, params, BATCH, given, "y", spec=spec).sum()

  grads = grads_of(PARAMS)
  assert not any(np.asarray(g).any() for g in jax.tree.leaves(grads))


def test_prior_reward_is_the_z_free_log_probability_of_the_sample():
  role = dataclasses.replace(FWM, decoding=dataclasses.replace(FWM.decoding, group=3))
  target = prompts.with_end(sampled(tiny.STATE - 1), (EOS,))
  drawn = Rollout(np.asarray(target.tokens), np.asarray(target.mask), None, None, None)
  for spec in (RewardSpec(prior=True), RewardSpec(reduce="sum", floor=-9.0, prior=True)):
    run = functools.partial(rewards.prior_reward, role, spec=spec)
    found = tiny.jit(lambda p, run=run: run(p, BATCH, drawn))(PARAMS)
    for b, g in np.ndindex(2, 3):
      prompt = tiny.prompt_ids(FWM, x=tiny.real(BATCH.x, b), z=[])
      logp = tiny.numpy_logprobs(PARAMS, CONFIG, prompt, tiny.real(target, b, g))
      value = max(logp.mean() if spec.reduce == "mean" else logp.sum(), spec.floor)
      np.testing.assert_allclose(found[b, g], value, atol=2e-5)


def test_unknown_reduction():
  with pytest.raises(ValueError, match=r"reward\.reduce = 'median': allowed are \['mean', 'sum'\]"):
    RewardSpec(reduce="median")
  with pytest.raises(ValueError, match="reward.prior = True: a random reward has no prior"):
    RewardSpec(prior=True, random=True)
