"""ToolBench's trees: what a call's history is, and what is left out."""

import json

import pytest

from swirl_jax.data.official import toolbench
from swirl_jax.data.official.records import Absent

TIDES = {"name": "tides", "description": "Tides of a harbour", "parameters": {}}
WIND = {"name": "wind", "description": "Wind at a harbour", "parameters": {}}


def call(name, arguments, response, *children, code=0):
  """An Action node and the Action Input below it."""
  node = {
    "node_type": "Action Input", "description": arguments, "observation": response,
    "observation_code": code, "children": list(children),
  }  # fmt: skip
  return {"node_type": "Action", "description": name, "children": [node]}


def thought(*children):
  return {"node_type": "Thought", "description": "hm", "children": list(children)}


def answer(*children):
  root = {"node_type": "Action Input", "description": "", "children": list(children)}
  functions = [TIDES, WIND, {"name": "Finish", "description": "the end", "parameters": {}}]
  return {"answer_generation": {"function": functions}, "tree": {"tree": root}}


def found(folder, *children, name="G2_answer/7_DFS.json"):
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(answer(*children)))
  return list(toolbench.read(folder))


def test_each_branch_has_its_own_history(tmp_path):
  branch = call("tides", '{\n "at": "Ayr"}', "one", thought(call("tides", "{}", "two")),
                call("tides", "{bad", "three"))  # fmt: skip
  one, two, three = (f.line for f in found(tmp_path, branch))
  document = json.dumps(TIDES)
  assert one == {"x": document, "z": 'tides {"at": "Ayr"}', "y": "one", "turn": 0,
                 "episode": "G2_answer/7_DFS.json", "level": "G2"}  # fmt: skip
  assert two["x"] == three["x"] == document + '\ntides {"at": "Ayr"}\none'
  assert (two["z"], three["z"], two["turn"]) == ("tides {}", "tides {bad", 1)


def test_the_document_is_that_of_the_api_that_is_called(tmp_path):
  branch = call("tides", "{}", "one", call("wind", "{}", "two"))
  tides, wind = (f.line for f in found(tmp_path, branch))
  assert json.loads(tides["x"]) == TIDES and tides["level"] == "G2"
  assert wind["x"] == json.dumps(WIND) + "\ntides {}\none" and wind["z"] == "wind {}"


@pytest.mark.parametrize(("code", "reason"), [(1, "no such function"), (5, "timed out"), (12, "")])
def test_what_the_code_of_an_observation_says(tmp_path, code, reason):
  (one,) = found(tmp_path, call("tides", "{}", "said", code=code))
  assert one.reason == reason and (one.line is None) == bool(reason)


def test_a_path_without_a_group_has_one_level(tmp_path):
  (one,) = found(tmp_path, call("tides", "{}", "said"), name="answer/7_DFS.json")
  assert one.line["level"] == "all"


def test_what_gives_no_line_is_named_and_stays_history(tmp_path):
  after = call("tides", "{}", "late")
  children = (
    call("Finish", "{}", "done", code=3),
    call("tdies", "{}", "No such function", after, code=1),
    call("tides", "{}", "timeout", code=5),
    call("tides", "{}", " "),
  )
  results = found(tmp_path, *children)
  reasons = [f.reason for f in results]
  assert reasons == ["no API call", "no such function", "", "timed out", "malformed"]
  assert results[2].line["x"].endswith("tdies {}\nNo such function")
  assert results[4].where == "G2_answer/7_DFS.json, node 11"


def test_a_response_that_the_authors_cut_is_kept_and_counted(tmp_path):
  whole, short, cut = found(
    tmp_path,
    call("tides", "{}", "w" * 1024),
    call("tides", "0", "and so on ..."),
    call("tides", "1", "w" * 1024 + "..."),
  )
  assert whole.notes == short.notes == ()
  assert cut.notes == (toolbench.CUT,) and cut.line["y"].endswith("...")


BELOW = [thought(call("tides", "{}", "a", call("Finish", "{}", "b"))), call("tides", "{}", "c")]


@pytest.mark.parametrize(
  ("node", "detail"),
  [
    (3, "the record is 3, must be an object"),
    ({"node_type": "Action"}, "children is missing, must be a list"),
    ({"node_type": "Action", "children": BELOW}, "description is missing, must be text"),
    (call("tides", "{}", None, *BELOW), "observation is None, must be text"),
    (call("tides", "{}", "a", *BELOW, code="0"), "observation_code is '0', must be a whole number"),
  ],
)
def test_what_is_below_a_malformed_node_has_no_history(tmp_path, node, detail):
  bad, *below, good = found(tmp_path, node, call("tides", "{}", "fine"))
  assert bad.reason == "malformed" and detail in bad.detail and good.line["y"] == "fine"
  assert [f.reason for f in below] == ["no history"] * 3 * (BELOW[0]["description"] in str(node))


@pytest.mark.parametrize(
  ("text", "detail"),
  [
    ("{", "the file isn't JSON"),
    ("[]", "the record is [], must be an object"),
    ('{"answer_generation": {"function": []}, "tree": {}}', "tree is missing"),
    ('{"answer_generation": {"function": [{}]}}', "name is missing, must be text"),
  ],
)
def test_a_malformed_tree_is_named_and_the_others_are_read(tmp_path, text, detail):
  (tmp_path / "G1_answer__1.json").write_text(text)
  bad, good = found(tmp_path, call("tides", "{}", "fine"), name="G1_answer__2.json")
  assert (bad.where, bad.reason) == ("G1_answer__1.json", "malformed") and detail in bad.detail
  assert good.line["level"] == "G1"


def test_a_folder_without_answers_is_an_error(tmp_path):
  (tmp_path / "G1_query.json").write_text("[]")
  with pytest.raises(Absent, match="answer/G1_answer"):
    list(toolbench.read(tmp_path))
