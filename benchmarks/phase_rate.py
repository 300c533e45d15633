"""Seconds a step, time by part and memory of a config's phases, on the devices that are here.

    python -m benchmarks.phase_rate --config=configs/text_shapes.py:qwen2_5_3b --config.mesh.fsdp=8

The program is the one that `train.py` calls, with random weights and random tokens: it needs
neither checkpoint nor data, so what a config costs can be measured before either is there. The
config's mesh must cover the devices. Per phase:

- seconds to compile, and seconds a step: the median, the fastest and the slowest of `--steps`;
- sampled tokens a second and model FLOP utilisation, as in a run's `perf` (`scoring.perf`);
- where the device counts its memory, the most in use by this process so far, beside what
  `python -m swirl_jax.memory` estimates without idle models, which are not there;
- milliseconds by part, from a trace of as many steps more (`parts.py`), unless the profiler drops
  events, as it does of long steps on a GPU. Cores that work side by side sum to over 100%.

Results repeat on a GPU as in a run (`process.repeat_on_gpu`); what that costs is seen with
`XLA_FLAGS=--xla_gpu_deterministic_ops=false`.
"""

import statistics
import sys
from collections.abc import Iterator

import jax
from absl import app, flags
from ml_collections import config_flags

from benchmarks import parts
from benchmarks.random_phase import RandomPhase
from swirl_jax import memory, metrics, plan, process, scoring, sharding
from swirl_jax.settings import PHASES, Settings, from_config

GB = memory.GB


def report(settings: Settings, kind: str, steps: int) -> Iterator[str]:
  """The lines of one phase, on the mesh that is set, as they are known."""
  phase, mesh = RandomPhase(settings, kind), sharding.mesh_in_use()
  yield f"  compiled in {phase.compile_seconds:.0f} s"
  phase.step()
  seconds = sorted(phase.step() for _ in range(steps))
  median, tokens = statistics.median(seconds), phase.sampled
  yield (
    f"  a step {median:.3f} s ({seconds[0]:.3f} to {seconds[-1]:.3f}); "
    f"{tokens / median:,.0f} sampled tokens/s"
  )
  stage = next(s for s in plan.make_plan(settings) if (s.method, s.kind) == ("swirl", kind))
  players, lengths = memory.players_of(settings)
  flops = scoring.phase_flops(stage, players, lengths, tokens)
  used = metrics.mfu(flops, median, mesh.size)
  if used is not None:
    yield f"  model FLOP utilisation {used:.1%}"
  in_use = metrics.memory().get("device_peak_bytes")
  if in_use is not None:
    idle = memory.slot_bytes(settings, kind, mesh)["idle models"]
    estimate = memory.peak_bytes(settings, kind, mesh) - idle
    yield f"  at most {in_use / GB:.2f} GB in use; estimated {estimate / GB:.2f} GB"
  try:
    found, wall = parts.trace(phase.compiled, phase.step, steps)
    yield parts.table(found, steps)
    yield f"  in all {sum(found.values()) / wall:.0%} of the steps' time"
  except ValueError as error:
    yield f"  no time by part: {error}"


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  try:
    settings = from_config(flags.FLAGS.config.to_dict())
    m = settings.mesh
    mesh = sharding.make_mesh(data=m.data, fsdp=m.fsdp, tensor=m.tensor)
  except ValueError as error:
    sys.exit(str(error))
  device = jax.devices()[0].device_kind
  print(f"{mesh.size} x {device}, jax {jax.__version__}, mesh {dict(mesh.shape)}", flush=True)
  with jax.set_mesh(mesh):
    for kind in flags.FLAGS.phases:
      print(memory.describe(settings, kind), flush=True)
      for line in report(settings, kind, flags.FLAGS.steps):
        print(line, flush=True)


if __name__ == "__main__":
  process.repeat_on_gpu()
  config_flags.DEFINE_config_file("config", None, "The run's settings.")
  flags.DEFINE_multi_enum("phases", list(PHASES), list(PHASES), "Which phases to run.")
  flags.DEFINE_integer("steps", 5, "Steps that are timed.", lower_bound=1)
  flags.mark_flags_as_required(["config"])
  app.run(main, flags_parser=process.parse_flags)
