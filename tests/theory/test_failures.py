"""Failure modes and identifiability: verdicts by hand, identities on random tables."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swirl_jax.theory import error_rates, exact
from swirl_jax.theory.experiments import failures, identifiability

pytestmark = pytest.mark.usefixtures("float64")
X, R, F, Z = 2, 3, 2, 2
property_test = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def tables(seed):
  rng = np.random.default_rng(seed)
  base = rng.gamma(0.7, size=(X, R, Z)) + 1e-3
  feature = rng.dirichlet(np.ones(F), size=X)
  world = failures.with_feature(base / base.sum(), feature)
  idm = rng.normal(size=(X, R * F, Z)) * 3.0
  fwm = rng.normal(size=(X, Z, R * F)) * 2.0
  return world, exact.log_table(fwm), exact.log_table(idm), base / base.sum()


# ------------------------------------------------------------------------------- hidden actions


def test_the_world_hides_nothing():
  world, _, idm, base = tables(0)
  exact.check_world(world)
  np.testing.assert_allclose(world.reshape(X, R, F, Z).sum(2), base, atol=1e-12)
  hidden = failures.hidden_information(
    world, exact.log_actions(world), exact.log_true_fwm(world), features=F
  )
  np.testing.assert_allclose(hidden, 0.0, atol=1e-10)


def test_an_fwm_that_tells_by_the_feature_alone():
  """R̂ uniform, F̂ = z: all of the information, log 2, is hidden."""
  world = np.full((1, R * F, Z), 1 / (R * F * Z))
  fwm = np.zeros((1, Z, R, F))
  for z in range(Z):
    fwm[0, z, :, z] = 1 / R
  log_fwm = jnp.log(jnp.asarray(fwm.reshape(1, Z, R * F)))
  prior = exact.log_actions(world)
  hidden = failures.hidden_information(world, prior, log_fwm, features=F)
  np.testing.assert_allclose(hidden, np.log(2), atol=1e-10)
  idm = jnp.log(jnp.full((1, R * F, Z), 0.5))
  state = failures.true_state(world, log_fwm, idm, features=F)
  assert state["hidden"] and not state["collapsed"]


@pytest.mark.parametrize("tells, hidden", [(0.2, False), (0.8, True)])
def test_half_of_next_to_nothing_hides_nothing(tells, hidden):
  """F̂ = z a little more often than not: all that ŷ tells, but 0.02 nats of it."""
  world = np.full((1, R * F, Z), 1 / (R * F * Z))
  fwm = np.full((1, Z, R, F), (1 - tells) / (R * F))
  for z in range(Z):
    fwm[0, z, :, z] += tells / R
  log_fwm = jnp.log(jnp.asarray(fwm.reshape(1, Z, R * F)))
  idm = jnp.log(jnp.full((1, R * F, Z), 0.5))
  assert failures.true_state(world, log_fwm, idm, features=F)["hidden"] == hidden


def test_one_word_for_everything_is_a_collapse():
  world, fwm, _, _ = tables(1)
  idm = exact.log_table(jnp.zeros((X, R * F, Z)).at[..., 0].set(20.0))
  state = failures.true_state(world, fwm, idm, features=F)
  assert state["collapsed"] and not state["hidden"]


@jax.jit
def consistent(world, idm):
  """P by Bayes' rule from Q: what the signs' means are then, exactly."""
  free, belief = exact.log_outcomes(world), exact.log_belief(world, idm)
  fwm = exact.log_phase1_optimum(free, idm, beta=1.0)
  real = exact.pair_probs(world)[..., None] * jnp.exp(idm)  # D(x, y) Q(z | x, y)
  imagined = exact.state_probs(world)[:, None, None] * jnp.exp(belief[..., None] + fwm)
  imagined = imagined.swapaxes(1, 2)
  scores = (idm, fwm.swapaxes(1, 2), jnp.broadcast_to(free[..., None], idm.shape))
  return (
    [((imagined - real) * s).sum() for s in scores],
    exact.elbo(world, belief, fwm, idm) - (exact.pair_probs(world) * free).sum(),
    exact.log_phase2_optimum(belief, fwm, beta=1.0) - idm,
  )


@property_test
@given(st.integers(0, 10**6))
def test_any_idm_has_an_fwm_that_no_label_free_sign_can_tell(seed):
  """Docs, section 6: the signs' means are 0, the ELBO is the data's own log-likelihood, and neither
  phase moves, whatever Q.
  """
  world, _, idm, _ = tables(seed)
  gaps, loss, moved = consistent(world, idm)
  np.testing.assert_allclose(gaps, 0.0, atol=1e-10)
  np.testing.assert_allclose(loss, 0.0, atol=1e-10)
  np.testing.assert_allclose(moved, 0.0, atol=1e-10)


# ---------------------------------------------------------------------------------- error rates


def test_roc_area_by_hand():
  failed = np.array([False, False, True, True])
  assert error_rates.roc_area([0, 1, 2, 3], failed) == 1.0
  assert error_rates.roc_area([3, 2, 1, 0], failed) == 0.0
  assert error_rates.roc_area([1, 1, 1, 1], failed) == 0.5
  assert error_rates.roc_area([0, 2, 1, 3], failed) == 0.75
  assert np.isnan(error_rates.roc_area([0, 1], np.array([True, True])))


def test_errors_choose_on_one_half_and_measure_on_the_other():
  # Even places: 0 and 1 sound, 5 and 6 failed. Odd places: 7 is sound, 4 failed.
  score = np.array([0.0, 0.0, 1.0, 7.0, 5.0, 4.0, 6.0, 9.0])
  failed = np.array([False, False, False, False, True, True, True, True])
  assert error_rates.choose_threshold(score[::2], failed[::2]) == 5.0
  e = error_rates.errors(score, failed)
  assert (e.threshold, e.false_alarms, e.misses, e.area) == (5.0, 0.5, 0.5, 0.75)
  assert np.isnan(error_rates.errors(score, np.zeros(8, bool)).area)
  # With three sound runs at odd places, one of them above the threshold, and one failed.
  failed[5] = False
  e = error_rates.errors(np.array([0.0, 0.0, 1.0, 1.0, 5.0, 7.0, 6.0, 9.0]), failed)
  assert e == (5.0, pytest.approx(1 / 3), 0.0, 1.0)


def test_a_roc_line_rises_from_no_alarm_to_all_and_has_the_area():
  draw = np.random.default_rng(0)
  failed = draw.random(400) < 0.4
  for shift in (3.0, 0.5, -1.0):
    score = draw.normal(size=400) + shift * failed
    line = error_rates.roc_line(score, failed, "name", "#000000")
    x, y = np.array(line.x), np.array(line.y)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
    area = (np.diff(x) * (y[1:] + y[:-1]) / 2).sum()
    assert area == pytest.approx(error_rates.roc_area(score, failed), abs=0.01)


def test_pick_by_cumulated_probabilities():
  log_p = jnp.log(jnp.array([0.25, 0.25, 0.5]))
  u = jnp.array([0.0, 0.2, 0.25, 0.49, 0.5, 0.999])
  found = failures.pick(u, jnp.broadcast_to(log_p, (6, 3)))
  np.testing.assert_array_equal(found, [0, 0, 1, 1, 2, 2])


def test_failures_run_small():
  found = failures.run(
    failures.Settings(runs=60, grid=4, batch=16, features=4, betas=(0.1, 1.0), labels=(4, 16))
  )
  assert "nan" not in found.json()
  shares = [row[4:] for row in found.tables[0].rows]
  assert all(0 <= v <= 1 for row in shares for v in row)
  with pytest.raises(ValueError, match="labels"):
    failures.Settings(labels=(failures.LABELS + 1,))


# ------------------------------------------------------------------------------ identifiability


def test_relabelling_by_hand():
  swapped = np.array([[[0.0, 0.3], [0.2, 0.0]], [[0.25, 0.0], [0.0, 0.25]]])
  assert identifiability.accuracies(swapped) == pytest.approx((0.5, 0.5, 1.0))
  assert identifiability.relabelled(swapped[0]) == pytest.approx(0.5)
  rng = np.random.default_rng(0)
  table = rng.random((4, 4))
  brute = max(sum(table[i, p[i]] for i in range(4)) for p in itertools.permutations(range(4)))
  assert identifiability.relabelled(table) == pytest.approx(brute)


def test_labels_that_name_all_but_one():
  assert identifiability.named_share(actions=3, labels=1) == 0.0
  for n in (2, 4):
    draws = list(itertools.product(range(3), repeat=n))
    brute = np.mean([len(set(d)) >= 2 for d in draws])
    assert identifiability.named_share(actions=3, labels=n) == pytest.approx(brute)


def test_agreement_of_the_true_idm():
  world = identifiability.deterministic_world(states=2, actions=3, outcomes=2)
  exact.check_world(world)
  idm = exact.log_normalise(jnp.log(world + 1e-9))
  table = identifiability.agreement(world, idm)
  np.testing.assert_allclose(table, np.broadcast_to(np.eye(3) / 6, (2, 3, 3)), atol=1e-12)
  order = np.array([2, 0, 1])
  plain, best, each = identifiability.accuracies(identifiability.agreement(world, idm[..., order]))
  assert (plain, best, each) == pytest.approx((0.0, 1.0, 1.0))


def test_identifiability_runs_small():
  found = identifiability.run(
    identifiability.Settings(seeds=4, states=(1,), outcomes=(1,), labels=(0, 8), rounds=3)
  )
  rows = {(r[2], r[3]): r[4] for r in found.tables[0].rows}
  # With P0 and the belief as references no IDM moves.
  assert rows[0, "labels alone"] == rows[0, "SWIRL, references P0 and belief"]
  assert rows[8, "labels alone"] > rows[0, "labels alone"]
  with pytest.raises(ValueError, match="labels"):
    identifiability.Settings(labels=(2, 1))
