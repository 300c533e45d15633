"""Three ways up on tables: exact gradient ascent, closed-form steps, and `phases.phase_step`.

Beside them the exact expectation of what the sampled step follows, so that a bias can be told from
noise. All of it may be jitted and vmapped over worlds, starting points and keys. What is sampled
runs in the dtype of the parameters that come in.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from swirl_jax import objectives
from swirl_jax.optimizer import AdamW, Schedule
from swirl_jax.phases import Batch, Hyper, PhaseSpec, Slots, phase_step
from swirl_jax.rewards import RewardSpec
from swirl_jax.theory import exact
from swirl_jax.theory.tables import Code, Codes, TableRole
from swirl_jax.types import PolicyState, Transition

# For programs that hold a `phase_step`: on a CPU they compile in half the time and run as fast.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})

# With a large ε, AdamW's direction g / (|g| + ε) is g / ε: plain gradient ascent, its rate that of
# `hyper` below. With b1 = 0 the first moment is the gradient itself.
_EPS = 1e6
SGD = AdamW(b1=0.0, b2=0.0, eps=_EPS, clip_norm=0.0, schedule="constant")
SGD_DECAYED = AdamW(b1=0.0, b2=0.0, eps=_EPS, clip_norm=0.0, schedule="cosine")

SUM = RewardSpec(reduce="sum", floor=None)  # the theorems' reward: the whole log-probability
THEOREM = {"reward": SUM, "advantages": "leave_one_out", "kl": "k2"}
PRACTICE = {"reward": RewardSpec(), "advantages": "grpo", "kl": "k3"}  # GRPO, as the paper trains


# ---------------------------------------------------------------------------------- exact ascents


def ascend(gradient: Callable, logits, *, steps: int, rate, watch: Callable = lambda logits: None):
  """θ_{k+1} = θ_k + rate ∇(θ_k), `steps` times. → (θ_steps, watch(θ_k) for k = 0 … steps).

  logits: an array or a tree of them; `gradient` gives the same tree. The history has a leading axis
  [steps + 1].
  """

  def step(at, moved):  # the first one only looks: one program holds `gradient` and `watch` once
    new = jax.tree.map(lambda a, g: a + jnp.where(moved, rate * g, 0.0), at, gradient(at))
    return new, watch(new)

  return jax.lax.scan(step, logits, jnp.arange(steps + 1) > 0)


def alternate(moves: Sequence[Callable], tables, *, order, watch: Callable) -> tuple[Any, Any]:
  """Coordinate ascent: moves (tables → tables), one after the other as `order` has them.

  order: indices of moves, int [N]; may be traced. → (tables at the end, watch(tables) before the
  first move and after each one, with a leading axis [N + 1]).
  """
  moves = (lambda tables: tables, *moves)

  def step(tables, move):
    tables = jax.lax.switch(move, moves, tables)
    return tables, watch(tables)

  order = jnp.concatenate([jnp.zeros(1, jnp.int32), 1 + jnp.asarray(order, jnp.int32)])
  return jax.lax.scan(step, tables, order)


def m_step(world, log_idm) -> Array:
  """argmax_θ of the ELBO, given Q: log of Σ p̃(x, y) Q(z | x, y), normalised in y. → [X, Z, Y].

  Expectation maximisation's second half; what supervised training on pseudo-labels drawn from Q
  converges to. Where Q never names z in x the row is uniform.
  """
  pairs = jnp.log(exact.pair_probs(world))[..., None]
  return exact.log_normalise((pairs + log_idm).swapaxes(1, 2))


# -------------------------------------------------------------------------------- the sampled step


def phase1_spec(codes: Codes, *, group: int, optimizer: AdamW = SGD, **choices) -> PhaseSpec:
  """Phase I on tables: the theorem's choices unless others are given (see `phases.PhaseSpec`)."""
  roles = {"policy": TableRole("y", codes, group), "frozen": TableRole("z", codes)}
  return PhaseSpec(
    **roles, latent=TableRole("z", codes), optimizer=optimizer, **(THEOREM | choices)
  )


def phase2_spec(codes: Codes, *, group: int, optimizer: AdamW = SGD, **choices) -> PhaseSpec:
  """Phase II on tables: the theorem's choices unless others are given (see `phases.PhaseSpec`)."""
  roles = {"policy": TableRole("z", codes, group), "frozen": TableRole("y", codes)}
  return PhaseSpec(**roles, optimizer=optimizer, **(THEOREM | choices))


def table(log_table) -> dict[str, Array]:
  """A table's parameters, float32 as in training."""
  return {"table": jnp.asarray(log_table, jnp.float32)}


def free_table(log_table) -> dict[str, Array]:
  """The z-free model P0(y|x) [X, Y] as `Slots.prior`."""
  return {"free": jnp.asarray(log_table, jnp.float32)}


def prior_table(log_prior, outcomes: int) -> dict[str, Array]:
  """A prior on z given x [X, Z] as Phase II's reference, which has the IDM's axes [X, Y, Z]."""
  x, z = log_prior.shape
  return table(jnp.broadcast_to(log_prior[:, None, :], (x, outcomes, z)))


def hyper(rate, *, steps: int = 1, optimizer: AdamW = SGD, **changes) -> Hyper:
  """β = 1, temperature 1, and bounds that a step on its own policy never meets.

  With `SGD` and `SGD_DECAYED` the rate is that of plain gradient ascent.
  """
  values = {
    "beta": 1.0, "temperature": 1.0, "latent_temperature": 1.0, "clip_low": 0.2, "clip_high": 0.2,
    "importance_cap": 2.0, "anchor_weight": 0.0,
  } | changes  # fmt: skip
  rate = rate * (optimizer.eps if optimizer.eps >= _EPS else 1.0)
  schedule = Schedule(*(jnp.asarray(v, jnp.float32) for v in (rate, 0, steps)))
  return Hyper(schedule, **{k: jnp.asarray(v, jnp.float32) for k, v in values.items()})


def from_world(
  world, codes: Codes, *, prompts: int, labelled: bool = False, anchor: Transition | None = None
) -> Callable[[jax.Array], Batch]:
  """key → a batch of `prompts` transitions drawn from D, z latent unless `labelled`.

  anchor: labelled transitions that go with every batch.
  """
  log_world = jnp.log(jnp.asarray(world, jnp.float32)).ravel()
  shape = world.shape

  def draw(key):
    x, y, z = jnp.unravel_index(jax.random.categorical(key, log_world, shape=(prompts,)), shape)
    return Batch(codes.transition(x, y, z if labelled else None), anchor)

  return draw


def _fresh_step(state, slots, draw, key, settings, spec) -> PolicyState:
  """`phase_step` on a batch of its own."""
  of_batch, of_step = jax.random.split(key)
  return phase_step(state, slots, draw(of_batch), of_step, settings, spec=spec)[0]


def sampled(
  params,
  slots: Slots,
  draw: Callable[[jax.Array], Batch],
  key: jax.Array,
  settings: Hyper,
  *,
  spec: PhaseSpec,
  steps: int,
  watch: Callable = lambda params: None,
):
  """`phase_step`, `steps` times on fresh batches. → (params, watch(params) for k = 0 … steps)."""

  def step(state, xs):  # the first one only looks: one program holds `watch` once
    key, moved = xs
    new = _fresh_step(state, slots, draw, key, settings, spec)
    state = jax.tree.map(lambda a, b: jnp.where(moved, a, b), new, state)
    return state, watch(state.params)

  state = PolicyState(params, spec.optimizer.init(params), jnp.int32(0))
  moved = jnp.arange(steps + 1) > 0
  state, history = jax.lax.scan(step, state, (jax.random.split(key, steps + 1), moved))
  return state.params, history


def sampled_gradients(
  params,
  slots: Slots,
  draw: Callable[[jax.Array], Batch],
  key: jax.Array,
  settings: Hyper,
  *,
  spec: PhaseSpec,
  count: int,
):
  """The direction that `phase_step` goes in, `count` times from one place: a tree [count, ...].

  Read from the first moment of `SGD`, which the spec must have.
  """
  if spec.optimizer.b1 or spec.optimizer.clip_norm:
    raise ValueError("sampled_gradients: the spec's optimizer must be learning.SGD.")
  state = PolicyState(params, spec.optimizer.init(params), jnp.int32(0))

  def one(key):
    new = _fresh_step(state, slots, draw, key, settings, spec)
    return jax.tree.map(jnp.negative, new.opt_state[0].mu)

  return jax.vmap(one)(jax.random.split(key, count))


# ---------------------------------------------------------------- what the sampled step expects


def groups(size: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """All multisets of `group` outcomes [M, G], the log of the number of their orders [M], and how
  often each outcome is in them [M, N].
  """
  found = np.array(list(itertools.combinations_with_replacement(range(size), group)))
  counts = (found[:, None, :] == np.arange(size)[:, None]).sum(-1)
  orders = math.lgamma(group + 1) - np.vectorize(math.lgamma)(counts + 1.0).sum(-1)
  return found, orders, counts


def expected_step(
  logits,
  log_ref,
  rewards,
  *,
  group: int,
  advantages: str = "leave_one_out",
  kl: str = "k2",
  kl_in: str = "loss",
  beta=1.0,
  code: Code | None = None,
) -> Array:
  """E over all groups of the direction that one prompt's on-policy step takes. [..., N] → [..., N].

  logits, log_ref, rewards: the policy's row, the reference's, log P or log Q of each outcome; any
  leading axes, one for each prompt. Weighted by the prompts' probabilities it is the expectation of
  `sampled_gradients` for one-token outcomes. Exact up to rounding: all multisets are enumerated,
  C(N + G − 1, G) of them. code: how outcomes are written, if not in one token each; the terms of a
  word's tokens are then summed (the sampled step's token mean is that over a batch's mean length).
  """
  code = Code.one_token(logits.shape[-1]) if code is None else code
  found, orders, counts = groups(logits.shape[-1], group)
  mask = jnp.asarray(code.arrays.mask)

  def one(logits, log_ref, rewards):
    def objective(t):
      logp, ref = (code.token_logprobs(exact.log_table(a))[0] for a in (t, log_ref))  # [N, L]
      old = jax.lax.stop_gradient(logp)
      probs = jnp.exp(orders + counts @ old.sum(-1))  # [M]
      r = rewards - beta * (old - ref).sum(-1) if kl_in == "reward" else rewards
      a = objectives.group_advantages(r[found], kind=advantages)[..., None]
      value = objectives.token_ratio(logp, old, mask)[found] * a  # [M, G, L]
      if kl_in == "loss":
        value -= beta * objectives.kl_estimate(logp, ref, mask, kind=kl)[found]
      value = jnp.where(mask[found], value, 0.0).sum(-1).mean(-1)
      return (probs * value).sum()

    return jax.grad(objective)(logits)

  flat = [
    jnp.broadcast_to(a, logits.shape).reshape(-1, logits.shape[-1]) for a in (log_ref, rewards)
  ]
  return jax.vmap(one)(logits.reshape(flat[0].shape), *flat).reshape(logits.shape)


def expected_phase1(world, fwm_logits, log_idm, log_ref, *, group: int, **choices) -> Array:
  """The expectation of Phase I's sampled direction, all prompts together. → [X, Z, Y].

  log_ref [X, Z, Y], or [X, Y] for the z-free model. Prompts: D(x) P̃(z|x).
  """
  ref = log_ref[:, None, :] if log_ref.ndim == 2 else log_ref
  ref = jnp.broadcast_to(ref, fwm_logits.shape)
  field = expected_step(fwm_logits, ref, log_idm.swapaxes(1, 2), group=group, **choices)
  belief = jnp.exp(exact.log_belief(world, log_idm))
  return (exact.state_probs(world)[:, None] * belief)[..., None] * field


def expected_phase2(world, idm_logits, log_fwm, log_prior, *, group: int, **choices) -> Array:
  """The expectation of Phase II's sampled direction, all prompts together. → [X, Y, Z].

  log_prior [X, Z], or [X, Y, Z] for a reference that sees y. Prompts: p̃(x, y).
  """
  ref = log_prior[:, None, :] if log_prior.ndim == 2 else log_prior
  ref = jnp.broadcast_to(ref, idm_logits.shape)
  field = expected_step(idm_logits, ref, log_fwm.swapaxes(1, 2), group=group, **choices)
  return exact.pair_probs(world)[..., None] * field
