"""Asks a judge about predictions: each question once, again where the answer is no judgement.

    judge(items, endpoint, template, folder, *, settings, patience, budget, progress=None) -> Judged

Every item ends as one of three: judged; unjudged, with the reason (its answers were no judgements,
or the endpoint gave none); or left, where the budget or the endpoint ended the run before it.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from swirl_jax import metrics
from swirl_jax.evaluation.judge_client import (
  Client,
  Endpoint,
  Patience,
  Rejected,
  Reply,
  Stopped,
  Unanswered,
  Unusable,
)
from swirl_jax.evaluation.judge_ledger import (
  Account,
  Budget,
  Cache,
  Exhausted,
  Tokens,
  prompt_tokens,
)
from swirl_jax.evaluation.judge_templates import Content, Template

# What is sent beside model and messages; `Settings.request` adds, replaces or (null) removes.
REQUEST = {"temperature": 0, "max_tokens": 600}
_LIMITS = ("max_tokens", "max_completion_tokens")  # of an answer, whichever the endpoint knows
_OURS = ("model", "messages", "stream", "n")
_REPEATED = 2000  # characters of a refused answer that are shown to the judge again

JUDGED, UNJUDGED, LEFT = "judged", "unjudged", "left"
NO_JUDGEMENT, REJECTED, NO_ANSWER = "no judgement", "rejected", "no answer"  # kinds of UNJUDGED


class Item(NamedTuple):
  """A prediction to judge; the four fields are text or, with pictures, parts of a message. None is
  what a template can do without.
  """

  x: Content
  z: Content
  y: Content | None
  prediction: Content
  episode: str
  level: str = "all"


class Outcome(NamedTuple):
  """kind and reason: why it is unjudged; or, of the judged, None and the judge's reason."""

  status: str
  score: float | None = None
  reason: str | None = None
  kind: str | None = None


class Judged(NamedTuple):
  """An outcome for each item, in their order; what they cost; why the run stopped early, if it did.

  The end of the budget is no such reason.
  """

  outcomes: list[Outcome]
  cost: dict[str, Any]
  stopped: str | None


@dataclasses.dataclass(frozen=True)
class Settings:
  """asks: how often one thing is asked, at most, before it is unjudged; failures: after so many
  items in a row to which the endpoint gave no answer, the run stops.
  """

  asks: int = 3
  threads: int = 4
  failures: int = 3
  request: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for name in ("asks", "threads", "failures"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} is {getattr(self, name)}, must be 1 or more")
    for name in self.request:
      if name in _OURS:
        raise ValueError(f"request has {name!r}, must leave out {', '.join(_OURS)}")


@dataclasses.dataclass(frozen=True)
class _Judge:
  """Asks about one item at a time, on any thread."""

  client: Client
  template: Template
  cache: Cache
  account: Account
  settings: Settings

  def body(self, item: Item) -> dict[str, Any]:
    """The first request about an item."""
    extra = REQUEST | {"response_format": self.template.response_format()}
    extra |= dict(self.settings.request)
    return {
      "model": self.client.endpoint.model,
      "messages": self.template.messages(item._asdict()),
      **{name: value for name, value in extra.items() if value is not None},
    }

  def cached(self, key: str) -> Outcome | None:
    found = self.cache.answer(key)
    return None if found is None else Outcome(JUDGED, found["score"], found["reason"])

  def outcome(self, key: str, item: Item) -> Outcome:
    """Asks until there is a judgement, at most `asks` times in all runs together."""
    body = self.body(item)
    try:
      while len(refused := self.cache.refused(key)) < self.settings.asks:
        messages = body["messages"] + (_again(refused[-1]) if refused else [])
        asked = body | {"messages": messages}
        self.client.retrying(functools.partial(self._attempt, key, asked))
        if found := self.cached(key):
          return found
    except (Exhausted, Stopped):
      return Outcome(LEFT)
    except Rejected as error:
      return Outcome(UNJUDGED, reason=str(error), kind=REJECTED)
    except Unanswered as error:
      return Outcome(UNJUDGED, reason=str(error), kind=NO_ANSWER)
    except Unusable:
      self.client.stop.set()  # before this thread takes the next question
      raise
    return Outcome(UNJUDGED, reason=refused[-1]["refused"], kind=NO_JUDGEMENT)

  def _attempt(self, key: str, body: Mapping[str, Any]) -> None:
    """One request, paid for; what came of it stands in the cache."""
    prompt = prompt_tokens(body)
    limits = [body[name] for name in _LIMITS if name in body]
    aside = self.account.set_aside(prompt, max(limits, default=0))
    cost, estimated = Tokens(), True
    try:
      reply = self.client.post(body)
      counts = reply.prompt_tokens, reply.completion_tokens
      estimated = None in counts
      cost = aside if estimated else Tokens(*counts)
      self.cache.write({"key": key, **self._read(reply), **_account(cost, estimated)})
    except Unanswered as error:
      if error.lost:
        cost = aside
        self.cache.write({"key": key, "lost": str(error), **_account(cost, True)})
      raise
    finally:
      self.account.settle(aside, cost, estimated=estimated, prompt=prompt)

  def _read(self, reply: Reply) -> dict[str, Any]:
    try:
      score, reason = self.template.read(reply.text)
      return {"score": score, "reason": self.client.endpoint.hide(reason)}
    except ValueError as error:
      ended = f" (the endpoint ended it: {reply.cut})" if reply.cut else ""
      return {"refused": f"{error}{ended}", "answer": reply.text[:_REPEATED]}


def _again(refused: Mapping[str, Any]) -> list[dict[str, str]]:
  """What follows a refused answer."""
  said = [{"role": "assistant", "content": refused["answer"]}] if refused["answer"].strip() else []
  ask = (
    f"That can't be used: {refused['refused']}. Reply again with the JSON object alone, briefly."
  )
  return [*said, {"role": "user", "content": ask}] if said else []


def _account(cost: Tokens, estimated: bool) -> dict[str, Any]:
  return {**cost._asdict(), "estimated": estimated}


def _key(template: Template, body: Mapping[str, Any]) -> str:
  """The question's name in the cache: whatever changes the request is another question."""
  asked = json.dumps({"template": template.name, **body}, sort_keys=True)
  return hashlib.sha256(asked.encode("ascii")).hexdigest()


def judge(
  items: Sequence[Item],
  endpoint: Endpoint,
  template: Template,
  folder: str | os.PathLike,
  *,
  settings: Settings,
  patience: Patience,
  budget: Budget,
  progress: metrics.Progress | None = None,
) -> Judged:
  """Judges every item; `folder` holds the cache. ValueError for settings that can't be.

  The same question about several items is asked once. However a run ends, short of a kill, it
  waits for the answers to requests under way and keeps them.
  """
  client = Client(endpoint, patience)
  with Cache(folder) as cache:
    account = Account(budget, cache.total)
    asker = _Judge(client, template, cache, account, settings)
    places: dict[str, list[int]] = {}
    for i, item in enumerate(items):
      places.setdefault(_key(template, _bounded(asker.body(item), budget)), []).append(i)
    found = {key: outcome for key in places if (outcome := asker.cached(key))}
    hits = sum(len(places[key]) for key in found)
    advance = progress.update if progress is not None else lambda n, **_: None
    advance(hits)
    questions = {key: items[where[0]] for key, where in places.items() if key not in found}
    stopped = None
    try:
      with contextlib.closing(_each(asker, questions, proven=bool(found))) as outcomes:
        for key, outcome in outcomes:
          found[key] = outcome
          hits += len(places[key]) - 1 if outcome.status == JUDGED else 0
          if outcome.status != LEFT:
            advance(len(places[key]), tokens=sum(account.run))
    except Unusable as error:
      stopped = str(error)
    # An answer may have come in after the run was stopped.
    ends = [found.get(key) or asker.cached(key) or Outcome(LEFT) for key in places]
    by_item = {i: end for where, end in zip(places.values(), ends, strict=True) for i in where}
    cost = _cost(account, cache, client, hits)
  return Judged([by_item[i] for i in range(len(items))], cost, stopped)


def _bounded(body: dict[str, Any], budget: Budget) -> dict[str, Any]:
  """The body, or a ValueError where an answer's length has no limit and the budget needs one."""
  for name in _LIMITS:
    if name in body and (type(body[name]) is not int or body[name] < 1):
      raise ValueError(f"request: {name} is {body[name]!r}, must be a whole number from 1")
  if budget.limited and not any(name in body for name in _LIMITS):
    raise ValueError(f"a budget needs a limit of answers in the request: {' or '.join(_LIMITS)}")
  return body


def _each(asker: _Judge, questions: Mapping[str, Item], *, proven: bool
          ) -> Iterator[tuple[str, Outcome]]:  # fmt: skip
  """(key, outcome) as they come. Raises Unusable after too many failures in a row, or if all fail.

  proven: the endpoint has judged something. What it rejects from then on is the item's own fault.
  """
  failures, last = 0, None
  with concurrent.futures.ThreadPoolExecutor(asker.settings.threads) as pool:
    futures = {pool.submit(asker.outcome, key, item): key for key, item in questions.items()}
    try:
      for future in concurrent.futures.as_completed(futures):
        outcome = future.result()
        yield futures[future], outcome
        if outcome.status == JUDGED or outcome.kind == NO_JUDGEMENT:
          failures, proven = 0, True
        elif outcome.kind == NO_ANSWER or (outcome.kind == REJECTED and not proven):
          failures, last = failures + 1, outcome
        if failures >= asker.settings.failures:
          raise Unusable(f"{failures} failures in a row, the last: {last.reason}")
      if failures and not proven:
        raise Unusable(f"nothing was answered: {last.reason}")
    finally:
      asker.client.stop.set()  # ends every pause
      pool.shutdown(cancel_futures=True)


def _cost(account: Account, cache: Cache, client: Client, hits: int) -> dict[str, Any]:
  """This run's requests, and tokens and money of the run and of all that the cache has paid for."""

  def spent(tokens: Tokens) -> dict[str, Any]:
    return {
      "prompt_tokens": tokens.prompt,
      "completion_tokens": tokens.completion,
      "money": account.budget.cost(tokens),
    }

  return {
    "requests": account.requests,
    "retries": client.retries,
    "cache_hits": hits,
    "run": spent(account.run) | {"estimated_tokens": account.estimated},
    "cache": spent(cache.total),
    "budget": {"tokens": account.budget.tokens, "money": account.budget.money},
  }
