"""MirrorAPI-Bench: both layouts, the splits, and what is left out. The records are invented."""

import collections
import json

import pytest

from swirl_jax.data import builders, transitions
from swirl_jax.data.official import convert, mirrorapi
from swirl_jax.data.official.records import Absent
from swirl_jax.data.pipeline import Split

DOCUMENT = {"api_name": "Tide Table", "api_description": "Tides of a harbour", "tool_name": "Sea"}
REQUEST = {
  "category": "Weather", "tool_name": "Sea", "api_name": "Tide Table",
  "tool_input": '{"harbour": "Ayr"}', "strip": "filter",
}  # fmt: skip
ANSWER = '{"error": "", "response": "{\'high\': \'06:10\'}"}'


def user(document=DOCUMENT, request=REQUEST):
  return f"API doc:\n{document}\n\nRequest:\n{request}"


def rendered(said=None, label=ANSWER, end="<|im_end|>\n<|im_start|>assistant\n"):
  system = "You are a server. Example:\nAPI doc:\n{}\nRequest:\n{}\nResponse:\n{}"
  prompt = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{said or user()}{end}"
  return {"prompt": prompt, "label": label + "\n", "predict": "NOT THE TRUTH"}


def plain(said=None, output=ANSWER):
  return {"system": "You are a server.", "instruction": said or user(), "output": output}


def folder(path, records, layout="rendered"):
  """The five splits, of which id_high has these records and the others one each."""
  (path / "test_sft").mkdir()
  record = {"rendered": rendered, "plain": plain}[layout]
  for part in mirrorapi.PARTS:
    other = record(user(request=REQUEST | {"tool_input": part.theirs}))
    mine = records if part.theirs == "id_high" else [other]
    if layout == "rendered":
      name, text = f"{part.rendered}.predictions.jsonl", "\n".join(map(dump, mine))
    else:
      name, text = f"test_sft/{part.theirs}.json", json.dumps(mine)
    (path / name).write_text(text)
  return path


def dump(record):
  return record if isinstance(record, str) else json.dumps(record)


def found(path, records, **kwargs):
  return list(mirrorapi.read(folder(path, records, **kwargs)))


@pytest.mark.parametrize("layout", ["rendered", "plain"])
def test_both_layouts_say_the_same(tmp_path, layout):
  records = [rendered()] if layout == "rendered" else [plain()]
  high, medium, low, ood, failing = found(tmp_path, records, layout=layout)
  assert high.line == {
    "x": str(DOCUMENT), "y": ANSWER, "z": 'Tide Table {"harbour": "Ayr"}',
    "episode": "id_high/1", "turn": 0, "level": "id_high", "split": "test",
  }  # fmt: skip
  where = [(f.line["split"], f.line["level"]) for f in (medium, low, ood, failing)]
  assert where == [("test", "id_medium"), ("test", "id_low"), ("heldout", "ood"),
                   ("failing", "ood_failure")]  # fmt: skip
  assert "NOT THE TRUTH" not in str([high, medium, low, ood, failing])


def test_the_training_file_is_read_where_it_is(tmp_path):
  folder(tmp_path, [plain()], layout="plain")
  records = [plain(user(request=REQUEST | {"tool_input": f"{n}"})) for n in range(400)]
  (tmp_path / "train_sft.json").write_text(json.dumps(records))
  lines = [f.line for f in mirrorapi.read(tmp_path)][5:]
  count = collections.Counter(n["split"] for n in lines)
  assert {n["level"] for n in lines} == {"train"} and count.total() == 400
  assert 5 < count["validation"] < 40 and count["train"] + count["validation"] == 400
  again = [f.line for f in mirrorapi.read(tmp_path)][5:]
  assert again == lines


def test_a_benchmark_becomes_a_world(tmp_path):
  """ID is evaluated though training has met its API, what training was asked is not."""
  (tmp_path / "in").mkdir()
  folder(tmp_path / "in", [plain(), plain(user(request=REQUEST | {"tool_input": "7"}))], "plain")
  records = [plain(user(request=REQUEST | {"tool_input": f"{n}"}), ANSWER.replace("06", f"{n}"))
             for n in range(60)]  # fmt: skip
  (tmp_path / "in" / "train_sft.json").write_text(json.dumps(records))
  path = tmp_path / "out.jsonl"
  counts = convert.write(mirrorapi.read(tmp_path / "in"), path, convert.Collector(0))
  assert counts["kept"]["failing"] == {"ood_failure": 1}
  settings = {"path": str(path), "met": "prompt", "labelled": 20}
  builder = builders.get("jsonl", settings, str(tmp_path)).prepare(str(tmp_path))
  splits = {name: list(Split(builder, name)) for name in builder.info.splits}
  assert set(splits) == set(transitions.SPLITS)
  assert sorted(r.level for r in splits["test"]) == ["id_high", "id_low", "id_medium"]
  assert builder.info.metadata["test"]["dropped"] == 1
  assert {r.level for r in splits["validation"]} == {"train"}


def test_an_episode_is_one_record_of_one_part(tmp_path):
  episodes = [f.line["episode"] for f in found(tmp_path, [rendered(), rendered()])]
  assert episodes == ["id_high/1", "id_high/2", "id_medium/1", "id_low/1", "ood/1", "ood_failure/1"]


def test_the_authors_own_files_come_before_predictions(tmp_path):
  folder(tmp_path, [rendered()])
  own = plain(user(request=REQUEST | {"tool_input": "own"}))
  (tmp_path / "test_sft" / "id_high.json").write_text(json.dumps([own]))
  high, *others = mirrorapi.read(tmp_path)
  assert high.line["z"] == "Tide Table own" and len(others) == 4


def test_a_request_that_strips_otherwise_says_so(tmp_path):
  record = rendered(user(request=REQUEST | {"tool_input": "{}", "strip": "truncate"}))
  assert found(tmp_path, [record])[0].line["z"] == "Tide Table {} strip=truncate"


@pytest.mark.parametrize(
  ("tool_input", "z"),
  [
    ({"harbour": "Åbo"}, 'Tide Table {"harbour": "Åbo"}'),
    ('{"n": 1}, {"n": 2}', 'Tide Table {"n": 1}, {"n": 2}'),
  ],
)
def test_a_tool_input_may_be_an_object_or_the_text_of_several(tmp_path, tool_input, z):
  record = rendered(user(request=REQUEST | {"tool_input": tool_input}))
  assert found(tmp_path, [record])[0].line["z"] == z


def test_a_document_written_as_json_is_read_too(tmp_path):
  record = plain(user(json.dumps(DOCUMENT, indent=2) + "\n", json.dumps(REQUEST | {"a": None})))
  assert found(tmp_path, [record], layout="plain")[0].line["z"] == 'Tide Table {"harbour": "Ayr"}'


@pytest.mark.parametrize(
  ("record", "reason", "detail"),
  [
    (rendered(label=ANSWER[:-5]), "cut label", "label doesn't parse (Unterminated string"),
    (rendered(user()[:70], end=""), "cut prompt", "no API document and request"),
    (rendered(end=""), "cut prompt", "no API document and request"),
    (rendered(label="[1]"), "malformed", "label is '[1]', must be an object of error and resp"),
    (rendered(label='{"error": ""}'), "malformed", "must be an object of error and response"),
    (rendered(label=ANSWER[:-1] + ', "mechanism_of_the_api": ""}'), "malformed", "an object of"),
    (rendered(user(document="{'a': ")), "malformed", "the API document is \"{'a':\", must be"),
    (rendered(user(document="[]")), "malformed", "the record is [], must be an object"),
    (rendered(user(request={})), "malformed", "api_name is missing, must be text"),
    (rendered(user(request={"api_name": "a"})), "malformed", "tool_input is missing"),
    (rendered(user(request=REQUEST | {"tool_input": 3})), "malformed", "tool_input is 3, must"),
    (rendered() | {"label": None}, "malformed", "label is None, must be text"),
    ({"label": ANSWER}, "malformed", "prompt is missing, must be text"),
    ([1], "malformed", "the record is [1], must be an object"),
    ('{"prompt": ', "malformed", "the line isn't JSON (Expecting value)"),
  ],
)
def test_what_gives_no_line_is_named(tmp_path, record, reason, detail):
  first, second, *_ = found(tmp_path, [rendered(), record])
  assert first.line and second.line is None
  assert second.where == "id_high.predictions.jsonl, record 2"
  assert second.reason == reason and detail in second.detail


def test_absent_files_are_named_all_at_once(tmp_path):
  with pytest.raises(Absent, match="test_sft/id_high.json .*test_sft/ood_failure.json"):
    list(mirrorapi.read(tmp_path))
  folder(tmp_path, [rendered()])
  (tmp_path / "ood_failed.predictions.jsonl").unlink()
  with pytest.raises(Absent) as error:
    list(mirrorapi.read(tmp_path))
  assert str(error.value) == "test_sft/ood_failure.json (or ood_failed.predictions.jsonl)"


def test_a_file_that_is_no_list_is_an_error(tmp_path):
  folder(tmp_path, [plain()], layout="plain")
  (tmp_path / "test_sft" / "id_low.json").write_text('{"a": 1}')
  with pytest.raises(ValueError, match=r"id_low.json: the file is .*, must be a JSON list"):
    list(mirrorapi.read(tmp_path))
  (tmp_path / "test_sft" / "id_low.json").write_bytes(b"\xff")
  with pytest.raises(ValueError, match=r"id_low.json: the file isn't UTF-8 \(byte 1\)"):
    list(mirrorapi.read(tmp_path))
