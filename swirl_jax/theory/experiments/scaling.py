"""Experiment 7: how the gradient's signal-to-noise ratio grows with G, and a rule of thumb.

The leave-one-out estimator of one prompt is the unbiased sample covariance of rewards and scores,

  ĝ = 1/G Σ_g A_g s_g = 1/(G(G−1)) Σ_{g<h} (r_g − r_h)(s_g − s_h),   s = ∇ log π(z),

a U-statistic of order two with kernel h = ½ (r_g − r_h)(s_g − s_h): its variance is exact for every
G (Hoeffding, "A class of statistics with asymptotically normal distribution", 1948).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import stats

from swirl_jax.theory import exact, results
from swirl_jax.theory.results import COLORS, Line, Result, Table


@dataclasses.dataclass(frozen=True)
class Settings:
  """cases: random policies over `outcomes` outcomes with random rewards; groups: the Gs."""

  seed: int = 0
  cases: int = 2000
  outcomes: int = 8
  groups: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
  within: float = 2.0

  def __post_init__(self):
    results.check_positive(self)
    if min(self.groups) < 2 or self.outcomes < 2:
      raise ValueError(f"groups = {self.groups}, outcomes = {self.outcomes}: allowed is from 2.")
    if len(set(self.groups)) < 2:
      raise ValueError(f"groups = {self.groups}: at least two different ones are needed.")


def moments(logits, rewards) -> tuple[Array, Array, Array]:
  """(μ = Cov(r, s), ζ1, ζ2) of a softmax row: [N], [N] → [N], [], [].

  ζ1 = tr Var(E[h | z]) and ζ2 = tr Var(h), traces over the logits' coordinates.
  """
  p = jax.nn.softmax(logits)
  scores = jnp.eye(p.shape[0], dtype=p.dtype) - p[None, :]  # [outcome, coordinate]
  kernel = (
    0.5
    * (rewards[:, None] - rewards[None, :])[..., None]
    * (scores[:, None, :] - scores[None, :, :])
  )
  given_one = jnp.tensordot(p, kernel, (0, 1))  # [outcome, coordinate]
  mean = p @ given_one
  zeta1 = (p[:, None] * jnp.square(given_one - mean[None, :])).sum()
  pairs = (p[:, None] * p[None, :])[..., None]
  zeta2 = (pairs * jnp.square(kernel - mean[None, None, :])).sum()
  return mean, zeta1, zeta2


def variance(zeta1, zeta2, group) -> Array:
  """tr Var(ĝ) = (4 (G − 2) ζ1 + 2 ζ2) / (G (G − 1)) of the leave-one-out estimator. → []."""
  return (4.0 * (group - 2) * zeta1 + 2.0 * zeta2) / (group * (group - 1))


def signal_to_noise(logits, rewards, group) -> Array:
  """|E ĝ|² / tr Var(ĝ), one prompt, leave-one-out advantages. [N], [N], [] → []."""
  mean, zeta1, zeta2 = moments(logits, rewards)
  return jnp.square(mean).sum() / variance(zeta1, zeta2, group)


def dead_share(logits, rewards, group) -> Array:
  """P(all G rewards are equal) = Σ_v P(r = v)^G. [N], [N], [] → []."""
  p = jax.nn.softmax(logits)
  same = (rewards[:, None] == rewards[None, :]).astype(p.dtype)
  of_value = same @ p  # P(r = r_n)
  return (p * of_value ** (group - 1)).sum()


def draw_cases(key, settings: Settings) -> tuple[Array, Array]:
  """Policies from uniform to nearly certain; half of the rewards right or wrong (one outcome is
  right), half of them normal numbers. → logits [C, N], rewards [C, N].
  """
  a, b, c, d = jax.random.split(key, 4)
  shape = (settings.cases, settings.outcomes)
  scale = jax.random.uniform(a, (settings.cases, 1), maxval=8.0)
  right = jax.nn.one_hot(
    jax.random.randint(b, (settings.cases,), 0, settings.outcomes), settings.outcomes
  )
  binary = (jnp.arange(settings.cases) % 2 == 0)[:, None]
  rewards = jnp.where(binary, right, jax.random.normal(c, shape))
  return scale * jax.random.normal(d, shape), rewards


def rank_correlation(a, b) -> float:
  """Spearman's: the correlation of the ranks of two samples, ties sharing theirs. [C], [C]."""
  return float(stats.spearmanr(a, b).statistic)


def fit(snr, rule, *, within: float) -> tuple[int, float, float, float]:
  """Of snr ≈ c · rule, where neither is rounding: (cases, c by the median of ratios, share within
  the factor, rank correlation).
  """
  snr, rule = np.asarray(snr, float).ravel(), np.asarray(rule, float).ravel()
  good = (snr > 1e-12) & (rule > 1e-12)
  ratio = snr[good] / rule[good]
  c = float(np.median(ratio))
  inside = np.abs(np.log(ratio / c)) <= np.log(within)
  return len(ratio), c, float(inside.mean()), rank_correlation(snr[good], rule[good])


def _measure(settings: Settings):
  logits, rewards = draw_cases(jax.random.key(settings.seed), settings)
  groups = jnp.asarray(settings.groups, logits.dtype)

  @jax.jit
  def of_cases(logits, rewards):
    def of_group(group):
      snr = jax.vmap(signal_to_noise, (0, 0, None))(logits, rewards, group)
      return snr, jax.vmap(dead_share, (0, 0, None))(logits, rewards, group)

    snr, dead = jax.vmap(of_group, out_axes=1)(groups)
    _, zeta1, zeta2 = jax.vmap(moments)(logits, rewards)
    return snr, dead, zeta2 / (2.0 * zeta1), exact.entropy(exact.log_table(logits))

  return (np.asarray(a) for a in of_cases(logits, rewards))


def _by_entropy(settings: Settings, entropy, snr, dead) -> tuple[Table, list]:
  """Medians in quarters of the cases by entropy."""
  edges = np.quantile(entropy, [0.0, 0.25, 0.5, 0.75, 1.0])
  rows, parts = [], []
  for i in range(4):
    inside = (entropy >= edges[i]) & (entropy <= edges[i + 1])
    parts.append((edges[i], edges[i + 1], snr[inside], dead[inside]))
    for j, g in enumerate(settings.groups):
      rows.append(
        (float(edges[i]), float(edges[i + 1]), g, float(np.median(snr[inside, j])),
         float(np.median(snr[inside, j] / g)), float(dead[inside, j].mean()))
      )  # fmt: skip
  columns = ("entropy from", "to", "G", "SNR squared", "SNR squared per sample", "dead groups")
  return Table("scaling", columns, tuple(rows)), parts


def run(settings: Settings) -> Result:
  snr, dead, ratio, entropy = _measure(settings)
  table, parts = _by_entropy(settings, entropy, snr, dead)
  groups = np.array(settings.groups, float)
  alive = -np.log(np.clip(dead, 1e-300, 1.0))  # −ln(dead share)
  rules = {
    "−ln(share of dead groups)": alive,
    "G": np.broadcast_to(groups, snr.shape),
    "G (1 − share of dead groups)": groups * (1.0 - dead),
  }
  binary = np.arange(settings.cases) % 2 == 0
  kinds = {"one right outcome": binary, "normal rewards": ~binary}
  fits = {
    (name, kind): fit(snr[rows], rule[rows], within=settings.within)
    for name, rule in rules.items()
    for kind, rows in kinds.items()
  }
  enough = 9.0 * ratio - 8.0  # the G with 90% of the efficiency of large groups
  gain = np.median(snr[:, -1] / snr[:, 0]) / (groups[-1] / groups[0])
  columns = (
    "rule", "rewards", "cases", "factor", f"within a factor {settings.within:g}",
    "rank correlation",
  )  # fmt: skip
  return Result(
    "scaling",
    "7. Signal to noise of the gradient against G",
    _paragraph(settings, fits, parts, enough, gain),
    (
      table,
      Table("rules", columns, tuple((*k, *v) for k, v in fits.items())),
    ),
    _pictures(settings, parts, snr, dead, binary),
  )


def _paragraph(settings: Settings, fits, parts, enough, gain) -> str:
  def told(name, kind):
    cases, c, inside, rank = fits[name, kind]
    return (
      f"{c:.2f} times it, {100 * inside:.0f}% of {cases:,} cases within a factor "
      f"{settings.within:g}, rank correlation {rank:.2f}"
    )

  dead = "−ln(share of dead groups)"
  kinds = ("one right outcome", "normal rewards")
  low, high = parts[0], parts[-1]
  first, last = settings.groups[0], settings.groups[-1]
  return (
    f"Squared signal-to-noise of one prompt's leave-one-out gradient, exact, over "
    f"{settings.cases} random policies. From G = {first} to {last} it grows {gain:.2f} times as "
    f"much as G does (median). Where the policy is nearly certain (entropy below {low[1]:.2f}) its "
    f"median at G = {last} is {np.median(low[2][:, -1]):.3g} and {100 * low[3][:, -1].mean():.0f}% "
    f"of the groups are dead; where its entropy is above {high[0]:.2f}, "
    f"{np.median(high[2][:, -1]):.3g} and {100 * high[3][:, -1].mean():.0f}%. Splitting a fixed "
    f"number of samples into prompts loses little: 90% of the efficiency of large groups is "
    f"reached at G = {np.median(enough):.1f} in the median, {np.quantile(enough, 0.9):.0f} in nine "
    f"of ten cases. Rule of thumb, SNR² of one prompt ≈ −ln(share of dead groups), times the "
    f"prompts of a step: with one right outcome (half of the policies; a case is a policy and one "
    f"of {len(settings.groups)} G) the truth is {told(dead, kinds[0])}; with normal rewards "
    f"{told(dead, kinds[1])}. G itself as the rule: {told('G', kinds[0])}; "
    f"{told('G', kinds[1])}."
  )


def _pictures(settings: Settings, parts, snr, dead, binary) -> tuple:
  names = [str(g) for g in settings.groups]
  places = list(range(len(names)))
  lines, deads = [], []
  for i, (low, high, s, d) in enumerate(parts):
    name = f"entropy {low:.2f} to {high:.2f}"
    at = [float(v) for v in np.log10(np.median(s, 0))]
    lines.append(Line(name, places, at, COLORS[i], points=True))
    deads.append(Line(name, places, d.mean(0).tolist(), COLORS[i], points=True))
  x = np.log10(np.clip(-np.log(np.clip(dead, 1e-300, 1.0)), 1e-6, 1e3))
  scatter = []
  for i, (kind, rows) in enumerate((("one right outcome", binary), ("normal rewards", ~binary))):
    xs, ys = x[rows].ravel(), np.log10(np.clip(snr[rows].ravel(), 1e-6, None))
    edges = np.linspace(-3.0, 1.5, 19)
    place = np.digitize(xs, edges)
    bins = [j for j in range(1, len(edges)) if (place == j).sum() >= 20]
    middle = [float((edges[j - 1] + edges[j]) / 2) for j in bins]
    q = [[float(np.quantile(ys[place == j], v)) for j in bins] for v in (0.5, 0.1, 0.9)]
    scatter.append(Line(kind, middle, q[0], COLORS[i], low=q[1], high=q[2]))
  scatter.append(Line("the rule", [-3.0, 1.5], [-3.0, 1.5], results.MUTED, dash=True))
  return (
    results.curves("log10 SNR² of one prompt (median)", lines, names=names, x_label="G"),
    results.curves("Share of dead groups", deads, names=names, x_label="G", y_range=(0.0, 1.0)),
    results.curves(
      "log10 SNR² against log10(−ln share of dead groups), 10% to 90%",
      scatter,
      x_label="log10(−ln share of dead groups)",
    ),  # fmt: skip
  )
