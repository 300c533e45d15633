"""What the experiments compute, piece by piece, against its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swirl_jax.theory import exact, learning, worlds
from swirl_jax.theory.experiments import (
  alternation,
  bayes,
  failures,
  identifiability,
  practice,
  theorem1,
  theorem2,
)
from swirl_jax.theory.tables import Code, Codes

pytestmark = pytest.mark.usefixtures("float64")
close = functools.partial(np.testing.assert_allclose, atol=1e-10)


# --------------------------------------------------------------------------- theorems 1 and 2


def test_the_belief_stays_that_of_the_random_idm():
  key = jax.random.key(0)
  found = theorem1.over_tables(key, count=2)
  world, fwm, idm = theorem1.random_tables(jax.random.split(key, 2)[1])
  assert abs(np.corrcoef(np.ravel(fwm), np.ravel(idm))[0, 1]) < 0.6  # each from a key of its own
  fwm, idm = exact.log_table(fwm), exact.log_table(idm)
  belief = exact.log_belief(world, idm)
  close(found["information"][1], np.full(11, exact.mutual_information(world, belief, fwm)))
  close(found["bound"][1, -1], exact.information_bound(world, belief, fwm, idm))


def test_the_first_of_the_priors_is_the_example():
  found = theorem2.over_priors(jax.random.key(0), count=2, steps=400, group=2)
  posterior = np.array(exact.log_true_idm(worlds.three_actions())[0, 0])
  for name in theorem2.VARIANTS:
    q = {k: np.asarray(v) for k, v in found[name].items()}
    assert q["end"].shape == (3, 3)
    end = q["end"][0]
    close(q["distance"][0], 0.5 * np.abs(end - np.exp(posterior)).sum())
    close(q["kl"][0], (end * (np.log(end) - posterior)).sum())
    if name in theorem2.UNBIASED:
      assert q["distance"][0] < 1e-3
    else:
      assert q["distance"][0] > 0.01


# ------------------------------------------------------------------------------- alternation


def test_agreement_is_one_less_the_total_variation():
  a, b = np.zeros((1, 2, 2)), np.zeros((1, 2, 2))
  a[0, 0], b[0, 1] = 0.5, 0.5
  found = [float(alternation.agreement(a, other)) for other in (a, b, (a + b) / 2)]
  assert found == [1.0, 0.0, 0.5]


def test_each_model_agrees_with_the_world_by_itself():
  world, joint = alternation.start_of(jax.random.key(0), 1.0)
  truth = alternation.Models(exact.log_true_fwm(world), exact.log_true_idm(world))
  other, prior = alternation.both(joint), exact.log_actions(world)
  watch = jax.jit(alternation._watch(world, prior))
  fwm, idm = watch(truth._replace(idm=other.idm)), watch(truth._replace(fwm=other.fwm))
  close([fwm["fwm"], idm["idm"]], 1.0)
  assert max(fwm["idm"], idm["fwm"]) < 0.9
  # Likelihood and ELBO under the prior that was given, not under the IDM's own belief.
  close(fwm["likelihood"], exact.log_likelihood(world, prior, truth.fwm))
  close(fwm["elbo"], exact.elbo(world, prior, truth.fwm, other.idm))
  close(idm["elbo"], exact.elbo(world, prior, other.fwm, truth.idm))


def test_a_phase_moves_its_own_model_and_with_shared_weights_the_other_too():
  keys = jax.random.split(jax.random.key(0), 3)
  many, joints = jax.vmap(alternation.start_of, in_axes=(0, None))(keys, 1.0)
  order = np.array([0, 1, 1, 0])
  for shared in (False, True):
    found = alternation.by_ascent(many, joints, order, shared, 0.1, 0.1, steps=5)
    moved = {k: np.abs(np.diff(found[k], axis=1)) > 1e-9 for k in ("fwm", "idm")}
    first = np.array([True, False, False, True])
    np.testing.assert_array_equal(moved["fwm"], np.tile(first | shared, (3, 1)))
    np.testing.assert_array_equal(moved["idm"], np.tile(~first | shared, (3, 1)))
    elbo, reward = (np.diff(found[k], axis=1) for k in ("elbo", "reward"))
    assert (elbo[:, 1:3] > 0).all()
    if not shared:
      assert (reward[:, [0, 3]] > 0).all()


# ------------------------------------------------------------------------------------- bayes


def test_what_each_method_makes_of_labels_and_pairs():
  """One state, three outcomes, two actions: each FWM from its own counts, in NumPy."""
  labels = np.array([[[4.0, 1.0], [0.0, 3.0], [1.0, 0.0]]])  # [X, Y, Z]
  pairs = np.array([[10.0, 20.0, 30.0]])
  found = bayes.methods(jnp.asarray(labels), jnp.asarray(pairs), beta=0.5, em_steps=2,
                        anchor_weight=0.5)  # fmt: skip
  labels, pairs = labels[0], pairs[0]

  def rows(counts):  # [Y, Z] → P(y | z) [Z, Y]
    return (counts / counts.sum(0)).T

  idm = (labels + 0.5) / (labels + 0.5).sum(1, keepdims=True)
  free = pairs + labels.sum(1) + 0.5
  q = idm
  for _ in range(2):
    joint = labels + pairs[:, None] * q + 0.5
    q = rows(joint).T * joint.sum(0)
    q = q / q.sum(1, keepdims=True)
  hard = np.eye(2)[idm.argmax(1)]
  expected = {
    "labels": rows(labels + 0.5),
    "bayes": rows(free[:, None] * idm),
    "soft": rows(labels + pairs[:, None] * idm + 0.5),
    "greedy": rows(labels + pairs[:, None] * hard + 0.5),
    "em": rows(labels + pairs[:, None] * q + 0.5),
    "plain": rows((labels + 0.5) / (labels + 0.5).sum(0) * idm**2),
  }
  for name, fwm in expected.items():
    np.testing.assert_allclose(np.exp(found[name][0]), fwm, atol=1e-10, err_msg=name)


@pytest.mark.slow
def test_the_ways_up_in_one_world():
  """All begin at the FWM that ignores z; those that seek the truth come near it, and by steps."""
  settings = bayes.Settings(steps=60, rate=1.0, prompts=32, group=4)
  world = bayes._world(jax.random.key(0))
  paths = bayes.one_world(world, jax.random.key(1), settings)
  start = paths["exact ascent"][0]
  for name, path in paths.items():
    assert path.shape == (61,) and path[0] == pytest.approx(start, rel=1e-5), name
    assert (path[-1] < 0.5 * start) == (name != "paper's Phase I"), (name, path[-1], start)


# ---------------------------------------------------------------------------------- failures


def failing(**changes):
  """(the world, both models of a warm-up, choices)"""
  settings = failures.Settings(places=3, features=2, actions=2, states=2)
  chance = jax.tree.map(lambda a: a[0], failures.draws(jax.random.key(0), 1, settings))
  values = dict(schedule=0, beta=0.5, labels=8, rounds=1, from_free=0, free_reference=0, sees_y=0)
  choices = failures.Choices(**(values | changes))
  world = failures.draw_world(chance, settings)
  return world, failures.warm_up(chance, world, choices), choices


def test_a_run_takes_the_phases_and_references_of_its_choices():
  train = jax.jit(failures.train, static_argnames="rounds")
  world, (fwm, idm), _ = failing()
  p0 = jnp.broadcast_to(exact.log_outcomes(world)[:, None, :], fwm.shape)
  belief = jnp.broadcast_to(exact.log_belief(world, idm)[:, None, :], idm.shape)
  for schedule, free, sees_y in ((0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 0, 1)):
    first, second = fwm, idm
    if schedule != 2:
      first = exact.log_phase1_optimum(p0 if free else fwm, idm, beta=0.5)
    if schedule != 1:
      second = exact.log_phase2_optimum(idm if sees_y else belief, first, beta=0.5)
    choices = failures.Choices(schedule, 0.5, 8, 1, 0, free, sees_y)
    found = train(world, fwm, idm, choices, rounds=3)  # of which the choices have one
    close(found[0], first)
    close(found[1], second)


def test_a_warm_up_counts_its_labels_and_no_others():
  world, (fwm, idm), _ = failing(labels=0, from_free=1)
  close(fwm, np.broadcast_to(exact.log_outcomes(world)[:, None, :], fwm.shape))
  _, (random, _), _ = failing(labels=0)
  assert np.abs(np.exp(random) - np.exp(fwm)).max() > 0.05
  before = np.exp(idm)  # a pseudo-count of one a row
  for labels in (1, 5):
    _, (_, after), _ = failing(labels=labels)
    ahead = np.exp(after)
    rows = np.abs(ahead - before).max(-1) > 1e-12
    assert 1 <= rows.sum() <= labels
    # (before + counts) / (1 + n) in a row of n labels: n is what makes the counts whole numbers.
    n = [
      next(n for n in range(labels + 1) if np.allclose((1 + n) * a - b, np.round((1 + n) * a - b)))
      for a, b in zip(ahead[rows], before[rows], strict=True)
    ]
    assert sum(n) == labels


def seen(fwm, idm, *, places=2, features=2, batch=400):
  """The signs in a world of one state, two actions that say which place follows, and a feature."""
  settings = failures.Settings(places=places, features=features, actions=2, batch=batch)
  chance = jax.tree.map(lambda a: a[0], failures.draws(jax.random.key(0), 1, settings))
  world = np.zeros((1, places, features, 2))
  for z in range(2):
    world[0, z, :, z] = 0.5 / features
  world = jnp.asarray(world.reshape(1, places * features, 2))
  tables = (jnp.log(jnp.asarray(t) + 1e-9) for t in (fwm, idm))
  found = failures.signs(chance, world, *map(exact.log_normalise, tables), features=features)
  return {name: float(v) for name, v in found.items()}


def test_what_each_sign_sees():
  """y = 2 · place + feature. The FWM that is right, and the IDM that reads the place."""
  right = np.array([[[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]])
  place = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
  found = seen(right, place)
  for name in ("self-consistency", "calibration", "typicality", "swap"):
    assert abs(found[name]) < 0.05, name
  assert found["information"] == pytest.approx(-np.log(2), abs=0.02)
  assert found["effective actions"] == pytest.approx(-2.0, abs=0.02)
  # z in the feature, and an IDM that reads it there: with another's feature it errs half the time.
  feature = np.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
  hides = np.array([[[0.5, 0.0, 0.5, 0.0], [0.0, 0.5, 0.0, 0.5]]])
  assert seen(hides, feature)["swap"] == pytest.approx(0.5, abs=0.1)
  assert abs(seen(hides, feature)["self-consistency"]) < 1e-6
  # One word for everything.
  one = seen(right, np.array([[[1.0, 0.0]] * 4]))
  assert one["information"] == pytest.approx(0.0, abs=1e-6)
  assert one["effective actions"] == pytest.approx(-1.0, abs=1e-6)
  # An FWM that is sure of one feature in two is surer of what it makes than of what happens.
  assert seen(np.array([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]]), place)["calibration"] > 5
  # An IDM that is unsure of half the real states, and an FWM that makes the others.
  unsure = np.array([[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]]])
  sure = np.array([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]])
  assert seen(sure, unsure)["self-consistency"] > 0.2


def test_an_fwm_that_leaves_the_data_is_not_typical():
  """Three places, of which the third never follows: there the FWM goes."""
  away = np.zeros((1, 2, 6))
  away[..., 4:] = 0.5
  idm = np.full((1, 6, 2), 0.5)
  assert seen(away, idm, places=3)["typicality"] > 5


# --------------------------------------------------------------------------- identifiability


def test_a_warm_up_without_labels_is_chance_of_two_kinds():
  world = jnp.asarray(identifiability.deterministic_world(states=2, actions=3, outcomes=2))
  warm = functools.partial(identifiability.warm_up, jax.random.key(0), world, most=2000)
  fwm, idm = warm(0)
  a, b = np.exp(fwm), np.exp(idm)
  close([a.sum(-1).min(), b.sum(-1).min()], 1.0)
  assert abs(np.corrcoef(a.ravel(), b.reshape(a.shape).ravel())[0, 1]) < 0.5
  truth = np.exp(exact.log_true_fwm(world + 1e-12))
  assert np.abs(a - truth).max() > 0.3 and np.abs(np.exp(warm(2000)[0]) - truth).max() < 0.15


# ---------------------------------------------------------------------------------- practice


def test_noise_over_signal_is_that_of_the_real_step():
  case = practice.draw_case(jax.random.key(0))
  codes = Codes.one_token(practice.SHAPE)
  step = practice.DEPARTURES[0]
  compare = jax.jit(functools.partial(practice.compare, step=step, group=4, codes=codes))
  expected, sine, noise = compare(case)
  assert sine < 1e-6
  spec = learning.phase2_spec(codes, group=4, kl="k1", kl_in="reward")
  ref = practice.reference(case.prior, case.snapshot, step=step)
  slots = practice.phases.Slots(learning.table(case.fwm), learning.table(ref))
  draw = learning.from_world(case.world, codes, prompts=1)
  found = learning.jit(
    lambda key: learning.sampled_gradients(
      learning.table(case.snapshot), slots, draw, key, learning.hyper(1.0), spec=spec, count=8000
    )
  )(jax.random.key(1))["table"]
  spread = np.sqrt(np.asarray(found, float).var(0).sum())
  assert noise == pytest.approx(spread / np.sqrt(np.square(expected).sum()), rel=0.05)


def test_the_sine_is_that_of_the_angle():
  case = practice.draw_case(jax.random.key(0))
  codes = Codes(Code.one_token(2), practice.Y_CODE, practice.Z_CODE)
  truth = exact.phase2_gradient(case.world, case.prior, case.fwm, case.snapshot, beta=1.0)
  for step in (practice.Departure("", reduction="sequence"), practice.Departure("", beta=30.0)):
    compare = jax.jit(functools.partial(practice.compare, step=step, group=2, codes=codes))
    found, sine, _ = compare(case)
    cosine = (found * truth).sum() / np.sqrt((found**2).sum() * (truth**2).sum())
    angle = float(np.arccos(cosine))
    assert sine == pytest.approx(np.sin(angle) if cosine > 0 else 2.0 - np.sin(angle), abs=1e-9)


def test_cached_latents_err_by_chance_where_sampled_and_always_where_greedy():
  case = practice.draw_case(jax.random.key(0))
  keys = jax.random.split(jax.random.key(1), 400)
  errors, bias = practice.cached_latents(case, keys, count=16)
  assert bias["sampled"] < 0.1 * errors["sampled"]
  assert bias["greedy"] > 0.5 * errors["greedy"] > 0.05
  # Where the IDM has no doubt the three are one.
  sharp = exact.log_normalise(100.0 * case.snapshot)
  errors, _ = practice.cached_latents(practice.Case(case.world, case.fwm, case.prior, sharp), keys,
                                      count=16)  # fmt: skip
  assert max(errors.values()) < 0.2
