"""Whole runs of a judge against a server on localhost."""

import json
import threading

import judge_server as js
import pytest

from swirl_jax.evaluation import judge_asking, judge_templates
from swirl_jax.evaluation.judge_asking import (
  JUDGED,
  LEFT,
  NO_ANSWER,
  NO_JUDGEMENT,
  REJECTED,
  UNJUDGED,
  Settings,
)
from swirl_jax.evaluation.judge_client import Patience
from swirl_jax.evaluation.judge_ledger import NAME, Account, Budget, Cache
from swirl_jax.evaluation.judge_templates import TEMPLATES


def run(server_or_url, predictions, folder, *, patience=js.PATIENCE, budget=None, template="state",
        progress=None, key=js.KEY, **settings):  # fmt: skip
  items = [p if isinstance(p, judge_asking.Item) else js.item(p) for p in predictions]
  return judge_asking.judge(
    items, js.endpoint(server_or_url, key), TEMPLATES[template], folder,
    settings=Settings(**settings), patience=patience,
    budget=Budget() if budget is None else budget, progress=progress)  # fmt: skip


def statuses(judged):
  return [outcome.status for outcome in judged.outcomes]


def scores(judged):
  return [outcome.score for outcome in judged.outcomes]


def test_scores_in_the_order_of_the_items_and_what_they_cost(tmp_path):
  wanted = [float(n) for n in (3, 7.5, 0, 10, 5, 1)]
  with js.serving({"7.5": [js.slow(0.1, js.scores(7.5))]}) as server:
    judged = run(server, list(map(str, wanted)), tmp_path,
                 budget=Budget(prompt_price=2.0, completion_price=10.0))  # fmt: skip
  assert scores(judged) == wanted and set(statuses(judged)) == {JUDGED} and judged.stopped is None
  assert judged.outcomes[0].reason == "as it should be"
  cost = judged.cost
  assert (cost["requests"], cost["retries"], cost["cache_hits"]) == (6, 0, 0)
  assert cost["run"] == {"prompt_tokens": 600, "completion_tokens": 120, "estimated_tokens": 0,
                         "money": pytest.approx(0.0024)}  # fmt: skip
  sent = server.log[0][3]
  assert sent["model"] == "judge-model" and sent["temperature"] == 0 and sent["max_tokens"] == 600
  assert sent["response_format"] == TEMPLATES["state"].response_format()


def test_the_request_can_be_changed(tmp_path):
  request = {"max_tokens": None, "temperature": None, "response_format": None, "seed": 3,
             "max_completion_tokens": 50}  # fmt: skip
  with js.serving() as server:
    run(server, ["1"], tmp_path, request=request)
  assert set(server.log[0][3]) == {"model", "messages", "seed", "max_completion_tokens"}


@pytest.mark.parametrize(
  ("request_", "what"),
  [
    ({"model": "other"}, "must leave out model"),
    ({"stream": True}, "must leave out"),
    ({"max_tokens": "many"}, "max_tokens is 'many', must be a whole number"),
    ({"max_tokens": None}, "a budget needs a limit"),
  ],
)
def test_requests_that_are_refused(tmp_path, request_, what):
  with pytest.raises(ValueError, match=what):
    run(js.nobody(), ["1"], tmp_path, request=request_, budget=Budget(tokens=10**6))


@pytest.mark.parametrize("field", ["asks", "threads", "failures"])
def test_settings_refuse(field):
  with pytest.raises(ValueError, match=f"{field} is 0, must be 1 or more"):
    Settings(**{field: 0})


def test_what_is_cached_is_not_asked_again(tmp_path):
  with js.serving() as server:
    first = run(server, ["1", "2", "3"], tmp_path)
    again = run(server, ["3", "1", "4"], tmp_path)
    assert sorted(server.asked) == ["1", "2", "3", "4"]
    assert scores(again) == [3, 1, 4] and again.outcomes[1] == first.outcomes[0]
    assert again.cost["cache_hits"] == 2 and again.cost["requests"] == 1
    assert again.cost["cache"]["prompt_tokens"] == 400
    run(server, ["1"], tmp_path, template="bytemorph")  # other questions
    run(server, ["1"], tmp_path, request={"seed": 1})
    run(server, [js.item("1", episode="f", level="hard")], tmp_path)  # the same question
  assert server.asked.count("1") == 3


def test_the_same_question_is_asked_once(tmp_path):
  with js.serving() as server:
    judged = run(server, ["4", "5", "4", "4"], tmp_path)
  assert scores(judged) == [4, 5, 4, 4] and sorted(server.asked) == ["4", "5"]
  assert judged.cost["cache_hits"] == 2


BAD = {
  "no JSON": js.says("Nine out of ten!"),
  "out of range": js.scores(11),
  "wrong type": js.scores("9"),
  "truncated": js.says('{"reason": "it goes on and', finish="length"),
  "empty": js.says(None, finish="content_filter"),
}


@pytest.mark.parametrize("bad", list(BAD))
def test_a_bad_answer_is_asked_for_again_with_the_reason(tmp_path, bad):
  with js.serving({"p": [BAD[bad], js.scores(9)]}) as server:
    judged = run(server, ["p"], tmp_path)
  assert scores(judged) == [9] and judged.cost["run"]["prompt_tokens"] == 200
  first, second = (body["messages"] for *_, body in server.log)
  assert second[: len(first)] == first
  if bad == "empty":
    assert second == first
  else:
    assert [m["role"] for m in second[len(first) :]] == ["assistant", "user"]
    assert "must be" in second[-1]["content"]


def test_of_a_long_bad_answer_the_beginning_is_repeated(tmp_path):
  said = "no " * 5000
  with js.serving({"p": [js.says(said), js.scores(2)]}) as server:
    assert scores(run(server, ["p"], tmp_path)) == [2]
  assert server.log[1][3]["messages"][-2] == {"role": "assistant", "content": said[:2000]}


@pytest.mark.parametrize("bad", list(BAD))
def test_only_bad_answers_leave_it_unjudged_and_no_score(tmp_path, bad):
  with js.serving({"p": [BAD[bad]]}) as server:
    judged = run(server, ["p", "10"], tmp_path, asks=2)
    assert statuses(judged) == [UNJUDGED, JUDGED] and judged.outcomes[0].score is None
    assert judged.outcomes[0].kind == NO_JUDGEMENT and "must be" in judged.outcomes[0].reason
    assert server.asked.count("p") == 2 and judged.stopped is None
    again = run(server, ["p", "10"], tmp_path, asks=2)
    assert again.outcomes == judged.outcomes and again.cost["requests"] == 0
    run(server, ["p"], tmp_path, asks=3)
  assert server.asked.count("p") == 3


def test_bad_answers_in_a_row_do_not_stop_a_run(tmp_path):
  with js.serving({f"p{n}": [BAD["no JSON"]] for n in range(8)}) as server:
    judged = run(server, [*(f"p{n}" for n in range(8)), "2"], tmp_path, asks=1, failures=2)
  assert statuses(judged) == [UNJUDGED] * 8 + [JUDGED]


def test_what_cannot_be_had_is_named_and_asked_for_the_next_time(tmp_path):
  steps = {"a": [js.status(500)] * 3 + [js.scores(1)], "b": [js.status(400)],
           "c": [js.hangs_up] * 3 + [js.scores(3)]}  # fmt: skip
  with js.serving(steps) as server:
    judged = run(server, ["5", "a", "b", "c"], tmp_path, threads=1)
    assert [o.kind for o in judged.outcomes] == [None, NO_ANSWER, REJECTED, NO_ANSWER]
    assert "status 500" in judged.outcomes[1].reason and "400" in judged.outcomes[2].reason
    assert judged.cost["retries"] == 4 and judged.stopped is None
    assert judged.cost["run"]["estimated_tokens"] > 3 * 600  # those that were sent and lost
    again = run(server, ["5", "a", "b", "c"], tmp_path, threads=1)
  assert [o.score for o in again.outcomes] == [5, 1, None, 3]
  assert server.asked.count("5") == 1 and server.asked.count("b") == 2


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_wrong_key_or_address_stops_the_run_at_once(tmp_path, code):
  with js.serving({"p": [js.status(code)]}) as server:
    judged = run(server, ["1", "2", "p", "3", "4", "5"], tmp_path, threads=1)
  assert f"{server.url}/chat/completions: status {code}" in judged.stopped
  assert js.KEY not in judged.stopped
  assert statuses(judged) == [JUDGED] * 2 + [LEFT] * 4 and server.asked == ["1", "2", "p"]


def test_an_answer_that_was_under_way_when_the_run_stopped_counts(tmp_path):
  both = threading.Barrier(2)

  def late(handler):
    both.wait(timeout=10)
    js.slow(0.2, js.scores(6))(handler)

  def refused(handler):
    both.wait(timeout=10)
    js.status(401)(handler)

  with js.serving({"late": [late], "refused": [refused]}) as server:
    judged = run(server, ["late", "refused", "1"], tmp_path, threads=2)
  assert scores(judged) == [6, None, None] and statuses(judged)[1:] == [LEFT, LEFT]
  assert "status 401" in judged.stopped


def test_a_question_that_the_end_of_the_run_left_unasked_is_no_failure(tmp_path):
  client = js.client(js.nobody())
  client.stop.set()
  with Cache(tmp_path) as cache:
    account = Account(Budget(), cache.total)
    asker = judge_asking._Judge(client, TEMPLATES["state"], cache, account, Settings())
    assert asker.outcome("key", js.item("1")).status == LEFT


def test_nothing_listens(tmp_path):
  judged = run(js.nobody(), list("123456789"), tmp_path, failures=2, threads=1)
  assert "2 failures in a row" in judged.stopped and "no connection" in judged.stopped
  assert statuses(judged).count(UNJUDGED) == 2 and statuses(judged).count(LEFT) == 7
  judged = run(js.nobody(), ["1"], tmp_path)
  assert judged.stopped.startswith("nothing was answered")


def test_failures_that_are_not_in_a_row_do_not_stop_a_run(tmp_path):
  steps = {f"p{n}": [js.status(500)] for n in range(3)}
  with js.serving(steps) as server:
    judged = run(server, ["1", "p0", "2", "p1", "3", "p2", "4"], tmp_path, threads=1, failures=3,
                 patience=Patience(tries=1))  # fmt: skip
  assert judged.stopped is None and scores(judged) == [1, None, 2, None, 3, None, 4]


def test_an_endpoint_that_rejects_everything_stops_the_run(tmp_path):
  said = b'{"error": {"message": "no such model"}}'
  steps = {str(n): [js.status(400, body=said)] for n in range(9)}
  with js.serving(steps) as server:
    judged = run(server, [str(n) for n in range(9)], tmp_path, threads=1)
  assert "status 400 (no such model)" in judged.stopped
  assert len(server.asked) == len(set(server.asked))


def test_what_it_rejects_after_good_answers_is_the_items_fault(tmp_path):
  steps = {f"p{n}": [js.status(400)] for n in range(6)}
  with js.serving(steps) as server:
    judged = run(server, ["1", *steps], tmp_path, threads=1)
    assert statuses(judged) == [JUDGED] + [UNJUDGED] * 6 and judged.stopped is None
    assert run(server, ["1", *steps], tmp_path, threads=1).outcomes == judged.outcomes


def test_slow_answers_are_lost_and_counted(tmp_path):
  with js.serving({"p": [js.slow(1.5, js.scores(1)), js.scores(2)]}) as server:
    judged = run(server, ["p"], tmp_path, patience=Patience(seconds=0.6, first=0.0))
  assert scores(judged) == [2] and judged.cost["retries"] == 1
  assert judged.cost["run"]["estimated_tokens"] > 600
  with Cache(tmp_path) as cache:
    assert sum(cache.total) == sum(judged.cost["run"][f"{n}_tokens"] for n in
                                   ("prompt", "completion"))  # fmt: skip


def test_usage_that_is_not_told_is_estimated(tmp_path):
  with js.serving({"p": [js.scores(2, usage=None)]}) as server:
    judged = run(server, ["p"], tmp_path)
  found = judged.cost["run"]
  assert found["estimated_tokens"] == found["prompt_tokens"] + found["completion_tokens"] > 600


def test_threads(tmp_path):
  gate = threading.Barrier(3)

  def together(handler):
    gate.wait(timeout=10)
    js.scores(1)(handler)

  names = [f"p{n}" for n in range(9)]
  with js.serving({name: [together] for name in names}) as server:
    run(server, names, tmp_path, threads=3)
  assert server.busiest == 3


def test_the_budget_of_tokens(tmp_path):
  # A request is estimated at about 500 + 50 and then found to cost 600 + 50.
  names = [f"p{n}" for n in range(20)]
  steps = {name: [js.scores(1, usage=(600, 50))] for name in names}
  with js.serving(steps) as server:
    judged = run(server, names, tmp_path, budget=Budget(tokens=7000), request={"max_tokens": 50})
    found = judged.cost["cache"]
    spent = found["prompt_tokens"] + found["completion_tokens"]
    assert spent == 650 * len(server.asked) and 7000 - 700 - 50 < spent <= 7000
    assert statuses(judged).count(JUDGED) == len(server.asked) and judged.stopped is None
    assert statuses(judged).count(LEFT) == 20 - len(server.asked)
    # the budget is the cache's, not the run's
    again = run(server, names, tmp_path, budget=Budget(tokens=7000), request={"max_tokens": 50})
    assert again.cost["requests"] == 0 and again.outcomes == judged.outcomes
    whole = run(server, names, tmp_path, budget=Budget(tokens=20_000), request={"max_tokens": 50})
  assert set(statuses(whole)) == {JUDGED} and len(server.asked) == len(set(server.asked)) == 20


def test_the_budget_of_money(tmp_path):
  names = [f"p{n}" for n in range(20)]
  steps = {name: [js.scores(1, usage=(600, 50))] for name in names}
  budget = Budget(money=0.02, prompt_price=2.0, completion_price=10.0)  # 0.0017 a request
  with js.serving(steps) as server:
    judged = run(server, names, tmp_path, budget=budget, request={"max_tokens": 50})
  assert 0.02 - 2 * 0.0017 < judged.cost["cache"]["money"] <= 0.02
  assert LEFT in statuses(judged)


def test_no_budget_no_request(tmp_path):
  judged = run(js.nobody(), ["1", "2"], tmp_path, budget=Budget(tokens=0))
  assert statuses(judged) == [LEFT, LEFT] and judged.cost["requests"] == 0


def test_two_runs_at_once(tmp_path):
  began, go_on = threading.Event(), threading.Event()

  def step(handler):
    began.set()
    go_on.wait(timeout=30)
    js.scores(1)(handler)

  with js.serving({"p": [step]}) as server:
    patience = {"patience": Patience(seconds=60.0)}
    first = threading.Thread(target=run, args=(server, ["p"], tmp_path), kwargs=patience)
    first.start()
    began.wait()
    with pytest.raises(ValueError, match="is in use by another run"):
      run(server, ["p"], tmp_path)
    go_on.set()
    first.join()
    assert scores(run(server, ["p"], tmp_path)) == [1]
  assert server.asked == ["p"]


def test_an_interrupt_keeps_the_answers_under_way(tmp_path):
  class Interrupt:
    def update(self, n, **_):
      if n:
        raise KeyboardInterrupt

  names = [f"p{n}" for n in range(12)]
  steps = {name: [js.slow(0.3, js.scores(4))] for name in names} | {"p0": [js.scores(3)]}
  with js.serving(steps) as server:
    with pytest.raises(KeyboardInterrupt):
      run(server, names, tmp_path, threads=4, progress=Interrupt())
    asked = set(server.asked)
    assert 1 < len(asked) < 12
    with Cache(tmp_path) as cache:
      assert len(cache._answers) == len(asked)
    assert set(scores(run(server, names, tmp_path))) == {3, 4}
  assert len(server.asked) == 12


def test_pictures(tmp_path):
  picture = judge_templates.image(b"png")
  item = js.item("6")._replace(x=[picture], y=[picture])
  with js.serving() as server:
    assert scores(run(server, [item], tmp_path, template="bytemorph")) == [6]
    assert scores(run(server, [item._replace(y=[judge_templates.image(b"other")])], tmp_path,
                      template="bytemorph")) == [6]  # fmt: skip
  assert [part["type"] for part in server.log[0][3]["messages"][1]["content"]] == [
    "text", "image_url", "text", "image_url", "text"]  # fmt: skip
  assert len(server.log) == 2


def test_the_key_is_in_no_file_and_no_answer(tmp_path):
  told = f"your key is {js.KEY}"
  steps = {
    "a": [js.scores(1, reason=told)],
    "b": [js.says(told), js.says(json.dumps({"score": told, "reason": told}))],
    "c": [js.status(500, body=json.dumps({"error": {"message": told}}).encode())],
    "d": [js.status(400, body=told.encode())],
    "e": [js.status(200, body=told.encode())],
    "f": [js.says(told, finish=told)],
    "g": [js.says('{"score": 1, "reason": "' + "".join(f"\\u{ord(c):04x}" for c in js.KEY) + '"}')],
    "h": [js.status(401, body=told.encode())],
  }
  with js.serving(steps) as server:
    judged = run(server, list(steps), tmp_path, failures=9, threads=1)
  assert len(judged.outcomes) == 8 and judged.stopped
  assert js.KEY not in repr(judged) and js.KEY not in (tmp_path / NAME).read_text()
  assert "[key]" in (tmp_path / NAME).read_text()
