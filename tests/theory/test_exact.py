"""The theorems on tables: inequalities and identities on random worlds, by hand, and in limits."""

import functools
from typing import NamedTuple

import chex
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swirl_jax.theory import exact

TOL = 1e-10
SHAPES = ((1, 2, 2), (2, 3, 2), (2, 2, 4), (3, 4, 3))  # [X, Y, Z]; each compiles once
close = functools.partial(chex.assert_trees_all_close, atol=TOL, rtol=TOL)
# No deadline: the first example of a shape compiles. No stored examples: the tests leave no files.
property_test = settings(
  max_examples=150,
  deadline=None,
  database=None,
  derandomize=True,
  suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(autouse=True, scope="module")
def float64():
  """For this module alone: the other tests run as users do, in float32."""
  with jax.enable_x64(True):
    yield


class Case(NamedTuple):
  world: np.ndarray  # [X, Y, Z], with zeros
  fwm: np.ndarray  # logits [X, Z, Y]
  idm: np.ndarray  # logits [X, Y, Z]
  prior: np.ndarray  # logits [X, Z]
  seeing: np.ndarray  # logits [X, Y, Z], of a prior that sees y


@st.composite
def cases(draw):
  x, y, z = draw(st.sampled_from(SHAPES))

  def logits(*shape):
    return draw(hnp.arrays(np.float64, shape, elements=st.floats(-6, 6, width=32)))

  weights = draw(hnp.arrays(np.float64, (x, y, z), elements=st.sampled_from([0.0, 0.1, 1.0, 2.5])))
  weights[0, 0, 0] += 0.5
  return Case(
    weights / weights.sum(), logits(x, z, y), logits(x, y, z), logits(x, z), logits(x, y, z)
  )


def random_cases(n, shape=(3, 4, 3), seed=0, scale=2.0) -> Case:
  """n cases at once, with a leading axis: worlds from sharp to flat, tables from N(0, scale²)."""
  rng = np.random.default_rng(seed)
  x, y, z = shape
  world = rng.gamma(10.0 ** rng.uniform(-1.5, 1.0, size=(n, 1, 1, 1)), size=(n, x, y, z)) + 1e-300

  def normal(*s):
    return rng.normal(size=(n, *s)) * scale

  return Case(
    world / world.sum((1, 2, 3), keepdims=True),
    normal(x, z, y),
    normal(x, y, z),
    normal(x, z),
    normal(x, y, z),
  )


def logs(case):
  return tuple(exact.log_table(t) for t in case[1:])


# ---------------------------------------------------------------------------- Theorem 3.1, Phase I


@jax.jit
def information(case):
  fwm, idm, prior, _ = logs(case)
  belief = exact.log_belief(case.world, idm)
  out = {}
  for name, b in (("belief", belief), ("any prior", prior)):
    a = (case.world, b, fwm)
    posterior = exact.log_posterior(b, fwm)
    out[name] = {
      "information": exact.mutual_information(*a),
      "bound": exact.information_bound(*a, idm),
      "gap": exact.information_gap(*a, idm),
      "tight": exact.information_bound(*a, posterior),
      "tight gap": exact.information_gap(*a, posterior),
      "entropy": exact.action_entropy(case.world, b),
      "posterior entropy": exact.posterior_entropy(*a),
    }
  return out


def check_information(found, z):
  for q in found.values():
    assert (q["bound"] <= q["information"] + TOL).all()
    assert (q["gap"] >= -TOL).all()
    close(q["information"] - q["bound"], q["gap"])
    close(q["tight"], q["information"])
    close(q["tight gap"], 0.0 * q["gap"])
    close(q["entropy"] - q["posterior entropy"], q["information"])
    assert (q["information"] >= -TOL).all() and (q["information"] <= q["entropy"] + TOL).all()
    assert (q["entropy"] <= np.log(z) + TOL).all()


@property_test
@given(cases())
def test_theorem_31(case):
  check_information(information(case), case.world.shape[2])


def test_theorem_31_on_thousands_of_tables():
  found = jax.jit(jax.vmap(information))(random_cases(4000))
  check_information(found, 3)
  gap = np.asarray(found["belief"]["gap"])
  assert (gap > 1e-3).mean() > 0.9  # the inequality is not tested at equality only


# --------------------------------------------------------------------------- Theorem 3.2, Phase II


@jax.jit
def likelihood(case):
  fwm, idm, prior, seeing = logs(case)
  out = {}
  for name, p in (("prior", prior), ("sees y", seeing)):
    posterior = exact.log_posterior(p, fwm)
    out[name] = {
      "likelihood": exact.log_likelihood(case.world, p, fwm),
      "elbo": exact.elbo(case.world, p, fwm, idm),
      "gap": exact.elbo_gap(case.world, p, fwm, idm),
      "tight": exact.elbo(case.world, p, fwm, posterior),
      "posterior": jnp.exp(posterior).sum(-1),
    }
  return out


def check_likelihood(found):
  for q in found.values():
    assert (q["elbo"] <= q["likelihood"] + TOL).all() and (q["likelihood"] <= TOL).all()
    assert (q["gap"] >= -TOL).all()
    close(q["likelihood"] - q["elbo"], q["gap"])
    close(q["tight"], q["likelihood"])
    close(q["posterior"], np.ones_like(q["posterior"]))


@property_test
@given(cases())
def test_theorem_32(case):
  check_likelihood(likelihood(case))


def test_theorem_32_on_thousands_of_tables():
  found = jax.jit(jax.vmap(likelihood))(random_cases(4000, seed=1))
  check_likelihood(found)
  assert (np.asarray(found["prior"]["gap"]) > 1e-3).mean() > 0.9


# ------------------------------------------------------------------------------- worlds and optima


@jax.jit
def tables_of(world):
  fwm, idm = exact.log_true_fwm(world), exact.log_true_idm(world)
  actions, outcomes = exact.log_actions(world), exact.log_outcomes(world)
  x = exact.state_probs(world)[:, None, None]
  return {
    "joint by fwm": x * jnp.exp(actions[..., None] + fwm).swapaxes(1, 2),
    "joint by idm": x * jnp.exp(outcomes[..., None] + idm),
    "belief": jnp.exp(exact.log_belief(world, idm)),
    "actions": jnp.exp(actions),
    "rows": [jnp.exp(t).sum(-1) for t in (fwm, idm, actions, outcomes)],
    "marginal": exact.pair_probs(world).sum(1)[:, None] * jnp.exp(exact.log_marginal(actions, fwm)),
    "entropy of the data": exact.log_likelihood(world, actions, fwm),
    "of outcomes": -exact.state_probs(world) @ exact.entropy(outcomes),
    "elbo": exact.elbo(world, actions, fwm, idm),
    "bound": exact.information_bound(world, actions, fwm, idm),
    "information": exact.mutual_information(world, actions, fwm),
    "bayes": jnp.exp(exact.log_phase1_optimum(outcomes, idm, beta=1.0)),
    "fwm": jnp.exp(fwm),
    "possible": world.sum(1) > 0,
  }


@property_test
@given(cases())
def test_a_worlds_own_tables(case):
  """Both factorisations give the world back; its own models make both bounds tight."""
  q = tables_of(case.world)
  close(q["joint by fwm"], case.world)
  close(q["joint by idm"], case.world)
  seen = np.asarray(case.world.sum((1, 2)) > 0)
  close(np.asarray(q["belief"])[seen], np.asarray(q["actions"])[seen])
  close(q["rows"], jax.tree.map(jnp.ones_like, q["rows"]))
  close(q["marginal"], case.world.sum(2))
  close(q["entropy of the data"], q["of outcomes"])
  close(q["elbo"], q["of outcomes"])
  close(q["bound"], q["information"])
  # Bayes' rule as Phase I: ref P0 exact, Q exact, β = 1 gives the true P(y | x, z).
  possible = np.asarray(q["possible"])
  close(np.asarray(q["bayes"])[possible], np.asarray(q["fwm"])[possible])


@jax.jit
def optima(case, beta):
  fwm, idm, prior, seeing = logs(case)
  w = case.world
  free = exact.log_table(case.fwm[:, 0])  # [X, Y]
  out = {}
  for name, p in (("prior", prior), ("sees y", seeing)):
    best = exact.log_phase2_optimum(p, fwm, beta=beta)
    value = functools.partial(exact.phase2_objective, w, p, fwm, beta=beta)
    out[f"2 {name}"] = (
      value(best), value(idm), exact.phase2_gradient(w, p, fwm, best, beta=beta)
    )  # fmt: skip
  for name, ref in (("table", exact.log_table(case.fwm[:, ::-1])), ("z-free", free)):
    best = exact.log_phase1_optimum(ref, idm, beta=beta)
    value = functools.partial(exact.phase1_objective, w, prior, beta=beta)
    out[f"1 {name}"] = (
      value(best, idm, ref),
      value(fwm, idm, ref),
      exact.phase1_gradient(w, prior, best, idm, ref, beta=beta),
    )
  return out


@property_test
@given(cases(), st.sampled_from([0.1, 1.0, 4.0]))
def test_optima_are_stationary_and_above_everything_else(case, beta):
  for best, other, gradient in optima(case, beta).values():
    assert other <= best + TOL
    close(gradient, jnp.zeros_like(gradient))


# ---------------------------------------------------------------------------------------- gradients


@jax.jit
def gradients(case):
  """Each exact gradient beside its closed form for softmax tables."""
  fwm, idm, prior, _ = logs(case)
  w, x = case.world, exact.state_probs(case.world)
  pairs, p, q = exact.pair_probs(w)[..., None], jnp.exp(fwm), jnp.exp(idm)
  weight = x[:, None, None] * jnp.exp(prior)[..., None]  # [X, Z, 1]

  def field(weight, probs, scores):  # weight · probs · (score − mean score), zero-sum in a row
    return weight * probs * (scores - (probs * scores).sum(-1, keepdims=True))

  ref = exact.log_table(case.fwm[:, ::-1])
  reward = idm.swapaxes(1, 2)
  marginal = exact.log_marginal(prior, fwm)[:, None, :]
  posterior = jnp.exp(exact.log_posterior(prior, fwm))
  seen = (pairs * posterior).swapaxes(
    1, 2
  )  # [X, Z, Y]: expected counts of expectation maximisation
  counts = (pairs * q).swapaxes(1, 2)
  fit = fwm.swapaxes(1, 2)
  elbo_fwm, elbo_idm = exact.elbo_gradients(w, prior, case.fwm, case.idm)
  e_step = field(pairs, q, fit - (idm - prior[:, None, :]))
  return {
    "information": (
      exact.information_gradient(w, prior, case.fwm), field(weight, p, fwm - marginal)
    ),
    "phase 1": (
      exact.phase1_gradient(w, prior, case.fwm, idm, ref, beta=0.3),
      field(weight, p, reward - 0.3 * (fwm - ref)),
    ),
    "likelihood": (
      exact.likelihood_gradient(w, prior, case.fwm), seen - p * seen.sum(-1, keepdims=True)
    ),
    "elbo fwm": (elbo_fwm, counts - p * counts.sum(-1, keepdims=True)),
    "elbo idm": (elbo_idm, e_step),
    "phase 2": (exact.phase2_gradient(w, prior, fwm, case.idm, beta=1.0), e_step),
  }  # fmt: skip


@property_test
@given(cases())
def test_gradients_are_their_closed_forms(case):
  for name, (found, want) in gradients(case).items():
    chex.assert_trees_all_close(found, want, atol=TOL, rtol=TOL, custom_message=name)


def test_the_elbo_at_the_posterior_has_the_likelihoods_gradient():
  case = jax.tree.map(lambda a: a[0], random_cases(1))
  fwm, _, prior, _ = logs(case)
  at = exact.log_posterior(prior, fwm)  # log-probabilities are logits of themselves
  found, zero = exact.elbo_gradients(case.world, prior, case.fwm, at)
  close(found, exact.likelihood_gradient(case.world, prior, case.fwm))
  close(zero, jnp.zeros_like(zero))


def test_gradients_are_the_slopes():
  """Central differences, for a gradient that no closed form above was made from."""
  case = jax.tree.map(lambda a: a[0], random_cases(1, shape=(1, 2, 2), scale=1.0))
  _, idm, prior, _ = logs(case)
  ref, h = jnp.log(jnp.array([[0.3, 0.7]])), 1e-5

  def value(t):
    return exact.phase1_objective(
      case.world, prior, exact.log_table(t), idm, ref, beta=0.5
    ) + exact.mutual_information(case.world, prior, exact.log_table(t))

  found = exact.phase1_gradient(
    case.world, prior, case.fwm, idm, ref, beta=0.5
  ) + exact.information_gradient(case.world, prior, case.fwm)
  for index in np.ndindex(case.fwm.shape):
    step = np.zeros_like(case.fwm)
    step[index] = h
    slope = (value(case.fwm + step) - value(case.fwm - step)) / (2 * h)
    chex.assert_trees_all_close(found[index], slope, atol=1e-8)


# ------------------------------------------------------------------------------------------ by hand

# D(x) = (1/2, 1/2). State 0: the action decides (z = y, both as likely). State 1: y is always 0.
WORLD = np.array([[[0.25, 0.0], [0.0, 0.25]], [[0.25, 0.25], [0.0, 0.0]]])


def test_222_by_hand():
  fwm, idm = exact.log_true_fwm(WORLD), exact.log_true_idm(WORLD)
  belief = exact.log_belief(WORLD, idm)
  close(jnp.exp(fwm), np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]))
  # (x, y) = (1, 1) never happens: its row is uniform and weighs nothing.
  close(jnp.exp(idm), np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]]))
  close(jnp.exp(belief), np.full((2, 2), 0.5))
  ln2 = np.log(2.0)
  close(exact.mutual_information(WORLD, belief, fwm), ln2 / 2)  # one bit in half of the states
  close(exact.information_bound(WORLD, belief, fwm, idm), ln2 / 2)
  close(exact.action_entropy(WORLD, belief), ln2)
  close(exact.posterior_entropy(WORLD, belief, fwm), ln2 / 2)
  close(exact.log_likelihood(WORLD, belief, fwm), -ln2 / 2)
  close(exact.elbo(WORLD, belief, fwm, idm), -ln2 / 2)


def test_222_with_imperfect_models_by_hand():
  p, q = np.array([[[0.8, 0.2], [0.4, 0.6]]] * 2), np.array([[[0.9, 0.1], [0.3, 0.7]]] * 2)
  fwm, idm = jnp.log(p), jnp.log(q)
  # P̃(z=0|x): state 0 sees y = 0, 1 equally, (.9 + .3)/2 = .6; state 1 sees y = 0 alone, .9.
  belief = exact.log_belief(WORLD, idm)
  close(jnp.exp(belief), np.array([[0.6, 0.4], [0.9, 0.1]]))
  # P(ŷ=0|x) = .6·.8 + .4·.4 = .64 and .9·.8 + .1·.4 = .76.
  close(jnp.exp(exact.log_marginal(belief, fwm)), np.array([[0.64, 0.36], [0.76, 0.24]]))
  close(
    jnp.exp(exact.log_posterior(belief, fwm))[..., 0],
    np.array([[0.48 / 0.64, 0.12 / 0.36], [0.72 / 0.76, 0.18 / 0.24]]),
  )
  ln = np.log
  reward = 0.5 * (
    0.6 * (0.8 * ln(0.9) + 0.2 * ln(0.3)) + 0.4 * (0.4 * ln(0.1) + 0.6 * ln(0.7))
  ) + 0.5 * (0.9 * (0.8 * ln(0.9) + 0.2 * ln(0.3)) + 0.1 * (0.4 * ln(0.1) + 0.6 * ln(0.7)))
  close(exact.expected_reward(WORLD, belief, fwm, idm), reward)
  entropy = -0.5 * (0.6 * ln(0.6) + 0.4 * ln(0.4) + 0.9 * ln(0.9) + 0.1 * ln(0.1))
  close(exact.information_bound(WORLD, belief, fwm, idm), entropy + reward)
  # Uniform prior: P(y|x) = (.6, .4); the pairs weigh 1/4, 1/4, 1/2.
  flat = jnp.full((2, 2), -ln(2.0))
  close(exact.log_likelihood(WORLD, flat, fwm), 0.75 * ln(0.6) + 0.25 * ln(0.4))
  y0 = 0.9 * ln(0.8) + 0.1 * ln(0.4) - (0.9 * ln(1.8) + 0.1 * ln(0.2))
  y1 = 0.3 * ln(0.2) + 0.7 * ln(0.6) - (0.3 * ln(0.6) + 0.7 * ln(1.4))
  close(exact.elbo(WORLD, flat, fwm, idm), 0.75 * y0 + 0.25 * y1)


def test_the_page_on_the_method_has_this_posterior():
  """π = (.2, .3, .5), P(y|x,z) = (.7, .25, .05): posterior (.583, .313, .104)."""
  like = np.array([0.7, 0.25, 0.05])
  fwm = jnp.log(np.stack([like, 1 - like], -1)[None])  # [1, 3, 2]
  posterior = exact.log_posterior(jnp.log(np.array([[0.2, 0.3, 0.5]])), fwm)
  close(jnp.exp(posterior[0, 0]), np.array([0.14, 0.075, 0.025]) / 0.24)


# ------------------------------------------------------------------------------------------- limits


def test_a_deterministic_world():
  """Every action its own outcome: all of z is in ŷ, the bound is H(Z|X), data cost H(Y|X)."""
  prior = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
  world = np.stack([np.diag(prior[x]) for x in range(2)]) / 2
  fwm, idm = exact.log_true_fwm(world), exact.log_true_idm(world)
  belief = exact.log_belief(world, idm)
  entropy = -(prior * np.log(prior)).sum() / 2
  close(exact.mutual_information(world, belief, fwm), entropy)
  close(exact.information_bound(world, belief, fwm, idm), entropy)
  close(exact.log_likelihood(world, belief, fwm), -entropy)
  close(exact.elbo(world, belief, fwm, idm), -entropy)
  # An IDM that excludes what happens: both bounds are −inf, both gaps inf, nothing is NaN.
  wrong = jnp.roll(idm, 1, axis=-1)
  assert exact.information_bound(world, belief, fwm, wrong) == -jnp.inf
  assert exact.information_gap(world, belief, fwm, wrong) == jnp.inf
  assert exact.elbo(world, belief, fwm, wrong) == -jnp.inf
  assert exact.elbo_gap(world, belief, fwm, wrong) == jnp.inf
  # Gradients at certainty: zero, not NaN.
  for gradient in (
    exact.information_gradient(world, belief, fwm),
    exact.likelihood_gradient(world, belief, fwm),
    *exact.elbo_gradients(world, belief, fwm, idm),
  ):
    close(gradient, jnp.zeros_like(gradient))


def test_what_cannot_happen_weighs_nothing():
  """y = 1 is never predicted; there the IDM and the reference may exclude what they like."""
  zero = -jnp.inf
  fwm = jnp.broadcast_to(jnp.array([0.0, zero]), (2, 2, 2))  # always y = 0
  idm = jnp.log(jnp.array([[[0.5, 0.5], [1.0, 0.0]]] * 2))
  flat = jnp.full((2, 2), -np.log(2.0))
  close(exact.information_gap(WORLD, flat, fwm, idm), 0.0)
  close(exact.information_bound(WORLD, flat, fwm, idm), 0.0)
  # An action that is never believed in, under a reference that excludes what it would do.
  sure = jnp.broadcast_to(jnp.array([0.0, zero]), (2, 2))
  ref = jnp.log(jnp.array([[[0.5, 0.5], [0.0, 1.0]]] * 2))
  close(exact.phase1_objective(WORLD, sure, fwm, idm, ref, beta=1.0), np.log(0.5) - np.log(2.0))
  # At β = 0 references that exclude what is done leave the reward alone, and its gradient.
  open_, excluding = jnp.zeros((2, 2, 2)), jnp.broadcast_to(jnp.array([0.0, zero]), (2, 2, 2))
  t, reward = exact.log_table(open_), jnp.log(jnp.array([[[0.5, 0.5], [0.8, 0.2]]] * 2))
  a = (WORLD, flat, t, reward)
  close(exact.phase1_objective(*a, excluding, beta=0.0), exact.expected_reward(*a))
  free = exact.phase1_gradient(WORLD, flat, open_, reward, t, beta=0.0)
  close(exact.phase1_gradient(WORLD, flat, open_, reward, excluding, beta=0.0), free)
  fit = exact.phase2_objective(WORLD, flat, reward, t, beta=0.0)
  close(exact.phase2_objective(WORLD, sure, reward, t, beta=0.0), fit)
  free = exact.phase2_gradient(WORLD, flat, reward, open_, beta=0.0)
  close(exact.phase2_gradient(WORLD, sure, reward, open_, beta=0.0), free)
  # A y that the model excludes but the world has: −inf, with a gradient that is not NaN.
  assert exact.log_likelihood(WORLD, flat, fwm) == zero
  chex.assert_tree_all_finite(exact.likelihood_gradient(WORLD, flat, fwm))
  # An impossible state leaves everything as it is.
  never = np.concatenate([WORLD, np.zeros((1, 2, 2))])
  wider = jax.tree.map(lambda a: jnp.concatenate([a, a[:1]]), (flat, fwm, idm))
  close(exact.information_bound(never, *wider), exact.information_bound(WORLD, flat, fwm, idm))


def test_a_uniform_idm_teaches_nothing():
  case = jax.tree.map(lambda a: a[0], random_cases(1, seed=2))
  fwm = logs(case)[0]
  idm = jnp.full((3, 4, 3), -np.log(3.0))
  belief = exact.log_belief(case.world, idm)
  close(belief, jnp.full((3, 3), -np.log(3.0)))
  close(exact.information_bound(case.world, belief, fwm, idm), 0.0)
  gradient = exact.phase1_gradient(case.world, belief, case.fwm, idm, fwm, beta=0.0)
  close(gradient, jnp.zeros_like(gradient))


def test_an_fwm_that_ignores_the_action():
  case = jax.tree.map(lambda a: a[0], random_cases(1, seed=3))
  fwm = jnp.repeat(logs(case)[0][:, :1], 3, axis=1)
  prior = logs(case)[2]
  close(exact.mutual_information(case.world, prior, fwm), 0.0)
  close(exact.log_posterior(prior, fwm), jnp.broadcast_to(prior[:, None], (3, 4, 3)))


def test_beta_to_nothing_and_to_infinity():
  case = jax.tree.map(lambda a: a[0], random_cases(1, seed=4))
  fwm, idm, prior, _ = logs(case)
  for optimum, ref, score in (
    (functools.partial(exact.log_phase2_optimum, prior, fwm), prior[:, None], fwm),
    (functools.partial(exact.log_phase1_optimum, fwm, idm), fwm, idm),
  ):
    score = score.swapaxes(1, 2)
    far = optimum(beta=1e12)
    close(far, jnp.broadcast_to(ref, far.shape))
    close(jnp.exp(optimum(beta=1e-12)), jax.nn.one_hot(score.argmax(-1), score.shape[-1]))
  close(exact.log_phase2_optimum(prior, fwm, beta=1.0), exact.log_posterior(prior, fwm))


def test_entropy_and_divergence_with_zeros():
  half = jnp.array([np.log(0.5), np.log(0.5), -jnp.inf])
  third = jnp.full(3, -np.log(3.0))
  close(exact.entropy(half), np.log(2.0))
  close(exact.kl(half, half), 0.0)
  close(exact.kl(half, third), np.log(1.5))
  assert exact.kl(third, half) == jnp.inf
  close(exact.log_normalise(jnp.full((2, 3), -jnp.inf)), jnp.stack([third, third]))
  # At zeros the gradient is that of the limit, not NaN.
  chex.assert_tree_all_finite(jax.grad(lambda t: exact.kl(exact.log_table(t), third))(half))


# ------------------------------------------------------------------------------- transforms, dtypes


def test_vmap_equals_one_by_one():
  many = random_cases(5, seed=5)
  batched = jax.vmap(information)(many), jax.vmap(likelihood)(many), jax.vmap(gradients)(many)
  for n in range(5):
    case = jax.tree.map(lambda a, n=n: a[n], many)
    want = information(case), likelihood(case), gradients(case)
    close(jax.tree.map(lambda a, n=n: a[n], batched), want)


def test_eager_equals_jit():
  case = jax.tree.map(lambda a: a[0], random_cases(1, seed=6))
  for function in (information, likelihood, gradients):
    with jax.disable_jit():
      eager = function(case)
    close(eager, function(case))


def test_float32_stays_float32():
  case = jax.tree.map(lambda a: jnp.asarray(a[0], jnp.float32), random_cases(1, seed=7))
  for leaf in jax.tree.leaves((information(case), likelihood(case), gradients(case))):
    assert leaf.dtype == jnp.float32
  wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), case)
  chex.assert_trees_all_close(
    jax.tree.map(jnp.float64, likelihood(case)), likelihood(wide), atol=1e-5
  )


# ------------------------------------------------------------------------------------------- checks


def changed(array, index, value):
  array = np.array(array, copy=True)
  array[index] = value
  return array


FWM = np.full((2, 2, 2), 0.5)


@pytest.mark.parametrize(
  "world, message",
  [
    (WORLD[0], r"world must be \[X, Y, Z\], no axis empty; found shape \(2, 2\)"),
    (np.zeros((2, 0, 2)), r"found shape \(2, 0, 2\)"),
    (np.ones((1, 1, 1), int), "floating point; found int64"),
    (changed(WORLD, (1, 0, 1), -0.25), r"world\[1, 0, 1\] = -0.25: .* at least 0"),
    (changed(WORLD, (0, 1, 0), np.nan), r"world\[0, 1, 0\] = nan: .* finite"),
    (changed(WORLD, (0, 1, 1), np.inf), r"world\[0, 1, 1\] = inf: .* finite"),
    (WORLD * 1.001, r"world sums to 1.00\d+; a joint distribution sums to 1"),
    ((WORLD * 1.001).astype(np.float32), r"world sums to 1.00\d+; a joint distribution"),
  ],
)
def test_worlds_that_are_none(world, message):
  with pytest.raises(ValueError, match=message):
    exact.check_world(world)


@pytest.mark.parametrize(
  "tables, message",
  [
    (dict(fwm=FWM[:1]), r"fwm must be \[X, Z, Y\] = \[2, 2, 2\]; found \[1, 2, 2\]"),
    (dict(idm=FWM[0]), r"idm must be \[X, Y, Z\], no axis empty; found shape \(2, 2\)"),
    (dict(fwm=changed(FWM, (1, 0, 0), 0.4)), r"fwm\[1, 0\] sums to 0.9; a row must sum to 1"),
    (dict(idm=changed(FWM, (0, 1), [1.5, -0.5])), r"idm\[0, 1, 1\] = -0.5: .* at least 0"),
    (dict(prior=changed(FWM[0], (1, 1), np.nan)), r"prior\[1, 1\] = nan: .* finite"),
  ],
)
def test_tables_that_do_not_fit(tables, message):
  with pytest.raises(ValueError, match=message):
    exact.check_tables(WORLD, **tables)


def test_good_tables_pass_in_either_precision():
  rng = np.random.default_rng(0)
  for dtype in (np.float32, np.float64):
    p = rng.dirichlet(np.ones(50), size=(4, 5)).astype(dtype)
    assert exact.check_table(p, name="p", shape=(4, 5, 50), axes="X, Z, Y") is p
    exact.check_world((p / dtype(20)).astype(dtype))
  exact.check_tables(WORLD, fwm=FWM, idm=FWM, prior=FWM[0])


def test_wrong_shapes_are_caught_inside_too():
  with pytest.raises(AssertionError):
    exact.mutual_information(WORLD, jnp.log(FWM[0]), jnp.log(np.full((2, 3, 2), 0.5)))
  with pytest.raises(AssertionError):
    exact.log_belief(WORLD, jnp.log(np.full((2, 3, 2), 0.5)))
  with pytest.raises(AssertionError):
    exact.elbo(WORLD, jnp.log(np.full((2, 3), 1 / 3)), jnp.log(FWM), jnp.log(FWM))
