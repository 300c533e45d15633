"""What a training step costs with and without `process.keep_freed_memory`, in turns.

    python -m benchmarks.kept_memory

Two processes, each with one of the two, answer in turn with what a burst of warm-up steps of
`configs/minigrid.py` cost them: user and system CPU-seconds a step, and minor page faults a step.
Prints medians and the ratio of the sums.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

STEPS = 20  # of a burst


def worker(keep: bool) -> None:
  """Prints a line of costs for every line that it reads."""
  from swirl_jax import process

  if keep and not process.keep_freed_memory():
    sys.exit("keep_freed_memory: this C library isn't glibc, or refuses.")
  import jax
  import numpy as np

  from configs import minigrid
  from swirl_jax import inputs, programs, sharding
  from swirl_jax.data import builders
  from swirl_jax.settings import from_config
  from swirl_jax.types import Segment, Transition

  settings, world = from_config(minigrid.get_config().to_dict()), builders.get("minigrid")
  lengths = inputs.lengths_of(world)
  player = programs.make_roles(settings, world.tokenizer, lengths).fwm
  stage, draw = settings.warmup_fwm, np.random.default_rng(0)

  def segment(length: int) -> Segment:
    shape = (stage.batch, length)
    words = draw.integers(6, world.tokenizer.vocab_size, shape)
    return Segment(words.astype(np.int32), np.ones(shape, bool))

  batch = (Transition(*(segment(n) for n in (lengths.state, lengths.state, lengths.action))),)
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=1, tensor=1)):
    spec = programs.sft_spec(stage, (player,))
    params = programs.initial_params(player.config, jax.random.key(0))
    state = programs.initial_state(spec.optimizer, params)
    program, schedule = programs.sft_program(spec, state), programs.schedule(stage, 1000)

    def burst() -> dict[str, float]:
      nonlocal state
      before = resource.getrusage(resource.RUSAGE_SELF)
      for _ in range(STEPS):
        state, found = program(state, batch, schedule, None)
        jax.device_get(found)
      after = resource.getrusage(resource.RUSAGE_SELF)
      names = {"user": "ru_utime", "system": "ru_stime", "faults": "ru_minflt"}
      return {k: (getattr(after, n) - getattr(before, n)) / STEPS for k, n in names.items()}

    burst()  # compiles
    for _ in sys.stdin:
      print(json.dumps(burst()), flush=True)


def main(rounds: int) -> None:
  command = [sys.executable, "-m", "benchmarks.kept_memory", "--worker"]
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
  workers = {how: subprocess.Popen([*command, how], **pipes) for how in ("kept", "given back")}
  found: dict[str, list[dict[str, float]]] = {how: [] for how in workers}
  for _ in range(rounds):
    for how, child in workers.items():
      child.stdin.write("\n")
      child.stdin.flush()
      if not (line := child.stdout.readline()):
        sys.exit(f"The process {how!r} ended.")
      found[how].append(json.loads(line))
  for child in workers.values():
    child.communicate()
  cpu = {}
  for how, rows in found.items():
    user, system, faults = (
      statistics.median(r[k] for r in rows) for k in ("user", "system", "faults")
    )
    cpu[how] = sum(r["user"] + r["system"] for r in rows)
    print(f"{how:12s} user {user:.3f} s, system {system:.3f} s, {faults:,.0f} page faults a step")
  print(f"kept / given back: {cpu['kept'] / cpu['given back']:.2f} of the CPU-seconds")


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--worker", choices=("kept", "given back"), help=argparse.SUPPRESS)
  given = parser.parse_args()
  if given.worker is None:
    main(given.rounds)
  else:
    worker(given.worker == "kept")
