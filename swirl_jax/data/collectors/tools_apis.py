"""The APIs of `bfcl-eval` as functions: a state, a call → the state after it and the response.

A state is a small dict that holds all that its text shows and nothing else. Every call runs on an
instance that was loaded from such a dict, so that nothing which the text leaves out (shared
objects, stale parents, caches, the state of a random generator) can pass from call to call.
"""

import copy
import inspect
import json
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Api(NamedTuple):
  """What there is to know of one class of the package.

  `start(instance, configuration, rng, words)`: the state of a scenario, cut to a short one.
  `load(instance, state, seed)`: puts a state into a fresh instance, and a seed into its generator.
  `read(instance, state, response)`: the state after a call; `state` is the one before.
  `text(state)`: one line; different states have different texts.
  """

  module: str
  start: Callable[[Any, Mapping, random.Random, int], dict]
  load: Callable[[Any, Mapping, int], None]
  read: Callable[[Any, Mapping, Any], dict]
  text: Callable[[Mapping], str]


class Outcome(NamedTuple):
  """`hidden` counts the parts of the response that were left out (`outcome`)."""

  state: dict
  response: Any
  failed: bool
  hidden: int = 0


# -- one call ------------------------------------------------------------------------------------


def tidy(value: Any) -> Any:
  """A response or state as JSON: numbers to eight digits, whole ones without a fraction."""
  if isinstance(value, Mapping):
    return {key: tidy(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [tidy(item) for item in value]
  if value is None or isinstance(value, bool | int | str):
    return value
  try:
    number = float(value)  # a float, a Decimal, a number of mpmath
  except (TypeError, ValueError):
    return str(value)
  if not math.isfinite(number):
    return str(number)
  number = float(f"{number:.8g}")
  return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _is_error(response: Any) -> bool:
  """Whether a response is the package's way of saying that a call failed."""
  if isinstance(response, list):
    return any(isinstance(item, Mapping) and "error" in item for item in response)
  return isinstance(response, Mapping) and "error" in response


def call(
  api: Api, cls: type, state: Mapping, name: str, arguments: Mapping, *, seed: int
) -> Outcome:
  """One call on a fresh instance; what it raises is its response, as in the package's executor.

  AttributeError and TypeError for a method or an argument that the class doesn't have.
  """
  instance = cls()
  api.load(instance, state, seed)
  method = getattr(instance, name)
  bound = inspect.signature(method).bind(**copy.deepcopy(dict(arguments)))
  try:
    response = tidy(method(*bound.args, **bound.kwargs))
  except Exception as error:  # whatever a method raises is how it fails
    response = {"error": str(error) or type(error).__name__}
  failed = _is_error(response)
  return Outcome(tidy(api.read(instance, state, response)), response, failed)


_NOTHING = object()


def _common(a: Any, b: Any) -> tuple[Any, int]:
  """What two responses agree on, and how many parts they don't: (value or _NOTHING, count)."""
  if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys() and a:
    pairs = {key: _common(a[key], b[key]) for key in a}
    kept = {key: value for key, (value, _) in pairs.items() if value is not _NOTHING}
    return kept if kept else _NOTHING, sum(count for _, count in pairs.values())
  return (a, 0) if a == b else (_NOTHING, 1)


def outcome(api: Api, cls: type, state: Mapping, name: str, arguments: Mapping) -> Outcome | None:
  """The outcome as a function of state and call: two runs, each with its own seed of the package's
  generator. Parts of the response on which they differ are left out and counted; None where the
  states or the whole responses differ.
  """
  one, two = (call(api, cls, state, name, arguments, seed=seed) for seed in (1, 2))
  response, hidden = _common(one.response, two.response)
  if one.state != two.state or one.failed != two.failed or response is _NOTHING:
    return None
  return one._replace(response=response, hidden=hidden)


# -- texts ---------------------------------------------------------------------------------------


def shown(api: Api, state: Mapping, response: Any) -> str:
  """A state with the response that led to it, as the text of x or y."""
  answer = json.dumps(response, ensure_ascii=False, separators=(",", ":"))
  return f"{api.text(state)} => {answer}"
