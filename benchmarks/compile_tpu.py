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
- what the chips send each other, by part of the phase (`exchanges.py`);
- the sum, arguments + outputs - aliased + temporaries + program + idle, against the chip's memory.
  A GB is 10^9 bytes. Exits with 1 where it exceeds, or where the compiler finds no room;
- before it compiles, an estimate (`memory.peak_bytes`) and the most prompts that should fit, with
  `memory.MARGIN`; `--config.phase1.prompts=...` compiles these.

No FLOPs or seconds: `cost_analysis()` counts the body of a loop once.

Without compiling, `python -m swirl_jax.memory` prints what each slot holds.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is run: two may compile at once

import sys  # noqa: E402
import time  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import jax  # noqa: E402
from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from benchmarks import exchanges  # noqa: E402
from swirl_jax import memory, process, programs, sharding  # noqa: E402
from swirl_jax.settings import PHASES, Settings, from_config  # noqa: E402

GB = memory.GB
MEMORY = {"v5p": 95, "v5e": 16, "v6e": 32}  # GB of a chip


class Call(NamedTuple):
  """A jitted phase and the arguments, abstract, that `train.py` gives it."""

  program: Any
  arguments: tuple[Any, ...]


def phase_call(
  settings: Settings, players: programs.Roles, lengths: programs.Lengths, kind: str
) -> Call:
  """The call of a phase ("phase1" or "phase2"), under the mesh that is set."""
  arguments = memory.arguments(settings, players, lengths, kind, sharding.mesh_in_use())
  spec = memory.spec_of(settings, players, kind)
  return Call(programs.phase_program(spec, arguments.state), tuple(arguments))


class Figures(NamedTuple):
  """Bytes per chip, the table of exchanges, and seconds of the compiler."""

  arguments: int
  outputs: int
  temporaries: int
  aliased: int
  program: int
  idle: int
  exchanges: str
  seconds: float
  cpu_seconds: float

  @property
  def total(self) -> int:
    held = self.arguments + self.outputs - self.aliased + self.idle
    return held + self.temporaries + self.program


def measure(settings: Settings, kind: str) -> Figures:
  """Compiles a phase on the mesh that is set."""
  players, lengths = memory.players_of(settings)
  call = phase_call(settings, players, lengths, kind)
  clock, cpu = time.perf_counter(), time.process_time()
  compiled = call.program.lower(*call.arguments).compile()
  seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
  found = compiled.memory_analysis()
  idle = memory.slot_bytes(settings, kind, sharding.mesh_in_use())["idle models"]
  return Figures(
    found.argument_size_in_bytes,
    found.output_size_in_bytes,
    found.temp_size_in_bytes,
    found.alias_size_in_bytes,
    found.generated_code_size_in_bytes,
    idle,
    exchanges.table(exchanges.exchanges(compiled.as_text())),
    seconds,
    cpu_seconds,
  )


def report(figures: Figures, limit: float) -> str:
  rows = [(name, getattr(figures, name)) for name in Figures._fields[:-3]]
  lines = [f"  {name:12s} {size / GB:8.2f} GB" for name, size in [*rows, ("sum", figures.total)]]
  verdict = "fits" if figures.total <= limit else "DOES NOT FIT"
  spent = f"compiled in {figures.seconds:.0f} s ({figures.cpu_seconds:.0f} CPU-s)"
  lines.append(figures.exchanges)
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
  try:
    settings, limit = from_config(flags.FLAGS.config.to_dict()), MEMORY[chip] * GB
  except ValueError as error:
    sys.exit(str(error))
  mesh = topology_mesh(settings, flags.FLAGS.topology)
  print(f"{flags.FLAGS.topology}, mesh {dict(mesh.shape)}, per chip:", flush=True)
  failed = False
  with jax.set_mesh(mesh):
    for kind in flags.FLAGS.phases:
      print(memory.describe(settings, kind), flush=True)
      peak = memory.peak_bytes(settings, kind, mesh) / GB
      most, group = memory.most_prompts(settings, kind, mesh, limit), getattr(settings, kind).group
      print(
        f"  estimated    {peak:8.2f} GB; at most {most} prompts x {group} samples",
        flush=True,
      )
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
  app.run(main, flags_parser=process.parse_flags)
