"""The phase step: arithmetic on tables, against plain code."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax import objectives, phases, prompts, rng, sft
from swirl_jax.optimizer import AdamW
from swirl_jax.phases import Batch, PhaseSpec, Slots
from swirl_jax.rewards import RewardSpec
from swirl_jax.types import Segment

G = 4
FWM, IDM = tiny.TableRole("y", G, 3), tiny.TableRole("z", G, 2)
POLICY, OPPONENT, REFERENCE, PRIOR = (tiny.table(seed) for seed in range(4))
SLOTS = Slots(OPPONENT, REFERENCE, PRIOR)
BATCH = Batch(tiny.table_transitions(0, 6), tiny.table_transitions(1, 4))
KEY = jax.random.key(0)
PHASE1 = PhaseSpec(FWM, IDM, tiny.PLAIN, reference="none", latent=dataclasses.replace(IDM, group=1))
PHASE2 = PhaseSpec(IDM, FWM, tiny.PLAIN, reference="none")


@functools.partial(tiny.jit, static_argnames="spec")
def step(state, slots, batch, key, hyper, spec):
  return phases.phase_step(state, slots, batch, key, hyper, spec=spec)


def run(spec, *, state=None, batch=BATCH, key=KEY, slots=SLOTS, **hyper):
  state = tiny.state(POLICY, spec.optimizer) if state is None else state
  return step(state, slots, batch, key, tiny.hyper(**hyper), spec=spec)


def value(metric):
  return float(metric.sum) / float(metric.weight)


# ------------------------------------------------------------------------ the same in plain code


def places(role, transition, target):
  """Which row of the table each token of a target is read from: 3 × [B, G, T]."""
  b, g, length = target.tokens.shape
  given = getattr(transition, "z" if role.field == "y" else "y")

  def first(s, i, j):
    row = (i, j) if s.tokens.ndim == 3 else (i,)
    return np.where(s.mask, s.tokens, 0)[row][0] if s.tokens.shape[-1] else 0

  at = np.zeros((3, b, g, length), int)
  for i, j, t in np.ndindex(b, g, length):
    before = target.tokens[i, j, t - 1] if t else 0
    at[:, i, j, t] = first(transition.x, i, j), first(given, i, j), before
  return at


def gather(params, at, tokens):
  """log_softmax of those rows, at the target's tokens: [B, G, T]."""
  logp = jax.nn.log_softmax(params["table"][tuple(at)])
  return jnp.take_along_axis(logp, tokens[..., None], -1)[..., 0]


def plain_logp(role, params, transition, target):
  """log p of a target, token by token, in NumPy: [B, G, T]."""
  rows = tiny.log_softmax(params["table"])[tuple(places(role, transition, target))]
  return np.take_along_axis(rows, np.asarray(target.tokens)[..., None], -1)[..., 0]


@tiny.jit
@jax.grad
def policy_gradient(params, at, tokens, weight):
  """∇ −Σ w log π. Whatever multiplies log π is a number."""
  return -(gather(params, at, tokens) * weight).sum()


@dataclasses.dataclass
class Expected:
  """What a step sees: its samples, and their rewards by plain code."""

  drawn: object
  target: Segment
  reward: np.ndarray


@functools.partial(tiny.jit, static_argnames="role")
def draw(params, transition, key, temperature, role):
  return role.rollout(params, transition, key, temperature)


def collect(spec, temperature=1.0):
  key = rng.stream(KEY, "rollout")
  drawn = draw(POLICY, BATCH.transition, key, np.float32(temperature), role=spec.policy)
  drawn = jax.tree.map(np.asarray, drawn)
  mask = drawn.mask & (drawn.tokens != 2)
  transition = BATCH.transition._replace(**{spec.policy.field: Segment(drawn.tokens, mask)})
  known = prompts.per_sample(getattr(transition, spec.frozen.field), G)
  target = jax.tree.map(np.asarray, prompts.with_end(known, (2,)))
  logp = plain_logp(spec.frozen, OPPONENT, transition, target)
  count = target.mask.sum(-1) if spec.reward.reduce == "mean" else 1
  reward = np.maximum(np.where(target.mask, logp, 0).sum(-1) / count, -10)
  return Expected(drawn, Segment(drawn.tokens, drawn.mask), reward)


def advantages(reward, kind="grpo"):
  centred = reward - reward.mean(-1, keepdims=True)
  if kind == "grpo":
    return centred / (reward.std(-1, ddof=1, keepdims=True) + 1e-4)
  return centred * (G / (G - 1) if kind == "leave_one_out" else 1.0)


def weights(mask, reduction):
  if reduction == "token":
    return mask / mask.sum()
  length = mask.sum(-1, keepdims=True)
  return mask / np.maximum(length, 1) / (length > 0).sum()


def gradient_of(spec, seen, weight):
  at = places(spec.policy, BATCH.transition, seen.target)
  return policy_gradient(POLICY, at, seen.target.tokens, weight.astype(np.float32))


def reinforce(spec, seen, *, scale=1.0, mask=None, reward=None):
  """∇ −Σ w A log π at the samples: the plain policy gradient."""
  mask = seen.drawn.mask if mask is None else mask
  a = advantages(seen.reward if reward is None else reward, spec.advantages)[..., None]
  return gradient_of(spec, seen, weights(mask, spec.reduction) * a * scale)


BOTH = pytest.mark.parametrize("base", [PHASE1, PHASE2], ids=["phase1", "phase2"])


@BOTH
@pytest.mark.parametrize(
  "advantage, reduction", [("grpo", "token"), ("no_std", "sequence"), ("leave_one_out", "token")]
)
def test_the_first_update_is_reinforce_with_the_other_models_log_probability(
  base, advantage, reduction
):
  spec = dataclasses.replace(base, advantages=advantage, reduction=reduction)
  seen = collect(spec)
  state, metrics = run(spec)
  tiny.assert_gradients_close(tiny.gradient(state), reinforce(spec, seen))
  np.testing.assert_allclose(value(metrics["reward"]), seen.reward.mean(), rtol=1e-5)
  np.testing.assert_allclose(
    value(metrics["reward_spread"]), seen.reward.std(-1, ddof=1).mean(), rtol=1e-4
  )
  np.testing.assert_allclose(value(metrics["length"]), seen.drawn.mask.sum(-1).mean(), rtol=1e-6)
  np.testing.assert_allclose(value(metrics["truncated"]), 1 - seen.drawn.complete.mean(), rtol=1e-6)
  assert value(metrics["ratio"]) == 1.0 and value(metrics["clip_fraction"]) == 0.0
  assert "kl" not in metrics and state.step == 1
  # A metric is a sum and a weight: tokens here, samples there.
  assert metrics["entropy"].weight == seen.drawn.mask.sum() and metrics["reward"].weight == 6 * G


def test_the_sequence_ratio_has_the_gradient_of_the_mean():
  """GSPO on policy: s = exp(mean log-ratio), so each sequence weighs its mean log-probability."""
  spec = dataclasses.replace(PHASE1, ratio="sequence", reduction="sequence")
  tiny.assert_gradients_close(tiny.gradient(run(spec)[0]), reinforce(spec, collect(spec)))


def test_truncated_samples_carry_no_loss():
  spec = dataclasses.replace(PHASE1, mask_truncated=True)
  seen = collect(spec)
  mask = seen.drawn.mask & seen.drawn.complete[..., None]
  assert 0 < seen.drawn.complete.sum() < seen.drawn.complete.size
  state, metrics = run(spec)
  tiny.assert_gradients_close(tiny.gradient(state), reinforce(spec, seen, mask=mask))
  assert metrics["entropy"].weight == mask.sum() and metrics["reward"].weight == 6 * G


@pytest.mark.parametrize("cap", [0.9, 100.0])
def test_the_sampler_is_corrected(cap):
  """Drawn at another temperature, every token weighs min(π / sampler, cap)."""
  spec = dataclasses.replace(PHASE1, correct_sampler=True)
  seen = collect(spec, temperature=np.float32(2.0))
  scale = np.minimum(np.exp(seen.drawn.logp - seen.drawn.logp_sampler), cap)
  assert (np.exp(seen.drawn.logp - seen.drawn.logp_sampler) > 0.9).any()
  state, metrics = run(spec, temperature=2.0, importance_cap=cap)
  tiny.assert_gradients_close(tiny.gradient(state), reinforce(spec, seen, scale=scale))
  gap = (seen.drawn.logp - seen.drawn.logp_sampler)[seen.drawn.mask]
  np.testing.assert_allclose(value(metrics["sampler_gap"]), gap.mean(), atol=1e-6)


# -------------------------------------------------------------------------------------- references


@pytest.mark.parametrize(
  "reference, kl", [("snapshot", "k3"), ("frozen", "k2"), ("prior", "k3"), ("prior", "k2")]
)
def test_the_kl_is_to_the_reference(reference, kl):
  """Beside the surrogate's gradient there is β times the estimator's."""
  params = {"snapshot": REFERENCE, "frozen": OPPONENT, "prior": PRIOR}[reference]
  spec = dataclasses.replace(PHASE1, reference=reference, kl=kl)
  seen = collect(spec)
  shown = BATCH.transition if reference != "prior" else prompts.hide(BATCH.transition, "z")
  logp_ref = plain_logp(FWM, params, shown, seen.target)
  mask, w = seen.drawn.mask, weights(seen.drawn.mask, "token")
  d = logp_ref - plain_logp(FWM, POLICY, BATCH.transition, seen.target)
  # With k a function of d = logp_ref − logp: −∂k/∂logp is exp(d) − 1 for k3 and d for k2.
  amount, slope = (np.exp(d) - 1 - d, np.exp(d) - 1) if kl == "k3" else (d**2 / 2, d)
  state, metrics = run(spec, beta=0.7)
  grads = gradient_of(spec, seen, w * slope)
  expected = jax.tree.map(lambda a, b: a + 0.7 * b, reinforce(spec, seen), grads)
  tiny.assert_gradients_close(tiny.gradient(state), expected)
  np.testing.assert_allclose(value(metrics["kl"]), amount[mask].mean(), rtol=1e-4)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_k1_in_the_reward(reduce):
  """Reduced over tokens as the reward is."""
  reward = RewardSpec(reduce=reduce)
  spec = dataclasses.replace(PHASE1, reference="snapshot", kl="k1", kl_in="reward", reward=reward)
  seen = collect(spec)
  logp_ref = plain_logp(FWM, REFERENCE, BATCH.transition, seen.target)
  k1, mask = seen.drawn.logp - logp_ref, seen.drawn.mask
  penalty = np.where(mask, k1, 0).sum(-1) / (mask.sum(-1) if reduce == "mean" else 1)
  state, metrics = run(spec, beta=0.3)
  expected = reinforce(spec, seen, reward=seen.reward - 0.3 * penalty)
  tiny.assert_gradients_close(tiny.gradient(state), expected)
  np.testing.assert_allclose(value(metrics["kl"]), k1[mask].mean(), rtol=1e-5)
  np.testing.assert_allclose(value(metrics["reward"]), seen.reward.mean(), rtol=1e-5)


def test_no_reference_means_no_pass():
  """Without it the step reads neither reference nor β; with it, it reads both."""
  for spec, reads in ((PHASE1, False), (dataclasses.replace(PHASE1, reference="snapshot"), True)):
    slots = SLOTS if reads else Slots(OPPONENT)
    grads = [tiny.gradient(run(spec, slots=slots, beta=b)[0])["table"] for b in (0.0, 1.0)]
    assert np.array_equal(*grads) != reads


def test_the_prior_in_the_reward():
  spec = dataclasses.replace(PHASE1, reward=RewardSpec(prior=True))
  seen = collect(spec)
  logp = plain_logp(FWM, PRIOR, prompts.hide(BATCH.transition, "z"), seen.target)
  mask = seen.drawn.mask
  reward = seen.reward + np.maximum(np.where(mask, logp, 0).sum(-1) / mask.sum(-1), -10)
  state, metrics = run(spec)
  tiny.assert_gradients_close(tiny.gradient(state), reinforce(spec, seen, reward=reward))
  np.testing.assert_allclose(value(metrics["reward"]), reward.mean(), rtol=1e-5)


def test_a_random_reward_asks_no_model():
  spec = dataclasses.replace(PHASE1, reward=RewardSpec(random=True))
  state, metrics = run(spec)
  other, _ = run(spec, slots=Slots(PRIOR))  # another judge
  assert np.array_equal(*(tiny.gradient(s)["table"] for s in (state, other)))
  again, _ = run(spec, key=jax.random.key(1))
  assert not np.array_equal(*(tiny.gradient(s)["table"] for s in (state, again)))
  assert 0.2 < value(metrics["reward"]) < 0.8 and value(metrics["dead_groups"]) == 0


def test_rejection_sampling_is_the_likelihood_of_the_best():
  spec = dataclasses.replace(PHASE1, advantages="best")
  seen = collect(spec)
  best = seen.reward.argmax(-1)[:, None] == np.arange(seen.reward.shape[1])
  alive = seen.reward.std(-1, keepdims=True) > 0
  mask = seen.drawn.mask
  grads = gradient_of(spec, seen, weights(mask, "token") * (best & alive)[..., None])
  tiny.assert_gradients_close(tiny.gradient(run(spec)[0]), grads)


# ------------------------------------------------------------------- dynamic sampling, the anchor


def test_dynamic_sampling_keeps_the_largest_spreads():
  spec = dataclasses.replace(PHASE1, keep=2)
  seen = collect(spec)
  spread = seen.reward.std(-1, ddof=1)
  best = np.argsort(-spread)[:2]
  mask = np.isin(np.arange(6), best)[:, None, None] & seen.drawn.mask
  state, metrics = run(spec)
  tiny.assert_gradients_close(tiny.gradient(state), reinforce(spec, seen, mask=mask))
  np.testing.assert_allclose(value(metrics["kept_spread"]), spread[best].mean(), rtol=1e-4)
  np.testing.assert_allclose(value(metrics["reward"]), seen.reward.mean(), rtol=1e-5)


@BOTH
def test_the_anchor_adds_its_weight_times_the_supervised_gradient(base):
  supervised = sft.SftSpec((base.policy,), tiny.PLAIN)
  labelled, terms = tiny.jit(functools.partial(sft.sft_step, spec=supervised))(
    tiny.state(POLICY), (BATCH.anchor,), tiny.hyper().schedule
  )
  without = tiny.gradient(run(base)[0])
  for weight in (0.0, 0.5, 3.0):
    state, metrics = run(dataclasses.replace(base, anchor=True), anchor_weight=weight)
    expected = jax.tree.map(lambda a, b, w=weight: a + w * b, without, tiny.gradient(labelled))
    tiny.assert_gradients_close(tiny.gradient(state), expected, tolerance=1e-5)
    name = f"nll_{base.policy.field}"
    np.testing.assert_allclose(value(metrics[f"anchor_{name}"]), value(terms[name]), rtol=1e-5)


# ------------------------------------------------------------------ inner epochs and what is frozen


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_inner_epochs_reuse_the_rollout(ratio):
  """Two updates on one rollout; the second has ratios to the first's policy, by plain code."""
  spec = dataclasses.replace(PHASE1, inner_epochs=2, ratio=ratio)
  seen = collect(spec)
  rate, clip, mask = 0.05, 0.02, seen.drawn.mask
  first = run(dataclasses.replace(spec, inner_epochs=1), learning_rate=rate)[0]
  a = advantages(seen.reward)[..., None]
  old = plain_logp(FWM, POLICY, BATCH.transition, seen.target)

  at, w = places(FWM, BATCH.transition, seen.target), weights(mask, "token")

  @tiny.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def plain(params):
    d = jnp.where(mask, gather(params, at, seen.target.tokens) - old, 0.0)
    if ratio == "sequence":
      d = jnp.broadcast_to(d.sum(-1, keepdims=True) / mask.sum(-1, keepdims=True), d.shape)
    r = jnp.exp(d)
    s = jnp.minimum(r * a, jnp.clip(r, 1 - clip, 1 + clip) * a)
    active = ((r > 1 + clip) & (a > 0)) | ((r < 1 - clip) & (a < 0))
    return -(s * w).sum(), jnp.where(mask, active, False).sum() / mask.sum()

  (_, active), grads = plain(first.params)
  state, metrics = run(spec, learning_rate=rate, clip_low=clip, clip_high=clip)
  assert state.step == 2
  tiny.assert_gradients_close(tiny.gradient(state), grads)
  np.testing.assert_allclose(value(metrics["clip_fraction"]), active, rtol=1e-5)
  assert 0 < float(active) < 1


def test_no_gradient_reaches_the_slots():
  """Nor do they come back: the step returns the state of the policy alone."""
  spec = dataclasses.replace(
    PHASE1, reference="snapshot", reward=RewardSpec(prior=True), inner_epochs=2
  )

  def loss(slots):
    state, metrics = phases.phase_step(
      tiny.state(POLICY), slots, BATCH, KEY, tiny.hyper(), spec=spec
    )
    return sum(a.sum() for a in jax.tree.leaves((state.params, metrics["reward"].sum)))

  grads = tiny.jit(jax.grad(loss))(SLOTS)
  assert not any(np.asarray(g).any() for g in jax.tree.leaves(grads))
  out = jax.eval_shape(
    functools.partial(phases.phase_step, spec=spec),
    tiny.state(POLICY), SLOTS, BATCH, KEY, tiny.hyper(),
  )  # fmt: skip
  assert jax.tree.structure(out[0]) == jax.tree.structure(tiny.state(POLICY))


@pytest.mark.parametrize("where", ["reward", "policy"])
@pytest.mark.parametrize("inner_epochs", [1, 2])
def test_what_is_not_finite_changes_nothing(where, inner_epochs):
  """A reward of −inf or a NaN in the policy: every bit of the state comes back, and the metric."""
  spec = dataclasses.replace(
    PHASE1, optimizer=AdamW(), inner_epochs=inner_epochs, reward=RewardSpec(floor=None)
  )
  state, metrics = run(spec)
  assert metrics["nonfinite"].sum == 0 and state.step == inner_epochs
  slots = SLOTS
  if where == "reward":
    slots = SLOTS._replace(frozen={"table": OPPONENT["table"].at[:, :, :, 2].set(-jnp.inf)})
  else:
    x = BATCH.transition.x.tokens[0, 0]
    state = state._replace(params={"table": state.params["table"].at[x].set(jnp.nan)})
  after, metrics = run(spec, state=state, slots=slots)
  assert metrics["nonfinite"].sum > 0
  jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_second_epoch_that_is_not_finite_takes_the_first_back():
  spec = dataclasses.replace(
    PHASE1, optimizer=AdamW(), inner_epochs=2, reward=RewardSpec(floor=None)
  )
  state = tiny.state(POLICY, spec.optimizer)
  after, metrics = run(spec, state=state, learning_rate=np.inf)
  assert metrics["nonfinite"].sum > 0
  jax.tree.map(np.testing.assert_array_equal, after, state)


# ------------------------------------------------------------------------------- latents, retracing


def test_latent_actions_are_drawn_from_the_frozen_model():
  """A batch without z equals the batch with the z that the IDM draws with the stream's key."""
  latent = BATCH._replace(transition=BATCH.transition._replace(z=None))
  drawn = PHASE1.latent.rollout(
    OPPONENT, latent.transition, rng.stream(KEY, "latent"), jnp.float32(0.5)
  )
  mask = drawn.mask & (drawn.tokens != 2)
  given = BATCH._replace(
    transition=BATCH.transition._replace(z=Segment(drawn.tokens[:, 0], mask[:, 0]))
  )
  one, other = (run(PHASE1, batch=b, latent_temperature=0.5) for b in (latent, given))
  jax.tree.map(np.testing.assert_array_equal, one, other)
  cached = run(PHASE1)[0]
  assert not np.array_equal(cached.params["table"], one[0].params["table"])
  fresh = run(PHASE1, batch=latent, latent_temperature=0.5, key=jax.random.key(1))[0]
  assert not np.array_equal(fresh.params["table"], one[0].params["table"])
  np.testing.assert_array_equal(run(PHASE2, batch=latent)[0].params["table"],
                                run(PHASE2)[0].params["table"])  # fmt: skip


def test_changing_traced_numbers_compiles_nothing():
  spec = dataclasses.replace(
    PHASE1, reference="snapshot", anchor=True, correct_sampler=True, inner_epochs=2
  )
  batch = BATCH._replace(transition=BATCH.transition._replace(z=None))

  @tiny.jit
  @chex.assert_max_traces(n=1)
  def traced(*args):
    return phases.phase_step(*args, spec=spec)

  plain = traced(tiny.state(POLICY), SLOTS, batch, KEY, tiny.hyper())[0]
  numbers = ("beta", "temperature", "latent_temperature", "anchor_weight", "learning_rate")
  changes = dict.fromkeys((*numbers, "importance_cap"), 0.37)
  for change, number in (changes | {"clip_low": 1e-6, "clip_high": 1e-6}).items():
    hyper = tiny.hyper(**{change: number})
    other = traced(tiny.state(POLICY), SLOTS, batch, KEY, hyper)[0]
    assert not np.array_equal(other.params["table"], plain.params["table"]), change


def test_eager_equals_jit():
  spec = dataclasses.replace(PHASE2, reference="snapshot")
  state, metrics = run(spec)
  eager, found = phases.phase_step(tiny.state(POLICY), SLOTS, BATCH, KEY, tiny.hyper(), spec=spec)
  tiny.assert_gradients_close(tiny.gradient(eager), tiny.gradient(state), tolerance=1e-5)
  assert metrics.keys() == found.keys()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), metrics, found)


@pytest.mark.parametrize(
  "ratio, sizes",
  [
    ("token", {"micro_batch": 2}),
    ("sequence", {"micro_batch": 2, "micro_group": 2}),
    ("token", {"micro_group": 1}),
  ],
)
def test_micro_batches_equal_the_batch_on_tables(ratio, sizes):
  """With truncated samples masked, so that micro-batches hold different numbers of tokens."""
  base = dataclasses.replace(
    PHASE1, reference="snapshot", anchor=True, ratio=ratio, mask_truncated=True, keep=4
  )
  whole, metrics = run(base)
  parts, found = run(dataclasses.replace(base, **sizes))
  tiny.assert_gradients_close(tiny.gradient(parts), tiny.gradient(whole), tolerance=1e-5)
  assert metrics.keys() == found.keys()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), metrics, found)


@pytest.mark.parametrize(
  "micro_batch, message",
  [(4, "micro_batch = 4: 6 rows and 6 rows"), (3, "micro_batch = 3: 6 rows and 5 rows")],
)
def test_micro_batches_that_do_not_divide(micro_batch, message):
  with pytest.raises(ValueError, match=message):
    spec = dataclasses.replace(PHASE1, micro_batch=micro_batch, anchor=True)
    run(spec, batch=BATCH._replace(anchor=tiny.table_transitions(1, 5)))


def test_samples_that_micro_groups_do_not_divide():
  with pytest.raises(ValueError, match=r"phase\.micro_group = 3: 4 samples are not a multiple"):
    run(dataclasses.replace(PHASE1, micro_group=3))


# ------------------------------------------------------------------------------------------- specs


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"advantages": "gae"}, r"phase\.advantages = 'gae': allowed are \['grpo'"),
    ({"ratio": "word"}, r"phase\.ratio = 'word'"),
    ({"reduction": "sum"}, r"phase\.reduction = 'sum': allowed are \['token', 'sequence'\]"),
    ({"reference": "policy"}, r"phase\.reference = 'policy'"),
    ({"kl": "k4"}, r"phase\.kl = 'k4'"),
    ({"kl_in": "both"}, r"phase\.kl_in = 'both'"),
    ({"kl_in": "reward", "kl": "k3"}, r"phase\.kl = 'k3': in the reward only 'k1' is allowed"),
    ({"inner_epochs": 0}, r"phase\.inner_epochs = 0: allowed is a whole number from 1"),
    ({"keep": -1}, r"phase\.keep = -1"),
    ({"micro_batch": -2}, r"phase\.micro_batch = -2"),
    ({"micro_group": -1}, r"phase\.micro_group = -1"),
  ],
)
def test_impossible_specs_name_the_field(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(PHASE1, **changes)


def test_a_spec_knows_every_kind_of_objectives():
  for name in objectives.ADVANTAGE_KINDS:
    assert dataclasses.replace(PHASE1, advantages=name).advantages == name
  assert hash(PHASE1) == hash(dataclasses.replace(PHASE1)) and PHASE1 != PHASE2


# --------------------------------------------------------------- the sampler's own probabilities
# At another temperature the sampler's log-probabilities aren't the policy's.


def test_a_k1_penalty_is_the_policys_at_any_temperature():
  spec = dataclasses.replace(PHASE1, reference="snapshot", kl="k1", kl_in="reward")
  seen = collect(spec, temperature=2.0)
  k1 = seen.drawn.logp - plain_logp(FWM, REFERENCE, BATCH.transition, seen.target)
  penalty = np.where(seen.drawn.mask, k1, 0).sum(-1) / seen.drawn.mask.sum(-1)
  state, _ = run(spec, beta=0.3, temperature=2.0)
  expected = reinforce(spec, seen, reward=seen.reward - 0.3 * penalty)
  tiny.assert_gradients_close(tiny.gradient(state), expected)


def test_ratios_are_to_the_policy_not_to_the_sampler():
  spec = dataclasses.replace(PHASE1, inner_epochs=2)
  _, metrics = run(spec, learning_rate=0.0, temperature=2.0)
  assert value(metrics["ratio"]) == pytest.approx(1.0, abs=1e-6)


def test_the_samplers_weight_is_of_the_policy_that_drew():
  spec = dataclasses.replace(PHASE1, inner_epochs=2, correct_sampler=True)
  seen = collect(spec, temperature=2.0)
  rates = {"learning_rate": 0.5, "clip_low": 0.99, "clip_high": 99.0, "importance_cap": 100.0}
  rates["temperature"] = 2.0
  first, _ = run(dataclasses.replace(spec, inner_epochs=1), **rates)
  old, new = (plain_logp(FWM, p, BATCH.transition, seen.target) for p in (POLICY, first.params))
  w = weights(seen.drawn.mask, spec.reduction) * advantages(seen.reward)[..., None]
  w = w * np.exp(seen.drawn.logp - seen.drawn.logp_sampler) * np.exp(new - old)
  at = places(FWM, BATCH.transition, seen.target)
  expected = policy_gradient(first.params, at, seen.target.tokens, w.astype(np.float32))
  state, _ = run(spec, **rates)
  tiny.assert_gradients_close(tiny.gradient(state), expected)


def test_the_kl_has_no_sampler_weight():
  spec = dataclasses.replace(PHASE1, reference="snapshot", correct_sampler=True)
  seen = collect(spec, temperature=2.0)
  logp_ref, logp = (plain_logp(FWM, p, BATCH.transition, seen.target) for p in (REFERENCE, POLICY))
  scale = np.exp(seen.drawn.logp - seen.drawn.logp_sampler)
  w = weights(seen.drawn.mask, spec.reduction) * (np.exp(logp_ref - logp) - 1)
  plain, kl = reinforce(spec, seen, scale=scale), gradient_of(spec, seen, w)
  state, _ = run(spec, beta=0.7, importance_cap=100.0, temperature=2.0)
  expected = jax.tree.map(lambda a, b: a + 0.7 * b, plain, kl)
  tiny.assert_gradients_close(tiny.gradient(state), expected)


def test_a_random_reward_has_a_stream_of_its_own():
  _, metrics = run(dataclasses.replace(PHASE1, reward=RewardSpec(random=True)))
  expected = jax.random.uniform(rng.stream(KEY, "reward"), (6, G)).mean()
  np.testing.assert_allclose(value(metrics["reward"]), expected, rtol=1e-6)
