"""Worlds are joint distributions with the structure that their settings promise."""

import jax
import numpy as np
import pytest

from swirl_jax.theory import exact, worlds

pytestmark = pytest.mark.usefixtures("float64")
SIZE = {"states": 3, "outcomes": 6, "actions": 4}


def outcomes_of(world):
  """Which outcomes an action can have. [X, Z, Y], bool."""
  return np.asarray(exact.log_true_fwm(world)) > -np.inf


@pytest.mark.parametrize("several", [1, 2, 3])
def test_several_outcomes_of_an_action(several):
  world = worlds.random_world(jax.random.key(0), outcomes_per_action=several, **SIZE)
  exact.check_world(world)
  assert world.shape == (3, 6, 4)
  assert (outcomes_of(world).sum(-1) == several).all()


@pytest.mark.parametrize("several", [1, 2, 4])
def test_several_actions_explain_a_transition(several):
  world = worlds.random_world(jax.random.key(1), actions_per_outcome=several, **SIZE)
  explained = outcomes_of(world).sum(1)
  assert set(np.unique(explained)) <= {0, several}
  # Certain of z where one action explains y, and not where several do.
  most = np.exp(np.asarray(exact.log_true_idm(world)).max(-1))[explained > 0]
  assert (most == 1.0).all() if several == 1 else (most < 1.0).all()


def test_sets_of_outcomes_do_not_overlap_while_there_is_room():
  """Two pairs of actions, each with two outcomes of its own out of six."""
  world = worlds.random_world(
    jax.random.key(1), outcomes_per_action=2, actions_per_outcome=2, **SIZE
  )
  found = outcomes_of(world)
  assert (found.sum(-1) == 2).all() and set(np.unique(found.sum(1))) == {0, 2}
  np.testing.assert_array_equal(found[:, [0, 2]], found[:, [1, 3]])


def test_an_action_means_something_else_in_another_state():
  world = worlds.random_world(jax.random.key(0), states=8, outcomes=9, actions=2)
  assert len(np.unique(outcomes_of(world)[:, 0].argmax(-1))) > 2


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_the_spread_is_that_of_log_probabilities(spread):
  """Of D(x), D(z | x) and an action's outcomes, each the softmax of N(0, spread²)."""
  sizes = {"states": 800, "outcomes": 4, "actions": 4, "outcomes_per_action": 4, "spread": spread}
  world = worlds.random_world(jax.random.key(0), **sizes)
  assert np.log(exact.state_probs(world)).std() == pytest.approx(spread, rel=0.1, abs=1e-9)
  for log_p in (exact.log_actions(world), exact.log_true_fwm(world)):
    found = np.sqrt(np.asarray(log_p).var(-1, ddof=1).mean())
    assert found == pytest.approx(spread, rel=0.1, abs=1e-9)


def test_noise_makes_everything_possible():
  world = worlds.random_world(jax.random.key(2), noise=0.3, **SIZE)
  fwm = np.exp(exact.log_true_fwm(world))
  np.testing.assert_allclose(fwm.max(-1), 0.7 + 0.3 / 6, rtol=1e-12)
  np.testing.assert_allclose(fwm.min(-1), 0.3 / 6, rtol=1e-12)
  even = worlds.random_world(jax.random.key(2), noise=1.0, **SIZE)
  np.testing.assert_allclose(np.exp(exact.log_true_fwm(even)), 1 / 6, rtol=1e-12)


def test_random_worlds_are_functions_of_their_key_and_vmap():
  keys = jax.random.split(jax.random.key(3), 3)
  make = lambda key: worlds.random_world(key, noise=0.1, outcomes_per_action=2, **SIZE)  # noqa: E731
  many = jax.jit(jax.vmap(make))(keys)
  np.testing.assert_allclose(many[1], make(keys[1]), rtol=1e-12)
  assert np.abs(many[0] - many[1]).max() > 1e-3


def test_an_unstructured_world_is_flat_or_sharp():
  flat, sharp = (
    worlds.unstructured_world(jax.random.key(0), spread=spread, **SIZE) for spread in (0.0, 4.0)
  )
  exact.check_world(sharp)
  np.testing.assert_allclose(flat, 1 / 72, rtol=1e-12)
  assert sharp.max() > 0.2


def test_a_grid_by_hand():
  """Two cells beside each other and a wall: up and down stay, right and left move or stay."""
  world = worlds.gridworld(("..#",))
  want = np.zeros((2, 2, 4))
  want[0, 0, [0, 2, 3]] = want[1, 1, [0, 1, 2]] = 1 / 8  # up 0, right 1, down 2, left 3
  want[0, 1, 1] = want[1, 0, 3] = 1 / 8
  np.testing.assert_array_equal(world, want)
  slippery = np.exp(exact.log_true_fwm(worlds.gridworld(("..#",), slip=0.3)))
  np.testing.assert_allclose(slippery[0, 1], [0.3, 0.7])  # the three others all stay
  np.testing.assert_allclose(slippery[0, 0], [0.9, 0.1])  # one of the three others is right
  policy = np.array([[0.1, 0.2, 0.3, 0.4, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]])
  staying = worlds.gridworld(("..",), stay=True, policy=policy)
  np.testing.assert_allclose(np.exp(exact.log_actions(staying)), policy)
  assert staying[1, 1, 4] == 0.1 and staying[1, 0, 4] == 0.0


def test_walls_and_cells_are_numbered_along_the_rows():
  world = worlds.gridworld(("..#", ".#.", "..."))
  exact.check_world(world)
  assert world.shape == (7, 7, 4)
  assert world[0, 2, 2] > 0 and world[0, 1, 1] > 0  # down, right
  assert world[3, 6, 2] > 0 and world[3, 3, 3] > 0  # cell (1, 2): down; left is a wall


def test_exchangeable_actions():
  world = worlds.symmetric(jax.random.key(4), outcomes_per_action=2, **SIZE)
  exact.check_world(world)
  np.testing.assert_array_equal(world[..., 0], world[..., 1])
  assert np.abs(world[..., 1] - world[..., 2]).max() > 1e-3


def test_a_feature_that_does_not_matter():
  world = worlds.irrelevant_feature(places=3, features=2, actions=2, slip=0.1)
  exact.check_world(world)
  by = world.reshape(6, 3, 2, 2)  # [x, place, feature, z]
  np.testing.assert_allclose(by[:, :, 0], by[:, :, 1])  # the feature is uniform, whatever x, z are
  shifted = np.exp(exact.log_true_fwm(world)).reshape(6, 2, 3, 2).sum(-1)  # P(place | x, z)
  for x in range(6):
    place = x // 2
    np.testing.assert_allclose(shifted[x, 1, (place + 1) % 3], 0.9)
    np.testing.assert_allclose(shifted[x, 1, place], 0.1)
    np.testing.assert_allclose(shifted[x, 0, place], 0.9)


def test_the_example_of_three_actions():
  world = worlds.three_actions()
  exact.check_world(world)
  np.testing.assert_allclose(np.exp(exact.log_actions(world)), [[0.2, 0.3, 0.5]])
  want = np.array([0.14, 0.075, 0.025]) / 0.24
  np.testing.assert_allclose(np.exp(exact.log_true_idm(world))[0, 0], want)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: worlds.random_world(jax.random.key(0), outcomes_per_action=7, **SIZE),
     r"world.outcomes_per_action = 7: allowed is 1 to 6"),
    (lambda: worlds.random_world(jax.random.key(0), actions_per_outcome=0, **SIZE),
     r"world.actions_per_outcome = 0: allowed is 1 to 4"),
    (lambda: worlds.random_world(jax.random.key(0), noise=-0.1, **SIZE),
     r"world.noise = -0.1: allowed is 0 to 1"),
    (lambda: worlds.gridworld(("..", ".")), r"world.rows"),
    (lambda: worlds.gridworld(("##",)), r"one '\.'"),
    (lambda: worlds.gridworld(("..",), slip=2.0), r"world.slip = 2.0"),
    (lambda: worlds.gridworld(("..",), policy=np.ones((2, 3))), r"\[2, 4\]; found \[2, 3\]"),
    (lambda: worlds.symmetric(jax.random.key(0), states=1, outcomes=2, actions=1),
     r"world.actions = 1: allowed is a whole number from 2"),
    (lambda: worlds.irrelevant_feature(places=2, actions=3), r"world.actions = 3: allowed is 2"),
    (lambda: worlds.irrelevant_feature(slip=1.5), r"world.slip = 1.5: allowed is 0 to 1"),
  ],
)  # fmt: skip
def test_wrong_settings_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()
