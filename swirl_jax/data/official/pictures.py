"""Picture files: what their headers say, and those that are made out of other files."""

import hashlib
import io
import re
import warnings
from pathlib import Path

from PIL import Image

from swirl_jax.data import images
from swirl_jax.data.official.records import Unusable, shown
from swirl_jax.whole_files import replacing

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_ENDING = {"JPEG": "jpg"}  # by Pillow's name of the format; others by the name itself


def header(path: Path) -> None:
  """Raises Unusable where there is no picture file; nothing is decoded."""
  try:
    _format(path)
  except FileNotFoundError:
    raise Unusable("missing picture", shown(str(path), 200)) from None
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    what = "has no picture's header" if isinstance(error, Image.UnidentifiedImageError) else error
    raise Unusable("no picture", f"{shown(str(path), 200)} {what}") from None


def _format(source: Path | io.BytesIO) -> str:
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decoded
    with Image.open(source, formats=images.FORMATS) as picture:
      return picture.format


class Made:
  """Pictures that are made, in a folder of their own. A file with its name is always whole.

  So one that is there is not made again: its name says what is in it.
  """

  def __init__(self, folder: Path):
    self.folder = folder

  def put(self, data: bytes, name: str) -> Path:
    """The file with these bytes of a picture, which are not changed: `7f/7f02….png`, by SHA-256.

    Raises Unusable, which calls them `name`, where they have no picture's header.
    """
    try:
      kind = _format(io.BytesIO(data))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
      found = f"{len(data)} bytes from {data[:8]!r}"
      raise Unusable("no picture", f"{name} is {found}, must be a picture's") from None
    digest = hashlib.sha256(data).hexdigest()[:32]
    path = self.folder / digest[:2] / f"{digest}.{_ENDING.get(kind, kind.lower())}"
    if not path.exists():
      path.parent.mkdir(parents=True, exist_ok=True)
      with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path

  def of(self, path: Path, name: str) -> Path:
    """The folder for pictures out of a file: by its stem, `name` and size.

    Raises Unusable where the file isn't there.
    """
    try:
      size = path.stat().st_size
    except (OSError, ValueError):
      raise Unusable("missing video", shown(name, 200)) from None
    digest = hashlib.sha256(f"{name}\0{size}".encode("utf-8", "surrogatepass")).hexdigest()
    return self.folder / f"{re.sub(r'[^A-Za-z0-9_-]', '_', path.stem)[:60]}-{digest[:16]}"


def save(picture: Image.Image, path: Path) -> Path:
  """Saves as PNG, unless the file is there."""
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
      picture.save(temporary, format="PNG")
  return path
