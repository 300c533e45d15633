"""The VQGAN that turns pictures into codes and codes into pictures, as Chameleon uses it.

An encoder of convolutions halves height and width level by level; each of the latent vectors that
come out is replaced by the nearest vector of a codebook, whose number is the picture's code at that
place; a decoder mirrors the encoder. arXiv:2012.09841 (taming transformers), arXiv:2405.09818
(Chameleon). Everything is fully convolutional: any height and width that are multiples of
`VQConfig.factor`.

Axes: N pictures, H W pixels, h w codes (H / factor, W / factor), C channels, E the codebook's
width. Pixels are float32 in [-1, 1], channels last. Parameters are float32; the compute dtype is a
setting, and norms, softmax and distances are float32 whatever it is.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from swirl_jax.models.numerics import add_bias, einsum, precision
from swirl_jax.models.transformer_config import DTYPES

EPS = 1e-6  # of every GroupNorm


@dataclasses.dataclass(frozen=True)
class VQConfig:
  """The settings of a VQGAN; the defaults are Chameleon's, whose pictures are 512 x 512.

  channels: of the pictures. ch: the first level's width; level i is ch · ch_mult[i] wide, and all
  levels but the last halve height and width. res_blocks: residual blocks per level (the decoder has
  one more). attn_levels: the levels with attention after each block; mid_attention: attention
  between the two blocks at the lowest resolution. z_channels: what the encoder puts out.
  embed_dim: the codebook's width. codes: how many vectors it has. groups: of every GroupNorm.
  patch: pictures are cut into squares of so many pixels a side, each encoded and decoded by itself,
  so that a code says nothing of what lies outside its square; 0: pictures are whole, as in
  Chameleon. dtype: the compute dtype.

  Raises ValueError, naming the field, for what it can't be.
  """

  channels: int = 3
  ch: int = 128
  ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
  res_blocks: int = 2
  attn_levels: tuple[int, ...] = ()
  mid_attention: bool = True
  z_channels: int = 256
  embed_dim: int = 256
  codes: int = 8192
  groups: int = 32
  patch: int = 0
  dtype: str = "float32"

  def __post_init__(self):
    for name in ("channels", "ch", "res_blocks", "z_channels", "embed_dim", "codes", "groups"):
      if not _whole(getattr(self, name), 1):
        raise ValueError(f"vq.{name} = {getattr(self, name)!r}: allowed is a whole number from 1.")
    object.__setattr__(self, "ch_mult", tuple(self.ch_mult))
    object.__setattr__(self, "attn_levels", tuple(self.attn_levels))
    if not self.ch_mult or not all(_whole(m, 1) for m in self.ch_mult):
      raise ValueError(f"vq.ch_mult = {self.ch_mult}: allowed are numbers from 1, one a level.")
    levels = range(len(self.ch_mult))
    if not all(_whole(i, 0) and i in levels for i in self.attn_levels):
      raise ValueError(
        f"vq.attn_levels = {self.attn_levels}: allowed are levels from 0 to {levels[-1]}."
      )
    if len(set(self.attn_levels)) < len(self.attn_levels):
      raise ValueError(f"vq.attn_levels = {self.attn_levels}: a level stands there twice.")
    if not isinstance(self.mid_attention, bool):
      raise ValueError(f"vq.mid_attention = {self.mid_attention!r}: allowed are True and False.")
    if not _whole(self.patch, 0) or self.patch % self.factor:
      raise ValueError(
        f"vq.patch = {self.patch!r}: allowed are multiples of {self.factor}, the pixels per code, "
        "and 0."
      )
    if self.dtype not in DTYPES:
      raise ValueError(f"vq.dtype = {self.dtype!r}: allowed are {sorted(DTYPES)}.")
    if self.ch % self.groups:
      raise ValueError(f"vq.groups = {self.groups}: allowed are divisors of vq.ch = {self.ch}.")

  @property
  def factor(self) -> int:
    """How many pixels, along each side, a code stands for."""
    return 2 ** (len(self.ch_mult) - 1)

  @property
  def widths(self) -> tuple[int, ...]:
    """Channels by level."""
    return tuple(self.ch * m for m in self.ch_mult)

  @property
  def compute_dtype(self):
    return DTYPES[self.dtype]

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """The codes (h, w) of a picture; ValueError for a size that is no multiple of `factor`, or of
    `patch` where there is one.
    """
    unit = self.patch if self.patch else self.factor
    if height < 1 or width < 1 or height % unit or width % unit:
      raise ValueError(
        f"pixels {height} x {width}: allowed are multiples of {unit}, by vq.ch_mult = "
        f"{self.ch_mult} and vq.patch = {self.patch}."
      )
    return height // self.factor, width // self.factor


def cut(x: jax.Array, side: int) -> jax.Array:
  """Squares of [N, H, W, C], row by row: [N · H/side · W/side, side, side, C]."""
  n, h, w, c = x.shape
  squares = x.reshape(n, h // side, side, w // side, side, c).swapaxes(2, 3)
  return squares.reshape(-1, side, side, c)


def join(x: jax.Array, rows: int, columns: int) -> jax.Array:
  """`rows` × `columns` squares a picture [N · rows · columns, s, s, C] → [N, H, W, C]."""
  _, side, _, c = x.shape
  squares = x.reshape(-1, rows, columns, side, side, c).swapaxes(2, 3)
  return squares.reshape(-1, rows * side, columns * side, c)


def _whole(value, least: int) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= least


class Conv(nn.Module):
  """A convolution [N, H, W, C] → [N, H', W', features] with bias; kernel [k, k, C, features].

  Padding keeps the size at stride 1. At stride 2 one row and column of zeros stands behind, none
  before: (0, 1), as the taming code pads.
  """

  features: int
  size: int = 3
  stride: int = 1

  @nn.compact
  def __call__(self, x):
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    side = self.size // 2
    pads = ((side, side),) * 2 if self.stride == 1 else ((0, 1),) * 2
    y = jax.lax.conv_general_dilated(
      x, kernel.astype(x.dtype), (self.stride,) * 2, pads,
      dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision(x),
    )  # fmt: skip
    return add_bias(y, bias.reshape(1, 1, 1, -1))


class GroupNorm(nn.Module):
  """y = (x − mean) / sqrt(var + ε) · scale + bias, mean and variance over a group of channels and
  all places of a picture, in float32. [N, H, W, C] → [N, H, W, C]. arXiv:1803.08494.
  """

  groups: int

  @nn.compact
  def __call__(self, x):
    n, _, _, c = x.shape
    scale = self.param("scale", nn.initializers.ones, (c,)).reshape(1, c)
    bias = self.param("bias", nn.initializers.zeros, (c,)).reshape(1, c)

    def mean(a):  # [N, H, W, C] → [N, C], a channel having its group's; first over rows
      rows = a.mean(2).mean(1).reshape(n, self.groups, -1).mean(-1, keepdims=True)
      return jnp.broadcast_to(rows, (n, self.groups, c // self.groups)).reshape(n, c)

    y = x.astype(jnp.float32)
    mu = mean(y)
    var = mean(jnp.square(y - mu[:, None, None]))
    slope = scale * jax.lax.rsqrt(var + EPS)
    shift = bias - mu * slope
    return (y * slope[:, None, None] + shift[:, None, None]).astype(x.dtype)


class ResBlock(nn.Module):
  """x + conv(swish(norm(conv(swish(norm x))))), x through a 1 x 1 convolution where the width
  changes.
  """

  features: int
  groups: int

  @nn.compact
  def __call__(self, x):
    y = Conv(self.features, name="conv1")(nn.swish(GroupNorm(self.groups, name="norm1")(x)))
    y = Conv(self.features, name="conv2")(nn.swish(GroupNorm(self.groups, name="norm2")(y)))
    if x.shape[-1] != self.features:
      x = Conv(self.features, 1, name="nin_shortcut")(x)
    return x + y


class AttnBlock(nn.Module):
  """x + out(attention over all places, one head of the full width); scores in float32."""

  groups: int

  @nn.compact
  def __call__(self, x):
    n, h, w, c = x.shape
    y = GroupNorm(self.groups, name="norm")(x)
    q, k, v = (Conv(c, 1, name=name)(y).reshape(n, h * w, c) for name in ("q", "k", "v"))
    scores = einsum("nqc,nkc->nqk", q, k, out=jnp.float32) * c**-0.5
    out = einsum("nqk,nkc->nqc", jax.nn.softmax(scores, -1).astype(x.dtype), v)
    return x + Conv(c, 1, name="proj_out")(out.reshape(n, h, w, c))


class Level(nn.Module):
  """Blocks of one resolution, each with attention behind it where asked."""

  features: int
  blocks: int
  attention: bool
  groups: int

  @nn.compact
  def __call__(self, x):
    for i in range(self.blocks):
      x = ResBlock(self.features, self.groups, name=f"block_{i}")(x)
      if self.attention:
        x = AttnBlock(self.groups, name=f"attn_{i}")(x)
    return x


class Middle(nn.Module):
  """The two blocks at the lowest resolution, with or without attention between them."""

  config: VQConfig

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = ResBlock(c.widths[-1], c.groups, name="block_1")(x)
    if c.mid_attention:
      x = AttnBlock(c.groups, name="attn_1")(x)
    return ResBlock(c.widths[-1], c.groups, name="block_2")(x)


class Encoder(nn.Module):
  """Pixels [N, H, W, channels] → [N, h, w, z_channels]."""

  config: VQConfig

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = Conv(c.ch, name="conv_in")(x)
    for i, width in enumerate(c.widths):
      x = Level(width, c.res_blocks, i in c.attn_levels, c.groups, name=f"down_{i}")(x)
      if i < len(c.widths) - 1:
        x = Conv(width, stride=2, name=f"downsample_{i}")(x)
    x = Middle(c, name="mid")(x)
    x = nn.swish(GroupNorm(c.groups, name="norm_out")(x))
    return Conv(c.z_channels, name="conv_out")(x)


class Decoder(nn.Module):
  """[N, h, w, z_channels] → pixels [N, H, W, channels]; `up_i` is at the resolution of `down_i`."""

  config: VQConfig

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = Middle(c, name="mid")(Conv(c.widths[-1], name="conv_in")(x))
    for i, width in reversed(list(enumerate(c.widths))):
      x = Level(width, c.res_blocks + 1, i in c.attn_levels, c.groups, name=f"up_{i}")(x)
      if i:
        x = Conv(width, name=f"upsample_{i}")(x.repeat(2, axis=1).repeat(2, axis=2))
    x = nn.swish(GroupNorm(c.groups, name="norm_out")(x))
    return Conv(c.channels, name="conv_out")(x)


class VQGAN(nn.Module):
  """Encoder, codebook [codes, E] and decoder, between them the 1 x 1 convolutions to and from E."""

  config: VQConfig

  def setup(self):
    c = self.config
    self.encoder, self.decoder = Encoder(c), Decoder(c)
    self.quant_conv = Conv(c.embed_dim, 1)
    self.post_quant_conv = Conv(c.z_channels, 1)
    uniform = lambda key, shape: jax.random.uniform(  # noqa: E731
      key, shape, minval=-1 / c.codes, maxval=1 / c.codes
    )
    self.codebook = self.param("codebook", uniform, (c.codes, c.embed_dim))

  def latents(self, pixels):
    """Pixels → what is quantised, float32 [N, h, w, E]."""
    x, patch = pixels.astype(self.config.compute_dtype), self.config.patch
    z = self.quant_conv(self.encoder(cut(x, patch) if patch else x))
    if patch:
      z = join(z, pixels.shape[1] // patch, pixels.shape[2] // patch)
    return z.astype(jnp.float32)

  def codes(self, latents):
    """[N, h, w, E] → int32 [N, h, w]: argmin over j of |z − e_j|² = |z|² + |e_j|² − 2 z·e_j, where
    |z|² decides nothing and is left out; the first of equals.
    """
    book = self.codebook.astype(jnp.float32)
    dots = einsum("nhwe,je->nhwj", latents, book)
    norms = jnp.square(book).sum(-1).reshape(1, 1, 1, -1)
    return jnp.argmin(norms - 2 * dots, axis=-1).astype(jnp.int32)

  def vectors(self, codes):
    """int [N, h, w] → float32 [N, h, w, E]; NaN for a code that is none."""
    book = self.codebook.astype(jnp.float32)
    return book.at[codes].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

  def pixels(self, quantised):
    """[N, h, w, E] → pixels float32 [N, H, W, channels], not clipped."""
    x = self.post_quant_conv(quantised.astype(self.config.compute_dtype))
    side = self.config.patch // self.config.factor
    y = self.decoder(cut(x, side) if side else x)
    if side:
      y = join(y, x.shape[1] // side, x.shape[2] // side)
    return y.astype(jnp.float32)

  def __call__(self, pixels, quantise=1.0):
    """See `reconstruct`."""
    z = self.latents(pixels)
    codes = self.codes(jax.lax.stop_gradient(z))
    quantised = self.vectors(codes)
    through = z + quantise * jax.lax.stop_gradient(quantised - z)
    return self.pixels(through), codes, z, quantised


def init_params(config: VQConfig, key: jax.Array) -> Any:
  """Random parameters, float32. The codebook is uniform in ±1/codes, as the taming code has it."""
  side = config.patch if config.patch else config.factor
  pixels = jnp.zeros((1, side, side, config.channels))
  return VQGAN(config).init(key, pixels)["params"]


def encode(params: Any, config: VQConfig, pixels: jax.Array) -> jax.Array:
  """Pixels float [N, H, W, channels] in [-1, 1] → codes int32 [N, h, w].

  Raises ValueError for another shape or dtype, or a size that `config.grid` refuses.
  """
  _check_pixels(config, pixels)
  model = VQGAN(config)
  z = model.apply({"params": params}, pixels, method="latents")
  return model.apply({"params": params}, z, method="codes")


def decode(params: Any, config: VQConfig, codes: jax.Array) -> jax.Array:
  """Codes int [N, h, w] → pixels float32 [N, H, W, channels], clipped to [-1, 1].

  A code that is none makes its picture NaN. Raises ValueError where the parameters have no decoder.
  """
  require_decoder(params)
  if codes.ndim != 3 or not jnp.issubdtype(codes.dtype, jnp.integer):
    raise ValueError(f"codes {codes.dtype}{codes.shape}: allowed are whole numbers [N, h, w].")
  model = VQGAN(config)
  quantised = model.apply({"params": params}, codes, method="vectors")
  return model.apply({"params": params}, quantised, method="pixels").clip(-1.0, 1.0)


def reconstruct(
  params: Any, config: VQConfig, pixels: jax.Array, quantise: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Pixels → (reconstruction, codes, latents z, quantised e), for training.

  The decoder sees z + quantise · sg(e − z); with 0 that is what the encoder put out. Its gradient
  reaches the encoder as if nothing had been quantised (straight through), and the codebook learns
  through `quantiser_losses` alone. The reconstruction is not clipped. Raises as `encode` and
  `decode` do.
  """
  _check_pixels(config, pixels)
  require_decoder(params)
  return VQGAN(config).apply({"params": params}, pixels, quantise)


def quantiser_losses(latents: jax.Array, quantised: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(codebook |sg(z) − e|², commitment |z − sg(e)|²), means over all numbers. arXiv:1711.00937."""
  still = jax.lax.stop_gradient
  codebook = jnp.square(still(latents) - quantised).mean()
  return codebook, jnp.square(latents - still(quantised)).mean()


def require_decoder(params: Any) -> None:
  """ValueError where the parameters are an encoder's alone."""
  if "decoder" not in params:
    raise ValueError(
      "the VQ model has no decoder weights: Hugging Face's Chameleon folders hold the encoder "
      "alone. Convert the original vqgan.ckpt, which holds both: "
      "python -m swirl_jax.models.convert_vqgan --ckpt=vqgan.ckpt --out=FOLDER"
    )


def _check_pixels(config: VQConfig, pixels) -> None:
  if pixels.ndim != 4 or pixels.shape[-1] != config.channels:
    raise ValueError(f"pixels {pixels.shape}: allowed is [N, H, W, {config.channels}].")
  if not jnp.issubdtype(pixels.dtype, jnp.floating):
    raise ValueError(f"pixels are {pixels.dtype}: allowed are floating-point numbers in [-1, 1].")
  config.grid(*pixels.shape[1:3])
