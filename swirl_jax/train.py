"""A whole run: data → warm-up → (Phase I, Phase II) × iterations → comparisons → report.

What comes next is a function of (settings, stage, step) and of what the last checkpoint holds, so a run that was killed goes on as if it had not been.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from swirl_jax import inputs, metrics, phases, programs, report, rng, scoring, sharding
from swirl_jax.checkpoint import Checkpointer, PreemptionGuard, check_config, dump, write_json_atomic
from swirl_jax.data import builders, pipeline
from swirl_jax.evaluation import one_step
from swirl_jax.models import transformer
from swirl_jax.plan import Stage, make_plan, needed
from swirl_jax.settings import Settings, from_config

# Fields of the config that another start in the same work directory may change. Results are the same bits only on the same mesh.
MAY_CHANGE = ("checkpoint", "mesh")


class Preempted(Exception):
  """SIGTERM came; everything is saved."""


class TrainingError(RuntimeError):
  """Loss, gradient or reward wasn't finite. The message names the step and what was saved."""


class Job(NamedTuple):
  """A run that can start: its settings are possible, its data is there and tokenised."""

  settings: Settings
  folder: pathlib.Path
  mesh: jax.sharding.Mesh
  players: programs.Roles
  data: inputs.Data


def prepare(config: Mapping[str, Any], workdir: str) -> Job:
  """Checks a config, opens its work directory, collects the data.

  Raises ValueError, before anything expensive, for a config that can't be or isn't that of the work directory.
  """
  settings = from_config(config)
  mesh = sharding.make_mesh(data=settings.mesh.data, fsdp=settings.mesh.fsdp, tensor=settings.mesh.tensor)
  world = builders.get(settings.world["name"])
  players = programs.make_roles(settings, world.tokenizer, inputs.lengths_of(world))
  make_plan(settings)
  folder = pathlib.Path(workdir)
  open_workdir(config, folder)
  data = inputs.load(settings, settings.data.dir or str(folder / "data"))
  if jax.process_index() == 0:
    write_json_atomic(folder / "dataset.json", data.summary)
  return Job(settings, folder, mesh, players, data)


def train(job: Job, *, profile: bool = False) -> str:
  """Runs a job, or resumes it, and returns the table of its results ("" on processes other than the first).

  Raises `Preempted` once a SIGTERM's checkpoint is saved, `TrainingError` where numbers stop being finite, `CheckpointError` where one
  can't be written.
  """
  settings, folder = job.settings, job.folder
  with jax.set_mesh(job.mesh), Checkpointer(folder / "checkpoints", keep=settings.checkpoint.keep) as checkpointer, \
       metrics.MetricWriter(folder) as writer, PreemptionGuard() as guard, metrics.profile(folder, profile):
    run = Run(settings, job.data, job.players, checkpointer, writer, guard, folder)
    start = run.restore()
    for index in range(start, len(run.plan)):
      run.run_stage(index)
    if not run.finished:
      run.finish()
  return report.write(folder, job.data.world) if jax.process_index() == 0 else ""


def open_workdir(config: Mapping[str, Any], folder: pathlib.Path) -> None:
  """Writes config.json and versions.json, or checks that the config there is this one. Nothing is overwritten before the check."""
  path = folder / "config.json"
  config = json.loads(json.dumps(dict(config)))
  if path.exists():
    check_config(json.loads(path.read_text()), config, MAY_CHANGE)
  if jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, config)
    write_json_atomic(folder / "versions.json", metrics.versions())


class Run:
  """The state of a run between steps: models by name, the stage under way, and the number of metric rows so far (`position`)."""

  def __init__(self, settings: Settings, data: inputs.Data, players: programs.Roles, checkpointer, writer, guard, folder):
    self.settings, self.data, self.players, self.folder = settings, data, players, folder
    self.checkpointer, self.writer, self.guard = checkpointer, writer, guard
    self.plan = make_plan(settings)
    self.root = jax.random.key(settings.seed)
    self.mesh = sharding.mesh_in_use()
    self.models: dict[str, Any] = {}
    self.position = -1
    self.finished = False
    self._compiled: dict[Any, Any] = {}
    self._under_way: tuple[dict, dict] | None = None  # (meta, arrays) of a stage that a checkpoint was taken in

  # -- where a run goes on -----------------------------------------------------------------------

  def restore(self) -> int:
    """Loads the newest whole checkpoint and cuts what was logged after it. Returns the stage to run next."""
    found = self.checkpointer.latest()
    if found is None:
      self.writer.truncate_after(-1)
      return 0
    self.position, meta = found
    if meta["finished"]:
      self.finished = True
      return len(self.plan)
    self.writer.truncate_after(self.position)
    template = self._template(meta)
    state = self.checkpointer.restore(self.position, template)
    self.models = state["models"]
    if meta["step"]:
      self._under_way = meta, state["stage"]
    logging.info("Resuming at stage %d, step %d.", meta["stage"], meta["step"])
    return meta["stage"]

  def save(self, index: int, *, step: int = 0, stage: Mapping[str, Any] | None = None, early: Any = None, finished: bool = False) -> None:
    """Everything that a later step reads, at the position of the last row."""
    latents = stage.get("latents") if stage else None
    meta = {
      "stage": index, "step": step, "models": sorted(self.models), "early": early, "finished": finished,
      "best": bool(stage and "best" in stage), "latents": None if latents is None else list(latents.tokens.shape),
    }
    arrays = {"models": self.models} | ({"stage": dict(stage)} if stage else {})
    self.checkpointer.save(self.position, arrays, meta)

  def _template(self, meta) -> dict[str, Any]:
    """The shapes, dtypes and layout of a checkpoint, from its meta alone."""
    params = jax.eval_shape(lambda: transformer.init_params(self.players.fwm.config, self.root))
    tree: dict[str, Any] = {"models": {name: params for name in meta["models"]}}
    if meta["step"]:
      stage = self.plan[meta["stage"]]
      new = functools.partial(programs.new_state, stage.settings.optimizer.build())
      tree["stage"] = {"state": jax.eval_shape(new, params)}
      if meta["best"]:
        tree["stage"]["best"] = params
      if meta["latents"]:
        shape = tuple(meta["latents"])
        tree["stage"]["latents"] = inputs.Latents(*(
          jax.ShapeDtypeStruct(s, t) for s, t in ((shape, np.int32), (shape, bool), (shape[:1], np.float32))))
    layout = sharding.tree_shardings(tree, self.mesh)
    return jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), tree, layout)

  # -- one stage ---------------------------------------------------------------------------------

  def run_stage(self, index: int) -> None:
    """Trains a stage from its start, or from where a checkpoint left it; evaluates, keeps its model, and saves."""
    stage = self.plan[index]
    work = StageRun(self, index, stage)
    if self._under_way is not None:
      work.resume(*self._under_way)
      self._under_way = None
    else:
      work.begin()
    work.train()
    self.models[stage.result] = work.params()
    self.position += 1
    for row in scoring.stage_rows(self, stage):
      self.writer.write_evaluation({"position": self.position, **row})
    keep = needed(self.plan, index + 1, self.settings)
    self.models = {name: params for name, params in self.models.items() if name in keep}
    self.save(index + 1)

  def finish(self) -> None:
    """What is measured on the final models alone, the pictures' data, and the mark that the run is over."""
    self.position += 1
    rows, samples = scoring.final(self)
    for row in rows:
      self.writer.write_evaluation({"position": self.position, **row})
    if jax.process_index() == 0:
      write_json_atomic(self.folder / "samples.json", samples)
    self.save(len(self.plan), finished=True)
    self.checkpointer.wait()

  def compiled(self, spec, state):
    """The jitted step of a spec: one for the whole run, however many stages use it."""
    if spec not in self._compiled:
      make = programs.phase_program if isinstance(spec, phases.PhaseSpec) else programs.sft_program
      self._compiled[spec] = make(spec, state)
    return self._compiled[spec]


class StageRun:
  """One stage under way: the policy's state, what it reads, and the loop over its steps."""

  def __init__(self, run: Run, index: int, stage: Stage):
    self.run, self.index, self.stage = run, index, stage
    self.settings = stage.settings
    self.is_phase = stage.kind != "sft"
    self.best, self.latents, self.step = None, None, 0
    self.early = {"score": -1.0, "bad": 0}
    if self.is_phase:
      shared = run.settings.weights == "shared"
      self.spec = programs.phase_spec(self.settings, run.players, phase=stage.kind, shared=shared)
      self.hyper = programs.hyper(dataclasses.replace(self.settings, steps=stage.steps))
    else:
      roles = tuple(run.players.of(field) for field in stage.fields)
      self.spec = programs.sft_spec(self.settings, roles, hide_z=stage.hide_z)
      self.hyper = programs.schedule(self.settings, stage.steps)

  def begin(self) -> None:
    run, stage = self.run, self.stage
    config = run.players.fwm.config
    start = run.models[stage.start] if stage.start else programs.initial_params(config, rng.stream(run.root, "init", stage.name))
    self.state = programs.initial_state(self.spec.optimizer, start)
    if "mixed" in stage.data or (self.is_phase and stage.kind == "phase1" and self.settings.latents == "cached"):
      logging.info("%s: annotating the unlabelled pairs.", stage.name)
      frozen = programs.frozen_copy(run.models[stage.frozen], config)
      found = inputs.annotate(run.players.idm, frozen, run.data.arrays["unlabelled"], batch=run.settings.evaluation.batch)
      self.latents = jax.device_put(found, sharding.replicated(run.mesh))

  def resume(self, meta, arrays) -> None:
    self.step, self.early = meta["step"], meta["early"]
    self.state, self.best, self.latents = arrays["state"], arrays.get("best"), arrays.get("latents")

  def params(self) -> Any:
    """What the stage leaves: the best parameters on validation where it stops early, else the last."""
    return self.state.params if self.best is None else self.best

  def train(self) -> None:
    """The loop: batch → step → log → validate → save."""
    run, stage = self.run, self.stage
    program, slots, batch_of = run.compiled(self.spec, self.state), self._slots(), self._batches()
    title = stage.name + (f" {stage.iteration}/{run.settings.swirl.iterations}" if stage.iteration else "")
    saved_at = self.step
    with metrics.Progress(stage.steps, initial=self.step, description=title) as bar:
      while self.step < stage.steps and not self._stopped():
        if run.guard.requested():
          if self.step > saved_at:
            self._save()
          raise Preempted()
        batch = batch_of(self.step)
        clock = time.perf_counter()
        if self.is_phase:
          key = rng.stream(run.root, stage.name, stage.iteration, self.step)
          self.state, found = program(self.state, slots, batch, key, self.hyper)
        else:
          self.state, found = program(self.state, batch, self.hyper)
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
    """Early stopping: scores the live parameters and keeps the best."""
    if self.is_phase or not self.settings.patience or self.step % self.settings.validate_every:
      return
    run = self.run
    score = float(np.mean([
      one_step.quick(run.players.of(field), self.state.params, run.data.examples["validation"],
                     batch=run.settings.evaluation.batch, world=run.data.world)
      for field in self.stage.fields]))
    row["validation"] = score
    if score > self.early["score"]:
      self.early = {"score": score, "bad": 0}
      self.best = programs.copy(self.state.params)
    else:
      self.early = {**self.early, "bad": self.early["bad"] + 1}

  def _slots(self) -> phases.Slots | None:
    """The frozen trees of a phase, in the compute dtype; a tree that fills two slots is passed once."""
    if not self.is_phase:
      return None
    run, stage, spec = self.run, self.stage, self.spec
    freeze = lambda name: programs.frozen_copy(run.models[name], run.players.fwm.config)  # noqa: E731
    prior = spec.reward.prior or spec.reference == "prior"
    return phases.Slots(
      frozen=freeze(stage.frozen),
      reference=freeze(stage.reference) if spec.reference == "snapshot" else None,
      prior=freeze("prior") if prior else None)

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
    if stage.data == ("mixed",):
      pseudo = inputs.with_latents(arrays["unlabelled"], self.latents, floor=run.settings.phase1.latent_floor)
      labels = inputs.widen(arrays["fwm_labels"], pseudo.z.tokens.shape[1])
      half = pipeline.Batches(labels, s.batch // 2, seed("labels")), pipeline.Batches(pseudo, s.batch - s.batch // 2, seed("pseudo"))
      return lambda step: (put(inputs.join(half[0][step], half[1][step])),)
    sources = [pipeline.Batches(arrays[name], s.batch, seed(name)) for name in stage.data]
    return lambda step: tuple(put(source[step]) for source in sources)

  def _check(self, found, batch) -> None:
    """Stops the run where a number isn't finite: the step left the state as it was, and both go to disk."""
    if not found["nonfinite"].sum > 0:
      return
    run, stage = self.run, self.stage
    name = f"{stage.name}-{stage.iteration}-{self.step}"
    path = dump(run.folder / "failed", name, {"state": self.state, "batch": batch})
    raise TrainingError(
      f"stage {stage.name}, iteration {stage.iteration}, step {self.step}: loss, gradient or reward is not finite "
      f"({metrics.to_floats(found)}). The state before the step and its batch are in {path}; checkpoints are untouched.")

  def _row(self, found, seconds: float) -> dict[str, Any]:
    stage = self.stage
    perf = scoring.perf(self.run, stage, found, seconds)
    return {"stage": stage.name, "iteration": stage.iteration, "step": self.step, **metrics.to_floats(found), "perf": perf}
