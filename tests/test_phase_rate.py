"""The benchmark of a phase with random weights: it trains, and its instructions have parts."""

import collections
import re

import jax
import numpy as np
import pytest

from benchmarks import parts, phase_rate
from benchmarks.random_phase import RandomPhase
from configs import test as test_config
from swirl_jax import sharding
from swirl_jax.settings import from_config


@pytest.fixture
def settings():
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])):
    yield from_config(test_config.get_config().to_dict())


def test_a_step_trains_and_most_of_it_has_a_name(settings):
  phase = RandomPhase(settings, "phase1")
  before = jax.device_get(phase.state.params)
  assert phase.step() > 0 and phase.steps == 1
  first = settings.phase1
  assert phase.sampled >= first.prompts * first.group
  moved = jax.tree.map(lambda a, b: np.any(a != b), before, jax.device_get(phase.state.params))
  assert all(jax.tree.leaves(moved))

  count = collections.Counter(parts.parts_by_instruction(phase.compiled.as_text()).values())
  assert set(count) | {"other"} == set(parts.PARTS)
  assert count["other"] < 0.1 * count.total()


def test_the_report_is_of_the_steps_it_timed(settings, monkeypatch):
  """The slowest and the fastest around the median, and the sampled tokens over that."""
  seconds = iter([9.0, 0.4, 0.1, 0.2])  # the first is not counted

  class Phase:
    compile_seconds, sampled, compiled = 3.0, 30.0, None

    def __init__(self, settings, kind):
      assert kind == "phase2"

    def step(self):
      return next(seconds)

  monkeypatch.setattr(phase_rate, "RandomPhase", Phase)
  shares = dict.fromkeys(parts.PARTS, 0.0) | {"rollout": 0.06, "reward": 0.02}
  monkeypatch.setattr(phase_rate.parts, "trace", lambda compiled, step, steps: (shares, 0.1))
  text = "\n".join(phase_rate.report(settings, "phase2", 3))
  assert "compiled in 3 s" in text
  assert "a step 0.200 s (0.100 to 0.400); 150 sampled tokens/s" in text
  assert re.search(r"rollout +20\.0 +75\.0%", text) and "in all 80% of the steps' time" in text
