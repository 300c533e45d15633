"""`python -m swirl_jax.main --config=configs/minigrid.py --workdir=runs/minigrid`: trains, or goes
on training.
"""

import os

from absl import app, flags, logging
from ml_collections import config_flags

from swirl_jax import process


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)
  import jax  # after the flags, so that --help costs nothing

  process.keep_freed_memory()
  process.repeat_on_gpu()
  if flags.FLAGS.config.get("compile") == "quick":
    process.compile_quickly()
  coordinator = os.environ.get("SWIRL_COORDINATOR")  # set by launch/
  if coordinator == "auto":
    jax.distributed.initialize()
  elif coordinator:
    count, index = (int(os.environ[f"SWIRL_{name}"]) for name in ("NUM_PROCESSES", "PROCESS_ID"))
    jax.distributed.initialize(coordinator, count, index)
  from swirl_jax import train
  from swirl_jax.checkpoint import CheckpointError, is_disk_full
  from swirl_jax.data.collection import CollectionError
  from swirl_jax.metrics import LogError
  from swirl_jax.models.safetensors_files import CheckpointFilesError
  from swirl_jax.stage_run import Preempted, TrainingError

  workdir = flags.FLAGS.workdir
  goes_on = f"The same command, with --workdir={workdir}, goes on from here."
  try:
    with process.ending_on_sigterm(f"Stopped by SIGTERM before training began. {goes_on}"):
      job = train.prepare(flags.FLAGS.config.to_dict(), workdir)
  except Exception as error:
    if is_disk_full(error):
      process.leave_at_once(f"Nothing was started: the disk is full. {error}")
    if isinstance(error, ValueError | OSError | CollectionError):
      process.leave(f"Nothing was started: {error}")
    process.fail()
  try:
    table = train.train(job, profile=flags.FLAGS.profile)
  except Preempted:
    print(f"Stopped by SIGTERM with everything saved. {goes_on}", flush=True)
  except (TrainingError, CheckpointError, CheckpointFilesError, LogError) as error:
    process.leave(f"Stopped: {error}")
  except Exception as error:
    if is_disk_full(error):
      process.leave_at_once(
        f"Stopped: workdir = {workdir!r}: the disk is full ({error}). Free some space; the same "
        "command then goes on from the last checkpoint."
      )
    process.fail()
  else:
    if table:  # the first process has it
      print(table)


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "The run's settings.", lock_config=True)
  flags.DEFINE_string(
    "workdir", None, "Where the run lives; a run that was stopped goes on from here."
  )
  flags.DEFINE_bool("profile", False, "Write a trace of this run into workdir/profile.")
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=process.parse_flags)
