"""What a run's models start from: fresh parameters, or the checkpoint of a language model."""

import dataclasses
from typing import Any

import jax

from swirl_jax import programs, rng, sharding
from swirl_jax.data import builders, fast_tokenizers
from swirl_jax.models import huggingface, vocabulary
from swirl_jax.models.transformer import TransformerConfig
from swirl_jax.settings import Settings


def world_of(settings: Settings) -> builders.World:
  """The run's world, read by the checkpoint's tokenizer where there is one."""
  world = builders.get(settings.world["name"])
  if not settings.pretrained:
    return world
  reader = fast_tokenizers.open_tokenizer(huggingface.resolve(settings.pretrained))
  d = settings.data
  return dataclasses.replace(world, reader=reader, state_len=d.state_len, action_len=d.action_len)


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
    found.params, found.config, reader.added, known=reader.known, multiple=mesh.shape["tensor"]
  )
  assert grown.vocab_size == config.vocab_size, (grown.vocab_size, config.vocab_size)
  return params
