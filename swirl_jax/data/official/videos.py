"""Frames of videos as PNG files, by PyAV (FFmpeg's libraries)."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from swirl_jax.data.official import pictures
from swirl_jax.data.official.records import Unusable

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
BEYOND = 1.0  # seconds after a video's last frame that a time may be: rounding, not another video


def every(video: Path, folder: Path, stride: int) -> list[Path]:
  """Frames 0, stride, 2 stride … of a video as `folder/0000030.png`.

  Frames that are there are not written again, and a video that was read whole is not opened.
  Raises Unusable where it can't be decoded to its end.
  """
  record = folder / f"every-{stride}.json"
  if record.exists():
    return [folder / name for name in json.loads(record.read_text())["frames"]]
  found = []
  with _opened(video) as (container, stream):
    for number, frame in enumerate(container.decode(stream)):
      if number % stride == 0:
        path = folder / f"{number:07d}.png"
        found.append(path if path.exists() else pictures.save(upright(frame), path))
  if not found:
    raise Unusable("undecodable video", f"{video.name} has no frames")
  with pictures.whole(record) as temporary:
    temporary.write_text(json.dumps({"frames": [path.name for path in found]}))
  return found


def at(video: Path, folder: Path, seconds: float) -> Path:
  """The frame that is shown at a time as `folder/at-0012500ms.png`; the last one at the end.

  Raises Unusable where it can't be decoded, and where the video is over for more than `BEYOND`.
  """
  path = folder / f"at-{round(seconds * 1000):07d}ms.png"
  if not path.exists():
    with _opened(video) as (container, stream):
      pictures.save(_shown(container, stream, seconds, video.name), path)
  return path


def _shown(container: Any, stream: Any, seconds: float, name: str) -> Image.Image:
  begin = float((stream.start_time or 0) * stream.time_base)
  for origin in (seconds, 0.0):  # an index may lead to a key frame that is too late
    container.seek(round((begin + origin) * 1e6))
    before = None
    for frame in container.decode(stream):
      if frame.time is None:
        raise Unusable("undecodable video", f"{name} has frames without a time")
      if frame.time - begin > seconds + 1e-6:
        if before is None and origin:
          break
        return upright(frame if before is None else before)
      before = frame
    else:
      if before is not None:
        end = before.time - begin
        if seconds - end > BEYOND:
          raise Unusable("time beyond the video", f"{seconds:g} s of {name}, which ends at {end:g}")
        return upright(before)
  raise Unusable("undecodable video", f"{name} has no frames")


def upright(frame: Any) -> Image.Image:
  """The frame as it is to be looked at: a display matrix turns it by quarters."""
  image = frame.to_image()
  return image.rotate(frame.rotation, expand=True) if frame.rotation else image


@contextlib.contextmanager
def _opened(video: Path) -> Iterator[tuple[Any, Any]]:
  """The container and its first stream of pictures; what FFmpeg raises becomes Unusable."""
  try:
    import av
  except ImportError:
    raise ValueError("videos need PyAV: pip install 'swirl_jax[visual]'.") from None
  try:
    with av.open(str(video)) as container:
      if not container.streams.video:
        raise Unusable("undecodable video", f"{video.name} has no pictures")
      stream = container.streams.video[0]
      stream.thread_type = "AUTO"
      yield container, stream
  except av.error.FFmpegError as error:
    raise Unusable("undecodable video", f"{video.name}: {error.strerror}") from None
