"""ByteMorph-Bench and BM-6M: non-rigid motion between two pictures (arXiv:2506.03107).

x is the source, z the instruction, y the target; a record is an episode of one turn, its level the
type of motion. The pictures lie in the parquet files, and their bytes become files unchanged.
"""

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
  of_training,
  take,
)

COLUMNS = ("image_id", "src_img", "tgt_img", "edit_prompt")
OPTIONAL = ("edit_type", "edit_prompt_rewrite_instruction")
ROWS = 32  # that are in memory at a time, with their pictures


def read(folder: Path, made: pictures.Made) -> Iterator[Found]:
  """Every row of every parquet file below the folder."""
  names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
  if not names:
    raise Absent("data/test-*.parquet, or data/train-*.parquet")
  for name in names:
    number = 0
    try:
      for number, row in enumerate(_rows(folder / name), start=1):
        yield _found(folder, name, number, row, made)
    except Unusable as error:
      yield Found(f"{name}, after row {number}", reason=error.reason, detail=error.detail)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
  """The rows; Unusable where the file is cut, or lacks a column."""
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError:
    raise ValueError("parquet files need pyarrow: pip install -e '.[visual]'.") from None
  try:
    with parquet.ParquetFile(path) as file:
      there = file.schema_arrow.names
      for name in COLUMNS:
        if name not in there:
          malformed("the columns", there, f"with {', '.join(COLUMNS)}")
      names = [*COLUMNS, *(name for name in OPTIONAL if name in there)]
      for batch in file.iter_batches(batch_size=ROWS, columns=names):
        yield from batch.to_pylist()
  except (pyarrow.ArrowException, OSError) as error:
    reason = " ".join(str(error).split())[:200]
    raise Unusable("malformed", f"the file isn't whole parquet ({reason})") from None


def _found(
  folder: Path, name: str, number: int, row: Mapping[str, Any], made: pictures.Made
) -> Found:
  where = f"{name}, row {number}"
  part = Path(name).name.split("-")[0]  # test-00000-of-00001.parquet
  try:
    notes, z = _instruction(row)
    line = {"z": z, "episode": f"{name}/{number}", "turn": 0, "level": "all"}
    if row.get("edit_type"):
      line["level"] = take(row, "edit_type", str)
    if part in ("test", "train"):
      line["split"] = "test" if part == "test" else of_training(str(row["image_id"]))
    line["x"] = _picture(folder, row["src_img"], "src_img", made)
    if row["tgt_img"] is not None:
      line["y"] = _picture(folder, row["tgt_img"], "tgt_img", made)
  except Unusable as error:
    return Found(where, reason=error.reason, detail=error.detail)
  return Found(where, line, notes=notes)


def _instruction(row: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
  """The rewritten instruction, or else the caption of the motion it was made of, which is noted."""
  if row.get("edit_prompt_rewrite_instruction"):
    return (), take(row, "edit_prompt_rewrite_instruction", str)
  return ("edit_prompt, where no instruction was rewritten",), take(row, "edit_prompt", str)


def _picture(folder: Path, value: Any, name: str, made: pictures.Made) -> Path:
  """A picture as bytes, or as the `datasets` library writes it: {"bytes", "path"}, one of them."""
  if isinstance(value, dict):
    data, path = value.get("bytes"), value.get("path")
    if data is None and isinstance(path, str):
      return folder / path
    value = data
  if not isinstance(value, bytes):
    malformed(name, value, "bytes, or an object of bytes and path")
  return made.put(value, name)


BENCHMARK = Benchmark(
  "ByteMorph",
  "ByteDance-Seed/BM-Bench (or BM-6M) on the Hugging Face hub",
  read,
  visual=True,
)
