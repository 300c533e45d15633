"""From settings to programs: who draws how, what a stage trains on, what is a copy and what is
donated.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny

from configs import minigrid
from swirl_jax import phases, plan, programs, prompts, settings, sft, sharding
from swirl_jax.optimizer import AdamW
from swirl_jax.types import PolicyState

LENGTHS = programs.Lengths(tiny.STATE, tiny.ACTION)


def made(**changes):
  """Settings of configs/minigrid.py with some fields changed, given as group__field=value."""
  c = minigrid.get_config().to_dict()
  for where, value in changes.items():
    group, _, name = where.partition("__")
    c[group] = c[group] | {name: value} if name else value
  return settings.from_config(c)


def players(found):
  return programs.make_roles(found, tiny.TOKENIZER, LENGTHS)


def stages(found):
  return {stage.name: stage for stage in reversed(plan.make_plan(found))}


# ------------------------------------------------------------------------------------------- specs


def test_the_policy_draws_as_its_phase_says_and_the_others_as_they_are():
  cut = {"phase1__top_k": 5, "phase1__top_p": 0.9, "phase1__group": 7}
  spec = programs.stage_spec(stages(found := made(**cut))["phase1"], players(found))
  drawn = {name: getattr(spec, name).decoding for name in ("policy", "latent", "frozen")}
  assert {n: (d.top_k, d.top_p, d.group) for n, d in drawn.items()} == {
    "policy": (5, 0.9, 7), "latent": (0, 1.0, 1), "frozen": (0, 1.0, 1),
  }  # fmt: skip


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_one_row_is_an_anchor(rows):
  found = made(phase1__anchor=rows)
  assert programs.stage_spec(stages(found)["phase1"], players(found)).anchor == (rows > 0)


@pytest.mark.parametrize("weights, reference", [("separate", "snapshot"), ("shared", "frozen")])
def test_a_reference_that_is_the_frozen_model_is_passed_once(weights, reference):
  found = made(weights=weights, compare=())
  assert programs.stage_spec(stages(found)["phase1"], players(found)).reference == reference


def test_the_prior_alone_sees_no_action_and_micro_batches_are_the_stages_own():
  found = made(pretrain__micro_batch=2, warmup_fwm__micro_batch=4)
  own = {n: programs.stage_spec(s, players(found)) for n, s in stages(found).items()}
  seen = {n: (own[n].hide_z, own[n].micro_batch) for n in ("pretrain", "warmup_fwm", "warmup_idm")}
  assert seen == {"pretrain": (True, 2), "warmup_fwm": (False, 4), "warmup_idm": (False, 0)}


def test_a_schedule_has_its_rate_its_warm_up_and_its_steps():
  stage = stages(made())["warmup_fwm"].settings
  rate = dict(vars(stage.optimizer), learning_rate=0.5, warmup_steps=3)
  stage = dataclasses.replace(stage, optimizer=type(stage.optimizer)(**rate))
  found = programs.schedule(stage, 20)
  assert (found.learning_rate, found.warmup_steps, found.total_steps) == (0.5, 3, 20)


@pytest.mark.parametrize("gather", [False, True])
def test_the_mesh_says_whether_rollouts_gather(gather):
  found = players(made(mesh__rollout_gather=gather))
  assert (found.fwm.gather, found.idm.gather) == (gather, gather)


def test_the_context_holds_the_longer_of_the_two_prompts(monkeypatch):
  """As in a chat, where the two have words of their own."""
  words = {"y": 3, "z": 9}

  def template(name, tokenizer, field):
    return prompts.Template((tuple(range(words[field])), "x", (7,)), field, (2,))

  monkeypatch.setattr(programs, "template_of", template)
  longest = players(made()).idm.config.max_len
  assert longest == 9 + 1 + 1 + 2 * tiny.STATE + tiny.ACTION
  words |= {"y": 12}
  assert players(made()).fwm.config.max_len == longest + 3


# ----------------------------------------------------------------------------------------- copies

CONFIG = tiny.config(n_layers=1, dtype="bfloat16")


@pytest.fixture
def mesh():
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=2, tensor=4)) as mesh:
    yield mesh


def laid_out(config=CONFIG):
  params = tiny.params(config)
  return jax.device_put(params, programs.layout_of(params))


@pytest.mark.parametrize("make", [
  programs.copy,
  lambda params: programs.initial_state(tiny.PLAIN, params),
  lambda params: programs.frozen_copy(params, dataclasses.replace(CONFIG, dtype="float32")),
], ids=["copy", "state", "frozen"])  # fmt: skip
def test_a_step_that_donates_a_copy_leaves_the_first(make, mesh):
  params = laid_out()
  copied = make(params)
  jax.jit(lambda tree: jax.tree.map(lambda a: a + 1, tree), donate_argnums=0)(copied)
  own = copied.params if isinstance(copied, PolicyState) else copied
  assert own["embedding"].is_deleted()
  jax.tree.map(np.testing.assert_array_equal, params, tiny.params(CONFIG))


@pytest.mark.parametrize("offload, kind", [(False, "device"), (True, sharding.HOST)])
def test_a_frozen_slot_is_in_the_compute_dtype_and_where_it_should_lie(offload, kind, mesh):
  params = laid_out()
  found = programs.frozen_copy(params, CONFIG, offload=offload)
  for leaf, before in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
    assert leaf.dtype == "bfloat16" and leaf.sharding.memory_kind == kind
    assert leaf.sharding.spec == before.sharding.spec
  base = programs.initial_base(CONFIG, jax.random.key(0))
  assert {a.dtype.name for a in jax.tree.leaves(base)} == {"bfloat16"}


def test_both_kinds_of_step_are_given_their_state(mesh):
  """A state that weren't donated would be there twice."""
  role, other = tiny.TableRole("y", 3, 3), tiny.TableRole("z", 1, 3)
  batch, table = tiny.table_transitions(0, 8), tiny.table(0)
  hyper = tiny.hyper()
  for program, arguments in (
    (functools.partial(programs.sft_program, sft.SftSpec((role,), AdamW())),
     ((batch,), hyper.schedule, None)),
    (functools.partial(programs.phase_program,
                       phases.PhaseSpec(role, other, AdamW(), reference="none")),
     (phases.Slots(tiny.table(1)), phases.Batch(batch), jax.random.key(0), hyper)),
  ):  # fmt: skip
    state = programs.initial_state(AdamW(), table)
    after, _ = program(state)(state, *arguments)
    assert state.params["table"].is_deleted() and after.step == 1
