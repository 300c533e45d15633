"""Scores a run's models on a split: JSON, a table and a page.

    python -m swirl_jax.evaluation --workdir=runs/minigrid --split=test

Writes evaluation-test.json and evaluation-test.html into the work directory, or `--out`, and each
model's predictions for `python -m swirl_jax.evaluation.judge`, with pictures where states are some;
those of `--model=warmup` are called evaluation-test-warmup. docs/evaluation.md says what is
measured.
"""

import hashlib
import json
import os
import pathlib
import sys
from typing import Any

import jax
from absl import app, flags, logging

from swirl_jax import metrics, plan, scoring, start, trained
from swirl_jax.checkpoint import CheckpointError
from swirl_jax.data import pipeline, transitions
from swirl_jax.evaluation import one_step, overlap, page, predictions, scorecard, text
from swirl_jax.files import write_json_atomic

MODELS = ("final", "warmup")


def evaluate(workdir: str, *, split: str, model: str = "final", limit: int | None = None,
             out: str | None = None, bert_score: str = "") -> str:  # fmt: skip
  """Measures, writes, and returns the table. ValueError, before any work, for what can't be."""
  if bert_score:
    overlap.bert_layer(bert_score)
  with trained.open_run(workdir) as run:
    names = models_of(run, model)
    records = records_of(run, workdir, split, limit)
    lengths = pipeline.Lengths(run.world.state_len, run.world.state_len, run.world.action_len)
    examples = one_step.examples(records, run.world.tokenizer, lengths)
    folder = folder_of(out or workdir)
    warm = plan.warm_models(plan.make_plan(run.settings))["z"]
    params = run.models(*{*names.values(), warm})
    players = [
      scorecard.Player(scoring.drawing(run, field), params[names[field]], phase.temperature)
      for field, phase in (("y", run.settings.phase1), ("z", run.settings.phase2))
    ]
    total = len(scorecard.STEPS)
    with jax.set_mesh(run.mesh), metrics.Progress(total, description=f"scoring {split}") as bar:
      found = scorecard.measure(
        *players, params[warm], examples, turns=run.settings.evaluation.turns,
        batch=min(run.settings.evaluation.batch, len(records)), world=run.world,
        key=jax.random.key(run.settings.seed), done=lambda step: bar.update(done=step),
        bert_score=bert_score)  # fmt: skip
    about = _about(run, workdir) | {"split": split, "model": model, "models": names, "limit": limit}
  said, rollouts = found.pop("predictions"), found.pop("rollouts")
  result = about | {"bert_score": bert_score or None, "scores": found}
  name = f"evaluation-{split}" + "-warmup" * (model == "warmup")
  paths = write(result, folder, name)
  paths += predictions.write(folder, name, examples.records, said, rollouts, run.world)
  return f"{page.table(result)}\n\nWritten: {', '.join(map(str, paths))}"


def models_of(run: trained.TrainedRun, model: str) -> dict[str, str]:
  """The names of the FWM ("y") and the IDM ("z"). ValueError where the run isn't that far."""
  stages = plan.make_plan(run.settings)
  if model not in MODELS:
    raise ValueError(f"model = {model!r}: allowed are {', '.join(MODELS)}.")
  names = plan.warm_models(stages) if model == "warmup" else plan.final_models(stages)
  held = run.meta["models"]
  if model == "final" and not run.meta["finished"]:
    at = run.meta["stage"]
    now = stages[at].title if at < len(stages) else "its last evaluation"
    raise ValueError(
      f"the run has not finished (stage {at} of {len(stages)}: {now}). Its checkpoint holds "
      f"{', '.join(held)}: go on with the run's own command, or score --model=warmup."
    )
  missing = sorted({*names.values()} - {*held})
  if missing:
    raise ValueError(f"no model {', '.join(missing)}: the checkpoint holds {', '.join(held)}.")
  return names


def records_of(run: trained.TrainedRun, workdir: str, split: str, limit: int | None):
  """The records that are scored. Nothing is collected: the run's own data must be there."""
  where = start.data_dir(run.settings, workdir)
  builder = run.world.builder(where, run.world)
  if not pathlib.Path(builder.data_dir).exists():
    raise ValueError(
      f"the run's data isn't in {where!r}: the run's own command collects it again, and leaves a "
      "finished run as it is."
    )
  there = [name for name in builder.info.splits if name not in transitions.NO_ACTIONS]
  if split not in there:
    raise ValueError(f"split = {split!r}: the splits with actions are {', '.join(there)}.")
  return pipeline.Split(builder, split, limit=limit)


def folder_of(out: str) -> pathlib.Path:
  """The folder, made if it isn't there. ValueError where nothing can be written into it."""
  folder = pathlib.Path(out)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(f"out = {out!r}: allowed is a folder ({error.strerror}).") from None
  if not os.access(folder, os.W_OK):
    raise ValueError(f"out = {out!r}: this folder can't be written into; choose another by --out.")
  return folder


def _about(run: trained.TrainedRun, workdir: str) -> dict[str, Any]:
  """What tells a result from another: the run by its config's digest, how, and with what."""
  config = json.loads((pathlib.Path(workdir) / "config.json").read_text())
  digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
  s = run.settings
  return {
    "world": s.world["name"],
    "config_digest": digest,
    "data_source": run.world.source,
    "checkpoint": {"position": run.position, "models": run.meta["models"]},
    "temperature": {"fwm": s.phase1.temperature, "idm": s.phase2.temperature},
    "intervals": {
      "level": 0.95,
      "resamples": text.RESAMPLES,
      "seed": text.SEED,
      "over": "episodes",
    },
    "overlap": overlap.signatures(),
    "versions": metrics.versions(),
  }


def write(result: dict[str, Any], folder: pathlib.Path, name: str) -> list[pathlib.Path]:
  """The result as JSON and as a page."""
  paths = [folder / f"{name}.{kind}" for kind in ("json", "html")]
  write_json_atomic(paths[0], result)
  paths[1].write_text(page.page(result), encoding="utf-8")
  return paths


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  given = flags.FLAGS
  logging.set_verbosity(logging.WARNING)
  try:
    print(evaluate(given.workdir, split=given.split, model=given.model, limit=given.limit,
                   out=given.out, bert_score=given.bert_score))  # fmt: skip
  except (ValueError, CheckpointError) as error:
    sys.exit(f"Nothing was evaluated: {error}")


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "The folder of a run.")
  flags.DEFINE_string("split", "test", "The split that is scored.")
  flags.DEFINE_enum("model", "final", MODELS, "The models that the run ended with, or began with.")
  flags.DEFINE_integer("limit", None, "The first N transitions of the split; default: all of it.")
  flags.DEFINE_string("out", None, "The folder that is written into; default: the work directory.")
  flags.DEFINE_string("bert_score", "", "The folder of an encoder, for BERTScore.")
  flags.mark_flags_as_required(["workdir"])
  app.run(main)
