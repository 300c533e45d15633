"""Turns the pictures that a file of pairs names into a folder of codes, once (docs/images.md):

    python -m swirl_jax.tokenize_images --lines=pairs.jsonl --vq=FOLDER --out=codes

The same command goes on where a killed one stopped, and gives the same bytes. The world `images`
(configs/images.py) is made of the folder.
"""

# The processes that read pictures import this file: what they don't need is imported in `main`.
import importlib.metadata
import os
import sys

from absl import app, flags

import swirl_jax


def main(argv):
  from swirl_jax import codecs, process
  from swirl_jax.data import image_workers, tokenize_job

  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  process.repeat_on_gpu()
  f = flags.FLAGS
  workers = len(os.sched_getaffinity(0)) if f.workers is None else f.workers
  try:
    summary = tokenize_job.tokenize(
      f.lines, f.out, codecs.open_codec(f.vq, draws=False), size=f.size, batch=f.batch, part=f.part,
      workers=workers, most_refused=f.most_refused, versions=_versions(),
    )  # fmt: skip
  except (ValueError, tokenize_job.JobError, image_workers.WorkerError) as error:
    sys.exit(f"Stopped: {error}")
  for what, counts in summary["counts"].items():
    print(f"{what}: " + ", ".join(f"{n:,d} {name}" for name, n in counts.items()))
  for kind, pictures in summary["refused"].items():
    print(f"refused, {kind}: {len(pictures)}, first: {next(iter(pictures.values()))}")


def _versions() -> dict[str, str]:
  """What else than the job's settings decides codes and bytes."""
  import jax

  packages = ("array_record", "jax", "jaxlib", "numpy", "pillow")
  return {
    **{name: importlib.metadata.version(name) for name in packages},
    "swirl_jax": swirl_jax.__version__,
    "device_kind": jax.devices()[0].device_kind,
  }


def define_flags() -> None:
  flags.DEFINE_string("lines", None, "The file of pairs, a JSON object a line.")
  flags.DEFINE_string("vq", None, "The VQ model's folder.")
  flags.DEFINE_string("out", None, "The folder of codes: a new one, or one that was begun.")
  flags.DEFINE_integer("size", 512, "Pixels a side of a prepared picture.", 1)
  flags.DEFINE_integer("batch", 8, "Pictures that are encoded at once.", 1)
  flags.DEFINE_integer("part", 512, "Pictures a part: what a kill costs at most.", 1)
  flags.DEFINE_integer("workers", None, "Processes that read; none given: one a core.", 0)
  flags.DEFINE_float("most_refused", 0.1, "The share of the pictures that may be refused.", 0, 1)
  flags.mark_flags_as_required(["lines", "vq", "out"])


if __name__ == "__main__":
  define_flags()
  app.run(main)
