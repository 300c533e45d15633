"""Predictions as files: the texts of a world of text, pictures of a world of pictures."""

import json
from types import SimpleNamespace

import judge_server as js
import numpy as np
import pytest
from PIL import Image

from swirl_jax.data.transitions import Record
from swirl_jax.evaluation import judge, predictions
from swirl_jax.evaluation.judge_asking import Settings
from swirl_jax.evaluation.judge_ledger import Budget
from swirl_jax.evaluation.judge_templates import TEMPLATES

STATES = [f"<{i}> <{i + 1}>" for i in range(4)]
RECORDS = [
  Record(STATES[0], STATES[1], "go", "e", 0, "go", "easy"),
  Record(STATES[1], STATES[2], "stop", "e", 1, "stop", "easy"),
  Record(STATES[2], STATES[3], "go", "f", 0, "go", "hard"),
]
SAID = {"fwm": [STATES[1], STATES[1], "<3>"], "idm": ["go", "", "turn"]}
ROLLOUTS = [{"rows": [0, 1], "prediction": [STATES[2], STATES[0]]}]


def render(state, marks=()):
  """Every code a column of its grey."""
  codes = [int(word[1:-1]) for word in state.split()]
  return np.uint8(10 * np.array(codes)).repeat(3).reshape(1, -1, 3).repeat(2, 0)


def rows_of(path):
  return [json.loads(row) for row in path.read_text().splitlines()]


@pytest.mark.parametrize("world", [
  SimpleNamespace(codes=None, render=render), SimpleNamespace(codes=(6, 10), render=None),
])  # fmt: skip
def test_states_without_a_picture_stay_texts(world, tmp_path):
  paths = predictions.write(tmp_path, "evaluation-test", RECORDS, SAID, ROLLOUTS, world)
  assert [p.name for p in paths] == ["evaluation-test-fwm.jsonl", "evaluation-test-idm.jsonl"]
  assert sorted(tmp_path.iterdir()) == paths
  assert rows_of(paths[0])[2] == {"x": STATES[2], "z": "go", "y": STATES[3], "prediction": "<3>",
                                  "episode": "f", "level": "hard"}  # fmt: skip
  assert [row["prediction"] for row in rows_of(paths[1])] == SAID["idm"]


@pytest.fixture
def drawn(tmp_path):
  world = SimpleNamespace(codes=(6, 10), render=render)
  return predictions.write(tmp_path, "evaluation-test", RECORDS, SAID, ROLLOUTS, world)


def test_states_of_codes_become_files(drawn):
  *files, folder = drawn
  assert [p.name for p in drawn] == [
    "evaluation-test-fwm.jsonl", "evaluation-test-idm.jsonl", "evaluation-test-turns.jsonl",
    "evaluation-test-pictures",
  ]  # fmt: skip
  fwm, idm, turns = map(rows_of, files)
  assert len(list(folder.iterdir())) == len({*STATES, *SAID["fwm"]})  # each state once

  def shown(field):
    return [np.asarray(Image.open(folder.parent / name)).tolist() for name in field["images"]]

  for row, record, said in zip(fwm, RECORDS, SAID["fwm"], strict=True):
    assert row["z"] == record.z and (row["episode"], row["level"]) == (record.episode, record.level)
    for name, state in (("x", record.x), ("y", record.y), ("prediction", said)):
      assert shown(row[name]) == [render(state).tolist()]
  assert [row["prediction"] for row in idm] == SAID["idm"]
  assert [row["x"] for row in idm] == [row["x"] for row in fwm]
  (row,) = turns
  assert row["z"] == "1. go\n2. stop" and row["x"] == fwm[0]["x"] and row["episode"] == "e"
  assert shown(row["y"]) == [render(STATES[i]).tolist() for i in (1, 2)]
  assert shown(row["prediction"]) == [render(STATES[i]).tolist() for i in (2, 0)]


def test_a_judge_gets_the_pictures_that_were_drawn(drawn, tmp_path):
  """From the files of an evaluation to a judge's endpoint, by the three templates of pictures."""
  fwm, idm, turns = drawn[:3]
  asked = {"aurora": fwm, "bytemorph": fwm, "action": idm, "worldprediction": turns}
  steps = {"": [js.scores(3)]} | {said: [js.scores(4)] for said in SAID["idm"]}
  for name, path in asked.items():
    items = judge.read_predictions(path, TEMPLATES[name])
    with js.serving(steps) as server:
      found = judge.judge(
        items, js.endpoint(server), TEMPLATES[name], tmp_path / "cache", settings=Settings(),
        patience=js.PATIENCE, budget=Budget())  # fmt: skip
      bodies = [body for *_, body in server.log]
    assert {o.status for o in found.outcomes} == {judge.JUDGED} and len(bodies) == len(items)
    count = {len(_pictures(body)) for body in bodies}
    assert count == {2 if name == "action" else 3}, name
  first = next(b for b in bodies if _pictures(b))
  assert len({*_pictures(first)}) == 3


def _pictures(body):
  parts = body["messages"][1]["content"]
  return [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
