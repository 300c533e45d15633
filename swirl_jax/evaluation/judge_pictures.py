"""Pictures that a judge is shown: files that a line of predictions names, and strips of several.

A file is opened as `data/images.py` does. One of at most `longest` pixels on its longer side, a
plain PNG or JPEG, is sent as it is; any other as a PNG of its colours, resized by Lanczos where it
is larger. Several in a field are one picture, a film strip from left to right: each within half of
`longest`, all of one height, with white between them.
"""

import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from swirl_jax.data import images
from swirl_jax.data.transition_lines import Refused
from swirl_jax.evaluation.judge_templates import Part, image

KEY = "images"  # {"images": ["x.png"]} in place of a text
LONGEST = 512  # what Liquid draws; an endpoint may scale down further
_GAP = 8  # pixels of white between the pictures of a strip
_KINDS = {"PNG": "image/png", "JPEG": "image/jpeg"}  # sent as they are


@dataclasses.dataclass(frozen=True)
class Pictures:
  """The pictures of a field, in order, which have been opened once; read again when they are asked
  for, so that no more of them are in memory than requests are under way.
  """

  paths: tuple[Path, ...]
  longest: int
  larger: tuple[Path, ...]  # those of them that are scaled down

  def __call__(self) -> list[Part]:
    """One part of a message. ValueError where a file isn't what it was."""
    if len(self.paths) == 1:
      return [_one(self.paths[0], self.longest)]
    frames = [_within(_open(path), self.longest // 2) for path in self.paths]
    return [_png(_strip(frames))]


def named(found: dict[str, Any], folder: Path, longest: int) -> Pictures:
  """The pictures of {"images": [file, ...]}, by their paths from `folder` on.

  Raises Refused for anything else, and for a file that is missing, damaged or no picture.
  """
  paths = found.get(KEY)
  if set(found) != {KEY} or not isinstance(paths, list) or not paths:
    raise Refused('must be text or {"images": [...]} with one file or more')
  if not all(isinstance(path, str) and path for path in paths):
    raise Refused("must name its files by text")
  paths = tuple(folder / path for path in paths)
  limit = longest if len(paths) == 1 else longest // 2
  try:
    larger = tuple(path for path in paths if max(_open(path).size) > limit)
  except images.Unreadable as error:
    raise Refused(str(error)) from None
  return Pictures(paths, longest, larger)


def told(fields: Iterable[Any], longest: int) -> dict[str, int]:
  """How many files the pictures among `fields` are, and how many of them are scaled down."""
  found = [field for field in fields if isinstance(field, Pictures)]
  return {
    "files": len({path for pictures in found for path in pictures.paths}),
    "scaled_down": len({path for pictures in found for path in pictures.larger}),
    "longest_side": longest,
  }


def _open(path: Path) -> Image.Image:
  return images.open_image(path, name=f"picture {str(path)!r}")


def _one(path: Path, longest: int) -> Part:
  opened = _open(path)
  data = path.read_bytes()
  head = Image.open(io.BytesIO(data))
  plain = head.format in _KINDS and head.mode == "RGB" and not head.has_transparency_data
  plain = plain and not head.getexif()
  if plain and max(head.size) <= longest:
    return image(data, _KINDS[head.format])
  return _png(_within(opened, longest))


def _within(picture: Image.Image, longest: int) -> Image.Image:
  """Resized so that its longer side is `longest`, where it is more."""
  side = max(picture.size)
  if side <= longest:
    return picture
  size = [max(1, round(n * longest / side)) for n in picture.size]
  return picture.resize(size, Image.Resampling.LANCZOS)


def _strip(frames: Sequence[Image.Image]) -> Image.Image:
  """From left to right, at the height of the lowest."""
  height = min(frame.height for frame in frames)
  frames = [
    frame.resize((max(1, round(frame.width * height / frame.height)), height),
                 Image.Resampling.LANCZOS) if frame.height != height else frame
    for frame in frames
  ]  # fmt: skip
  width = sum(frame.width for frame in frames) + _GAP * (len(frames) - 1)
  strip, at = Image.new("RGB", (width, height), "white"), 0
  for frame in frames:
    strip.paste(frame, (at, 0))
    at += frame.width + _GAP
  return strip


def _png(picture: Image.Image) -> Part:
  file = io.BytesIO()
  picture.save(file, "PNG")
  return image(file.getvalue())
