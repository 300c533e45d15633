"""Experiment 5: which actions are learnt without labels, and how many labels name them.

Tables share nothing between states, so a world of one state stands for a model that sees every
state alike (one naming for all of them), a world of several states for one that has to be told in
each. Every phase is run to its optimum (closed form).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import linear_sum_assignment

from swirl_jax.theory import exact, results
from swirl_jax.theory.results import COLORS, Line, Result, Table

METHODS = ("labels alone", "SWIRL", "SWIRL, references P0 and belief")


@dataclasses.dataclass(frozen=True)
class Settings:
  """outcomes: per action, all of them the action's own. labels: per state, on average."""

  seed: int = 0
  seeds: int = 100
  actions: int = 4
  states: tuple[int, ...] = (1, 4)
  outcomes: tuple[int, ...] = (1, 3)
  labels: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
  rounds: int = 8
  beta: float = 1.0

  def __post_init__(self):
    for name in ("seeds", "actions", "states", "outcomes", "rounds", "beta"):
      value = getattr(self, name)
      if not min(value if isinstance(value, tuple) else (value,)) > 0:
        raise ValueError(f"{name} = {value}: allowed is above 0.")
    if list(self.labels) != sorted(self.labels) or self.labels[0] < 0:
      raise ValueError(f"labels = {self.labels}: allowed are numbers from 0 that rise.")


def deterministic_world(*, states: int, actions: int, outcomes: int) -> np.ndarray:
  """Action z leads to one of `outcomes` outcomes of its own, all as likely; D(x), D(z|x) uniform.

  → [X, Z · outcomes, Z].
  """
  own = np.repeat(np.eye(actions), outcomes, axis=0) / outcomes  # [Y, Z]
  return np.broadcast_to(own / (states * actions), (states, *own.shape)).copy()


def agreement(world, log_idm) -> Array:
  """C(x; z, k) = Σ_y D(x, y, z) [k = argmax Q(. | x, y)]: true action z, named k. → [X, Z, Z]."""
  named = jax.nn.one_hot(log_idm.argmax(-1), log_idm.shape[-1], dtype=world.dtype)
  return jnp.einsum("xyz,xyk->xzk", world, named)


def relabelled(table) -> float:
  """max over relabellings σ of Σ_z C(z, σ(z)): the assignment problem. [Z, Z] → number."""
  table = np.asarray(table)
  return float(table[linear_sum_assignment(table, maximize=True)].sum())


def accuracies(table) -> tuple[float, float, float]:
  """(as named, best relabelling of all states together, best in each state) of C [X, Z, Z]."""
  table = np.asarray(table)
  plain = float(np.trace(table, axis1=1, axis2=2).sum())
  return plain, relabelled(table.sum(0)), sum(relabelled(t) for t in table)


def warm_up(key, world, labels, *, most: int) -> tuple[Array, Array]:
  """Both models from counts of `labels` ≤ most transitions and a random pseudo-count of one a
  row.
  """
  draw, of_fwm, of_idm = jax.random.split(key, 3)
  x, y, z = world.shape
  at = jnp.searchsorted(jnp.cumsum(world.ravel()), jax.random.uniform(draw, (most,)))
  used = (jnp.arange(most) < labels).astype(world.dtype)
  counts = jnp.zeros(world.size).at[jnp.minimum(at, world.size - 1)].add(used)
  counts = counts.reshape(world.shape)

  def rows(key, *shape):
    weights = jax.random.exponential(key, shape)
    return weights / weights.sum(-1, keepdims=True)

  fwm = exact.log_normalise(jnp.log(counts.swapaxes(1, 2) + rows(of_fwm, x, z, y)))
  return fwm, exact.log_normalise(jnp.log(counts + rows(of_idm, x, y, z)))


def alternate(world, log_fwm, log_idm, *, free, rounds: int, beta: float):
  """`rounds` of Phase I and Phase II, each to its optimum → log FWM, log IDM.

  References: with `free` P0(y|x) and the belief P̃(z|x), else the snapshots as practice has them.
  """
  p0 = jnp.broadcast_to(exact.log_outcomes(world)[:, None, :], log_fwm.shape)

  def one_round(tables, _):
    fwm, idm = tables
    fwm = exact.log_phase1_optimum(jnp.where(free, p0, fwm), idm, beta=beta)
    belief = jnp.broadcast_to(exact.log_belief(world, idm)[:, None, :], idm.shape)
    idm = exact.log_phase2_optimum(jnp.where(free, belief, idm), fwm, beta=beta)
    # As a transformer's, no log-probability is −inf.
    return tuple(exact.log_normalise(jnp.maximum(t, -50.0)) for t in (fwm, idm)), None

  return jax.lax.scan(one_round, (log_fwm, log_idm), length=rounds)[0]


@functools.partial(jax.jit, static_argnames=("most", "rounds"))
def tables(keys, world, labels, *, most: int, rounds: int, beta):
  """For each of `labels` [L] budgets and each method: C [L, seeds, X, Z, Z], and the learnt
  log-likelihood E log P(y|x) [L, seeds].
  """

  def one(labels, key):
    warm = warm_up(key, world, labels, most=most)
    kinds = jnp.arange(2)  # one program for both
    ends = jax.vmap(lambda f: alternate(world, *warm, free=f, rounds=rounds, beta=beta))(kinds)
    swirl, bayes = (jax.tree.map(lambda a, i=i: a[i], ends) for i in range(2))
    return [
      (agreement(world, idm), exact.log_likelihood(world, exact.log_belief(world, idm), fwm))
      for fwm, idm in (warm, swirl, bayes)
    ]

  return jax.vmap(lambda n: jax.vmap(lambda key: one(n, key))(keys))(labels)


def named_share(*, actions: int, labels: float) -> float:
  """P(at least Z − 1 of Z equally common actions are among n labels): then the last one is known
  too. Inclusion–exclusion over the actions that are missing.
  """
  z, n = actions, labels

  def missing(k):  # P(exactly k given actions and no others are missing)
    return sum(
      (-1) ** j * math.comb(z - k, j) * max(0.0, (z - k - j) / z) ** n for j in range(z - k + 1)
    )

  return missing(0) + z * missing(1)


def run(settings: Settings) -> Result:
  root, rows, found = jax.random.key(settings.seed), [], {}
  for states in settings.states:
    for outcomes in settings.outcomes:
      world = jnp.asarray(
        deterministic_world(states=states, actions=settings.actions, outcomes=outcomes)
      )
      truth = float(
        exact.log_likelihood(world, exact.log_actions(world), exact.log_true_fwm(world))
      )
      keys = jax.random.split(root, settings.seeds)
      budgets = np.array(settings.labels) * states
      ends = jax.device_get(
        tables(keys, world, budgets, most=max(1, int(budgets[-1])), rounds=settings.rounds,
               beta=settings.beta)
      )  # fmt: skip
      for method, (agreements, likelihoods) in zip(METHODS, ends, strict=True):
        for labels, each, likelihood in zip(settings.labels, agreements, likelihoods, strict=True):
          score = np.array([accuracies(t) for t in each])  # [seeds, 3]
          cell = states, outcomes, labels, method
          exactly = float((score[:, 0] > 0.99).mean())
          found[cell] = (
            *(float(v) for v in score.mean(0)), exactly, float((likelihood - truth).mean())
          )  # fmt: skip
          rows.append((*cell, *found[cell], float(score[:, 0].std())))
  columns = (
    "states", "outcomes of an action", "labels per state", "method", "accuracy",
    "best relabelling", "best relabelling per state", "runs above 99%", "log-likelihood − true",
    "std of accuracy",
  )  # fmt: skip
  return Result(
    "identifiability",
    "5. Identifiability: what labels are for",
    _paragraph(settings, found),
    (Table("labels", columns, tuple(rows)),),
    _pictures(settings, found),
  )


def _paragraph(settings: Settings, found) -> str:
  one, many = settings.states[0], settings.states[-1]
  single, several = settings.outcomes[0], settings.outcomes[-1]
  swirl, bayes = METHODS[1:]
  z = settings.actions

  def percent(value):
    return f"{100 * value:.0f}%"

  def budget(states, outcomes, method, level=0.95):
    for n in settings.labels:
      if found[states, outcomes, n, method][0] >= level:
        return str(n)
    return f"more than {settings.labels[-1]}"

  none = found[one, single, 0, swirl]
  spread = found[one, several, 0, swirl]
  apart = found[many, single, 0, swirl]
  last = settings.labels[-1]
  moved = max(
    abs(found[(*cell, METHODS[0])][0] - found[(*cell, bayes)][0])
    for *cell, method in found
    if method == bayes
  )
  off = max(abs(f[4]) for (*_, method), f in found.items() if method == bayes)
  coupon = next((n for n in range(1, 1000) if named_share(actions=z, labels=n) >= 0.95), None)
  return (
    f"{z} actions, {settings.seeds} random starts, {settings.rounds} rounds, β = "
    f"{settings.beta:g}; accuracy is that of the likeliest action. Without labels and with one "
    f"outcome for each action SWIRL's is {percent(none[0])} as named and {percent(none[1])} under "
    f"the best relabelling (chance is 1 in {z}): starts also merge actions. With {many} states "
    f"that share nothing one relabelling for all gives {percent(apart[1])}, one for each state "
    f"{percent(apart[2])}. With {several} outcomes for each action the best relabelling has "
    f"{percent(spread[1])}: state-only data do not say which outcomes belong to one action. With "
    f"P0 and the belief as references nothing moves (accuracy by at most {100 * moved:.2g} points "
    f"from that of the labels, log P(y|x) off the truth by at most {off:.1g} nats): every IDM is a "
    f"fixed point there. Labels for 95% accuracy, per state, among those tried: with one outcome "
    f"for each action {budget(one, single, METHODS[0])} alone, {budget(one, single, swirl)} with "
    f"SWIRL (seeing {z - 1} of {z} actions with 95% probability takes {coupon}); with {several}, "
    f"{budget(one, several, METHODS[0])} and {budget(one, several, swirl)}; with {last} labels "
    f"{percent(found[one, several, last, METHODS[0]][0])} and "
    f"{percent(found[one, several, last, swirl][0])}. Where nothing is shared every state needs "
    f"its own: with {many} states the budgets for each are {budget(many, single, METHODS[0])} and "
    f"{budget(many, single, swirl)} with one outcome for each action. What a "
    "network gains beyond that it gains by generalising between states."
  )


def _pictures(settings: Settings, found) -> tuple:
  names = [str(n) for n in settings.labels]
  places = list(range(len(names)))
  pictures = []
  for states in settings.states:
    lines = [
      Line(f"{method}, {outcomes} outcome{'s' * (outcomes > 1)}", places,
           [float(found[states, outcomes, n, method][0]) for n in settings.labels],
           COLORS[i], dash=outcomes > 1, points=True)
      for outcomes in settings.outcomes for i, method in enumerate(METHODS)
    ]  # fmt: skip
    pictures.append(
      results.curves(
        f"Accuracy against labels, {states} state{'s' * (states > 1)}",
        lines,
        names=names,
        x_label="labels per state",
        y_range=(0.0, 1.0),
      )  # fmt: skip
    )
  return tuple(pictures)
