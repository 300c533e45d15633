"""Frames of videos as PNG files, by PyAV (FFmpeg's libraries)."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from swirl_jax.data.official import pictures
from swirl_jax.data.official.records import Unusable
from swirl_jax.whole_files import replacing

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
BEYOND = 1.0  # seconds after a video's last frame that a time may be: rounding, not another video


def every(video: Path, folder: Path, stride: int) -> list[Path]:
  """Frames 0, stride, 2 stride … of a video as `folder/0000030.png`.

  Frames that are there are not written again, and a video that was read whole is not opened.
  Raises Unusable where it can't be decoded, and where it ends sooner than its header says.
  """
  record = folder / f"every-{stride}.json"
  if record.exists():
    return [folder / name for name in json.loads(record.read_text())["frames"]]
  found, frame = [], None
  with _opened(video) as (container, stream):
    length = _length(container, stream)
    for number, frame in enumerate(container.decode(stream)):
      if number % stride == 0:
        path = folder / f"{number:07d}.png"
        found.append(path if path.exists() else pictures.save(upright(frame), path))
    end = None if frame is None or frame.time is None else frame.time - _begin(stream)
  if not found:
    raise Unusable("undecodable video", f"{video.name} has no frames")
  if end is not None and length - end > BEYOND:
    raise Unusable("cut video", f"{video.name} ends at {end:.2f} s, must last {length:.2f} s")
  with replacing(record) as temporary:
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
  begin = _begin(stream)
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


def _begin(stream: Any) -> float:
  """The time of a stream's first frame, in seconds, which isn't always 0."""
  return float((stream.start_time or 0) * stream.time_base)


def _length(container: Any, stream: Any) -> float:
  """Seconds, as the stream says, or else its container, whose clock need not begin with the stream;
  0 or less where neither does.
  """
  if stream.duration:
    return float(stream.duration * stream.time_base)
  return (container.duration or 0) / 1e6 - _begin(stream)


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
    raise ValueError("videos need PyAV: pip install -e '.[visual]'.") from None
  try:
    with av.open(str(video)) as container:
      if not container.streams.video:
        raise Unusable("undecodable video", f"{video.name} has no pictures")
      stream = container.streams.video[0]
      stream.thread_type = "AUTO"
      yield container, stream
  except av.error.FFmpegError as error:
    raise Unusable("undecodable video", f"{video.name}: {error.strerror}") from None
