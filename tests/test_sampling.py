"""Grouped sampling: shared prompts, the two log-probabilities, the distribution, the end."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import tiny

from swirl_jax import prompts, rng, sampling
from swirl_jax.models import columns, transformer
from swirl_jax.types import Segment

END = tiny.TOKENIZER.eos
LAST = np.nextafter(np.float32(1), np.float32(0))  # the largest uniform number


def truncated(logits, *, temperature=1.0, top_k=0, top_p=1.0, allowed=None):
  """The distribution that is drawn from, by sorting, in float64: [V] → [V]."""
  logits = np.asarray(logits, np.float64) / temperature
  if allowed is not None:
    logits = np.where(tiny.allowed_mask(allowed, len(logits)), logits, -np.inf)
  p = np.exp(logits - logits.max())
  p /= p.sum()
  order = np.argsort(-p, kind="stable")
  if top_k:
    p[order[top_k:]] = 0.0
    p /= p.sum()
  if top_p < 1.0:
    count = int((np.cumsum(p[order]) < top_p - 1e-12).sum()) + 1
    p[order[count:]] = 0.0
  return p / p.sum()


TRUNCATIONS = {
  "plain": {},
  "temperature": {"temperature": 0.6},
  "top_k": {"top_k": 5},
  "top_p": {"top_p": 0.8},
  "all_three": {"temperature": 1.7, "top_k": 11, "top_p": 0.7},
  "allowed": {"allowed": ((2, 3), (10, 20)), "top_p": 0.9, "temperature": 1.3},
}
truncations = pytest.mark.parametrize("cut", TRUNCATIONS.values(), ids=TRUNCATIONS)


@functools.partial(tiny.jit, static_argnames="decoding")
def draw(logits, u, temperature, decoding):
  return sampling.draw(logits, u, temperature, decoding=decoding)


def settings(cut, **more):
  cut = dict(cut)
  temperature = np.float32(cut.pop("temperature", 1.0))
  return sampling.Decoding(**({"length": 4, "group": 2, "end": END} | cut | more)), temperature


def chi_square(counts, p):
  """p-value of counts [V] under p [V]; tokens that expect fewer than 5 draws share one cell."""
  expected = p * counts.sum()
  rare = expected < 5
  cells = [np.append(a[~rare], a[rare].sum()) for a in (counts, expected)]
  return scipy.stats.chisquare(*(c[cells[1] > 0] for c in cells)).pvalue


@truncations
def test_draws_follow_the_distribution(cut):
  """Chi-square of 20,000 draws (fixed seed), and both log-probabilities of each."""
  logits = 1.5 * np.random.default_rng(0).normal(size=tiny.VOCAB).astype(np.float32)
  decoding, temperature = settings(cut)
  ids = np.arange(tiny.VOCAB)
  if decoding.allowed is not None:
    ids = np.flatnonzero(tiny.allowed_mask(decoding.allowed, tiny.VOCAB))
  u = np.asarray(jax.random.uniform(jax.random.key(1), (20_000,)))
  token, logp, logp_sampler = draw(np.tile(logits[ids], (len(u), 1)), u, temperature, decoding)
  token = np.asarray(columns.ids(token, decoding.allowed))
  p = truncated(logits, **cut)
  counts = np.bincount(token, minlength=tiny.VOCAB)
  assert not counts[p == 0].any()
  assert chi_square(counts, p) > 1e-3
  np.testing.assert_allclose(logp_sampler, np.log(p[token]), atol=1e-5)
  policy = truncated(logits, allowed=cut.get("allowed"))
  np.testing.assert_allclose(logp, np.log(policy[token]), atol=1e-5)


def test_the_chi_square_test_sees_a_wrong_temperature():
  logits = 1.5 * np.random.default_rng(0).normal(size=tiny.VOCAB).astype(np.float32)
  decoding, temperature = settings({"temperature": 0.95})
  u = np.asarray(jax.random.uniform(jax.random.key(1), (20_000,)))
  token = draw(np.tile(logits, (len(u), 1)), u, temperature, decoding)[0]
  assert chi_square(np.bincount(token, minlength=tiny.VOCAB), truncated(logits)) < 1e-3


@pytest.mark.parametrize(
  "cut", [{"top_k": 7}, {"top_p": 0.6}, {"top_k": 40, "top_p": 0.3}], ids=str
)
def test_truncation_equals_sorting(cut):
  """Also where some probabilities are 0, denormal, or next to each other in float32."""
  r = np.random.default_rng(2)
  logits = np.concatenate([r.normal(size=(20, 64)), 20 * r.normal(size=(20, 64))])
  logits[::3, 5] = -1e30
  p = np.exp(logits - logits.max(-1, keepdims=True)).astype(np.float32)
  run = tiny.jit(functools.partial(sampling.keep_top, **({"top_k": 0, "top_p": 1.0} | cut)))
  found = np.asarray(run(p))
  for row, kept in zip(p, found, strict=True):
    np.testing.assert_array_equal(kept[kept > 0], row[kept > 0])
    order = np.argsort(-row, kind="stable")
    size = (kept > 0).sum()
    assert set(np.flatnonzero(kept)) == set(order[:size])
    expected = (truncated(np.log(np.maximum(row.astype(np.float64), 1e-300)), **cut) > 1e-35).sum()
    assert abs(int(size) - int(expected)) <= (1 if cut.get("top_p", 1.0) < 1.0 else 0)


def test_ties_at_the_cut_are_kept():
  p = np.array([[1.0, 0.5, 0.5, 0.5, 0.25]], np.float32)
  found = sampling.keep_top(p, top_k=2, top_p=1.0)
  np.testing.assert_array_equal(found, [[1.0, 0.5, 0.5, 0.5, 0.0]])


def test_the_cut_is_exact():
  """A nucleus whose mass is just top_p, and probabilities that are neighbours in float32."""
  p = np.array([0.5, 0.25, 0.125, 0.125], np.float32)
  found = sampling.keep_top(p, top_k=0, top_p=0.75)
  np.testing.assert_array_equal(found, [0.5, 0.25, 0.0, 0.0])
  for most in (1.0, 0.3):
    p = np.float32([np.nextafter(np.float32(most), np.float32(0)), most])
    found = sampling.keep_top(p, top_k=1, top_p=1.0)
    np.testing.assert_array_equal(found, [0.0, p[1]])


@pytest.mark.parametrize("size", [2, 7, 40, 300])
def test_no_token_of_zero_probability(size):
  """At u = 0, at the largest u below 1 and on every edge of the running sum."""
  r = np.random.default_rng(size)
  p = r.exponential(size=(64, size)).astype(np.float32)
  p[r.random(p.shape) < 0.6] = 0.0
  p[:, r.integers(size)] = 1.0
  run = tiny.jit(sampling.inverse_cdf)
  edges = (np.cumsum(p, -1) / p.sum(-1, keepdims=True)).astype(np.float32)
  columns = edges[:, r.integers(size, size=8)].T
  for u in (np.zeros(64, np.float32), np.full(64, LAST), *np.clip(columns, 0, LAST)):
    token = np.asarray(run(p, u))
    assert (0 <= token).all() and (token < size).all()
    assert (p[np.arange(64), token] > 0).all()
  first, last = (p > 0).argmax(-1), size - 1 - (p > 0)[:, ::-1].argmax(-1)
  np.testing.assert_array_equal(run(p, np.zeros(64, np.float32)), first)
  np.testing.assert_array_equal(run(p, np.full(64, LAST)), last)


def test_no_token_of_zero_probability_where_a_running_sum_is_not_monotone():
  """Long blocks are summed in parallel: there a place of no mass can move the sum by a rounding.

  The numbers aim at such places, and "the first whose running sum exceeds the target" would err.
  """
  size, block, rows = 2**18, 512, 64  # all mass in the first of the blocks that a draw works with
  r = np.random.default_rng(0)
  inside = r.exponential(size=(rows, block)).astype(np.float32)
  inside[r.random(inside.shape) < 0.5] = 0.0
  running = np.asarray(tiny.jit(lambda p: jnp.cumsum(p, -1))(inside))
  moved = (running[:, 1:] > running[:, :-1]) & (inside[:, 1:] == 0)
  assert moved.any(-1).sum() > rows / 2  # else this test shows nothing
  u = running[np.arange(rows), moved.argmax(-1)] / inside.sum(-1)
  p = np.pad(inside, [(0, 0), (0, size - block)])
  run = tiny.jit(sampling.inverse_cdf)
  for _ in range(6):
    token = np.asarray(run(p, np.minimum(u, LAST)))
    assert (p[np.arange(rows), token] > 0).all()
    u = np.nextafter(u, np.float32(1))


# ---------------------------------------------------------------------------------------- rollouts

CONFIG = tiny.config()
SHARP = jax.tree.map(lambda a: a, tiny.params(CONFIG)) | {
  "embedding": 2 * tiny.params(CONFIG)["embedding"]
}


@functools.partial(tiny.jit, static_argnames=("decoding",))
def rollout(params, prompt, key, temperature, decoding):
  return sampling.rollout(params, prompt, key, temperature, config=CONFIG, decoding=decoding)


def ragged_prompts():
  return prompts.prompt(prompts.fwm_template(tiny.TOKENIZER), tiny.transitions(0, 3))


ALLOWED = ((2, 3), (6, 24))
DECODING = sampling.Decoding(length=5, group=4, end=END, top_k=9, top_p=0.9, allowed=ALLOWED)


@pytest.fixture(scope="module")
def drawn():
  key = jax.random.key(0)
  out = rollout(SHARP, ragged_prompts(), key, np.float32(1.2), DECODING)
  return jax.tree.map(np.asarray, out)


def test_both_log_probabilities_are_those_of_the_reference(drawn):
  """Teacher-forced, one sequence at a time, in NumPy: ragged prompts, a shared cache, allowed."""
  prompt = ragged_prompts()
  for b, g in np.ndindex(drawn.complete.shape):
    ids = drawn.tokens[b, g][drawn.mask[b, g]].tolist()
    before = tiny.real(prompt, b)
    logits = tiny.numpy_logits(SHARP, CONFIG, before + ids)[len(before) - 1 : -1]
    for t, (token, row) in enumerate(zip(ids, logits, strict=True)):
      policy = truncated(row, allowed=ALLOWED)
      sampler = truncated(row, temperature=1.2, top_k=9, top_p=0.9, allowed=ALLOWED)
      np.testing.assert_allclose(drawn.logp[b, g, t], np.log(policy[token]), atol=2e-5)
      np.testing.assert_allclose(drawn.logp_sampler[b, g, t], np.log(sampler[token]), atol=2e-4)


def test_windows_and_soft_caps_hold_beyond_the_window():
  """A window of 2 in every second layer, other rotary angles there, capped logits: teacher-forced
  in NumPy, and the group's shared prompt.
  """
  config = tiny.config(
    window=2, layer_types=("sliding", "full"), sliding_rope_theta=30.0, final_softcap=2.0,
    attention_softcap=3.0, scan_layers=False,
  )  # fmt: skip
  decoding = dataclasses.replace(DECODING, length=6, group=2, allowed=None, top_k=0, top_p=1.0)
  run = tiny.jit(functools.partial(sampling.rollout, config=config, decoding=decoding))
  out = jax.tree.map(np.asarray, run(SHARP, ragged_prompts(), jax.random.key(1), np.float32(1.5)))
  prompt = ragged_prompts()
  for b, g in np.ndindex(out.complete.shape):
    ids, before = out.tokens[b, g][out.mask[b, g]].tolist(), tiny.real(prompt, b)
    logp = tiny.numpy_logprobs(SHARP, config, before, ids)
    np.testing.assert_allclose(out.logp[b, g, : len(ids)], logp, atol=2e-5)
    plain = tiny.numpy_logprobs(SHARP, CONFIG, before, ids)
    assert np.abs(plain - logp).max() > 0.05
  assert out.mask.sum(-1).max() == 6


def test_shapes_and_what_stands_behind_the_end(drawn):
  shape = (3, 4, 5)
  assert [a.shape for a in drawn] == [shape] * 4 + [(3, 4)]
  assert [a.dtype for a in drawn] == [np.int32, bool, np.float32, np.float32, bool]
  ended = (drawn.tokens == END) & drawn.mask
  np.testing.assert_array_equal(drawn.complete, ended.any(-1))
  after = ended.cumsum(-1) - ended > 0
  np.testing.assert_array_equal(drawn.mask, ~after)
  for a in drawn[:1] + drawn[2:4]:
    assert not a[after].any()
  inside = tiny.allowed_mask(ALLOWED, tiny.VOCAB)
  assert inside[drawn.tokens[drawn.mask]].all()
  assert after.any() and not drawn.complete.all() and drawn.complete.any()  # all cases are there


def test_samples_of_a_group_and_repeated_keys(drawn):
  assert any(len({tuple(r) for r in rows}) > 1 for rows in drawn.tokens)
  again = rollout(SHARP, ragged_prompts(), jax.random.key(0), np.float32(1.2), DECODING)
  jax.tree.map(np.testing.assert_array_equal, tuple(again), tuple(drawn))


def test_every_place_draws_anew():
  """A model without preferences draws each token from a uniform number of its own."""
  flat = jax.tree.map(jnp.zeros_like, SHARP)
  out = rollout(flat, ragged_prompts(), jax.random.key(0), np.float32(1.2), DECODING)
  tokens, mask = np.asarray(out.tokens).reshape(12, 5), np.asarray(out.mask).reshape(12, 5)
  long = tokens[mask.sum(-1) > 2]
  assert len(long) > 6 and all(len(set(row)) > 1 for row in long)
  assert len({tuple(row) for row in long}) == len(long)
  np.testing.assert_allclose(np.asarray(out.logp)[np.asarray(out.mask)], -np.log(19), rtol=1e-5)


def test_a_shared_prompt_equals_a_prompt_per_sample():
  """G samples of B prompts, and the B × G prompts with one sample each, draw the same numbers.

  The uniform numbers are [B, G] and [B · G, 1] of one key, so they agree too.
  """
  prompt, key, warm = ragged_prompts(), jax.random.key(3), np.float32(0.9)
  shared = rollout(SHARP, prompt, key, warm, dataclasses.replace(DECODING, group=4))
  repeated = Segment(*(np.repeat(a, 4, 0) for a in prompt))
  alone = rollout(SHARP, repeated, key, warm, dataclasses.replace(DECODING, group=1))
  found, expected = (
    jax.tree.map(lambda a: np.asarray(a).reshape(12, *a.shape[2:]), r) for r in (shared, alone)
  )
  np.testing.assert_array_equal(found.tokens, expected.tokens)
  np.testing.assert_array_equal(found.mask, expected.mask)
  np.testing.assert_allclose(found.logp, expected.logp, atol=1e-5)
  np.testing.assert_allclose(found.logp_sampler, expected.logp_sampler, atol=1e-5)


def test_greedy_takes_the_most_likely_token():
  decoding = dataclasses.replace(DECODING, greedy=True, allowed=None, group=2)
  out = rollout(SHARP, ragged_prompts(), jax.random.key(0), np.float32(1.0), decoding)
  prompt = ragged_prompts()
  for b in range(3):
    ids = []
    while len(ids) < 5 and END not in ids:
      ids.append(int(tiny.numpy_logits(SHARP, CONFIG, tiny.real(prompt, b) + ids)[-1].argmax()))
    for g in range(2):
      assert np.asarray(out.tokens)[b, g][np.asarray(out.mask)[b, g]].tolist() == ids
  assert not np.asarray(out.logp_sampler).any()
  assert (np.asarray(out.logp)[np.asarray(out.mask)] < 0).all()


def test_stops_when_every_row_is_done():
  """Only the end marker is allowed: one token, and no step of the loop; else as many as needed."""
  trips = []
  decoding = dataclasses.replace(DECODING, allowed=((END, END + 1),), length=50, top_k=0, top_p=1.0)

  def counting(*args, **kwargs):
    jax.debug.callback(lambda: trips.append(1))
    return transformer_apply(*args, **kwargs)

  transformer_apply = transformer.apply
  run = tiny.jit(functools.partial(sampling.rollout, config=CONFIG, decoding=decoding))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(transformer, "apply", counting)
    out = run(SHARP, ragged_prompts(), jax.random.key(0), np.float32(1.0))
    jax.effects_barrier()
  assert len(trips) == 1  # the prompt
  assert np.asarray(out.complete).all() and (np.asarray(out.mask).sum(-1) == 1).all()
  assert not np.asarray(out.logp).any()  # the renormalised distribution has one token


def test_steps_phases_and_iterations_draw_anew():
  """Keys as `train.py` and `phases.py` compose them: no two rollouts of a run repeat a draw."""
  root = jax.random.key(0)
  places = [(s, i, t) for s in ("phase1", "phase2") for i in (1, 2) for t in (0, 1)]
  keys = [rng.stream(rng.stream(root, *place), what)
          for place in places for what in ("rollout", "latent")]  # fmt: skip
  u = np.concatenate([
    jax.random.uniform(rng.stream(key, "token", t), (12,)) for key in keys for t in range(3)
  ])  # fmt: skip
  assert len(np.unique(u)) == len(u)
  resumed = rng.stream(rng.stream(jax.random.key(0), "phase2", 2, 1), "rollout")
  np.testing.assert_array_equal(jax.random.key_data(resumed), jax.random.key_data(keys[-2]))
  draws = [
    rollout(SHARP, ragged_prompts(), key, np.float32(1.2), DECODING).tokens for key in keys[:4]
  ]
  for i in range(4):
    for j in range(i):
      assert not np.array_equal(draws[i], draws[j])


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"length": 0}, r"decoding\.length = 0: allowed is a whole number from 1"),
    ({"group": 0}, r"decoding\.group = 0"),
    ({"top_k": -1}, r"decoding\.top_k = -1: allowed is a whole number from 0"),
    ({"top_p": 0.0}, r"decoding\.top_p = 0\.0: allowed is more than 0 and at most 1"),
    ({"top_p": 1.5}, r"decoding\.top_p = 1\.5"),
    ({"top_p": float("nan")}, r"decoding\.top_p = nan"),
    ({"allowed": ((6, 10),)}, r"leaves out the end marker 2"),
    ({"allowed": ((0, 2), (3, 10))}, r"leaves out the end marker 2"),
    ({"allowed": ((6, 10), (2, 3))}, r"decoding\.allowed = .* rising and disjoint"),
    ({"guidance": 0.9}, r"decoding\.guidance = 0\.9: allowed is a number from 1"),
    ({"guidance": float("inf")}, r"decoding\.guidance = inf"),
  ],
)
def test_impossible_decoding_names_the_field(changes, message):
  with pytest.raises(ValueError, match=message):
    sampling.Decoding(**({"length": 4, "group": 2, "end": END} | changes))
