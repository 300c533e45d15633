"""The authors' own records, where SWIRL_OFFICIAL_DATA names a folder that has them."""

import json
import os
import tarfile
from pathlib import Path

import pytest

from swirl_jax.data import transition_lines
from swirl_jax.data.official import __main__ as command
from swirl_jax.data.official import mind2web, mirrorapi, pages
from tests.data.official import drawn

ROOT = os.environ.get("SWIRL_OFFICIAL_DATA")
pytestmark = pytest.mark.skipif(not ROOT, reason="SWIRL_OFFICIAL_DATA names no folder")


def convert(name, folder, out):
  command.run(name, os.path.join(ROOT, folder), str(out))
  _, lines = transition_lines.read({"path": str(out), "heldout_levels": ()})
  return lines, json.loads(out.with_suffix(".counts.json").read_text())


def test_mirrorapi(tmp_path):
  lines, counts = convert("mirrorapi", "mirrorapi-bench", tmp_path / "out.jsonl")
  left = {reason: n["records"] for reason, n in counts["left_out"].items()}
  assert left == {"cut label": 6, "cut prompt": 3, "duplicate": 1}
  assert counts["kept"] == {
    "test": {"id_high": 94, "id_medium": 97, "id_low": 100},
    "heldout": {"ood": 199}, "failing": {"ood_failure": 100},
  }  # fmt: skip
  assert len(lines) + sum(left.values()) == 600
  answers = [(n, json.loads(n.y)) for n in lines]
  assert all(bool(y["error"]) == (n.split == "failing") for n, y in answers if n.split != "test")
  assert not any("<|im_" in text for n in lines for text in (n.x, n.y, n.z))


def test_no_truth_of_mirrorapi_is_a_prediction():
  """y is the label, and where a prediction differs from its label it is nowhere."""
  differ = 0
  for path in sorted(Path(ROOT, "mirrorapi-bench").glob("*.jsonl")):
    for line in path.read_text().splitlines():
      record = json.loads(line)
      try:
        _, _, y = mirrorapi._texts(record)
      except ValueError:
        continue
      assert y == record["label"].strip()
      differ += y != record["predict"].strip()
  assert differ > 100


def test_mind2web_has_a_record_alone(tmp_path):
  folder = os.path.join(ROOT, "mind2web-seeact")
  with pytest.raises(ValueError, match="no record gives a transition: 1 no page after"):
    command.run("mind2web", folder, str(tmp_path / "out.jsonl"))


def test_mind2web_names_the_element_as_the_page_shows_it():
  (path,) = Path(ROOT, "mind2web-seeact").glob("*.jsonl")
  record = json.loads(path.read_text())
  page = pages.read(record["cleaned_html"])
  z = mind2web._action(record["operation"], record["pos_candidates"], page)
  assert z == 'CLICK button "Search" #2' and z.removeprefix("CLICK ") in page.text.splitlines()
  assert len(page.text) < len(record["cleaned_html"]) / 10
  assert all(c["backend_node_id"] in page.elements for c in record["neg_candidates"])


def test_toolbench(tmp_path):
  lines, counts = convert("toolbench", "toolbench-answers", tmp_path / "out.jsonl")
  left = {reason: n["records"] for reason, n in counts["left_out"].items()}
  assert left == {"no API call": 28, "no such function": 15, "duplicate": 28, "timed out": 1}
  assert len(lines) + sum(left.values()) == 328  # the nodes with an observation
  assert len({n.episode for n in lines}) == 15 and {n.level for n in lines} == {"G1", "G2", "G3"}
  first = [n for n in lines if n.turn == 0]
  assert all(json.loads(n.x)["name"] == n.z.split()[0] for n in first) and first


def test_apibank(tmp_path):
  with tarfile.open(next(Path(ROOT, "apibank").glob("*.tar.gz"))) as archive:
    archive.extractall(tmp_path / "in", filter="data")
  lines, counts = convert("apibank", tmp_path / "in", tmp_path / "out.jsonl")
  left = {reason: n["records"] for reason, n in counts["left_out"].items()}
  assert left == {"duplicate": 1}
  assert counts["kept"] == {"by chance": {"level-1": 172, "level-2": 217, "level-3": 118}}
  assert len(lines) + sum(left.values()) == 508


def test_aurora(tmp_path):
  """The bench's lines are those records whose pictures the authors of the folder have kept."""
  folder = Path(ROOT, "aurora-bench")
  found, sets, left, counts = drawn.converted("aurora", folder, tmp_path / "a.jsonl")
  assert counts["kept"] == {
    "test": {"magicbrush": 1, "ag": 5, "something": 12, "clevr": 2, "whatsup": 2, "emu": 1,
             "epic": 10, "kubric": 12},
    "candidates": {"ag": 5, "kubric": 12}, "actions": {"ag": 5, "clevr": 2, "kubric": 10},
  }  # fmt: skip
  assert counts["noted"] == {"without y": 13}
  assert left["no pos"] == 17 + 20 + 20 + 19  # of ag, clevr, kubric and something
  subset = json.loads((folder / "test.subset.json").read_text())
  paths = [[str(folder.resolve() / n[name]) if name in n else None for name in ("input", "output")]
           for n in subset]  # fmt: skip
  expected = [(n["instruction"], *path) for n, path in zip(subset, paths, strict=True)]
  assert [(n["z"], n["x"], n.get("y")) for n in found] == expected


def test_disc_edits_first_question_of_aurora(tmp_path):
  """In the picture the pencil case is to the right of the towel: that instruction changes least."""
  folder = Path(ROOT, "aurora-bench")
  _, sets, *_ = drawn.converted("aurora", folder, tmp_path / "a.jsonl")
  line = next(n for n in sets["actions"] if n["where"] == "disc_edit_kubric.valid.json, record 1")
  (said,) = line["candidates"][line["truth"]]
  assert said == "move the green-purple pencil case to the right of the blue towel"
  assert line["x"] == line["y"] and line["x"].endswith("further_location/2720/image0.jpg")
