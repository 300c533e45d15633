"""What a judge has answered and what it has cost: a file that outlives a kill, and a budget.

The file is the cache and the account in one: a JSON object a line, appended and flushed to the disk
as the answer comes, so that nothing is paid for twice.

    {"key", "score", "reason", "prompt", "completion", "estimated"}    an answer
    {"key", "refused", "answer", "prompt", "completion", "estimated"}  one that is no judgement
    {"key", "lost", "prompt", "completion", "estimated"}               none came; perhaps charged

`prompt` and `completion` are tokens: the endpoint's numbers, or ours if it gave none (estimated).
"""

import dataclasses
import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

NAME = "judge_cache.jsonl"

_BYTES = 3.0  # of text to a token, before the endpoint has told its own count
_MESSAGE = 8  # tokens around a message
_IMAGE = 1100  # tokens of a picture
_COUNTS = ("prompt", "completion")


class Tokens(NamedTuple):
  prompt: int = 0
  completion: int = 0

  def plus(self, other: "Tokens") -> "Tokens":
    return Tokens(self.prompt + other.prompt, self.completion + other.completion)

  def minus(self, other: "Tokens") -> "Tokens":
    return Tokens(self.prompt - other.prompt, self.completion - other.completion)


class Cache:
  """The file judge_cache.jsonl of a folder, for one process at a time; safe for its threads."""

  def __init__(self, folder: str | os.PathLike):
    self.path = Path(folder) / NAME
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self._file = open(self.path, "a+b", buffering=0)
    self._lock = threading.Lock()
    self._answers: dict[str, dict[str, Any]] = {}
    self._refused: dict[str, list[dict[str, Any]]] = {}
    self.total = Tokens()
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a kill ends it too
      self._size = self._read()
    except BlockingIOError:
      self._file.close()
      raise ValueError(f"{self.path} is in use by another run: allowed is one at a time") from None
    except BaseException:
      self._file.close()
      raise

  def __enter__(self) -> "Cache":
    return self

  def __exit__(self, *_):
    self.close()

  def close(self) -> None:
    self._file.close()

  def answer(self, key: str) -> dict[str, Any] | None:
    return self._answers.get(key)

  def refused(self, key: str) -> list[dict[str, Any]]:
    """The refused answers to a question, the oldest first."""
    return self._refused.get(key, [])

  def write(self, row: Mapping[str, Any]) -> None:
    line = json.dumps(row, allow_nan=False).encode("ascii") + b"\n"
    with self._lock:
      try:
        if self._file.write(line) != len(line):
          raise OSError(f"{self.path}: a line was written in part")
        os.fsync(self._file.fileno())
      except OSError:
        os.ftruncate(self._file.fileno(), self._size)  # no torn line but the last
        raise
      self._size += len(line)
      self._take(dict(row))

  def _read(self) -> int:
    """Takes the whole lines, cuts a torn last one, and returns how many bytes they are."""
    size = 0
    with open(self.path, "rb") as file:
      for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
          break  # only the last can lack its end
        try:
          self._take(json.loads(line))
        except (ValueError, LookupError, TypeError):
          raise ValueError(
            f"{self.path}, line {number}: found {line[:60]!r}, must be a row of this cache (only "
            "the last may be torn). Delete the line to go on; its answer is then asked for again."
          ) from None
        size += len(line)
    os.ftruncate(self._file.fileno(), size)
    return size

  def _take(self, row: dict[str, Any]) -> None:
    tokens = Tokens(*(row[name] for name in _COUNTS))
    if not all(type(n) is int and n >= 0 for n in tokens):
      raise TypeError
    if "score" in row:
      self._answers[row["key"]] = {"score": float(row["score"]), "reason": row["reason"]}
    elif "refused" in row:
      self._refused.setdefault(row["key"], []).append(row)
    elif "lost" not in row:
      raise LookupError
    self.total = self.total.plus(tokens)


@dataclasses.dataclass(frozen=True)
class Budget:
  """The most that a cache may come to: tokens, and money at prices per million tokens."""

  tokens: int | None = None
  money: float | None = None
  prompt_price: float | None = None
  completion_price: float | None = None

  def __post_init__(self):
    for name in ("tokens", "money", "prompt_price", "completion_price"):
      value = getattr(self, name)
      if value is not None and not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}, must be 0 or more, and finite")
    if (self.prompt_price is None) != (self.completion_price is None):
      raise ValueError("one price is given: allowed are both, prompt and completion, or neither")
    if self.money is not None and self.prompt_price is None:
      raise ValueError("a budget of money needs both prices of a million tokens")

  @property
  def limited(self) -> bool:
    return self.tokens is not None or self.money is not None

  def cost(self, spent: Tokens) -> float | None:
    """Money; None without prices."""
    if self.prompt_price is None:
      return None
    return (spent.prompt * self.prompt_price + spent.completion * self.completion_price) / 1e6

  def covers(self, spent: Tokens) -> bool:
    return (self.tokens is None or sum(spent) <= self.tokens) and (
      self.money is None or self.cost(spent) <= self.money
    )


class Exhausted(Exception):
  """The next request would, by its estimate, exceed the budget."""


class Account:
  """Sets tokens aside for each request before it is sent; safe for several threads.

  A request that doesn't fit waits for those under way, which may cost less than was set aside; when
  there are none, the account is closed. Estimates of prompts are scaled by the largest ratio of the
  endpoint's counts to ours so far.
  """

  def __init__(self, budget: Budget, spent: Tokens):
    self.budget = budget
    self.requests = self.estimated = 0
    self.run = Tokens()  # spent since the account was opened
    self._before = spent
    self._aside, self._pending = Tokens(), 0
    self._ratio, self._closed = 1.0, False
    self._changed = threading.Condition()

  def set_aside(self, prompt: float, completion: int) -> Tokens:
    """What the request may cost. Raises Exhausted."""
    with self._changed:
      while True:
        wanted = Tokens(int(prompt * self._ratio) + 1, completion)
        if self._closed:
          raise Exhausted
        if self.budget.covers(self._before.plus(self.run).plus(self._aside).plus(wanted)):
          self._aside, self._pending = self._aside.plus(wanted), self._pending + 1
          self.requests += 1
          return wanted
        if not self._pending:
          self._closed = True
          self._changed.notify_all()
          raise Exhausted
        self._changed.wait()

  def settle(self, aside: Tokens, cost: Tokens, *, estimated: bool, prompt: float) -> None:
    """What the request did cost; `prompt` is the unscaled estimate that it was set aside with."""
    with self._changed:
      self._aside, self._pending = self._aside.minus(aside), self._pending - 1
      self.run = self.run.plus(cost)
      if estimated:
        self.estimated += sum(cost)
      elif cost.prompt:
        self._ratio = max(self._ratio, cost.prompt / prompt)
      self._changed.notify_all()


def prompt_tokens(body: Mapping[str, Any]) -> float:
  """An estimate of a request's prompt: its texts, its schema and its pictures."""
  total = len(json.dumps(body.get("response_format", {}))) / _BYTES
  for message in body["messages"]:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for part in parts:
      text = part["type"] == "text"
      total += len(part["text"].encode("utf-8", "replace")) / _BYTES if text else _IMAGE
    total += _MESSAGE
  return total
