"""pico-banana-400k: edits of photographs by a model, one or several in a row (arXiv:2510.19808).

x is a picture, z the short instruction, y the picture after it. The photographs of Open Images are
not the authors' to give: their script `map_openimage_url_to_local.py` adds `local_input_image`.
Rejected edits (preference*.jsonl) are not read. A photograph's records are in one split.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swirl_jax.data.official import pictures
from swirl_jax.data.official.records import (
  Absent,
  Benchmark,
  Found,
  Unusable,
  malformed,
  numbered,
  of_training,
  take,
)

PLACES = ("", "images", "images/openimages", "images/sft")  # where a picture's name may begin
_NAME = re.compile(r"(?:sft|multi[-_]?turn)[^/]*\.jsonl$")
_TURN = re.compile(r"edit_turn(\d+)")


def read(folder: Path, made: pictures.Made) -> Iterator[Found]:
  """Every record of every sft*.jsonl and multi-turn*.jsonl below the folder."""
  names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl"))
  names = [name for name in names if _NAME.match(name.rpartition("/")[2])]
  if not names:
    raise Absent("sft*.jsonl, multi-turn*.jsonl")
  for name in names:
    for number, where, record in numbered(folder / name, name):
      try:
        if isinstance(record, Unusable):
          raise record
        give = _several if "files" in record else _one
        yield from give(folder, where, f"{name}/{number}", record)
      except Unusable as error:
        yield Found(where, reason=error.reason, detail=error.detail)


def _one(folder: Path, where: str, episode: str, record: Mapping[str, Any]) -> Iterator[Found]:
  short = bool(record.get("summarized_text"))
  z = take(record, "summarized_text" if short else "text", str)
  x = _photograph(folder, record, record, "open_image_input_file")
  y = _path(folder, take(record, "output_image", str))
  level = take(record, "edit_type", str) if "edit_type" in record else "single_turn"
  split = of_training(str(record.get("open_image_input_url", x.name)))
  line = {"x": x, "y": y, "z": z, "episode": episode, "turn": 0, "level": level, "split": split}
  yield Found(where, line, notes=() if short else ("the long instruction: no short one is there",))


def _several(folder: Path, where: str, episode: str, record: Mapping[str, Any]) -> Iterator[Found]:
  """A line for each edit: the pictures in order are the original, edit_turn1 …, the final one."""
  listed = take(record, "files", list)
  files = {take(file, "id", str): file for file in listed}
  prompts = take(record, "metadata_edit_turn_prompts", list)
  if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
    malformed("metadata_edit_turn_prompts", prompts, "a list of texts, one or more")
  for name in ("original_input_image", "final_image"):
    if name not in files:
      malformed("files", sorted(files), f"with {name}")
  turns = sorted(int(found[1]) for name in files if (found := _TURN.fullmatch(name)))
  if turns != list(range(1, len(prompts))) or len(files) < len(listed):
    must = f"edit_turn1 to {len(prompts) - 1}, each once, for {len(prompts)} prompts"
    malformed("files", [file["id"] for file in listed], must)
  edited = [files[f"edit_turn{turn}"] for turn in turns] + [files["final_image"]]
  original = files["original_input_image"]
  x = _photograph(folder, original, record, "original_input_image_file")
  split = of_training(str(original.get("url", x.name)))
  for turn, (file, z) in enumerate(zip(edited, prompts, strict=True)):
    y = _path(folder, take(file, "url", str))
    line = {"x": x, "y": y, "z": z, "episode": episode, "turn": turn, "level": "multi_turn",
            "split": split}  # fmt: skip
    yield Found(f"{where}, edit {turn + 1}", line, shared=True)
    x = y


def _photograph(
  folder: Path, holder: Mapping[str, Any], record: Mapping[str, Any], name: str
) -> Path:
  """The photograph's file, by the name in the records or by what the authors' script has added."""
  if name in holder:
    return _path(folder, take(holder, name, str))
  if record.get("local_input_image") is None:
    raise Unusable("no photograph", f"{name} and local_input_image are missing: see the docs")
  return _path(folder, take(record, "local_input_image", str))


def _path(folder: Path, name: str) -> Path:
  """The first file of this name in `PLACES`; in the folder itself where there is none."""
  paths = [folder / place / name for place in PLACES]
  return next((path for path in paths if os.path.isfile(path)), paths[0])


BENCHMARK = Benchmark("pico-banana-400k", "apple/pico-banana-400k on GitHub", read, visual=True)
