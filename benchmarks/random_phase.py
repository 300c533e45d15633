"""A config's phase with random weights and random tokens, as `train.py` calls it."""

import time

import jax
import numpy as np

from swirl_jax import memory, phases, programs, rng, sharding
from swirl_jax.data import tokenizers
from swirl_jax.settings import Settings

FIRST_WORD = len(tokenizers.SPECIAL)


class RandomPhase:
  """Phase "phase1" or "phase2", compiled for the mesh that is set; `step` runs it once.

  What `memory.arguments` describes, filled: states and actions are words of the vocabulary behind
  the special ones, at their full length.
  """

  def __init__(self, settings: Settings, kind: str):
    players, lengths = memory.players_of(settings)
    shapes = memory.arguments(settings, players, lengths, kind, sharding.mesh_in_use())
    spec, config = memory.spec_of(settings, players, kind), players.fwm.config
    self._shapes, self._words = shapes.batch, config.vocab_size
    self.root, self.steps = jax.random.key(settings.seed), 0

    def frozen(slot: str):
      if getattr(shapes.slots, slot) is None:
        return None
      params = programs.initial_params(config, rng.stream(self.root, slot))
      return programs.frozen_copy(params, config, offload=settings.mesh.offload_frozen)

    params = programs.initial_params(config, rng.stream(self.root, "policy"))
    self.state = programs.initial_state(spec.optimizer, params)
    del params  # the state has a copy
    self.slots = phases.Slots(
      frozen=frozen("frozen"),
      reference=frozen("reference"),
      prior=frozen("prior"),
      base=programs.initial_base(config, self.root) if config.lora_rank else None,
    )
    self.hyper = shapes.hyper
    call = (self.state, self.slots, self._batch(), self.root, self.hyper)
    clock = time.perf_counter()
    self.compiled = programs.phase_program(spec, self.state).lower(*call).compile()
    self.compile_seconds = time.perf_counter() - clock

  def _batch(self) -> phases.Batch:
    draw = np.random.default_rng(self.steps)

    def leaf(a):
      full = np.ones(a.shape, a.dtype)
      drawn = full if a.dtype == bool else draw.integers(FIRST_WORD, self._words, a.shape, a.dtype)
      return jax.device_put(drawn, a.sharding)

    return jax.tree.map(leaf, self._shapes)

  def step(self) -> float:
    """Seconds of a step; `sampled` then counts its tokens."""
    batch, key = self._batch(), rng.stream(self.root, self.steps)
    clock = time.perf_counter()
    self.state, found = self.compiled(self.state, self.slots, batch, key, self.hyper)
    jax.block_until_ready((self.state, found))
    seconds = time.perf_counter() - clock
    self.steps += 1
    self.sampled = float(found["length"].sum)
    return seconds
