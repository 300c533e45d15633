"""Unlabelled video: folders of numbered frames, and videos (UCF-101, Kinetics, Moments, VidGen).

Consecutive frames are pairs x and y without z; of the frames, every `stride`-th counts. A folder's
frames of one name, `motion_0.jpg`, `motion_1.jpg` …, are an episode, `motion_*`, and so is a
video. Pairs that differ by less than `least_difference` are left out: the mean absolute difference
of their pixels as grey thumbnails, 64 by 64, from 0 to 1.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from swirl_jax.data.official import pictures, videos
from swirl_jax.data.official.records import Absent, Benchmark, Found, Unusable

SIDE = 64
_NUMBER = re.compile(r"(.*?)(\d+)$")


def read(
  folder: Path, made: pictures.Made, *, stride: int = 1, least_difference: float = 0.0
) -> Iterator[Found]:
  """Every pair of every folder of frames and of every video below the folder."""
  met = False
  for root, below, names in os.walk(folder):
    below.sort()
    place = Path(root)
    stills = [name for name in sorted(names) if name.lower().endswith(pictures.SUFFIXES)]
    moving = [name for name in sorted(names) if name.lower().endswith(videos.SUFFIXES)]
    met = met or bool(stills or moving)
    for found in _sequences(folder, place, stills, moving, made, stride):
      if isinstance(found, Found):
        yield found
      else:
        yield from _pairs(*found, least_difference)
  if not met:
    raise Absent("folders of numbered pictures (motion_0.jpg, motion_1.jpg), or videos (.mp4)")


def _sequences(
  folder: Path,
  place: Path,
  stills: Sequence[str],
  moving: Sequence[str],
  made: pictures.Made,
  stride: int,
) -> Iterator[tuple[str, list[Path], str] | Found]:
  """Each episode of a folder, its frames and its level, the first folder of a path to it and "all"
  where there is no other; or why there is none.
  """
  here = place.relative_to(folder)
  numbered = {}
  for name in stills:
    found = _NUMBER.match(Path(name).stem)
    if found is None:
      yield Found((here / name).as_posix(), reason="no frame", detail="its name ends in no number")
      continue
    frames = numbered.setdefault(found[1], {})
    if int(found[2]) in frames:
      detail = f"{frames[int(found[2])].name} has it too"
      yield Found((here / name).as_posix(), reason="a number twice", detail=detail)
    else:
      frames[int(found[2])] = place / name
  level = here.parts[0] if here.parts[1:] else "all"
  for prefix, frames in numbered.items():
    yield (here / f"{prefix}*").as_posix(), [frames[n] for n in sorted(frames)][::stride], level
  level = here.parts[0] if here.parts else "all"
  for name in moving:
    episode = (here / name).as_posix()
    try:
      yield episode, videos.every(place / name, made.of(place / name, episode), stride), level
    except Unusable as error:
      yield Found(episode, reason=error.reason, detail=error.detail)


def _pairs(
  episode: str, frames: Sequence[Path], level: str, least_difference: float
) -> Iterator[Found]:
  if len(frames) < 2:
    yield Found(episode, reason="one frame", detail="no other follows it at this stride")
  before = None
  for turn, (x, y) in enumerate(zip(frames, frames[1:], strict=False)):
    where = f"{episode}, frame {x.name}"
    if least_difference:
      try:
        before = _thumbnail(x) if before is None else before
        after = _thumbnail(y)
      except Unusable as error:
        yield Found(where, reason=error.reason, detail=error.detail)
        before = None
        continue
      difference, before = float(np.abs(after - before).mean()), after
      if difference < least_difference:
        yield Found(where, reason="too alike", detail=f"{difference:.4f} to {y.name}")
        continue
    yield Found(where, {"x": x, "y": y, "episode": episode, "turn": turn, "level": level})


def _thumbnail(path: Path) -> np.ndarray:
  """float32 [64, 64], from 0 to 1."""
  pictures.header(path)
  try:
    with Image.open(path) as picture:
      grey = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
  except (OSError, ValueError, SyntaxError) as error:
    raise Unusable("no picture", f"{path.name} doesn't decode ({error})") from None
  return np.asarray(grey, np.float32) / 255


BENCHMARK = Benchmark(
  "unlabelled video",
  "UCF-101, Kinetics, Moments in Time or VidGen-1M, or any videos of yours",
  read,
  visual=True,
  settings=("stride", "least_difference"),
)
