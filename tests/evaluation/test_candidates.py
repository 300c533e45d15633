"""Choices of a state and of actions, by players whose answers are known."""

import dataclasses
import functools
import json

import image_world as iw
import jax
import numpy as np
import pytest
from PIL import Image

from swirl_jax import sharding
from swirl_jax.evaluation import candidates

ONE = {"value": 1.0, "low": 1.0, "high": 1.0}
X, Y, OTHER = iw.RECORDS[0].x, iw.RECORDS[0].y, iw.RECORDS[2].y  # "make3" leads from X to Y
STATES = {"x": X, "z": "make3", "candidates": [OTHER, X, Y], "truth": 2, "task": "a"}
ACTIONS = {"x": X, "y": Y, "candidates": ["make0", "make3"], "truth": 1, "task": "b"}
LAST = iw.RECORDS[1].y  # from X by make3 and make1
PLANS = {"x": X, "y": LAST, "truth": 0, "task": "b",
         "candidates": [["make3", "make1"], ["make1", "make3"], ["make1"]]}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def mesh():
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])):
    yield


def measured(tmp_path, *lines, **fwm):
  path = tmp_path / "candidates.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  asked = candidates.ask(candidates.read(str(path)), iw.WORLD.tokenizer, iw.LENGTHS)
  return candidates.measure(asked, (iw.FWM, iw.PERFECT | fwm), (iw.IDM, iw.PERFECT), batch=4)


def test_players_that_know(tmp_path):
  """The FWM and the IDM take 1 off each token that is wrong, so the truth is the likeliest."""
  found = measured(tmp_path, STATES, STATES | {"task": "", "candidates": [Y, X], "truth": 0},
                   ACTIONS, PLANS)  # fmt: skip
  states, actions = found["states"], found["actions"]
  right = ONE | {"count": 2, "chance": pytest.approx((1 / 3 + 1 / 2) / 2)}
  assert states["all"] == {"count": 2, "scores": {"fwm_mean": right, "fwm_sum": right}}
  assert set(states["by_task"]) == {"a"} and states["by_task"]["a"]["count"] == 1
  right = ONE | {"count": 2, "chance": pytest.approx(5 / 12)}
  single = ONE | {"count": 1, "chance": 0.5}
  assert actions["all"]["count"] == 2
  assert actions["all"]["scores"] == {"fwm": right, "idm_mean": single, "idm_sum": single}
  assert actions["by_task"] == {"b": actions["all"]}
  assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_states_may_be_files_of_pictures(tmp_path):
  """Named from the questions' folder, or from anywhere; text is left as it is."""
  names = {state: f"{i}.png" for i, state in enumerate((X, Y, OTHER))}
  for state, name in names.items():
    Image.fromarray(iw.pictures([state])[0]).save(tmp_path / name)
  files = {"x": names[X], "z": "make3", "candidates": [names[OTHER], X, names[Y]], "truth": 2}
  plans = PLANS | {"x": str(tmp_path / names[X])}
  (tmp_path / "q.jsonl").write_text(f"{json.dumps(files)}\n{json.dumps(plans)}\n")
  state = functools.partial(iw.WORLD.state, folder=tmp_path)
  one, two = candidates.in_words(candidates.read(str(tmp_path / "q.jsonl")), state)
  assert (one.x, one.candidates) == (X, (OTHER, X, Y))
  assert (two.x, two.y, two.candidates[0]) == (X, LAST, ("make3", "make1"))
  with pytest.raises(ValueError, match="nowhere.png must be a file that can be read"):
    state("nowhere.png")
  Image.new("RGB", (5, 5)).save(tmp_path / "small.png")
  assert len(state("small.png").split()) == 4  # squares are prepared
  blind = dataclasses.replace(iw.WORLD, encode=None)
  with pytest.raises(ValueError, match="0.png' is a picture, but the run's config.world.vq"):
    blind.state(names[X], tmp_path)


def test_wrong_labels_score_nothing(tmp_path):
  found = measured(tmp_path, STATES | {"truth": 0}, ACTIONS | {"truth": 0}, PLANS | {"truth": 2})
  for kind in ("states", "actions"):
    for name, score in found[kind]["all"]["scores"].items():
      assert score["value"] == 0.0, name


def test_plans_go_through_the_fwms_own_states(tmp_path):
  """An FWM that spoils a place of its first prediction finds the right plan less likely: after
  "make3" it is at <0> <0> <2> <3> instead of <0> <1> <2> <3>, and wrong by one code of LAST. The
  plan of one turn is scored from x: <0> <1> <2> <1> against LAST, <1> <2> <3> <1>: three are wrong.
  """
  for place, plan in ((-1, ["make3", "make1"]), (1, ["make3", "make1"])):
    line = PLANS | {"candidates": [plan, ["make1"]]}
    asked = candidates.ask([candidates._question(line, "")], iw.WORLD.tokenizer, iw.LENGTHS)
    found = candidates._rolled(asked["actions"], iw.FWM, iw.PERFECT | {"place": place}, 4)
    np.testing.assert_allclose(found, [-5.0 - (place == 1), -5.0 - 3])
  found = measured(tmp_path, PLANS, place=1)
  told = found["actions"]["all"]["scores"]
  assert told["fwm"] == ONE | {"count": 1, "chance": pytest.approx(1 / 3)}
  assert told["idm_sum"] == {"value": None, "low": None, "high": None, "count": 0, "chance": None}


def test_two_plans_side_by_side():
  """Both have a right candidate of two turns, the first question's first and the second's last."""
  turned = PLANS | {"candidates": [["make1", "make3"], ["make3", "make1"]], "truth": 1}
  questions = [candidates._question(line, "") for line in (PLANS, turned)]
  asked = candidates.ask(questions, iw.WORLD.tokenizer, iw.LENGTHS)["actions"]
  scores = candidates._actions(asked, (iw.FWM, iw.PERFECT), (iw.IDM, iw.PERFECT), 4)
  for name in ("idm_mean", "idm_sum"):
    assert np.isnan(scores[name]).tolist() == [True, True, False, True, True]
  rolled = scores["fwm"]
  assert rolled[0] == rolled[4] == -5.0 and rolled[1] == rolled[3] < -5.0


def test_what_is_resampled_together():
  for line, episode in ((STATES, "line 7"), (STATES | {"where": "w"}, "w"),
                        (STATES | {"where": "w", "episode": "e"}, "e")):  # fmt: skip
    assert candidates._question(line, "line 7").episode == episode


def test_correct():
  assert candidates.correct(np.array([-2.0, -1.0, -3.0]), 1) == 1.0
  assert candidates.correct(np.array([-2.0, -1.0, -3.0]), 0) == 0.0
  assert candidates.correct(np.array([-1.0, -1.0, -3.0]), 0) == 0.5
  assert candidates.correct(np.array([-1.0, -1.0, -1.0]), 2) == pytest.approx(1 / 3)
  assert np.isnan(candidates.correct(np.array([-1.0, np.nan]), 0))


@pytest.mark.parametrize("change, complaint", [
  ({"z": ""}, "line 2: x must be there, and z .candidates are states. or y"),
  ({"y": Y}, "line 2: x must be there"),
  ({"x": 3}, "line 2: x is 3, must be text"),
  ({"candidates": [X]}, "must be a list of two and more"),
  ({"candidates": [X, ""]}, "the candidate '' must be a text"),
  ({"candidates": [X, ["make0"]]}, r"the candidate \['make0'\] must be a text"),
  ({"truth": 3}, "truth is 3, must be from 0 to 2"),
  ({"truth": True}, "truth is True, must be from 0 to 2"),
])  # fmt: skip
def test_bad_lines(tmp_path, change, complaint):
  path = tmp_path / "c.jsonl"
  path.write_text(json.dumps(STATES) + "\n" + json.dumps(STATES | change) + "\n")
  with pytest.raises(ValueError, match=f"candidates = .*c.jsonl.*{complaint}"):
    candidates.read(str(path))


def test_a_line_ends_where_json_lines_do(tmp_path):
  """U+2028 and U+0085 end no line of JSON."""
  path = tmp_path / "c.jsonl"
  line = STATES | {"x": "a\u2028b\u0085c"}
  path.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
  assert candidates.read(str(path))[0].x == line["x"]


def test_bad_files(tmp_path):
  path = tmp_path / "c.jsonl"
  with pytest.raises(ValueError, match="candidates = .*No such file"):
    candidates.read(str(path))
  path.write_text("")
  with pytest.raises(ValueError, match="no question in it"):
    candidates.read(str(path))
  path.write_text("{\n")
  with pytest.raises(ValueError, match="line 1: Expecting"):
    candidates.read(str(path))
  question = candidates._question(STATES | {"z": "make9"}, "line 1")
  with pytest.raises(ValueError, match="episode 'line 1', turn 0: z: the word 'make9' is not in"):
    candidates.ask([question], iw.WORLD.tokenizer, iw.LENGTHS)
