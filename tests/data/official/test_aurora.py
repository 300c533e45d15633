"""AURORA: edits as lines, in their chains and splits, and DiscEdit's questions as sets."""

import json

import pytest

from swirl_jax.data.official import aurora, records
from tests.data.official import drawn


@pytest.fixture
def place(tmp_path):
  """(the folder, with pictures 0.png to 5.png of task "t", a function that writes a file of it)"""
  folder = tmp_path / "in"
  for n in range(6):
    drawn.picture(folder / "data" / "t" / "images" / f"{n}.png", n)

  def write(name, *records):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("l"):
      path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    else:
      path.write_text(json.dumps(records))

  return folder, write


def image(n):
  return f"data/t/images/{n}.png"


def edit(x, y=None, z="go", **fields):
  output = {} if y is None else {"output": image(y)}
  return {"input": image(x), "instruction": z, **output, **fields}


def disc(x=0, y=1, **fields):
  output = {} if y is None else {"output": image(y)}
  return {"input": image(x), **output, **fields}


def test_the_bench(place, tmp_path):
  folder, write = place
  write("test.json", edit(0, 1, task="t"), edit(1, 2, "turn", task="t", type="local"),
        edit(4, task="u"))  # fmt: skip
  (first, second, third), _, left, counts = drawn.converted("aurora", folder, tmp_path / "a.jsonl")
  assert first == {"x": str(folder / image(0)), "y": str(folder / image(1)), "z": "go",
                   "episode": "test.json/1", "turn": 0, "level": "t", "split": "test"}  # fmt: skip
  chained = {"x": first["y"], "y": str(folder / image(2)), "z": "turn", "turn": 1}
  assert second == {**first, **chained}
  assert third == {"x": str(folder / image(4)), "z": "go", "episode": "test.json/3", "turn": 0,
                   "level": "u", "split": "test"}  # fmt: skip
  assert not left and counts["noted"] == {"without y": 1}


def test_a_task_is_named_by_its_file_too(place, tmp_path):
  folder, write = place
  write("data/something_train_1.json", edit(0, 1))
  write("more/u_train.jsonl", edit(2, 3))
  write("data/t/test.json", edit(4, 5, task="t"))  # the bench is at the top
  found, *_ = drawn.converted("aurora", folder, tmp_path / "a.jsonl")
  assert [n["level"] for n in found] == ["something", "u"]
  assert {n["split"] for n in found} <= {"train", "validation"}


def test_a_chain_counts_its_turns_and_stays_in_the_split_it_began_in(place, tmp_path):
  """Each picture is a photograph of its own by name; the chain's first one says the split."""
  folder, write = place
  chains = [[edit(0, 1), edit(1, 2), edit(2, 3)]]
  for n in range(40):
    for m in (0, 1, 2):
      drawn.picture(folder / f"data/t/images/{n}-{m}.png", n)
    first, second = ({"input": image(f"{n}-{m}"), "output": image(f"{n}-{m + 1}"),
                      "instruction": "go"} for m in (0, 1))  # fmt: skip
    chains.append([first, second])
  write("data/t/train.json", *(record for chain in chains for record in chain))
  found, *_ = drawn.converted("aurora", folder, tmp_path / "a.jsonl")
  assert [n["turn"] for n in found[:3]] == [0, 1, 2] and len({n["episode"] for n in found[:3]}) == 1
  splits = [n["split"] for n in found[3:]]
  assert splits[::2] == splits[1::2] and set(splits) == {"train", "validation"}
  firsts = [records.of_training(f"t/data/t/{n}-0") for n in range(40)]
  assert splits[::2] == firsts


def test_training_files_of_both_kinds(place, tmp_path):
  folder, write = place
  write("data/t/train.json", edit(0, 1), edit(2, 3, ["first", "second"]))
  write("data/u/train.jsonl", "{", edit(4, 5), edit(0, 9))
  found, _, left, counts = drawn.converted("aurora", folder, tmp_path / "a.jsonl")
  assert [(n["level"], n["z"], n["episode"]) for n in found] == [
    ("t", "go", "data/t/train.json/1"), ("t", "first", "data/t/train.json/2"),
    ("u", "go", "data/u/train.jsonl/2")]  # fmt: skip
  assert {n["split"] for n in found} <= {"train", "validation"}
  assert left == {"malformed": 1, "missing picture": 1}
  assert counts["left_out"]["malformed"]["first"] == [
    "data/u/train.jsonl, record 1: the line isn't JSON "
    "(Expecting property name enclosed in double quotes)"
  ]
  assert counts["noted"] == {"the first of several instructions": 1}


@pytest.mark.parametrize(
  ("x", "fields", "source"),
  [
    ("data/ag/images/1K0SU.mp4_4_left.png", {}, "1K0SU"),
    ("data/ag/images/1K0SU.mp4_9_left.png", {}, "1K0SU"),
    ("data/something/frames/36/first.jpg", {}, "data/something/frames/36"),
    ("data/kubric/images/closer/36/image0.jpg", {}, "data/kubric/images/closer/36"),
    ("data/clevr/images/CLEVR_1.png", {}, "data/clevr/CLEVR_1"),
    ("data/magicbrush/images/7-input.png", {"img_id": "435242"}, "435242"),
  ],
)
def test_what_a_split_goes_by(x, fields, source):
  assert aurora._source(x, fields) == source


def test_records_of_one_source_are_in_one_split(place, tmp_path):
  folder, write = place
  for n in range(200):
    drawn.picture(folder / f"data/t/images/v{n % 50}.mp4_{n}_left.png", n)
  edits = [{**edit(0, 5), "input": f"data/t/images/v{n % 50}.mp4_{n}_left.png"}
           for n in range(200)]  # fmt: skip
  write("data/t/train.json", *edits)
  found, *_ = drawn.converted("aurora", folder, tmp_path / "a.jsonl")
  splits = {}
  for line in found:
    splits.setdefault(line["x"].rpartition("/")[2].partition(".")[0], set()).add(line["split"])
  assert len(found) == 200 and all(len(names) == 1 for names in splits.values())
  assert {name for names in splits.values() for name in names} == {"train", "validation"}


@pytest.mark.parametrize(
  ("record", "detail"),
  [
    ("{", "the file isn't JSON (Expecting property name enclosed in double quotes, line 2)"),
    ([3], "the record is 3, must be an object"),
    ([{"instruction": "go", "task": "t"}], "input is missing, must be text"),
    ([{"input": "a.png", "instruction": "go"}], "task is missing, must be text"),
    ([{"input": "a.png", "task": "t"}], "instruction is missing, must be text"),
    ([edit(0, task="t", z=[])], "instruction is [], must be text, or a list of texts"),
    ([{**edit(0, task="t"), "output": 3}], "output is 3, must be text"),
    ({"a": 1}, "the file is {'a': 1}, must be a JSON list of records"),
  ],
)
def test_what_is_no_record_is_counted(place, tmp_path, record, detail):
  folder, write = place
  write("data/t/train.jsonl", edit(0, 1))
  (folder / "test.json").write_text("\n{" if record == "{" else json.dumps(record))
  found, _, left, counts = drawn.converted("aurora", folder, tmp_path / "a.jsonl")
  assert len(found) == 1 and left == {"malformed": 1}
  (said,) = counts["left_out"]["malformed"]["first"]
  assert said.startswith("test.json") and said.endswith(f": {detail}")


@pytest.mark.parametrize("name", ["disc_edit_data/t/valid.json", "disc_edit_t.valid.json"])
def test_questions_of_disc_edit(place, tmp_path, name):
  folder, write = place
  write(
    name,
    disc(prompt="close", pos="open"),
    disc(2, 3, prompt="up", pos="left", neg="right"),
    disc(4, None, prompt="red"),
    disc(5, None, pos="blue"),
  )
  write(name.replace("valid", "itm_test"), {"image": image(3), "pos": "under", "neg": "on"})
  found, sets, left, counts = drawn.converted("aurora", folder, tmp_path / "a.jsonl")
  assert not found
  for line in [*sets["candidates"], *sets["actions"]]:
    assert line["task"] == "t" and len(line["candidates"]) == 2
    truth = line["truth"]
    line["true"], line["other"] = (line["candidates"][i] for i in (truth, 1 - truth))
  path = {n: str(folder / image(n)) for n in range(6)}
  assert [(n["x"], n["z"], n["true"], n["other"]) for n in sets["candidates"]] == [
    (path[0], "close", path[1], path[0]), (path[2], "up", path[3], path[2])]  # fmt: skip
  asked = {(n["x"], n["y"], *n["true"], *n["other"]) for n in sets["actions"]}
  assert asked == {(path[0], path[0], "open", "close"), (path[2], path[2], "left", "right"),
                   (path[3], path[3], "under", "on")}  # fmt: skip
  assert left == {"no pos": 1, "malformed": 1}
  assert counts["left_out"]["malformed"]["first"][0].endswith("where prompt is missing too")


def test_the_truth_is_as_often_first_as_second():
  first = [aurora._choice(f"f, record {n}", 1, 0)["truth"] for n in range(1000)]
  assert 440 < sum(first) < 560
  assert all(c["candidates"][c["truth"]] == 1 for c in [aurora._choice("f", 1, 0)])
