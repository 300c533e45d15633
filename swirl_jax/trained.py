"""The models of a run's folder, for those who only read it."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from swirl_jax import inputs, plan, programs, sharding, start
from swirl_jax.checkpoint import Checkpointer
from swirl_jax.data import builders
from swirl_jax.models import lora
from swirl_jax.settings import Settings, from_config


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
  """A run's settings, world and roles, and what its newest whole checkpoint holds. `names` are the
  models that produce y (FWM) and z (IDM): one and the same with shared weights. `meta` is what the
  checkpoint says of itself: among others `models`, those it holds, and whether the run `finished`.
  """

  settings: Settings
  world: builders.World
  players: programs.Roles
  names: dict[str, str]
  meta: Mapping[str, Any]
  mesh: jax.sharding.Mesh
  _checkpoints: Checkpointer
  position: int

  def models(self, *names: str) -> dict[str, Any]:
    """The parameters of the named models, on one device, as their roles take them: float32, or
    adapters joined to the base in the compute dtype.
    """
    config = self.players.fwm.config
    make = functools.partial(programs.trained_params, config)
    shape = jax.eval_shape(make, jax.random.key(0))
    at = sharding.tree_shardings(shape, self.mesh)
    shape = jax.tree.map(lambda s, a: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=a), shape, at)
    wanted = {"models": dict.fromkeys(names, shape)}
    with jax.set_mesh(self.mesh):
      found = self._checkpoints.restore(self.position, wanted, partial=True)["models"]
      if not config.lora_rank:
        return found
      base = start.base_params(self.settings, config, self.world)
      return {name: lora.join(base, adapters) for name, adapters in found.items()}


@contextlib.contextmanager
def open_run(workdir: str) -> Iterator[TrainedRun]:
  """The run in a folder, in which nothing is changed. ValueError where it isn't the folder of a
  run, or there is no whole checkpoint with both models in it.
  """
  folder = pathlib.Path(workdir)
  path = folder / "config.json"
  if not path.exists():
    raise ValueError(
      f"workdir = {workdir!r}: no config.json there, so it isn't the folder of a run."
    )
  try:
    settings = from_config(json.loads(path.read_text()))
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  world = start.world_of(settings, folder)
  players = players_of(settings, world)
  if players.fwm.config.lora_rank:  # the base that its adapters stand on is in no checkpoint
    start.check_pretrained(settings, folder)
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  with Checkpointer(folder / "checkpoints", read_only=True) as found:
    latest = found.latest()
    if latest is None:
      raise ValueError(f"workdir = {workdir!r}: no whole checkpoint there yet.")
    position, meta = latest
    names = _newest(settings, meta["models"])
    yield TrainedRun(settings, world, players, names, meta, mesh, found, position)


def players_of(settings: Settings, world: builders.World) -> programs.Roles:
  return programs.make_roles(settings, world.tokenizer, inputs.lengths_of(world))


def _newest(settings: Settings, saved: list[str]) -> dict[str, str]:
  """The trained models where there are any, else the warm ones; ValueError before the warm-up."""
  stages = plan.make_plan(settings)
  warm, final = plan.warm_models(stages), plan.final_models(stages)
  names = {field: final[field] if final[field] in saved else warm[field] for field in "yz"}
  missing = sorted(set(names.values()) - set(saved))
  if missing:
    raise ValueError(
      f"the run has not trained {', '.join(missing)} yet: its checkpoint holds {', '.join(saved)}."
    )
  return names
