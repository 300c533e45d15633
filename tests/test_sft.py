"""Supervised steps: cross entropy by hand, shared roles add, what is not finite changes nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from swirl_jax import prompts, sft
from swirl_jax.models import transformer
from swirl_jax.optimizer import AdamW, Schedule
from swirl_jax.types import Segment, Transition

CONFIG = tiny.config(n_layers=1, scan_layers=False)
PARAMS = tiny.params(CONFIG, seed=2)
FWM, IDM = tiny.fwm(CONFIG), tiny.idm(CONFIG)
EOS = tiny.TOKENIZER.eos
BATCHES = (tiny.transitions(1, 3), tiny.transitions(2, 2))
SCHEDULE = Schedule(*(np.float32(v) for v in (0.01, 0, 10)))


@functools.partial(tiny.jit, static_argnames="spec")
def step(state, batch, schedule, spec):
  return sft.sft_step(state, batch, schedule, spec=spec)


def cross_entropy(role, params, batch):
  """−mean log p over every token of the field and its end marker, whole sequences in a row."""
  target = prompts.with_end(Segment(*(a[:, None] for a in getattr(batch, role.field))), (EOS,))
  logp = tiny.plain_logprobs(role, params, batch, target)
  return -jnp.where(target.mask, logp, 0.0).sum() / target.mask.sum()


SHARED = sft.SftSpec((FWM, IDM), tiny.PLAIN)


def test_a_step_of_shared_weights_is_the_sum_of_two_cross_entropies():
  """Loss and gradient; each role has a batch of its own, of another size."""
  state, metrics = step(tiny.state(PARAMS), BATCHES, SCHEDULE, spec=SHARED)

  @tiny.jit
  @jax.value_and_grad
  def plain(params):
    return cross_entropy(FWM, params, BATCHES[0]) + cross_entropy(IDM, params, BATCHES[1])

  loss, grads = plain(PARAMS)
  np.testing.assert_allclose(metrics["loss"].sum, loss, rtol=1e-5)
  tiny.assert_gradients_close(tiny.gradient(state), grads)
  assert metrics["loss"].weight == 1 and metrics["nonfinite"].sum == 0 and state.step == 1
  parts = [metrics[f"nll_{field}"] for field in "yz"]
  np.testing.assert_allclose(sum(m.sum / m.weight for m in parts), loss, rtol=1e-5)


def test_micro_batches_equal_the_batch():
  """Of two roles, whose batches have different sizes; rows are ragged, so token counts differ."""
  batches = tiny.transitions(3, 4), tiny.transitions(4, 2)
  whole, metrics = step(tiny.state(PARAMS), batches, SCHEDULE, spec=SHARED)
  spec = dataclasses.replace(SHARED, micro_batch=2)
  parts, found = step(tiny.state(PARAMS), batches, SCHEDULE, spec=spec)
  tiny.assert_gradients_close(tiny.gradient(parts), tiny.gradient(whole), tolerance=1e-5)
  assert metrics.keys() == found.keys()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), metrics, found)


def test_metrics_equal_the_reference_by_hand():
  _, metrics = step(tiny.state(PARAMS), BATCHES, SCHEDULE, spec=SHARED)
  for role, batch in zip((FWM, IDM), BATCHES, strict=True):
    nll = entropy = count = 0.0
    for b in range(len(batch.x.tokens)):
      fields = {name: tiny.real(getattr(batch, name), b) for name in "xyz"}
      prompt, answer = tiny.prompt_ids(role, **fields), fields[role.field]
      nll -= tiny.numpy_logprobs(PARAMS, CONFIG, prompt, [*answer, EOS]).sum()
      logp = tiny.log_softmax(tiny.numpy_logits(PARAMS, CONFIG, prompt + answer))
      logp = logp[len(prompt) - 1 :]
      entropy -= (np.exp(logp) * logp).sum()
      count += len(answer) + 1
    for name, value in (("nll", nll), ("entropy", entropy)):
      found = metrics[f"{name}_{role.field}"]
      np.testing.assert_allclose([found.sum, found.weight], [value, count], rtol=1e-5)


def test_z_free_training_sees_no_z():
  """The prompt is the one without z, whether the batch has an action, another, or none."""
  role, params = tiny.TableRole("y", group=1, length=3), tiny.table(0)
  batch = tiny.table_transitions(0, 4)
  other = batch._replace(z=tiny.table_transitions(9, 4).z)
  found = [
    tiny.gradient(step(tiny.state(params), (b,), SCHEDULE, spec=spec)[0])["table"]
    for spec in (sft.SftSpec((role,), tiny.PLAIN, hide_z=True), sft.SftSpec((role,), tiny.PLAIN))
    for b in (batch, other, batch._replace(z=None))[: 3 if spec.hide_z else 2]
  ]
  np.testing.assert_array_equal(found[0], found[1])
  np.testing.assert_array_equal(found[0], found[2])
  assert not np.asarray(found[0])[:, 1:].any()  # all at the table's place for "no action"
  assert np.asarray(found[3])[:, 3:].any() and not np.array_equal(found[3], found[4])


ONE = sft.SftSpec((FWM,), tiny.PLAIN)
COUNTS = (3, 1, 2)  # turns of each row


def sequences(seed=4, most=3):
  """Ragged fields of `COUNTS` turns; behind them nothing is there."""
  rng = np.random.default_rng(seed)
  there = (np.arange(most) < np.array(COUNTS).reshape(-1, 1))[..., None]
  y = tiny.segment(rng, (len(COUNTS), most), tiny.STATE, low=2)
  z = tiny.segment(rng, (len(COUNTS), most), tiny.ACTION)
  y, z = (Segment(np.where(there, s.tokens, 0), s.mask & there) for s in (y, z))
  return Transition(tiny.segment(rng, (len(COUNTS),), tiny.STATE), y, z)


def rows_by_hand(turns):
  """The ids of each whole row, and for each whether it is of y or an end marker."""
  out = []
  for b, count in enumerate(COUNTS):
    ids = tiny.prompt_ids(FWM, x=tiny.real(turns.x, b), z=tiny.real(turns.z, b, 0))
    scored = [False] * len(ids)
    for k in range(count):
      link = [tiny.TOKENIZER.fwm, *tiny.real(turns.z, b, k), tiny.TOKENIZER.sep] if k else []
      y = [*tiny.real(turns.y, b, k), EOS]
      ids, scored = ids + link + y, scored + [False] * len(link) + [True] * len(y)
    out.append((ids, scored))
  return out


def test_a_sequence_of_turns_has_the_loss_of_every_y_and_of_nothing_else():
  """Loss and gradient against a whole pass over each assembled row, with `log_softmax`."""
  turns = sequences()
  state, metrics = step(tiny.state(PARAMS), (turns,), SCHEDULE, spec=ONE)
  rows = rows_by_hand(turns)
  length = max(len(ids) for ids, _ in rows)
  ids, scored = (np.array([[*r[i]] + [0] * (length - len(r[i])) for r in rows]) for i in (0, 1))
  mask = np.arange(length) < np.array([[len(r[0])] for r in rows])

  @tiny.jit
  @jax.value_and_grad
  def plain(params):
    hidden, _ = transformer.apply(params, CONFIG, Segment(ids[:, None], mask[:, None]))
    logp = jax.nn.log_softmax(hidden @ transformer.head_kernel(params, CONFIG))[:, 0, :-1]
    logp = jnp.take_along_axis(logp, ids[:, 1:, None], -1)[..., 0]
    return -jnp.where(scored[:, 1:], logp, 0.0).sum() / scored.sum()

  loss, grads = plain(PARAMS)
  np.testing.assert_allclose(metrics["loss"].sum, loss, rtol=1e-5)
  tiny.assert_gradients_close(tiny.gradient(state), grads)
  nll = metrics["nll_y"]
  assert nll.weight == scored.sum() == metrics["entropy_y"].weight
  np.testing.assert_allclose(nll.sum, loss * scored.sum(), rtol=1e-5)


def test_a_ragged_row_has_the_loss_that_it_has_alone():
  turns, total = sequences(), 0.0
  for b in range(len(COUNTS)):
    alone = jax.tree.map(lambda a, b=b: np.repeat(a[b : b + 1], len(COUNTS), 0), turns)
    nll = step(tiny.state(PARAMS), (alone,), SCHEDULE, spec=ONE)[1]["nll_y"]
    total += nll.sum / len(COUNTS)
  nll = step(tiny.state(PARAMS), (turns,), SCHEDULE, spec=ONE)[1]["nll_y"]
  np.testing.assert_allclose(nll.sum, total, rtol=1e-5)


def test_a_sequence_of_one_turn_is_a_transition():
  """Up to the rounding of two programs, which XLA may fuse otherwise."""
  batch = BATCHES[0]
  one = Transition(batch.x, *(Segment(*(a[:, None] for a in s)) for s in (batch.y, batch.z)))
  found = [step(tiny.state(PARAMS), (b,), SCHEDULE, spec=ONE) for b in (batch, one)]
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
  jax.tree.map(close, *found)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_changes_nothing(bad):
  """Parameters, moments and step come back bit for bit, and the metric says so."""
  table = tiny.table(0)
  good = tiny.TableRole("y", group=1, length=3)
  batch = (tiny.table_transitions(0, 4),)
  spec = sft.SftSpec((good,), AdamW())
  state, metrics = step(tiny.state(table, AdamW()), batch, SCHEDULE, spec=spec)
  assert metrics["nonfinite"].sum == 0 and not np.array_equal(state.params["table"], table["table"])
  x, z = (s.tokens[0, 0] for s in (batch[0].x, batch[0].z))
  broken = state._replace(params={"table": state.params["table"].at[x, z, 0, 5].set(bad)})
  after, metrics = step(broken, batch, SCHEDULE, spec=spec)
  assert metrics["nonfinite"].sum == 1
  jax.tree.map(np.testing.assert_array_equal, after, broken)


@pytest.mark.parametrize(
  "loss, gradient", [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (1.0, 1e30)]
)
def test_a_loss_or_a_norm_that_is_not_finite_is_no_update(loss, gradient):
  """Each alone. Gradients of 1e30 are finite, and their squares beyond float32."""
  before = tiny.state({"w": jnp.ones(3)}, AdamW())
  grads = {"w": jnp.full(3, gradient, jnp.float32)}
  after, metrics = sft.apply_update(before, grads, jnp.float32(loss), SCHEDULE, optimizer=AdamW())
  jax.tree.map(np.testing.assert_array_equal, after, before)
  assert metrics["nonfinite"].sum == 1


def test_the_norm_is_that_of_all_gradients_together():
  grads = {"a": jnp.array([3.0]), "b": {"c": jnp.array([[0.0, -4.0]])}}
  state = tiny.state(jax.tree.map(jnp.zeros_like, grads))
  after, metrics = sft.apply_update(state, grads, jnp.float32(1), SCHEDULE, optimizer=tiny.PLAIN)
  assert float(metrics["grad_norm"].sum) == pytest.approx(5.0)
  assert metrics["nonfinite"].sum == 0 and after.step == 1
