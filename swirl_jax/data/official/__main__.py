"""An official benchmark's files become a file of transitions, for the world "jsonl".

    python -m swirl_jax.data.official --format=mirrorapi --folder=FOLDER --out=mirrorapi.jsonl

Those whose states are pictures become lines for `swirl_jax.tokenize_images`, with sets of
candidates beside them. docs/worlds/official.md has the formats. What was kept and what was left
out, and why, is printed and lies in mirrorapi.counts.json.
"""

import sys
from pathlib import Path

from absl import app, flags

from swirl_jax import files
from swirl_jax.data.official import (
  apibank,
  aurora,
  bytemorph,
  convert,
  frames,
  mind2web,
  mirrorapi,
  picobanana,
  pictures,
  toolbench,
  visual,
  worldprediction,
)
from swirl_jax.data.official.records import Absent, Benchmark

FORMATS = {
  "mirrorapi": mirrorapi.BENCHMARK,
  "mind2web": mind2web.BENCHMARK,
  "toolbench": toolbench.BENCHMARK,
  "apibank": apibank.BENCHMARK,
  "aurora": aurora.BENCHMARK,
  "bytemorph": bytemorph.BENCHMARK,
  "picobanana": picobanana.BENCHMARK,
  "worldprediction": worldprediction.BENCHMARK,
  "frames": frames.BENCHMARK,
}
SETTINGS = ("index_base", "stride", "least_difference")  # flags that only some formats have


def run(name: str, folder: str, out: str, longest: int = 0, **settings: float) -> str:
  """Writes `out` and its counts; the table. Raises ValueError for what a user can change."""
  benchmark, where, target = FORMATS[name], Path(folder), Path(out)
  _check(name, benchmark, settings)
  if target.resolve().is_relative_to(where.resolve()):
    raise ValueError(
      f"--out={out} is in --folder={folder}, the authors' own: choose another place."
    )
  if not target.parent.is_dir():
    raise ValueError(f"--out={out}: there is no folder {target.parent}.")
  try:
    if not where.is_dir():
      raise Absent("the folder itself")
    if benchmark.visual:
      where, target = where.resolve(), target.resolve()
      made = pictures.Made(target.with_suffix(".pictures"))
      collector = visual.PictureCollector(longest, target, made)
      counts = convert.write(benchmark.read(where, made, **settings), target, collector)
    else:
      counts = convert.write(benchmark.read(where), target, convert.Collector(longest))
  except Absent as error:
    raise ValueError(
      f"--folder={folder} lacks files of {benchmark.title}: {error}. They are to be had from "
      f"{benchmark.page}; docs/worlds/official.md describes the format."
    ) from None
  described = {"format": name, "longest": longest, **settings, **counts}
  files.write_json_atomic(target.with_suffix(".counts.json"), described)
  return convert.table(counts)


def _check(name: str, benchmark: Benchmark, settings: dict[str, float]) -> None:
  for setting, value in settings.items():
    if setting not in benchmark.settings:
      having = ", ".join(f for f, b in FORMATS.items() if setting in b.settings)
      raise ValueError(f"--{setting}={value} with --format={name}: allowed with {having}.")
  if "index_base" in benchmark.settings and settings.get("index_base") not in (0, 1):
    raise ValueError(
      f"--format={name} needs --index_base=0 or --index_base=1: the number that its ground_truth "
      f"gives the first candidate, which no file says. It is {settings.get('index_base')}."
    )


def main(argv):
  given = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  settings = {name: given[name].value for name in SETTINGS if given[name].present}
  try:
    print(run(given.format, given.folder, given.out, given.longest, **settings))
  except (ValueError, OSError) as error:
    sys.exit(f"Nothing was converted: {error}")


if __name__ == "__main__":
  flags.DEFINE_enum("format", None, sorted(FORMATS), "Which benchmark's files these are.")
  flags.DEFINE_string("folder", None, "Where the authors' files are.")
  flags.DEFINE_string("out", None, "The file of transitions to be written.")
  flags.DEFINE_integer("longest", 0, "Characters of x, y or z at most; 0: any.", lower_bound=0)
  flags.DEFINE_integer(
    "index_base", None, "worldprediction: the number of the first candidate in ground_truth."
  )
  flags.DEFINE_integer("stride", 1, "frames: every how many frames one counts.", lower_bound=1)
  flags.DEFINE_float(
    "least_difference", 0.0, "frames: what a pair must differ by, from 0 to 1.", 0.0, 1.0
  )
  flags.mark_flags_as_required(["format", "folder", "out"])
  app.run(main)
