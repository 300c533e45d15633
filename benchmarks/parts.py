"""Time by part of a jitted phase, from a profiler trace.

`phases.py` marks its parts by `jax.named_scope`, and the compiler keeps the scope in the metadata
of each instruction. The trace has an event for each instruction that is executed; loops and calls
are left out, as what runs inside them has events of its own. An instruction without a scope (a
copy, one that the compiler made) belongs to the part that most of its own or of its surrounding
loop's instructions belong to, else to "other". The update's two passes are told apart by the
`transpose` of differentiation; the gradient of the head is taken in the forward pass
(`logprob.separable_loss`) and counts there.
"""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable

import jax

SCOPES = ("latent", "rollout", "reward", "reference", "update", "optimizer")
PARTS = (*SCOPES[:4], "update: forward", "update: backward", "optimizer", "other")


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


def trace(compiled, step: Callable[[], float], steps: int) -> tuple[dict[str, float], float]:
  """Seconds by part and in all, over `steps` calls of `step`, which runs the compiled program once
  and returns its seconds. Raises ValueError where the events cover less than half of the time:
  the profiler's buffers are finite, and another jax may name instructions otherwise.
  """
  hlo, seconds = compiled.as_text(), dict.fromkeys(PARTS, 0.0)
  parts, module = parts_by_instruction(hlo), re.match(r"HloModule ([\w.\-]+)", hlo)[1]
  step()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      wall = sum(step() for _ in range(steps))
    for instruction, duration in events(folder, module):
      if instruction in parts:
        seconds[parts[instruction]] += duration / 1e9
  covered = sum(seconds.values()) / wall
  if covered < 0.5:
    raise ValueError(f"the trace's events cover only {covered:.0%} of the steps")
  return seconds, wall


def table(seconds: dict[str, float], steps: int) -> str:
  """Milliseconds a step, and shares of the sum over all events."""
  total = sum(seconds.values())
  rows = [
    f"{part:18s} {1e3 * seconds[part] / steps:10.1f} {seconds[part] / total:7.1%}" for part in PARTS
  ]
  return "\n".join([f"{'part':18s} {'ms a step':>10s} {'share':>7s}", *rows])
