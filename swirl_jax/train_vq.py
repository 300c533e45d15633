"""Trains a VQ tokenizer on a world's pictures:

    python -m swirl_jax.train_vq --config=configs/vq_minigrid.py --workdir=runs/vq

`runs/vq/model` is then what `--config.world.vq` takes, `runs/vq/quality.json` how good it is.
"""

import json
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from swirl_jax import process


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)
  from swirl_jax import vq_run  # after the flags, so that --help costs nothing
  from swirl_jax.data import builders
  from swirl_jax.files import folder_to_write
  from swirl_jax.models.vq_training import VQTraining
  from swirl_jax.typed import build

  process.repeat_on_gpu()
  try:
    folder = folder_to_write("workdir", flags.FLAGS.workdir)
    config = flags.FLAGS.config.to_dict()
    settings = build(VQTraining, config["training"], "config.training")
    name, own = config["world"].pop("name"), config["world"]
    pictures = builders.pictures(name, own, str(folder / "data"))
    quality = vq_run.train(settings, pictures, folder)
  except ValueError as error:
    sys.exit(f"Stopped: {error}")
  print(json.dumps(quality, indent=2) + f"\nThe tokenizer: {folder / vq_run.MODEL}")


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "World and training.", lock_config=True)
  flags.DEFINE_string("workdir", None, "Where the tokenizer goes.")
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=process.parse_flags)
