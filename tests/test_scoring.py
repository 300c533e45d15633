"""What a step costs: the model FLOPs behind `perf.mfu`."""

import dataclasses

import pytest
import tiny

from configs import minigrid
from swirl_jax import programs, rewards, scoring, settings
from swirl_jax.plan import make_plan

LENGTHS = programs.Lengths(state=tiny.STATE, action=tiny.ACTION)
CONFIG = settings.from_config(minigrid.get_config().to_dict())
PLAIN = dataclasses.replace(  # 4 prompts x 2 samples, nothing but sampler, reward and update
  CONFIG.phase1, prompts=4, group=2, keep=0, beta=0.0, anchor=0, latents="cached",
  reward=rewards.RewardSpec(random=True),
)  # fmt: skip
PROMPT, SAMPLED = 4 * (tiny.STATE + tiny.ACTION), 40
SCORED = 4 * tiny.STATE + 8 * (tiny.STATE + tiny.ACTION)  # by the IDM: x once, then each y and z
DRAWN = 4 * (2 * tiny.STATE + tiny.ACTION)  # the latent actions


@pytest.mark.parametrize(
  "changes, of_policy, of_frozen, labelled",
  [
    ({}, 1 + 3, 0, 0),
    ({"keep": 1}, 1 + 3 / 4, 0, 0),
    ({"inner_epochs": 4}, 1 + 1 + 4 * 3, 0, 0),
    ({"inner_epochs": 4, "keep": 2, "beta": 0.1}, 1 + (1 + 1 + 4 * 3) / 2, 0, 0),
    ({"guidance": 3.0}, 2 + 3, 0, 0),
    ({"anchor": 5}, 1 + 3, 0, 3 * 5),
    ({"reward": rewards.RewardSpec()}, 1 + 3, SCORED, 0),
    ({"reward": rewards.RewardSpec(prior=True)}, 1 + 3 + 1, SCORED, 0),
    ({"latents": "fresh"}, 1 + 3, DRAWN, 0),
  ],
)
def test_a_phase_counts_every_pass(changes, of_policy, of_frozen, labelled):
  """2 FLOPs per parameter and token of a forward pass, 6 of an update on what is kept."""
  stage = next(s for s in make_plan(CONFIG) if s.kind == "phase1")
  stage = dataclasses.replace(stage, settings=dataclasses.replace(PLAIN, **changes))
  config = tiny.config()
  players = programs.Roles(tiny.fwm(config), tiny.idm(config))
  layers = 2 * (16 * 4 * 2 * (4 + 2) + 3 * 16 * 24)
  weights = layers + 16 * tiny.VOCAB
  tokens = of_policy * (PROMPT + SAMPLED) + of_frozen + labelled * (2 * tiny.STATE + tiny.ACTION)
  found = scoring.phase_flops(stage, players, LENGTHS, SAMPLED)
  assert found == pytest.approx(2 * weights * tokens)
