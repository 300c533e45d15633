"""Scores a run's models on a split: JSON, a table and a page.

    python -m swirl_jax.evaluation --workdir=runs/minigrid --split=test

Writes evaluation-test.json and evaluation-test.html into the work directory, or `--out`, and each
model's predictions for `python -m swirl_jax.evaluation.judge`, with pictures where states are some;
those of `--model=warmup` are called evaluation-test-warmup, and of `--limit=100` end in -first100.
docs/evaluation.md says what is measured.
"""

import hashlib
import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax
from absl import app, flags, logging

from swirl_jax import metrics, plan, scoring, start, trained
from swirl_jax.checkpoint import CheckpointError
from swirl_jax.data import pipeline, transitions
from swirl_jax.evaluation import (
  candidates,
  clip,
  lpips,
  one_step,
  overlap,
  page,
  picture_page,
  picture_scores,
  pictures,
  predictions,
  scorecard,
  text,
)
from swirl_jax.files import folder_to_write, write_json_atomic

MODELS = ("final", "warmup")


class Extras(NamedTuple):
  """Paths of what further scores are made with; "" leaves them out."""

  bert_score: str = ""
  lpips: str = ""
  clip: str = ""
  captions: str = ""
  candidates: str = ""


NO_EXTRAS = Extras()


def evaluate(workdir: str, *, split: str, model: str = "final", limit: int | None = None,
             out: str | None = None, extras: Extras = NO_EXTRAS) -> str:  # fmt: skip
  """Measures, writes, and returns the table. ValueError, before any work, for what can't be."""
  if extras.bert_score:
    overlap.bert_layer(extras.bert_score)
  questions = candidates.read(extras.candidates) if extras.candidates else []
  with trained.open_run(workdir) as run:
    names = models_of(run, model)
    records = records_of(run, workdir, split, limit)
    lengths = pipeline.Lengths(run.world.state_len, run.world.state_len, run.world.action_len)
    examples = one_step.examples(records, run.world.tokenizer, lengths)
    place = pathlib.Path(extras.candidates).parent
    questions = candidates.in_words(questions, lambda given: run.world.state(given, place))
    asked = candidates.ask(questions, run.world.tokenizer, lengths)
    measures = measures_of(run.world, examples.records, extras)
    folder = folder_to_write("out", out or workdir)
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
        best_of=run.settings.evaluation.best_of, world=run.world,
        batch=min(run.settings.evaluation.batch, len(records)),
        key=jax.random.key(run.settings.seed), done=lambda step: bar.update(done=step),
        bert_score=extras.bert_score, measures=measures, asked=asked)  # fmt: skip
    about = _about(run, workdir, extras)
    about |= {"split": split, "model": model, "models": names, "limit": limit}
  said, rollouts, drawn = found.pop("predictions"), found.pop("rollouts"), found["pictures"]
  given = {name: path or None for name, path in extras._asdict().items()}
  result = about | {"extras": given, "scores": found}
  shown = drawn and picture_page.cases(drawn, examples.records, said["fwm"], run.world)
  name = f"evaluation-{split}" + "-warmup" * (model == "warmup")
  name += "" if limit is None else f"-first{limit}"
  paths = write(result, folder, name, shown or "")
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


def measures_of(world, records, extras: Extras) -> list[pictures.Measure]:
  """What compares pictures beside their pixels. ValueError where it can't be, tried on one."""
  if extras.bert_score and world.codes:
    raise ValueError("bert_score: a state of this world is an image's codes, and no text.")
  drawn = world.codes and world.pictures
  wanted = [name for name in ("lpips", "clip", "captions") if getattr(extras, name)]
  if wanted and not drawn:
    why = "its tokenizer isn't known (config.world.vq)" if world.codes else "its states are text"
    raise ValueError(f"{wanted[0]} = {getattr(extras, wanted[0])!r}: the world {world.name!r} has "
                     f"no pictures: {why}.")  # fmt: skip
  if extras.captions and not extras.clip:
    raise ValueError("captions: they are compared by CLIP, so --clip must be given too.")
  found = [lpips.measure(extras.lpips)] if extras.lpips else []
  if extras.clip:
    told = clip.read_captions(extras.captions, records) if extras.captions else None
    found.append(clip.measure(extras.clip, told))
  if drawn:
    picture_scores.check(world, found, records[0])
  return found


def _about(run: trained.TrainedRun, workdir: str, extras: Extras) -> dict[str, Any]:
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
    "overlap": overlap.signatures(extras.bert_score),
    "versions": metrics.versions(),
  }


def write(
  result: dict[str, Any], folder: pathlib.Path, name: str, shown: str = ""
) -> list[pathlib.Path]:
  """The result as JSON and as a page, of which `shown` is a section."""
  paths = [folder / f"{name}.{kind}" for kind in ("json", "html")]
  write_json_atomic(paths[0], result)
  paths[1].write_text(page.page(result, shown), encoding="utf-8")
  return paths


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  given = flags.FLAGS
  logging.set_verbosity(logging.WARNING)
  extras = Extras(*(given[name].value for name in Extras._fields))
  try:
    print(evaluate(given.workdir, split=given.split, model=given.model, limit=given.limit,
                   out=given.out, extras=extras))  # fmt: skip
  except (ValueError, CheckpointError) as error:
    sys.exit(f"Nothing was evaluated: {error}")


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "The folder of a run.")
  flags.DEFINE_string("split", "test", "The split that is scored.")
  flags.DEFINE_enum("model", "final", MODELS, "The models that the run ended with, or began with.")
  flags.DEFINE_integer("limit", None, "The first N transitions of the split; default: all of it.")
  flags.DEFINE_string("out", None, "The folder that is written into; default: the work directory.")
  flags.DEFINE_string("bert_score", "", "The folder of an encoder, for BERTScore.")
  flags.DEFINE_string("lpips", "", "The folder of LPIPS' weights, in a world of images.")
  flags.DEFINE_string("clip", "", "The folder of an exported CLIP, in a world of images.")
  flags.DEFINE_string("captions", "", "A file of captions of states, for CLIP.")
  flags.DEFINE_string("candidates", "", "A file of questions of candidates.")
  flags.mark_flags_as_required(["workdir"])
  app.run(main)
