"""Classifier-free guidance: what is drawn from is led away from an unconditional prompt, and the
policy is what it was.
"""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.stats
import tiny

from configs import test as test_config
from swirl_jax import programs, prompts, sampling, sharding
from swirl_jax.settings import from_config

CONFIG = tiny.config()
PARAMS = tiny.params(CONFIG)
BATCH = tiny.transitions(0, 3)
KEY = jax.random.key(0)
WARM = np.float32(1.3)
ALLOWED = ((2, 3), (6, 24))
IDS = np.flatnonzero(tiny.allowed_mask(ALLOWED, tiny.VOCAB))
SCALE = 3.0
T = tiny.TOKENIZER
LONG = ((T.bos, *range(7, 20)), "x", (T.sep,))  # longer than the prompt, and without z


def role(*, scale=SCALE, unconditional=None, **decoding):
  options = {"group": 2, "length": 4, "allowed": ALLOWED} | decoding
  fwm = tiny.fwm(CONFIG, guidance=scale, **options)
  template = dataclasses.replace(fwm.template, unconditional=unconditional)
  return dataclasses.replace(fwm, template=template)


def draw(role, temperature=WARM):
  return jax.tree.map(np.asarray, tiny.jit(role.rollout)(PARAMS, BATCH, KEY, temperature))


def two_passes(role, b, ids):
  """Logits [t, W] of the allowed tokens behind the prompt and behind the unconditional one, in
  NumPy, of a whole sequence each.
  """
  found = []
  for prompt in (prompts.prompt, prompts.unconditional):
    before = tiny.real(prompt(role.template, BATCH), b)
    logits = tiny.numpy_logits(PARAMS, CONFIG, before + ids)
    found.append(logits[len(before) - 1 : -1, IDS])
  return found


@pytest.fixture(scope="module")
def drawn():
  return draw(role())


@pytest.mark.parametrize("unconditional", [None, LONG], ids=["hidden z", "a template's"])
def test_the_distributions_of_two_full_passes(drawn, unconditional):
  """u + s (c − u) with temperature for what was drawn, c for the policy; ragged prompts, and an
  unconditional one that is shorter or longer.
  """
  fwm = role(unconditional=unconditional)
  out = drawn if unconditional is None else draw(fwm)
  moved = 0.0
  for b, g in np.ndindex(out.complete.shape):
    ids = out.tokens[b, g][out.mask[b, g]].tolist()
    c, u = two_passes(fwm, b, ids)
    at = np.arange(len(ids)), np.searchsorted(IDS, ids)
    guided = tiny.log_softmax((u + SCALE * (c - u)) / WARM)[at]
    np.testing.assert_allclose(out.logp_sampler[b, g, : len(ids)], guided, atol=1e-5)
    np.testing.assert_allclose(out.logp[b, g, : len(ids)], tiny.log_softmax(c)[at], atol=1e-5)
    moved = max(moved, np.abs(guided - tiny.log_softmax(c / WARM)[at]).max())
  assert moved > 0.1 and not out.mask.all()


def test_the_policy_is_the_teacher_forced_one(drawn):
  target = prompts.Segment(drawn.tokens, drawn.mask)
  score = tiny.jit(role().logprobs, static_argnames="sampled")
  logp, _ = score(PARAMS, BATCH, target, sampled=True)
  np.testing.assert_allclose(np.where(drawn.mask, logp, 0.0), drawn.logp, atol=1e-5)


def assert_same(found, expected):
  np.testing.assert_array_equal(found.tokens, expected.tokens)
  np.testing.assert_array_equal(found.mask, expected.mask)
  np.testing.assert_allclose(found.logp, expected.logp, atol=1e-5)
  np.testing.assert_allclose(found.logp_sampler, expected.logp_sampler, atol=1e-5)


def test_eager_equals_jit(drawn):
  assert_same(role().rollout(PARAMS, BATCH, KEY, WARM), drawn)


def test_eight_devices_equal_one():
  """The pairs of rows, and the allowed columns of a head that is split over the devices."""
  fwm, batch = role(unconditional=LONG), tiny.transitions(1, 8)
  run = tiny.jit(fwm.rollout)
  expected = run(PARAMS, batch, KEY, WARM)
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  params = jax.device_put(PARAMS, sharding.tree_shardings(PARAMS, mesh))
  with jax.set_mesh(mesh):
    found = run(params, sharding.put_batch(batch, mesh), KEY, WARM)
  assert_same(jax.device_get(found), jax.device_get(expected))


def test_a_scale_of_one_is_no_guidance():
  """Not even another program; and the two streams at a scale of 1 draw what one draws."""
  plain = role(scale=1.0)

  def alone(params, batch, key, temperature):
    prompt = prompts.prompt(plain.template, batch)
    decoding = sampling.Decoding(length=4, group=2, end=T.eos, allowed=ALLOWED)
    return sampling.rollout(params, prompt, key, temperature, config=CONFIG, decoding=decoding)

  found = {str(jax.make_jaxpr(f)(PARAMS, BATCH, KEY, WARM)) for f in (plain.rollout, alone)}
  assert len(found) == 1
  found, expected = draw(role(scale=float(np.nextafter(1.0, 2.0)))), draw(plain)
  assert_same(found, expected)


def test_draws_follow_the_guided_distribution():
  """Chi-square of 3 × 6,000 draws; and their importance weights to the policy average to 1."""
  fwm = role(group=6000, length=1)
  out = draw(fwm)
  assert np.isin(out.tokens, IDS).all()
  for b in range(3):
    c, u = two_passes(fwm, b, [7])
    p = np.exp(tiny.log_softmax((u + SCALE * (c - u)) / WARM))[0]
    counts = np.bincount(np.searchsorted(IDS, out.tokens[b, :, 0]), minlength=len(IDS))
    rare = p * 6000 < 5
    cells = [np.append(a[~rare], a[rare].sum()) for a in (counts, p * 6000)]
    assert scipy.stats.chisquare(*(a[cells[1] > 0] for a in cells)).pvalue > 1e-3
    weights = np.exp(out.logp - out.logp_sampler)[b]
    assert abs(weights.mean() - 1) < 5 * weights.std() / 6000**0.5


def test_greedy_takes_the_guided_argmax_and_the_policys_probability():
  rng = np.random.default_rng(0)
  logits, policy = rng.normal(size=(2, 5, 9)).astype(np.float32)
  decoding = sampling.Decoding(length=1, group=1, end=None, greedy=True)
  token, logp, logp_sampler = sampling.draw(
    logits, np.zeros(5, np.float32), WARM, decoding=decoding, policy=policy
  )
  np.testing.assert_array_equal(token, logits.argmax(-1))
  expected = tiny.log_softmax(policy)[np.arange(5), token]
  np.testing.assert_allclose(logp, expected, atol=1e-6)
  assert not np.asarray(logp_sampler).any()


@pytest.mark.parametrize("scale, given", [(2.0, False), (1.0, True)])
def test_guidance_and_its_prompt_go_together(scale, given):
  fwm = role(scale=scale)
  prompt = prompts.prompt(fwm.template, BATCH)
  with pytest.raises(ValueError, match="unconditional prompt is needed with guidance, and only"):
    sampling.rollout(
      PARAMS, prompt, KEY, WARM, config=CONFIG, decoding=fwm.decoding,
      unconditional=prompt if given else None,
    )  # fmt: skip


def test_a_phase_guides_its_policy_and_nothing_else():
  config = test_config.get_config().to_dict()
  config["phase1"] |= {"guidance": 2.5}
  settings = from_config(config)
  players = programs.Roles(tiny.fwm(CONFIG), tiny.idm(CONFIG))
  spec = programs.phase_spec(settings.phase1, players, phase="phase1", shared=False)
  assert spec.policy.decoding.guidance == 2.5
  assert spec.latent.decoding.guidance == spec.frozen.decoding.guidance == 1.0
  assert programs.drawn_with(players.fwm, settings.phase1).decoding.guidance == 2.5
