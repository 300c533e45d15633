"""Lines of pictures: every record in one place, pictures that are there, and sets with a choice."""

import os

import pytest

from swirl_jax.data.official import convert, pictures, visual
from swirl_jax.data.official.records import Found, Unusable
from tests.data.official import drawn


@pytest.fixture
def place(tmp_path):
  """(the folder of the authors' pictures, the output, the pictures that are made)"""
  for n in range(4):
    drawn.picture(tmp_path / "in" / f"{n}.png", n)
  out = tmp_path / "out" / "a.jsonl"
  out.parent.mkdir()
  return tmp_path / "in", out, pictures.Made(out.with_suffix(".pictures"))


def written(place, *found, longest=0):
  _, out, made = place
  counts = convert.write(found, out, visual.PictureCollector(longest, out, made))
  return drawn.lines(out), counts


def transition(x, y=None, where="f, record 1", notes=(), **fields):
  line = {"x": x, "episode": "e", "turn": 0, "level": "l", "split": "test", **fields}
  return Found(where, line if y is None else {**line, "y": y}, notes=notes)


def choice(to, x, candidates, truth=0, where="f, record 1", **fields):
  return Found(where, {"x": x, "candidates": candidates, "truth": truth, "task": "t",
                       "where": where, **fields}, to=to)  # fmt: skip


def test_every_record_ends_in_one_place(place):
  (folder, *_) = place
  a, b, absent, text = (folder / name for name in ("0.png", "1.png", "9.png", "notes.png"))
  text.write_text("no picture")
  found, counts = written(
    place,
    transition(a, b, z="go"),
    transition(a, b, "f, record 2", z="go", turn=1),
    transition(a, None, "f, record 3", z="go"),
    transition(a, b, "f, record 4", notes=("noted",)),
    transition(a, b, "f, record 5", z=" "),
    transition(a, a, "f, record 6"),
    transition(absent, b, "f, record 7"),
    transition(a, text, "f, record 8"),
    transition(a, folder, "f, record 9"),
    transition(a, folder / "a\0b.png", "f, record 10"),
    transition(a, b, "f, record 11", z="far too long"),
    Found("f, record 12", reason="malformed", detail="why"),
    transition(a, b, "f, record 13", level=" "),
    longest=9,
  )
  assert [(n.get("y"), n.get("z")) for n in found] == [(str(b), "go"), (None, "go"), (str(b), None)]
  assert counts["kept"] == {"test": {"l": 3}}
  left = {reason: (n["records"], n["first"][0]) for reason, n in counts["left_out"].items()}
  assert left == {
    "duplicate": (2, "f, record 2"),
    "x = y": (1, "f, record 6"),
    "missing picture": (1, f"f, record 7: '{absent}'"),
    "no picture": (2, f"f, record 8: '{text}' has no picture's header"),
    "bad name": (1, f"f, record 10: '{folder}/a\\x00b.png' has control characters or special "
                 "tokens"),
    "too long": (1, "f, record 11: z has 12 characters"),
    "malformed": (2, "f, record 12: why"),
  }  # fmt: skip
  assert counts["noted"] == {"without y": 1, "noted": 1, "without z": 1}


def test_what_a_world_refuses_in_an_action_is_taken_apart(place):
  a, b = place[0] / "0.png", place[0] / "1.png"
  (line,), counts = written(place, transition(a, b, z="to <17> \x07 <sep> <170x>"))
  assert line["z"] == r"to < 17> \u0007 < sep> <170x>"
  assert counts["noted"] == {"codes taken apart": 1, "control characters spelled out": 1,
                             "special tokens taken apart": 1}  # fmt: skip


def test_pictures_that_are_made_move_with_the_lines(place):
  folder, out, made = place
  (line,), _ = written(place, transition(folder / "0.png", made.put(drawn.data(9), "y")))
  assert os.path.isabs(line["x"]) and line["y"].startswith("a.pictures/")
  assert drawn.grey(out.parent / line["y"]) == 9


def test_a_set_has_one_true_candidate(place):
  a, b, c, d = (place[0] / f"{n}.png" for n in range(4))
  found, counts = written(
    place,
    choice("candidates", a, [b, c], 1, z="go"),
    choice("candidates", a, [b, c], 1, "f, record 2", z="go"),
    choice("candidates", a, [b], 0, "f, record 3", z="go"),
    choice("candidates", a, [b, c], 2, "f, record 4", z="go"),
    choice("candidates", a, [b, c, b], 2, "f, record 5", z="go"),
    choice("candidates", a, [b, place[0] / "9.png"], 0, "f, record 6", z="go"),
    choice("actions", a, [["go"], ["stay"]], 1, y=d),
    choice("actions", a, [["go"], ["go"]], 1, "f, record 8", y=d),
  )
  assert not found and not place[1].exists()  # no transition: no file of them
  out = place[1]
  assert drawn.lines(out.with_suffix(".candidates.jsonl")) == [
    {"x": str(a), "candidates": [str(b), str(c)], "truth": 1, "task": "t",
     "where": "f, record 1", "z": "go"}]  # fmt: skip
  assert drawn.lines(out.with_suffix(".actions.jsonl")) == [
    {"x": str(a), "candidates": [["go"], ["stay"]], "truth": 1, "task": "t",
     "where": "f, record 1", "y": str(d)}]  # fmt: skip
  assert counts["kept"] == {"candidates": {"t": 1}, "actions": {"t": 1}}
  left = {reason: n["records"] for reason, n in counts["left_out"].items()}
  assert left == {"duplicate": 1, "malformed": 2, "no choice": 2, "missing picture": 1}
  assert convert.table(counts).splitlines()[1].split() == ["candidates", "1", "t"]


def test_two_wrong_candidates_may_be_the_same(place):
  a, b, c, _ = (place[0] / f"{n}.png" for n in range(4))
  _, counts = written(
    place,
    choice("candidates", a, [b, c, b], 1, z="go"),
    choice("actions", a, [["to <17>"], ["go"], ["go"]], 0, y=b),
  )
  assert counts["kept"] == {"candidates": {"t": 1}, "actions": {"t": 1}} and not counts["left_out"]
  (line,) = drawn.lines(place[1].with_suffix(".actions.jsonl"))
  assert line["candidates"] == [["to < 17>"], ["go"], ["go"]]
  assert counts["noted"] == {"codes taken apart": 1}


def test_files_take_their_names_together_and_only_when_whole(place):
  a, b, c = (place[0] / f"{n}.png" for n in range(3))
  out = place[1]
  written(place, transition(a, b), choice("candidates", a, [b, c], z="go"))
  before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
  assert set(before) == {"a.jsonl", "a.candidates.jsonl"}

  def dies():
    yield transition(b, c)
    raise KeyboardInterrupt

  collector = visual.PictureCollector(0, out, place[2])
  with pytest.raises(KeyboardInterrupt):
    convert.write(dies(), out, collector)
  mistaken = [transition(a, b), transition(b, c, split="train")]  # one episode, two splits
  with pytest.raises(ValueError, match="line 2: split is train, must be test"):
    convert.write(mistaken, out, visual.PictureCollector(0, out, place[2]))
  assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before
  written(place, transition(b, c))
  assert [path.name for path in out.parent.iterdir()] == ["a.jsonl"]  # no sets of another run


def test_bytes_become_a_file_once(place):
  made = place[2]
  path = made.put(drawn.data(5), "src")
  assert path.read_bytes() == drawn.data(5) and path.suffix == ".png"
  path.write_text("whole by its name, and not made again")
  assert made.put(drawn.data(5), "src") == path and path.read_text().startswith("whole")
  assert made.put(drawn.data(5, "JPEG"), "src").suffix == ".jpg"
  with pytest.raises(Unusable, match="src is 3 bytes from b'abc', must be a picture's"):
    made.put(b"abc", "src")


def test_a_kill_while_a_picture_is_written_leaves_none(place, monkeypatch):
  def dies(self, data):
    raise KeyboardInterrupt

  monkeypatch.setattr("pathlib.Path.write_bytes", dies)
  with pytest.raises(KeyboardInterrupt):
    place[2].put(drawn.data(5), "src")
  monkeypatch.undo()
  assert not [p for p in place[2].folder.rglob("*") if p.is_file()]
  assert drawn.grey(place[2].put(drawn.data(5), "src")) == 5


def test_only_the_header_is_read(tmp_path):
  path = drawn.picture(tmp_path / "a.png", size=(64, 64))
  path.write_bytes(path.read_bytes()[:60])  # cut behind its header: the tokenizing job's to find
  pictures.header(path)
