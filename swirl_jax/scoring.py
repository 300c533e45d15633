"""What a run measures on its models: after each stage, at the end, and how fast each step was."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from swirl_jax import metrics, rng
from swirl_jax.data import transitions
from swirl_jax.evaluation import multi_turn, one_step
from swirl_jax.models import columns
from swirl_jax.plan import Stage, final_models, warm_models
from swirl_jax.programs import drawn_with
from swirl_jax.roles import TransformerRole


def stage_rows(run, stage: Stage) -> Iterator[dict[str, Any]]:
  """Rows of evaluations.jsonl for the model that a stage left, each as soon as it is measured: one
  for each of its parts and splits; for the IDM its latent actions too.
  """
  params = run.model(stage.result)
  fields = stage.scored if stage.splits else ()
  splits = [split for split in stage.splits if split in run.data.examples]
  total = len(fields) * len(splits) + ("z" in fields)
  with metrics.Progress(total, description=f"scoring {stage.title}") as bar:
    for field in fields:
      role = drawing(run, field)
      measure = one_step.fwm if field == "y" else one_step.idm
      for split in splits:
        key = rng.stream(run.root, "evaluation", stage.name, stage.iteration, field, split)
        found = measure(role, params, run.data.examples[split], key=key, **_common(run, field))
        model = "fwm" if field == "y" else "idm"
        yield _row(stage, model, split, found["metrics"], found["by_episode"])
        bar.update()
      if field == "z":
        key = rng.stream(run.root, "evaluation", stage.name, stage.iteration, "latents")
        found = _latents(run, params, key, shown=0)
        yield _row(stage, "latents", "validation", found["metrics"])
        bar.update()


def final(run) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Rows for what is measured once: what the IDM's best of n reaches on the warm FWM (on validation
  a ceiling, on test a rival: test-time verification), and rollouts over several turns of the warm
  and the final FWM; and what samples.json holds.
  """
  e, data = run.settings.evaluation, run.data
  warm, now = warm_models(run.plan), final_models(run.plan)
  fwm, idm = drawing(run, "y"), drawing(run, "z")
  rows = []
  for split in [name for name in ("validation", "test") if name in data.examples]:
    found = one_step.best_of(
      fwm,
      run.model(warm["y"]),
      idm,
      run.model(warm["z"]),
      data.examples[split],
      n=e.best_of,
      key=rng.stream(run.root, "evaluation", "best_of", split),
      **_common(run, "y"),
    )
    rows.append(_final_row("warmup", "best_of", split, found["metrics"], found["by_episode"]))

  shown, test = _shown(run)
  chains = transitions.chains(test.records, e.turns)[: e.chains]
  samples: dict[str, Any] = {}
  for method, name in (("warmup", warm["y"]), ("swirl", now["y"])):
    turns = multi_turn.multi_turn(
      fwm, run.model(name), test, chains, batch=e.batch, world=data.world, shown=6
    )
    rows.append(_final_row(method, "multi_turn", shown, turns["metrics"]))
    samples["chains"] = turns["chains"]
  samples["gallery"] = _gallery(run, {"swirl": now["y"], "warmup": warm["y"]})
  key = rng.stream(run.root, "evaluation", "final_latents")
  samples["latents"] = _latents(run, run.model(now["z"]), key, shown=24)["examples"]
  return rows, samples


def _shown(run) -> tuple[str, one_step.Examples]:
  """The split that pictures and chains are of: test, where it is scored."""
  name = "test" if "test" in run.data.examples else "validation"
  return name, run.data.examples[name]


def perf(run, stage: Stage, found: dict[str, Any], seconds: float) -> dict[str, Any]:
  """What depends on the machine: seconds of the step, tokens and samples per second, model FLOP
  utilisation where the peak is known, memory.

  FLOPs are 2 per parameter and token of a forward pass and 6 of an update, embeddings left out;
  attention scores don't count, and padding in supervised steps alone.
  """
  lengths = run.data.lengths
  samples = (
    float(found["length"].weight)
    if "length" in found
    else float(stage.settings.batch * len(stage.fields))
  )
  rows = run.data.turns.get(stage.name)  # of sequences, the turns behind the first: their mean
  further = 0.0 if rows is None else stage.settings.batch * ((rows >= 0).sum() / len(rows) - 1.0)
  tokens = (
    float(found["length"].sum)
    if "length" in found
    else samples * (2 * lengths.state + lengths.action)
    + further * (lengths.state + lengths.action)
  )
  flops = _flops(run, stage, tokens, samples * (lengths.state + lengths.action))
  out = {
    "seconds": seconds,
    "tokens_per_second": tokens / seconds,
    "samples_per_second": samples / seconds,
    **metrics.memory(),
  }
  used = metrics.mfu(flops, seconds, run.mesh.size)
  return out if used is None else out | {"mfu": used}


def _flops(run, stage: Stage, tokens: float, scored: float) -> float:
  """Of a step that samples and learns `tokens`, or learns them alone, and has `scored` scored."""
  role = run.players.of(stage.fields[0])
  c = role.config
  matrices = c.n_layers * (
    c.d_model * c.head_dim * 2 * (c.n_heads + c.n_kv_heads) + 3 * c.d_model * c.d_ff
  )
  whole = matrices + c.d_model * c.vocab_size
  if stage.kind == "sft":
    return 6.0 * tokens * whole
  policy = matrices + c.d_model * columns.count(role.decoding.allowed, c.vocab_size)
  streams = 1 if stage.settings.guidance == 1.0 else 2
  return (2.0 * streams + 6.0) * tokens * policy + 2.0 * scored * whole


def drawing(run, field: str) -> TransformerRole:
  """The role of a run, under way or only read, drawing as its phase does."""
  phase = run.settings.phase1 if field == "y" else run.settings.phase2
  return drawn_with(run.players.of(field), phase)


def _common(run, field: str) -> dict[str, Any]:
  phase = run.settings.phase1 if field == "y" else run.settings.phase2
  return {
    "temperature": phase.temperature,
    "batch": run.settings.evaluation.batch,
    "world": run.data.world,
  }


def _latents(run, params, key, *, shown: int) -> dict[str, Any]:
  """Latent actions of the first validation pairs, whose true actions are the reference."""
  split = one_step.head(run.data.examples["validation"], 400)
  reference = [record.z for record in split.records]
  return one_step.latents(
    drawing(run, "z"),
    params,
    split,
    key=key,
    shown=shown,
    reference=reference,
    **_common(run, "z"),
  )


def _gallery(run, models: dict[str, str]) -> list[dict[str, Any]]:
  """Evenly spaced test transitions with the greedy prediction of each method's FWM."""
  (split, test), shown = _shown(run), []
  for method, name in models.items():
    decoded = one_step.decode(
      drawing(run, "y"),
      run.model(name),
      test.data,
      group=1,
      greedy=True,
      batch=run.settings.evaluation.batch,
    )
    texts = one_step.texts(run.data.world.tokenizer, decoded)
    rows = np.unique(
      np.linspace(0, len(texts) - 1, min(run.settings.evaluation.gallery, len(texts))).astype(int)
    )
    shown += one_step.gallery(test, texts, rows.tolist(), method=method, split_name=split)
  return shown


def _row(stage: Stage, model: str, split: str, found, by_episode=None) -> dict[str, Any]:
  row = {
    "stage": stage.name,
    "iteration": stage.iteration,
    "method": stage.method,
    "model": model,
    "split": split,
    "updates": stage.updates,
    "metrics": found,
  }
  return row if by_episode is None else row | {"by_episode": by_episode}


def _final_row(method: str, model: str, split: str, found, by_episode=None) -> dict[str, Any]:
  row = {
    "stage": "final",
    "iteration": 0,
    "method": method,
    "model": model,
    "split": split,
    "updates": 0,
    "metrics": found,
  }
  return row if by_episode is None else row | {"by_episode": by_episode}
