"""What a run's phases hold on a device, slot by slot, before anything is allocated.

    python -m swirl_jax.memory --config=configs/liquid_7b_shape.py

Exact are the slots: their shapes, dtypes and layout are those of the run. Estimated are the
largest temporaries: gradients, the prompt's keys and values, the cache of a rollout, the logits of
one chunk. What the compiler really needs is printed by `benchmarks/compile_tpu.py`, which compiles.

A world named "lengths" is a vocabulary and lengths with no data (`configs/liquid_7b_shape.py`); of
a real one the tokenizer and the lengths are taken, as `train.py` does.
"""

import dataclasses
import functools
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from ml_collections import config_flags

from swirl_jax import inputs, phases, plan, process, programs, prompts, rng, sharding, start
from swirl_jax.data import tokenizers
from swirl_jax.models import columns, transformer
from swirl_jax.settings import PHASES, PhaseSettings, Settings, from_config
from swirl_jax.types import PolicyState, Segment, Transition

GB = 1e9
# The TPU compiler's memory over the estimated peak was 1.0 to 1.4 in Phase I and 1.2 to 1.7 in
# Phase II for models of 3 to 8 billion parameters on 64 chips whose weights all train, and up to
# 2.2 with LoRA, where less is ours to count and the compiler's own buffers weigh more
# (`benchmarks/compile_tpu.py` prints both).
MARGIN = 1.6


# ----------------------------------------------------------------------- roles and lengths, no data


@dataclasses.dataclass(frozen=True)
class _Ids:
  """The ids of the special tokens and a size; it can't encode."""

  vocab_size: int
  pad, bos, eos, sep = tokenizers.PAD, tokenizers.BOS, tokenizers.EOS, tokenizers.SEP
  fwm, idm = tokenizers.FWM, tokenizers.IDM


def players_of(settings: Settings) -> tuple[programs.Roles, programs.Lengths]:
  """The roles and lengths of a config's world. Raises ValueError for prompts that are too short."""
  world = dict(settings.world)
  if world["name"] != "lengths":
    real = start.world_of(settings)
    lengths = inputs.lengths_of(real)
    return programs.make_roles(settings, real.tokenizer, lengths), lengths
  codes = tuple(world["codes"]) if "codes" in world else None
  lengths = programs.Lengths(world["state"], world["action"], codes)
  players = programs.make_roles(settings, _Ids(world["vocabulary"]), lengths)
  fwm, idm = players.fwm, players.idm
  if codes:  # behind an image two markers are scored and not sampled: Liquid's are <eoi> <eos>
    end = (tokenizers.SEP, *fwm.template.end)
    fwm = dataclasses.replace(fwm, template=dataclasses.replace(fwm.template, end=end))
  fwm = with_instruction(fwm, behind="x", length=world["fwm_prompt"], lengths=lengths)
  idm = with_instruction(idm, behind="y", length=world["idm_prompt"], lengths=lengths)
  return dataclasses.replace(players, fwm=fwm, idm=idm), lengths


def prompt_length(template: prompts.Template, lengths: programs.Lengths) -> int:
  fields = {"x": lengths.state, "y": lengths.state, "z": lengths.action}
  return sum(fields[p] if isinstance(p, str) else len(p) for p in template.prompt)


def with_instruction(role, *, behind: str, length: int, lengths: programs.Lengths):
  """The role with its prompt brought to `length` by literal tokens behind a field."""
  template = role.template
  missing = length - prompt_length(template, lengths)
  if missing < 0:
    raise ValueError(f"world: a prompt of {length} tokens is {-missing} short of its fields.")
  at = template.prompt.index(behind) + 1
  literal = template.prompt[at] * (1 + missing)
  pieces = (*template.prompt[:at], literal, *template.prompt[at + 1 :])
  return dataclasses.replace(role, template=dataclasses.replace(template, prompt=pieces))


# ---------------------------------------------------------------------------- a phase's arguments


class Arguments(NamedTuple):
  """What `train.py` gives a phase's jitted step, as shapes laid out on a mesh."""

  state: PolicyState
  slots: phases.Slots
  batch: phases.Batch
  key: jax.Array
  hyper: phases.Hyper


def arguments(
  settings: Settings, players: programs.Roles, lengths: programs.Lengths, kind: str, mesh
) -> Arguments:
  """The arguments of a phase ("phase1" or "phase2"); `mesh` may be an abstract one."""
  phase: PhaseSettings = getattr(settings, kind)
  spec = spec_of(settings, players, kind)
  config, new_key = players.fwm.config, functools.partial(jax.random.key, settings.seed)
  lay = functools.partial(laid_out, mesh=mesh)
  read = functools.partial(laid_out, mesh=mesh, on_host=settings.mesh.offload_frozen)
  params = trained(players)
  state = jax.eval_shape(lambda p: programs.new_state(spec.optimizer, p), params)
  frozen = jax.eval_shape(lambda p: transformer.compute_params(p, config), params)
  prior = spec.reward.prior or spec.reference == "prior"
  base = base_of(config) if config.lora_rank else None
  slots = phases.Slots(
    frozen=read(frozen),
    reference=read(frozen) if spec.reference == "snapshot" else None,
    prior=read(frozen) if prior else None,
    base=lay(base),
  )
  key = lay(jax.eval_shape(lambda: rng.stream(new_key(), kind)))
  return Arguments(
    lay(state), slots, _batch(phase, lengths, kind, mesh), key, programs.hyper(phase)
  )


def spec_of(settings: Settings, players: programs.Roles, kind: str) -> phases.PhaseSpec:
  """Of that among the run's phases of a kind that reads the most models."""
  stages = [s for s in plan.make_plan(settings) if (s.method, s.kind) == ("swirl", kind)]
  one = settings.weights == "shared" and all(s.reference == s.frozen for s in stages)
  return programs.phase_spec(getattr(settings, kind), players, phase=kind, shared=one)


def trained(players: programs.Roles) -> Any:
  """What training trains of one model, float32."""
  return _shapes(programs.trained_params, players.fwm.config)


def base_of(config: transformer.TransformerConfig) -> Any:
  """A whole model in the compute dtype."""
  return _shapes(programs.base_params, config)


@functools.cache
def _shapes(make, config: transformer.TransformerConfig) -> Any:
  return jax.eval_shape(lambda: make(config, jax.random.key(0)))


def laid_out(tree: Any, mesh, *, on_host: bool = False, gather_fsdp: bool = False) -> Any:
  """The shapes of a tree with the rules' layout on a mesh, in the devices' memory or the hosts'."""
  layout = sharding.tree_shardings(tree, mesh, gather_fsdp=gather_fsdp)
  if on_host:
    layout = sharding.on_host(layout)
  return jax.tree.map(
    lambda a, at: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=at), tree, layout
  )


def _batch(phase: PhaseSettings, lengths: programs.Lengths, kind: str, mesh) -> phases.Batch:
  """What `sharding.put_batch` makes of a batch of the stage's source."""

  def leaf(shape, dtype):
    split = shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
    spec = PartitionSpec(sharding.BATCH) if split else PartitionSpec()
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

  def segment(rows, length):
    return Segment(*(leaf((rows, length), t) for t in (jnp.int32, jnp.bool_)))

  def transition(rows, z):
    return Transition(
      segment(rows, lengths.state), segment(rows, lengths.state), z and segment(rows, z)
    )

  cached = kind == "phase1" and phase.latents == "cached"  # as sampled: with its end marker's place
  anchor = transition(phase.anchor, lengths.action) if phase.anchor else None
  return phases.Batch(transition(phase.prompts, lengths.action + 1 if cached else None), anchor)


def idle_models(settings: Settings, kind: str) -> int:
  """The most models that a run holds, as float32 trees, while a stage of this kind runs."""
  stages = plan.make_plan(settings)
  held: set[str] = set()
  most = 0
  for index, stage in enumerate(stages):
    if stage.kind == kind:
      most = max(most, len(held))
    held = (held | {stage.result}) & plan.needed(stages, index + 1)
  return most


def bytes_per_device(tree: Any, *, on_host: bool = False) -> int:
  """Of a tree that is laid out, without padding: what lies in devices' memory, or in hosts'."""
  return sum(
    int(np.prod(a.sharding.shard_shape(a.shape))) * a.dtype.itemsize
    for a in jax.tree.leaves(tree)
    if (a.sharding.memory_kind == sharding.HOST) == on_host
  )


# ----------------------------------------------------------------------------------- the two tables


def slot_bytes(settings: Settings, kind: str, mesh) -> dict[str, int]:
  """Bytes per device of everything that is there while a phase runs, by slot."""
  players, lengths = players_of(settings)
  a = arguments(settings, players, lengths, kind, mesh)
  idle = idle_models(settings, kind) * bytes_per_device(laid_out(trained(players), mesh))
  return {
    "policy": bytes_per_device(a.state.params),
    "optimizer": bytes_per_device(a.state.opt_state),
    **{name: bytes_per_device(tree) for name, tree in a.slots._asdict().items()},
    "batch": bytes_per_device(a.batch),
    "idle models": idle,
  }


def host_bytes(settings: Settings, kind: str, mesh) -> int:
  """Bytes per device of the slots that lie in host memory."""
  players, lengths = players_of(settings)
  slots = arguments(settings, players, lengths, kind, mesh).slots
  return bytes_per_device(slots, on_host=True)


def temporary_bytes(settings: Settings, kind: str, mesh) -> dict[str, int]:
  """Estimates per device of the largest temporaries of a phase; not all live at one time.

  Activations are the inputs of every layer, where these are computed again in the backward pass
  (remat "full"), and one layer's own; without remat, every layer's. The policy has the logits of
  the tokens it may sample, the reward those of the whole vocabulary.
  """
  players, lengths = players_of(settings)
  phase: PhaseSettings = getattr(settings, kind)
  role, frozen = (players.fwm, players.idm) if kind == "phase1" else (players.idm, players.fwm)
  c, tensor = role.config, mesh.shape["tensor"]
  of_device = lambda n: -(-n // (mesh.shape["data"] * mesh.shape["fsdp"]))  # noqa: E731
  rows, item = of_device(phase.prompts), jnp.dtype(c.compute_dtype).itemsize
  token = 2 * c.n_layers * -(-c.n_kv_heads // tensor) * c.head_dim * item
  allowed, whole = role.decoding.allowed, -(-c.vocab_size // tensor)
  words = -(-columns.count(allowed, c.vocab_size) // tensor)
  prompt, length = prompt_length(role.template, lengths), role.decoding.length
  streams = 1 if phase.guidance == 1.0 else 2
  # One micro-batch: prompts, each with its samples.
  micro = phase.micro_batch or phase.keep or phase.prompts
  group = phase.micro_group or phase.group
  field = lengths.state if frozen.field == "y" else lengths.action

  def logits(length: int, words: int) -> int:
    chunk = micro * group * max(1, min(length, c.logprob_chunk // (micro * group)))
    return 4 * of_device(chunk) * words

  tokens = of_device(micro) * (prompt + group * length)
  layer = 4 * c.d_model + (3 * c.d_ff + 2 * (c.n_heads + c.n_kv_heads) * c.head_dim) // tensor
  kept = tokens * item * c.n_layers * (c.d_model if c.remat == "full" else layer)
  gathered = laid_out(base_of(c), mesh, gather_fsdp=settings.mesh.rollout_gather)
  fsdp = 1 if settings.mesh.rollout_gather else mesh.shape["fsdp"]
  return {
    "gradients": bytes_per_device(laid_out(trained(players), mesh)),
    "weights of a rollout": bytes_per_device(gathered),
    "columns of the head": 0 if allowed is None else -(-c.d_model // fsdp) * words * item,
    "prompt's keys and values": streams * rows * prompt * token,
    "rollout's cache": streams * rows * phase.group * length * token,
    "activations": kept + (2 * tokens * item * layer if c.remat == "full" else 0),
    "logits of a chunk": logits(length, words),
    "logits of a reward": logits(field + len(frozen.template.end), whole),
  }


def peak_bytes(settings: Settings, kind: str, mesh) -> int:
  """An estimate per device: the slots, and the largest of what rollout, reward and update need.

  It is a lower one: buffers that the compiler adds between them are not in it (`MARGIN`).
  """
  t = temporary_bytes(settings, kind, mesh)
  rollout = t["weights of a rollout"] + t["prompt's keys and values"] + t["rollout's cache"]
  update = 2 * t["gradients"] + t["activations"] + t["logits of a chunk"]  # the sum and the newest
  most = max(
    rollout + t["columns of the head"],
    t["logits of a reward"],
    update + t["columns of the head"],
  )
  return sum(slot_bytes(settings, kind, mesh).values()) + most


def most_prompts(settings: Settings, kind: str, mesh, limit: float) -> int:
  """The most prompts, a multiple of those that the mesh divides, whose estimated peak times MARGIN
  is within `limit` bytes per device; samples as they are, and micro-batches of one such multiple.
  The label anchor is not in the estimate.
  """
  step = mesh.shape["data"] * mesh.shape["fsdp"]
  phase: PhaseSettings = getattr(settings, kind)

  def fits(count: int) -> bool:
    sizes = {"prompts": count, "keep": 0, "micro_batch": min(step, count), "anchor": 0}
    changed = dataclasses.replace(phase, **sizes)
    peak = peak_bytes(dataclasses.replace(settings, **{kind: changed}), kind, mesh)
    return peak * MARGIN <= limit

  count = 0
  while count < 64 * step and fits(count + step):
    count += step
  return count


def describe(settings: Settings, kind: str) -> str:
  """What a phase computes, in tokens."""
  players, lengths = players_of(settings)
  phase: PhaseSettings = getattr(settings, kind)
  policy, frozen = players.of("y"), players.of("z")
  if kind == "phase2":
    policy, frozen = frozen, policy
  length = {"y": lengths.state, "z": lengths.action}
  scored = length[frozen.field] + len(frozen.template.end)
  return (
    f"{kind}: {phase.prompts} prompts x {phase.group} samples; "
    f"{players.fwm.config.vocab_size:,} words; micro_batch {phase.micro_batch}, micro_group "
    f"{phase.micro_group}; the policy's "
    f"prompt {prompt_length(policy.template, lengths)} + {policy.decoding.length} sampled; the "
    f"frozen model's prompt {prompt_length(frozen.template, lengths)} + {scored} scored"
  )


def table(settings: Settings) -> str:
  """Both phases, as text."""
  m = settings.mesh
  mesh = AbstractMesh((m.data, m.fsdp, m.tensor), sharding.AXES)
  lines = [f"mesh {dict(mesh.shape)}, bytes per device:"]
  for kind in PHASES:
    lines.append(describe(settings, kind))
    slots = slot_bytes(settings, kind, mesh)
    lines += [f"  {name:26s} {size / GB:10.3f} GB" for name, size in slots.items() if size]
    lines.append(f"  {'held in all':26s} {sum(slots.values()) / GB:10.3f} GB")
    if settings.mesh.offload_frozen:
      size = host_bytes(settings, kind, mesh)
      lines.append(f"  {'held in host memory':26s} {size / GB:10.3f} GB")
    estimates = temporary_bytes(settings, kind, mesh) | {"peak": peak_bytes(settings, kind, mesh)}
    lines += [f"  {'~ ' + name:26s} {size / GB:10.3f} GB" for name, size in estimates.items()]
  return "\n".join(lines)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  try:
    print(table(from_config(flags.FLAGS.config.to_dict())))
  except ValueError as error:
    sys.exit(str(error))


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "The run's settings.", lock_config=True)
  flags.mark_flags_as_required(["config"])
  app.run(main, flags_parser=process.parse_flags)
