"""Records become a file that the jsonl world accepts whole; everything left out is counted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swirl_jax.data import transition_lines
from swirl_jax.data.official import __main__ as command
from swirl_jax.data.official import convert
from swirl_jax.data.official.records import Found
from swirl_jax.data.tokenizers import SPECIAL

ROOT = Path(__file__).resolve().parents[3]
LINE = {"x": "a", "y": "b", "z": "go", "episode": "e", "turn": 0, "level": "l", "split": "test"}


def kept(where="f, record 1", notes=(), **changes):
  return Found(where, LINE | changes, notes=notes)


def written(folder, *found, longest=0):
  """(the lines as the jsonl world reads them, the counts)"""
  path = folder / "out.jsonl"
  counts = convert.write(found, path, convert.Collector(longest))
  digest, lines = transition_lines.read({"path": str(path), "heldout_levels": ()})
  assert counts["sha256"] == {"lines": digest}
  assert sum(n for levels in counts["kept"].values() for n in levels.values()) == len(lines)
  return lines, counts


def test_every_record_ends_in_one_place(tmp_path):
  chance = {k: v for k, v in LINE.items() if k != "split"} | {"episode": "c"}
  lines, counts = written(
    tmp_path,
    kept(),
    kept("f, record 2", x=" a", z="go "),
    kept("f, record 3", y="c", notes=("cut",)),
    Found("f, record 4", chance),
    kept("f, record 5", x="b  b", y="b b"),
    kept("f, record 6", y=" "),
    kept("f, record 7", z="word " * 9),
    *(Found(f"f, record {n}", reason="cut label", detail="why") for n in range(8, 16)),
    longest=20,
  )
  assert [(n.y, n.split) for n in lines] == [("b", "test"), ("c", "test"), ("b", "")]
  assert counts["kept"] == {"test": {"l": 2}, "by chance": {"l": 1}}
  assert counts["left_out"] == {
    "duplicate": {"records": 1, "first": ["f, record 2"]},
    "x = y": {"records": 1, "first": ["f, record 5"]},
    "empty": {"records": 1, "first": ["f, record 6: y has no word"]},
    "too long": {"records": 1, "first": ["f, record 7: z has 45 characters"]},
    "cut label": {"records": 8, "first": [f"f, record {n}: why" for n in range(8, 13)]},
  }
  assert counts["noted"] == {"cut": 1, "another y than before for the same x and z": 1}
  assert counts["characters"]["z"] == {"median": 2, "90%": 2, "most": 2}


def test_lengths_and_what_the_table_says_of_them(tmp_path):
  found = [kept(f"f, record {n}", x=f"{n:03d}", z="z" * n, y="y") for n in (*range(1, 11), 90)]
  again = [Found(f"f, record {n}", reason="cut", detail="why") for n in (7, 8)]
  _, counts = written(tmp_path, *found, *again, kept("f, record 91", z="z" * 91), longest=90)
  assert counts["characters"]["z"] == {"median": 6, "90%": 10, "most": 90}
  assert counts["left_out"]["too long"]["records"] == 1
  lines = [line.split() for line in convert.table(counts).splitlines()]
  assert lines[:2] == [["split", "lines", "level"], ["test", "11", "l"]]
  assert ["cut", "2", "f,", "record", "7:", "why"] in lines
  assert ["z", "90", "6,", "10"] in lines


def test_another_answer_is_one_to_the_same_call(tmp_path):
  found = [kept(), kept("f, record 2", z="stay", y="c"), kept("f, record 3", y="d")]
  _, counts = written(tmp_path, *found)
  assert counts["noted"] == {"another y than before for the same x and z": 1}


def test_what_a_world_refuses_is_spelled_out_and_counted(tmp_path):
  (line,), counts = written(
    tmp_path, kept(x="a\x07 \ud800b\x85", y="<sep> and <sep>, <eos>", episode="e\x00")
  )
  assert line.x == r"a\u0007 \ud800b\u0085" and line.episode == r"e\u0000"
  assert line.y == "< sep> and <sep>, < eos>"
  assert counts["noted"] == {"control characters spelled out": 1, "special tokens taken apart": 1}


texts = st.one_of(
  st.text(st.characters(codec=None, categories=None)),
  st.lists(st.sampled_from([*SPECIAL, "a", "\x00", "\ud800", " ", "\u2028", "\n"])).map("".join),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(x=texts, y=texts, z=texts)
def test_the_world_accepts_any_text_that_is_kept(tmp_path, x, y, z):
  written(tmp_path, kept(episode="always"), kept(x=x, y=y, z=z))


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path):
  path = tmp_path / "out.jsonl"
  path.write_text("before")

  def dies():
    yield kept()
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    convert.write(dies(), path, convert.Collector(0))
  with pytest.raises(ValueError, match="line 2: split is train, must be test"):
    mistaken = [kept(), kept(x="c", split="train")]  # a loader's mistake is found
    convert.write(mistaken, path, convert.Collector(0))
  with pytest.raises(ValueError, match=r"no record gives a transition: 1 x = y \(f, record 1\)"):
    convert.write([kept(y="a")], path, convert.Collector(0))
  with pytest.raises(ValueError, match="the files hold no records"):
    convert.write([], path, convert.Collector(0))
  assert path.read_text() == "before" and os.listdir(tmp_path) == ["out.jsonl"]


# -- the command ---------------------------------------------------------------------------------


def steps(folder):
  page = '<p backend_node_id="1">page {}</p>'
  records = [
    {"annotation_id": "t", "action_uid": "u", "cleaned_html": page.format(n),
     "operation": {"op": "CLICK", "value": ""}, "pos_candidates": [{"backend_node_id": "1"}]}
    for n in (1, 2, 2, 3)
  ]  # fmt: skip
  folder.mkdir()
  (folder / "a.jsonl").write_text("\n".join(map(json.dumps, [*records, {}])))
  return folder


@pytest.mark.multiprocess
def test_the_command_prints_what_it_wrote(tmp_path):
  folder, out = steps(tmp_path / "in"), tmp_path / "out.jsonl"
  module = [sys.executable, "-m", "swirl_jax.data.official", "--format=mind2web"]
  done = subprocess.run([*module, f"--folder={folder}", f"--out={out}"], cwd=ROOT,
                        capture_output=True, text=True, check=True)  # fmt: skip
  assert [line.split() for line in done.stdout.splitlines()[:2]] == [
    ["split", "lines", "level"], ["by", "chance", "2", "all"]]  # fmt: skip
  counts = json.loads((tmp_path / "out.counts.json").read_text())
  assert counts["format"] == "mind2web" and counts["kept"] == {"by chance": {"all": 2}}
  left = {reason: n["records"] for reason, n in counts["left_out"].items()}
  assert left == {"x = y": 1, "no page after": 1, "malformed": 1}
  module[-1] = "--format=frames"
  settings = ["--stride=2", "--least_difference=0.5"]
  failed = subprocess.run([*module, *settings, f"--folder={tmp_path / 'no'}", f"--out={out}"],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
  assert failed.returncode == 1 and "lacks files of unlabelled video" in failed.stderr


def test_the_longest_is_what_the_command_says_and_is_recorded(tmp_path):
  folder, out = steps(tmp_path / "in"), tmp_path / "out.jsonl"
  command.run("mind2web", str(folder), str(out), 16)
  counts = json.loads((tmp_path / "out.counts.json").read_text())
  assert counts["longest"] == 16 and counts["kept"] == {"by chance": {"all": 2}}
  with pytest.raises(ValueError, match="2 too long"):
    command.run("mind2web", str(folder), str(out), 15)  # CLICK p "page 1"


@pytest.mark.parametrize("name", command.FORMATS)
def test_absent_files_are_one_clear_error(tmp_path, name):
  for folder in (tmp_path / "none", tmp_path):
    with pytest.raises(ValueError) as error:
      needed = {"index_base": 0} if name == "worldprediction" else {}
      command.run(name, str(folder), str(tmp_path.parent / "out.jsonl"), **needed)
    said = str(error.value)
    benchmark = command.FORMATS[name]
    assert str(folder) in said and benchmark.title in said and benchmark.page in said
    assert "docs/worlds/official.md" in said and "\n" not in said


@pytest.mark.parametrize("setting", command.SETTINGS)
def test_a_setting_of_another_format_is_refused(tmp_path, setting):
  allowed = {"index_base": "worldprediction"}.get(setting, "frames")
  with pytest.raises(
    ValueError, match=f"--{setting}=1 with --format=aurora: allowed with {allowed}"
  ):
    command.run("aurora", str(tmp_path), str(tmp_path.parent / "out.jsonl"), **{setting: 1})


def test_a_place_to_write_is_asked_for_before_anything_is_read(tmp_path):
  folder = steps(tmp_path / "in")
  with pytest.raises(ValueError, match="out.jsonl is in --folder=.*choose another place"):
    command.run("mind2web", str(folder), str(folder / "out.jsonl"))
  with pytest.raises(ValueError, match="there is no folder .*nowhere"):
    command.run("mind2web", str(folder), str(tmp_path / "nowhere" / "out.jsonl"))
