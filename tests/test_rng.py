"""Streams: the same in every process, different for every other name, traced or not."""

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swirl_jax.rng import stream

ROOT = jax.random.key(7)


def data(key):
  return tuple(int(w) for w in jax.random.key_data(key))


def test_a_stream_is_a_function_of_root_and_names():
  assert data(stream(ROOT, "rollout", 3)) == data(stream(jax.random.key(7), "rollout", 3))
  assert data(stream(ROOT, "rollout", 3)) != data(stream(jax.random.key(8), "rollout", 3))


def test_nesting_order_and_type_make_different_streams():
  names = [
    ("a", "b"),
    ("b", "a"),
    ("ab",),
    ("a",),
    ("a", ""),
    ("", "a"),
    ("",),
    (1,),
    ("1",),
    (1, 1),
    ("1", 1),
    (1, "1"),
    (11,),
    ("11",),
    (0,),
    (0, 0),
    ("a", 0),
    (0, "a"),
    (2**31 - 1,),
  ]
  keys = [data(stream(ROOT, *n)) for n in names]
  assert len(set(keys)) == len(names)
  assert data(ROOT) not in keys


def test_an_integer_never_meets_a_strings_hash():
  """Hashed strings have the top bit set: even the number a string hashes to is another stream."""
  for name in ("rollout", "latent", "data", "init", "shuffle"):
    word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    assert data(stream(ROOT, name)) != data(stream(ROOT, word % 2**31))
    assert data(stream(ROOT, name)) == data(jax.random.fold_in(ROOT, np.uint32(word | 2**31)))


def test_no_two_steps_share_a_key():
  """Every (name, iteration, phase, step) of a small run, traced under one jit."""
  grid = np.array(list(itertools.product(range(5), range(2), range(200))), np.int32)
  keys = []
  for name in ("rollout", "latent", "data"):
    draw = jax.jit(jax.vmap(lambda i, p, s, n=name: stream(ROOT, n, i, p, s)))
    keys.append(np.asarray(jax.random.key_data(draw(*grid.T))))
  keys = np.concatenate(keys)
  assert len(np.unique(keys, axis=0)) == len(keys) == 3 * len(grid)


def test_traced_and_concrete_integers_agree():
  want = data(stream(ROOT, "rollout", 3, "x"))
  assert data(jax.jit(lambda i: stream(ROOT, "rollout", i, "x"))(3)) == want
  for three in (np.int64(3), np.uint8(3), jnp.int32(3), jnp.uint32(3)):
    assert data(stream(ROOT, "rollout", three, "x")) == want


def test_one_trace_serves_every_step():
  step = jax.jit(chex.assert_max_traces(lambda i: stream(ROOT, "rollout", i), n=1))
  assert len({data(step(i)) for i in range(5)}) == 5


@pytest.mark.multiprocess
def test_another_process_with_another_hash_seed_draws_the_same():
  code = (
    "import jax; from swirl_jax.rng import stream;"
    "print(*jax.random.key_data(stream(jax.random.key(7), 'rollout', 3)))"
  )
  child = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": "."},
    cwd=Path(__file__).parents[1],
    check=True,
    capture_output=True,
    text=True,
  )
  assert tuple(map(int, child.stdout.split())) == data(stream(ROOT, "rollout", 3))


def test_the_words_are_pinned():
  """A run that was saved by an older version must go on with the same draws."""
  assert data(stream(jax.random.key(0), "rollout", 1)) == (2198187597, 2651879392)


def test_bad_names_and_roots():
  with pytest.raises(ValueError, match=r"\[0, 2\*\*31\); found -1"):
    stream(ROOT, "a", -1)
  with pytest.raises(ValueError, match="found 2147483648"):
    stream(ROOT, 2**31)
  with pytest.raises(TypeError, match="found float"):
    stream(ROOT, 1.0)
  with pytest.raises(TypeError, match="found True"):
    stream(ROOT, True)
  with pytest.raises(TypeError, match=r"dtype float32, shape \(\)"):
    stream(ROOT, jnp.float32(1))
  with pytest.raises(TypeError, match=r"shape \(2,\)"):
    stream(ROOT, jnp.arange(2))
  with pytest.raises(ValueError, match="at least one name"):
    stream(ROOT)
  with pytest.raises(TypeError, match="typed key"):
    stream(jax.random.PRNGKey(0), "a")
  with pytest.raises(TypeError, match="typed key"):
    stream(0, "a")
