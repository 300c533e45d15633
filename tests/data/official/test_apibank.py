"""API-Bank: what a dialogue is before a call, and what is left out."""

import json

import pytest

from swirl_jax.data.official import apibank
from swirl_jax.data.official.records import Absent


def call(output, name="Tides", **changes):
  given = {"at": "Ayr"}
  result = {"api_name": name, "input": given, "output": output, "exception": None}
  return {"role": "API", "api_name": name, "param_dict": given, "result": result} | changes


def say(role, text):
  return {"role": role, "text": text}


def found(folder, *records, name="level-1-given-desc/Tides-level-1-2.jsonl"):
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
  return list(apibank.read(folder))


def test_a_call_has_the_dialogue_before_it(tmp_path):
  records = (say("User", "When is high tide?"), call("06:10"), say("AI", "At ten past."), call([1]))
  first, second = (f.line for f in found(tmp_path, *records))
  assert first == {
    "x": "User: When is high tide?", "z": 'Tides {"at": "Ayr"}', "turn": 0, "level": "level-1",
    "y": '{"output": "06:10", "exception": null}',
    "episode": "level-1-given-desc/Tides-level-1-2.jsonl",
  }  # fmt: skip
  assert second["x"].splitlines() == [
    first["x"],
    f"API: {first['z']}",
    first["y"],
    "AI: At ten past.",
  ]
  assert second["turn"] == 1 and second["y"] == '{"output": [1], "exception": null}'


def test_the_record_says_what_was_called_and_the_result_what_came_back(tmp_path):
  result = {"api_name": "Other", "input": {"at": "Oban"}, "output": "06:10", "exception": "late"}
  (one,) = found(tmp_path, call(None, result=result))
  assert one.line["z"] == 'Tides {"at": "Ayr"}'
  assert one.line["y"] == '{"output": "06:10", "exception": "late"}'


@pytest.mark.parametrize(
  ("record", "detail"),
  [
    ("{", "the line isn't JSON"),
    ({"text": "hm"}, "role is missing, must be text"),
    (say("AI", 3), "text is 3, must be text"),
    (call(1, result="fine"), "result is 'fine', must be an object"),
    (call(1, result={"output": 1}), "result is {'output': 1}, must be an object of output and exc"),
    (call(1, param_dict=[]), "param_dict is [], must be an object"),
  ],
)
def test_after_a_malformed_record_no_history_is_whole(tmp_path, record, detail):
  before, bad, after = found(tmp_path, say("User", "hm"), call(1), record, call(2))
  assert before.line and (bad.reason, after.reason) == ("malformed", "no history")
  assert detail in bad.detail and bad.where.endswith("-1-2.jsonl, record 3")


def test_other_files_are_none_of_its(tmp_path):
  (tmp_path / "notes.jsonl").write_text("{}")
  with pytest.raises(Absent, match="level-1-given-desc"):
    list(apibank.read(tmp_path))
