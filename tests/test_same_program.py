"""What `benchmarks/compile_tpu.py` compiles is what `train.py` runs: equal jaxprs, equal lowering.

The training side is a `StageRun` that is stopped at the call of its jitted step; the benchmark's
side is its abstract call for the same config. Both at the sizes of `configs/test.py`, on a mesh of
the eight simulated devices.
"""

import dataclasses
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import compile_tpu
from configs import test as test_config
from swirl_jax import inputs, memory, programs, sharding, train
from swirl_jax.data import builders, tokenizers
from swirl_jax.settings import from_config
from swirl_jax.types import Segment, Transition

ROWS = 16  # of each made-up source


class Called(Exception):
  """Raised in place of the step, with the program and its arguments."""


def settings_of(phase1=None, model=None, **changes):
  config = test_config.get_config().to_dict()
  config["mesh"] = {"data": 1, "fsdp": 4, "tensor": 2}
  config["phase1"].update(phase1 or {})
  config["model"].update(model or {})
  return from_config(config | changes)


def made_up_source(lengths, *, actions):
  def segment(length):
    return Segment(np.full((ROWS, length), 6, np.int32), np.ones((ROWS, length), bool))

  z = segment(lengths.action) if actions else None
  return Transition(segment(lengths.state), segment(lengths.state), z)


def players_of(settings, *, images=False):
  """The players of a run; with `images`, states as an image world has them."""
  world = builders.get(settings.world["name"])
  if images:
    codes = (tokenizers.IDM + 1, world.tokenizer.vocab_size)
    world = dataclasses.replace(world, codes=codes)
  lengths = inputs.lengths_of(world)
  return world, programs.make_roles(settings, world.tokenizer, lengths), lengths


def training_call(settings, kind, *, images=False):
  """The jitted step and the arguments of the first stage of a kind, as `train.py` calls it."""
  world, players, lengths = players_of(settings, images=images)
  arrays = {
    "unlabelled": made_up_source(lengths, actions=False),
    "fwm_labels": made_up_source(lengths, actions=True),
    "idm_labels": made_up_source(lengths, actions=True),
  }
  data = inputs.Data(world, arrays, {}, {})
  guard = SimpleNamespace(requested=lambda: False)
  run = train.Run(settings, data, players, None, None, guard, None)
  index, stage = next((i, s) for i, s in enumerate(run.plan) if s.kind == kind)
  params = programs.initial_params(players.fwm.config, run.root)
  run.models = {name: params for name in stage.reads}
  compiled = run.compiled

  def stopped(spec, state):
    def call(*arguments):
      raise Called(compiled(spec, state), arguments)

    return call

  run.compiled = stopped
  work = train.StageRun(run, index, stage)
  work.begin()
  with pytest.raises(Called) as caught:
    work.train()
  return compile_tpu.Call(*caught.value.args)


def compiled_call(settings, kind):
  return compile_tpu.phase_call(settings, *memory.players_of(settings), kind)


@pytest.mark.parametrize("kind", ["phase1", "phase2"])
def test_states_of_a_fixed_number_of_codes_too(kind, mesh):
  settings = settings_of()
  _, players, lengths = players_of(settings, images=True)
  trained = training_call(settings, kind, images=True)
  compiled = compile_tpu.phase_call(settings, players, lengths, kind)
  assert jaxpr(trained) == jaxpr(compiled) != jaxpr(compiled_call(settings, kind))


def jaxpr(call):
  """As text, without the addresses of Python objects."""
  return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(call.program)(*call.arguments)))


@pytest.fixture
def mesh():
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=4, tensor=2)) as mesh:
    yield mesh


VARIANTS = {
  "phase1": ("phase1", {}),
  "phase2": ("phase2", {}),
  "shared": ("phase1", {"weights": "shared"}),
  "paper": ("phase1", {"phase1": {"keep": 0, "anchor": 0, "micro_batch": 4, "top_p": 0.96}}),
  "cached": ("phase1", {"phase1": {"latents": "cached", "latent_floor": -1e9}}),
  "prior": ("phase1", {"phase1": {"reference": "prior"}}),
  "adapters": ("phase2", {"model": {"lora_rank": 2}}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_compile_tpu_lowers_the_jaxpr_of_the_training_step(name, mesh):
  kind, changes = VARIANTS[name]
  settings = settings_of(**changes)
  trained, compiled = training_call(settings, kind), compiled_call(settings, kind)
  assert jaxpr(trained) == jaxpr(compiled)


def test_layout_and_donation_agree_too(mesh):
  def signature(call):  # arguments and results with their shardings, and which of them are donated
    lines = call.program.lower(*call.arguments).as_text().splitlines()
    return next(line for line in lines if "func public @main" in line)

  settings = settings_of()
  trained = signature(training_call(settings, "phase1"))
  assert "fsdp" in trained and "tf.aliasing_output" in trained
  assert trained == signature(compiled_call(settings, "phase1"))


@pytest.mark.parametrize(
  "change", [{"micro_batch": 2}, {"top_k": 5}, {"group": 2}, {"kl": "k2"}, {"keep": 0}]
)
def test_another_setting_is_another_jaxpr(change, mesh):
  trained = training_call(settings_of(), "phase1")
  compiled = compiled_call(settings_of(phase1=change), "phase1")
  assert jaxpr(trained) != jaxpr(compiled)


def test_idle_models_are_those_that_later_stages_read():
  settings = settings_of()  # one iteration or more, pretrained, with comparisons
  run = [s.result for s in train.make_plan(settings)]
  first = memory.idle_models(settings_of(swirl={"iterations": 1}, compare=()), "phase1")
  assert first == 2  # warm_fwm and warm_idm: nothing reads the z-free model any more
  assert 2 < memory.idle_models(settings, "phase1") <= len(set(run))


def test_a_phase_that_exceeds_the_chip_says_so():
  figures = compile_tpu.Figures(10, 8, 5, 8, 1, 3, "between chips", 0.0, 0.0)
  assert figures.total == 19
  assert "DOES NOT FIT" in compile_tpu.report(figures, 18) and "  fits" in compile_tpu.report(
    figures, 19
  )
