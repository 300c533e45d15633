"""What a judge is asked, and what is taken for an answer."""

import base64

import pytest

from swirl_jax.evaluation import judge_templates
from swirl_jax.evaluation.judge_templates import TEMPLATES

FIELDS = {"x": "state {z} zero", "z": "do it {0}", "y": "state } one", "prediction": "guess {y} {{"}


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_every_field_stands_once_in_the_question_as_it_is(name):
  system, user = TEMPLATES[name].messages(FIELDS)
  assert (system["role"], user["role"]) == ("system", "user")
  for field in FIELDS.values():
    assert user["content"].count(f"<material>\n{field}\n</material>") == 1
  assert user["content"].count("<material>") == len(FIELDS)


# What a judge is told that each field is, by the part of the label that tells it from the others.
STATE = {"x": "before", "z": "Action", "y": "followed", "prediction": "the model predicted"}
PICTURE = STATE | {"y": "truly followed", "prediction": "the model drew"}
LABELS = {
  "action": {"x": "before", "y": "after", "z": "led from", "prediction": "the model named"},
  "mirrorapi": {"x": "The tool", "z": "Call", "y": "the real", "prediction": "that stands in"},
  **dict.fromkeys(("aurora", "bytemorph", "worldprediction"), PICTURE),
}


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_the_judge_is_told_which_is_the_truth(name):
  text, labels = TEMPLATES[name].messages(FIELDS)[1]["content"], LABELS.get(name, STATE)
  for field, own in labels.items():
    label = text.split(f"\n<material>\n{FIELDS[field]}\n")[0].split("\n")[-1]
    assert [other for other in labels.values() if other in label] in ([own], [own, "followed"])


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_the_scale_stands_in_question_and_schema(name):
  template = TEMPLATES[name]
  system = template.messages(FIELDS)[0]["content"]
  scale = f"from {template.low} to {template.high}"
  assert scale in system and '{"reason"' in system
  schema = template.response_format()["json_schema"]["schema"]
  assert schema["properties"]["score"]["description"] == scale
  assert set(schema["required"]) == set(schema["properties"]) == {"reason", "score"}


def test_scales():
  assert {name: (t.low, t.high) for name, t in TEMPLATES.items()} == {
    "state": (0, 10), "action": (0, 10), "bytemorph": (0, 100), "mirrorapi": (0, 10),
    "scienceworld": (0, 10), "mind2web": (0, 10), "aurora": (0, 10),
    "worldprediction": (0, 10)}  # fmt: skip


def test_a_missing_truth_is_told():
  user = TEMPLATES["aurora"].messages(FIELDS | {"y": None})[1]["content"]
  assert "truly followed:\n<material>\n(not given)\n</material>" in user
  assert {name for name, t in TEMPLATES.items() if t.optional} == {"aurora"}


def test_pictures_are_compared_as_pictures():
  for name, template in TEMPLATES.items():
    system = template.messages(FIELDS)[0]["content"]
    pictures = name in ("aurora", "bytemorph", "worldprediction")
    assert ("Compare what the pictures show" in system) == pictures
    assert ("order, spelling and layout" in system) != pictures


def test_a_picture_makes_the_content_parts():
  data = b"\x89PNG not really"
  picture = judge_templates.image(data)
  user = TEMPLATES["state"].messages(FIELDS | {"x": [picture], "y": [picture]})[1]["content"]
  assert [part["type"] for part in user] == ["text", "image_url", "text", "image_url", "text"]
  head, encoded = user[1]["image_url"]["url"].split(",")
  assert head == "data:image/png;base64" and base64.b64decode(encoded) == data
  assert FIELDS["prediction"] in user[4]["text"]


def test_parts_without_a_picture_are_one_text():
  parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
  template = TEMPLATES["state"]
  assert template.messages(FIELDS | {"x": parts}) == template.messages(FIELDS | {"x": "ab"})


@pytest.mark.parametrize(
  "answer",
  [
    '{"reason": "nearly", "score": 7.5}',
    '{"score": 7.5, "reason": " nearly\\n"}',
    'Here it is:\n```json\n{"reason": "nearly", "score": 7.5}\n```\nAnything else?',
    'With {braces} {"a": 1} first: {"reason": "nearly", "score": 7.5, "more": {"score": 1}}',
  ],
)
def test_read(answer):
  assert TEMPLATES["state"].read(answer) == (7.5, "nearly")


@pytest.mark.parametrize(
  ("answer", "what"),
  [
    ("", "0 JSON objects"),
    ("Eight of ten.", "0 JSON objects"),
    ('{"reason": "broken off he', "0 JSON objects"),
    ('[{"a": ' * 1200, "0 JSON objects"),
    ('{"reason": "no score"}', "0 JSON objects"),
    ('{"reason": "a", "score": 3} {"reason": "b", "score": 9}', "2 JSON objects"),
    ('{"reason": "a", "score": 11}', "score is 11, must be from 0 to 10"),
    ('{"reason": "a", "score": -0.1}', "score is -0.1, must be from 0 to 10"),
    ('{"reason": "a", "score": NaN}', "score is NaN, must be from 0 to 10"),
    ('{"reason": "a", "score": 1e999}', "score is Infinity, must be"),
    ('{"reason": "a", "score": 1' + "0" * 400 + "}", "must be from 0 to 10"),
    ('{"reason": "a", "score": "8"}', 'score is "8", must be a number'),
    ('{"reason": "a", "score": true}', "score is true, must be a number"),
    ('{"reason": "a", "score": null}', "score is null, must be a number"),
    ('{"reason": "a", "score": [8]}', "must be a number"),
    ('{"reason": " ", "score": 8}', "reason is"),
    ('{"reason": 5, "score": 8}', "reason is 5, must be text"),
    ('{"score": 8}', "reason is null, must be text"),
  ],
)
def test_read_refuses(answer, what):
  with pytest.raises(ValueError, match="must be") as error:
    TEMPLATES["state"].read(answer)
  assert what in str(error.value) and len(str(error.value)) < 200


def test_the_ends_of_the_scale_are_on_it():
  read = TEMPLATES["bytemorph"].read
  assert [read(f'{{"reason": "r", "score": {s}}}')[0] for s in (0, 100, 100.0)] == [0, 100, 100]
