"""A world's whole comparison: every method, tuned alike, over seeds.

    python -m swirl_jax.compare --config=configs/comparison.py --workdir=runs/comparison \
      --parallel=2

The work directory then has a run's folder for each tuning and each seed, and `comparison.json`,
`comparison.md` and `comparison.html`. Started again, it goes on where it stopped; `--parallel` runs
go side by side, each on its share of the cores; on one accelerator only 1, which takes its memory.
"""

import concurrent.futures
import contextlib
import json
import logging as stdlib_logging
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from swirl_jax import process


def _run(config: Mapping[str, Any], folder: str, cores: Sequence[int]) -> None:
  """A run in a process of its own; what it prints goes to log.txt."""
  threading.Thread(target=stop_with_parent, daemon=True).start()
  os.sched_setaffinity(0, cores)  # before jax counts them
  path = pathlib.Path(folder)
  path.mkdir(parents=True, exist_ok=True)
  log = open(path / "log.txt", "a", buffering=1)  # noqa: SIM115 (for the life of the process)
  with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
    import jax

    from swirl_jax import train

    process.keep_freed_memory()
    process.repeat_on_gpu()
    if config.get("compile") == "quick":
      process.compile_quickly()
    if jax.config.jax_compilation_cache_dir is None:  # the runs have most programs in common
      jax.config.update("jax_compilation_cache_dir", str(path.parent / "compiled"))
    stdlib_logging.getLogger("jax").setLevel(stdlib_logging.WARNING)
    train.train(train.prepare(config, folder))


def stop_with_parent() -> None:
  """Sends this process SIGTERM once its parent is gone, however that ended: a run then saves and
  stops. Returns no earlier; for a thread.
  """
  multiprocessing.parent_process().join()
  os.kill(os.getpid(), signal.SIGTERM)


def shares(cores: Sequence[int], count: int) -> list[Sequence[int]]:
  """The cores dealt out to `count` runs."""
  return [cores[i::count] for i in range(count)]


def _together(jobs: Mapping[pathlib.Path, Mapping[str, Any]], parallel: int, title: str) -> None:
  """Runs all jobs, at most `parallel` at a time, each on its share of the cores, and shows how far
  they are. The last ones, where fewer than `parallel` remain, share all cores.
  """
  from swirl_jax import comparison, metrics

  cores = sorted(os.sched_getaffinity(0))
  parallel = min(parallel, len(jobs), len(cores))
  free, rest = shares(cores, parallel), shares(cores, len(jobs) % parallel)
  total = sum(comparison.steps(config) for config in jobs.values())
  left, running = list(jobs.items()), {}

  def done() -> int:
    logs = (folder / "metrics.jsonl" for folder in jobs)
    return sum(path.read_bytes().count(b"\n") for path in logs if path.exists())

  context = multiprocessing.get_context("spawn")
  with (
    concurrent.futures.ProcessPoolExecutor(parallel, context, max_tasks_per_child=1) as pool,
    metrics.Progress(total, initial=done(), description=title) as bar,
  ):
    seen = done()
    while left or running:
      while left and free:
        folder, config = left.pop(0)
        mine = free.pop()
        at = rest[len(left)] if len(left) < len(rest) else mine
        running[pool.submit(_run, config, str(folder), at)] = folder, mine
      finished, _ = concurrent.futures.wait(running, timeout=2.0)
      now = done()
      bar.update(now - seen, running=len(running))
      seen = now
      for job in [job for job in running if job.done()]:
        folder, mine = running.pop(job)
        free.append(mine)
        try:
          job.result()
        except Exception as error:
          said = f"{folder}: {error} ({folder / 'log.txt'} has more)"
          if running:  # whose end the pool waits for
            print(f"\nStopped: {said}. Runs under way end first.", file=sys.stderr, flush=True)
          raise RuntimeError(said) from error


def compare(config: Mapping[str, Any], workdir: str, parallel: int) -> str:
  """Runs what is left of a comparison and returns its table. Raises ValueError for a config that
  can't be or isn't that of the work directory, RuntimeError where a run fails.
  """
  import jax

  jax.config.update("jax_platforms", "cpu")  # here; an accelerator is for the runs' processes
  from swirl_jax import comparison, comparison_page, findings, start
  from swirl_jax.files import check_config, folder_to_write, write_json_atomic
  from swirl_jax.settings import from_config
  from swirl_jax.typed import build

  plan = build(comparison.Comparison, config, "config")
  folder = folder_to_write("workdir", workdir)
  if (folder / "config.json").exists():
    saved = json.loads((folder / "config.json").read_text())
    check_config(saved, dict(config), ("seeds", "run.mesh"))
  data = plan.run["data"]["dir"] or str(folder / "data")

  first = comparison.seed_config(plan, plan.tuning_seed, {}, data)
  start.world_of(from_config(first)).prepare(data)  # once, before the runs share it
  write_json_atomic(folder / "config.json", json.loads(json.dumps(dict(config))))
  tuning = comparison.tuning_folders(plan, workdir)
  jobs = {path: comparison.tuning_config(plan, factor, data) for factor, path in tuning.items()}
  if jobs:
    _together(jobs, parallel, "tuning")
  tuned = comparison.scores({factor: findings.read(path) for factor, path in tuning.items()})
  factors = comparison.chosen(tuned)
  jobs = {path: comparison.seed_config(plan, seed, factors, data)
          for seed, path in comparison.folders(plan, workdir).items()}  # fmt: skip
  _together(jobs, parallel, "seeds")
  runs = [findings.read(path) for path in jobs]
  rows = comparison.table(runs)
  write_json_atomic(folder / "comparison.json", {
    "factors": {name: {f"{f:g}": v for f, v in found.items()} for name, found in tuned.items()},
    "regime": [[g.title, g.value, g.wanted] for g in findings.regime(*runs)],
    "methods": [row._asdict() for row in rows],
  })  # fmt: skip
  table = comparison.markdown(rows)
  (folder / "comparison.md").write_text(table + "\n")
  (folder / "comparison.html").write_text(comparison_page.page(plan, runs, tuned))
  return table


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  logging.set_verbosity(logging.WARNING)
  given = flags.FLAGS
  try:
    print(compare(given.config.to_dict(), given.workdir, given.parallel))
  except ValueError as error:
    sys.exit(f"Nothing was started: {error}")
  except RuntimeError as error:
    sys.exit(f"Stopped: {error}. The same command goes on from here.")


if __name__ == "__main__":
  config_flags.DEFINE_config_file("config", None, "The comparison's settings.", lock_config=True)
  flags.DEFINE_string("workdir", None, "Where its runs live.")
  flags.DEFINE_integer("parallel", 1, "Runs side by side.", lower_bound=1)
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=process.parse_flags)
