"""Ways up on tables: the exact ones climb, the sampled step has the expectation it should."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swirl_jax import objectives
from swirl_jax.optimizer import AdamW
from swirl_jax.phases import Slots
from swirl_jax.theory import exact, learning, worlds
from swirl_jax.theory.tables import Code, Codes

pytestmark = pytest.mark.usefixtures("float64")
close = functools.partial(chex.assert_trees_all_close, atol=1e-10, rtol=1e-10)


def tables(seed=0, shape=(2, 3, 3)):
  """World, FWM logits, log IDM, log prior: all random, all positive."""
  rng = np.random.default_rng(seed)
  x, y, z = shape
  world = rng.dirichlet(np.ones(x * y * z)).reshape(shape)
  idm, prior = (exact.log_table(jnp.asarray(rng.normal(size=s))) for s in (shape, (x, z)))
  return jnp.asarray(world), jnp.asarray(rng.normal(size=(x, z, y))), idm, prior


# ------------------------------------------------------------------------------------ exact ascents


def test_ascend_is_gradient_ascent():
  """∇ = 1 − θ: θ_k = 1 − (1 − rate)^k (1 − θ_0), and the history begins at the start."""
  end, seen = learning.ascend(lambda t: 1.0 - t, jnp.array([3.0]), steps=4, rate=0.5,
                              watch=lambda t: t)  # fmt: skip
  close(seen[:, 0], jnp.array([3.0, 2.0, 1.5, 1.25, 1.125]))
  close(end, seen[-1])


def test_alternate_takes_the_moves_in_order():
  moves = (lambda t: t + 1.0, lambda t: t * 2.0)
  end, seen = learning.alternate(moves, jnp.array(1.0), order=[0, 1, 1, 0], watch=lambda t: t)
  close(seen, jnp.array([1.0, 2.0, 4.0, 8.0, 9.0]))
  close(end, seen[-1])


@settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_the_m_step_is_the_elbos_maximum(seed):
  world, fwm, idm, prior = tables(seed)
  best = learning.m_step(world, idm)
  assert exact.elbo(world, prior, exact.log_table(fwm), idm) <= exact.elbo(world, prior, best, idm)
  gradient, _ = exact.elbo_gradients(world, prior, best, idm)
  close(gradient, jnp.zeros_like(gradient))
  # With pairs as P0 it is Bayes' rule (experiment 8).
  close(best, exact.log_phase1_optimum(exact.log_outcomes(world), idm, beta=1.0))


# ------------------------------------------------------------------------------ the expected step


def by_every_group(logits, log_ref, rewards, *, group, advantages, kl, kl_in="loss", beta=1.0):
  """The same expectation over all ordered groups, gradients of log-probabilities written out."""
  logp = np.asarray(exact.log_table(logits))
  p, ref, n = np.exp(logp), np.asarray(log_ref), len(logp)
  total = np.zeros(n)
  for g in itertools.product(range(n), repeat=group):
    g = np.array(g)
    r = np.asarray(rewards)[g] - (beta * (logp - ref)[g] if kl_in == "reward" else 0.0)
    a = np.asarray(objectives.group_advantages(r, kind=advantages))
    d = (logp - ref)[g]
    # d/dlogp of k2 is d, of k3 1 − exp(−d), of k1 1.
    slope = {"k1": np.ones(group), "k2": d, "k3": -np.expm1(-d)}[kl] * (kl_in == "loss")
    scores = np.eye(n)[g] - p  # ∇ log p(g)
    total += p[g].prod() * ((a - beta * slope)[:, None] * scores).mean(0)
  return total


@pytest.mark.parametrize(
  "choices",
  [
    {"advantages": "leave_one_out", "kl": "k2"},
    {"advantages": "no_std", "kl": "k1"},
    {"advantages": "grpo", "kl": "k3", "beta": 0.3},
    {"advantages": "grpo", "kl": "k1", "kl_in": "reward"},
  ],
)
def test_multisets_count_as_all_groups(choices):
  _, fwm, idm, _ = tables(1)
  args = (fwm[0, 0], exact.log_table(fwm[1, 1]), idm[0, 0])
  found = jax.jit(functools.partial(learning.expected_step, group=3, **choices))(*args)
  close(found, jnp.asarray(by_every_group(*args, group=3, **choices)))


@jax.jit
def fields(case):
  world, fwm, idm, prior = case
  log_fwm, ref = exact.log_table(fwm), exact.log_table(fwm[:, ::-1])
  belief = exact.log_belief(world, idm)
  one = lambda **k: learning.expected_phase1(world, fwm, idm, ref, group=3, **k)  # noqa: E731
  two = lambda **k: learning.expected_phase2(world, idm, log_fwm, prior, group=3, **k)  # noqa: E731
  reward_alone = exact.phase2_gradient(world, prior, log_fwm, idm, beta=0.0)
  pairs = exact.pair_probs(world)[..., None]
  return {
    "phase 1, k2": (one(), exact.phase1_gradient(world, belief, fwm, idm, ref, beta=1.0)),
    "phase 1, k1 in the reward": (
      one(kl="k1", kl_in="reward", beta=0.3),
      exact.phase1_gradient(world, belief, fwm, idm, ref, beta=0.3),
    ),
    "phase 2, k2": (two(), exact.phase2_gradient(world, prior, log_fwm, idm, beta=1.0)),
    # The biased ones, each its own expectation.
    "group mean": (two(advantages="no_std", beta=0.0), 2 / 3 * reward_alone),
    "k3": (  # the gradient of −KL(ref ‖ Q)
      two(kl="k3"), reward_alone + pairs * (jnp.exp(prior)[:, None, :] - jnp.exp(idm)),
    ),
    "k1 in the loss": (two(kl="k1"), reward_alone),
  }  # fmt: skip


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_the_expected_step_against_exact_gradients(seed):
  for name, (found, want) in fields(tables(seed)).items():
    chex.assert_trees_all_close(found, want, atol=1e-10, rtol=1e-10, custom_message=name)


# -------------------------------------------------------------------------------- the sampled step


def sampled(phase: int, *, count: int, codes=None, prompts=8, **choices):
  """(directions [count, …], the world's tables) of a phase on the same random tables."""
  world, fwm, idm, prior = case = tables(2)
  codes = Codes.one_token(world.shape) if codes is None else codes
  if phase == 1:
    ref = exact.log_table(fwm[:, ::-1])
    params, slots = learning.table(fwm), Slots(learning.table(idm), learning.table(ref))
    spec = learning.phase1_spec(codes, group=3, **choices)
  else:
    params = learning.table(idm)
    slots = Slots(learning.table(fwm), learning.prior_table(prior, world.shape[1]))
    spec = learning.phase2_spec(codes, group=3, **choices)
  draw = learning.from_world(world, codes, prompts=prompts)
  go = learning.jit(
    lambda key: learning.sampled_gradients(
      params, slots, draw, key, learning.hyper(1.0), spec=spec, count=count
    )
  )
  return np.asarray(go(jax.random.key(0))["table"], np.float64), case


def z_scores(found, want):
  return (found.mean(0) - np.asarray(want)) / (found.std(0) / np.sqrt(len(found)))


def test_phase1s_step_is_unbiased_at_the_monte_carlo_rate():
  found, (world, fwm, idm, _) = sampled(1, count=4096)
  belief, ref = exact.log_belief(world, idm), exact.log_table(fwm[:, ::-1])
  want = np.asarray(exact.phase1_gradient(world, belief, fwm, idm, ref, beta=1.0))
  assert np.abs(z_scores(found, want)).max() < 4.5
  # Mean squared error of means over n: variance / n, for every n.
  variance = found.var(0).sum()
  for n in (16, 64, 256):
    means = found.reshape(-1, n, *want.shape).mean(1)
    mse = np.square(means - want).sum((1, 2, 3)).mean()
    assert 0.7 < mse * n / variance < 1.4


def test_grpos_step_has_its_own_expectation():
  choices = {**learning.PRACTICE, "reward": learning.SUM}
  found, (world, fwm, idm, prior) = sampled(2, count=4096, **choices)
  log_fwm = exact.log_table(fwm)
  own = learning.expected_phase2(world, idm, log_fwm, prior, group=3, advantages="grpo", kl="k3")
  assert np.abs(z_scores(found, own)).max() < 4.5
  theorem = exact.phase2_gradient(world, prior, log_fwm, idm, beta=1.0)
  assert np.abs(z_scores(found, theorem)).max() > 20.0


def test_words_of_several_tokens():
  """k1 in the reward: the ELBO's gradient over the mean length, for words of unequal lengths too.

  The step's token mean divides by the batch's number of tokens, which is that length only on
  average: many prompts, and room for what is left.
  """
  codes = Codes(Code.one_token(2), Code.one_token(3), Code.unary(3))
  found, (world, fwm, idm, prior) = sampled(
    2, count=512, codes=codes, prompts=128, kl="k1", kl_in="reward"
  )
  log_fwm = exact.log_table(fwm)
  q = exact.pair_probs(world)[..., None] * jnp.exp(idm)
  length = (q.sum((0, 1)) * codes.z.lengths).sum()
  want = exact.phase2_gradient(world, prior, log_fwm, idm, beta=1.0) / length
  assert np.abs(found.mean(0) - want).max() < 0.03 * np.abs(want).max()


def test_sgd_is_plain_gradient_ascent():
  world, fwm, idm, prior = tables(2)
  codes = Codes.one_token(world.shape)
  slots = Slots(learning.table(fwm), learning.prior_table(prior, 3))
  draw = learning.from_world(world, codes, prompts=8)
  spec, hyper = learning.phase2_spec(codes, group=3), learning.hyper(0.25)

  @learning.jit
  def go(key):
    start = learning.table(idm)
    _, path = learning.sampled(
      start, slots, draw, key, hyper, spec=spec, steps=3, watch=lambda p: p["table"]
    )
    return path

  path = go(jax.random.key(5))
  assert path.shape == (4, 2, 3, 3)
  np.testing.assert_allclose(path[0], np.asarray(idm, np.float32))
  # A row moves in directions that sum to zero, at this rate by no more than a few nats.
  moves = np.diff(np.asarray(path), axis=0)
  assert np.abs(moves).max() > 1e-3 and np.abs(moves.sum(-1)).max() < 1e-5


def test_gradients_are_read_from_plain_steps_alone():
  world, fwm, idm, _ = tables()
  codes = Codes.one_token(world.shape)
  for other in (AdamW(clip_norm=0.0), AdamW(b1=0.0, clip_norm=1.0)):  # averaged; cut to a length
    spec = learning.phase1_spec(codes, group=2, optimizer=other)
    with pytest.raises(ValueError, match="must be learning.SGD"):
      learning.sampled_gradients(
        learning.table(fwm), Slots(learning.table(idm)), None, jax.random.key(0),
        learning.hyper(1.0), spec=spec, count=2,
      )  # fmt: skip


def test_transitions_are_the_worlds():
  world = worlds.gridworld(("..",))
  codes = Codes.one_token(world.shape)
  batch = learning.from_world(world, codes, prompts=4000, labelled=True)(jax.random.key(0))
  t = batch.transition
  index = tuple(np.asarray(code.index(s)) for code, s in ((codes.x, t.x), (codes.y, t.y),
                                                          (codes.z, t.z)))  # fmt: skip
  share = np.zeros(world.shape)
  np.add.at(share, index, 1 / 4000)
  assert np.abs(share - world).max() < 0.03 and not share[world == 0].any()
  assert learning.from_world(world, codes, prompts=2)(jax.random.key(0)).transition.z is None
  labelled = codes.transition(np.array([0]), np.array([1]), np.array([1]))
  batch = learning.from_world(world, codes, prompts=2, anchor=labelled)(jax.random.key(0))
  assert batch.anchor is labelled and batch.transition.z is None


def test_a_decayed_rate_is_zero_behind_the_last_step():
  """rate · (1 + cos(π k / steps)) / 2 at step k; without the decay the rate itself."""
  start, slope = jnp.zeros(2), jnp.array([3.0, -1.0])
  for optimizer, shares in ((learning.SGD_DECAYED, (1.0, 0.5, 0.0)), (learning.SGD, (1.0,) * 3)):
    schedule = learning.hyper(0.25, steps=10, optimizer=optimizer).schedule
    for step, share in zip((0, 5, 10), shares, strict=True):
      state = optimizer.init(start)
      found, _ = optimizer.update(-slope, state, start, jnp.int32(step), schedule)
      chex.assert_trees_all_close(found, 0.25 * share * slope, atol=1e-5)
