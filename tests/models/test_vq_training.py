"""Training a VQGAN: the squares it may look at one by one, the losses, the codes that move."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swirl_jax.models import vq_training, vqgan
from swirl_jax.models.vq_training import VQTraining
from swirl_jax.models.vqgan import VQConfig

SMALL = VQConfig(
  ch=4, ch_mult=(1, 1), res_blocks=1, mid_attention=False, z_channels=4, embed_dim=4, codes=8,
  groups=2, patch=4,
)  # fmt: skip
TRAINING = VQTraining(SMALL, steps=40, batch=6, learning_rate=1e-2, revive_every=3)


def pictures(count=5, seed=0):
  """float32 [count, 8, 12, 3] in [-1, 1]."""
  return jax.random.uniform(jax.random.key(seed), (count, 8, 12, 3), minval=-1.0)


@functools.cache
def start():
  return jax.jit(lambda: vq_training.initial_state(TRAINING))()


def params():
  return start().params


@functools.cache
def one_step():
  """The first two steps continuous, the first ten those of the warm-up."""
  settings = dataclasses.replace(TRAINING, continuous=2, warmup_steps=10)
  data = vqgan.cut(pictures(1), 4)
  return jax.jit(lambda state: vq_training.step(state, data, settings=settings))


def stepped(idle, at):
  """(state, metrics) after step `at` from the first parameters, every code idle for so long."""
  idle = jnp.full((SMALL.codes,), idle, jnp.int32)
  return one_step()(start()._replace(idle=idle, step=jnp.int32(at)))


def test_squares_go_row_by_row_and_come_back():
  x = jnp.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
  squares = vqgan.cut(x, 2)
  assert squares.shape == (12, 2, 2, 1)
  np.testing.assert_array_equal(squares[1, ..., 0], [[2, 3], [8, 9]])
  np.testing.assert_array_equal(squares[3, ..., 0], [[12, 13], [18, 19]])
  np.testing.assert_array_equal(vqgan.join(squares, 2, 3), x)


def test_a_model_of_squares_is_the_model_on_each():
  """Codes and pixels of a picture are those of its squares, each a picture of its own."""
  x = pictures()
  whole = jax.jit(functools.partial(vqgan.reconstruct, config=SMALL))
  drawn, codes, z, e = whole(params(), pixels=x)
  assert codes.shape == (5, 4, 6) and drawn.shape == x.shape and z.shape == e.shape == (5, 4, 6, 4)
  alone, own, *_ = whole(params(), pixels=vqgan.cut(x, 4))
  np.testing.assert_array_equal(vqgan.cut(codes[..., None], 2)[..., 0], own)
  np.testing.assert_allclose(vqgan.cut(drawn, 4), alone, atol=1e-5)
  other = x.at[:, :4, :4].set(0.5)
  changed = np.asarray(whole(params(), pixels=other)[0] != drawn).any((0, 3))
  assert changed[:4, :4].any() and not changed[4:].any() and not changed[:, 4:].any()


@pytest.mark.parametrize(("patch", "message"), [(3, "multiples of 2"), (-2, "multiples of 2")])
def test_impossible_squares(patch, message):
  with pytest.raises(ValueError, match=f"vq.patch = {patch}.*{message}"):
    VQConfig(**{**vars(SMALL), "patch": patch})
  with pytest.raises(ValueError, match="pixels 8 x 6: allowed are multiples of 4"):
    SMALL.grid(8, 6)


def test_losses_are_those_of_the_model():
  x = pictures()
  found = jax.jit(functools.partial(vq_training.losses, settings=TRAINING))
  loss, (parts, codes, z, e) = found(params(), pixels=x, quantise=jnp.float32(1))
  drawn, own, latents, quantised = vqgan.reconstruct(params(), SMALL, x)
  np.testing.assert_array_equal(codes, own)
  codebook, commitment = vqgan.quantiser_losses(latents, quantised)
  mse = jnp.square(drawn - x).mean()
  np.testing.assert_allclose(parts["reconstruction"], mse, rtol=1e-4)
  np.testing.assert_allclose(loss, mse + codebook + 0.25 * commitment, rtol=1e-4)
  plain, (parts, *_) = found(params(), pixels=x, quantise=jnp.float32(0))
  free = vqgan.VQGAN(SMALL).apply({"params": params()}, latents, method="pixels")
  np.testing.assert_allclose(parts["reconstruction"], jnp.square(free - x).mean(), rtol=1e-4)
  np.testing.assert_allclose(plain, parts["reconstruction"] + parts["codebook"], rtol=1e-5)


def test_dead_codes_go_where_no_code_is():
  """One latent vector of four lies away from its code: every dead code moves there, no other."""
  book = jnp.arange(10.0).reshape(5, 2)
  e = book[jnp.array([0, 0, 1, 1])].reshape(1, 2, 2, 2)
  z = e.at[0, 1, 0].add(3.0)
  dead = jnp.array([False, False, True, False, True])
  moved = vq_training.revived(book, dead, z, e, jax.random.key(0))
  expected = np.asarray(book).copy()
  expected[[2, 4]] = z[0, 1, 0]
  np.testing.assert_array_equal(moved, expected)


def test_dead_codes_go_in_proportion_to_the_squared_distance():
  e = jnp.zeros((1, 1, 3, 1))
  z = e.at[0, 0, :, 0].set(jnp.array([1.0, 3**0.5, 0.0]))  # squared 1, 3 and 0
  book, dead = jnp.full((4000, 1), 9.0), jnp.ones(4000, bool)
  moved = np.asarray(vq_training.revived(book, dead, z, e, jax.random.key(0)))[:, 0]
  assert set(np.unique(moved)) == {1.0, np.float32(3**0.5)}
  assert (moved == 1.0).mean() == pytest.approx(0.25, abs=0.03)


def test_perplexity():
  for counts, expected in (([3, 3, 3, 0], 3.0), ([7, 0], 1.0), ([1, 3], 4 / 3**0.75)):
    np.testing.assert_allclose(vq_training.perplexity(jnp.array(counts)), expected, rtol=1e-5)


def test_examples_are_pictures_or_their_distinct_squares():
  drawn = np.zeros((3, 8, 12, 3), np.uint8)
  drawn[1, 4:, 8:] = 7
  squares = vq_training.examples(drawn, SMALL)
  assert squares.shape == (2, 4, 4, 3) and squares.dtype == np.uint8
  assert vq_training.examples(drawn, VQConfig(**{**vars(SMALL), "patch": 0})) is drawn


def test_training_learns_uses_its_codes_and_repeats():
  data = vqgan.cut(pictures(1), 4)  # six squares

  @chex.assert_max_traces(n=1)
  def update(state):
    return vq_training.step(
      state, data[vq_training.rows(state, len(data), TRAINING)], settings=TRAINING
    )

  update, found = jax.jit(update), []
  for _ in range(2):
    state, rows = vq_training.initial_state(TRAINING), []
    for _ in range(TRAINING.steps):
      state, metrics = update(state)
      rows.append(jax.device_get(metrics))
    found.append((state.params, rows))
  rows = found[0][1]
  assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
  assert rows[0]["revived"] > 0 and rows[-1]["revived"] == 0  # placed at once, none at the end
  assert rows[-1]["codes"] >= 4
  jax.tree.map(np.testing.assert_array_equal, *found)


def test_the_decoder_sees_codes_after_the_continuous_steps():
  """Steps 0 and 1 of two; before, nothing binds the latents to the codebook."""
  losses = []
  for at in (0, 1, 2):
    found = {k: float(v) for k, v in stepped(0, at)[1].items()}
    bound = 0.25 * found["commitment"] if at == 2 else 0.0
    assert found["loss"] == pytest.approx(found["reconstruction"] + found["codebook"] + bound)
    losses.append(found["reconstruction"])
  assert losses[0] == losses[1] != pytest.approx(losses[2], rel=1e-3)


def test_the_rate_rises_over_the_warm_up_and_falls_to_nothing():
  """(step + 1) / 10 of the peak, and none behind the last step."""
  kernel = lambda p: np.asarray(p["decoder"]["conv_out"]["kernel"])  # noqa: E731
  moves = {
    at: np.abs(kernel(stepped(0, at)[0].params) - kernel(params())).max() for at in (2, 9, 40)
  }
  assert moves[9] / moves[2] == pytest.approx(10 / 3, rel=0.01) and moves[40] == 0


def test_the_seed_decides_parameters_and_rows():
  other = dataclasses.replace(TRAINING, seed=1)
  book = jax.jit(lambda: vq_training.initial_state(other).params["codebook"])()
  assert (book != params()["codebook"]).any()
  rows = [vq_training.rows(start(), 1000, settings) for settings in (TRAINING, other)]
  assert (rows[0] != rows[1]).any()


def test_every_step_draws_other_rows():
  states = [start()._replace(step=jnp.int32(t)) for t in range(3)]
  drawn = [vq_training.rows(state, 1000, TRAINING) for state in states]
  assert len({tuple(np.asarray(rows).tolist()) for rows in drawn}) == 3


def test_codes_come_back_after_enough_idle_steps_and_not_in_the_last_quarter():
  state, metrics = stepped(2, 1)  # idle for three steps then: not more than revive_every
  assert metrics["revived"] == 0 and {*np.asarray(state.idle).tolist()} == {0, 3}
  moved, metrics = stepped(3, 1)
  assert metrics["revived"] == SMALL.codes - metrics["codes"] > 0
  assert not np.asarray(moved.idle).any()  # they have as long again to be used
  unused = np.asarray(state.idle) > 0
  books = [np.asarray(s.params["codebook"])[unused] for s in (moved, stepped(3, 2)[0])]
  assert (books[0] != books[1]).any()  # every step draws anew
  assert stepped(99, 29)[1]["revived"] > 0 and stepped(99, 30)[1]["revived"] == 0  # of 40 steps


@pytest.mark.parametrize(
  "name, value",
  [("steps", 0), ("batch", 0), ("continuous", -1), ("learning_rate", 0.0), ("commitment", -1.0)],
)
def test_bad_settings_are_named(name, value):
  with pytest.raises(ValueError, match=f"{name} = {value}: allowed is"):
    VQTraining(**{**vars(TRAINING), name: value})
