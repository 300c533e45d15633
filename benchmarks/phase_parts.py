"""Where the time of a phase of SWIRL goes, from a profiler trace of the one jitted program.

    python -m benchmarks.phase_parts

Phase I on 8 prompts x 8 samples; states of 32 tokens and actions of 8; both models with 4 layers,
width 256, 4 heads and 2 kv heads of 64, feed-forward 1024, vocabulary 4096, float32; beta > 0, so
that the reference is scored. The program is `programs.phase_program`, which `train.py` calls.

`parts.py` says how an event finds its part.

The process keeps to one core, so that an event lasts as long as its work. Shares are of the sum
over all events; the last line says how much of the steps' wall time that sum covers.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):  # before jax makes its threads
  os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse  # noqa: E402

import jax  # noqa: E402

from benchmarks import parts  # noqa: E402
from benchmarks.random_phase import RandomPhase  # noqa: E402
from swirl_jax import sharding  # noqa: E402
from swirl_jax.settings import Settings, from_config  # noqa: E402

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


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--steps", type=int, default=5, help="steps that are traced")
  args = parser.parse_args()
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])):
    phase = RandomPhase(settings(), "phase1")
    seconds, wall = parts.trace(phase.compiled, phase.step, args.steps)
  s = settings().phase1
  print(f"Phase I, {s.prompts} prompts x {s.group} samples, {args.steps} steps on one core")
  print(parts.table(seconds, args.steps))
  update = seconds["update: forward"] + seconds["update: backward"] + seconds["optimizer"]
  for part in ("reward", "reference"):
    print(f"{part} beside the update (both passes and optimizer): {seconds[part] / update:.1%}")
  covered = sum(seconds.values()) / wall
  print(f"the events cover {covered:.0%} of {wall / args.steps:.2f} s a step")


if __name__ == "__main__":
  main()
