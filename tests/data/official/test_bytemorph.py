"""ByteMorph: rows of parquet files, whose pictures become files."""

import sys

import pytest

from tests.data.official import drawn

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.visual

BYTES = pa.binary()
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def row(n=0, y=1, **fields):
  return {"image_id": f"i{n}", "edit_type": "camera_zoom", "edit_prompt": "The camera zooms in.",
          "edit_prompt_rewrite_instruction": "Zoom in.", "src_img": drawn.data(n),
          "tgt_img": None if y is None else drawn.data(y), "src_img_caption": "a",
          "tgt_img_caption": "b", **fields}  # fmt: skip


def write(path, *rows, image=BYTES, without=()):
  path.parent.mkdir(parents=True, exist_ok=True)
  if image == IMAGE:
    rows = [{**r, **{name: {"bytes": r[name], "path": None} for name in ("src_img", "tgt_img")
                     if isinstance(r[name], bytes)}} for r in rows]  # fmt: skip
  kinds = {name: image if name in ("src_img", "tgt_img") else pa.string() for name in row()}
  schema = pa.schema([(name, kind) for name, kind in kinds.items() if name not in without])
  parquet.write_table(pa.Table.from_pylist(list(rows), schema), path)


@pytest.mark.parametrize("image", [BYTES, IMAGE], ids=["bytes", "struct"])
def test_rows_become_lines_and_pictures(tmp_path, image):
  folder, out = tmp_path / "in", tmp_path / "out" / "b.jsonl"
  write(folder / "data/test-0.parquet", row(1, 2), row(3, 1, edit_type="human_motion",
        edit_prompt_rewrite_instruction=None), row(4, None), image=image)  # fmt: skip
  found, _, left, counts = drawn.converted("bytemorph", folder, out)
  assert [(n["level"], n["z"], n["split"], n["episode"], n["turn"]) for n in found] == [
    ("camera_zoom", "Zoom in.", "test", "data/test-0.parquet/1", 0),
    ("human_motion", "The camera zooms in.", "test", "data/test-0.parquet/2", 0),
    ("camera_zoom", "Zoom in.", "test", "data/test-0.parquet/3", 0),
  ]
  shown = [[drawn.grey(out.parent / n[name]) for name in "xy" if name in n] for n in found]
  assert shown == [[1, 2], [3, 1], [4]]
  assert found[0]["x"] == found[1]["y"]  # the same bytes are one file
  assert not left
  assert counts["noted"] == {"edit_prompt, where no instruction was rewritten": 1, "without y": 1}


def test_training_and_other_files(tmp_path):
  folder = tmp_path / "in"
  write(folder / "train-00000-of-00002.parquet", *(row(n, 200) for n in range(100)),
        without=("edit_type",))  # fmt: skip
  write(folder / "more.parquet", row(100, 200))
  found, *_ = drawn.converted("bytemorph", folder, tmp_path / "b.jsonl")
  assert len(found) == 101  # more than are in memory at a time
  assert {n["split"] for n in found if "train" in n["episode"]} == {"train", "validation"}
  assert [n["level"] for n in found if "split" not in n] == ["camera_zoom"]
  assert {n["level"] for n in found if "split" in n} == {"all"}


def test_pairs_out_of_one_video_are_in_one_split(tmp_path):
  rows = [row(n, 200, image_id=f"i{n % 25}") for n in range(100)]
  write(tmp_path / "in" / "train-0.parquet", *rows)
  found, *_ = drawn.converted("bytemorph", tmp_path / "in", tmp_path / "b.jsonl")
  splits = {}
  for n, line in enumerate(found):
    splits.setdefault(n % 25, set()).add(line["split"])
  assert len(found) == 100 and all(len(names) == 1 for names in splits.values())
  assert {name for names in splits.values() for name in names} == {"train", "validation"}


def test_what_is_broken_is_counted(tmp_path):
  folder = tmp_path / "in"
  write(folder / "test-0.parquet", row(1, 2, tgt_img=b"no picture"), row(3, 4, edit_prompt=None,
        edit_prompt_rewrite_instruction=""), row(5, src_img=None), row(6, 7))  # fmt: skip
  write(folder / "test-1.parquet", row(8, 9), without=("tgt_img",))
  write(folder / "test-2.parquet", row(8, 9))
  whole = (folder / "test-2.parquet").read_bytes()
  (folder / "test-2.parquet").write_bytes(whole[:-20])
  found, _, left, counts = drawn.converted("bytemorph", folder, tmp_path / "b.jsonl")
  assert len(found) == 1 and left == {"no picture": 1, "malformed": 4}
  said = counts["left_out"]["malformed"]["first"]
  assert said[0] == "test-0.parquet, row 2: edit_prompt is None, must be text"
  assert said[1].startswith("test-0.parquet, row 3: src_img is None, must be bytes, or an object")
  assert said[2].startswith("test-1.parquet, after row 0: the columns is ['image_id', 'edit_type'")
  assert said[3].startswith("test-2.parquet, after row 0: the file isn't whole parquet (")


def test_a_picture_may_lie_beside_the_parquet(tmp_path):
  folder = tmp_path / "in"
  drawn.picture(folder / "pictures" / "a.png", 9)
  beside = {"bytes": None, "path": "pictures/a.png"}
  write(folder / "test-0.parquet", row(1, 2, src_img=beside), image=IMAGE)
  (line,), *_ = drawn.converted("bytemorph", folder, tmp_path / "b.jsonl")
  assert line["x"] == str(folder / "pictures" / "a.png")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
  write(tmp_path / "in" / "test-0.parquet", row())
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(ValueError, match=r"pip install -e '\.\[visual\]'"):
    drawn.converted("bytemorph", tmp_path / "in", tmp_path / "b.jsonl")
