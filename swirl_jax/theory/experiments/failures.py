"""Experiment 6: the FWM hides z in what does not matter, the IDM has one word for everything; what
causes and prevents each, and what shows it without labels.

Every phase is run to its optimum (closed form), so what is seen is the objectives' doing, not the
optimizer's. A world is a random one times a feature: y = (r, f), f ~ P(f | x) whatever z is.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from swirl_jax.evaluation import detectors
from swirl_jax.theory import error_rates, exact, results
from swirl_jax.theory.results import COLORS, Line, Result, Table

LABELS = 64  # the most labelled transitions that a run may draw
SCHEDULES = ("alternate", "Phase I alone", "Phase II alone")
HIDDEN = 0.5  # of the information, the share that irrelevant features carry
HIDDEN_NATS = 0.1  # what they carry at least: half of next to nothing hides nothing
COLLAPSED = 0.6  # of the true effective number of actions
DETECTORS = (
  "self-consistency", "calibration", "typicality", "swap", "information", "effective actions",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
  """runs: of the detectors' random population; grid: runs in each cell of the causes' grid; batch:
  transitions that a detector sees.
  """

  seed: int = 0
  runs: int = 3000
  grid: int = 80
  batch: int = 64
  states: int = 1
  places: int = 4
  features: int = 16
  actions: int = 3
  rounds: int = 6
  betas: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
  labels: tuple[int, ...] = (4, 16, 64)

  def __post_init__(self):
    results.check_positive(self)
    if self.places < self.actions:
      raise ValueError(f"places = {self.places}: allowed is from actions = {self.actions}.")
    if max(self.labels) > LABELS:
      raise ValueError(f"labels = {self.labels}: allowed is at most {LABELS}.")
    if self.batch < 2:
      raise ValueError(f"batch = {self.batch}: allowed is a whole number from 2.")


class Choices(NamedTuple):
  """How a run trains. Arrays, so that one program serves all; booleans as 0 and 1.

  schedule: place in SCHEDULES. labels: of the warm-up. from_free: the FWM's rows start at P0 and
  not at random ones. free_reference: Phase I's KL is to P0(y|x) and not to the snapshot. sees_y:
  Phase II's is to the snapshot and not to its belief P̃(z|x).
  """

  schedule: Array
  beta: Array
  labels: Array
  rounds: Array
  from_free: Array
  free_reference: Array
  sees_y: Array


def with_feature(world, feature) -> Array:
  """D(x, r, z) P(f | x), y = (r, f). [X, R, Z], [X, F] → [X, R · F, Z]."""
  joint = world[:, :, None, :] * feature[:, None, :, None]
  return joint.reshape(world.shape[0], -1, world.shape[2])


class Draws(NamedTuple):
  """The chance in a run: numbers from [0, 1) and standard normal ones (`noise`)."""

  order: Array  # [X, R]
  actions: Array  # [X, Z]
  blur: Array  # []
  scale: Array  # []
  noise: Array  # [F]
  labelled: Array  # [LABELS]
  fwm: Array  # [X, Z, Y]
  idm: Array  # [X, Y, Z]
  pairs: Array  # [N]
  z: Array  # [N]
  imagined: Array  # [N]


def draws(key, runs: int, settings: Settings) -> Draws:
  """All of them at once, with a leading axis: cheaper than a stream for each run."""
  x, z, y = settings.states, settings.actions, settings.places * settings.features
  n, features = settings.batch, settings.features
  shapes = {
    "order": (x, settings.places), "actions": (x, z), "blur": (), "scale": (),
    "noise": (features,), "labelled": (LABELS,), "fwm": (x, z, y), "idm": (x, y, z),
    "pairs": (n,), "z": (n,), "imagined": (n,),
  }  # fmt: skip
  keys = jax.random.split(key, len(shapes))
  return Draws(**{
    name: (jax.random.normal if name == "noise" else jax.random.uniform)(k, (runs, *shape))
    for k, (name, shape) in zip(keys, shapes.items(), strict=True)
  })  # fmt: skip


def pick(u, log_p) -> Array:
  """Index drawn from a distribution by its cumulated probabilities. [...], [..., N] → int [...]."""
  below = jnp.cumsum(jnp.exp(log_p), -1) <= u[..., None]
  return jnp.minimum(below.sum(-1), log_p.shape[-1] - 1)


def draw_world(chance: Draws, settings: Settings) -> Array:
  """An action has one outcome of its own, blurred by up to 0.4; the feature from constant to
  uniform. [X, R · F, Z].
  """
  x, r, z = settings.states, settings.places, settings.actions
  own = jax.nn.one_hot(jnp.argsort(chance.order, -1)[:, :z], r, dtype=chance.actions.dtype)
  policy = 0.5 * _simplex(chance.actions) + 0.5 / z
  world = (policy[..., None] * own).swapaxes(1, 2) / x  # [X, R, Z]
  blur = 0.4 * chance.blur
  world = (1.0 - blur) * world + blur * world.sum(1, keepdims=True) / r
  probs = jax.nn.softmax(2.0 * chance.scale * chance.noise)
  probs = jnp.broadcast_to(0.99 * probs + 0.01 / settings.features, (x, settings.features))
  return with_feature(world, probs)


def _simplex(u) -> Array:
  """Uniform numbers → a uniform point of the simplex over the last axis."""
  weights = -jnp.log1p(-u)
  return weights / weights.sum(-1, keepdims=True)


def warm_up(chance: Draws, world, choices: Choices) -> tuple[Array, Array]:
  """Both models from the first `labels` of LABELS transitions: counts and one pseudo-count a row.

  The pseudo-count is spread as a random row is, or as P0(y|x). → log FWM, log IDM.
  """
  cumulated = jnp.cumsum(world.ravel())
  places = jnp.minimum(jnp.searchsorted(cumulated, chance.labelled), world.size - 1)
  used = (jnp.arange(LABELS) < choices.labels).astype(world.dtype)
  counts = jnp.zeros(world.size).at[places].add(used).reshape(world.shape)
  free = jnp.exp(exact.log_outcomes(world))[:, None, :]
  rows = jnp.where(choices.from_free, free, _simplex(chance.fwm))
  fwm = exact.log_normalise(jnp.log(counts.swapaxes(1, 2) + rows))
  return fwm, exact.log_normalise(jnp.log(counts + _simplex(chance.idm)))


def train(world, log_fwm, log_idm, choices: Choices, *, rounds: int) -> tuple[Array, Array]:
  """`choices.rounds` ≤ rounds of the phases that the schedule has, each to its optimum."""
  free = jnp.broadcast_to(exact.log_outcomes(world)[:, None, :], log_fwm.shape)

  def one_round(tables, i):
    fwm, idm = tables
    reference = jnp.where(choices.free_reference, free, fwm)
    fwm = jnp.where(
      choices.schedule == 2, fwm, exact.log_phase1_optimum(reference, idm, beta=choices.beta)
    )
    belief = jnp.broadcast_to(exact.log_belief(world, idm)[:, None, :], idm.shape)
    prior = jnp.where(choices.sees_y, idm, belief)
    idm = jnp.where(
      choices.schedule == 1, idm, exact.log_phase2_optimum(prior, fwm, beta=choices.beta)
    )
    new = jax.tree.map(lambda a, b: jnp.where(i < choices.rounds, a, b), (fwm, idm), tables)
    return new, None

  return jax.lax.scan(one_round, (log_fwm, log_idm), jnp.arange(rounds))[0]


def hidden_information(world, log_prior, log_fwm, *, features: int) -> Array:
  """I(Z; F̂ | X, R̂) under D(x) P̃(z|x) P_θ(ŷ|x,z), ŷ = (r̂, f̂): what irrelevant features tell. → [].

  I(Z; Ŷ | X) = I(Z; R̂ | X) + I(Z; F̂ | X, R̂); the last is 0 in the world itself.
  """
  x, z, y = log_fwm.shape
  places = jax.nn.logsumexp(log_fwm.reshape(x, z, y // features, features), axis=-1)
  total = exact.mutual_information(world, log_prior, log_fwm)
  small = world.reshape(x, y // features, features, z).sum(2)
  return total - exact.mutual_information(small, log_prior, places)


def true_state(world, log_fwm, log_idm, *, features: int) -> dict[str, Array]:
  """What only labels or the world's tables tell: the two failures, and how good both models are."""
  belief = exact.log_belief(world, log_idm)
  information = exact.mutual_information(world, belief, log_fwm)
  hidden = hidden_information(world, belief, log_fwm, features=features)
  effective = jnp.exp(exact.action_entropy(world, belief))
  true_effective = jnp.exp(exact.action_entropy(world, exact.log_actions(world)))
  return {
    "hidden": (hidden > HIDDEN * information) & (hidden > HIDDEN_NATS),
    "collapsed": effective < COLLAPSED * true_effective,
    "accuracy": (world * jnp.exp(log_idm)).sum(),
  }


def signs(chance: Draws, world, log_fwm, log_idm, *, features: int) -> dict[str, Array]:
  """The detectors on a batch of sampled transitions, high where something is wrong."""
  cumulated = jnp.cumsum(exact.pair_probs(world).ravel())
  flat = jnp.minimum(jnp.searchsorted(cumulated, chance.pairs), cumulated.size - 1)
  x, y = jnp.unravel_index(flat, world.shape[:2])
  z = pick(chance.z, log_idm[x, y])
  imagined = pick(chance.imagined, log_fwm[x, z])
  swapped = imagined // features * features + jnp.roll(y, 1) % features
  free = exact.log_outcomes(world)
  log_q = log_idm[x[None, :], y[None, :], z[:, None]]

  def gap(a, b):
    return detectors.imagined_gap(a, b)[0]

  return {
    "self-consistency": gap(log_idm[x, imagined, z], log_idm[x, y, z]),
    "calibration": gap(log_fwm[x, z, imagined], log_fwm[x, z, y]),
    "typicality": -gap(free[x, imagined], free[x, y]),
    "swap": gap(jnp.exp(log_idm[x, imagined, z]), jnp.exp(log_idm[x, swapped, z])),
    "information": -detectors.action_information(log_q),
    "effective actions": -detectors.effective_actions(log_q),
  }


@functools.partial(jax.jit, static_argnames=("settings",))
def outcomes(chance: Draws, choices: Choices, *, settings: Settings):
  """Runs [N] from world to verdict: (true state, signs)."""

  def one(chance, choices):
    world = draw_world(chance, settings)
    fwm, idm = warm_up(chance, world, choices)
    fwm, idm = train(world, fwm, idm, choices, rounds=settings.rounds)
    # A transformer's log-probabilities are finite; so are these.
    fwm, idm = (exact.log_normalise(jnp.maximum(t, -50.0)) for t in (fwm, idm))
    features = settings.features
    return (
      true_state(world, fwm, idm, features=features),
      signs(chance, world, fwm, idm, features=features),
    )

  return jax.vmap(one)(chance, choices)


# ---------------------------------------------------------------------------------- the experiment


def _population(key, settings: Settings) -> Choices:
  """Settings as different as people choose them."""
  n, keys = settings.runs, jax.random.split(key, 7)
  coin = lambda k: jax.random.bernoulli(k, 0.5, (n,))  # noqa: E731
  between = functools.partial(jax.random.uniform, shape=(n,))
  return Choices(
    jax.random.randint(keys[0], (n,), 0, 3),
    10.0 ** between(keys[1], minval=-1.5, maxval=0.5),
    jnp.floor(2.0 ** between(keys[2], minval=1.0, maxval=6.0)),
    jax.random.randint(keys[3], (n,), 1, settings.rounds + 1),
    *map(coin, keys[4:]),
  )


def _grid(settings: Settings) -> tuple[list[tuple], Choices]:
  """Cells (schedule, β, labels, free reference), each `settings.grid` runs; the FWM's rows start at
  P0, and Phase II's prior does not see y.
  """
  cells = [
    (s, b, n, free)
    for s in range(3) for b in settings.betas for n in settings.labels for free in (0, 1)
    if not (s == 2 and free)
  ]  # fmt: skip
  columns = [np.repeat(np.array(c), settings.grid) for c in zip(*cells, strict=True)]
  schedule, beta, labels, free = columns
  full = lambda v: np.full(len(schedule), v)  # noqa: E731
  return cells, Choices(schedule, beta, labels, full(settings.rounds), full(1), free, full(0))


def _causes(cells, state) -> tuple[Table, dict]:
  shares = {k: v.reshape(len(cells), -1).mean(1) for k, v in state.items()}
  found = {cell: {k: float(v[i]) for k, v in shares.items()} for i, cell in enumerate(cells)}
  rows = tuple(
    (SCHEDULES[s], b, n, "P0" if free else "snapshot", *found[s, b, n, free].values())
    for s, b, n, free in cells
  )
  columns = ("schedule", "beta", "labels", "Phase I reference", *shares)
  return Table("causes", columns, rows), found


def _detection(state, sign) -> tuple[Table, dict, tuple]:
  rows, found, pictures = [], {}, []
  titles = {"hidden": "z hidden in irrelevant features", "collapsed": "one word for everything"}
  for failure, title in titles.items():
    failed = state[failure]
    for name in DETECTORS:
      found[failure, name] = e = error_rates.errors(sign[name], failed)
      rows.append((failure, name, float(failed.mean()), *(None if np.isnan(v) else v for v in e)))
    lines = [
      error_rates.roc_line(sign[name][1::2], failed[1::2], name, COLORS[i])
      for i, name in enumerate(DETECTORS)
    ]
    picture = results.curves(
      f"{title[0].upper()}{title[1:]}: failures found against false alarms",
      lines,
      x_label="false alarms",
      y_range=(0.0, 1.0),
    )
    pictures.append(picture)
  columns = ("failure", "detector", "share of runs", *error_rates.Errors._fields)
  return Table("detectors", columns, tuple(rows)), found, tuple(pictures)


def _pictures(settings: Settings, found) -> tuple:
  names = [f"{b:g}" for b in settings.betas]
  places = list(range(len(names)))
  few = settings.labels[0], settings.labels[-1]

  def line(what, schedule, labels, free, color, dash):
    y = [found[schedule, b, labels, free][what] for b in settings.betas]
    reference = ", reference P0" if free else ""
    return Line(f"{SCHEDULES[schedule]}, {labels} labels{reference}", places, y, color, dash, True)

  hiding = [
    line("hidden", s, n, free, COLORS[i], n == few[1])
    for i, (s, free) in enumerate(((1, 0), (0, 0), (0, 1))) for n in few
  ]  # fmt: skip
  collapse = [
    line("collapsed", s, n, 0, COLORS[i], n == few[1]) for i, s in enumerate((2, 0)) for n in few
  ]
  common = {"names": names, "x_label": "KL weight β", "y_range": (0.0, 1.0)}
  return (
    results.curves("Share of runs whose FWM hides z", hiding, **common),
    results.curves("Share of runs whose IDM collapses", collapse, **common),
  )


def _paragraph(settings: Settings, causes, detection) -> str:
  few, many = settings.labels[0], settings.labels[-1]
  low, one = settings.betas[0], min(settings.betas, key=lambda b: abs(b - 1.0))

  def share(what, *cell):
    return f"{100 * causes[cell][what]:.0f}%"

  def best(failure):
    judged = [d for d in DETECTORS if not np.isnan(detection[failure, d].area)]
    if not judged:
      return "none, for want of such runs"
    name = max(judged, key=lambda d: detection[failure, d].area)
    e = detection[failure, name]
    return (
      f"{name} (area under ROC {e.area:.2f}; false alarms {100 * e.false_alarms:.0f}%, "
      f"misses {100 * e.misses:.0f}%)"
    )

  areas = ", ".join(f"{detection['hidden', d].area:.2f}" for d in DETECTORS[:3])
  blind = f"{', '.join(DETECTORS[:2])} and {DETECTORS[2]}"
  return (
    f"Hiding: with {few} labels of warm-up the FWM puts most of what it tells about z into "
    f"irrelevant features (more than {100 * HIDDEN:.0f}% of it, and more than {HIDDEN_NATS:g} "
    f"nats) in {share('hidden', 1, low, few, 0)} of the runs of Phase I alone at "
    f"β = {low:g} and {share('hidden', 1, one, few, 0)} at β = {one:g}; with {many} labels in "
    f"{share('hidden', 1, low, many, 0)} and {share('hidden', 1, one, many, 0)}. The alternation: "
    f"{share('hidden', 0, low, few, 0)} and {share('hidden', 0, one, few, 0)} with {few} labels, "
    f"{share('hidden', 0, low, many, 0)} and {share('hidden', 0, one, many, 0)} with {many}; with "
    f"P0 as the reference and {few} labels {share('hidden', 0, one, few, 1)} at β = {one:g}. "
    f"Collapse: Phase II alone leaves fewer than {100 * COLLAPSED:.0f}% of the effective actions "
    "in "
    f"{share('collapsed', 2, low, few, 0)} of the runs at β = {low:g} and "
    f"{share('collapsed', 2, one, few, 0)} at β = {one:g} with {few} labels, "
    f"{share('collapsed', 2, low, many, 0)} and {share('collapsed', 2, one, many, 0)} with {many}; "
    f"the alternation, Phase I first, in {share('collapsed', 0, low, few, 0)} and "
    f"{share('collapsed', 0, one, few, 0)} with {few}. Detectors without labels, thresholds from "
    f"one half of {settings.runs} random runs and rates from the other, {settings.batch} sampled "
    f"transitions each: hiding is seen best by {best('hidden')}, collapse by "
    f"{best('collapsed')}. The swap has to be told which part is irrelevant; of the signs that are "
    f"not, {blind} see hiding with areas of {areas}, 0.50 being chance. "
    "No sign on "
    "(x, y) and samples can see a hidden code that the IDM reads in real states too: such a pair "
    "of models is a joint distribution with the right p̃(x, y)."
  )


def run(settings: Settings) -> Result:
  of_chance, of_choices = jax.random.split(jax.random.key(settings.seed))
  cells, in_grid = _grid(settings)
  # One call for both: the grid's cells share their chance, the population's runs have their own.
  chance = draws(of_chance, settings.grid + settings.runs, settings)
  shared = np.tile(np.arange(settings.grid), len(cells))
  rows = np.concatenate([shared, settings.grid + np.arange(settings.runs)])
  chance = jax.tree.map(lambda a: a[rows], chance)
  both = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b.astype(a.dtype)]),
    Choices(*map(jnp.asarray, in_grid)),
    _population(of_choices, settings),
  )
  found = jax.device_get(outcomes(chance, both, settings=settings))
  grid, _ = jax.tree.map(lambda a: a[: len(shared)], found)
  state, sign = jax.tree.map(lambda a: a[len(shared) :], found)
  causes, by_cell = _causes(cells, grid)
  detection, by_detector, rocs = _detection(state, sign)
  return Result(
    "failures",
    "6. Failure modes, and what shows them without labels",
    _paragraph(settings, by_cell, by_detector),
    (causes, detection),
    (*_pictures(settings, by_cell), *rocs),
  )
