"""Small worlds D(x, y, z) [X, Y, Z] on which everything can be computed.

Random worlds take a key, are pure and vmap over it; the others are NumPy and have no chance in
them. `exact.check_world` accepts what each returns (in the precision that is switched on).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
PRIOR = (0.2, 0.3, 0.5)  # π(z) of `three_actions`
LIKELIHOOD = (0.7, 0.25, 0.05)  # P(y = 0 | z) of `three_actions`


def unstructured_world(
  key: jax.Array, *, states: int, outcomes: int, actions: int, spread: float = 1.0
) -> Array:
  """D = softmax of N(0, spread²) over all entries: flat at 0, sharp from 3 or so on. [X, Y, Z]."""
  logits = spread * jax.random.normal(key, (states, outcomes, actions), float)
  return jax.nn.softmax(logits, axis=(0, 1, 2))


def random_world(
  key: jax.Array,
  *,
  states: int,
  outcomes: int,
  actions: int,
  outcomes_per_action: int = 1,
  actions_per_outcome: int = 1,
  noise: float = 0.0,
  spread: float = 0.5,
) -> Array:
  """A world whose ambiguity is chosen, in both directions. [X, Y, Z].

  outcomes_per_action: an action in a state leads to so many outcomes, with random weights.
  actions_per_outcome: so many consecutive actions lead to the same outcomes, each with weights of
  its own: all of them explain such a transition. Where the sets would need more than Y outcomes
  they wrap around, and overlap. noise: the probability that y is uniform instead. D(x) and D(z|x)
  are softmaxes of N(0, spread²), as the weights are.
  """
  for name, found, most in (
    ("outcomes_per_action", outcomes_per_action, outcomes),
    ("actions_per_outcome", actions_per_outcome, actions),
  ):
    if not 1 <= found <= most:
      raise ValueError(f"world.{name} = {found}: allowed is 1 to {most}.")
  if not 0.0 <= noise <= 1.0:
    raise ValueError(f"world.noise = {noise}: allowed is 0 to 1.")
  of_states, of_actions, order, shares = jax.random.split(key, 4)

  def simplex(key, *shape):
    return jax.nn.softmax(spread * jax.random.normal(key, shape, float), axis=-1)

  x, z_given_x = simplex(of_states, states), simplex(of_actions, states, actions)
  # Place p of a random order of the outcomes, its own in each state: [X, Y].
  places = jnp.argsort(jax.random.uniform(order, (states, outcomes)), axis=-1)
  first = np.arange(actions) // actions_per_outcome * outcomes_per_action
  reached = places[:, (first[:, None] + np.arange(outcomes_per_action)) % outcomes]  # [X, Z, m]
  weights = simplex(shares, states, actions, outcomes_per_action)
  y = (jax.nn.one_hot(reached, outcomes, dtype=x.dtype) * weights[..., None]).sum(2)
  y = (1.0 - noise) * y + noise / outcomes  # [X, Z, Y]
  return x[:, None, None] * (z_given_x[..., None] * y).swapaxes(1, 2)


def gridworld(
  rows: Sequence[str], *, slip: float = 0.0, stay: bool = False, policy: np.ndarray | None = None
) -> np.ndarray:
  """Cells and walls ("." and "#"): x uniform over the free cells, y the cell after a move.

  z is up, right, down, left (and stay); a move into a wall or out of the grid stays. With
  probability `slip` another action, uniformly drawn, happens instead. policy: π(z|x) [X, Z],
  uniform unless given. Cells are numbered along the rows. → [X, X, Z].
  """
  if len({len(row) for row in rows}) != 1 or not {"."} <= set("".join(rows)) <= {".", "#"}:
    raise ValueError(f"world.rows = {list(rows)}: rows of equal length of '.' and '#', one '.'.")
  grid = np.array([list(row) for row in rows])
  if not 0.0 <= slip <= 1.0:
    raise ValueError(f"world.slip = {slip}: allowed is 0 to 1.")
  cells = [tuple(int(i) for i in cell) for cell in np.argwhere(grid == ".")]
  number = {cell: i for i, cell in enumerate(cells)}
  moves = (*MOVES, (0, 0)) if stay else MOVES
  x, z = len(cells), len(moves)
  moved = np.zeros((x, z, x))
  for (i, j), n in number.items():
    for a, (down, right) in enumerate(moves):
      moved[n, a, number.get((i + down, j + right), n)] = 1.0
  other = (moved.sum(1, keepdims=True) - moved) / (z - 1)
  fwm = (1.0 - slip) * moved + slip * other  # [X, Z, Y]
  policy = np.full((x, z), 1.0 / z) if policy is None else np.asarray(policy)
  if policy.shape != (x, z):
    raise ValueError(f"world.policy must be [X, Z] = {[x, z]}; found {list(policy.shape)}.")
  return (policy[..., None] * fwm).swapaxes(1, 2) / x


def symmetric(key: jax.Array, **settings) -> Array:
  """A `random_world` in which actions 0 and 1 are exchangeable: swapping them changes nothing.

  D(x, y, 0) = D(x, y, 1), two names for one thing: no data tell them apart. [X, Y, Z].
  """
  world = random_world(key, **settings)
  if world.shape[2] < 2:
    raise ValueError(f"world.actions = {world.shape[2]}: allowed is a whole number from 2.")
  both = 0.5 * (world[..., :1] + world[..., 1:2])
  return jnp.concatenate([both, both, world[..., 2:]], -1)


def irrelevant_feature(
  *, places: int = 3, features: int = 2, actions: int = 2, slip: float = 0.0
) -> np.ndarray:
  """States (place, feature), index place · features + feature: the feature does not matter.

  Action z moves z places on along a ring, with probability `slip` by another action's number
  instead; the next feature is uniform, whatever x and z are. An FWM that let it tell z would say
  more of z than the world does, and please an IDM that reads it. x and z are uniform.
  → [places · features, places · features, actions].
  """
  if not 2 <= actions <= places:
    raise ValueError(f"world.actions = {actions}: allowed is 2 to {places}.")
  if not 0.0 <= slip <= 1.0:
    raise ValueError(f"world.slip = {slip}: allowed is 0 to 1.")
  n = places * features
  fwm = np.zeros((n, actions, n))
  for x in range(n):
    for z in range(actions):
      for happened in range(actions):
        p = 1.0 - slip if happened == z else slip / (actions - 1)
        place = (x // features + happened) % places
        fwm[x, z, place * features : (place + 1) * features] += p / features
  return fwm.swapaxes(1, 2) / (n * actions)


def three_actions() -> np.ndarray:
  """One state, two outcomes, three actions: π(z) = (.2, .3, .5), P(y = 0 | z) = (.7, .25, .05).

  The posterior of y = 0 is (.583, .313, .104). → [1, 2, 3].
  """
  prior, likelihood = np.array(PRIOR), np.array(LIKELIHOOD)
  return np.stack([prior * likelihood, prior * (1.0 - likelihood)])[None]
