"""Objectives: numbers worked by hand, identities on tables, padding, eager = jit, bad input."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from swirl_jax import objectives as o
from swirl_jax.theory import worlds

# ------------------------------------------------------------------------------------ advantages

R = np.array([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 1.0]])  # means 3 and 1/4


def test_advantages_by_hand():
  centred = np.array([[-2.0, -1.0, 0.0, 3.0], [-0.25, -0.25, -0.25, 0.75]])
  std = np.sqrt(np.array([[14 / 3], [0.75 / 3]]))  # G − 1 = 3
  chex.assert_trees_all_close(o.group_advantages(R, kind="grpo"), centred / (std + 1e-4), rtol=1e-6)
  chex.assert_trees_all_close(
    o.group_advantages(R, kind="grpo", std_floor=1.0), centred / (std + 1.0), rtol=1e-6
  )
  chex.assert_trees_all_close(o.group_advantages(R, kind="no_std"), centred, rtol=1e-6)
  others = np.stack([np.delete(R, g, axis=1).mean(1) for g in range(4)], 1)
  chex.assert_trees_all_close(
    o.group_advantages(R, kind="leave_one_out"), R - others, rtol=1e-6, atol=1e-6
  )
  r = np.array([[1.0, 3.0, 2.0, 3.0], [-5.0, -5.0, -5.0, -6.0], [4.0, 4.0, 4.0, 4.0]])
  best = [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0] * 4]
  np.testing.assert_array_equal(o.group_advantages(r, kind="best"), best)
  chex.assert_trees_all_close(o.group_spread(R), std[:, 0], rtol=1e-6)


@pytest.mark.parametrize("kind", o.ADVANTAGE_KINDS)
@pytest.mark.parametrize("size", range(3, 9))
def test_equal_rewards_give_exactly_zero_under_jit(kind, size):
  rng = np.random.default_rng(size)
  r = rng.normal(size=20_000) * 10.0 ** rng.uniform(-30, 30, size=20_000)
  r = np.concatenate([r, rng.normal(size=20_000), [0.0, -10.0, 3e38, -3e38, 1e-45]])
  r = np.repeat(r[:, None].astype(np.float32), size, 1)
  assert not np.asarray(jax.jit(lambda r: o.group_advantages(r, kind=kind))(r)).any()
  assert not np.asarray(jax.jit(o.group_spread)(r)).any()
  # Also where the reward is made inside the same program.
  scale = rng.uniform(size=(len(r), 1)).astype(np.float32)
  made = jax.jit(lambda r, s: o.group_advantages(jnp.maximum(r * s, -10.0) / 7, kind=kind))
  assert not np.asarray(made(np.clip(r, -1e9, 1e9), scale)).any()


def test_the_plain_mean_does_not_pass_the_test_above():
  """What centring on the first reward is for: without it a third to a half of groups is off 0."""
  r = np.random.default_rng(0).normal(size=(20_000, 1)).astype(np.float32)
  for size in (3, 5, 6, 7):
    off = jax.jit(lambda r: r - r.mean(-1, keepdims=True))(np.repeat(r, size, 1))
    assert 0.25 < np.asarray(off).any(-1).mean() < 0.6


def test_advantages_do_not_see_a_shift_and_grpo_not_a_scale():
  r = np.random.default_rng(0).normal(size=(64, 5))
  for kind in o.ADVANTAGE_KINDS:
    a = o.group_advantages(r, kind=kind)
    chex.assert_trees_all_close(o.group_advantages(r - 4.0, kind=kind), a, atol=1e-4)
    total = 1.0 if kind == "best" else 0.0
    chex.assert_trees_all_close(a.sum(-1), np.full(64, total), atol=1e-5)
  grpo = o.group_advantages(r, kind="grpo", std_floor=0.0)
  scaled = o.group_advantages(100 * r, kind="grpo", std_floor=0.0)
  chex.assert_trees_all_close(scaled, grpo, rtol=1e-4)


def test_dead_groups():
  r = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.1], [-3.0, -3.0, -3.0 + 1e-6], [0.0, 0.0, 0.0]])
  np.testing.assert_array_equal(o.dead_groups(r), [1.0, 0.0, 1.0, 1.0])
  np.testing.assert_array_equal(o.dead_groups(r, tolerance=0.0), [1.0, 0.0, 0.0, 1.0])
  np.testing.assert_array_equal(o.dead_groups(r, tolerance=1.0), np.ones(4))
  # Rounding has no best.
  np.testing.assert_array_equal(o.group_advantages(r, kind="best").sum(-1), [0.0, 1.0, 0.0, 0.0])


def test_advantages_carry_no_gradient_and_show_what_is_not_finite():
  for kind in o.ADVANTAGE_KINDS:
    g = jax.grad(lambda r, k=kind: (o.group_advantages(r, kind=k) * R).sum())(jnp.asarray(R))
    np.testing.assert_array_equal(g, np.zeros_like(R))
    for bad in (np.inf, -np.inf, np.nan):
      r = np.array([[0.0, bad, 1.0], [bad, bad, bad], [0.0, 1.0, 2.0]])
      finite = np.isfinite(o.group_advantages(r, kind=kind))
      np.testing.assert_array_equal(finite.any(-1), [False, False, True])


def expected_field(probs, ref, rewards, *, size, advantages, kl, beta=1.0):
  """E over all groups of `size` actions of the sampled step's gradient in the logits. [Z] → [Z]."""
  groups = np.array(list(itertools.product(range(len(probs)), repeat=size)))  # [N, G]

  def objective(logits, old):
    logp = jax.nn.log_softmax(logits)[groups][..., None]  # [N, G, 1]
    mask = jnp.ones_like(logp, bool)
    ratio = o.token_ratio(logp, logp, mask)
    adv = o.group_advantages(rewards[groups], kind=advantages)[..., None]
    surrogate = o.clipped_surrogate(ratio, adv, clip_low=0.2, clip_high=0.2)
    kl_ = o.kl_estimate(logp, jnp.log(ref)[groups][..., None], mask, kind=kl)
    weight = jnp.exp(jnp.log(old)[groups].sum(-1))  # probability of the group
    return (weight * (surrogate - beta * kl_).mean((1, 2))).sum()

  return jax.grad(objective)(jnp.log(probs), probs)


PRIOR = np.array(worlds.PRIOR)
LIKELIHOOD = np.array(worlds.LIKELIHOOD)  # P(y|x,z); the posterior is (.583, .313, .104)


@pytest.mark.parametrize(
  "advantages, kl, end",
  [
    ("leave_one_out", "k2", (0.583, 0.313, 0.104)),
    ("leave_one_out", "k3", (0.610, 0.221, 0.169)),
    ("grpo", "k3", (0.522, 0.232, 0.246)),
  ],
)
def test_where_the_expected_field_of_a_sampled_step_ends(advantages, kl, end):
  """Theorem 3.2 in practice: only an unscaled advantage with ∇KL(Q ‖ ref) ends at the posterior."""
  rewards = jnp.log(jnp.asarray(LIKELIHOOD))

  @jax.jit
  def ascend(logits):
    def step(logits, _):
      field = expected_field(
        jax.nn.softmax(logits), PRIOR, rewards, size=4, advantages=advantages, kl=kl
      )
      return logits + field, None

    return jax.lax.scan(step, logits, None, length=400)[0]

  found = jax.nn.softmax(ascend(jnp.zeros(3)))
  chex.assert_trees_all_close(found, np.array(end), atol=2e-3)


# ------------------------------------------------------------------------- a table for identities

P_LOGITS = np.array([0.3, -1.0, 0.8, 0.0, 1.7])
REF_LOGITS = np.array([-0.2, 0.4, 0.1, -1.5, 0.9])


def table(logits):
  logp = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
  return jnp.exp(logp), logp


def kl(p_logits, q_logits):
  p, logp = table(p_logits)
  return (p * (logp - table(q_logits)[1])).sum()


def test_expected_k1_and_k3_are_the_kl_on_a_table():
  p, logp = table(P_LOGITS)
  _, ref = table(REF_LOGITS)
  want = kl(P_LOGITS, REF_LOGITS)
  for estimator in (o.kl_k1, o.kl_k3):
    chex.assert_trees_all_close((p * estimator(logp, ref)).sum(), want, rtol=1e-5)
  assert abs((p * o.kl_k2(logp, ref)).sum() - want) > 0.02  # biased
  assert (o.kl_k3(logp, ref) >= 0).all() and (o.kl_k1(logp, ref) < 0).any()


@pytest.mark.parametrize(
  "kind, divergence",
  [
    ("k1", lambda p: 0.0 * p.sum()),
    ("k2", lambda p: kl(p, REF_LOGITS)),
    ("k3", lambda p: kl(REF_LOGITS, p)),
  ],
)
def test_what_each_estimator_descends_as_an_on_policy_loss(kind, divergence):
  """E_π ∇k: nothing for k1, ∇KL(π ‖ ref) for k2, ∇KL(ref ‖ π) for k3."""
  p, _ = table(P_LOGITS)
  _, ref = table(REF_LOGITS)

  def loss(logits):
    return (p * o.kl_estimate(table(logits)[1], ref, jnp.ones(5, bool), kind=kind)).sum()

  chex.assert_trees_all_close(jax.grad(loss)(P_LOGITS), jax.grad(divergence)(P_LOGITS), atol=1e-6)


def test_k1_in_the_reward_has_the_gradient_of_the_kl():
  """E_π[(r − β k1) ∇log π] = ∇(E_π[r] − β KL(π ‖ ref))."""
  p, logp = table(P_LOGITS)
  _, ref = table(REF_LOGITS)
  r, beta, mask = jnp.arange(5.0), 0.7, jnp.ones((5, 1), bool)
  penalised = o.k1_reward_penalty(r, logp[:, None], ref[:, None], mask, beta=beta, reduce="sum")

  def reinforce(logits):
    return (p * penalised * table(logits)[1]).sum()

  def objective(logits):
    return (table(logits)[0] * r).sum() - beta * kl(logits, REF_LOGITS)

  chex.assert_trees_all_close(
    jax.grad(reinforce)(P_LOGITS), jax.grad(objective)(P_LOGITS), atol=1e-6
  )


def test_estimators_by_hand():
  logp, ref = jnp.log(jnp.array([0.5, 0.2])), jnp.log(jnp.array([0.25, 0.4]))
  ln2 = np.log(2.0)
  chex.assert_trees_all_close(o.kl_k1(logp, ref), np.array([ln2, -ln2]), rtol=1e-6)
  chex.assert_trees_all_close(o.kl_k2(logp, ref), np.full(2, ln2**2 / 2), rtol=1e-6)
  chex.assert_trees_all_close(o.kl_k3(logp, ref), np.array([0.5 - 1 + ln2, 2 - 1 - ln2]), rtol=1e-6)
  # Near 0 the naive exp(d) − d − 1 is mere rounding; k3 is d²/2.
  tiny = o.kl_k3(jnp.float32(0.0), jnp.float32(1e-3))
  chex.assert_trees_all_close(tiny, np.float32(5.0017e-07), rtol=1e-3)


# ------------------------------------------------------------------------- ratios and surrogates

LOGP = np.log(np.array([[[0.5, 0.25, 0.9], [0.4, 0.4, 0.4]]]))  # [1, 2, 3]
OLD = np.log(np.array([[[0.25, 0.5, 0.1], [0.4, 0.2, 0.1]]]))
MASK = np.array([[[True, True, False], [True, True, True]]])


def test_ratios_by_hand():
  chex.assert_trees_all_close(
    o.token_ratio(LOGP, OLD, MASK), np.array([[[2.0, 0.5, 1.0], [1.0, 2.0, 4.0]]]), rtol=1e-6
  )
  # The geometric mean over the sequence's own tokens.
  want = np.array([[[np.sqrt(2.0 * 0.5)], [np.cbrt(1.0 * 2.0 * 4.0)]]])
  chex.assert_trees_all_close(o.sequence_ratio(LOGP, OLD, MASK), want, rtol=1e-6)
  np.testing.assert_array_equal(o.sequence_ratio(LOGP, OLD, np.zeros_like(MASK)), [[[1.0], [1.0]]])
  chex.assert_trees_all_close(
    o.truncated_importance_weights(LOGP, OLD, MASK, cap=1.5),
    np.array([[[1.5, 0.5, 1.0], [1.0, 1.5, 1.5]]]),
    rtol=1e-6,
  )


def test_gspo_gradient_is_the_formula():
  """∇ mean_i s_i A_i = mean_i s_i A_i (1/len_i) Σ_t ∇log π_t; GSPO's gradient estimator."""
  adv = np.array([[[1.5], [-0.5]]])

  def objective(logp):
    ratio = o.sequence_ratio(logp, OLD, MASK)
    surrogate = o.clipped_surrogate(ratio, adv, clip_low=10.0, clip_high=10.0)
    return o.sequence_mean(surrogate, MASK)

  length = MASK.sum(-1, keepdims=True)
  s = np.exp(np.where(MASK, LOGP - OLD, 0).sum(-1, keepdims=True) / length)
  chex.assert_trees_all_close(objective(LOGP), (s * adv).mean(), rtol=1e-6)
  chex.assert_trees_all_close(
    jax.grad(objective)(jnp.asarray(LOGP)), s * adv / length * MASK / 2, rtol=1e-5
  )


def test_surrogate_and_clip_fraction_by_hand():
  ratio = np.array([0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 2.0])
  bounds = dict(clip_low=0.2, clip_high=0.3)
  up, down = np.full(7, 2.0), np.full(7, -2.0)
  for adv, want, active in (
    (up, [1.0, 1.5, 1.8, 2.0, 2.2, 2.5, 2.6], [0, 0, 0, 0, 0, 0, 1]),
    (down, [-1.6, -1.6, -1.8, -2.0, -2.2, -2.5, -4.0], [1, 1, 0, 0, 0, 0, 0]),
    (0 * up, np.zeros(7), np.zeros(7)),
  ):
    chex.assert_trees_all_close(o.clipped_surrogate(ratio, adv, **bounds), np.array(want))
    np.testing.assert_array_equal(o.clipped(ratio, adv, **bounds), active)
    naive = np.minimum(ratio * adv, np.clip(ratio, 0.8, 1.3) * adv)
    chex.assert_trees_all_close(o.clipped_surrogate(ratio, adv, **bounds), naive, rtol=1e-6)
    # No gradient exactly where the bound is active.
    g = jax.grad(lambda r, a=adv: o.clipped_surrogate(r, a, **bounds).sum())(jnp.asarray(ratio))
    chex.assert_trees_all_close(g, adv * (1 - np.array(active)))


@pytest.mark.parametrize("ratio", [o.token_ratio, o.sequence_ratio])
def test_a_ratio_that_overflows(ratio):
  """exp(100) is inf in float32: no NaN where the bound is active or there is no advantage."""
  old, mask = jnp.full((1, 3), -100.0), jnp.ones((1, 3), bool)

  def surrogate(logp, adv):
    return o.clipped_surrogate(ratio(logp, old, mask), adv, clip_low=0.2, clip_high=0.2).mean()

  for adv, want in ((1.0, 1.2), (0.0, 0.0), (-1.0, -np.exp(o.MOST_LOG_RATIO))):
    value, g = jax.value_and_grad(surrogate)(jnp.zeros((1, 3)), jnp.full((1, 1), adv))
    chex.assert_trees_all_close(value, np.float32(want), rtol=1e-5)
    chex.assert_trees_all_close(g.sum(), np.float32(min(want, 0.0)), rtol=1e-5)
  impossible = ratio(jnp.zeros((1, 1)), jnp.full((1, 1), -jnp.inf), mask[:, :1])
  assert np.isposinf(impossible).all()  # no finite number hides it


@pytest.mark.parametrize("clip", [0.0, 3e-4, 0.2])
@pytest.mark.parametrize("ratio", [o.token_ratio, o.sequence_ratio])
def test_gradient_at_ratio_one_is_reinforce(clip, ratio):
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(3, 4, 5, 7)), jnp.float32)  # [B, G, T, V]
  tokens = rng.integers(7, size=(3, 4, 5))
  mask = np.arange(5) < rng.integers(1, 6, size=(3, 4, 1))
  adv = np.array(rng.normal(size=(3, 4, 1)), np.float32)

  def logp(logits):
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)
    return picked[..., 0]

  def surrogate(logits):
    lp = logp(logits)
    s = o.clipped_surrogate(ratio(lp, logp_old, mask), adv, clip_low=clip, clip_high=clip)
    return o.sequence_mean(s, mask)

  def reinforce(logits):
    return o.sequence_mean(logp(logits) * adv, mask)

  logp_old = logp(logits)
  want = jax.grad(reinforce)(logits)
  assert np.abs(want).max() > 1e-3
  chex.assert_trees_all_close(jax.grad(surrogate)(logits), want, atol=1e-7)
  # Also with the live log-probabilities given as the old ones.
  on_policy = jax.grad(
    lambda x: o.sequence_mean(
      o.clipped_surrogate(ratio(logp(x), logp(x), mask), adv, clip_low=clip, clip_high=clip), mask
    )
  )(logits)
  chex.assert_trees_all_close(on_policy, want, atol=1e-7)


def test_importance_weights_carry_no_gradient():
  for argument in (0, 1):
    g = jax.grad(
      lambda a, b: o.truncated_importance_weights(a, b, MASK, cap=3.0).sum(), argnums=argument
    )(jnp.asarray(LOGP), jnp.asarray(OLD))
    np.testing.assert_array_equal(g, np.zeros_like(LOGP))


# ------------------------------------------------------------------------------------- reductions

VALUES = np.array([[1.0, 2.0, 3.0], [4.0, 99.0, 99.0], [99.0, 99.0, 99.0]])
RAGGED = np.array([[True, True, True], [True, False, False], [False, False, False]])


def test_reductions_by_hand():
  chex.assert_trees_all_close(o.token_mean(VALUES, RAGGED), np.float32(10 / 4))
  chex.assert_trees_all_close(o.sequence_mean(VALUES, RAGGED), np.float32((2 + 4) / 2))
  chex.assert_trees_all_close(o.token_weights(RAGGED), RAGGED / 4.0)
  chex.assert_trees_all_close(
    o.sequence_weights(RAGGED), RAGGED * np.array([[1 / 6], [1 / 2], [0.0]]), rtol=1e-6
  )
  for mean in (o.token_mean, o.sequence_mean):
    assert mean(VALUES, np.zeros_like(RAGGED)) == 0.0
    chex.assert_trees_all_close(mean(np.full((3, 1), 5.0), RAGGED), np.float32(5.0), rtol=1e-6)


def test_sequence_logp_by_hand():
  logp = np.array([[-1.0, -3.0, 7.0], [-30.0, 7.0, 7.0], [7.0, 7.0, 7.0]])
  mask = np.array([[True, True, False], [True, False, False], [False, False, False]])
  for kwargs, want in (
    (dict(reduce="mean"), [-2.0, -30.0, 0.0]),
    (dict(reduce="sum"), [-4.0, -30.0, 0.0]),
    (dict(reduce="mean", floor=-10.0), [-2.0, -10.0, 0.0]),
    (dict(reduce="sum", floor=-3.5), [-3.5, -3.5, 0.0]),
    (dict(reduce="mean", floor=0.0), [0.0, 0.0, 0.0]),
  ):
    np.testing.assert_array_equal(o.sequence_logp(logp, mask, **kwargs), np.float32(want))


def test_reward_penalty_by_hand():
  r, ln2 = np.array([[1.0, 2.0]]), np.log(2.0)
  # log-ratios: (ln2, −ln2) and (0, ln2, 2 ln2).
  for reduce, want in (("sum", [1.0, 2.0 - 0.3 * ln2]), ("mean", [1.0, 2.0 - 0.1 * ln2])):
    found = o.k1_reward_penalty(r, LOGP, OLD, MASK, beta=0.1, reduce=reduce)
    chex.assert_trees_all_close(found, np.array([want]), rtol=1e-6)
  g = jax.grad(lambda a: o.k1_reward_penalty(r, a, OLD, MASK, beta=0.1, reduce="sum").sum())
  np.testing.assert_array_equal(g(jnp.asarray(LOGP)), np.zeros_like(LOGP))


@pytest.mark.parametrize("weights", [o.token_weights, o.sequence_weights])
def test_one_batch_equals_its_micro_batches(weights):
  """1×B = k×(B/k), loss and gradient: the weights of the whole batch, then slices."""
  rng = np.random.default_rng(1)
  shape = (8, 3, 6)
  mask = np.arange(6) < rng.integers(0, 7, size=(8, 3, 1))  # empty sequences too
  logp = jnp.asarray(rng.normal(size=shape), jnp.float32)
  old = np.asarray(logp) + rng.normal(size=shape) * 0.3
  adv = rng.normal(size=(8, 3, 1))
  w = weights(mask)

  def loss(logp, rows):
    ratio = o.token_ratio(logp[rows], old[rows], mask[rows])
    surrogate = o.clipped_surrogate(ratio, adv[rows], clip_low=0.2, clip_high=0.2)
    kl = o.kl_estimate(logp[rows], old[rows], mask[rows], kind="k3")
    return (w[rows] * (0.1 * kl - surrogate)).sum()

  def chunks(k):
    parts = [
      jax.value_and_grad(loss)(logp, np.arange(8)[i : i + 8 // k]) for i in range(0, 8, 8 // k)
    ]
    return jax.tree.map(lambda *xs: sum(xs), *parts)

  whole = chunks(1)
  assert np.abs(whole[1]).max() > 1e-3
  for k in (2, 4, 8):
    chex.assert_trees_all_close(chunks(k), whole, atol=1e-6)


def test_the_mean_of_micro_batch_means_is_not_the_mean():
  """Why there are weights: averaging the halves' own token means gives another number."""
  halves = np.mean([o.token_mean(VALUES[i : i + 1], RAGGED[i : i + 1]) for i in (0, 1)])
  assert abs(halves - o.token_mean(VALUES, RAGGED)) > 0.4


# --------------------------------------------------------------------------------- whole functions

LOSSES = {
  "token_ratio": lambda lp, a, b, m: o.token_ratio(lp, a, m).sum(),
  "sequence_ratio": lambda lp, a, b, m: o.sequence_ratio(lp, a, m).sum(),
  "weights": lambda lp, a, b, m: (o.truncated_importance_weights(a, b, m, cap=2.0) * m).sum(),
  "k1": lambda lp, a, b, m: o.kl_estimate(lp, a, m, kind="k1").sum(),
  "k2": lambda lp, a, b, m: o.kl_estimate(lp, a, m, kind="k2").sum(),
  "k3": lambda lp, a, b, m: o.kl_estimate(lp, a, m, kind="k3").sum(),
  "penalty": lambda lp, a, b, m: o.k1_reward_penalty(
    jnp.zeros(lp.shape[:-1]), lp, a, m, beta=0.1, reduce="mean"
  ).sum(),
  "logp_mean": lambda lp, a, b, m: o.sequence_logp(lp, m, reduce="mean", floor=-10.0).sum(),
  "logp_sum": lambda lp, a, b, m: o.sequence_logp(lp, m, reduce="sum").sum(),
  "token_mean": lambda lp, a, b, m: o.token_mean(lp, m),
  "sequence_mean": lambda lp, a, b, m: o.sequence_mean(lp, m),
  "objective": lambda lp, a, b, m: o.token_mean(
    o.clipped_surrogate(
      o.token_ratio(lp, a, m),
      o.group_advantages(o.sequence_logp(b, m, reduce="mean"), kind="grpo")[..., None],
      clip_low=0.2,
      clip_high=0.28,
    )
    - 0.1 * o.kl_estimate(lp, b, m, kind="k3"),
    m,
  ),
}


def batch(seed=0, shape=(3, 4, 5)):
  rng = np.random.default_rng(seed)
  logps = [np.asarray(-rng.exponential(size=shape), np.float32) for _ in range(3)]
  mask = np.arange(shape[-1]) < rng.integers(1, shape[-1], size=shape[:-1] + (1,))
  return logps, mask  # every row has at least one real token and one masked


@pytest.mark.parametrize("garbage", [np.inf, -np.inf, np.nan, 3e38, -1e4])
@pytest.mark.parametrize("name", LOSSES)
def test_garbage_in_padding_changes_nothing(name, garbage):
  (lp, a, b), mask = batch()
  clean = jax.value_and_grad(LOSSES[name])(lp, a, b, mask)
  for dirt in itertools.product((False, True), repeat=3):
    dirty = [np.where(~mask & d, garbage, x) for d, x in zip(dirt, (lp, a, b), strict=True)]
    found = jax.jit(jax.value_and_grad(LOSSES[name]))(*map(jnp.float32, dirty), mask)
    chex.assert_tree_all_finite(found)
    chex.assert_trees_all_close(found, clean, atol=1e-6)
    np.testing.assert_array_equal(np.where(mask, 0.0, found[1]), np.zeros_like(lp))


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_mask_is_finite_and_teaches_nothing(name):
  (lp, a, b), mask = batch()
  value, grad = jax.value_and_grad(LOSSES[name])(lp, a, b, np.zeros_like(mask))
  chex.assert_tree_all_finite((value, grad))
  np.testing.assert_array_equal(grad, np.zeros_like(lp))


class VariantsTest(chex.TestCase):
  """Eager equals jit, on one device and with pmap."""

  @chex.all_variants()
  @parameterized.named_parameters(*((name, name) for name in LOSSES))
  def test_eager_equals_jit(self, name):
    (lp, a, b), mask = batch()
    want = jax.value_and_grad(LOSSES[name])(lp, a, b, mask)
    found = self.variant(jax.value_and_grad(LOSSES[name]))(lp, a, b, mask)
    chex.assert_trees_all_close(found, want, atol=1e-6)

  @chex.variants(with_jit=True, without_jit=True)
  def test_weights_are_float32_whatever_comes_in(self):
    (lp, a, b), mask = batch()
    lp, a = jnp.asarray(lp, jnp.bfloat16), jnp.asarray(a, jnp.bfloat16)
    for found in (
      self.variant(o.token_ratio)(lp, a, mask),
      self.variant(o.sequence_ratio)(lp, a, mask),
      self.variant(o.token_weights)(mask),
      self.variant(o.sequence_weights)(mask.astype(np.int32)),
      self.variant(lambda x, y: o.clipped_surrogate(x, y, clip_low=0.2, clip_high=0.2))(lp, a),
      self.variant(lambda r: o.group_advantages(r, kind="grpo"))(jnp.arange(4)[None]),
    ):
      chex.assert_type(found, jnp.float32)


def test_vmap_over_prompts_equals_the_batch():
  r = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
  for kind in o.ADVANTAGE_KINDS:
    lone = jax.vmap(lambda r, k=kind: o.group_advantages(r, kind=k))(r)
    chex.assert_trees_all_close(lone, o.group_advantages(r, kind=kind), atol=1e-6)


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: o.group_advantages(R, kind="rloo"), "'rloo'; allowed: grpo, no_std, leave_one_out"),
    (lambda: o.group_advantages(R[:, :1], kind="grpo"), r"at least 2 samples.*\(2, 1\)"),
    (lambda: o.group_spread(np.float32(1.0)), r"at least 2 samples.*found shape \(\)"),
    (lambda: o.kl_estimate(LOGP, OLD, MASK, kind="k4"), "'k4'; allowed: k1, k2, k3"),
    (lambda: o.sequence_logp(LOGP, MASK, reduce="max"), "'max'; allowed: mean, sum"),
    (lambda: o.token_ratio(LOGP, OLD[:, :1], MASK), r"logp_old \(1, 1, 3\)"),
    (lambda: o.kl_estimate(LOGP, OLD, MASK[0], kind="k1"), r"mask \(2, 3\)"),
    (lambda: o.sequence_logp(np.float32(0), np.bool_(True), reduce="sum"), "found a scalar"),
    (lambda: o.clipped_surrogate(LOGP, R, clip_low=0.2, clip_high=0.2), r"one rank.*\(2, 4\)"),
    (lambda: o.clipped(R, R.T, clip_low=0.2, clip_high=0.2), r"do not broadcast.*\(4, 2\)"),
    (lambda: o.token_mean(R[0], RAGGED), r"one rank.*values \(4,\)"),
    (
      lambda: o.k1_reward_penalty(R, LOGP, OLD, MASK, beta=0.1, reduce="sum"),
      r"rewards \(2, 4\), penalty \(1, 2\)",
    ),
  ],
)
def test_bad_input_names_what_was_found_and_what_is_allowed(call, message):
  with pytest.raises(ValueError, match=message):
    call()
