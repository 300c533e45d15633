"""One stage of a run: batch → step → log → validate → save, from its start or from a checkpoint."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from absl import logging

from swirl_jax import inputs, metrics, phases, programs, rng, scoring, sharding
from swirl_jax import start as starts
from swirl_jax.data import pipeline
from swirl_jax.evaluation import one_step
from swirl_jax.files import dump
from swirl_jax.plan import Stage


class Preempted(Exception):
  """SIGTERM came; everything is saved."""


class TrainingError(RuntimeError):
  """A run can't go on: loss, gradient or reward wasn't finite, or no annotated pair serves. The
  message names the stage or step and what was saved.
  """


class StageRun:
  """One stage under way: the policy's state, what it reads, and the loop over its steps."""

  def __init__(self, run, index: int, stage: Stage):
    self.run, self.index, self.stage = run, index, stage
    self.settings = stage.settings
    self.is_phase = stage.kind != "sft"
    self.best, self.latents, self.step = None, None, 0
    self.annotating = None  # seconds that the latents took, until a row has told
    self.early = {"score": -1.0, "bad": 0}
    self.spec = programs.stage_spec(stage, run.players)
    if self.is_phase:
      self.hyper = programs.hyper(dataclasses.replace(self.settings, steps=stage.steps))
    else:
      self.hyper = programs.schedule(self.settings, stage.steps)

  def begin(self) -> None:
    run, stage = self.run, self.stage
    config = run.players.fwm.config
    start = (
      run.models[stage.start]
      if stage.start
      else starts.initial_params(
        run.settings, config, run.data.world, rng.stream(run.root, "init", stage.name)
      )
    )
    self.state = programs.initial_state(self.spec.optimizer, start)
    if stage.annotates:
      logging.info("%s: annotating the unlabelled pairs.", stage.name)
      frozen = run.whole(programs.frozen_copy(run.models[stage.frozen], config))
      found, self.annotating = inputs.annotate(
        run.players.idm, frozen, run.data.arrays["unlabelled"], batch=run.settings.evaluation.batch
      )
      self.latents = jax.device_put(found, sharding.replicated(run.mesh))

  def resume(self, meta, arrays) -> None:
    self.step, self.early = meta["step"], meta["early"]
    self.state, self.best, self.latents = arrays["state"], arrays.get("best"), arrays.get("latents")

  def params(self) -> Any:
    """What the stage leaves: the best on validation where it stops early, else the last."""
    return self.state.params if self.best is None else self.best

  def train(self) -> None:
    """The loop: batch → step → log → validate → save."""
    run, stage = self.run, self.stage
    program, slots = run.compiled(self.spec, self.state), self._slots()
    try:
      batch_of = self._batches()
    except ValueError as error:  # of what the models wrote, which nobody could know before
      raise TrainingError(f"stage {stage.title}: {error} Checkpoints are untouched.") from error
    saved_at = self.step
    with metrics.Progress(stage.steps, initial=self.step, description=stage.title) as bar:
      while self.step < stage.steps and not self._stopped():
        if run.guard.requested():
          if self.step > saved_at:
            self._save()
          run.stop_if_asked()
        batch = batch_of(self.step)
        clock = time.perf_counter()
        if self.is_phase:
          key = rng.stream(run.root, stage.name, stage.iteration, self.step)
          self.state, found = program(self.state, slots, batch, key, self.hyper)
        else:
          self.state, found = program(self.state, batch, self.hyper, run.base)
        found = jax.device_get(found)
        self._check(found, batch)
        row = self._row(found, time.perf_counter() - clock)
        self.step += 1
        self._validate(row)
        run.position += 1
        run.writer.write({"position": run.position, **row})
        bar.update(1, **{k: row[k] for k in ("reward", "loss", "validation") if k in row})
        if self.step % run.settings.checkpoint.every == 0 and self.step < stage.steps:
          self._save()
          saved_at = self.step
    if self.step > saved_at:  # before it is scored, which may take longer than a SIGTERM leaves
      self._save()

  def _save(self) -> None:
    arrays = {"state": self.state}
    if self.best is not None:
      arrays["best"] = self.best
    if self.latents is not None:
      arrays["latents"] = self.latents
    self.run.save(self.index, step=self.step, stage=arrays, early=self.early)

  def _stopped(self) -> bool:
    patience = 0 if self.is_phase else self.settings.patience
    return bool(patience) and self.early["bad"] >= patience

  def _validate(self, row: dict[str, Any]) -> None:
    """Scores the live parameters, and for early stopping keeps the best."""
    every = self.settings.validate_every
    if not every or self.step % every:
      return
    run = self.run
    score = float(
      np.mean(
        [
          one_step.quick(
          run.players.of(field),
            run.whole(self.state.params),
            run.data.examples["validation"],
            batch=run.settings.evaluation.batch,
            world=run.data.world,
          )
          for field in self.stage.fields
        ]
      )
    )
    row["validation"] = score
    if self.is_phase or not self.settings.patience:
      return
    if score > self.early["score"]:
      self.early = {"score": score, "bad": 0}
      self.best = programs.copy(self.state.params)
    else:
      self.early = {**self.early, "bad": self.early["bad"] + 1}

  def _slots(self) -> phases.Slots | None:
    """The frozen trees of a phase, in the compute dtype; a tree that fills two slots is passed
    once.
    """
    if not self.is_phase:
      return None
    run, stage, spec = self.run, self.stage, self.spec
    config, offload = run.players.fwm.config, run.settings.mesh.offload_frozen
    freeze = lambda name: programs.frozen_copy(run.models[name], config, offload=offload)  # noqa: E731
    prior = spec.reward.prior or spec.reference == "prior"
    return phases.Slots(
      frozen=freeze(stage.frozen),
      reference=freeze(stage.reference) if spec.reference == "snapshot" else None,
      prior=freeze("prior") if prior else None,
      base=run.base,
    )

  def _batches(self):
    """step → the batch on the mesh."""
    run, stage, s = self.run, self.stage, self.settings
    arrays = run.data.arrays
    seed = lambda what: inputs.seed_of(run.settings.seed, stage.name, stage.iteration, what)  # noqa: E731
    put = lambda tree: sharding.put_batch(tree, run.mesh)  # noqa: E731
    if self.is_phase:
      pairs = arrays["unlabelled"]
      if self.latents is not None:
        pairs = inputs.with_latents(pairs, self.latents, floor=s.latent_floor)
      prompts = pipeline.Batches(pairs, s.prompts, seed("prompts"))
      if not s.anchor:
        return lambda step: phases.Batch(put(prompts[step]))
      labels = arrays["fwm_labels" if stage.kind == "phase1" else "idm_labels"]
      anchors = pipeline.Batches(labels, s.anchor, seed("anchor"))
      return lambda step: phases.Batch(put(prompts[step]), put(anchors[step]))
    if stage.annotates:
      pseudo = inputs.with_latents(
        arrays["unlabelled"],
        self.latents,
        floor=run.settings.phase1.latent_floor,
        share=stage.confident,
      )
      if stage.data == ("pseudo",):
        source = pipeline.Batches(pseudo, s.batch, seed("pseudo"))
        return lambda step: (put(source[step]),)
      own = "fwm_labels" if stage.fields == ("y",) else "idm_labels"
      labels = inputs.widen(arrays[own], pseudo.z.tokens.shape[1])
      half = (
        pipeline.Batches(labels, s.batch // 2, seed("labels")),
        pipeline.Batches(pseudo, s.batch - s.batch // 2, seed("pseudo")),
      )
      return lambda step: (put(inputs.join(half[0][step], half[1][step])),)
    turns = {"y": run.data.turns[stage.name]} if s.turns > 1 else {}
    sources = [
      pipeline.Batches(arrays[name], s.batch, seed(name), turns=turns.get(field))
      for name, field in zip(stage.data, stage.fields, strict=True)
    ]
    return lambda step: tuple(put(source[step]) for source in sources)

  def _check(self, found, batch) -> None:
    """Stops the run where a number isn't finite: the step left the state as it was, and both go to
    disk.
    """
    if not found["nonfinite"].sum > 0:
      return
    run, stage = self.run, self.stage
    name = f"{stage.name}-{stage.iteration}-{self.step}"
    try:
      path = dump(run.folder / "failed", name, {"state": self.state, "batch": batch})
      where = f"are in {path}"
    except OSError as error:
      where = f"could not be written ({error})"
    raise TrainingError(
      f"stage {stage.name}, iteration {stage.iteration}, step {self.step}: loss, gradient or "
      f"reward is not finite ({metrics.to_floats(found)}). "
      f"The state before the step and its batch {where}; checkpoints are untouched."
    )

  def _row(self, found, seconds: float) -> dict[str, Any]:
    stage = self.stage
    perf = scoring.perf(self.run, stage, found, seconds)
    if self.annotating is not None:
      perf["annotating"], self.annotating = self.annotating, None
    return {
      "stage": stage.name,
      "method": stage.method,
      "kind": stage.kind,
      "iteration": stage.iteration,
      "step": self.step,
      **metrics.to_floats(found),
      "perf": perf,
    }
