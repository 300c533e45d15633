"""Experiments 1, 2, 3 and 8, small: what their theorems say shows, and what is known by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swirl_jax.theory import exact, learning, results, worlds
from swirl_jax.theory.experiments import alternation, bayes, theorem1, theorem2

pytestmark = pytest.mark.usefixtures("float64")


def test_theorem_1_over_tables():
  found = theorem1.over_tables(jax.random.key(0), count=40)
  gap = np.asarray(found["gap"])
  np.testing.assert_allclose(found["information"] - found["bound"], gap, atol=1e-10)
  assert (gap > -1e-10).all() and np.abs(gap[:, 0]).max() < 1e-10 and (gap[:, -1] > 1e-3).all()
  assert (np.diff(gap, axis=1) > 0).mean() > 0.95  # further from the posterior, wider
  # Rising exactly: small steps never lower the bound.
  rising = theorem1.over_starts(jax.random.key(1), count=10, steps=30, rate=0.5)
  bound = np.asarray(rising["bound"])
  assert (np.diff(bound, axis=1) > -1e-10).all() and (bound[:, -1] > bound[:, 0]).all()


def test_theorem_2_over_tables():
  found = theorem2.over_tables(jax.random.key(0), count=40)
  gap = np.asarray(found["gap"])
  np.testing.assert_allclose(found["likelihood"] - found["elbo"], gap, atol=1e-10)
  assert (gap > -1e-10).all() and np.abs(gap[:, 0]).max() < 1e-10 and (gap[:, -1] > 1e-3).all()


@pytest.mark.parametrize(
  "variant, end",
  [
    ("leave-one-out + k2", (0.583, 0.3125, 0.104)),
    ("leave-one-out + k3", (0.610, 0.221, 0.169)),
    ("GRPO + k3", (0.522, 0.232, 0.246)),
  ],
)
def test_where_a_step_ends(variant, end):
  prior, like = (jnp.log(jnp.array(row)) for row in (worlds.PRIOR, worlds.LIKELIHOOD))
  end_of = functools.partial(theorem2.end_of, variant=variant, group=4, steps=600)
  found, residual = jax.jit(end_of)(prior, like)
  np.testing.assert_allclose(found, end, atol=6e-4)
  assert residual < 1e-6


def test_what_never_falls_in_closed_form():
  keys = jax.random.split(jax.random.key(0), 20)
  many, joints = jax.jit(jax.vmap(alternation.start_of, in_axes=(0, None)))(keys, 1.0)
  histories = {}
  for name, moves in alternation.SCHEMES.items():
    order = np.array([alternation.MOVES.index(m) for m in moves] * 2)
    history = alternation.closed_form(many, joints, order, 0.1)
    histories[name] = {k: np.asarray(v) for k, v in history.items()}
  fell = {n: alternation.falls(histories[n], m) for n, m in alternation.SCHEMES.items()}
  assert fell["em"]["M-step"]["elbo"] == fell["em"]["Phase II"]["elbo"] == 0.0
  assert fell["em"]["M-step"]["likelihood"] == 0.0
  assert fell["swirl"]["Phase I"]["reward"] == fell["swirl"]["Phase I"]["bound"] == 0.0
  assert fell["swirl"]["Phase II"]["elbo"] == fell["swirl"]["Phase II"]["likelihood"] == 0.0
  # Phase I is no coordinate ascent on the ELBO, and Bayes' rule here is the M-step.
  assert fell["swirl"]["Phase I"]["elbo"] > 0.1
  for name in alternation.WATCHED:
    np.testing.assert_allclose(histories["bayes"][name], histories["em"][name], atol=1e-10)
  np.testing.assert_allclose(histories["em"]["idm"], histories["em"]["idm"][:, :1] * np.ones(5))


def test_errors_in_errors_out():
  keys = jax.random.split(jax.random.key(0), 20)
  many = jax.jit(jax.vmap(bayes._world))(keys)
  q = {k: np.asarray(v) for k, v in bayes.with_errors(keys, many).items()}
  np.testing.assert_allclose(q["fwm"] + q["evidence"], q["free"] + q["idm"], atol=1e-10)
  assert (q["evidence"] > -1e-12).all() and (q["fwm"] <= q["bound"] + 1e-12).all()
  assert np.abs(q["fwm"][:, 0]).max() < 1e-12 and (q["fwm"][:, -1] > 0.01).all()
  # Counts in the world's own proportions: every method but the paper's Phase I finds the truth.
  counts = 1e9 * many
  found = bayes.with_labels(many, counts, counts.sum(-1), beta=0.1, em_steps=3, anchor_weight=0.5)
  for name in ("labels", "bayes", "soft", "em"):
    assert np.asarray(found[name]["excess"]).max() < 1e-6, name
  assert np.asarray(found["plain"]["excess"]).mean() > 1.0
  assert np.asarray(found["greedy"]["agreement"]).mean() < 0.95


@pytest.mark.parametrize("labels, beta", [(10, 0.1), (300, 1.0)])
def test_the_anchored_phase_1_is_at_its_optimum(labels, beta):
  """E log Q − β KL to the model of labels + ½ Σ share log P has gradient 0 there."""
  many = jax.jit(jax.vmap(bayes._world))(jax.random.split(jax.random.key(0), 1))
  counts, pairs = (jnp.asarray(c[0]) for c in bayes.drawn(many, labels, 100, 0))
  found = bayes.methods(counts, pairs, beta=beta, em_steps=1, anchor_weight=0.5)
  idm, seen = exact.log_normalise(jnp.log(counts + bayes.SMOOTHING)), pairs + counts.sum(-1)
  world = (seen / seen.sum())[..., None] * jnp.exp(idm)

  def objective(t):
    fwm, belief = exact.log_table(t), exact.log_belief(world, idm)
    value = exact.phase1_objective(world, belief, fwm, idm, found["labels"], beta=beta)
    return value + 0.5 * (counts / labels * fwm.swapaxes(1, 2)).sum()

  value, gradient = jax.value_and_grad(objective)(found["anchor"])
  np.testing.assert_allclose(gradient, 0.0, atol=1e-12)
  assert value > max(objective(found[name]) for name in ("labels", "plain"))


def test_label_draws_have_their_sizes():
  many = np.stack([worlds.three_actions()] * 2)
  counts, pairs = bayes.drawn(many, 30, 50, 0)
  np.testing.assert_array_equal(counts.sum((1, 2, 3)), [30, 30])
  np.testing.assert_array_equal(pairs.sum((1, 2)), [50, 50])
  assert bayes._needed({10: {"labels": 1.0, "bayes": 1.0}, 1000: {"labels": 0.1, "bayes": 0.01}},
                       "bayes") == "at most 10 (Bayes' rule)"  # fmt: skip
  assert bayes._needed({10: {"labels": 0.1, "bayes": 1.0}, 1000: {"labels": 0.1, "bayes": 0.01}},
                       "bayes") == "about 100 (Bayes' rule)"  # fmt: skip


def test_settings_are_checked():
  for module in (theorem1, theorem2, alternation, bayes):
    with pytest.raises(ValueError, match=r"rate = 0: allowed is above 0"):
      module.Settings(rate=0)
  with pytest.raises(ValueError, match="budgets"):
    bayes.Settings(budgets=(10, 0))


@pytest.mark.slow
def test_the_sampled_step_ends_at_the_posterior():
  settings = theorem2.Settings(sampled_steps=600, prompts=32)
  gaps = {n: p[-1] for n, p in theorem2.one_world(jax.random.key(0), settings).items()}
  assert gaps["exact ascent"] < 1e-6
  assert gaps["leave-one-out + k2"] < 2e-3 and gaps["leave-one-out + k1 in the reward"] < 2e-4
  assert gaps["GRPO + k3"] > 0.01 and gaps["leave-one-out + k3"] > 0.003
  assert learning.SGD_DECAYED.schedule == "cosine"
  assert results.triple([0.5833, 0.1]) == "(.583, .100)"
