"""Collects a config's data, and nothing else: on a machine that has what the environment needs.

    python -m swirl_jax.collect --config=configs/tools.py --config.data.dir=data --workers=2

A run with the same `config.world` and `config.data.dir` then starts from it. Collecting goes on
where a killed one stopped, and gives the same data whatever the number of workers.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from swirl_jax import process, start
from swirl_jax.data import builders, collection
from swirl_jax.files import folder_to_write
from swirl_jax.settings import from_config


def collect(config, workers: int | None) -> builders.World:
  """The world of a config with its data in `data.dir`. Raises ValueError, and CollectionError."""
  settings = from_config(config)
  if not settings.data.dir:
    raise ValueError("config.data.dir = '': the folder for the data is needed.")
  folder_to_write("config.data.dir", settings.data.dir)
  own = {name: value for name, value in settings.world.items() if name != "name"}
  world = builders.get(
    settings.world["name"], own, settings.data.dir, workers=workers, codecs=start.codec_of_world
  )
  world.prepare(settings.data.dir)
  return world


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)
  process.repeat_on_gpu()  # a world of pictures may train its tokenizer
  try:
    world = collect(flags.FLAGS.config.to_dict(), flags.FLAGS.workers)
  except (ValueError, collection.CollectionError) as error:
    sys.exit(f"Stopped: {error}")
  splits = world.prepare(flags.FLAGS.config.data.dir).info.splits
  for name, split in splits.items():
    print(f"{name:12s} {split.num_examples:8,d} transitions")
  lengths = f"a state has at most {world.state_len} tokens, an action {world.action_len}"
  print(f"{lengths}; {world.tokenizer.vocab_size} kinds of token")


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "The run's settings.")
  flags.DEFINE_integer("workers", None, "Processes that play; none given: one a core.", 1)
  flags.mark_flags_as_required(["config"])
  app.run(main, flags_parser=process.parse_flags)
