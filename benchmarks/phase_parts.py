"""Where the time of a phase of SWIRL goes, from a profiler trace of the one jitted program.

    python -m benchmarks.phase_parts

Phase I on 8 prompts x 8 samples; states of 32 tokens and actions of 8; both models with 4 layers,
width 256, 4 heads and 2 kv heads of 64, feed-forward 1024, vocabulary 4096, float32; beta > 0, so
that the reference is scored. The program is `programs.phase_program`, which `train.py` calls.

`phases.py` marks its parts by `jax.named_scope`, and the compiler keeps the scope in the metadata
of each instruction. The trace has an event for each instruction that is executed; loops and calls
are left out, as what runs inside them has events of its own. An instruction without a scope (a
copy, one that the compiler made) belongs to the part that most of its own or of its surrounding
loop's instructions belong to, else to "other". The update's two passes are told apart by the
`transpose` of differentiation; the gradient of the head is taken in the forward pass
(`logprob.separable_loss`) and counts there.

The process keeps to one core, so that an event lasts as long as its work. Shares are of the sum
over all events; the last line says how much of the steps' wall time that sum covers.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):  # before jax makes its threads
  os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse  # noqa: E402
import collections  # noqa: E402
import pathlib  # noqa: E402
import re  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402

from swirl_jax import memory, phases, programs, rng, sharding  # noqa: E402
from swirl_jax.settings import Settings, from_config  # noqa: E402
from swirl_jax.types import Segment, Transition  # noqa: E402

SCOPES = ("latent", "rollout", "reward", "reference", "update", "optimizer")
PARTS = (*SCOPES[:4], "update: forward", "update: backward", "optimizer", "other")
STATE, ACTION, VOCABULARY = 32, 8, 4096
LITERALS = 4  # of either template


def settings() -> Settings:
  optimizer = {"learning_rate": 1e-6}
  sft = {"steps": 1, "batch": 8, "optimizer": optimizer}
  phase = {"steps": 100, "prompts": 8, "group": 8, "beta": 0.04, "optimizer": optimizer}
  return from_config(
    {
      "seed": 0,
      "weights": "separate",
      "world": {
        "name": "lengths",
        "vocabulary": VOCABULARY,
        "state": STATE,
        "action": ACTION,
        "fwm_prompt": STATE + ACTION + LITERALS,
        "idm_prompt": 2 * STATE + LITERALS,
      },
      "data": {"fwm_labels": 1, "idm_labels": 1},
      "model": {
        "d_model": 256,
        "n_layers": 4,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 64,
        "d_ff": 1024,
        "tie_embeddings": False,
        "scan_layers": False,
      },
      "pretrain": sft,
      "warmup_fwm": sft,
      "warmup_idm": sft,
      "swirl": {"iterations": 1},
      "phase1": phase,
      "phase2": phase,
    }
  )


class Phase:
  """Phase I, compiled, with its arguments; `step` runs it once."""

  def __init__(self, settings: Settings):
    self.settings = settings
    phase = settings.phase1
    players, _ = memory.players_of(settings)
    spec = programs.phase_spec(phase, players, phase="phase1", shared=False)
    config, self.root = players.fwm.config, jax.random.key(0)
    fwm, idm = (
      programs.initial_params(config, rng.stream(self.root, name)) for name in ("fwm", "idm")
    )
    self.state = programs.initial_state(spec.optimizer, fwm)
    self.slots = phases.Slots(
      frozen=programs.frozen_copy(idm, config), reference=programs.frozen_copy(fwm, config)
    )
    self.hyper, self.steps = programs.hyper(phase), 0
    call = (self.state, self.slots, self._batch(0), self.root, self.hyper)
    self.compiled = programs.phase_program(spec, self.state).lower(*call).compile()

  def _batch(self, step: int) -> phases.Batch:
    draw = np.random.default_rng(step)
    shape = (self.settings.phase1.prompts, STATE)
    segment = lambda: Segment(  # noqa: E731
      draw.integers(6, VOCABULARY, shape, np.int32), np.ones(shape, bool)
    )
    return phases.Batch(
      sharding.put_batch(Transition(segment(), segment()), sharding.mesh_in_use())
    )

  def step(self) -> float:
    """Seconds of a step."""
    batch, key = self._batch(self.steps), rng.stream(self.root, self.steps)
    clock = time.perf_counter()
    self.state, found = self.compiled(self.state, self.slots, batch, key, self.hyper)
    jax.block_until_ready((self.state, found))
    self.steps += 1
    return time.perf_counter() - clock


def part_of(op_name: str) -> str | None:
  """The part in an instruction's `op_name`, "jit(phase_step)/rollout/while/body/...", or None."""
  scopes = [s for s in op_name.split("/") if s in SCOPES]
  if not scopes:
    return None
  if scopes[0] != "update":
    return scopes[0]
  return "update: backward" if "transpose(" in op_name else "update: forward"


def _most(parts) -> str | None:
  counts = collections.Counter(p for p in parts if p)
  return counts.most_common(1)[0][0] if counts else None


def parts_by_instruction(hlo: str) -> dict[str, str]:
  """Instruction → part, for all of a compiled module's text but loops, calls and conditionals."""
  computations: dict[str, list[tuple[str, str, str | None, str | None]]] = {}
  entry, name = None, None
  for line in hlo.splitlines():
    header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
    if header:
      name = header[2]
      entry = name if header[1] else entry
      computations[name] = []
      continue
    found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (?:\([^=]*\)|\S+) ([\w\-]+)\(", line)
    if found and name:
      op = re.search(r'op_name="([^"]*)"', line)
      calls = re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
      own = part_of(op[1]) if op else None
      computations[name].append((found[1], found[2], own, calls and calls[1]))

  def inside(computation):
    return _most(part for _, _, part, _ in computations.get(computation, ()))

  out = {}
  for computation, instructions in computations.items():
    around = None if computation == entry else inside(computation)
    for instruction, opcode, own, calls in instructions:
      if opcode not in ("while", "call", "conditional"):
        out[instruction] = own or (calls and inside(calls)) or around or "other"
  return out


def events(folder: str, module: str):
  """(instruction, nanoseconds) of what a module executed while a trace was taken."""
  path = next(pathlib.Path(folder).rglob("*.xplane.pb"))
  for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
    for line in plane.lines:
      for event in line.events:
        stats = dict(event.stats)
        if "hlo_op" in stats and stats.get("hlo_module") == module:
          yield stats["hlo_op"], event.duration_ns


def trace(phase: Phase, steps: int) -> tuple[dict[str, float], float]:
  """Seconds by part and the seconds of the steps, over `steps` steps."""
  hlo, seconds = phase.compiled.as_text(), dict.fromkeys(PARTS, 0.0)
  parts, module = parts_by_instruction(hlo), re.match(r"HloModule ([\w.\-]+)", hlo)[1]
  phase.step()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      wall = sum(phase.step() for _ in range(steps))
    for instruction, duration in events(folder, module):
      if instruction in parts:
        seconds[parts[instruction]] += duration / 1e9
  return seconds, wall


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=5, help="steps that are traced")
  args = parser.parse_args()
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])):
    phase = Phase(settings())
    seconds, wall = trace(phase, args.steps)
  total = sum(seconds.values())
  if not total:
    raise SystemExit("the trace holds no event of an instruction: this jax names them otherwise")
  s = phase.settings.phase1
  print(f"Phase I, {s.prompts} prompts x {s.group} samples, {args.steps} steps on one core")
  print(f"{'part':18s} {'ms a step':>10s} {'share':>7s}")
  for part in PARTS:
    print(f"{part:18s} {1e3 * seconds[part] / args.steps:10.1f} {seconds[part] / total:7.1%}")
  update = seconds["update: forward"] + seconds["update: backward"] + seconds["optimizer"]
  for part in ("reward", "reference"):
    print(f"{part} beside the update (both passes and optimizer): {seconds[part] / update:.1%}")
  print(f"the events cover {total / wall:.0%} of {wall / args.steps:.2f} s a step")


if __name__ == "__main__":
  main()
