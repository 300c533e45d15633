"""What the chips of a mesh send each other in a compiled program, by part of a phase.

Read from the compiler's text. A loop's body counts as often as the loop runs at most, where its
condition compares with one constant, and else once, which the table says: it then has a lower
bound. Bytes are what each chip sends in a ring of n chips:

    all-gather           (n - 1) / n of the result
    reduce-scatter       (n - 1) times the result
    all-reduce           2 (n - 1) / n of the result
    all-to-all           (n - 1) / n of the result
    collective-permute   the result

An asynchronous exchange that runs beside several operations stands in the text once for each, under
one channel, and counts once. The TPU's fusions named all-reduce-scatter send what a reduce-scatter
does. An exchange without a scope of its own belongs to the part of the loop or call around it. Time
is not counted: an exchange may hide behind the work beside it.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.parts import PARTS, part_of

BITS = {"pred": 8, "bf16": 16}  # others end in their number of bits
SHARE = {
  "all-gather": lambda n: (n - 1) / n,
  "reduce-scatter": lambda n: n - 1,
  "all-reduce": lambda n: 2 * (n - 1) / n,
  "all-to-all": lambda n: (n - 1) / n,
  "collective-permute": lambda n: 1,
}
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")


class Instruction(NamedTuple):
  opcode: str
  result: str  # its type
  line: str


class Exchange(NamedTuple):
  """One collective: its part, kind, the chips that take part, how often it runs, the bytes that
  each chip sends in all, and whether the counts of all loops around it are known.
  """

  part: str
  kind: str
  chips: int
  times: int
  sent: float
  counted: bool = True


def computations(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
  """A compiled module's computations by name, and the name of the first that runs."""
  found: dict[str, list[Instruction]] = {}
  entry = name = ""
  for line in hlo.splitlines():
    if header := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
      name = header[2]
      entry = name if header[1] else entry
      found[name] = []
    elif here := re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z\-]*)\(", line):
      found[name].append(Instruction(here[2], here[1], line))
  return found, entry


def exchanges(hlo: str) -> list[Exchange]:
  """Every collective of a compiled module."""
  parts, entry = computations(hlo)
  return list(_walk(parts, entry, 1, True, "other", set()))


def _walk(
  parts, name: str, times: int, counted: bool, around: str, seen: set[str]
) -> Iterator[Exchange]:
  """Those of a computation that runs `times` times, at least if not `counted`. around: the part
  that it belongs to; seen: the channels met in the loop around.
  """
  for opcode, result, line in parts[name]:
    kind, op = opcode.removesuffix("-start"), re.search(r'op_name="([^"]*)"', line)
    part = op and part_of(op[1]) or around
    if kind in SHARE:
      channel = re.search(r"channel_id=(\d+)", line)
      if channel is None or channel[1] not in seen:
        seen |= {channel[1]} if channel else set()
        chips, size = _chips(line), _bytes(result, opcode)
        if name.startswith("all-reduce-scatter"):
          kind, size = "reduce-scatter", size / chips
        yield Exchange(part, kind, chips, times, times * SHARE[kind](chips) * size, counted)
    elif opcode == "while":
      body, condition = (re.search(rf"{k}=%?([\w.\-]+)", line)[1] for k in ("body", "condition"))
      limits = list(_numbers(parts, condition, "s32")) or list(_numbers(parts, condition, "u32"))
      known = len(limits) == 1
      runs = times * limits[0] if known else times
      yield from _walk(parts, body, runs, counted and known, part, set())
    else:
      called = _CALLED.findall(line)
      if branches := re.search(r"branch_computations=\{([^}]*)\}", line):
        called += re.findall(r"[\w.\-]+", branches[1])
      for other in called:
        yield from _walk(parts, other, times, counted, part, seen)


def _numbers(parts, name: str, kind: str) -> Iterator[int]:
  """The scalar constants of a kind, of a computation and of those that it calls."""
  for _, result, line in parts[name]:
    if result.startswith(f"{kind}[]"):
      yield from map(int, re.findall(r" constant\((\d+)\)", line))
    for other in _CALLED.findall(line):
      yield from _numbers(parts, other, kind)


def _chips(line: str) -> int:
  """The size of a collective's groups: of `[4,16]<=[64]` 16, of `{{0,1},{2,3}}` 2, of
  `mesh['a'=4,'b'=16], ... {'b'}` 16.
  """
  if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
    return int(found[1])
  if found := re.search(r"replica_groups=mesh\[(.*?)\].*?\{([^}]*)\}", line):
    axes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    return math.prod(int(axes[name]) for name in re.findall(r"'(\w+)'", found[2]))
  found = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
  return len(found[1].split(",")) if found else 2


def _bytes(result: str, opcode: str) -> float:
  """Of a type, or of all in a tuple; of the largest where the tuple has the operand as well."""
  sizes = []
  for kind, shape in re.findall(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]", result):
    bits = BITS.get(kind) or int(re.search(r"\d+$", kind)[0])
    sizes.append(bits / 8 * math.prod(int(n) for n in shape.split(",") if n))
  with_operand = opcode in ("all-gather-start", "collective-permute-start")
  return max(sizes) if with_operand else sum(sizes)


def table(found: list[Exchange]) -> str:
  """By part: what each chip sends, in GB of 10^9 bytes, and in how many collectives."""
  rows = [f"  {'between chips':18s} {'GB':>8s} {'exchanges':>10s}"]
  for part in PARTS:
    own = [x for x in found if x.part == part]
    if own:
      more = "" if all(x.counted for x in own) else "  at least"
      sent, times = sum(x.sent for x in own), sum(x.times for x in own)
      rows.append(f"  {part:18s} {sent / 1e9:8.2f} {times:10,d}{more}")
  return "\n".join(rows)
