"""`python -m swirl_jax.theory --config=configs/theory.py --workdir=runs/theory`: the experiments.

Writes into the work directory config.json, versions.json, a JSON file of each experiment, the
folders tables (CSV) and figures (SVG), and report.html. Everything exact is computed in float64,
which this program alone switches on; what is sampled runs in float32, as training does.
"""

import json
import pathlib
import sys
import time

from absl import app, flags, logging
from ml_collections import config_flags

from swirl_jax import process


def prepare(config: dict):
  """A config → [(experiment's module, its settings)]. ValueError names the field that is wrong."""
  from swirl_jax.theory import experiments
  from swirl_jax.typed import build

  config = dict(config)
  missing = [name for name in ("seed", "experiments") if name not in config]
  if missing:
    raise ValueError(f"config.{missing[0]} is missing.")
  seed, chosen = config.pop("seed"), config.pop("experiments")
  if not isinstance(seed, int) or not 0 <= seed < 2**32:
    raise ValueError(f"config.seed = {seed!r}: allowed is a whole number from 0 to 2**32 - 1.")
  unknown = [name for name in config if name not in experiments.names()]
  if unknown:
    allowed = ", ".join(("seed", "experiments", *experiments.names()))
    raise ValueError(f"config.{unknown[0]} is not a field; allowed are {allowed}.")
  if not isinstance(chosen, list | tuple) or not chosen:
    raise ValueError(f"config.experiments = {chosen!r}: a tuple of names is needed.")
  jobs = []
  for name in chosen:
    module = experiments.load(name)
    fields = {"seed": seed, **config.get(name, {})}
    jobs.append((module, build(module.Settings, fields, f"config.{name}")))
  return jobs


def write(folder: pathlib.Path, result) -> None:
  """One experiment's numbers, tables (CSV) and figures (SVG)."""
  (folder / f"{result.name}.json").write_text(result.json(), encoding="utf-8")
  for kind in ("tables", "figures"):
    (folder / kind).mkdir(exist_ok=True)
  for i, table in enumerate(result.tables, 1):
    place = folder / "tables" / f"{result.name}-{i}.csv"
    place.write_text(table.csv(), encoding="utf-8")
  for i, chart in enumerate(result.charts, 1):
    place = folder / "figures" / f"{result.name}-{i}.svg"
    place.write_text(chart.svg(), encoding="utf-8")


def run(config: dict, workdir: str) -> str:
  """Runs what a config asks for and returns a summary for the terminal."""
  from swirl_jax import files, metrics, whole_files
  from swirl_jax.theory import results

  jobs, folder = prepare(config), files.folder_to_write("workdir", workdir)
  there = folder / "config.json"
  if there.exists():
    files.check_config(json.loads(there.read_text()), config, ())
  versions = metrics.versions()
  files.write_json_atomic(there, config)
  files.write_json_atomic(folder / "versions.json", versions)
  found, took = [], []
  with metrics.Progress(len(jobs), description="experiments") as progress:
    for module, settings in jobs:
      start = time.monotonic()
      found.append(module.run(settings))
      took.append(time.monotonic() - start)
      write(folder, found[-1])
      progress.update(done=found[-1].name)
  report = folder / "report.html"
  with whole_files.replacing(report) as temporary:
    temporary.write_text(
      results.page(found, (("Config", config), ("Versions", versions))), encoding="utf-8"
    )
  lines = [f"{r.title} ({t:.0f} s)\n{r.paragraph}\n" for r, t in zip(found, took, strict=True)]
  return "\n".join([*lines, f"Report: {report}"])


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)
  import jax  # after the flags, so that --help costs nothing

  process.keep_freed_memory()
  jax.config.update("jax_enable_x64", True)
  try:
    print(run(flags.FLAGS.config.to_dict(), flags.FLAGS.workdir))
  except ValueError as error:
    sys.exit(f"Nothing was finished: {error}")


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "What to run.", lock_config=True)
  flags.DEFINE_string("workdir", None, "Where tables, charts and the report go.")
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=process.parse_flags)
