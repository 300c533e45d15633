"""Experiment 2, Theorem 3.2: the ELBO over random tables, and which Phase II ends at the posterior.

Where an on-policy step ends is where its expected direction vanishes (`learning.expected_step`).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax import rng
from swirl_jax.charts import Line
from swirl_jax.phases import Slots
from swirl_jax.theory import exact, learning, results, worlds
from swirl_jax.theory.experiments.theorem1 import STEPS_AWAY, random_tables
from swirl_jax.theory.results import COLORS, Result, Table
from swirl_jax.theory.tables import Code, Codes

# What a variant changes of a sampled step, as `PhaseSpec` and `expected_step` name it.
VARIANTS = {
  "leave-one-out + k2": {"advantages": "leave_one_out", "kl": "k2"},
  "leave-one-out + k1 in the reward": {
    "advantages": "leave_one_out", "kl": "k1", "kl_in": "reward"
  },
  "leave-one-out + k3": {"advantages": "leave_one_out", "kl": "k3"},
  "group mean + k2": {"advantages": "no_std", "kl": "k2"},
  "GRPO + k2": {"advantages": "grpo", "kl": "k2"},
  "GRPO + k3": {"advantages": "grpo", "kl": "k3"},
}  # fmt: skip
UNBIASED = ("leave-one-out + k2", "leave-one-out + k1 in the reward")
SAMPLED = (*UNBIASED, "leave-one-out + k3", "GRPO + k3")
LENGTHS = ("one token", "one or two tokens")


@dataclasses.dataclass(frozen=True)
class Settings:
  """tables: random worlds with random models; priors: random priors and likelihoods of 3 actions.

  steps: of exact ascent and of the expected direction; group: G. sampled_steps, prompts, rate: the
  sampled step.
  """

  seed: int = 0
  tables: int = 4000
  priors: int = 1000
  steps: int = 2000
  group: int = 4
  sampled_steps: int = 2000
  prompts: int = 128
  rate: float = 1.0

  def __post_init__(self):
    results.check_positive(self)
    if self.group < 2:
      raise ValueError(f"group = {self.group}: allowed is from 2.")


def run(settings: Settings) -> Result:
  root = jax.random.key(settings.seed)
  bounds = over_tables(rng.stream(root, "tables"), count=settings.tables)
  how = {"count": settings.priors, "steps": settings.steps, "group": settings.group}
  far = over_priors(rng.stream(root, "priors"), **how)
  far = {name: far[name] for name in VARIANTS}  # jit sorts names
  example = three_actions(far, settings)
  far = {name: {k: v[1:] for k, v in q.items()} for name, q in far.items()}  # random rows alone
  one = one_world(rng.stream(root, "one world"), settings)
  return Result(
    "theorem2",
    "Theorem 3.2: the ELBO of Phase II",
    paragraph(bounds, example, far, one, settings),
    tables=(_bound_table(bounds), _example_table(example), _far_table(far), _world_table(one)),
    charts=(_away_chart(bounds), _world_chart(one), _far_chart(far)),
  )


@functools.partial(learning.jit, static_argnames="count")
def over_tables(key, *, count: int):
  """Likelihood, ELBO and gap [N, L] as Q goes from the posterior (0) to a random IDM (1)."""

  def one(key):
    of_tables, of_prior = jax.random.split(key)
    world, fwm, idm = random_tables(of_tables)
    fwm, idm = exact.log_table(fwm), exact.log_table(idm)
    prior = exact.log_table(jax.random.normal(of_prior, (fwm.shape[0], fwm.shape[1]), float))
    posterior = exact.log_posterior(prior, fwm)

    def at(away):
      q = exact.log_normalise((1.0 - away) * posterior + away * idm)
      return {
        "likelihood": exact.log_likelihood(world, prior, fwm),
        "elbo": exact.elbo(world, prior, fwm, q),
        "gap": exact.elbo_gap(world, prior, fwm, q),
      }

    return jax.vmap(at)(jnp.asarray(STEPS_AWAY))

  return jax.vmap(one)(jax.random.split(key, count))


def end_of(log_prior, log_likelihood, *, variant: str, group: int, steps: int, code=None):
  """Where the expected step ends, begun at the prior: [..., Z] each → (probabilities, residual).

  The residual is the largest entry of the direction there.
  """

  def direction(t):
    return learning.expected_step(
      t, log_prior, log_likelihood, group=group, code=code, **VARIANTS[variant]
    )

  end, _ = learning.ascend(direction, log_prior, steps=steps, rate=1.0)
  return jnp.exp(exact.log_table(end)), jnp.abs(direction(end)).max(-1)


def three_actions(far, settings: Settings):
  """method.md's example, for each variant and length of the actions' words. → name → end [3]."""
  prior, like = np.log(np.array(worlds.PRIOR)), np.log(np.array(worlds.LIKELIHOOD))
  found = {"posterior": np.exp(exact.log_true_idm(worlds.three_actions())[0, 0])}
  found |= {(name, LENGTHS[0]): np.asarray(far[name]["end"][0]) for name in VARIANTS}
  how = {"group": settings.group, "steps": settings.steps, "code": Code.unary(3)}
  for name in (*UNBIASED, "GRPO + k3"):
    end, _ = learning.jit(functools.partial(end_of, variant=name, **how))(prior, like)
    found[name, LENGTHS[1]] = np.asarray(end)
  return found


@functools.partial(learning.jit, static_argnames=("count", "steps", "group"))
def over_priors(key, *, count: int, steps: int, group: int):
  """Where each variant ends [N, 3], its total variation from the posterior and KL(end ‖ posterior)
  [N]: for method.md's example, and for random rows of three actions.

  The prior is a softmax of N(0, 1), the likelihoods are uniform on (0.02, 0.98).
  """
  of_prior, of_likelihood = jax.random.split(key)
  prior = exact.log_table(jax.random.normal(of_prior, (count, 3), float))
  like = jnp.log(jax.random.uniform(of_likelihood, (count, 3), float, 0.02, 0.98))
  prior, like = (
    jnp.concatenate([jnp.log(jnp.array([row])), rows])
    for row, rows in ((worlds.PRIOR, prior), (worlds.LIKELIHOOD, like))
  )
  posterior = exact.log_normalise(prior + like)
  found = {}
  for name in VARIANTS:
    end, residual = end_of(prior, like, variant=name, group=group, steps=steps)
    found[name] = {
      "end": end,
      "distance": 0.5 * jnp.abs(end - jnp.exp(posterior)).sum(-1),
      "kl": exact.kl(jnp.log(end), posterior),
      "residual": residual,
    }
  return found


def one_world(key, settings: Settings):
  """E KL(Q ‖ posterior) by step, in a random world: exact ascent and the sampled variants."""
  of_world, of_steps = jax.random.split(key)
  world = worlds.random_world(
    of_world, states=3, outcomes=4, actions=3, outcomes_per_action=2, noise=0.3
  )
  codes = Codes.one_token(world.shape)
  fwm, prior = exact.log_true_fwm(world), exact.log_actions(world)
  start = jnp.zeros(world.shape)
  scale = 1.0 / exact.pair_probs(world).mean()  # so that a rate is a rate per pair
  rate = settings.rate * scale

  def watch(logits):
    return exact.elbo_gap(world, prior, fwm, exact.log_table(logits.astype(float)))

  ascent = learning.jit(
    lambda: learning.ascend(
      lambda t: exact.phase2_gradient(world, prior, fwm, t, beta=1.0), start,
      steps=settings.sampled_steps, rate=rate, watch=watch,
    )
  )  # fmt: skip
  found = {"exact ascent": np.asarray(ascent()[1])}
  slots = Slots(learning.table(fwm), learning.prior_table(prior, world.shape[1]))
  draw = learning.from_world(world, codes, prompts=settings.prompts)
  optimizer = learning.SGD_DECAYED
  hyper = learning.hyper(rate, steps=settings.sampled_steps, optimizer=optimizer)
  for name in SAMPLED:
    choices = {"optimizer": optimizer, **VARIANTS[name]}
    spec = learning.phase2_spec(codes, group=settings.group, **choices)
    go = learning.jit(
      lambda spec=spec: learning.sampled(
        learning.table(start), slots, draw, of_steps, hyper, spec=spec,
        steps=settings.sampled_steps, watch=lambda p: watch(p["table"]),
      )
    )  # fmt: skip
    found[name] = np.asarray(go()[1])
  return found


def _bound_table(bounds) -> Table:
  rows = []
  for i, away in enumerate(STEPS_AWAY):
    q = {name: np.asarray(v[:, i]) for name, v in bounds.items()}
    error = np.abs(q["likelihood"] - q["elbo"] - q["gap"]).max()
    gaps = [float(f(q["gap"])) for f in (np.mean, np.min, np.max)]
    rows.append((away, float(q["likelihood"].mean()), float(q["elbo"].mean()), *gaps, float(error)))
  columns = ("away from the posterior", "log-likelihood", "ELBO", "gap", "least gap",
             "largest gap", "|likelihood − ELBO − gap|")  # fmt: skip
  return Table("ELBO and gap over random tables", columns, tuple(rows))


def _example_table(example) -> Table:
  def rounded(p):
    return tuple(round(float(v), 4) for v in p)

  rows = [("the posterior", "", *rounded(example["posterior"]))]
  rows += [(*key, *rounded(end)) for key, end in example.items() if key != "posterior"]
  return Table("where the expected step ends", ("step", "actions of", "z=0", "z=1", "z=2"),
               tuple(rows))  # fmt: skip


def _far_table(far) -> Table:
  rows = []
  for name, q in far.items():
    distance = np.quantile(q["distance"], (0.5, 0.9, 1.0)).tolist()
    rows.append((name, *distance, float(np.mean(q["kl"])), float(np.max(q["residual"]))))
  columns = ("step", "median distance", "90%", "largest", "mean KL(end ‖ posterior)",
             "largest residual")  # fmt: skip
  return Table("how far from the posterior", columns, tuple(rows))


def _world_table(one) -> Table:
  rows = [(name, float(path[0]), float(path[-1])) for name, path in one.items()]
  return Table("Phase II in one world", ("step", "gap at the start", "gap at the end"), tuple(rows))


def _away_chart(bounds):
  lines = []
  for name, label, color in (
    ("likelihood", "E log P(y | x)", COLORS[0]), ("elbo", "ELBO", COLORS[1])
  ):  # fmt: skip
    low, middle, high = np.quantile(np.asarray(bounds[name]), (0.1, 0.5, 0.9), axis=0).tolist()
    lines.append(Line(label, STEPS_AWAY, middle, color, low=low, high=high))
  return results.curves(
    "Likelihood and ELBO over random tables (median, 10% to 90%)", lines,
    x_label="from the posterior (0) to a random IDM (1)",
  )  # fmt: skip


def _world_chart(one):
  lines = []
  for (name, path), color in zip(one.items(), COLORS, strict=False):
    at = np.unique(np.geomspace(1, len(path), 60).astype(int)) - 1
    gap = np.log10(np.maximum(path[at], 1e-8)).tolist()
    lines.append(Line(name, np.log10(at + 1.0).tolist(), gap, color, dash=name == "exact ascent"))
  return results.curves("log10 of the ELBO's gap in one world", lines, x_label="log10(1 + step)")


def _far_chart(far):
  shares = np.linspace(0.0, 1.0, 41)
  lines = [
    Line(name, shares.tolist(), np.quantile(q["distance"], shares).tolist(), color)
    for (name, q), color in zip(far.items(), COLORS, strict=False)
  ]
  return results.curves(
    "Total variation between the end and the posterior, sorted", lines,
    x_label="share of random rows",
  )  # fmt: skip


def paragraph(bounds, example, far, one, settings: Settings) -> str:
  gap = np.asarray(bounds["gap"])
  error = np.abs(np.asarray(bounds["likelihood"] - bounds["elbo"]) - gap).max()
  end = {name: results.triple(p) for name, p in example.items()}
  short, long = LENGTHS
  distance = {name: np.asarray(q["distance"]) for name, q in far.items()}
  wrong = max(float(distance[name].max()) for name in UNBIASED)
  other = {n: f"{np.median(distance[n]):.3f} (90%: {np.quantile(distance[n], 0.9):.3f})"
           for n in VARIANTS if n not in UNBIASED}  # fmt: skip
  return (
    f"On {gap.shape[0]:,} random tables and {len(STEPS_AWAY)} IDMs for each, the ELBO exceeded the "
    f"log-likelihood in {int((gap < -1e-10).sum())} cases; likelihood, ELBO and gap add up to "
    f"within {error:.0e}, and at the posterior the gap is at most {np.abs(gap[:, 0]).max():.0e}. "
    f"The example of three actions has the posterior {end['posterior']}. With G = "
    f"{settings.group}, leave-one-out advantages end at {end[UNBIASED[0], short]} with k2 in the "
    f"loss, at {end[UNBIASED[1], short]} with k1 in the reward and at "
    f"{end['leave-one-out + k3', short]} with k3; GRPO with k3 ends at {end['GRPO + k3', short]}. "
    f"Over {len(distance['GRPO + k3']):,} random priors and likelihoods the first two end within "
    f"{wrong:.0e} of the posterior in total variation; the medians of the others are "
    + ", ".join(f"{d} for {n}" for n, d in other.items())
    + ". Sampled, in one world, the gap E KL(Q ‖ posterior) goes from "
    f"{one['exact ascent'][0]:.3f} to {one['exact ascent'][-1]:.1e} by exact ascent and to "
    + ", ".join(f"{one[n][-1]:.1e} ({n})" for n in SAMPLED)
    + f". Where actions are words of one or two tokens, k2 summed over tokens in the loss ends at "
    f"{end[UNBIASED[0], long]}, k1 summed in the reward at {end[UNBIASED[1], long]}: a per-token "
    "loss leaves out how a token changes the KL of those that follow, so for sequences only the "
    "KL in the reward has the ELBO's gradient."
  )
