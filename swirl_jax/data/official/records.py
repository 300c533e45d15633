"""What the official formats' loaders share: a benchmark, its files, and what a record gave."""

import collections
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

VALIDATION = 20
KINDS = {str: "text", dict: "an object", list: "a list", int: "a whole number"}


LINES = "lines"  # the file of transitions


class Found(NamedTuple):
  """What one record gave: the fields of a line, or else a reason why there is none.

  where: file and record. line: as docs/world.md has it, pictures as absolute paths. reason: what is
  counted; detail: what was found. notes: what is to be counted though the line is kept. to: the
  file it belongs to, `LINES` or, from a benchmark of pictures, one of `visual.SETS`. shared: of
  pictures, whether the same transition may be in several episodes, each of which needs it.
  """

  where: str
  line: Mapping[str, Any] | None = None
  reason: str = ""
  detail: str = ""
  notes: tuple[str, ...] = ()
  to: str = LINES
  shared: bool = False


class Benchmark(NamedTuple):
  """A format. page: where its files are to be had; read(folder): what every record gave.

  Where states are pictures (`visual`), it is read(folder, made, **settings): `made` is the folder
  for pictures that are taken out of other files, a `pictures.Made`, and `settings` names those of
  the command's flags that this format has.
  """

  title: str
  page: str
  read: Callable[..., Iterator[Found]]
  visual: bool = False
  settings: tuple[str, ...] = ()


class Unusable(ValueError):
  """A record that gives no line: reason, what is counted; detail, what was found."""

  def __init__(self, reason: str, detail: str):
    super().__init__(f"{reason}: {detail}")
    self.reason, self.detail = reason, detail


class Absent(ValueError):
  """The authors' files are not there; the message names them."""


def of_training(episode: str) -> str:
  """The split of an episode of the authors' training files: "validation" for one in `VALIDATION`,
  by a hash of its name, since no benchmark here has a validation split of its own.
  """
  digest = hashlib.sha256(episode.encode("utf-8", "surrogatepass")).hexdigest()
  return "train" if int(digest, 16) % VALIDATION else "validation"


def malformed(field: str, found: Any, allowed: str) -> NoReturn:
  raise Unusable("malformed", f"{field} is {shown(found)}, must be {allowed}")


def shown(found: Any, most: int = 80) -> str:
  text = repr(found)
  return text if len(text) <= most else text[: most - 3] + "..."


def take(record: Any, name: str, kind: type) -> Any:
  """The field of a record, which must be there and of that kind."""
  if not isinstance(record, dict):
    malformed("the record", record, KINDS[dict])
  if name not in record:
    raise Unusable("malformed", f"{name} is missing, must be {KINDS[kind]}")
  value = record[name]
  if not isinstance(value, kind) or isinstance(value, bool):
    malformed(name, value, KINDS[kind])
  return value


def parse(text: str, name: str) -> Any:
  """The value of a JSON text; Unusable names the field that holds it."""

  def once(pairs):
    for field, count in collections.Counter(field for field, _ in pairs).items():
      if count > 1:
        raise Unusable("malformed", f"{name} has {shown(field)} {count} times, must have it once")
    return dict(pairs)

  try:
    return json.loads(text, object_pairs_hook=once)
  except Unusable:
    raise
  except json.JSONDecodeError as error:
    at = f", line {error.lineno}" if "\n" in text.rstrip() else ""
    raise Unusable("malformed", f"{name} isn't JSON ({error.msg}{at})") from None
  except (ValueError, RecursionError) as error:
    raise Unusable("malformed", f"{name} isn't JSON ({error})") from None


def load(path: Path) -> Any:
  """The value of a JSON file, or Unusable."""
  try:
    return parse(path.read_text(encoding="utf-8"), "the file")
  except UnicodeDecodeError as error:
    raise Unusable("malformed", f"the file isn't UTF-8 (byte {error.start + 1})") from None


def load_list(path: Path) -> list[Any]:
  """The records of a JSON file that is a list of them, or Unusable."""
  found = load(path)
  if not isinstance(found, list):
    malformed("the file", found, "a JSON list of records")
  return found


def rows(path: Path) -> Iterator[tuple[int, Any]]:
  """The records of a file, counted from 1: of a JSON list, or of one JSON value a line (.jsonl).

  A line that can't be read is given as the Unusable that it raised; a file that can't is an error.
  """
  if path.suffix != ".jsonl":
    try:
      found = load_list(path)
    except Unusable as error:
      raise ValueError(f"{path}: {error.detail}.") from None
    yield from enumerate(found, start=1)
    return
  with open(path, "rb") as file:
    for number, raw in enumerate(file, start=1):
      if not raw.strip():
        continue
      try:
        yield number, parse(raw.decode("utf-8"), "the line")
      except UnicodeDecodeError as error:
        yield number, Unusable("malformed", f"the line isn't UTF-8 (byte {error.start + 1})")
      except Unusable as error:
        yield number, error


def numbered(path: Path, name: str) -> Iterator[tuple[int, str, dict[str, Any] | Unusable]]:
  """The number, place and object of each record; what is none, repeats an earlier one, or is a
  file that can't be read, is given as Unusable.
  """
  try:
    found = rows(path) if path.suffix == ".jsonl" else enumerate(load_list(path), start=1)
  except Unusable as error:
    yield 0, name, error
    return
  met = {}
  for number, record in found:
    if not isinstance(record, dict | Unusable):
      record = Unusable("malformed", f"the record is {shown(record)}, must be {KINDS[dict]}")
    elif isinstance(record, dict):
      first = met.setdefault(hash(json.dumps(record, sort_keys=True)), number)
      record = record if first == number else Unusable("duplicate", f"it is record {first} again")
    yield number, f"{name}, record {number}", record


def one_line(value: Any) -> str:
  """A JSON value as text on one line; letters of every script as themselves."""
  return json.dumps(value, ensure_ascii=False)
