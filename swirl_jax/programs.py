"""The compiled programs of a run: settings, a tokenizer and lengths in; roles, specs and jitted
steps out.

`train.py`, the compile-only command and the benchmarks all build their steps here, so that what is
measured is what runs.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax import image_prompts, phases, prompts, roles, sampling, sft, sharding
from swirl_jax.models import lora, transformer
from swirl_jax.optimizer import Schedule
from swirl_jax.plan import Stage
from swirl_jax.settings import PhaseSettings, Settings, SftSettings, model_config
from swirl_jax.types import PolicyState


class Lengths(NamedTuple):
  """The most tokens of a state and of an action. codes: where a state is an image, the token ids
  (start, stop) of its codes, of which it has exactly `state`.
  """

  state: int
  action: int
  codes: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Roles:
  """The two players of a run, with groups of one and at temperature 1; `sampler` makes them draw as
  a phase does.
  """

  fwm: roles.TransformerRole
  idm: roles.TransformerRole

  def of(self, field: str) -> roles.TransformerRole:
    return self.fwm if field == "y" else self.idm


def make_roles(settings: Settings, tokenizer, lengths: Lengths) -> Roles:
  """The FWM of an image world samples exactly as many codes as an image has, its IDM text alone.

  Raises ValueError where the model can't be, or its context is shorter than the longest prompt and
  completion.
  """
  templates = tuple(template_of(settings.prompts, tokenizer, field) for field in "yz")
  literals = max(
    sum(len(p) for p in t.prompt if not isinstance(p, str)) + len(t.end) for t in templates
  )
  needed = literals + 2 * lengths.state + lengths.action
  if settings.turns > 1:
    link = sum(len(p) for p in prompts.continuation(templates[0]) if not isinstance(p, str))
    turn = link + lengths.action + lengths.state + len(templates[0].end)
    needed += (settings.turns - 1) * turn
  config = model_config(settings, vocab_size=tokenizer.vocab_size, needed_len=needed)

  def role(template, length, end, allowed):
    decoding = sampling.Decoding(length=length, group=1, end=end, allowed=allowed)
    return roles.TransformerRole(
      config,
      template,
      decoding,
      gather=settings.mesh.rollout_gather,
    )

  ends = [template.end[-1] for template in templates]
  action = lengths.action + 1
  if lengths.codes is None:
    drawn = (lengths.state + 1, ends[0], None), (action, ends[1], None)
  else:
    start, stop = lengths.codes
    others = ((0, start), (stop, tokenizer.vocab_size))
    text = tuple(ids for ids in others if ids[0] < ids[1])
    drawn = (lengths.state, None, (lengths.codes,)), (action, ends[1], text)
  return Roles(*(role(template, *how) for template, how in zip(templates, drawn, strict=True)))


def template_of(name: str, tokenizer, target: str) -> prompts.Template:
  """The template called `name` (`settings.PROMPTS`) of a role, "y" or "z". Raises ValueError for a
  tokenizer that can't fill it.
  """
  if name in image_prompts.LAYOUTS:
    return image_prompts.image_template(tokenizer, target, name)
  if name == "chat":
    return prompts.chat_template(tokenizer, target)
  if not hasattr(tokenizer, "sep"):
    raise ValueError(
      f"prompts = {name!r}: the tokenizer of an image model has none of our markers; allowed are "
      f"{', '.join(image_prompts.LAYOUTS)}."
    )
  make = prompts.fwm_template if target == "y" else prompts.idm_template
  return make(tokenizer)


def sampler(role: roles.TransformerRole, **decoding) -> roles.TransformerRole:
  """The role, drawing otherwise: `sampler(role, group=8, top_p=0.96)`."""
  return dataclasses.replace(role, decoding=dataclasses.replace(role.decoding, **decoding))


def drawn_with(role: roles.TransformerRole, settings: PhaseSettings) -> roles.TransformerRole:
  """The role with the truncation and the guidance that a phase samples with."""
  names = ("top_k", "top_p", "guidance")
  return sampler(role, **{name: getattr(settings, name) for name in names})


def sft_spec(
  settings: SftSettings, players: tuple[roles.TransformerRole, ...], *, hide_z: bool = False
) -> sft.SftSpec:
  return sft.SftSpec(players, settings.optimizer.build(), hide_z, settings.micro_batch)


def phase_spec(
  settings: PhaseSettings, players: Roles, *, phase: str, shared: bool
) -> phases.PhaseSpec:
  """Phase I ("phase1") has the FWM as the policy, Phase II the IDM; with shared weights the frozen
  tree is the snapshot and so the reference.
  """
  policy, frozen = (players.fwm, players.idm) if phase == "phase1" else (players.idm, players.fwm)
  reference = settings.reference if settings.beta else "none"
  if shared and reference == "snapshot":
    reference = "frozen"
  algorithm = {f.name: getattr(settings, f.name) for f in dataclasses.fields(phases.Algorithm)}
  return phases.PhaseSpec(
    policy=sampler(drawn_with(policy, settings), group=settings.group),
    frozen=frozen,
    latent=players.idm if phase == "phase1" else None,
    optimizer=settings.optimizer.build(),
    anchor=settings.anchor > 0,
    **(algorithm | {"reference": reference}),
  )


def stage_spec(stage: Stage, players: Roles) -> phases.PhaseSpec | sft.SftSpec:
  """The static choices of a stage. Raises ValueError for what they can't be.

  Where reference and frozen model are one tree (shared weights, the reference reset), it is passed
  once.
  """
  if stage.kind != "sft":
    same = stage.reference == stage.frozen
    return phase_spec(stage.settings, players, phase=stage.kind, shared=same)
  fields = tuple(players.of(field) for field in stage.fields)
  return sft_spec(stage.settings, fields, hide_z=stage.hide_z)


def schedule(settings, steps: int) -> Schedule:
  """The optimizer's traced numbers, for a stage of `steps` updates; float32, so that every call has
  the same types.
  """
  o = settings.optimizer
  return Schedule(*(np.float32(v) for v in (o.learning_rate, o.warmup_steps, steps)))


def hyper(settings: PhaseSettings) -> phases.Hyper:
  """The traced numbers of a phase. Every inner epoch is an update of the optimizer's schedule."""
  traced = (np.float32(getattr(settings, name)) for name in phases.Hyper._fields[1:])
  return phases.Hyper(schedule(settings, settings.steps * settings.inner_epochs), *traced)


def new_state(optimizer, params: Any) -> PolicyState:
  """A policy at the beginning of a stage: a copy of the parameters (the step donates them), zero
  moments, step 0.
  """
  return PolicyState(_copied(params), optimizer.init(params), jnp.int32(0))


def _copied(params: Any) -> Any:
  return jax.tree.map(lambda p: p + 0, params)


def _frozen(config: transformer.TransformerConfig, params: Any) -> Any:
  return transformer.compute_params(_copied(params), config)


def _laid_out(make, static: tuple, tree: Any) -> Any:
  """`make(*static, tree)`, jitted, with its result laid out by the rules on the mesh of the
  enclosing `jax.set_mesh`.
  """
  leaves, structure = jax.tree.flatten(jax.eval_shape(functools.partial(make, *static), tree))
  return _program(make, static, structure, tuple(leaves), sharding.mesh_in_use())(tree)


@functools.cache
def _program(make, static: tuple, structure, leaves: tuple, mesh):
  layout = sharding.tree_shardings(jax.tree.unflatten(structure, leaves), mesh)
  return jax.jit(functools.partial(make, *static), out_shardings=layout)


def layout_of(tree: Any) -> Any:
  """The rules' sharding of each leaf, on the mesh that is set."""
  return sharding.tree_shardings(tree, sharding.mesh_in_use())


def trained_params(config: transformer.TransformerConfig, key: jax.Array) -> Any:
  """What training trains, float32 and fresh: all of a model's parameters, or its adapters."""
  if not config.lora_rank:
    return transformer.init_params(config, key)
  base = jax.eval_shape(functools.partial(transformer.init_params, config), key)
  return lora.init_adapters(base, key, rank=config.lora_rank, targets=config.lora_targets)


def base_params(config: transformer.TransformerConfig, key: jax.Array) -> Any:
  """The weights, in the compute dtype, that adapters share."""
  return transformer.compute_params(transformer.init_params(config, key), config)


def initial_params(config: transformer.TransformerConfig, key: jax.Array) -> Any:
  """`trained_params`, on the mesh."""
  return _init_program(config, trained_params, sharding.mesh_in_use())(key)


def initial_base(config: transformer.TransformerConfig, key: jax.Array) -> Any:
  """`base_params`, on the mesh."""
  return _init_program(config, base_params, sharding.mesh_in_use())(key)


@functools.cache
def _init_program(config: transformer.TransformerConfig, make, mesh):
  init = functools.partial(make, config)
  return jax.jit(init, out_shardings=layout_of(jax.eval_shape(init, jax.random.key(0))))


def initial_state(optimizer, params: Any) -> PolicyState:
  """`new_state`, on the mesh."""
  return _laid_out(new_state, (optimizer,), params)


def copy(params: Any) -> Any:
  """A tree of its own, which donating the first doesn't touch."""
  return _laid_out(_copied, (), params)


def frozen_copy(
  params: Any, config: transformer.TransformerConfig, *, offload: bool = False
) -> Any:
  """What a frozen or reference slot holds: the parameters in the compute dtype, never the live
  ones; with `offload` in host memory.
  """
  out = _laid_out(_frozen, (config,), params)
  return jax.device_put(out, sharding.on_host(layout_of(out))) if offload else out


def phase_program(spec: phases.PhaseSpec, state: PolicyState):
  """`phase_step` jitted: (state, slots, batch, key, hyper) → (state, metrics), the state donated
  and laid out as it came.
  """
  step = functools.partial(phases.phase_step, spec=spec)
  return jax.jit(
    step,
    donate_argnums=0,
    out_shardings=(layout_of(state), sharding.replicated(sharding.mesh_in_use())),
  )


def sft_program(spec: sft.SftSpec, state: PolicyState):
  """`sft_step` jitted: (state, batch, schedule, base) → (state, metrics), the state donated and
  laid out as it came.
  """
  step = functools.partial(sft.sft_step, spec=spec)
  return jax.jit(
    step,
    donate_argnums=0,
    out_shardings=(layout_of(state), sharding.replicated(sharding.mesh_in_use())),
  )
