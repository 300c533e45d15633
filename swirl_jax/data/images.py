"""Pictures from files, prepared as Liquid (arXiv:2412.04332) does for its image tokenizer.

A picture is padded to a square in the mean colour of CLIP's pictures, the picture in the middle,
and resized by Lanczos. Before that it becomes RGB: what is transparent lies on white, as Chameleon
(arXiv:2405.09818) has it; of 16 bits a channel the high byte counts; palettes, grey and CMYK are
converted; a camera's orientation (EXIF) is applied. Colour profiles are ignored.

Arrays are uint8 [H, W, 3] between parts, float32 [N, H, W, 3] in [-1, 1] at a model.
"""

import io
import os
import pathlib
import re
import warnings
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

PADDING = (122, 116, 104)
# Of the padded square, which is what has to fit in memory (300 MB).
MAX_PIXELS = 10**8
# What is read. Others (EPS, PDF) start programs when they are opened.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


class Unreadable(ValueError):
  """A picture that is refused; `kind` is one of a few reasons, for counts: "missing", "no picture",
  "too large", "animated", "corrupt", "no colours".
  """

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind

  def __reduce__(self):
    return type(self), (self.kind, str(self))


def open_image(source: str | os.PathLike | bytes, *, name: str) -> Image.Image:
  """The picture in a file, or in its bytes, as RGB; `name` is what errors call it.

  Raises Unreadable for a file that isn't there, is no picture of `FORMATS`, is cut or damaged,
  moves (has several frames), has no pixels, or more than `MAX_PIXELS` once it is square.
  """
  data = source if isinstance(source, bytes) else _bytes(source, name)
  with warnings.catch_warnings():
    for category in (UserWarning, Image.DecompressionBombWarning):  # fine, or refused below
      warnings.simplefilter("ignore", category)
    try:
      image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
      found = re.sub(r".*?(\d+ pixels).*", r"\1", str(error), flags=re.DOTALL)
      raise Unreadable("too large", f"{name} has {found}, allowed are {MAX_PIXELS}") from None
    except Exception as error:
      found = "no bytes" if not data else f"{len(data)} bytes that begin with {data[:8]!r}"
      allowed = f"a picture of one pixel or more: {', '.join(FORMATS)} ({type(error).__name__})"
      raise Unreadable("no picture", f"{name} has {found}, must be {allowed}") from None
    _check(image, name)
    try:
      image.load()
      return _rgb(ImageOps.exif_transpose(image), name)
    except Unreadable:
      raise
    except Exception as error:  # Pillow's decoders raise many kinds
      reason = " ".join(str(error).split()) or type(error).__name__
      what = f"a {image.format} picture of {image.width} x {image.height}"
      raise Unreadable("corrupt", f"{name} is {what} that must be whole: {reason}") from None


def _bytes(path: str | os.PathLike, name: str) -> bytes:
  try:
    return pathlib.Path(path).read_bytes()
  except (OSError, ValueError) as error:  # ValueError: a null byte in the path
    reason = getattr(error, "strerror", None)
    shown = error if reason is None else reason
    raise Unreadable("missing", f"{name} must be a file that can be read: {shown}") from None


def _check(image: Image.Image, name: str) -> None:
  """Refuses by what the header says, before any pixel is decoded."""
  width, height = image.size
  if (square := max(width, height) ** 2) > MAX_PIXELS:
    raise Unreadable(
      "too large",
      f"{name} is {width} x {height} pixels, {square} as a square; allowed are {MAX_PIXELS}",
    )
  try:
    frames = getattr(image, "n_frames", 1)
  except Exception as error:
    raise Unreadable("corrupt", f"{name}: its frames can't be counted: {error}") from None
  # The further pictures of an MPO, a camera's JPEG, are previews of the first.
  if frames > 1 and image.format != "MPO":
    raise Unreadable("animated", f"{name} is a {image.format} of {frames} frames, must have one")


def _rgb(image: Image.Image, name: str) -> Image.Image:
  if image.mode == "I" or image.mode.startswith("I;16"):
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 2**16:
      found = f"has values from {low} to {high}"
      raise Unreadable("no colours", f"{name} {found}, must have from 0 to {2**16 - 1}")
    key = image.info.get("transparency", -1)
    image = Image.fromarray(np.where(values == key, 255, values >> 8).astype(np.uint8))
  if image.mode == "F":
    raise Unreadable("no colours", f"{name} has numbers with a fraction, must have whole ones")
  if not image.has_transparency_data:
    return image.convert("RGB")
  rgba = np.asarray(image.convert("RGBA"), np.float64)
  alpha = rgba[..., 3:] / 255
  return Image.fromarray(((1 - alpha) * 255 + alpha * rgba[..., :3]).astype(np.uint8))


def prepare(image: Image.Image, size: int) -> np.ndarray:
  """An RGB picture, padded to a square with `PADDING` and resized → uint8 [size, size, 3]."""
  side = max(image.size)
  square = image
  if image.width != image.height:
    square = Image.new("RGB", (side, side), PADDING)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
  return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


class Read(NamedTuple):
  """What came of a file: its pixels, uint8 [size, size, 3], or the kind and text of why not."""

  pixels: np.ndarray | None
  kind: str = ""
  reason: str = ""


def read(path: str, name: str, size: int) -> Read:
  """`open_image` and `prepare`, for a worker process; a refusal is returned."""
  try:
    return Read(prepare(open_image(path, name=name), size))
  except Unreadable as error:
    return Read(None, error.kind, str(error))


def to_pixels(pictures: Any) -> Any:
  """uint8 [..., H, W, 3] → float32 in [-1, 1]: v / 127.5 − 1. NumPy's or JAX's arrays."""
  return pictures.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(pixels: Any) -> Any:
  """float32 [..., H, W, 3] → uint8, the inverse of `to_pixels`: rounded, what is outside [-1, 1]
  cut off.
  """
  return ((pixels + np.float32(1)) * np.float32(127.5)).round().clip(0, 255).astype(np.uint8)
