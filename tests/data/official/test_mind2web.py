"""Mind2Web: tasks and steps, which steps follow each other, and what is left out."""

import json

import pytest

from swirl_jax.data.official import mind2web
from swirl_jax.data.official.records import Absent


def action(n, op="CLICK", value="", page=None, **changes):
  html = f'<html><text>page {n}</text><button backend_node_id="7">Go</button></html>'
  record = {
    "action_uid": f"u{n}", "cleaned_html": page or html,
    "operation": {"op": "CLICK", "original_op": op, "value": value},
    "pos_candidates": [{"backend_node_id": "7", "is_original_target": True}], "neg_candidates": [],
  }  # fmt: skip
  return record | changes


def step(n, task="t", **changes):
  return action(n, **changes) | {"annotation_id": task, "website": "w", "confirmed_task": "c"}


def found(folder, name, records):
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".jsonl":
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
  else:
    path.write_text(json.dumps(records))
  return list(mind2web.read(folder))


def ends(folder, records, name="steps.jsonl"):
  """(x's page → y's page) of the lines, and the reasons of the others."""
  pages = lambda f: (f.line["x"].split()[1], f.line["y"].split()[1])  # noqa: E731
  return [pages(f) if f.line else f.reason for f in found(folder, name, records)]


@pytest.mark.parametrize(
  ("name", "split", "level"),
  [
    ("data/train/train_0.json", "train", "train"),
    ("test_task/test_task_0.json", "test", "cross_task"),
    ("test_website_0.json", "heldout", "cross_website"),
    ("data/test_domain/0.json", "heldout", "cross_domain"),
    ("mine.json", None, "all"),
  ],
)
def test_a_task_gives_a_line_for_each_step_but_its_last(tmp_path, name, split, level):
  task = {"annotation_id": "t", "actions": [action(1), action(2, "TYPE", "a b"), action(3)]}
  first, second, last = found(tmp_path, name, [task])
  given = {"split": split} if split else {}
  assert first.line == {
    "x": 'page 1\nbutton "Go"', "y": 'page 2\nbutton "Go"', "z": 'CLICK button "Go"',
    "episode": f"{level}/t", "turn": 0, "level": level, **given,
  }  # fmt: skip
  assert second.line["z"] == 'TYPE "a b" into button "Go"' and second.line["turn"] == 1
  assert (last.line, last.reason) == (None, "no page after")
  assert last.where == f"{name}, record 1, action 3"


def test_one_task_of_training_in_twenty_is_for_validation(tmp_path):
  tasks = [{"annotation_id": f"t{n}", "actions": [action(n), action(n + 1), action(n + 2)]}
           for n in range(200)]  # fmt: skip
  lines = [f.line for f in found(tmp_path, "data/train/a.json", tasks) if f.line]
  splits = [n["split"] for n in lines]
  assert len(lines) == 400 and splits[::2] == splits[1::2]  # a task's steps together
  assert 2 < splits.count("validation") / 2 < 25
  assert splits.count("train") + splits.count("validation") == 400


def test_steps_that_follow_each_other_are_consecutive(tmp_path):
  steps = [step(1), step(2), step(3, "other"), step(4, "other")]
  assert ends(tmp_path, steps) == [("1", "2"), "no page after", ("3", "4"), "no page after"]


def test_previous_actions_tell_where_a_step_is_missing(tmp_path):
  steps = [step(n, previous_actions=["."] * turn) for n, turn in ((1, 0), (2, 1), (3, 3))]
  assert ends(tmp_path, steps) == [("1", "2"), "no page after", "no page after"]


def test_a_step_that_cannot_be_read_ends_the_run(tmp_path):
  steps = [step(1), step(2, page="<a>"), step(3), step(4)]
  assert ends(tmp_path, steps) == ["no page after", "malformed", ("3", "4"), "no page after"]
  task = {"annotation_id": "t", "actions": [action(1), {}, action(3), action(4)]}
  assert ends(tmp_path / "b", [task], "a.json") == [
    "no page after", "malformed", ("3", "4"), "no page after",
  ]  # fmt: skip


def test_a_record_alone_has_no_page_after_it(tmp_path):
  (only,) = found(tmp_path, "one.jsonl", [step(1)])
  assert (only.line, only.reason, only.detail) == (None, "no page after", "turn 1 of t")


@pytest.mark.parametrize("candidates", [[], [{"backend_node_id": "99"}]])
def test_a_step_whose_element_is_not_on_the_page_has_no_action(tmp_path, candidates):
  first, _ = found(tmp_path, "a.jsonl", [step(1, pos_candidates=candidates), step(2)])
  assert "z" not in first.line and first.notes[0].startswith("without z")


@pytest.mark.parametrize(
  ("op", "z"),
  [
    ("CLICK", 'CLICK button "Go"'),
    ("TYPE", 'TYPE "a b" into button "Go"'),
    ("SELECT", 'SELECT "a b" in button "Go"'),
    ("ENTER", 'ENTER button "Go"'),
  ],
)
def test_an_operation_in_words(tmp_path, op, z):
  assert found(tmp_path, "a.jsonl", [step(1, op=op, value="a b"), step(2)])[0].line["z"] == z


def test_the_original_target_is_named(tmp_path):
  page = '<html><a backend_node_id="1">One</a><a backend_node_id="2">Two</a></html>'
  candidates = [{"backend_node_id": "1"}, {"backend_node_id": "2", "is_original_target": True}]
  steps = [step(1, op="HOVER", page=page, pos_candidates=candidates), step(2)]
  assert found(tmp_path, "a.jsonl", steps)[0].line["z"] == 'HOVER a "Two"'


@pytest.mark.parametrize(
  ("record", "detail"),
  [
    (step(1, page="<p/>"), "cleaned_html shows nothing"),
    (step(1, page="<p>"), "cleaned_html isn't XML (no element found"),
    (step(1) | {"cleaned_html": "<p>\ud800</p>"}, "cleaned_html isn't XML"),
    (step(1) | {"cleaned_html": 1}, "cleaned_html is 1, must be text"),
    (step(1, op="FLY"), "operation is 'FLY', must be one of CLICK, TYPE"),
    (step(1, value=3), "value is 3, must be text"),
    (step(1, pos_candidates={}), "pos_candidates is {}, must be a list"),
    (step(1, pos_candidates=[{}]), "backend_node_id is missing"),
    (step(1, previous_actions=3), "previous_actions is 3, must be a list"),
    (action(1), "annotation_id is missing, must be text"),
    ({"annotation_id": "t"}, "action_uid is missing, must be text"),
    (7, "the record is 7, must be an object"),
  ],
)
def test_what_is_malformed_is_named(tmp_path, record, detail):
  bad, *_ = found(tmp_path, "a.jsonl", [record, step(2), step(3)])
  assert (bad.where, bad.reason) == ("a.jsonl, record 1", "malformed") and detail in bad.detail


def test_an_empty_folder_is_an_error(tmp_path):
  with pytest.raises(Absent, match="data/train/.*test_task"):
    list(mind2web.read(tmp_path))
