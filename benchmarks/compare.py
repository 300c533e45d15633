"""Our sampler and GRPO step against those of Tunix and of transformers and TRL, interleaved.

    python benchmarks/compare.py --tunix_python=TUNIX/bin/python --torch_python=TORCH/bin/python

One worker process per system stays alive and answers one call at a time, ours, Tunix's, PyTorch's,
ours again, so that whatever else the machine does meets all of them alike. All have the same
weights and prompts. Before anything is timed each computes the GRPO loss and its gradient's norm on
one fixed batch: the loss must be that of a float64 NumPy implementation within 1e-4, or the run
stops. Every timed call must return 32 rows of exactly 64 new tokens. Prints medians, minima,
spread, and ratios call by call.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from peers import common

HERE = pathlib.Path(__file__).parent
OURS, TUNIX, TORCH = "swirl_jax", "Tunix", "transformers/TRL"
SCRIPTS = {OURS: "ours_worker.py", TUNIX: "tunix_worker.py", TORCH: "torch_worker.py"}
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 1e-3
KINDS = {
  "sample": ("sampling", {"command": "sample", "logps": False}),
  "sample_logps": ("sampling, peers with log-probs", {"command": "sample", "logps": True}),
  "step": ("GRPO step", {"command": "step"}),
}
# What issue 2 asks for: the peer's CPU-seconds over ours.
TARGETS = {
  ("sample", TUNIX): 2.5,
  ("sample", TORCH): 3.0,
  ("step", TUNIX): 1.5,
  ("step", TORCH): 2.5,
}


class Worker:
  """A system in its own process and environment."""

  def __init__(self, name: str, python: str, script: str, problem: pathlib.Path, cores: int):
    self.name = name
    self._log = tempfile.TemporaryFile("w+")
    environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "OMP_NUM_THREADS": str(cores),
      "OMP_WAIT_POLICY": "PASSIVE",  # Spinning threads slow torch by 30 on a busy machine.
      "GOMP_SPINCOUNT": "0",
      "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
      "PYTHONPATH": str(HERE.parent) if name == OURS else "",
    }
    self._process = subprocess.Popen(
      [python, str(HERE / "peers" / script), f"--problem={problem}"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._log,
      text=True,
      env=environment,
    )

  def receive(self) -> dict:
    line = self._process.stdout.readline()
    if not line:
      self._process.wait()
      self._log.seek(0)
      tail = "".join(self._log.readlines()[-30:])
      raise SystemExit(f"the {self.name} worker ended with {self._process.returncode}:\n{tail}")
    return json.loads(line)

  def call(self, **command) -> dict:
    self._process.stdin.write(json.dumps(command) + "\n")
    self._process.stdin.flush()
    return self.receive()

  def close(self) -> None:
    """Asks the worker to end, and ends it where it does not."""
    try:
      self._process.stdin.write('{"command": "stop"}\n')
      self._process.stdin.close()
      self._process.wait(timeout=20)
    except (BrokenPipeError, subprocess.TimeoutExpired):
      self._process.kill()
      self._process.wait()


def check_equal_work(workers: list[Worker], expected: float) -> None:
  """Stops the run unless every worker has the expected loss and all have one gradient norm."""
  print(f"\nLoss of the fixed batch (float64 NumPy: {expected:.7f}) and its gradient's norm")
  norms = []
  for worker in workers:
    answer = worker.call(command="loss")
    norms.append(answer["grad_norm"])
    print(f"  {worker.name:<18} {answer['loss']:.7f}  {answer['grad_norm']:.5f}")
    if not abs(answer["loss"] - expected) <= LOSS_TOLERANCE * abs(expected):
      raise SystemExit(f"{worker.name}: loss {answer['loss']}, expected {expected}: unequal work")
  if not max(norms) - min(norms) <= NORM_TOLERANCE * max(norms):
    raise SystemExit(f"gradient norms differ: {norms}: unequal work")


def measure(workers: list[Worker], kind: str, rounds: int, warmup: int) -> dict[str, np.ndarray]:
  """Calls every worker once a round. {system: [rounds, (wall, CPU)]}, the warm-up left out."""
  spent = {worker.name: [] for worker in workers}
  for i in range(warmup + rounds):
    for worker in workers:
      answer = worker.call(**KINDS[kind][1])
      if answer["tokens"] != common.N * common.T:
        raise SystemExit(f"{worker.name}: {answer['tokens']} tokens, not {common.N * common.T}")
      if i >= warmup:
        spent[worker.name].append((answer["wall"], answer["cpu"]))
  return {name: np.array(values) for name, values in spent.items()}


def report(kind: str, spent: dict[str, np.ndarray]) -> bool:
  """Prints one kind's table and ratios; whether every target that applies was reached."""
  tokens = common.N * common.T
  title = f"{KINDS[kind][0]}: {common.B} prompts x {common.G}, {common.P} + {common.T} tokens"
  print(f"\n{title}\n  {'':<18} {'CPU-seconds':^27} {'wall seconds':^27} {'tokens per':>19}")
  header = f"{'median':>8} {'min':>8} {'max':>8} "
  print(f"  {'':<18} {header} {header} {'CPU-s':>9} {'second':>9}")
  for name, values in spent.items():
    row = f"  {name:<18}"
    for column in (values[:, 1], values[:, 0]):
      row += f" {np.median(column):8.3f} {column.min():8.3f} {column.max():8.3f} "
    median = np.median(values, axis=0)
    print(f"{row} {tokens / median[1]:9.0f} {tokens / median[0]:9.0f}")
  if OURS not in spent:
    return True
  reached = True
  for name in (n for n in spent if n != OURS):
    ratios = spent[name] / spent[OURS]  # [rounds, (wall, CPU)]
    wall, cpu = (statistics.median(ratios[:, i]) for i in (0, 1))
    least = spent[name][:, 1].min() / spent[OURS][:, 1].min()
    low, high = ratios[:, 1].min(), ratios[:, 1].max()
    text = f"  {name} / {OURS}: CPU {cpu:.2f} ({low:.2f} to {high:.2f};"
    text += f" of the minima {least:.2f}), wall {wall:.2f}"
    target = TARGETS.get((kind, name))
    if target is not None:
      text += f"; target {target}: {'reached' if cpu >= target else 'NOT reached'}"
      reached &= cpu >= target
    print(text)
  return reached


def parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--our_python", default=sys.executable, help="default: the one running this")
  parser.add_argument("--tunix_python", help="of the Tunix environment; without it, no Tunix")
  parser.add_argument("--torch_python", help="of the TRL environment; without it, no PyTorch")
  parser.add_argument("--no_ours", action="store_true", help="the peers alone")
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument("--warmup", type=int, default=3, help="rounds before, which also compile")
  parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
  parser.add_argument("--cores", type=int, default=2, help="CPU cores that the workers share")
  parser.add_argument("--json", type=pathlib.Path, help="write every measurement here")
  args = parser.parse_args()
  for kind in args.kinds.split(","):
    if kind not in KINDS:
      parser.error(f"--kinds: {kind!r} is not one of {', '.join(KINDS)}")
  if min(args.rounds, args.warmup) < 1:
    parser.error("--rounds and --warmup: at least 1 each (the first call compiles)")
  return args


def main() -> int:
  args = parse()
  pythons = {
    OURS: None if args.no_ours else args.our_python,
    TUNIX: args.tunix_python,
    TORCH: args.torch_python,
  }
  pythons = {name: python for name, python in pythons.items() if python}
  if hasattr(os, "sched_setaffinity"):  # Inherited by the workers.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
  spent, reached, workers = {}, True, []
  with tempfile.TemporaryDirectory() as scratch:
    problem = pathlib.Path(scratch) / "problem.npz"
    expected = common.make_problem(problem)
    try:
      for name, python in pythons.items():
        worker = Worker(name, python, SCRIPTS[name], problem, args.cores)
        workers.append(worker)
        print(f"{name}: {worker.receive()['versions']}", flush=True)
      check_equal_work(workers, expected)
      for kind in args.kinds.split(","):
        spent[kind] = measure(workers, kind, args.rounds, args.warmup)
        reached &= report(kind, spent[kind])
    finally:
      for worker in workers:
        worker.close()
  if args.json:
    plain = {k: {name: v.tolist() for name, v in by.items()} for k, by in spent.items()}
    args.json.write_text(json.dumps(plain, indent=1))
  return 0 if reached else 1


if __name__ == "__main__":
  sys.exit(main())
