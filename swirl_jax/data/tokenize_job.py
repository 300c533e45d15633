"""The job that turns the pictures of a file of pairs into a folder of codes (`tokenized.py`).

Worker processes read and prepare; this one encodes in batches of one size and writes part after
part. What decides the result stands in `job.json`, and a job that was killed goes on behind the
last whole part: the folder's bytes don't show it, nor how many workers there were. A picture that
can't be read is noted with its reason, and the job goes on without it.
"""

import collections
import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from swirl_jax.data import image_workers, images, tokenized
from swirl_jax.data.codec import Codec
from swirl_jax.data.tokenized import Part
from swirl_jax.data.transition_lines import Line
from swirl_jax.whole_files import locked, replacing

IN_A_ROW = 10  # so many refused pictures, one after the other, end the job
_SHOWN = 3  # refused pictures that an error names


class JobError(RuntimeError):
  """Too many pictures can't be read, or the encoder gives something else than codes."""


def tokenize(
  lines: str | os.PathLike,
  out: str | os.PathLike,
  codec: Codec,
  *,
  size: int = 512,
  batch: int = 8,
  part: int = 512,
  workers: int = 0,
  most_refused: float = 0.1,
  versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
  """Tokenises every picture that the file `lines` names into the folder `out`; its summary.

  size: pixels a side of a prepared picture. batch: pictures that are encoded at once. part:
  pictures a part. workers: processes that read, 0 for none but this. most_refused: the share of the
  pictures that may be refused. versions: what else decides the codes, for `job.json`.

  Raises ValueError for settings that can't be, a bad line, and a folder that another job began or
  that holds something else; JobError; and `image_workers.WorkerError`.
  """
  _check(codec, size=size, batch=batch, part=part, workers=workers, most_refused=most_refused)
  digest, found = tokenized.read_lines(lines, name="lines")
  names, out = tokenized.pictures(found), pathlib.Path(out)
  job = {
    "format": tokenized.FORMAT, "pairs": digest, "vq": codec.digest, "codes": codec.size,
    "size": size, "grid": [size // codec.factor] * 2, "batch": batch, "part": part,
    "versions": dict(versions or {}),
  }  # fmt: skip
  with locked(out / ".lock"):
    root = pathlib.Path(lines).parent.resolve()  # what relative names mean
    _begin(out, {**job, "root": str(root)}, lines)
    summary = out / tokenized.SUMMARY
    if not summary.exists():
      parts = _parts(out, job, names, root, codec, workers, most_refused)
      tokenized.write_json(summary, _summary(job, found, names, parts))
    return json.loads(summary.read_text())


def _check(codec: Codec, **settings: Any) -> None:
  def refuse(name, allowed):
    raise ValueError(f"{name} = {settings[name]!r}: allowed is {allowed}.")

  for name, least in (("size", 1), ("batch", 1), ("part", 1), ("workers", 0)):
    if type(settings[name]) is not int or settings[name] < least:
      refuse(name, f"a whole number from {least}")
  if settings["size"] % codec.factor:
    refuse("size", f"a multiple of {codec.factor}, the pixels a side that a code stands for")
  if not 0 <= settings["most_refused"] <= 1:
    refuse("most_refused", "a share from 0 to 1")
  if codec.size > tokenized.MOST_CODES:
    raise ValueError(f"vq has {codec.size} codes: allowed are {tokenized.MOST_CODES} at most.")


def _begin(out: pathlib.Path, job: Mapping[str, Any], lines: str | os.PathLike) -> None:
  """Begins the folder, or finds that it is this job's; what a killed one left half is removed."""
  path = out / tokenized.JOB
  if not path.exists():
    strange = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    begun = strange == [tokenized.LINES] and tokenized.sha256(out / tokenized.LINES) == job["pairs"]
    if strange and not begun:
      raise ValueError(f"out = {str(out)!r} holds {strange[0]!r}: choose a new or empty folder.")
    with replacing(out / tokenized.LINES) as temporary:
      shutil.copyfile(lines, temporary)
    tokenized.write_json(path, job)
  begun = json.loads(path.read_text())
  for name in sorted(begun.keys() | job.keys()):
    was, now = begun.get(name), job.get(name)
    if was != now:
      raise ValueError(
        f"out = {str(out)!r} was begun with {name} = {json.dumps(was)}, now it is "
        f"{json.dumps(now)}: restore that, or choose another folder."
      )
  for left in out.rglob(".*.tmp"):
    left.unlink()
  (out / tokenized.PARTS).mkdir(exist_ok=True)


class _Refusals:
  """Counts refused pictures in their order, and ends the job where they are too many."""

  def __init__(self, pictures: int, most: float):
    self._most, self._total = most * pictures, pictures
    self._row = 0
    self.reasons: list[str] = []
    self.kinds: collections.Counter[str] = collections.Counter()

  def add(self, kind: str, reason: str) -> None:
    """The next picture: refused, or fine where `kind` is ""."""
    if not kind:
      self._row = 0
      return
    self._row += 1
    self.reasons.append(reason)
    self.kinds[kind] += 1
    if self._row == IN_A_ROW:
      raise JobError(f"{IN_A_ROW} pictures one after the other can't be read; {self._last()}")
    if len(self.reasons) > self._most:
      counts = ", ".join(f"{n} {kind}" for kind, n in self.kinds.items())
      raise JobError(
        f"{len(self.reasons)} of {self._total} pictures can't be read ({counts}), more than "
        f"most_refused allows; {self._last()}"
      )

  def _last(self) -> str:
    return "the last: " + "; ".join(self.reasons[-_SHOWN:]) + "."


def _parts(
  out: pathlib.Path, job: Mapping[str, Any], names: Sequence[str], root: pathlib.Path,
  codec: Codec, workers: int, most_refused: float,
) -> list[Part]:  # fmt: skip
  """All parts, those that aren't there made now; without their codes."""
  length = job["grid"][0] * job["grid"][1]
  cut = [names[i : i + job["part"]] for i in range(0, len(names), job["part"])]
  there = [tokenized.read_part(out, number, length) for number in range(len(cut))]
  left = [name for own, part in zip(cut, there, strict=True) if part is None for name in own]
  ahead = 2 * (job["batch"] + workers)
  reads = image_workers.reads(left, root, job["size"], workers=workers, ahead=ahead)
  refusals, found = _Refusals(len(names), most_refused), []
  with (
    contextlib.closing(reads),
    tqdm(total=len(names), initial=len(names) - len(left), desc="tokenising",
         unit=" pictures") as bar,
  ):  # fmt: skip
    for number, (own, part) in enumerate(zip(cut, there, strict=True)):
      if part is None:
        _make(out, number, own, reads, codec, job, refusals, bar)
        part = tokenized.read_part(out, number, length)
      else:
        for name in own:
          refusals.add(*part.refused.get(name, ("", "")))
      found.append(part._replace(codes=None))
  return found


def _make(
  out: pathlib.Path, number: int, own: Sequence[str], reads: Iterator[images.Read], codec: Codec,
  job: Mapping[str, Any], refusals: _Refusals, bar: tqdm,
) -> None:  # fmt: skip
  """Reads, encodes and writes one part."""
  good, refused, codes, pixels = [], {}, [], []

  def encode():
    codes.append(_encode(np.stack(pixels), codec, job))
    bar.update(len(pixels))
    pixels.clear()

  for name in own:
    read = next(reads)
    refusals.add(read.kind, read.reason)
    if read.kind:
      refused[name] = (read.kind, read.reason)
      bar.update()
      bar.set_postfix_str(f"{len(refusals.reasons)} refused", refresh=False)
      continue
    good.append(name)
    pixels.append(read.pixels)
    if len(pixels) == job["batch"]:
      encode()
  if pixels:
    encode()
  length = job["grid"][0] * job["grid"][1]
  rows = np.concatenate(codes) if codes else np.zeros((0, length), np.int32)
  tokenized.write_part(out, number, good, refused, rows)


def _encode(pixels: np.ndarray, codec: Codec, job: Mapping[str, Any]) -> np.ndarray:
  """uint8 [n, H, W, 3], n at most a batch → int [n, h · w]. The last picture fills the batch up."""
  rows = np.minimum(np.arange(job["batch"]), len(pixels) - 1)
  codes = np.asarray(codec.encode(pixels[rows]))
  wanted = (job["batch"], *job["grid"])
  if codes.shape != wanted or codes.dtype.kind not in "iu":
    raise JobError(f"the encoder gave {codes.dtype} {codes.shape}, must be whole numbers {wanted}.")
  if codes.min() < 0 or codes.max() >= job["codes"]:
    found = f"codes from {codes.min()} to {codes.max()}"
    raise JobError(f"the encoder gave {found}, must be from 0 to {job['codes'] - 1}.")
  return codes.reshape(len(codes), -1)[: len(pixels)]


def _summary(
  job: Mapping[str, Any], lines: Sequence[Line], names: Sequence[str], parts: Sequence[Part]
) -> dict[str, Any]:
  """What `tokenized.json` says: the job, counts, each refused picture by the kind of its reason,
  the lines (by number) that can't train anything, and the SHA-256 of every part's JSON.
  """
  refused = {name: why for part in parts for name, why in part.refused.items()}
  kinds: dict[str, dict[str, str]] = {}
  for name, (kind, reason) in refused.items():
    kinds.setdefault(kind, {})[name] = reason
  unusable = {
    "without_y": [n.number for n in lines if not n.y],
    "refused": [n.number for n in lines if n.y and {n.x, n.y} & refused.keys()],
  }
  lost = {name: len(numbers) for name, numbers in unusable.items()}
  counts = {
    "pictures": {"distinct": len(names), "tokenized": len(names) - len(refused),
                 "refused": len(refused)},
    "lines": {"all": len(lines), "usable": len(lines) - sum(lost.values()), **lost},
  }  # fmt: skip
  return {**job, "counts": counts, "refused": kinds, "unusable": unusable,
          "parts": [part.digest for part in parts]}  # fmt: skip
