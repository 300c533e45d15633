"""Compiles a config's phases for a TPU slice without a TPU, and counts the memory of a chip.

    pip install -e '.[tpu]'
    python -m benchmarks.compile_tpu --config=configs/liquid_7b_shape.py --topology=v5p:4x4x4
    python -m benchmarks.compile_tpu --config=configs/liquid_7b_shape.py:v5e --topology=v5e:8x8

What is compiled is `programs.phase_program`, the jitted function that `train.py` calls, on abstract
arguments laid out as there (`tests/test_same_program.py` compares the jaxprs). Per phase:

- arguments, outputs, temporaries, aliased (donated) bytes and the program's own size by the
  compiler's `memory_analysis()`;
- idle residents: the models that a run keeps on the chips beside the program's own arguments
  (`plan.needed`: float32 trees for later stages and the comparison at the end), at their most;
- the sum, arguments + outputs - aliased + temporaries + program + idle, against the chip's memory.
  A GB is 10^9 bytes. Exits with 1 where it exceeds, or where the compiler finds no room.

No FLOPs or seconds: `cost_analysis()` counts the body of a loop once.

A world named "lengths" (`configs/liquid_7b_shape.py`) is a vocabulary and lengths with no data; a
real world's name takes its tokenizer and lengths, as `train.py` does.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is run: two may compile at once

import dataclasses  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from swirl_jax import phases, programs, prompts, rng, sharding  # noqa: E402
from swirl_jax import plan as plans  # noqa: E402
from swirl_jax.data import tokenizers  # noqa: E402
from swirl_jax.models import transformer  # noqa: E402
from swirl_jax.settings import PHASES, Settings, from_config  # noqa: E402
from swirl_jax.types import Segment, Transition  # noqa: E402

GB = 1e9
MEMORY = {"v5p": 95, "v5e": 16, "v6e": 32}  # GB of a chip


@dataclasses.dataclass(frozen=True)
class StandInTokenizer:
  """The ids of the special tokens and a size; it can't encode."""

  vocab_size: int
  pad, bos, eos, sep = tokenizers.PAD, tokenizers.BOS, tokenizers.EOS, tokenizers.SEP
  fwm, idm = tokenizers.FWM, tokenizers.IDM


def players_of(settings: Settings) -> tuple[programs.Roles, programs.Lengths]:
  """The roles and lengths of a config's world. Raises ValueError for prompts that are too short."""
  world = dict(settings.world)
  if world["name"] != "lengths":
    from swirl_jax import inputs
    from swirl_jax.data import builders

    real = builders.get(world["name"])
    lengths = inputs.lengths_of(real)
    return programs.make_roles(settings, real.tokenizer, lengths), lengths
  lengths = programs.Lengths(world["state"], world["action"])
  players = programs.make_roles(settings, StandInTokenizer(world["vocabulary"]), lengths)
  fwm = of_images(players.fwm, lengths, codes=tuple(world["codes"]))
  fwm = with_instruction(fwm, behind="x", length=world["fwm_prompt"], lengths=lengths)
  idm = with_instruction(players.idm, behind="y", length=world["idm_prompt"], lengths=lengths)
  return dataclasses.replace(players, fwm=fwm, idm=idm), lengths


def of_images(fwm, lengths: programs.Lengths, *, codes: tuple[int, int]):
  """The FWM as of a world whose state is an image: exactly that many codes are sampled, out of a
  range of ids, and two markers behind them are scored and not sampled.
  """
  decoding = dataclasses.replace(fwm.decoding, length=lengths.state, end=None, allowed=(codes,))
  end = (tokenizers.SEP, *fwm.template.end)  # Liquid's are <eoi> <eos>
  return dataclasses.replace(
    fwm, decoding=decoding, template=dataclasses.replace(fwm.template, end=end)
  )


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


class Call(NamedTuple):
  """A jitted phase and the arguments, abstract, that `train.py` gives it."""

  program: Any
  arguments: tuple[Any, ...]


def phase_call(
  settings: Settings, players: programs.Roles, lengths: programs.Lengths, kind: str
) -> Call:
  """The call of a phase ("phase1" or "phase2"), under the mesh that is set."""
  phase: Any = getattr(settings, kind)
  shared = settings.weights == "shared"
  spec = programs.phase_spec(phase, players, phase=kind, shared=shared)
  params = abstract_params(players)
  state = jax.eval_shape(lambda p: programs.new_state(spec.optimizer, p), params)
  frozen = jax.eval_shape(lambda p: transformer.compute_params(p, players.fwm.config), params)
  prior = spec.reward.prior or spec.reference == "prior"
  slots = phases.Slots(
    frozen=laid_out(frozen),
    reference=laid_out(frozen) if spec.reference == "snapshot" else None,
    prior=laid_out(frozen) if prior else None,
    base=abstract_base(players) if players.fwm.config.lora_rank else None,
  )
  program = programs.phase_program(spec, state)
  key = laid_out(jax.eval_shape(lambda: rng.stream(jax.random.key(settings.seed), kind)))
  batch = abstract_batch(phase, lengths, kind)
  return Call(program, (laid_out(state), slots, batch, key, programs.hyper(phase)))


def abstract_params(players: programs.Roles) -> Any:
  """What training trains of one model, float32."""
  return jax.eval_shape(lambda: programs.trained_params(players.fwm.config, jax.random.key(0)))


def abstract_base(players: programs.Roles) -> Any:
  """The weights that adapters share, laid out."""
  config = players.fwm.config
  return laid_out(jax.eval_shape(lambda: programs.base_params(config, jax.random.key(0))))


def laid_out(tree: Any) -> Any:
  """The shapes of a tree with the rules' layout on the mesh that is set."""
  layout = programs.layout_of(tree)
  return jax.tree.map(
    lambda a, at: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=at), tree, layout
  )


def abstract_batch(phase, lengths: programs.Lengths, kind: str) -> phases.Batch:
  """What `sharding.put_batch` makes of a batch of the stage's source."""

  def segment(rows, length):
    return Segment(*(batch_leaf((rows, length), t) for t in (jnp.int32, jnp.bool_)))

  def transition(rows, z):
    return Transition(
      segment(rows, lengths.state), segment(rows, lengths.state), z and segment(rows, z)
    )

  cached = kind == "phase1" and phase.latents == "cached"  # as sampled: with its end marker's place
  anchor = transition(phase.anchor, lengths.action) if phase.anchor else None
  return phases.Batch(transition(phase.prompts, lengths.action + 1 if cached else None), anchor)


def batch_leaf(shape, dtype) -> jax.ShapeDtypeStruct:
  mesh = sharding.mesh_in_use()
  split = shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
  spec = PartitionSpec(sharding.BATCH) if split else PartitionSpec()
  return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def idle_models(settings: Settings, kind: str) -> int:
  """The most models that a run holds, as float32 trees, while a stage of this kind runs."""
  plan = plans.make_plan(settings)
  held: set[str] = set()
  most = 0
  for index, stage in enumerate(plan):
    if stage.kind == kind:
      most = max(most, len(held))
    held = (held | {stage.result}) & plans.needed(plan, index + 1)
  return most


def bytes_per_chip(tree: Any) -> int:
  """Of a tree that is laid out, without padding."""
  return sum(
    int(np.prod(a.sharding.shard_shape(a.shape))) * a.dtype.itemsize for a in jax.tree.leaves(tree)
  )


class Figures(NamedTuple):
  """Bytes per chip, and seconds of the compiler."""

  arguments: int
  outputs: int
  temporaries: int
  aliased: int
  program: int
  idle: int
  seconds: float
  cpu_seconds: float

  @property
  def total(self) -> int:
    held = self.arguments + self.outputs - self.aliased + self.idle
    return held + self.temporaries + self.program


def measure(settings: Settings, kind: str) -> Figures:
  """Compiles a phase on the mesh that is set."""
  players, lengths = players_of(settings)
  call = phase_call(settings, players, lengths, kind)
  clock, cpu = time.perf_counter(), time.process_time()
  compiled = call.program.lower(*call.arguments).compile()
  seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
  found = compiled.memory_analysis()
  idle = idle_models(settings, kind) * bytes_per_chip(laid_out(abstract_params(players)))
  return Figures(
    found.argument_size_in_bytes,
    found.output_size_in_bytes,
    found.temp_size_in_bytes,
    found.alias_size_in_bytes,
    found.generated_code_size_in_bytes,
    idle,
    seconds,
    cpu_seconds,
  )


def describe(settings: Settings, kind: str) -> str:
  """What a phase computes, in tokens."""
  players, lengths = players_of(settings)
  phase: Any = getattr(settings, kind)
  policy, frozen = players.of("y"), players.of("z")
  if kind == "phase2":
    policy, frozen = frozen, policy
  length = {"y": lengths.state, "z": lengths.action}
  scored = length[frozen.field] + len(frozen.template.end)
  return (
    f"{kind}: {phase.prompts} prompts x {phase.group} samples; "
    f"{players.fwm.config.vocab_size:,} words; micro_batch {phase.micro_batch}; the policy's "
    f"prompt {prompt_length(policy.template, lengths)} + {policy.decoding.length} sampled; the "
    f"frozen model's prompt {prompt_length(frozen.template, lengths)} + {scored} scored"
  )


def report(figures: Figures, limit: float) -> str:
  rows = [(name, getattr(figures, name)) for name in Figures._fields[:-2]]
  lines = [f"  {name:12s} {size / GB:8.2f} GB" for name, size in [*rows, ("sum", figures.total)]]
  verdict = "fits" if figures.total <= limit else "DOES NOT FIT"
  spent = f"compiled in {figures.seconds:.0f} s ({figures.cpu_seconds:.0f} CPU-s)"
  return "\n".join([*lines, f"  {verdict} in {limit / GB:g} GB; {spent}"])


def topology_mesh(settings: Settings, topology: str):
  """The config's mesh over the chips of a topology like "v5p:4x4x4"."""
  from jax.experimental import topologies

  chips = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  m = settings.mesh
  return sharding.make_mesh(data=m.data, fsdp=m.fsdp, tensor=m.tensor, devices=chips)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  chip = flags.FLAGS.topology.split(":")[0]
  if chip not in MEMORY:
    raise app.UsageError(f"--topology={flags.FLAGS.topology}: known chips are {sorted(MEMORY)}.")
  settings, limit = from_config(flags.FLAGS.config.to_dict()), MEMORY[chip] * GB
  mesh = topology_mesh(settings, flags.FLAGS.topology)
  print(f"{flags.FLAGS.topology}, mesh {dict(mesh.shape)}, per chip:", flush=True)
  failed = False
  with jax.set_mesh(mesh):
    for kind in flags.FLAGS.phases:
      print(describe(settings, kind), flush=True)
      try:
        figures = measure(settings, kind)
      except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
          raise
        failed = True
        print(f"  DOES NOT FIT: the compiler says {error}", flush=True)
        continue
      failed |= figures.total > limit
      print(report(figures, limit), flush=True)
  sys.exit(int(failed))


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "The run's settings.")
  flags.DEFINE_string("topology", "v5p:4x4x4", "Chip and shape of the slice.")
  flags.DEFINE_list("phases", list(PHASES), "Which phases to compile.")
  flags.mark_flags_as_required(["config"])
  app.run(main)
