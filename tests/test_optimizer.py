"""AdamW against optax's, schedules by hand, and numbers that change without a new trace."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from swirl_jax.optimizer import AdamW, Schedule, learning_rate


def schedule(rate=0.1, warmup=0, total=10):
  return Schedule(*(np.float32(v) for v in (rate, warmup, total)))


def test_cosine_with_warm_up_by_hand():
  found = [float(learning_rate(t, schedule(0.4, 4, 12), kind="cosine")) for t in range(14)]
  rising = [0.1, 0.2, 0.3, 0.4]
  falling = [0.4 * (1 + np.cos(np.pi * i / 8)) / 2 for i in range(9)]  # 0 at step 12, then stays
  np.testing.assert_allclose(found, [*rising, *falling, 0.0], atol=1e-7)


def test_constant_with_warm_up_by_hand():
  found = [float(learning_rate(t, schedule(0.4, 2, 3), kind="constant")) for t in range(5)]
  np.testing.assert_allclose(found, [0.2, 0.4, 0.4, 0.4, 0.4], rtol=1e-6)


def test_without_warm_up_the_first_update_has_the_peak():
  for kind in ("cosine", "constant"):
    np.testing.assert_allclose(learning_rate(0, schedule(0.3), kind=kind), 0.3, rtol=1e-6)
  # A run that is all warm-up divides by nothing.
  assert np.isfinite(learning_rate(3, schedule(0.3, 4, 4), kind="cosine"))


PARAMS = {
  "mlp": {"down": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)},
  "norm": {"scale": np.array([1.0, 2.0], np.float32)},
  "qkv_bias": np.array([0.5, -0.5], np.float32),
}


def gradients(seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), PARAMS)


@pytest.mark.parametrize("clip_norm, kind", [(0.0, "cosine"), (0.5, "constant")])
def test_equals_optax_adamw(clip_norm, kind):
  """Five updates, with weight decay on the matrix alone."""
  s = schedule(0.05, 2, 5)
  ours = AdamW(weight_decay=0.1, clip_norm=clip_norm, schedule=kind)
  mask = {"mlp": {"down": True}, "norm": {"scale": False}, "qkv_bias": False}
  adamw = optax.adamw(
    lambda t: learning_rate(t, s, kind=kind), 0.9, 0.95, 1e-8, weight_decay=0.1, mask=mask
  )
  clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  theirs = optax.chain(clip, adamw)
  update = jax.jit(ours.update)
  params, state = PARAMS, ours.init(PARAMS)
  expected, their_state = PARAMS, theirs.init(PARAMS)
  for t in range(5):
    params, state = update(gradients(t), state, params, jnp.int32(t), s)
    updates, their_state = theirs.update(gradients(t), their_state, expected)
    expected = optax.apply_updates(expected, updates)
  chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-7)
  assert np.abs(params["mlp"]["down"] - PARAMS["mlp"]["down"]).max() > 0.01


def test_small_gradients_move_as_far_as_large_ones():
  """A first update is the rate times g / (|g| + 1e-8): large models have gradients of 1e-6."""
  for g in (1e-6, 1.0):
    grads = jax.tree.map(lambda p, g=g: np.full_like(p, g), PARAMS)
    ours = AdamW(clip_norm=0.0)
    params, _ = ours.update(grads, ours.init(PARAMS), PARAMS, jnp.int32(0), schedule(0.1))
    moved = PARAMS["qkv_bias"] - params["qkv_bias"]
    np.testing.assert_allclose(moved, 0.1 * g / (g + 1e-8), rtol=1e-4)


def test_the_first_moment_in_bfloat16():
  """It takes half the bytes; five updates differ by its rounding and no more."""
  states = {name: AdamW(mu_dtype=name).init(PARAMS) for name in ("float32", "bfloat16")}
  params = dict.fromkeys(states, PARAMS)
  for t in range(5):
    for name in states:
      ours = AdamW(mu_dtype=name)
      params[name], states[name] = ours.update(
        gradients(t), states[name], params[name], jnp.int32(t), schedule(0.01)
      )
  adam = states["bfloat16"][1]
  assert {a.dtype.name for a in jax.tree.leaves(adam.mu)} == {"bfloat16"}
  assert {a.dtype.name for a in jax.tree.leaves((adam.nu, params))} == {"float32"}
  off = jax.tree.map(lambda a, b: np.abs(a - b).max(), *params.values())
  assert 0 < max(jax.tree.leaves(off)) < 0.01 * 2**-6


def test_a_moment_of_another_dtype_is_refused():
  with pytest.raises(ValueError, match=r"optimizer\.mu_dtype = 'float16': allowed are \['float32'"):
    AdamW(mu_dtype="float16")


def test_weight_decay_leaves_norms_and_biases():
  ours = AdamW(weight_decay=0.1, clip_norm=0.0)
  zeros = jax.tree.map(np.zeros_like, PARAMS)
  params, _ = ours.update(zeros, ours.init(PARAMS), PARAMS, jnp.int32(0), schedule(0.5))
  np.testing.assert_allclose(params["mlp"]["down"], 0.95 * PARAMS["mlp"]["down"], rtol=1e-6)
  for name in ("norm", "qkv_bias"):
    jax.tree.map(np.testing.assert_array_equal, params[name], PARAMS[name])


def test_changing_a_traced_number_compiles_nothing():
  ours = AdamW()
  step = jax.jit(chex.assert_max_traces(ours.update, n=1))
  params, state = PARAMS, ours.init(PARAMS)
  moved = []
  for t, s in enumerate((schedule(0.1), schedule(0.2), schedule(0.1, 3), schedule(0.1, 3, 99))):
    new, state = step(gradients(0), state, params, jnp.int32(t), s)
    moved.append(float(np.abs(new["mlp"]["down"] - params["mlp"]["down"]).max()))
    params = new
  assert moved[1] > 1.5 * moved[0]


@pytest.mark.parametrize(
  "changes, message",
  [
    (
      {"schedule": "linear"},
      r"optimizer\.schedule = 'linear': allowed are \['cosine', 'constant'\]",
    ),
    ({"weight_decay": -0.1}, r"optimizer\.weight_decay = -0\.1: allowed is 0 or more"),
    ({"clip_norm": -1.0}, r"optimizer\.clip_norm = -1\.0"),
  ],
)
def test_impossible_settings_name_the_field(changes, message):
  with pytest.raises(ValueError, match=message):
    AdamW(**changes)
