"""What a run's models start from: fresh parameters, or the checkpoint of a language model."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from swirl_jax import codecs, programs, rng, sharding, vq_run
from swirl_jax.data import builders, fast_tokenizers, image_tokenizers
from swirl_jax.data.builders import text_world
from swirl_jax.data.codec import Codec
from swirl_jax.files import read_json
from swirl_jax.hosts import any_process, is_first
from swirl_jax.models import huggingface, vocabulary
from swirl_jax.models.transformer import TransformerConfig
from swirl_jax.models.vq_training import VQTraining
from swirl_jax.settings import DataSettings, Settings
from swirl_jax.typed import build
from swirl_jax.whole_files import locked


def data_dir(settings: Settings, folder: os.PathLike) -> str:
  """Where the data of the run in a folder lies."""
  return settings.data.dir or str(pathlib.Path(folder) / "data")


def world_of(settings: Settings, folder: os.PathLike | None = None) -> builders.World:
  """The world of the run in a folder, read by the checkpoint's tokenizer where there is one.

  Raises ValueError where the world comes from another file than that of the run, and where the
  checkpoint is no model of this world's pictures.
  """
  own = {name: value for name, value in settings.world.items() if name != "name"}
  where = (settings.data.dir or None) if folder is None else data_dir(settings, folder)
  world = builders.get(settings.world["name"], own, where, codecs=codec_of_world)
  begun = None if folder is None else pathlib.Path(folder) / "dataset.json"
  if begun is not None and begun.exists():
    found = read_json(begun).get("source", "")
    if found != world.source:
      raise ValueError(
        f"the run in {str(folder)!r} was begun with a file whose SHA-256 is {found}; that of "
        f"{own} is now {world.source}. Restore the file, or choose another work directory."
      )
  if not settings.pretrained:
    return world
  checkpoint, d = huggingface.resolve(settings.pretrained), settings.data
  if world.codes is not None:
    return _of_images(world, checkpoint, d)
  reader = fast_tokenizers.open_tokenizer(checkpoint)
  return dataclasses.replace(world, reader=reader, state_len=d.state_len, action_len=d.action_len)


def check_pretrained(settings: Settings, folder: os.PathLike) -> dict[str, str]:
  """{"pretrained": SHA-256 of the checkpoint's files} for dataset.json, {} without a checkpoint.

  Raises ValueError, on every process, where they are not those that the run in the folder was begun
  with, wherever they lie now: later stages and adapters would stand on another model.
  """
  now, begun, found = "", pathlib.Path(folder) / "dataset.json", None
  if is_first():
    if settings.pretrained:
      now = huggingface.digest(huggingface.resolve(settings.pretrained))
    if begun.exists():
      found = read_json(begun).get("pretrained", "")
  if any_process(found is not None and found != now):
    raise ValueError(
      f"the run in {str(folder)!r} was begun with a checkpoint of the SHA-256 {found!r}; that of "
      f"pretrained = {settings.pretrained!r} is {now!r} now. Restore it (of the Hub: "
      "owner/name@revision), or choose another work directory."
    )
  return {"pretrained": now} if settings.pretrained else {}


def _of_images(world: builders.World, checkpoint: pathlib.Path, d: DataSettings) -> builders.World:
  """A world of pictures read by an image model's tokenizer: its codes have the model's ids."""
  if d.state_len != world.state_len:
    raise ValueError(
      f"data.state_len = {d.state_len}: a picture of this world has {world.state_len} codes; "
      "allowed is just that."
    )
  start, stop = world.codes
  reader = image_tokenizers.open_tokenizer(
    checkpoint, huggingface.read_config(checkpoint), codes=stop - start
  )
  return dataclasses.replace(world, reader=reader, codes=reader.codes, action_len=d.action_len)


def codec_of_world(
  settings: Mapping[str, Any], data_dir: str | None, pictures: Callable[[], np.ndarray] | None
) -> Codec | None:
  """The tokenizer of a world of pictures (`builders.Codecs`): the VQ model in the folder
  `settings["vq"]`; else one that is trained on the world's own pictures, as
  `settings["vq_training"]` says, into the data folder, when it is first asked. None for a world
  that has neither.

  Raises ValueError for settings and folders that can't be.
  """
  folder = settings["vq"]
  if not isinstance(folder, str):
    raise ValueError(f"config.world.vq = {folder!r}: allowed is the folder of a VQ model, or ''.")
  if folder:
    return codecs.open_codec(folder)
  if pictures is None:
    return None
  training = build(VQTraining, settings["vq_training"], "config.world.vq_training")
  digest = text_world.settings_digest(settings)
  described = Codec(training.vq.codes, training.vq.factor, digest)
  if data_dir is None:
    return described
  own = pathlib.Path(data_dir) / f"vq_{digest}"

  @functools.cache
  def opened() -> Codec:
    with locked(own.with_suffix(".lock")):
      if not (own / vq_run.MODEL).exists():
        vq_run.train(training, pictures(), own)
    return codecs.open_codec(own / vq_run.MODEL)

  return dataclasses.replace(
    described,
    encode=lambda pixels: opened().encode(pixels),
    decode=lambda codes: opened().decode(codes),
  )


def initial_params(
  settings: Settings, config: TransformerConfig, world: builders.World, key: jax.Array
) -> Any:
  """What a stage that has no model to start from trains, float32 on the mesh: the checkpoint's
  parameters, or fresh ones; of adapters always fresh ones.
  """
  if settings.pretrained and not config.lora_rank:
    return _checkpoint(settings, config, world, "float32")
  return programs.initial_params(config, key)


def base_params(settings: Settings, config: TransformerConfig, world: builders.World) -> Any:
  """The weights that the adapters of a run share, in the compute dtype, or None without adapters.

  The checkpoint's, or a function of the run's seed: either way no checkpoint of the run holds them.
  """
  if not config.lora_rank:
    return None
  if settings.pretrained:
    return _checkpoint(settings, config, world, config.dtype)
  return programs.initial_base(config, rng.stream(jax.random.key(settings.seed), "base"))


def _checkpoint(settings, config, world, dtype: str) -> Any:
  """The checkpoint's parameters, with a row for each token that its tokenizer was given."""
  mesh, reader = sharding.mesh_in_use(), world.reader
  found = huggingface.load(settings.pretrained, mesh, dtype=dtype)
  params, grown = vocabulary.add_tokens(
    found.params, found.config, reader.added, known=reader.known
  )
  assert grown.vocab_size == config.vocab_size, (grown.vocab_size, config.vocab_size)
  return params
