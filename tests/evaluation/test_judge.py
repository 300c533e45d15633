"""Files of predictions, what is written about them, and the command: kills, budgets, the key."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import judge_server as js
import numpy as np
import pytest

from swirl_jax.evaluation import judge
from swirl_jax.evaluation.judge_asking import JUDGED, LEFT, NO_ANSWER, UNJUDGED, Judged, Outcome
from swirl_jax.evaluation.judge_ledger import NAME
from swirl_jax.evaluation.judge_templates import TEMPLATES

ROOT = Path(__file__).resolve().parents[2]
STATE = TEMPLATES["state"]


def line(prediction="5", **more):
  return {"x": "off", "z": "turn on", "y": "on", "prediction": prediction, **more}


def written(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


# -- the files -----------------------------------------------------------------------------------


def test_read_predictions(tmp_path):
  rows = [line("a", episode="e7", level="hard"), line("", episode=7), line("c {y}\n")]
  found = judge.read_predictions(written(tmp_path / "p.jsonl", rows), STATE)
  assert [i.prediction for i in found] == ["a", "", "c {y}\n"]
  assert [i.episode for i in found] == ["e7", "7", "line 3"]
  assert [i.level for i in found] == ["hard", "all", "all"]
  assert found[0][:3] == ("off", "turn on", "on")


@pytest.mark.parametrize(
  ("bad", "what"),
  [
    (b"{not json", "one JSON object in UTF-8"),
    (b"", "one JSON object in UTF-8"),
    (b'{"x": "\xff"}', "one JSON object in UTF-8"),
    (b"[" * 100_000, "one JSON object in UTF-8"),
    (b"[1, 2]", "the line is .1, 2., must be one JSON object"),
    (line(z=None), "z is None, must be text"),
    (line(y="  "), "y is '  ', must be text with a word in it"),
    (line(3), "prediction is 3, must be text"),
    (line(["a"]), "prediction is .*, must be text"),
    ({"x": "a", "z": "b", "y": "c"}, "prediction is missing, must be text or pictures"),
    ({"x": "a", "z": "b", "prediction": "c"}, "y is missing, must be text or pictures"),
    (line(x="<17> <3>"), "x is '<17> <3>', codes of a picture: it must be the picture itself"),
    (line("<0>"), "prediction is '<0>', codes of a picture"),
    (line(episodes="e"), "a field is 'episodes', must be one of x, z, y, prediction, episode"),
    (line(episode=None), "episode is None, must be text or a number"),
    (line(episode=True), "episode is True, must be text or a number"),
    (line(level=3), "level is 3, must be text"),
  ],
)
def test_a_bad_line_is_named(tmp_path, bad, what):
  raw = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
  good = json.dumps(line()).encode()
  path = tmp_path / "p.jsonl"
  path.write_bytes(b"\n".join([good, raw, good, raw, b""]))
  with pytest.raises(ValueError, match=rf"p\.jsonl, line 2: .*{what}.*1 more lines") as error:
    judge.read_predictions(path, STATE)
  assert len(str(error.value)) < 400


def test_files_that_are_absent_or_empty(tmp_path):
  with pytest.raises(ValueError, match=r"absent\.jsonl': No such file"):
    judge.read_predictions(tmp_path / "absent.jsonl", STATE)
  with pytest.raises(ValueError, match="the file is empty"):
    judge.read_predictions(written(tmp_path / "p.jsonl", []), STATE)


def score(value):
  return Outcome(JUDGED, value, "because")


def test_summary_by_hand():
  items = [js.item("p", episode, level) for episode, level in
           (("a", "easy"), ("a", "easy"), ("b", "easy"), ("c", "hard"), ("d", "none"))]  # fmt: skip
  outcomes = [score(7.5), score(2.25), score(4.0), Outcome(UNJUDGED, None, "busy", NO_ANSWER),
              Outcome(LEFT)]  # fmt: skip
  found = judge.summary(items, outcomes)
  row = found["all"]
  assert (row["judged"], row["unjudged"], row["left"], row["episodes"]) == (3, 1, 1, 2)
  assert row["score"] == pytest.approx((7.5 + 2.25 + 4) / 3)  # nothing counts as 0
  # Of two episodes a resample holds both, or one of them alone.
  assert row["score_low"] == pytest.approx(4.0) and row["score_high"] == pytest.approx(4.875)
  assert found["unjudged"] == {NO_ANSWER: [4]}
  assert found["by_level"]["easy"]["score"] == row["score"]
  for level, count in (("hard", UNJUDGED), ("none", LEFT)):
    empty = found["by_level"][level]
    assert empty[count] == 1 and empty["judged"] == empty["episodes"] == 0
    assert empty["score"] is empty["score_low"] is empty["score_high"] is None


def test_the_interval_is_over_episodes():
  rng = np.random.default_rng(0)
  level = rng.normal(5, 1, 30)
  items = [js.item("p", f"e{n}") for n in range(30) for _ in range(20)]
  outcomes = [score(level[n]) for n in range(30) for _ in range(20)]
  found = judge.summary(items, outcomes)["all"]
  spread = 1.96 * level.std() / np.sqrt(30)
  assert found["score_high"] - found["score_low"] == pytest.approx(2 * spread, rel=0.15)


def test_table():
  items = [js.item("p", "a", "easy"), js.item("p", "b", "hard")]
  shown = judge.table(judge.summary(items, [score(7.0), Outcome(LEFT)])).splitlines()
  assert [row.split()[0] for row in shown] == ["level", "all", "easy", "hard"]
  assert shown[1].split()[1:] == ["7.00", "7.00", "to", "7.00", "1", "0", "1", "1"]
  assert shown[3].split()[1:] == ["-", "-", "0", "0", "1", "0"]
  assert len({len(row) for row in shown}) == 1


def test_write(tmp_path):
  items = [js.item("p", "a"), js.item("q", "b", "hard")]
  outcomes = [score(7.0), Outcome(UNJUDGED, None, "busy", NO_ANSWER)]
  found = judge.write(tmp_path, items, Judged(outcomes, {"requests": 2}, None), {"model": "m"})
  assert json.loads((tmp_path / "summary.json").read_text()) == found
  assert found["model"] == "m" and found["cost"] == {"requests": 2} and found["stopped"] is None
  rows = [json.loads(row) for row in (tmp_path / "judged.jsonl").read_text().splitlines()]
  assert rows == [
    {"line": 1, "episode": "a", "level": "all", "status": "judged", "score": 7.0,
     "reason": "because", "kind": None},
    {"line": 2, "episode": "b", "level": "hard", "status": "unjudged", "score": None,
     "reason": "busy", "kind": "no answer"},
  ]  # fmt: skip
  assert sorted(p.name for p in tmp_path.iterdir()) == ["judged.jsonl", "summary.json"]


@pytest.mark.parametrize("given", ["{max_tokens: 3}", "[1]", ""])
def test_more_fields_of_the_request_are_an_object(given):
  with pytest.raises(ValueError, match="request is .*, must be a JSON object"):
    judge._request(given)


# -- the command ---------------------------------------------------------------------------------


def command(url, predictions, out, *args, key=js.KEY):
  given = [f"--{name}={value}" for name, value in
           (("predictions", predictions), ("out", out), ("template", "state"))]  # fmt: skip
  environment = os.environ | {"SWIRL_JUDGE_URL": url, "SWIRL_JUDGE_MODEL": "judge-model",
                              "SWIRL_JUDGE_KEY": key}  # fmt: skip
  return subprocess.Popen(
    [sys.executable, "-m", "swirl_jax.evaluation.judge", *given, *args], cwd=ROOT,
    env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def finished(process):
  out, err = process.communicate(timeout=120)
  return process.returncode, out, err


@pytest.mark.multiprocess
def test_killed_in_the_middle_and_resumed(tmp_path):
  rows = [line(f"p{n}", episode=n // 2, level="ab"[n % 2]) for n in range(12)]
  path, out = written(tmp_path / "p.jsonl", rows), tmp_path / "out"
  blocked = [js.slow(20.0, js.scores(0))]
  steps = {f"p{n}": [js.scores(n % 11)] if n < 5 else blocked for n in range(12)}
  with js.serving(steps) as server:
    process = command(server.url, path, out, "--threads=2")
    end = time.monotonic() + 60
    while len(server.asked) < 7 and time.monotonic() < end:
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    finished(process)
    cached = (out / NAME).read_bytes()
    assert cached.count(b"\n") == 5 and not (out / "summary.json").exists()
    (out / NAME).write_bytes(cached + b'{"key": "to')  # as a kill in mid-line leaves it
    before = len(server.log)
    server.steps = {f"p{n}": [js.scores(n % 11)] for n in range(12)}
    code, shown, err = finished(command(server.url, path, out, "--threads=2"))
    resumed = server.asked[before:]
  assert code == 0, err
  assert sorted(resumed) == sorted(f"p{n}" for n in range(5, 12))  # each once, none of the cached
  found = json.loads((out / "summary.json").read_text())
  assert found["all"]["judged"] == 12 and found["all"]["episodes"] == 6
  assert found["all"]["score"] == pytest.approx(np.mean([n % 11 for n in range(12)]))
  assert found["by_level"]["a"]["judged"] == 6 and found["scale"] == [0, 10]
  assert found["cost"]["requests"] == 7 and found["cost"]["cache_hits"] == 5
  assert "7 requests (0 retries), 5 from the cache; 700 prompt and 140 completion tokens" in shown
  for text in (shown, err, *(p.read_text() for p in [*out.iterdir()])):
    assert js.KEY not in text


@pytest.mark.multiprocess
def test_the_budget_and_what_is_unjudged_are_told(tmp_path):
  rows = [line(f"p{n}") for n in range(9)]
  path, out = written(tmp_path / "p.jsonl", rows), tmp_path / "out"
  steps = {f"p{n}": [js.scores(4, usage=(500, 100))] for n in range(9)}
  steps["p1"] = [js.says(f"no, and your key is {js.KEY}", usage=(500, 100))]
  args = ("--budget_tokens=4000", "--prompt_price=2", "--completion_price=10", "--asks=2",
          "--threads=1", "--request", '{"max_tokens": 100}')  # fmt: skip
  with js.serving(steps) as server:
    code, shown, err = finished(command(server.url, path, out, *args))
  assert code == 0, err
  found = json.loads((out / "summary.json").read_text())
  assert (found["all"]["judged"], found["all"]["unjudged"], found["all"]["left"]) == (4, 1, 4)
  assert "unjudged, no judgement: 1 (lines 2)" in shown
  assert "The budget is reached, 4 left." in shown
  assert "; 0.0120 at the given prices" in shown
  assert found["cost"]["run"]["money"] == pytest.approx(6 * 0.002)
  assert found["cost"]["budget"]["tokens"] == 4000
  assert found["request"] == {"temperature": 0, "max_tokens": 100}
  for text in (shown, err, *(p.read_text() for p in out.iterdir())):
    assert js.KEY not in text


@pytest.mark.multiprocess
def test_a_refused_key_and_bad_settings_end_with_one_error(tmp_path):
  path, out = written(tmp_path / "p.jsonl", [line("1"), line("2")]), tmp_path / "out"
  refuses = [js.status(401, body=f"no such key: {js.KEY}".encode())]
  with js.serving({"1": refuses, "2": refuses}) as server:
    process = command(server.url, path, out)
    other = command(f"http://me:{js.KEY}@127.0.0.1/v1", path, tmp_path / "other")
    code, shown, err = finished(process)
    other_code, other_shown, other_err = finished(other)
    no_folder_code, _, no_folder_err = finished(command(server.url, path, path))
  assert code == 1 and f"Stopped, 2 left: {server.url}/chat/completions: status 401" in err
  assert json.loads((out / "summary.json").read_text())["all"]["left"] == 2
  assert other_code == 1 and "SWIRL_JUDGE_URL must be http(s)://" in other_err
  assert no_folder_code == 1 and f"out = '{path}': allowed is a folder" in no_folder_err
  assert "Traceback" not in no_folder_err
  for text in (shown, err, other_shown, other_err, *(p.read_text() for p in out.iterdir())):
    assert js.KEY not in text and "Traceback" not in text
  assert not (tmp_path / "other").exists()
