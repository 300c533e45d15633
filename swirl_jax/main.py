"""`python -m swirl_jax.main --config=configs/minigrid.py --workdir=runs/minigrid`: trains, or goes on training."""

import os

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's settings.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; a run that was stopped goes on from here.")
_PROFILE = flags.DEFINE_bool("profile", False, "Write a trace of this run into workdir/profile.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)
  import jax  # after the flags, so that --help costs nothing

  if "SWIRL_COORDINATOR" in os.environ:  # set by launch/local.py
    jax.distributed.initialize(
      os.environ["SWIRL_COORDINATOR"], int(os.environ["SWIRL_NUM_PROCESSES"]), int(os.environ["SWIRL_PROCESS_ID"]))
  from swirl_jax import train

  try:
    table = train.train(_CONFIG.value.to_dict(), _WORKDIR.value, profile=_PROFILE.value)
  except train.Preempted:
    print(f"Stopped by SIGTERM; everything is saved. The same command goes on from here: --workdir={_WORKDIR.value}", flush=True)
    return
  print(table)


if __name__ == "__main__":
  app.run(main)
