"""An official benchmark's files become a file of transitions, for the world "jsonl".

    python -m swirl_jax.data.official --format=mirrorapi --folder=FOLDER --out=mirrorapi.jsonl

docs/worlds/official.md has the formats. What was kept and what was left out, and why, is printed
and lies in mirrorapi.counts.json.
"""

from pathlib import Path

from absl import app, flags

from swirl_jax import files
from swirl_jax.data.official import apibank, convert, mind2web, mirrorapi, toolbench
from swirl_jax.data.official.records import Absent

FORMATS = {
  "mirrorapi": mirrorapi.BENCHMARK,
  "mind2web": mind2web.BENCHMARK,
  "toolbench": toolbench.BENCHMARK,
  "apibank": apibank.BENCHMARK,
}


def run(name: str, folder: str, out: str, longest: int = 0) -> str:
  """Writes `out` and its counts; the table. Raises ValueError for what a user can change."""
  benchmark, where, target = FORMATS[name], Path(folder), Path(out)
  if target.resolve().is_relative_to(where.resolve()):
    raise ValueError(
      f"--out={out} is in --folder={folder}, the authors' own: choose another place."
    )
  if not target.parent.is_dir():
    raise ValueError(f"--out={out}: there is no folder {target.parent}.")
  try:
    if not where.is_dir():
      raise Absent("the folder itself")
    counts = convert.write(benchmark.read(where), target, longest=longest)
  except Absent as error:
    raise ValueError(
      f"--folder={folder} lacks files of {benchmark.title}: {error}. They are to be had from "
      f"{benchmark.page}; docs/worlds/official.md describes the format."
    ) from None
  described = {"format": name, "longest": longest, **counts}
  files.write_json_atomic(target.with_suffix(".counts.json"), described)
  return convert.table(counts)


def main(argv):
  given = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  try:
    print(run(given.format, given.folder, given.out, given.longest))
  except (ValueError, OSError) as error:
    raise app.UsageError(str(error)) from None


if __name__ == "__main__":
  flags.DEFINE_enum("format", None, sorted(FORMATS), "Which benchmark's files these are.")
  flags.DEFINE_string("folder", None, "Where the authors' files are.")
  flags.DEFINE_string("out", None, "The file of transitions to be written.")
  flags.DEFINE_integer("longest", 0, "Characters of x, y or z at most; 0: any.", lower_bound=0)
  flags.mark_flags_as_required(["format", "folder", "out"])
  app.run(main)
