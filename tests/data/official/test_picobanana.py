"""pico-banana-400k: one edit or several in a row, and where their pictures are."""

import json

import pytest

from swirl_jax.data.official.records import of_training
from tests.data.official import drawn

URL = "https://example.org/1_o.jpg"


def one(**fields):
  return {"open_image_input_url": URL, "open_image_input_file": "a.png", "text": "Make it red, and "
          "keep all else.", "output_image": "positive-edit/1.png", "edit_type": "Change the colour",
          "summarized_text": "Make it red.", **fields}  # fmt: skip


def several(prompts=("one", "two", "three"), drop=()):
  edits = [{"id": f"edit_turn{n}", "url": f"images/multi-turn/7_turn{n}.png"}
           for n in range(1, len(prompts))]  # fmt: skip
  final = {"id": "final_image", "url": f"images/multi-turn/7_turn{len(prompts)}.png"}
  first = {"id": "original_input_image", "url": URL, "original_input_image_file": "a.png"}
  files = [f for f in (*reversed(edits), final, first) if f["id"] not in drop]
  return {"files": files, "metadata_edit_turn_prompts": list(prompts)}


@pytest.fixture
def folder(tmp_path):
  for n, name in enumerate(("openimages/a", "sft/positive-edit/1", "multi-turn/7_turn1",
                            "multi-turn/7_turn2", "multi-turn/7_turn3")):  # fmt: skip
    drawn.picture(tmp_path / "in" / "images" / f"{name}.png", n)
  return tmp_path / "in"


def converted(folder, name, *records):
  text = "\n".join(r if isinstance(r, str) else json.dumps(r) for r in records)
  (folder / name).write_text(text)
  return drawn.converted("picobanana", folder, folder.parent / "p.jsonl")


def greys(line):
  return drawn.grey(line["x"]), drawn.grey(line["y"])


def test_one_edit(folder):
  long = {"summarized_text": None, "edit_type": "Add"}
  found, _, left, counts = converted(folder, "sft.jsonl", one(), one(**long))
  assert [greys(n) for n in found] == [(0, 1), (0, 1)]
  assert [(n["z"], n["level"]) for n in found] == [
    ("Make it red.", "Change the colour"), ("Make it red, and keep all else.", "Add")]  # fmt: skip
  assert {n["split"] for n in found} == {of_training(URL)}
  assert not left and counts["noted"] == {"the long instruction: no short one is there": 1}


def test_several_edits_are_an_episode(folder):
  found, _, left, _ = converted(folder, "multi-turn.jsonl", several(), several())
  assert [(n["turn"], n["z"], *greys(n)) for n in found] == [
    (0, "one", 0, 2), (1, "two", 2, 3), (2, "three", 3, 4)]  # fmt: skip
  assert {(n["episode"], n["level"], n["split"]) for n in found} == {
    ("multi-turn.jsonl/1", "multi_turn", of_training(URL))}  # fmt: skip
  assert left == {"duplicate": 1}


def test_a_photographs_edits_are_in_one_split(folder):
  """Whichever file they are in: by the photograph's address."""
  urls = [f"https://example.org/{n}_o.jpg" for n in range(60)]
  alone = [one(open_image_input_url=url, edit_type=f"{n}", summarized_text=f"{n}")
           for n, url in enumerate(urls)]  # fmt: skip
  rows = [several((f"{n}", "then")) for n in range(60)]
  for row, url in zip(rows, urls, strict=True):
    row["files"][-1]["url"] = url
  (folder / "sft.jsonl").write_text("\n".join(map(json.dumps, alone)))
  found, *_ = converted(folder, "multi-turn.jsonl", *rows)
  expected = [of_training(url) for url in urls]
  split = {kind: [n["split"] for n in found if n["episode"].startswith(kind) and not n["turn"]]
           for kind in ("sft", "multi")}  # fmt: skip
  assert split == {"sft": expected, "multi": expected}
  assert set(expected) == {"train", "validation"}


def test_episodes_may_begin_with_the_same_edit(folder):
  found, _, left, _ = converted(
    folder, "multi-turn.jsonl", several(("one", "two")), several(("one", "three"))
  )
  assert [(n["episode"][-1], n["turn"], n["z"]) for n in found] == [
    ("1", 0, "one"), ("1", 1, "two"), ("2", 0, "one"), ("2", 1, "three")]  # fmt: skip
  assert not left


def test_an_edit_that_is_missing_breaks_the_chain_alone(folder):
  (folder / "images" / "multi-turn" / "7_turn1.png").unlink()
  (line,), _, left, counts = converted(folder, "multi-turn.jsonl", several())
  assert line["turn"] == 2 and left == {"missing picture": 2}
  said = counts["left_out"]["missing picture"]["first"]
  assert [text.partition(":")[0] for text in said] == [
    "multi-turn.jsonl, record 1, edit 1", "multi-turn.jsonl, record 1, edit 2"]  # fmt: skip


def test_photographs_as_the_authors_script_names_them(folder):
  drawn.picture(folder / "train_0" / "b.png", 8)
  local = {"local_input_image": str(folder / "train_0" / "b.png")}
  alone = one(**local)
  del alone["open_image_input_file"]
  files = several(("one",))
  del files["files"][-1]["original_input_image_file"]
  found, *_ = converted(folder, "sft_with_local_source_image_path.jsonl", alone, files | local)
  assert [greys(n) for n in found] == [(8, 1), (8, 2)]


@pytest.mark.parametrize(
  ("record", "reason", "detail"),
  [
    ("{", "malformed", "the line isn't JSON"),
    ("[]", "malformed", "the record is [], must be an object"),
    (one(output_image=3), "malformed", "output_image is 3, must be text"),
    (one(summarized_text=None, text=None), "malformed", "text is None, must be text"),
    (several(drop=("final_image",)), "malformed", "must be with final_image"),
    (several(drop=("edit_turn1",)), "malformed", "must be edit_turn1 to 2, each once, for 3"),
    (several(drop=("original_input_image",)), "malformed", "must be with original_input_image"),
    (several(("one", 2)), "malformed", "must be a list of texts"),
    (several(()), "malformed", "metadata_edit_turn_prompts is [], must be a list of texts, one or"),
    (one(open_image_input_file="a" * 300), "no picture", "File name too long"),
    ({"files": [{}]}, "malformed", "id is missing, must be text"),
    (one(open_image_input_file=None), "malformed", "open_image_input_file is None, must be text"),
    ({"output_image": "a", "summarized_text": "b"}, "no photograph", "missing: see the docs"),
    (one(), "duplicate", "it is record 1 again"),
  ],
)  # fmt: skip
def test_what_is_no_record_is_counted(folder, record, reason, detail):
  found, _, left, counts = converted(folder, "sft.jsonl", one(), record)
  assert len(found) == 1 and left == {reason: 1}
  (said,) = counts["left_out"][reason]["first"]
  assert said.startswith("sft.jsonl, record 2: ") and detail in said


def test_a_record_is_found_by_its_line_and_may_be_too_long(folder):
  (folder / "sft.jsonl").write_text("\n\n" + json.dumps(one()))
  out = folder.parent / "p.jsonl"
  drawn.converted("picobanana", folder, out, longest=12)
  assert drawn.lines(out)[0]["episode"] == "sft.jsonl/3"  # the third line of the file
  with pytest.raises(ValueError, match=r"1 too long \(sft.jsonl, record 3: z has 12 characters"):
    drawn.converted("picobanana", folder, out, longest=11)


def test_rejected_edits_are_not_read(folder):
  (folder / "preference.jsonl").write_text(json.dumps(one(summarized_text="Rejected.")))
  found, *_ = converted(folder, "sft.jsonl", one())
  assert [n["z"] for n in found] == ["Make it red."]
