"""WorldPrediction: steps that chain, plans to choose from, and the number of the first."""

import copy
import json

import pytest

from swirl_jax.data.official import __main__ as command
from swirl_jax.data.official import videos
from tests.data.official import drawn

pytest.importorskip("av")

# Seconds in a video whose grey is 100 a second.
SEGMENTS = {"a": (0.2, 0.5, "cut"), "b": (0.6, 1.0, "stir"), "c": (1.1, 1.5, "pour"),
            "d": (1.6, 1.8, "wash")}  # fmt: skip


def segment(uid, **fields):
  start, end, label = SEGMENTS[uid]
  return {"video": "v.mkv", "segment_start_time": start, "segment_end_time": end,
          "action_label": label, **fields}  # fmt: skip


def sample(seen=("a", "b"), candidates=(("c", "b"), ("a", "b"), ("a", "d")), truth=1):
  return {
    "states": {"segment_uid": "s"},
    "ground_truth": truth,
    "candidates": [list(ids) for ids in candidates],
    "action_segments": {uid: segment(uid) for uid in SEGMENTS},
    "original_segments": [{"segment_uid": uid, **segment(uid)} for uid in seen],
  }


@pytest.fixture
def folder(tmp_path):
  drawn.video(tmp_path / "in" / "videos" / "COIN" / "v.mkv")
  return tmp_path / "in"


def converted(folder, index_base=0, **samples):
  (folder / "plans.json").write_text(json.dumps({"COIN": samples}))
  out = folder.parent / "w.jsonl"
  return drawn.converted("worldprediction", folder, out, index_base=index_base)


def greys(folder, *paths):
  return [drawn.grey(folder.parent / path) for path in paths]


def test_steps_are_an_episode_whose_turns_chain(folder):
  (first, second), _, left, _ = converted(folder, one=sample())
  assert (first["z"], second["z"]) == ("cut", "stir") and first["y"] == second["x"]
  assert greys(folder, first["x"], first["y"], second["y"]) == [20, 50, 100]
  assert first | {"turn": 1, "z": "stir", "x": first["y"], "y": second["y"]} == second
  assert (first["episode"], first["level"], first["split"], first["turn"]) == (
    "plans.json, COIN, one", "COIN", "test", 0)  # fmt: skip
  assert not left


def test_samples_may_share_steps(folder):
  found, *_ = converted(folder, one=sample(), two=sample(("a", "b", "c")))
  assert [(n["episode"].rpartition(" ")[2], n["turn"]) for n in found] == [
    ("one", 0), ("one", 1), ("two", 0), ("two", 1), ("two", 2)]  # fmt: skip
  assert found[0]["y"] == found[2]["y"]


def test_plans_and_the_states_that_they_lead_to(folder):
  _, sets, *_ = converted(folder, one=sample())
  (plan,) = sets["actions"]
  assert plan["candidates"] == [["pour", "stir"], ["cut", "stir"], ["cut", "wash"]]
  assert plan["truth"] == 1 and plan["task"] == "COIN" and plan["where"] == "plans.json, COIN, one"
  assert greys(folder, plan["x"], plan["y"]) == [20, 100]
  first, second = sets["candidates"]
  assert [(n["z"], n["truth"]) for n in (first, second)] == [("cut", 1), ("stir", 0)]
  assert greys(folder, first["x"], *first["candidates"]) == [20, 150, 50]
  assert greys(folder, second["x"], *second["candidates"]) == [50, 100, 180]
  assert second["where"] == "plans.json, COIN, one, step 2"


@pytest.mark.parametrize(
  ("index_base", "truth", "right"), [(0, 0, 0), (0, 2, 2), (1, 1, 0), (1, 3, 2)]
)
def test_ground_truth_counts_from_the_index_base(folder, index_base, truth, right):
  plans = (("a", "b"), ("c", "b"), ("a", "d"))
  _, sets, left, _ = converted(folder, index_base, one=sample(plans[right], plans, truth))
  assert sets["actions"][0]["truth"] == right and not left


def test_another_index_base_than_the_files_is_found_out(folder):
  right = sample(truth=2, candidates=(("c", "b"), ("a", "b"), ("a", "d")))  # counted from 1
  outside = sample(seen=("a", "d"), truth=3)
  found, sets, left, counts = converted(folder, 0, one=right, two=outside)
  assert len(found) == 4 and not sets["actions"] and not sets["candidates"]
  assert left == {"another index base": 1, "malformed": 1}
  first = {reason: n["first"][0] for reason, n in counts["left_out"].items()}
  assert first == {
    "another index base": "plans.json, COIN, one, candidates: ground_truth is 2, but what was seen "
    "is candidate 1",
    "malformed": "plans.json, COIN, two, candidates: ground_truth is 3, must be from 0 to 2, with "
    "this index base",
  }
  assert counts["index_base"] == 0
  _, sets, left, _ = converted(folder, 1, one=right, two=outside)
  assert [n["truth"] for n in sets["actions"]] == [1, 2]
  assert left == {"duplicate": 1}  # both begin with the same step, among the same


def test_a_ground_truth_below_the_index_base_is_no_plan(folder):
  """Not the last one, though that is what was seen."""
  plans = (("c", "b"), ("a", "d"), ("a", "b"))
  found, sets, left, counts = converted(folder, 1, one=sample(candidates=plans, truth=0))
  assert len(found) == 2 and not sets["actions"] and not sets["candidates"]
  assert left == {"malformed": 1}
  (said,) = counts["left_out"]["malformed"]["first"]
  assert said.endswith("ground_truth is 0, must be from 1 to 3, with this index base")


def test_a_shorter_plan_has_no_state_at_a_later_step(folder):
  _, sets, left, _ = converted(folder, one=sample(candidates=(("c",), ("a", "b"), ("a", "d"))))
  first, second = sets["candidates"]
  assert greys(folder, *first["candidates"]) == [150, 50]
  assert greys(folder, *second["candidates"]) == [100, 180]
  assert sets["actions"][0]["candidates"][0] == ["pour"] and not left


@pytest.mark.parametrize("place", ["videos/COIN", "COIN", "videos", ""])
def test_where_a_video_may_be(folder, place):
  (folder / place).mkdir(exist_ok=True)
  (folder / "videos" / "COIN" / "v.mkv").rename(folder / place / "v.mkv")
  found, _, left, _ = converted(folder, one=sample())
  assert len(found) == 2 and not left


@pytest.mark.parametrize("given", [{}, {"index_base": 2}, {"index_base": None}])
def test_the_index_base_is_asked_for(folder, given):
  with pytest.raises(ValueError, match="needs --index_base=0 or --index_base=1"):
    command.run("worldprediction", str(folder), str(folder.parent / "w.jsonl"), **given)


def broken(change):
  found = copy.deepcopy(sample())
  change(found)
  return found


@pytest.mark.parametrize(
  ("change", "detail"),
  [
    (lambda s: s.pop("original_segments"), "one: original_segments is missing, must be a list"),
    (lambda s: s.update(original_segments=[]), "one: original_segments is [], must be one or more"),
    (lambda s: s["original_segments"][0].pop("segment_uid"), "segment_uid is missing, must be"),
    (lambda s: s["original_segments"][0].update(segment_end_time=0.1),
     "segment_end_time of a is 0.1, must be after its start, 0.2"),
    (lambda s: s["original_segments"][0].update(segment_end_time=0.2),
     "segment_end_time of a is 0.2, must be after its start, 0.2"),
    (lambda s: s.update(ground_truth=True), "ground_truth is True, must be a whole number"),
    (lambda s: s["original_segments"][0].update(segment_start_time="1"),
     "segment_start_time of a is '1', must be seconds, 0 or more"),
    (lambda s: s["original_segments"][1].update(action_label=" "),
     "action_label of b is ' ', must be text with a word in it"),
    (lambda s: s.pop("ground_truth"), "candidates: ground_truth is missing, must be a whole"),
    (lambda s: s.update(ground_truth="1"), "ground_truth is '1', must be a whole number"),
    (lambda s: s["candidates"].append([]), "candidate 4 is [], must be a list of segments' ids"),
    (lambda s: s["candidates"][0].append("x"), "candidate 1 is 'x', must be an id in"),
    (lambda s: s["action_segments"].update(c=3), "segment_start_time of c is None, must be"),
    (lambda s: s.update(candidates=[["a", "b"]]), "must be two or more"),
  ],
)  # fmt: skip
def test_what_is_no_sample_is_counted(folder, change, detail):
  found, sets, left, counts = converted(folder, one=broken(change), two=sample())
  assert left == {"malformed": 1} and len(sets["actions"]) == 1 and len(sets["candidates"]) == 2
  (said,) = counts["left_out"]["malformed"]["first"]
  assert said.startswith("plans.json, COIN, one") and detail in said
  assert len(found) == (4 if ", candidates" in said else 2)


def test_videos_that_are_missing_or_broken_leave_the_rest(folder):
  (folder / "videos" / "COIN" / "bad.mkv").write_text("no video")
  away, bad, late, long = (copy.deepcopy(sample()) for _ in range(4))
  away["original_segments"][1]["video"] = "away.mkv"
  long["original_segments"][1]["video"] = "a" * 300
  bad["action_segments"]["d"]["video"] = "bad.mkv"
  late["original_segments"][1]["segment_end_time"] = 60
  found, sets, left, counts = converted(folder, away=away, bad=bad, late=late, long=long)
  assert [(n["episode"].rpartition(" ")[2], n["turn"]) for n in found] == [
    ("away", 0), ("bad", 0), ("bad", 1), ("late", 0), ("long", 0)]  # fmt: skip
  assert [n["where"].rpartition(" ")[2] for n in sets["actions"]] == ["bad"]
  # A step's set doesn't know of the sample's own video: the four ask the same of it.
  assert left == {"missing video": 4, "undecodable video": 1, "time beyond the video": 2,
                  "duplicate": 5}  # fmt: skip
  assert counts["left_out"]["missing video"]["first"][0] == (
    "plans.json, COIN, away, step 2: 'COIN/away.mkv'"
  )


def test_a_plan_that_reads_like_the_right_one_is_no_choice(folder):
  same = broken(lambda s: s["action_segments"]["c"].update(action_label="cut"))
  _, sets, left, _ = converted(folder, one=same)
  assert not sets["actions"] and left == {"no choice": 1}


@pytest.mark.parametrize(
  ("text", "detail"),
  [
    ("{", "plans.json: the file isn't JSON"),
    ("[]", "plans.json: the file is [], must be an object of data sets"),
    ('{"COIN": 3}', "plans.json, COIN: 3, must be an object of samples"),
    ('{"COIN": {"a": 1, "a": 2}}', "plans.json: the file has 'a' 2 times, must have it once"),
    ('{"COIN": {"a": 1}}', "plans.json, COIN, a: the record is 1, must be an object"),
  ],
)
def test_a_file_that_is_none(folder, text, detail):
  (folder / "plans.json").write_text(text)
  (folder / "more.json").write_text(json.dumps({"COIN": {"one": sample()}}))
  out = folder.parent / "w.jsonl"
  _, _, left, counts = drawn.converted("worldprediction", folder, out, index_base=0)
  assert left == {"malformed": 1}
  assert counts["left_out"]["malformed"]["first"][0].startswith(detail)


def test_a_second_run_opens_no_video(folder, monkeypatch):
  before = converted(folder, one=sample())
  monkeypatch.setattr(videos, "_opened", None)
  assert converted(folder, one=sample()) == before
