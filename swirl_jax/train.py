"""A whole run: data → warm-up → (Phase I, Phase II) × iterations → comparisons → report.

What comes next is a function of (settings, stage, step) and of what the last checkpoint holds, so a
run that was killed goes on as if it had not been.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from swirl_jax import inputs, metrics, phases, programs, report, scoring, sharding, start
from swirl_jax.checkpoint import Checkpointer
from swirl_jax.files import check_config, folder_to_write, read_json, write_json_atomic
from swirl_jax.hosts import PreemptionGuard, any_process, is_first
from swirl_jax.models import lora
from swirl_jax.plan import make_plan, needed
from swirl_jax.settings import Settings, from_config
from swirl_jax.stage_run import Preempted, StageRun
from swirl_jax.whole_files import locked

# Fields of the config that another start in the same work directory may change. Results are the
# same bits only on the same mesh; a checkpoint may have moved, and is known by its digest.
MAY_CHANGE = ("checkpoint", "mesh", "pretrained")


class Job(NamedTuple):
  """A run that can start: its settings are possible, its data is there and tokenised, and no other
  process is at work in its folder, for which `lock` is held until `train` returns.
  """

  config: Mapping[str, Any]
  settings: Settings
  folder: pathlib.Path
  mesh: jax.sharding.Mesh
  players: programs.Roles
  data: inputs.Data
  lock: contextlib.ExitStack


def prepare(config: Mapping[str, Any], workdir: str) -> Job:
  """Checks a config, opens its work directory, collects the data.

  Raises ValueError, before anything expensive, for a config that can't be or isn't that of the work
  directory, and for a work directory in which another process is at work.
  """
  if not workdir or "://" in workdir:
    raise ValueError(f"workdir = {workdir!r}: allowed is a path of a mounted file system.")
  settings = from_config(config)
  mesh = sharding.make_mesh(
    data=settings.mesh.data, fsdp=settings.mesh.fsdp, tensor=settings.mesh.tensor
  )
  folder = pathlib.Path(workdir)
  with _alone_in(folder) as lock:
    check_workdir(config, folder)
    world = start.world_of(settings, folder)
    players = programs.make_roles(settings, world.tokenizer, inputs.lengths_of(world))
    for stage in make_plan(settings):
      programs.stage_spec(stage, players)
    checkpoint = start.check_pretrained(settings, folder)
    where = start.data_dir(settings, folder)
    try:
      data = inputs.load(settings, world, where)
    except OSError as error:
      raise ValueError(f"data.dir = {where!r}: {error}") from error
    if not (folder / "config.json").exists():  # from here on the folder is this config's
      record_start(config, folder)
    if is_first():
      write_json_atomic(folder / "dataset.json", {**data.summary, **checkpoint})
    return Job(config, settings, folder, mesh, players, data, lock.pop_all())


def train(job: Job, *, profile: bool = False) -> str:
  """Runs a job, or resumes it, and returns the table of its results ("" on processes other than the
  first).

  Raises `Preempted` once a SIGTERM's checkpoint is saved, `TrainingError` where numbers stop being
  finite, `CheckpointError` where one can't be written, `CheckpointFilesError` for weights that are
  not what the config of `pretrained` says.
  """
  settings, folder = job.settings, job.folder
  with job.lock:
    with (
      jax.set_mesh(job.mesh),
      Checkpointer(folder / "checkpoints", keep=settings.checkpoint.keep) as checkpointer,
      metrics.MetricWriter(folder) as writer,
      PreemptionGuard() as guard,
      metrics.profile(folder, profile),
    ):
      run = Run(settings, job.data, job.players, checkpointer, writer, guard, folder)
      start = run.restore()
      if not run.finished:
        record_start(job.config, folder)
      for index in range(start, len(run.plan)):
        run.run_stage(index)
      if not run.finished:
        run.finish()
    return report.write(folder, job.data.world) if is_first() else ""


def check_workdir(config: Mapping[str, Any], folder: pathlib.Path) -> None:
  """Raises ValueError where the folder holds a run of another config."""
  path = folder / "config.json"
  if path.exists():
    check_config(read_json(path), dict(config), MAY_CHANGE)


def _alone_in(folder: pathlib.Path) -> contextlib.ExitStack:
  """The folder's lock. ValueError, on every process, where another run has it: each would cut the
  other's rows and checkpoints.
  """
  lock, held = contextlib.ExitStack(), False
  if is_first():
    folder_to_write("workdir", str(folder))
    try:
      lock.enter_context(locked(folder / ".lock", wait=False))
    except BlockingIOError:
      held = True
  if any_process(held):
    raise ValueError(f"workdir = {str(folder)!r}: another process is at work there.")
  return lock


def record_start(config: Mapping[str, Any], folder: pathlib.Path) -> None:
  """Writes config.json, and versions.json: what the run began with and, under "later", what was
  another at each later start.
  """
  if not is_first():
    return
  write_json_atomic(folder / "config.json", json.loads(json.dumps(dict(config))))
  path, now = folder / "versions.json", metrics.versions()
  began = read_json(path) if path.exists() else now
  last = functools.reduce(lambda a, b: a | b, began.get("later", []), began)
  changed = {name: value for name, value in now.items() if last.get(name) != value}
  if changed:
    began["later"] = [*began.get("later", []), changed]
  write_json_atomic(path, began)


class Run:
  """The state of a run between steps: models by name, the stage under way, and the number of metric
  rows so far (`position`).
  """

  def __init__(
    self,
    settings: Settings,
    data: inputs.Data,
    players: programs.Roles,
    checkpointer,
    writer,
    guard,
    folder,
  ):
    self.settings, self.data, self.players, self.folder = settings, data, players, folder
    self.checkpointer, self.writer, self.guard = checkpointer, writer, guard
    self.plan = make_plan(settings)
    self.root = jax.random.key(settings.seed)
    self.mesh = sharding.mesh_in_use()
    self.models: dict[str, Any] = {}
    self.base = start.base_params(settings, players.fwm.config, data.world)  # adapters share it
    self.position = -1
    self.finished = False
    self._compiled: dict[Any, Any] = {}
    self._under_way: tuple[dict, dict] | None = (
      None  # (meta, arrays) of a stage that a checkpoint was taken in
    )

  def whole(self, params: Any) -> Any:
    """What a role runs: the parameters, or adapters joined to the base."""
    return params if self.base is None else lora.join(self.base, params)

  def model(self, name: str) -> Any:
    return self.whole(self.models[name])

  # -- where a run goes on -----------------------------------------------------------------------

  def restore(self) -> int:
    """Loads the newest whole checkpoint and cuts what was logged after it. Returns the stage to run
    next.
    """
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

  def save(
    self,
    index: int,
    *,
    step: int = 0,
    stage: Mapping[str, Any] | None = None,
    early: Any = None,
    finished: bool = False,
  ) -> None:
    """Everything that a later step reads, at the position of the last row."""
    latents = stage.get("latents") if stage else None
    meta = {
      "stage": index,
      "step": step,
      "models": sorted(self.models),
      "early": early,
      "finished": finished,
      "best": bool(stage and "best" in stage),
      "latents": None if latents is None else list(latents.tokens.shape),
    }
    arrays = {"models": self.models} | ({"stage": dict(stage)} if stage else {})
    self.checkpointer.save(self.position, arrays, meta)

  def _template(self, meta) -> dict[str, Any]:
    """The shapes, dtypes and layout of a checkpoint, from its meta alone."""
    params = jax.eval_shape(lambda: programs.trained_params(self.players.fwm.config, self.root))
    tree: dict[str, Any] = {"models": {name: params for name in meta["models"]}}
    if meta["step"]:
      stage = self.plan[meta["stage"]]
      new = functools.partial(programs.new_state, stage.settings.optimizer.build())
      tree["stage"] = {"state": jax.eval_shape(new, params)}
      if meta["best"]:
        tree["stage"]["best"] = params
      if meta["latents"]:
        shape = tuple(meta["latents"])
        tree["stage"]["latents"] = inputs.Latents(
          *(
            jax.ShapeDtypeStruct(s, t)
            for s, t in ((shape, np.int32), (shape, bool), (shape[:1], np.float32))
          )
        )
    layout = sharding.tree_shardings(tree, self.mesh)
    return jax.tree.map(
      lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), tree, layout
    )

  # -- one stage ---------------------------------------------------------------------------------

  def run_stage(self, index: int) -> None:
    """Trains a stage from its start, or from where a checkpoint left it; evaluates, keeps its
    model, and saves.
    """
    stage = self.plan[index]
    work = StageRun(self, index, stage)
    if self._under_way is not None:
      work.resume(*self._under_way)
      self._under_way = None
    else:
      work.begin()
    work.train()
    left = stage.steps - work.step  # where it stopped early
    stage = dataclasses.replace(stage, updates=max(0, stage.updates - left))
    self.models[stage.result] = work.params()
    self.position += 1
    for row in scoring.stage_rows(self, stage):
      self.writer.write_evaluation({"position": self.position, **row})
    keep = needed(self.plan, index + 1)
    self.models = {name: params for name, params in self.models.items() if name in keep}
    self.save(index + 1)

  def stop_if_asked(self) -> None:
    """Where a SIGTERM has come: raises Preempted, once what is being saved is whole on disk."""
    if self.guard.requested():
      self.checkpointer.wait()
      raise Preempted()

  def finish(self) -> None:
    """What is measured on the final models alone, the pictures' data, and the mark that the run is
    over.
    """
    self.stop_if_asked()
    self.position += 1
    rows, samples = scoring.final(self)
    for row in rows:
      self.writer.write_evaluation({"position": self.position, **row})
    if is_first():
      write_json_atomic(self.folder / "samples.json", samples)
    self.save(len(self.plan), finished=True)
    self.checkpointer.wait()

  def compiled(self, spec, state):
    """The jitted step of a spec: one for the whole run, however many stages use it."""
    if spec not in self._compiled:
      make = programs.phase_program if isinstance(spec, phases.PhaseSpec) else programs.sft_program
      self._compiled[spec] = make(spec, state)
    return self._compiled[spec]
