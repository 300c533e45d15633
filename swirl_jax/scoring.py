"""What a run measures on its models: after each stage, at the end, and how fast each step was."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from swirl_jax import metrics, rng
from swirl_jax.data import transitions
from swirl_jax.evaluation import multi_turn, one_step
from swirl_jax.models import columns
from swirl_jax.plan import Stage, final_models, warm_models
from swirl_jax.programs import Lengths, Roles, drawn_with
from swirl_jax.roles import TransformerRole


def stage_rows(run, stage: Stage) -> Iterator[dict[str, Any]]:
  """Rows of evaluations.jsonl for the model that a stage left, each as soon as it is measured: one
  for each of its parts and splits; for the IDM its latent actions too. A SIGTERM is seen between.
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
        run.stop_if_asked()
        key = rng.stream(run.root, "evaluation", stage.name, stage.iteration, field, split)
        found = measure(role, params, run.data.examples[split], key=key, **_common(run, field))
        model = "fwm" if field == "y" else "idm"
        yield _row(stage, model, split, found["metrics"], found["by_episode"])
        bar.update()
      if field == "z":
        run.stop_if_asked()
        key = rng.stream(run.root, "evaluation", stage.name, stage.iteration, "latents")
        found = _latents(run, params, key, shown=0)
        yield _row(stage, "latents", "validation", found["metrics"])
        bar.update()


def final(run) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Rows for what is measured once: what the IDM's best of n reaches on the warm FWM (on validation
  a ceiling, on test a rival: test-time verification), and rollouts over several turns of the warm
  FWM and, if a model was trained further, the final one; and what samples.json holds.
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
  models = {"warmup": warm["y"]} | ({} if now == warm else {"swirl": now["y"]})
  for method, name in models.items():
    turns = multi_turn.multi_turn(
      fwm, run.model(name), test, chains, batch=e.batch, world=data.world, shown=6
    )
    rows.append(_final_row(method, "multi_turn", shown, turns["metrics"]))
    samples["chains"] = turns["chains"]
  samples["gallery"] = _gallery(run, dict(reversed(models.items())))
  key = rng.stream(run.root, "evaluation", "final_latents")
  samples["latents"] = _latents(run, run.model(now["z"]), key, shown=24)["examples"]
  return rows, samples


def _shown(run) -> tuple[str, one_step.Examples]:
  """The split that pictures and chains are of: test, where it is scored."""
  name = "test" if "test" in run.data.examples else "validation"
  return name, run.data.examples[name]


def perf(run, stage: Stage, found: dict[str, Any], seconds: float) -> dict[str, Any]:
  """What depends on the machine: seconds of the step, tokens (sampled ones in a phase) and samples
  per second, model FLOP utilisation where the peak is known, memory.
  """
  lengths = run.data.lengths
  if stage.kind == "sft":
    rows = run.data.turns.get(stage.name)  # of sequences, the turns behind the first: their mean
    further = 0.0 if rows is None else (rows >= 0).sum() / len(rows) - 1.0
    samples = float(stage.settings.batch * len(stage.fields))
    tokens = samples * (2 * lengths.state + lengths.action)
    tokens += stage.settings.batch * further * (lengths.state + lengths.action)
    role = run.players.of(stage.fields[0])
    flops = 2.0 * _update(role) * tokens * _matrices(role)
  else:
    samples, tokens = float(found["length"].weight), float(found["length"].sum)
    flops = phase_flops(stage, run.players, lengths, tokens)
  out = {
    "seconds": seconds,
    "tokens_per_second": tokens / seconds,
    "samples_per_second": samples / seconds,
    **metrics.memory(),
  }
  used = metrics.mfu(flops, seconds, run.mesh.size)
  return out if used is None else out | {"mfu": used}


def phase_flops(stage: Stage, players: Roles, lengths: Lengths, sampled: float) -> float:
  """Model FLOPs of a phase's step that samples `sampled` tokens: 2 per parameter and token of a
  forward pass, 6 of an update, 4 of adapters'; a group's prompt counts once a pass. Embeddings,
  attention scores, adapters and recomputation don't count; what a model is given counts at its full
  length, padding too.
  """
  s, first = stage.settings, stage.kind == "phase1"
  policy, frozen = (players.of(f) for f in ("yz" if first else "zy"))
  state, action = lengths.state, lengths.action
  pair = s.prompts * 2 * state
  tokens = sampled + (s.prompts * (state + action) if first else pair)
  kept = (s.keep or s.prompts) / s.prompts
  passes = 1.0 if s.guidance == 1.0 else 2.0  # of the sampler
  passes += kept * (_update(policy) * s.inner_epochs + (s.inner_epochs > 1) + (s.beta > 0.0))
  columns_drawn = columns.count(policy.decoding.allowed, policy.config.vocab_size)
  flops = passes * tokens * _matrices(policy, columns_drawn)
  flops += s.reward.prior * tokens * _matrices(policy)
  anchors = s.anchor * (2 * state + action)
  flops += _update(policy) * s.inner_epochs * anchors * _matrices(policy)
  if not s.reward.random:
    flops += s.prompts * (state + s.group * (state + action)) * _matrices(frozen)
  if first and s.latents == "fresh":
    flops += (pair + s.prompts * action) * _matrices(frozen)
  return 2.0 * flops


def _update(role: TransformerRole) -> float:
  """Forward passes that an update is worth: no gradient is taken of kernels beside adapters."""
  return 2.0 if role.config.lora_rank else 3.0


def _matrices(role: TransformerRole, columns_of_head: int | None = None) -> int:
  """Parameters that multiply a token: those of the layers and of the head (its columns that are
  drawn from, or all).
  """
  c = role.config
  attention = c.d_model * c.head_dim * 2 * (c.n_heads + c.n_kv_heads)
  head = c.d_model * (c.vocab_size if columns_of_head is None else columns_of_head)
  return c.n_layers * (attention + 3 * c.d_model * c.d_ff) + head


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
