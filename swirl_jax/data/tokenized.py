"""A folder of tokenised pictures: pairs of pictures, and the codes of each picture once.

    pairs.jsonl               the lines as the job was given them: x and y name pictures
    job.json                  what decides all that follows
    parts/00000.array_record  a record a picture: its codes, row by row, uint16 little-endian
    parts/00000.json          the part: its pictures in the records' order, those refused and why,
                              the SHA-256 of the records
    tokenized.json            the summary, written last: a folder without it isn't finished

A part is whole or not there: its JSON is written after its records, and both take their names when
they are whole. docs/images.md describes the job (`swirl_jax/tokenize_images.py`) and the world.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from swirl_jax.data import transition_lines
from swirl_jax.data.image_codes import is_code
from swirl_jax.data.transition_lines import Line
from swirl_jax.whole_files import replacing, write_lines

FORMAT = 1
MOST_CODES = 2**16  # kinds of code that a record can hold
LINES, JOB, SUMMARY, PARTS = "pairs.jsonl", "job.json", "tokenized.json", "parts"
_DTYPE = np.dtype("<u2")


# -- the lines -----------------------------------------------------------------------------------


def read_lines(
  path: str | os.PathLike, *, name: str, heldout_levels: Sequence[str] = ()
) -> tuple[str, list[Line]]:
  """The SHA-256 of a file of pairs and its lines: those of docs/world.md, x and y being pictures'
  paths relative to the file, normalised here; y may be missing, and is "" then.

  Raises ValueError for a bad line, among them an action with a word that reads as a code; `name` is
  what errors call the file's setting.
  """
  settings = {"path": os.fspath(path), "heldout_levels": heldout_levels}
  digest, lines = transition_lines.read(settings, name=name, pictures=True)
  lines = [n._replace(x=_normal(n.x), y=_normal(n.y)) for n in lines]
  errors = []
  for n in lines:
    if codes := [word for word in n.z.split() if is_code(word)]:
      errors.append((n.number, f"z is {n.z!r}, must be free of a picture's codes ({codes[0]})"))
    elif n.x == n.y:
      errors.append((n.number, f"y is {n.y!r}, must be another picture than x"))
  transition_lines.stop(settings["path"], errors)
  return digest, lines


def _normal(path: str) -> str:
  return os.path.normpath(path) if path else ""


def pictures(lines: Sequence[Line]) -> list[str]:
  """The distinct pictures, by first appearance."""
  return list(dict.fromkeys(name for n in lines for name in (n.x, n.y) if name))


# -- a part --------------------------------------------------------------------------------------


class Part(NamedTuple):
  """What became of a run of pictures. names: those with codes, in order; refused: name → (kind,
  reason); codes: uint16 [len(names), h · w]; digest: of the part's JSON.
  """

  names: list[str]
  refused: dict[str, tuple[str, str]]
  codes: np.ndarray
  digest: str


def _files(folder: str | os.PathLike, number: int) -> tuple[pathlib.Path, pathlib.Path]:
  stem = pathlib.Path(folder) / PARTS / f"{number:05d}"
  return stem.with_suffix(".array_record"), stem.with_suffix(".json")


def write_part(
  folder: str | os.PathLike,
  number: int,
  names: Sequence[str],
  refused: Mapping[str, tuple[str, str]],
  codes: np.ndarray,
) -> None:
  """Writes `codes`, whole numbers [len(names), n] below `MOST_CODES`, then the part's JSON."""
  from array_record.python import array_record_module

  records, description = _files(folder, number)
  with replacing(records) as temporary:
    writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
    for row in codes.astype(_DTYPE):
      writer.write(row.tobytes())
    writer.close()
    digest = sha256(temporary)
  write_json(description, {"sha256": digest, "pictures": list(names), "refused": dict(refused)})


def read_part(folder: str | os.PathLike, number: int, length: int) -> Part | None:
  """A part whose pictures have `length` codes each, or None where it isn't there.

  Raises ValueError where its records are not those that its JSON was written for.
  """
  from array_record.python import array_record_module

  records, description = _files(folder, number)
  try:
    raw = description.read_bytes()
  except FileNotFoundError:
    return None
  said = json.loads(raw)
  found = sha256(records) if records.exists() else "no file"
  if found != said["sha256"]:
    raise ValueError(
      f"{records}: SHA-256 is {found}, must be {said['sha256']}, as {description.name} says. "
      f"Remove {description} and run the job again: it makes this part anew."
    )
  names = said["pictures"]
  rows = []
  if names:
    reader = array_record_module.ArrayRecordReader(str(records))
    rows = reader.read_all()
    reader.close()
  codes = np.frombuffer(b"".join(rows), _DTYPE).reshape(len(names), length)
  refused = {name: tuple(why) for name, why in said["refused"].items()}
  return Part(names, refused, codes, hashlib.sha256(raw).hexdigest())


def write_json(path: pathlib.Path, found: Mapping[str, Any]) -> None:
  """The whole file or none."""
  write_lines(path, [json.dumps(found, indent=1, ensure_ascii=False)])


def sha256(path: pathlib.Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


# -- a finished folder ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tokenized:
  """digest: the SHA-256 of the summary, which stands for all files; summary: what it says; codes:
  uint16 [pictures, h · w]; rows: a picture's name → its row.
  """

  digest: str
  summary: Mapping[str, Any]
  codes: np.ndarray
  rows: Mapping[str, int]


def read_folder(folder: str | os.PathLike) -> Tokenized:
  """A finished folder. Raises ValueError, naming the file, where it isn't finished, of another
  format, or not as its summary says, and for codes that are outside its codebook.
  """
  path = pathlib.Path(folder) / SUMMARY
  try:
    raw = path.read_bytes()
  except OSError as error:
    raise ValueError(
      f"{path}: {error.strerror}. It is what the job writes last: "
      "python -m swirl_jax.tokenize_images, with the same arguments, begins it or goes on."
    ) from None
  summary = json.loads(raw)
  if summary.get("format") != FORMAT:
    raise ValueError(f"{path}: format is {summary.get('format')!r}, must be {FORMAT}.")
  lines = path.with_name(LINES)
  found = sha256(lines) if lines.exists() else "no file"
  if found != summary["pairs"]:
    raise ValueError(f"{lines}: SHA-256 is {found}, must be {summary['pairs']}, as {SUMMARY} says.")
  height, width = summary["grid"]
  names, parts = [], []
  for number, digest in enumerate(summary["parts"]):
    part = read_part(folder, number, height * width)
    if part is None or part.digest != digest:
      found = "there is none" if part is None else f"its SHA-256 is {part.digest}"
      name = _files(folder, number)[1]
      raise ValueError(f"{name}: {found}, must be {digest}, as {SUMMARY} says.")
    names += part.names
    parts.append(part.codes)
  codes = np.concatenate(parts)
  outside = np.argwhere(codes >= summary["codes"])
  if len(outside):
    row, at = outside[0]
    raise ValueError(
      f"{path.parent}: code {at + 1} of {names[row]!r} is {codes[row, at]}, must be from 0 to "
      f"{summary['codes'] - 1}; {len(outside)} codes are outside."
    )
  rows = {name: row for row, name in enumerate(names)}
  return Tokenized(hashlib.sha256(raw).hexdigest(), summary, codes, rows)
