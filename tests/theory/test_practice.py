"""What practice changes: expectations by enumeration against brute force and the real step."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swirl_jax.theory import exact
from swirl_jax.theory.experiments import practice, scaling
from swirl_jax.theory.tables import Code

pytestmark = pytest.mark.usefixtures("float64")
DEPARTURES = {d.name: d for d in practice.DEPARTURES}
rows = st.lists(st.floats(-2.0, 2.0), min_size=3, max_size=3).map(np.array)


def log_softmax(x):
  return x - np.log(np.exp(x).sum())


def brute_force(logits, log_ref, tokens, mask, step, group, code):
  """(E g, E |g|²) over all Z^G ordered groups, one term after the other. NumPy alone."""
  logp, ref, n = log_softmax(logits), log_softmax(log_ref), len(logits)

  def per_token(table):
    def prefix(word):
      return np.log(sum(np.exp(table[k]) for k in range(n) if code.words[k][: len(word)] == word))

    return [
      [prefix(w[: t + 1]) - prefix(w[:t]) for t in range(len(w))] for w in code.words
    ]  # fmt: skip

  def score(k, t):  # ∇ of a token's log-probability in the logits: E over what has the prefix
    def mean(length):
      same = np.array([w[:length] == code.words[k][:length] for w in code.words])
      p = np.where(same, np.exp(logp), 0.0)
      return p / p.sum()

    return mean(t + 1) - mean(t)

  lp, lr = per_token(logp), per_token(ref)
  first, second = np.zeros(n), 0.0
  for drawn in itertools.product(range(n), repeat=group):
    reward = []
    for k in drawn:
      values, gaps = tokens[k][mask], np.array(lp[k]) - np.array(lr[k])
      r = values.mean() if step.reduce == "mean" else values.sum()
      r = r if step.floor is None else max(r, step.floor)
      if step.kl_in == "reward":
        r -= step.beta * (gaps.mean() if step.reduce == "mean" else gaps.sum())
      reward.append(r)
    reward = np.array(reward)
    a = reward - reward.mean()
    if step.advantages == "leave_one_out":
      a *= group / (group - 1)
    elif step.advantages == "grpo":
      a /= np.sqrt((a**2).sum() / (group - 1)) + 1e-4
    g, total = np.zeros(n), sum(len(code.words[k]) for k in drawn)
    for k, advantage in zip(drawn, a, strict=True):
      length = len(code.words[k])
      w = {"sum": 1 / group, "token": 1 / total, "sequence": 1 / (length * group)}[step.reduction]
      for t in range(length):
        d = lr[k][t] - lp[k][t]
        slope = {"k1": 1.0, "k2": -d, "k3": 1 - np.exp(d)}[step.kl]
        slope = 0.0 if step.kl_in == "reward" else slope
        g += w * (advantage - step.beta * slope) * score(k, t)
    p = np.exp(logp[list(drawn)].sum())
    first, second = first + p * g, second + p * (g**2).sum()
  return first, second


@pytest.mark.parametrize("name", DEPARTURES)
def test_enumeration_is_brute_force(name):
  rng = np.random.default_rng(0)
  logits, ref = rng.normal(size=(2, 3))
  tokens, mask = rng.normal(size=(3, 2)) - 1.0, np.array([True, True])
  step = DEPARTURES[name]
  found = practice.group_moments(
    jnp.asarray(logits), jnp.asarray(ref), jnp.asarray(tokens), jnp.asarray(mask), step=step,
    group=3, code=practice.Z_CODE,
  )  # fmt: skip
  expected = brute_force(logits, ref, tokens, mask, step, 3, practice.Z_CODE)
  np.testing.assert_allclose(found[0], expected[0], atol=1e-10)
  np.testing.assert_allclose(found[1], expected[1], atol=1e-10)


@jax.jit
def theorem(logits, ref, rewards):
  """(E g of the theorem's step in words of many tokens, ∇(E r − KL)) of one row."""
  step = practice.DEPARTURES[0]
  found, _ = practice.group_moments(
    logits, ref, rewards[:, None], jnp.ones(1, bool), step=step, group=3, code=practice.Z_CODE
  )

  def objective(t):
    log_p = exact.log_table(t)
    return jnp.exp(log_p) @ rewards - exact.kl(log_p, exact.log_table(ref))

  return found, jax.grad(objective)(logits)


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(rows, rows, rows)
def test_the_theorems_step_is_unbiased(logits, ref, rewards):
  found, expected = theorem(logits, ref, rewards)
  np.testing.assert_allclose(found, expected, atol=1e-10)


@jax.jit
def variances(logits, rewards):
  """tr Var of the leave-one-out estimator: by enumeration, and by Hoeffding's formula."""
  out = []
  for group in (2, 3, 5):
    step = practice.Departure("", beta=0.0)
    mean, second = practice.group_moments(
      logits, logits, rewards[:, None], jnp.ones(1, bool), step=step, group=group,
      code=Code.one_token(3),
    )  # fmt: skip
    of_formula, *zetas = scaling.moments(logits, rewards)
    out.append((second - jnp.square(mean).sum(), scaling.variance(*zetas, group)))
    out.append((mean, of_formula))
  return out


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(rows, rows)
def test_variance_of_leave_one_out(logits, rewards):
  for found, expected in variances(logits, rewards):
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_dead_share_by_enumeration():
  logits, rewards = jnp.log(jnp.array([0.5, 0.3, 0.2])), jnp.array([1.0, 0.0, 1.0])
  expected = 0.7**4 + 0.3**4
  np.testing.assert_allclose(scaling.dead_share(logits, rewards, 4), expected, rtol=1e-12)


def case(seed=0) -> practice.Case:
  """Like `practice.draw_case`, in NumPy: nothing to compile."""
  rng = np.random.default_rng(seed)
  x, y, z = practice.SHAPE
  fwm, prior = rng.normal(size=(x, z, y)), rng.normal(size=(x, z))
  fwm = fwm - np.log(np.exp(fwm).sum(-1, keepdims=True))
  prior = prior - np.log(np.exp(prior).sum(-1, keepdims=True))
  snapshot = rng.normal(size=(x, y, z))
  snapshot = snapshot - np.log(np.exp(snapshot).sum(-1, keepdims=True))
  world = np.exp(prior[..., None] + fwm).swapaxes(1, 2) / x
  return practice.Case(*(jnp.asarray(a) for a in (world, fwm, prior, snapshot)))


@pytest.mark.parametrize("name", ["the theorem's step", "the paper's step"])
def test_the_real_step_goes_where_it_is_expected(name):
  """4000 steps of `phase_step`: within twice the noise of its own expectation, over 24 entries."""
  key = jax.random.key(4)
  z = practice.sampled_scores(case(), key, step=DEPARTURES[name], group=2, count=4000)
  assert 0.3 < z < 2.0, z


def test_the_batchs_token_mean_with_many_samples_of_one_prompt():
  """Each prompt's direction is divided by the mean length of its own phrases, whatever G."""
  one, codes = case(), practice.Codes(Code.one_token(2), practice.Y_CODE, practice.Z_CODE)
  step = DEPARTURES["update: mean per token of the batch"]
  truth = exact.phase2_gradient(one.world, one.prior, one.fwm, one.snapshot, beta=1.0)
  limit = truth / (jnp.exp(one.snapshot) @ jnp.array(practice.Z_CODE.lengths))[..., None]
  compare = functools.partial(practice.compare, step=step, group=16, codes=codes)
  found, sine, _ = jax.jit(compare)(one)
  np.testing.assert_allclose(found, limit, atol=0.05 * jnp.abs(limit).max())
  assert sine > 0.1


def test_what_is_called_an_end_is_one():
  """k1 in the loss has no gradient: all mass on the likeliest action, slowly."""
  step, cases = DEPARTURES["k1 per token in the loss"], jax.tree.map(lambda a: a[None], case())
  scores = cases.fwm.swapaxes(-1, -2)
  likeliest = jnp.where(scores == scores.max(-1, keepdims=True), 0.0, -jnp.inf)
  want = exact.elbo_gap(*(a[0] for a in (cases.world, cases.prior, cases.fwm, likeliest)))
  gap, rest = practice.end(cases, step=step, settings=practice.Settings())
  np.testing.assert_allclose(gap[0], want, atol=0.005)
  assert rest[0] < practice.MOVING
  gap, rest = practice.end(cases, step=step, settings=practice.Settings(steps=200))
  assert abs(gap[0] - want) > 0.01 and rest[0] > practice.MOVING


def test_signal_to_noise_of_one_right_outcome():
  """p rare: SNR² → G p (1 − p) × |∇p|² / …; the rule −ln(1 − dead) holds to first order."""
  logits = jnp.log(jnp.array([0.01, 0.99]))
  rewards = jnp.array([1.0, 0.0])
  for group in (2, 8):
    snr = scaling.signal_to_noise(logits, rewards, group)
    rule = -jnp.log(scaling.dead_share(logits, rewards, group))
    np.testing.assert_allclose(snr, rule, rtol=0.05)


def test_fit_of_a_rule():
  rule = np.array([1.0, 2.0, 4.0, 8.0])
  assert scaling.fit(3.0 * rule, rule, within=2.0) == pytest.approx((4, 3.0, 1.0, 1.0))
  snr = np.array([1.0, 2.0, 4.0, 80.0, 1e-13])
  assert scaling.fit(snr, np.append(rule, 1.0), within=2.0) == pytest.approx((4, 1.0, 0.75, 1.0))
  assert scaling.rank_correlation(rule, -rule) == pytest.approx(-1.0)
  # Ranks 1, 2, 3, 4 against 1.5, 1.5, 3.5, 3.5.
  for order in ([0, 1, 2, 3], [1, 0, 3, 2]):
    tied = np.array([2.0, 2.0, 8.0, 8.0])
    assert scaling.rank_correlation(rule[order], tied) == pytest.approx(2 / np.sqrt(5))


def test_settings_are_checked():
  with pytest.raises(ValueError, match="groups"):
    practice.Settings(groups=(1, 2))
  for groups in ((1, 2), (8,), (8, 8)):
    with pytest.raises(ValueError, match="groups"):
      scaling.Settings(groups=groups)
  with pytest.raises(ValueError, match="count"):
    practice.Settings(count=0)


def test_experiments_run_small(monkeypatch):
  """The theorem's step points along the ELBO's gradient and ends at the posterior; k3 does not."""
  names = ["the theorem's step", "k3 per token in the loss"]
  monkeypatch.setattr(practice, "CHECKED", ())
  monkeypatch.setattr(practice, "_pictures", lambda *_: ())  # needs all departures
  monkeypatch.setattr(practice, "DEPARTURES", tuple(DEPARTURES[n] for n in names))
  monkeypatch.setattr(practice, "_paragraph", lambda *_: "")
  found = practice.run(practice.Settings(groups=(2,), ends=2, end_group=2, steps=200, cached=8))
  columns, *rows = found.tables[0].columns, *found.tables[0].rows
  plain, k3 = (dict(zip(columns, row, strict=True)) for row in rows)
  assert plain["sine, G = 2"] < 1e-6 and plain["ELBO gap at the end, mean"] < 1e-9
  assert k3["sine, G = 2"] > 0.01 and k3["ELBO gap at the end, mean"] > 1e-4
  assert scaling.run(scaling.Settings(cases=200, outcomes=3, groups=(2, 8))).paragraph
