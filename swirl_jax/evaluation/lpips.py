"""LPIPS, how far two pictures are from each other to a network that people's judgements tuned.

Zhang et al. 2018 (arXiv:1801.03924), version 0.1 with AlexNet, as the authors' package computes it.
The weights are theirs, and are given: a folder with torchvision's `alexnet-owt-*.pth` and the
package's `alex.pth`. Axes: B pictures, H W places of a layer, C channels.
"""

import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax.evaluation.pictures import Measure
from swirl_jax.models import torch_files
from swirl_jax.models.safetensors_files import CheckpointFilesError

TRUNK, HEADS = "alexnet-owt-*.pth", "alex.pth"


class Layer(NamedTuple):
  """A convolution and ReLU: its place in torchvision's `features`, and whether a 3 × 3 maximum over
  every second place comes before it.
  """

  place: int
  channels: int
  kernel: int
  stride: int
  padding: int
  pool: bool


LAYERS = (
  Layer(0, 64, 11, 4, 2, False),
  Layer(3, 192, 5, 1, 2, True),
  Layer(6, 384, 3, 1, 1, True),
  Layer(8, 256, 3, 1, 1, False),
  Layer(10, 256, 3, 1, 1, False),
)
LEAST = 31  # pixels a side: what leaves a place to the second maximum
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1]


class Trunk(nn.Module):
  """AlexNet's five layers (Krizhevsky 2014, arXiv:1404.5997), each place of unit length:
  float32 [B, H, W, 3] in [0, 1] → five times [B, H, W, C].
  """

  @nn.compact
  def __call__(self, pictures: jax.Array) -> tuple[jax.Array, ...]:
    shift, scale = (jnp.array(v).reshape(1, 1, 1, 3) for v in (_SHIFT, _SCALE))
    h, found = (2 * pictures - 1 - shift) / scale, []
    for layer in LAYERS:
      if layer.pool:
        h = nn.max_pool(h, (3, 3), (2, 2))
      conv = nn.Conv(
        layer.channels,
        (layer.kernel, layer.kernel),
        layer.stride,
        [(layer.padding, layer.padding)] * 2,
        precision="highest",
        name=f"features_{layer.place}",
      )
      h = nn.relu(conv(h))
      found.append(h / (jnp.sqrt(jnp.square(h).sum(-1, keepdims=True)) + 1e-10))
    return tuple(found)


def distance(heads: list[jax.Array], a: tuple, b: tuple) -> jax.Array:
  """Σ_l mean_hw Σ_c w_lc (a_lhwc − b_lhwc)², the features of pictures a and b: → float32 [B]."""
  return sum(
    jnp.einsum("bhwc,c->bhw", jnp.square(f - g), w, precision="highest").mean((1, 2))
    for w, f, g in zip(heads, a, b, strict=True)
  )


def measure(folder: str) -> Measure:
  """The score "lpips": 0 for equal pictures; less is better. ValueError where the weights aren't in
  the folder, or are others. Pictures are compared in their own size, `LEAST` pixels a side or more.
  """
  params, heads = load(folder)
  trunk = jax.jit(lambda p, pictures: Trunk().apply({"params": p}, jnp.float32(pictures) / 255))

  def features(pictures: np.ndarray):
    if min(pictures.shape[1:3]) < LEAST:
      raise ValueError(f"lpips: pictures {pictures.shape[1:]}; allowed are {LEAST} pixels a side "
                       "and more")  # fmt: skip
    return trunk(params, pictures)

  compare = jax.jit(lambda a, b: {"lpips": distance(heads, a, b)})
  return Measure(("lpips",), features, lambda records, x, said, truth: compare(said, truth))


def load(folder: str) -> tuple[dict[str, Any], list[np.ndarray]]:
  """(the trunk's parameters, the five heads' weights [C]). ValueError names what is missing."""
  try:
    trunk, linear = (torch_files.read(_only(folder, name)) for name in (TRUNK, HEADS))
  except CheckpointFilesError as error:
    raise ValueError(f"lpips = {folder!r}: {error}") from None
  params, heads, channels = {}, [], 3
  for i, layer in enumerate(LAYERS):
    name, shape = f"features.{layer.place}", (layer.channels, channels, *[layer.kernel] * 2)
    kernel = _tensor(folder, trunk, f"{name}.weight", shape)
    bias = _tensor(folder, trunk, f"{name}.bias", (layer.channels,))
    params[name.replace(".", "_")] = {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}
    head = _tensor(folder, linear, f"lin{i}.model.1.weight", (1, layer.channels, 1, 1))
    heads.append(head.reshape(-1))
    channels = layer.channels
  return params, heads


def _only(folder: str, pattern: str) -> pathlib.Path:
  found = sorted(pathlib.Path(folder).glob(pattern))
  if len(found) != 1:
    raise ValueError(
      f"lpips = {folder!r}: {len(found)} files {pattern} there; allowed is a folder with one "
      f"{TRUNK} (torchvision's AlexNet) and one {HEADS} (the lpips package's, version 0.1)."
    )
  return found[0]


def _tensor(folder: str, tensors: dict[str, np.ndarray], name: str, shape: tuple) -> np.ndarray:
  found = tensors.get(name)
  if found is None or found.shape != shape:
    said = "is not there" if found is None else f"has shape {found.shape}"
    raise ValueError(f"lpips = {folder!r}: {name} {said}; allowed is {shape}.")
  return np.asarray(found, np.float32)
