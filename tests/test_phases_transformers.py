"""The phase step on transformers: micro-batches, the plain loss, slots that change places."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax import objectives, phases, rng
from swirl_jax.phases import Batch, PhaseSpec, Slots

G = 4
KEY = jax.random.key(0)
CONFIG = tiny.config(n_layers=1, scan_layers=False)
TRANSFORMERS = Slots(*(tiny.params(CONFIG, seed) for seed in (1, 2)))
ANCHOR = tiny.transitions(1, 4)
TF_PHASE1 = PhaseSpec(tiny.fwm(CONFIG, group=G), tiny.idm(CONFIG), tiny.PLAIN, anchor=True)
TF_PHASE2 = PhaseSpec(tiny.idm(CONFIG, group=G), tiny.fwm(CONFIG), tiny.PLAIN, reduction="sequence")


@pytest.fixture(scope="module")
def experience():
  """Of four prompts, ragged, off policy: any numbers serve as those of the old policy."""
  r = np.random.default_rng(3)
  target = tiny.segment(r, (4, G), tiny.STATE)
  old, sampler, ref = -2 + 0.3 * r.normal(size=(3, 4, G, tiny.STATE)).astype(np.float32)
  a = r.normal(size=(4, G, 1)).astype(np.float32)
  weight = objectives.token_weights(target.mask)
  batch = tiny.transitions(0, 4)
  out = phases.Experience(batch, target, target.mask, weight, a, sampler, old, ref)
  return jax.tree.map(jnp.asarray, out)


def test_micro_batches_equal_the_batch_on_one_experience(experience):
  """k × (B / k) equals 1 × B: loss, gradient and metrics, with the anchor."""

  @functools.partial(tiny.jit, static_argnames="spec")
  def gradient(params, spec):
    return phases._gradient(params, Slots(None), experience, ANCHOR, tiny.hyper(), spec)

  whole = gradient(tiny.params(CONFIG), spec=TF_PHASE1)
  sizes = {"micro_batch": 2, "micro_group": 2}
  parts = gradient(tiny.params(CONFIG), spec=dataclasses.replace(TF_PHASE1, **sizes))
  np.testing.assert_allclose(parts[0], whole[0], rtol=1e-5)
  tiny.assert_gradients_close(parts[1], whole[1])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
               parts[2], whole[2])  # fmt: skip


def test_the_loss_of_a_transformer_is_that_of_plain_log_softmax(experience):
  """Both forms, off policy: the token ratio's fused pass, and GSPO's three passes."""
  params, hyper = tiny.params(CONFIG, 5), tiny.hyper(clip_low=0.3, clip_high=0.4)
  seen = experience

  def plain(params, ratio):
    logp = tiny.plain_logprobs(TF_PHASE1.policy, params, seen.transition, seen.target)
    d = jnp.where(seen.mask, logp - seen.logp_old, 0.0)
    if ratio == "sequence":
      d = d.sum(-1, keepdims=True) / seen.mask.sum(-1, keepdims=True)
    r, a = jnp.exp(d), seen.advantages
    s = jnp.minimum(r * a, jnp.clip(r, 1 - 0.3, 1 + 0.4) * a)
    k = jnp.where(seen.mask, seen.logp_ref - logp, 0.0)
    return (seen.weight * (0.1 * (jnp.exp(k) - 1 - k) - s)).sum()

  def ours(params, ratio):
    spec = dataclasses.replace(TF_PHASE1, ratio=ratio)
    return phases.policy_loss(params, seen, hyper, spec)[0]

  @tiny.jit
  def both(params):
    return [[jax.value_and_grad(f)(params, r) for f in (ours, plain)] for r in phases.RATIOS]

  for (loss, grads), (expected, plain_grads) in both(params):
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    tiny.assert_gradients_close(grads, plain_grads)


def test_swapping_slots_and_specs_gives_the_other_phase():
  """Phase II of (fwm, idm): the IDM moves, rewarded by log P(y | x, ẑ), the FWM as it was."""
  fwm, idm = TRANSFORMERS.frozen, tiny.params(CONFIG)
  batch, hyper = Batch(tiny.transitions(0, 4)), tiny.hyper()
  slots = Slots(fwm, idm)

  @tiny.jit
  def both(state):
    key = rng.stream(KEY, "rollout")
    drawn = TF_PHASE2.policy.rollout(state.params, batch.transition, key, hyper.temperature)
    return drawn, phases.phase_step(state, slots, batch, KEY, hyper, spec=TF_PHASE2)

  drawn, (state, metrics) = both(tiny.state(idm))
  drawn = jax.tree.map(np.asarray, drawn)
  rewards = []
  for b, g in np.ndindex(4, G):
    z = [t for t in drawn.tokens[b, g][drawn.mask[b, g]].tolist() if t != tiny.TOKENIZER.eos]
    prompt = tiny.prompt_ids(TF_PHASE2.frozen, x=tiny.real(batch.transition.x, b), z=z)
    answer = [*tiny.real(batch.transition.y, b), tiny.TOKENIZER.eos]
    rewards.append(max(tiny.numpy_logprobs(fwm, CONFIG, prompt, answer).mean(), -10.0))
  reward, kl = (metrics[name].sum / metrics[name].weight for name in ("reward", "kl"))
  np.testing.assert_allclose(reward, np.mean(rewards), rtol=1e-5)
  assert float(kl) == pytest.approx(0.0, abs=1e-6)  # the snapshot is the policy still
  moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), state.params, idm)
  assert min(jax.tree.leaves(moved["layers"])) > 0
