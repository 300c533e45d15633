"""WorldPrediction: plans that people followed in videos, among others (arXiv:2506.04363).

A sample's `original_segments` are the steps that were seen: state 0 is the frame at the start of
the first, state k that at the end of the k-th, and z the step's label, so that turns chain. (The
frames in SWIRL's authors' evaluation are the middles of the segments, the first included: the
model is given a frame from within the first step, and that frame is also what step 1 should give.)

`candidates` are plans, lists of ids in `action_segments`, and `ground_truth` says which is right.
Whether it counts them from 0 or from 1 no file says, and the authors' loader subtracts one from
what is above zero, so 0 and 1 fall together: `index_base` has to be given. Where the right plan by
it isn't the one that was seen, and another is, the sets are left out.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from swirl_jax.data.official import pictures, videos
from swirl_jax.data.official.records import (
  Absent,
  Benchmark,
  Found,
  Unusable,
  load,
  malformed,
  shown,
  take,
)
from swirl_jax.data.official.visual import ACTIONS, STATES

PLACES = ("videos/{dataset}", "{dataset}", "videos", "")  # where a video's name may begin


class Segment(NamedTuple):
  """A step: its label, and the video and the seconds in which it is seen."""

  name: str
  video: str
  start: float
  end: float
  label: str


class Source(NamedTuple):
  """Where the frames of one data set's samples are."""

  folder: Path
  dataset: str
  made: pictures.Made

  def frame(self, video: str, seconds: float) -> Path:
    places = (self.folder / place.format(dataset=self.dataset) / video for place in PLACES)
    path = next(filter(os.path.isfile, places), self.folder / "videos" / video)
    name = f"{self.dataset}/{video}"
    return videos.at(path, self.made.of(path, name), seconds)


def read(folder: Path, made: pictures.Made, *, index_base: int) -> Iterator[Found]:
  """Every sample of every .json file in the folder."""
  paths = sorted(folder.glob("*.json"))
  if not paths:
    raise Absent("*.json of samples, with videos/DATASET/*")
  for path in paths:
    try:
      datasets = load(path)
      if not isinstance(datasets, dict):
        malformed("the file", datasets, "an object of data sets")
    except Unusable as error:
      yield Found(path.name, reason=error.reason, detail=error.detail)
      continue
    for dataset, samples in datasets.items():
      if not isinstance(samples, dict):
        detail = f"{shown(samples)}, must be an object of samples"
        yield Found(f"{path.name}, {dataset}", reason="malformed", detail=detail)
        continue
      for name, sample in samples.items():
        where = f"{path.name}, {dataset}, {name}"
        yield from _sample(where, Source(folder, dataset, made), sample, index_base)


def _sample(where: str, source: Source, sample: Any, index_base: int) -> Iterator[Found]:
  try:
    steps = take(sample, "original_segments", list)
    seen = [_segment(take(step, "segment_uid", str), step) for step in steps]
    if not seen:
      malformed("original_segments", seen, "one or more")
  except Unusable as error:
    yield Found(where, reason=error.reason, detail=error.detail)
    return
  states = [_state(source, seen[0].video, seen[0].start)]
  states += [_state(source, step.video, step.end) for step in seen]
  for turn, step in enumerate(seen):
    line = {"z": step.label, "episode": where, "turn": turn, "level": source.dataset,
            "split": "test"}  # fmt: skip
    pair = {"x": states[turn], "y": states[turn + 1]}
    yield _with(f"{where}, step {turn + 1}", line, pair, shared=True)
  try:
    yield from _sets(where, source, sample, index_base, seen, states)
  except Unusable as error:
    yield Found(f"{where}, candidates", reason=error.reason, detail=error.detail)


def _segment(name: str, value: Any) -> Segment:
  times = []
  for field in ("segment_start_time", "segment_end_time"):
    time = value.get(field) if isinstance(value, dict) else None
    number = isinstance(time, int | float) and not isinstance(time, bool)
    if not number or not math.isfinite(time) or time < 0:
      malformed(f"{field} of {name}", time, "seconds, 0 or more")
    times.append(float(time))
  if times[0] >= times[1]:
    malformed(f"segment_end_time of {name}", times[1], f"after its start, {times[0]:g}")
  label = take(value, "action_label", str)
  if not label.strip():
    malformed(f"action_label of {name}", label, "text with a word in it")
  return Segment(name, take(value, "video", str), *times, label)


def _state(source: Source, video: str, seconds: float) -> Path | Unusable:
  """The frame, or why there is none."""
  try:
    return source.frame(video, seconds)
  except Unusable as error:
    return error


def _with(where: str, line: dict, states: Mapping[str, Any], **kwargs: Any) -> Found:
  """The line with its states, or the reason for which one of them isn't there."""
  for state in states.values():
    for one in state if isinstance(state, list) else [state]:
      if isinstance(one, Unusable):
        return Found(where, reason=one.reason, detail=one.detail, **kwargs)
  return Found(where, {**line, **states}, **kwargs)


def _sets(
  where: str,
  source: Source,
  sample: Mapping[str, Any],
  index_base: int,
  seen: Sequence[Segment],
  states: Sequence[Path | Unusable],
) -> Iterator[Found]:
  """Which plan leads from the first state to the last, and which state follows each step."""
  plans = _plans(sample)
  truth = take(sample, "ground_truth", int) - index_base
  if not 0 <= truth < len(plans):
    allowed = f"from {index_base} to {index_base + len(plans) - 1}, with this index base"
    malformed("ground_truth", truth + index_base, allowed)
  names = [[step.name for step in plan] for plan in plans]
  followed = [step.name for step in seen]
  if names[truth] != followed and followed in names:
    which = names.index(followed) + index_base
    detail = f"ground_truth is {truth + index_base}, but what was seen is candidate {which}"
    raise Unusable("another index base", detail)
  labels = [[step.label for step in plan] for plan in plans]
  line = {"candidates": labels, "truth": truth, "task": source.dataset, "where": where}
  yield _with(where, line, {"x": states[0], "y": states[-1]}, to=ACTIONS)
  before = states[0]
  for number, step in enumerate(plans[truth]):
    here = f"{where}, step {number + 1}"
    others = {plan[number].name: plan[number] for plan in plans if number < len(plan)}
    if len(others) > 1:
      frames = [_state(source, other.video, other.end) for other in others.values()]
      line = {"z": step.label, "truth": list(others).index(step.name), "task": source.dataset,
              "where": here}  # fmt: skip
      yield _with(here, line, {"x": before, "candidates": frames}, to=STATES)
    before = _state(source, step.video, step.end)


def _plans(sample: Mapping[str, Any]) -> list[list[Segment]]:
  segments, plans = take(sample, "action_segments", dict), []
  for number, ids in enumerate(take(sample, "candidates", list), start=1):
    if not isinstance(ids, list) or not ids:
      malformed(f"candidate {number}", ids, "a list of segments' ids")
    for uid in ids:
      if str(uid) not in segments:
        malformed(f"candidate {number}", uid, "an id in action_segments")
    plans.append([_segment(str(uid), segments[str(uid)]) for uid in ids])
  if len(plans) < 2:
    malformed("candidates", plans, "two or more")
  return plans


BENCHMARK = Benchmark(
  "WorldPrediction",
  "the benchmark's own page (arXiv:2506.04363 links it), and its videos from their data sets",
  read,
  visual=True,
  settings=("index_base",),
)
