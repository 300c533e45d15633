"""Experiment 8, Bayes' rule as Phase I: P0(y|x) Q(z|x,y), normalised, and what it comes to.

The theorem and its proof: docs/theory.md. With P̂0 and Q̂ in the place of the true ones,
E KL(D(y|x,z) ‖ P̂) = E KL(D(y|x) ‖ P̂0) + E KL(D(z|x,y) ‖ Q̂) − E KL(D(z|x) ‖ Ẑ(z|x)),
Ẑ(z|x) = Σ_y P̂0 Q̂, so that the FWM's error is at most the sum of the other two.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from swirl_jax import rng, sft
from swirl_jax.charts import Line
from swirl_jax.phases import Slots
from swirl_jax.theory import exact, learning, results, worlds
from swirl_jax.theory.results import COLORS, Result, Table
from swirl_jax.theory.tables import Codes, TableRole
from swirl_jax.types import PolicyState

ERRORS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
SMOOTHING = 0.5  # added to every count
METHODS = {
  "labels": "labels only",
  "bayes": "Bayes' rule",
  "soft": "pseudo-labels, sampled",
  "greedy": "pseudo-labels, greedy",
  "em": "expectation maximisation",
  "plain": "paper's Phase I",
  "anchor": "paper's Phase I + label anchor",
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """tables: random worlds; budgets: labels; unlabelled: pairs without labels; beta: of the paper's
  Phase I; steps, rate, prompts, group: the ascents, exact and sampled; em_steps: of expectation
  maximisation; anchor_weight: of the labels beside the paper's Phase I.
  """

  seed: int = 0
  tables: int = 200
  budgets: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000)
  unlabelled: int = 3000
  beta: float = 0.1
  steps: int = 1500
  rate: float = 0.5
  prompts: int = 64
  group: int = 8
  em_steps: int = 50
  anchor_weight: float = 0.5

  def __post_init__(self):
    results.check_positive(self)


def run(settings: Settings) -> Result:
  root = jax.random.key(settings.seed)
  keys = jax.random.split(rng.stream(root, "tables"), settings.tables)
  many = learning.jit(jax.vmap(_world))(keys)
  errors = jax.tree.map(np.asarray, with_errors(keys, many))
  paths = one_world(many[0], rng.stream(root, "one world"), settings)
  how = {"beta": settings.beta, "em_steps": settings.em_steps}
  budgets = {}
  for n in settings.budgets:
    data = drawn(many, n, settings.unlabelled, settings.seed)
    found = with_labels(many, *data, anchor_weight=settings.anchor_weight, **how)
    budgets[n] = jax.tree.map(np.asarray, found)
  return Result(
    "bayes",
    "Bayes' rule as Phase I",
    paragraph(errors, paths, budgets, settings),
    tables=(_error_table(errors), _path_table(paths), _budget_table(budgets)),
    charts=(_error_chart(errors), _path_chart(paths, settings), _budget_chart(budgets)),
  )


def _world(key) -> Array:
  """Six outcomes, three actions, two likely outcomes for each, one of five by chance."""
  return worlds.random_world(key, states=3, outcomes=6, actions=3, outcomes_per_action=2, noise=0.2)


def excess(world, log_fwm) -> Array:
  """E KL(D(y|x,z) ‖ P): what the FWM loses on true triples, in nats. → []."""
  divergence = exact.kl(exact.log_true_fwm(world), log_fwm)
  return (world.sum(1) * divergence).sum()


# ------------------------------------------------------------------------------ errors of P0 and Q


@learning.jit
def with_errors(keys, many):
  """The identity's terms [N, E] where log P̂0 and log Q̂ are each off by errors in [−ε, ε]."""

  def one(key, world):
    of_free, of_idm = jax.random.split(rng.stream(key, "errors"))
    shift_free = jax.random.uniform(of_free, world.shape[:2], float, -1.0, 1.0)
    shift_idm = jax.random.uniform(of_idm, world.shape, float, -1.0, 1.0)

    def at(size):
      free = exact.log_outcomes(world) + size * shift_free
      idm = exact.log_true_idm(world) + size * shift_idm
      free, idm = exact.log_table(free), exact.log_table(idm)
      fwm = exact.log_phase1_optimum(free, idm, beta=1.0)
      evidence = jax.nn.logsumexp(free[..., None] + idm, axis=1)  # log Ẑ(z|x)
      # What the normalised tables are off by, at most: the ε of the bound.
      most = jnp.abs(free - exact.log_outcomes(world)).max()
      most += jnp.abs(idm - exact.log_true_idm(world)).max()
      states, pairs = exact.state_probs(world), exact.pair_probs(world)
      return {
        "fwm": excess(world, fwm),
        "free": states @ exact.kl(exact.log_outcomes(world), free),
        "idm": (pairs * exact.kl(exact.log_true_idm(world), idm)).sum(),
        "evidence": states @ exact.kl(exact.log_actions(world), evidence),
        "bound": 0.5 * most**2,
      }

    return jax.vmap(at)(jnp.asarray(ERRORS))

  return jax.vmap(one)(keys, many)


# ------------------------------------------------------------------------------------ ways up to it


def one_world(world, key, settings: Settings) -> dict[str, np.ndarray]:
  """excess(θ_k) from one start for each way up; P0 and Q are exact."""
  codes = Codes.one_token(world.shape)
  free, idm = exact.log_outcomes(world), exact.log_true_idm(world)
  start = jnp.broadcast_to(free[:, None, :], exact.log_true_fwm(world).shape)  # ignores z
  belief = exact.log_belief(world, idm)
  optimizer = learning.SGD_DECAYED
  rate = settings.rate / float(world.sum(1).mean())  # so that a rate is a rate per row
  hyper = learning.hyper(rate, steps=settings.steps, optimizer=optimizer)

  def watch(logits):
    return excess(world, exact.log_table(logits.astype(float)))

  def climb(t):
    return exact.phase1_gradient(world, belief, t, idm, free, beta=1.0)

  how = {"steps": settings.steps, "watch": watch}
  found = {
    "exact ascent": learning.jit(lambda: learning.ascend(climb, start, rate=rate, **how))()[1]
  }
  ways = {
    "sampled, k2 in the loss": {"reference": "prior"},
    "sampled, k1 in the reward": {"reference": "prior", "kl": "k1", "kl_in": "reward"},
    "paper's Phase I": {**learning.PRACTICE, "reward": learning.SUM},
  }
  slots = Slots(learning.table(idm), learning.table(start), learning.free_table(free))
  draw = learning.from_world(world, codes, prompts=settings.prompts)
  for name, choices in ways.items():
    choices = {"optimizer": optimizer, **choices}
    spec = learning.phase1_spec(codes, group=settings.group, **choices)
    beta = jnp.float32(settings.beta if name == "paper's Phase I" else 1.0)
    go = learning.jit(
      lambda spec=spec, beta=beta: learning.sampled(
        learning.table(start), slots, draw, key, hyper._replace(beta=beta), spec=spec,
        steps=settings.steps, watch=lambda p: watch(p["table"]),
      )
    )  # fmt: skip
    found[name] = go()[1]
  found["pseudo-labels"] = pseudo_labels(world, idm, start, key, hyper, codes, settings, watch)
  return {name: np.asarray(path) for name, path in found.items()}


def pseudo_labels(world, idm, start, key, hyper, codes: Codes, settings: Settings, watch):
  """Supervised steps on z ~ Q(.|x,y): as many samples a step as the sampled ones take."""
  spec = sft.SftSpec((TableRole("y", codes),), learning.SGD_DECAYED)
  joint = exact.pair_probs(world)[..., None] * jnp.exp(idm)
  count = settings.prompts * settings.group
  draw = learning.from_world(joint, codes, prompts=count, labelled=True)

  def step(state, key):
    new, _ = sft.sft_step(state, (draw(key).transition,), hyper.schedule, spec=spec)
    return new, watch(state.params["table"])

  @learning.jit
  def go():
    params = learning.table(start)
    state = PolicyState(params, spec.optimizer.init(params), jnp.int32(0))
    return jax.lax.scan(step, state, jax.random.split(key, settings.steps + 1))[1]

  return go()


# ------------------------------------------------------------------------------------ label budgets


def drawn(many, labels: int, unlabelled: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """So many labelled triples and unlabelled pairs of each world, counted: [N,X,Y,Z], [N,X,Y]."""
  chance = np.random.default_rng((seed, labels))
  triples, pairs = np.asarray(many), np.asarray(many).sum(-1)

  def counts(p, n):
    flat = p.reshape(len(p), -1)
    flat = flat / flat.sum(1, keepdims=True)
    return chance.multinomial(n, flat).reshape(p.shape).astype(p.dtype)

  return counts(triples, labels), counts(pairs, unlabelled)


@functools.partial(learning.jit, static_argnames="em_steps")
def with_labels(many, counts, pairs, *, beta, em_steps: int, anchor_weight):
  """method → {"excess", "agreement"} [N], each world with its own labels and pairs."""

  def one(world, counts, pairs):
    fwms = methods(counts, pairs, beta=beta, em_steps=em_steps, anchor_weight=anchor_weight)
    truth = world.sum(1, keepdims=True)

    def score(fwm):
      off = jnp.abs(world - truth * jnp.exp(fwm).swapaxes(1, 2)).sum()
      return {"excess": excess(world, fwm), "agreement": 1.0 - 0.5 * off}

    return {name: score(fwm) for name, fwm in fwms.items()}

  return jax.vmap(one)(many, counts, pairs)


def methods(counts, pairs, *, beta, em_steps: int, anchor_weight) -> dict[str, Array]:
  """The FWM log P(y|x,z) [X, Z, Y] that each method makes of labels and pairs.

  counts: labelled triples [X, Y, Z]; pairs: unlabelled ones [X, Y]. IDM, P0 and the FWM from labels
  are smoothed counts.
  """
  start = jnp.log(counts + SMOOTHING).swapaxes(1, 2)
  labelled = exact.log_normalise(start)
  idm = exact.log_normalise(jnp.log(counts + SMOOTHING))
  free = exact.log_normalise(jnp.log(pairs + counts.sum(-1) + SMOOTHING))

  def from_pseudo(q):
    """Labels, and pairs with the labels that q [X, Y, Z] gives them."""
    return exact.log_normalise(jnp.log(counts + pairs[..., None] * q + SMOOTHING).swapaxes(1, 2))

  def em_step(q, _):
    joint = counts + pairs[..., None] * q + SMOOTHING
    prior = exact.log_normalise(jnp.log(joint.sum(1)))
    return jnp.exp(exact.log_posterior(prior, from_pseudo(q))), None

  seen = pairs + counts.sum(-1)
  world = (seen / seen.sum())[..., None] * jnp.exp(idm)
  rows = exact.state_probs(world)[:, None] * jnp.exp(exact.log_belief(world, idm))  # [X, Z]
  share = counts.swapaxes(1, 2) / jnp.maximum(counts.sum(), 1.0)
  anchors = jnp.where(share > 0.0, anchor_weight * share / (beta * rows[..., None]), 0.0)
  plain = exact.log_phase1_optimum(labelled, idm, beta=beta)
  return {
    "labels": labelled,
    "bayes": exact.log_phase1_optimum(free, idm, beta=1.0),
    "soft": from_pseudo(jnp.exp(idm)),
    "greedy": from_pseudo(jax.nn.one_hot(idm.argmax(-1), idm.shape[-1], dtype=idm.dtype)),
    "em": from_pseudo(jax.lax.scan(em_step, jnp.exp(idm), length=em_steps)[0]),
    "plain": plain,
    "anchor": log_anchored_optimum(plain, anchors),
  }


def log_anchored_optimum(log_plain, weights) -> Array:
  """argmax of Σ_y w log P − KL(P ‖ plain): log P = log plain + w / P − μ, Σ_y P = 1. → [..., Y].

  Phase I with an anchor of labels, divided by a row's probability and β; plain is its optimum
  without. μ lies between 0 and Σ_y w, and log P falls as it rises: bisection, to rounding.
  """

  def root(falling, low, high):
    """Where a falling function is 0."""

    def halve(ends, _):
      middle = 0.5 * (ends[0] + ends[1])
      above = falling(middle) > 0.0
      return (jnp.where(above, middle, ends[0]), jnp.where(above, ends[1], middle)), None

    (low, high), _ = jax.lax.scan(halve, (low, high), length=60)
    return 0.5 * (low + high)

  def log_p(mu):
    low = log_plain - mu
    return root(lambda u: low - u + weights * jnp.exp(-u), low, weights)

  most = weights.sum(-1, keepdims=True)
  mu = root(lambda m: jnp.exp(log_p(m)).sum(-1, keepdims=True) - 1.0, jnp.zeros_like(most), most)
  return exact.log_normalise(log_p(mu))


# -------------------------------------------------------------------------------------- reporting


def _error_table(errors) -> Table:
  rows = []
  for i, size in enumerate(ERRORS):
    q = {name: v[:, i] for name, v in errors.items()}
    means = [float(q[name].mean()) for name in ("fwm", "free", "idm", "evidence")]
    over = float((q["fwm"] - q["bound"]).max())
    rows.append((size, *means, float(np.abs(_residual(q)).max()), over))
  columns = ("ε", "FWM", "P0", "IDM", "evidence", "|identity|", "most over ε²/2")
  return Table("errors in, error out (nats)", columns, tuple(rows))


def _residual(q):
  return q["fwm"] + q["evidence"] - q["free"] - q["idm"]


def _path_table(paths) -> Table:
  rows = [(name, float(path[0]), float(path[-1])) for name, path in paths.items()]
  return Table("ways up in one world", ("way", "excess at the start", "at the end"), tuple(rows))


def _budget_table(budgets) -> Table:
  rows = [
    (n, METHODS[name], *(float(found[name][k].mean()) for k in ("excess", "agreement")))
    for n, found in budgets.items()
    for name in METHODS
  ]
  columns = ("labels", "method", "excess nats", "1 − total variation")
  return Table("label budgets", columns, tuple(rows))


def _error_chart(errors):
  lines = [
    Line(label, ERRORS, errors[name].mean(0).tolist(), color, dash=name == "bound")
    for (name, label), color in zip(
      (("fwm", "FWM by Bayes' rule"), ("free", "P0"), ("idm", "IDM")), COLORS, strict=False
    )
  ]
  total = (errors["free"] + errors["idm"]).mean(0).tolist()
  lines.append(Line("P0 + IDM: the bound", ERRORS, total, results.MUTED, dash=True))
  return results.curves("Excess loss, when log P0 and log Q are off by up to ε", lines, x_label="ε")


def _path_chart(paths, settings: Settings):
  at = np.unique(np.geomspace(1, settings.steps + 1, 60).astype(int)) - 1
  per_step = settings.prompts * settings.group
  lines = []
  for (name, path), color in zip(paths.items(), COLORS, strict=False):
    x = np.log10(per_step * (at + 1.0)).tolist()
    y = np.log10(np.maximum(path[at], 1e-8)).tolist()
    lines.append(Line(name, x, y, color, dash=name == "exact ascent"))
  return results.curves(
    "log10 of the excess loss on true triples", lines, x_label="log10 of the samples drawn"
  )


def _budget_chart(budgets):
  x = [float(np.log10(n)) for n in budgets]
  lines = [
    Line(title, x, [float(np.log10(f[name]["excess"].mean())) for f in budgets.values()], color)
    for (name, title), color in zip(METHODS.items(), COLORS, strict=False)
  ]
  return results.curves(
    "log10 of the excess loss, mean over worlds", lines, x_label="log10 of the labels"
  )


def _middle(score) -> int:
  """The last budget but one, if there is one: what the methods' needs are measured against."""
  return sorted(score)[-2:][0]


def _needed(score, name: str) -> str:
  """The labels with which a method loses what labels alone do with `_middle`; log-log between."""
  budgets = sorted(score)
  loss, goal = np.log([score[n][name] for n in budgets]), np.log(score[_middle(score)]["labels"])
  below = np.flatnonzero(loss <= goal)
  if not len(below):
    return f"more than {budgets[-1]:,} ({METHODS[name]})"
  i = int(below[0])
  if i == 0:
    return f"at most {budgets[0]:,} ({METHODS[name]})"
  share = (loss[i - 1] - goal) / (loss[i - 1] - loss[i])
  n = np.exp(np.log(budgets[i - 1]) + share * np.log(budgets[i] / budgets[i - 1]))
  return f"about {float(f'{n:.2g}'):,.0f} ({METHODS[name]})"


def paragraph(errors, paths, budgets, settings: Settings) -> str:
  worst = float(np.abs(_residual(errors)).max())
  loose = float((errors["fwm"] / np.maximum(errors["free"] + errors["idm"], 1e-300))[:, 1:].mean())
  over = int((errors["fwm"] > errors["bound"] + 1e-12).sum())
  few, score = (
    min(budgets),
    {n: {k: float(v["excess"].mean()) for k, v in f.items()} for n, f in budgets.items()},
  )
  reached = ", ".join(_needed(score, name) for name in METHODS if name != "labels")
  best = {
    n: " = ".join(METHODS[m] for m in METHODS if f[m] < 1.01 * min(f.values()))
    for n, f in score.items()
  }
  ends = ", ".join(f"{float(path[-1]):.1e} ({name})" for name, path in paths.items())
  return (
    f"With exact P0 and Q the optimum P0 Q, normalised, loses {errors['fwm'][:, 0].max():.0e} nats "
    f"on true triples at most, over {settings.tables} random worlds. With errors, the identity "
    f"holds to {worst:.0e}; the FWM's excess loss averages {loose:.0%} of the sum of P0's and the "
    f"IDM's, and exceeds ε²/2 (ε: the largest errors of both logs, added) in {over} cases. "
    f"From an FWM that ignores z, whose excess loss is {paths['exact ascent'][0]:.2f}, "
    f"{settings.steps:,} steps end at {ends}; the paper's Phase I does not seek the truth. With "
    f"{few} labels and {settings.unlabelled:,} pairs the mean excess losses are "
    + ", ".join(f"{score[few][name]:.3f} ({METHODS[name]})" for name in METHODS)
    + f". To lose no more than labels alone do with {_middle(score):,}, it takes {reached}. The "
    "least loss, and what is within 1% of it: "
    + ", ".join(f"{name} with {n:,}" for n, name in best.items())
    + ". On tables, sampled pseudo-labels and Bayes' rule are one thing up to how labels and "
    "smoothing enter: the M-step's optimum is p̃(y|x) Q(z|x,y), normalised; and its FWM has Q as "
    "its posterior, so that further rounds of expectation maximisation change nothing. They part "
    "where P0 knows more than the pairs at hand, or where pseudo-labels are greedy."
  )
