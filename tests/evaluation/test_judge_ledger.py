"""The cache that outlives a kill, and the budget."""

import concurrent.futures
import json
import threading
import time

import pytest

from swirl_jax.evaluation.judge_ledger import (
  NAME,
  Account,
  Budget,
  Cache,
  Exhausted,
  Tokens,
  prompt_tokens,
)

ANSWER = {"score": 7.5, "reason": "good", "prompt": 100, "completion": 20, "estimated": False}
REFUSED = {"refused": "no", "answer": "?", "prompt": 10, "completion": 2, "estimated": False}
LOST = {"lost": "no answer", "prompt": 5, "completion": 1, "estimated": True}


def test_rows_are_there_the_next_time(tmp_path):
  with Cache(tmp_path / "new" / "folder") as cache:
    for row in ({"key": "a", **REFUSED}, {"key": "a", **ANSWER}, {"key": "b", **LOST}):
      cache.write(row)
    assert cache.answer("a") == {"score": 7.5, "reason": "good"}
  with Cache(tmp_path / "new" / "folder") as cache:
    assert cache.answer("a") == {"score": 7.5, "reason": "good"} and cache.answer("b") is None
    assert [row["answer"] for row in cache.refused("a")] == ["?"] and cache.refused("b") == []
    assert cache.total == Tokens(115, 23)


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_last_line_is_cut_and_written_anew(tmp_path, cut):
  with Cache(tmp_path) as cache:
    cache.write({"key": "a", **ANSWER})
    cache.write({"key": "b", **ANSWER})
  path = tmp_path / NAME
  whole = path.read_bytes()
  path.write_bytes(whole[:-cut])
  with Cache(tmp_path) as cache:
    assert cache.answer("a") and cache.answer("b") is None
    cache.write({"key": "b", **ANSWER})
  assert path.read_bytes() == whole


@pytest.mark.parametrize(
  "line",
  [b"{not json}", b"[1]", b"\xff", b'{"key": "a"}', b'{"key": "a", "prompt": 1, "completion": 1}',
   json.dumps({"key": "a", **ANSWER, "prompt": -1}).encode(),
   json.dumps({"key": "a", **ANSWER, "score": None}).encode()],
)  # fmt: skip
def test_a_bad_line_in_the_middle_is_named(tmp_path, line):
  row = json.dumps({"key": "a", **ANSWER}).encode()
  (tmp_path / NAME).write_bytes(b"\n".join([row, line, row, b""]))
  with pytest.raises(ValueError, match=f"{NAME}, line 2: found"):
    Cache(tmp_path)
  (tmp_path / NAME).write_bytes(row + b"\n")
  Cache(tmp_path).close()  # and isn't held


def test_one_run_at_a_time(tmp_path):
  with Cache(tmp_path):
    with pytest.raises(ValueError, match="is in use by another run"):
      Cache(tmp_path)
  Cache(tmp_path).close()


def test_threads_write_whole_lines(tmp_path):
  with Cache(tmp_path) as cache, concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda n: cache.write({"key": str(n), **ANSWER}), range(64)))
  with Cache(tmp_path) as cache:
    assert all(cache.answer(str(n)) for n in range(64)) and cache.total == Tokens(6400, 1280)


def test_a_full_disk_leaves_no_torn_line(tmp_path, monkeypatch):
  with Cache(tmp_path) as cache:
    cache.write({"key": "a", **ANSWER})
    file, before = cache._file, (tmp_path / NAME).read_bytes()

    class Full:
      fileno = file.fileno

      def write(self, line):
        file.write(line[:5])
        raise OSError(28, "No space left on device")

    cache._file = Full()
    with pytest.raises(OSError, match="No space"):
      cache.write({"key": "b", **ANSWER})
    cache._file = file
    assert (tmp_path / NAME).read_bytes() == before and cache.answer("b") is None


def test_budget_by_hand():
  priced = Budget(money=2.0, prompt_price=3.0, completion_price=15.0)
  assert priced.cost(Tokens(100_000, 20_000)) == pytest.approx(0.6)
  assert priced.covers(Tokens(666_666, 0)) and not priced.covers(Tokens(666_667, 0))
  both = Budget(1000, 2.0, 3.0, 15.0)
  assert both.covers(Tokens(600, 400)) and not both.covers(Tokens(600, 401))
  assert Budget().covers(Tokens(10**12, 10**12)) and Budget().cost(Tokens(1, 1)) is None


@pytest.mark.parametrize(
  ("fields", "what"),
  [
    ({"money": 1.0}, "needs both prices"),
    ({"prompt_price": 1.0}, "one price"),
    ({"completion_price": 1.0, "money": 1.0}, "one price"),
    ({"tokens": -1}, "tokens is -1"),
    ({"money": float("nan"), "prompt_price": 1.0, "completion_price": 1.0}, "money is nan"),
  ],
)
def test_budgets_that_are_refused(fields, what):
  with pytest.raises(ValueError, match=what):
    Budget(**fields)


def settle(account, aside, cost, prompt=100.0):
  account.settle(aside, cost, estimated=False, prompt=prompt)


def test_nothing_is_set_aside_beyond_the_budget():
  account = Account(Budget(tokens=350), Tokens(40, 10))
  first = account.set_aside(99, 50)
  assert first == Tokens(100, 50)
  second = account.set_aside(99, 50)  # 50 + 150 + 150 = 350
  settle(account, first, Tokens(90, 20))
  settle(account, second, Tokens(90, 20))  # 270 are spent
  with pytest.raises(Exhausted):
    account.set_aside(99, 50)
  with pytest.raises(Exhausted):  # closed, though this would fit
    account.set_aside(1, 1)
  assert account.run == Tokens(180, 40) and account.requests == 2


def test_a_request_waits_for_those_under_way():
  account = Account(Budget(tokens=250), Tokens())
  first = account.set_aside(99, 50)
  entered = threading.Event()

  def second():
    entered.set()
    return account.set_aside(99, 50)

  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pending = pool.submit(second)
    entered.wait()
    time.sleep(0.05)
    assert not pending.done()
    settle(account, first, Tokens(60, 10))
    assert pending.result(timeout=5) == Tokens(100, 50)


def test_estimates_learn_from_the_endpoint():
  account = Account(Budget(tokens=10_000), Tokens())
  settle(account, account.set_aside(100, 0), Tokens(250, 5))
  assert account.set_aside(100, 0) == Tokens(251, 0)
  account.settle(Tokens(251, 0), Tokens(251, 7), estimated=True, prompt=1.0)
  assert account.estimated == 258 and account.set_aside(100, 0) == Tokens(251, 0)


def test_prompt_tokens():
  message = {"role": "user", "content": "a" * 300}
  one = prompt_tokens({"messages": [message]})
  assert 100 <= one < 120
  assert prompt_tokens({"messages": [message, message]}) == pytest.approx(2 * one, abs=1)
  parts = [
    {"type": "text", "text": "a" * 300},
    {"type": "image_url", "image_url": {"url": "d" * 9}},
  ]
  picture = prompt_tokens({"messages": [{"role": "user", "content": parts}]}) - one
  assert 500 < picture < 2000
