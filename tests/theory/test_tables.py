"""Tables as roles: a word's tokens have the outcome's probability, whatever the code."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swirl_jax import prompts, rewards
from swirl_jax.theory import exact
from swirl_jax.theory.tables import Code, Codes, TableRole
from swirl_jax.types import Segment

pytestmark = pytest.mark.usefixtures("float64")
close = functools.partial(chex.assert_trees_all_close, atol=1e-10, rtol=1e-10)
CODES = (Code.one_token(4), Code.binary(4), Code.unary(4), Code(((0, 0), (0, 1, 5), (2,), (1, 0))))


def test_codes_by_hand():
  assert Code.one_token(3).words == ((0,), (1,), (2,))
  assert Code.binary(3).words == ((0, 0), (0, 1), (1, 0))
  assert set(Code.binary(4).lengths) == {2} and set(Code.binary(5).lengths) == {3}
  assert Code.unary(4).words == ((0,), (1, 0), (1, 1, 0), (1, 1, 1))
  assert Code.unary(1).words == ((1,),) and Code.binary(1).words == ((0,),)
  tokens, mask = Code.unary(3).arrays
  np.testing.assert_array_equal(tokens, [[0, 0], [1, 0], [1, 1]])
  np.testing.assert_array_equal(mask, [[True, False], [True, True], [True, True]])


@pytest.mark.parametrize(
  "words, message",
  [
    (((0,), ()), r"words\[1\] is empty"),
    (((0,), (0, 1)), r"words\[1\] = \(0, 1\) begins with words\[0\]"),
    (((1,), (1,)), "not prefix-free"),
  ],
)
def test_codes_that_are_none(words, message):
  with pytest.raises(ValueError, match=message):
    Code(words)


@pytest.mark.parametrize("code", CODES)
def test_words_there_and_back(code):
  index = np.array([[0, 3], [2, 1]])
  segment = code.segment(index)
  np.testing.assert_array_equal(code.index(segment), index)
  # What stands behind a word's end does not matter.
  dirty = Segment(jnp.where(segment.mask, segment.tokens, 9), segment.mask)
  np.testing.assert_array_equal(code.index(dirty), index)
  with pytest.raises(ValueError, match="places; found"):
    code.index(Segment(segment.tokens[..., :0], segment.mask[..., :0]))


@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(st.lists(st.floats(-8, 8), min_size=4, max_size=4), st.sampled_from(CODES))
def test_a_words_tokens_have_the_outcomes_probability(logits, code):
  log_p = exact.log_table(jnp.array(logits))
  logp, entropy = code.token_logprobs(log_p)
  close(logp.sum(-1), log_p)
  assert (logp <= 1e-12).all() and (entropy >= -1e-12).all()
  close((jnp.exp(log_p) * entropy.sum(-1)).sum(), exact.entropy(log_p))  # chain rule


def test_token_logprobs_by_hand():
  """p = (.5, .3, .2) as 0, 10, 11: the first token splits .5 | .5, the second .6 | .4."""
  logp, entropy = Code.unary(3).token_logprobs(jnp.log(jnp.array([0.5, 0.3, 0.2])))
  close(jnp.exp(logp), jnp.array([[0.5, 1.0], [0.5, 0.6], [0.5, 0.4]]))
  second = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))
  ln2 = np.log(2.0)
  close(entropy, jnp.array([[ln2, 0.0], [ln2, second], [ln2, second]]))


def roles(group=3):
  codes = Codes(Code.one_token(2), Code.unary(4), Code.binary(3))
  rng = np.random.default_rng(0)
  fwm, idm = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4, 3))
  return (
    codes,
    (TableRole("y", codes, group), {"table": jnp.asarray(fwm)}),
    (TableRole("z", codes, group), {"table": jnp.asarray(idm)}),
  )


X, Y, Z = np.array([0, 1, 1]), np.array([3, 0, 2]), np.array([1, 2, 0])


@pytest.mark.parametrize("which", [1, 2])
def test_a_rollout_is_what_it_says(which):
  found = roles(group=4000)
  codes, (role, params) = found[0], found[which]
  transition = codes.transition(X, Y, Z)
  drawn = jax.jit(role.rollout)(params, transition, jax.random.key(0), 0.7)
  index = role.code.index(role.content(drawn))  # [B, G]
  rows = params["table"][(X, Z) if role.field == "y" else (X, Y)]
  own, sampler = exact.log_table(rows), exact.log_table(rows / 0.7)
  take = lambda table: jnp.take_along_axis(table, index, -1)  # noqa: E731
  close(drawn.logp.sum(-1), take(own))
  close(drawn.logp_sampler.sum(-1), take(sampler))
  counts = np.stack([np.bincount(row, minlength=rows.shape[-1]) for row in np.asarray(index)])
  error = np.sqrt(np.exp(sampler) * (1 - np.exp(sampler)) / 4000)
  assert (np.abs(counts / 4000 - np.exp(sampler)) < 4.5 * error).all()
  assert drawn.complete.all()
  scored, entropy = jax.jit(role.logprobs)(params, transition, role.target(role.content(drawn)))
  close(scored, drawn.logp)
  assert not np.asarray(scored)[~np.asarray(drawn.mask)].any()
  chex.assert_equal_shape([scored, entropy])


def test_the_frozen_reward_is_the_tables_entry():
  codes, (fwm, fwm_params), (idm, idm_params) = roles()
  transition = codes.transition(X, Y, Z)
  drawn = jax.jit(fwm.rollout)(fwm_params, transition, jax.random.key(1), 1.0)
  y = fwm.code.index(fwm.content(drawn))
  want = exact.log_table(idm_params["table"])[X[:, None], y, Z[:, None]]

  specs = (
    rewards.RewardSpec(reduce="sum", floor=None),
    rewards.RewardSpec(reduce="sum", floor=None, count_end=False),  # there is no end marker
    rewards.RewardSpec(reduce="mean", floor=None),  # actions are two tokens each
    rewards.RewardSpec(reduce="sum", floor=-1.0),
  )

  @jax.jit
  def found(sampled):
    return [rewards.frozen_reward(idm, idm_params, transition, sampled, "y", spec=s) for s in specs]

  close(found(fwm.content(drawn)), [want, want, want / 2, jnp.maximum(want, -1.0)])


def test_without_z_the_z_free_table_is_read():
  codes, (fwm, _), _ = roles()
  free = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4)))
  hidden = prompts.hide(codes.transition(X, Y, Z), "z")
  target = fwm.target(Segment(*(a[:, None] for a in codes.y.segment(Y))))
  logp, _ = jax.jit(fwm.logprobs)({"free": free}, hidden, target)
  close(logp.sum(-1)[:, 0], exact.log_table(free)[X, Y])


def test_the_loss_has_the_tables_gradient():
  """−log p of one target per prompt: softmax − one-hot in the row, nothing elsewhere."""
  codes, (fwm, params), _ = roles(group=1)
  transition = codes.transition(X, Y, Z)
  target = Segment(*(a[:, None] for a in codes.y.segment(Y)))

  def loss(params):
    return fwm.separable_loss(params, transition, target, (), lambda logp, *_: (-logp, {}))[0]

  want = np.zeros((2, 3, 4))
  for x, y, z in zip(X, Y, Z, strict=True):
    want[x, z] += np.asarray(jax.nn.softmax(params["table"][x, z])) - np.eye(4)[y]
  close(jax.jit(jax.grad(loss))(params)["table"], jnp.asarray(want))


def test_wrong_roles_are_named():
  codes = Codes.one_token((2, 2, 2))
  with pytest.raises(ValueError, match=r"role.field = 'x': allowed are \['y', 'z'\]"):
    TableRole("x", codes)
  with pytest.raises(ValueError, match="role.group = 0"):
    TableRole("y", codes, 0)
  with pytest.raises(ValueError, match="needs field 'z'"):
    latent = codes.transition(X, X)
    TableRole("y", codes).rollout({"table": jnp.zeros((2, 2, 2))}, latent, jax.random.key(0), 1.0)
