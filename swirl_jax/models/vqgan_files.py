"""VQ models in and out: Hugging Face's Chameleon folders, the original vqgan.ckpt, our own folders.

All three name their tensors as the taming code does (`encoder.down.0.block.1.norm1.weight`), so one
table of names serves them. transformers' Chameleon has no decoder: its folders give an encoder, and
`vqgan.decode` says where a decoder is to be had.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax import sharding
from swirl_jax.models import hf_export, huggingface, safetensors_files, torch_files, vqgan
from swirl_jax.models.safetensors_files import CheckpointFilesError, Entry
from swirl_jax.models.vqgan import VQConfig

MODEL_TYPE = "swirl_vqgan"  # of our own folders
CHAMELEON, PREFIX = "chameleon", "model.vqmodel."
DECODER = "decoder"
DECIDES = ("encoder.", "quant_conv.", "quantize.")  # the tensors that decide a picture's codes

# vq_config of transformers: its field → ours, and the value where config.json leaves it out.
HF_FIELDS = {
  "in_channels": ("channels", 3),
  "base_channels": ("ch", 128),
  "channel_multiplier": ("ch_mult", (1, 1, 2, 2, 4)),
  "num_res_blocks": ("res_blocks", 2),
  "latent_channels": ("z_channels", 256),
  "embed_dim": ("embed_dim", 256),
  "num_embeddings": ("codes", 8192),
}


class VQ(NamedTuple):
  """A VQ model; `params` may lack the decoder."""

  config: VQConfig
  params: Any


class Found(NamedTuple):
  """A tensor that a file holds: its shape, where it is (for messages) and how it is read."""

  shape: tuple[int, ...]
  where: str
  read: Callable[[], np.ndarray]


def load(folder: str | os.PathLike) -> VQ:
  """The VQ model of our own folder, or of a Chameleon checkpoint of transformers (a folder, or a
  name on the Hub), then without a decoder. Parameters are float32.

  Raises ValueError naming the field of config.json, and CheckpointFilesError naming the tensor that
  is missing, has no place here or another shape.
  """
  folder = huggingface.resolve(folder)
  described = huggingface.read_config(folder)
  kind = described.get("model_type")
  where = folder / huggingface.CONFIG
  if kind == MODEL_TYPE:
    config, prefix = _own_config(described, where), ""
  elif kind == CHAMELEON:
    config, prefix = from_hf(described.get("vq_config") or {}, where), PREFIX
  else:
    raise ValueError(
      f"{where}: model_type = {kind!r}: allowed are {MODEL_TYPE!r} and {CHAMELEON!r}."
    )
  tensors = {
    name.removeprefix(prefix): Found(t.shape, str(t), functools.partial(safetensors_files.read, t))
    for name, t in safetensors_files.find(folder).items()
    if name.startswith(prefix)
  }
  return VQ(config, _params(config, tensors, str(folder)))


def read_checkpoint(path: str | os.PathLike) -> tuple[VQ, int]:
  """The VQ model of an original vqgan.ckpt, and how many tensors of its training loss (`loss.*`,
  the discriminator's and LPIPS') were left out.

  The file has no config: sizes come from the tensors' shapes; 32 groups, as all of taming's have.
  """
  tensors = {
    name: Found(a.shape, f"tensor {name!r} in {path}", functools.partial(np.asarray, a))
    for name, a in torch_files.read(path).items()
  }
  kept = {name: found for name, found in tensors.items() if not name.startswith("loss.")}
  config = _config_of_shapes({name: found.shape for name, found in kept.items()}, str(path))
  return VQ(config, _params(config, kept, str(path))), len(tensors) - len(kept)


def save(folder: str | os.PathLike, vq: VQ, *, overwrite: bool = False) -> Path:
  """Writes our own folder: config.json and model.safetensors, float32. One that holds anything is
  left alone with a ValueError, unless `overwrite`.
  """
  arrays = _named(vq.params)
  entries = [Entry(name, np.dtype(np.float32), a.shape) for name, a in arrays.items()]
  config = {"model_type": MODEL_TYPE, **dataclasses.asdict(vq.config)}
  with hf_export.new_folder(Path(folder), overwrite) as new:
    safetensors_files.write(new / safetensors_files.SINGLE, entries, arrays.values())
    (new / huggingface.CONFIG).write_text(json.dumps(config, indent=2) + "\n")
  return Path(folder)


def digest(folder: str | os.PathLike) -> str:
  """SHA-256 of what decides a picture's codes: the config, and the encoder's and codebook's
  numbers as float32. The same for a checkpoint and the folder that it was converted to.
  """
  config, params = load(folder)
  found = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
  for name, array in sorted(_named(params).items()):
    if name.startswith(DECIDES):
      found.update(f"{name} {array.shape}".encode())
      found.update(np.ascontiguousarray(array, "<f4"))
  return found.hexdigest()


def from_hf(fields: Mapping[str, Any], where: str | os.PathLike) -> VQConfig:
  """`vq_config` of a Chameleon config.json, absent fields being transformers' defaults.

  `dropout` and `initializer_range` matter to a training alone. ValueError for what is not had here.
  """
  given = {ours: fields.get(theirs, default) for theirs, (ours, default) in HF_FIELDS.items()}
  if fields.get("double_latent", False):
    raise ValueError(f"{where}: vq_config.double_latent = True: allowed is False.")
  for name, kind in (("channel_multiplier", list), ("resolution", int), ("attn_resolutions", list)):
    if not isinstance(fields.get(name) or kind(), kind):
      raise ValueError(f"{where}: vq_config.{name} = {fields[name]!r}: allowed is {kind.__name__}.")
  attention = fields.get("attn_type", "vanilla") == "vanilla"
  side, levels = fields.get("resolution", 512), {}
  for level in range(len(given["ch_mult"])):
    levels[side // 2**level] = level
  wanted = (fields.get("attn_resolutions") or ()) if attention else ()
  unknown = sorted(set(wanted) - set(levels))
  if unknown:
    raise ValueError(
      f"{where}: vq_config.attn_resolutions = {list(wanted)}: allowed are {sorted(levels)}."
    )
  try:
    return VQConfig(
      **given, attn_levels=tuple(sorted(levels[r] for r in wanted)), mid_attention=attention
    )
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from None


def _own_config(described: Mapping[str, Any], where: Path) -> VQConfig:
  fields = {f.name for f in dataclasses.fields(VQConfig)}
  found = set(described) - {"model_type"}
  if found != fields:
    raise ValueError(
      f"{where}: missing are {sorted(fields - found)}, unknown {sorted(found - fields)}; the "
      f"fields are {', '.join(sorted(fields))}."
    )
  try:
    return VQConfig(**{name: described[name] for name in fields})
  except (ValueError, TypeError) as error:
    raise ValueError(f"{where}: {error}") from None


def _config_of_shapes(shapes: Mapping[str, tuple[int, ...]], path: str) -> VQConfig:
  """The settings that a taming checkpoint's tensors speak of."""

  def shape(name):
    if name not in shapes:
      raise CheckpointFilesError(f"tensor {name!r}: not in {path}.")
    return shapes[name]

  def numbers(pattern):  # what stands in a place of the names
    return sorted({int(m[1]) for name in shapes if (m := re.match(pattern, name))})

  levels = range(len(numbers(r"encoder\.down\.(\d+)\.")))
  ch, channels = shape("encoder.conv_in.weight")[:2]
  codes, embed = shape("quantize.embedding.weight")
  return VQConfig(
    channels=channels,
    ch=ch,
    ch_mult=tuple(shape(f"encoder.down.{i}.block.0.conv1.weight")[0] // ch for i in levels),
    res_blocks=len(numbers(r"encoder\.down\.0\.block\.(\d+)\.")),
    attn_levels=tuple(numbers(r"encoder\.down\.(\d+)\.attn\.")),
    mid_attention="encoder.mid.attn_1.q.weight" in shapes,
    z_channels=shape("encoder.conv_out.weight")[0],
    embed_dim=embed,
    codes=codes,
  )


def _name(path: str) -> str:
  """'encoder/down_0/block_1/norm1/scale' → 'encoder.down.0.block.1.norm1.weight'."""
  if path == "codebook":
    return "quantize.embedding.weight"
  path = re.sub(r"/(down|up)sample_(\d+)/", r"/\1_\2/\1sample/conv/", path)
  path = re.sub(r"/(down|up)_(\d+)/", r"/\1/\2/", path)
  path = re.sub(r"(/(?:down|up)/\d+/)(block|attn)_(\d+)/", r"\1\2/\3/", path)
  return re.sub(r"(kernel|scale)$", "weight", path).replace("/", ".")


def _params(config: VQConfig, tensors: Mapping[str, Found], where: str) -> Any:
  """The parameters, each from its tensor; without a decoder where not one tensor is one's."""
  shapes = dict(jax.eval_shape(functools.partial(vqgan.init_params, config), jax.random.key(0)))
  if not any(name.startswith(f"{DECODER}.") for name in tensors):
    del shapes[DECODER]
  expected = {
    _name(sharding.leaf_path(path)): tuple(_to_file(np.empty(leaf.shape, np.bool_)).shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  }
  missing = [name for name in expected if name not in tensors]
  if missing:
    raise CheckpointFilesError(f"tensor {missing[0]!r}{_more(missing)}: not in {where}.")
  extra = [found for name, found in tensors.items() if name not in expected]
  if extra:
    raise CheckpointFilesError(
      f"{extra[0].where}{_more(extra)}: the VQ model that was described has no such tensor."
    )
  for name, shape in expected.items():
    if tensors[name].shape != shape:
      raise CheckpointFilesError(
        f"{tensors[name].where}: found shape {tensors[name].shape}, expected {shape}."
      )

  def take(path, _):
    array = tensors[_name(sharding.leaf_path(path))].read()
    return jnp.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array, jnp.float32)

  return jax.tree_util.tree_map_with_path(take, shapes)


def _named(params: Any) -> dict[str, np.ndarray]:
  """{the file's name: the tensor as the file has it}, float32."""
  return {
    _name(sharding.leaf_path(path)): _to_file(np.asarray(leaf, np.float32))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
  }


def _to_file(array: np.ndarray) -> np.ndarray:
  """A kernel [k, k, in, out] as [out, in, k, k]; anything else as it is."""
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def _more(names) -> str:
  return f" and {len(names) - 1} more" if len(names) > 1 else ""
