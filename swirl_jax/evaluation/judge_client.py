"""One question to a chat-completions endpoint, and when to ask it again. Standard library alone.

The key stands in the request's header and nowhere else: not in a repr, and what the endpoint says
is searched for it before it goes into an answer or an error.
"""

import contextlib
import dataclasses
import email.utils
import http.client
import json
import math
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

URL, MODEL, KEY = "SWIRL_JUDGE_URL", "SWIRL_JUDGE_MODEL", "SWIRL_JUDGE_KEY"

_LARGEST = 2**24  # bytes of a response
_SECRET = 8  # shorter keys are placeholders of local servers, and words of any text
_SAID = 200  # characters of what the endpoint said, in an error
_LATER = {408, 425, 429}  # and 500 to 599
_THIS_REQUEST = {400, 413, 422}


class Unusable(Exception):
  """No request can succeed: a wrong address, model or key, or an endpoint that never answers."""


class Rejected(Exception):
  """The endpoint won't answer this request; others it may."""


class Stopped(Exception):
  """The run ends: nothing more is asked."""


class Unanswered(Exception):
  """The same request may be answered later.

  wait: for how many seconds the endpoint asked; lost: the request was sent and may be charged.
  """

  def __init__(self, message: str, *, wait: float = 0.0, lost: bool = False):
    super().__init__(message)
    self.wait, self.lost = wait, lost


class Reply(NamedTuple):
  """text: "" where there is none; cut: the endpoint's reason for ending it, if not the usual one.

  Both counts of tokens are None where the endpoint didn't tell.
  """

  text: str
  cut: str | None
  prompt_tokens: int | None
  completion_tokens: int | None


@dataclasses.dataclass(frozen=True)
class Endpoint:
  """`url` as clients of this protocol have it: up to /v1, without /chat/completions."""

  url: str
  model: str
  key: str = dataclasses.field(default="", repr=False)

  def __post_init__(self):
    try:
      parts = urllib.parse.urlsplit(self.url)
      host, _ = parts.hostname, parts.port  # a bad port raises
      credentials = parts.username is not None or parts.query or parts.fragment
      good = parts.scheme in ("http", "https") and host and not credentials
      good = good and re.fullmatch(r"[\x21-\x7e]+", self.url)
    except ValueError:
      good = False
    if not good:  # what was found may hold a key
      raise ValueError(f"{URL} must be http(s)://HOST[:PORT][/PATH], without user, query or blanks")
    if not self.model.strip():
      raise ValueError(f"{MODEL} is empty, must be the model's name")
    if not re.fullmatch(r"[\x21-\x7e]*", self.key):
      raise ValueError(f"{KEY} must be printable ASCII without blanks, or absent")

  @property
  def address(self) -> str:
    return f"{self.url.rstrip('/')}/chat/completions"

  def hide(self, text: str) -> str:
    """The text without the key."""
    return text.replace(self.key, "[key]") if len(self.key) >= _SECRET else text


def from_environment(environ: Mapping[str, str]) -> Endpoint:
  """The endpoint that SWIRL_JUDGE_URL, _MODEL and (for endpoints that want one) _KEY name."""
  for name in (URL, MODEL):
    if not environ.get(name, "").strip():
      raise ValueError(f"{name} is missing in the environment; docs/judge.md has what it must be")
  return Endpoint(environ[URL].strip(), environ[MODEL].strip(), environ.get(KEY, "").strip())


@dataclasses.dataclass(frozen=True)
class Patience:
  """seconds: for one request, connection to last byte. tries: of one request, the first included.

  Before try n + 1: first · 2^(n-1) seconds, at most `longest`, half of it left to chance; or as
  long as the endpoint asks, but no request that would have to wait longer than `longest`.
  """

  seconds: float = 120.0
  tries: int = 6
  first: float = 1.0
  longest: float = 60.0

  def __post_init__(self):
    for name, least in (("seconds", 1e-3), ("tries", 1), ("first", 0.0), ("longest", 0.0)):
      if not least <= getattr(self, name) < math.inf:
        raise ValueError(f"{name} is {getattr(self, name)}, must be {least} or more, and finite")

  def backoff(self, tries: int) -> float:
    """Seconds after so many tries."""
    return min(self.longest, self.first * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)


class Client:
  """Safe for several threads, which share the endpoint's pauses. `stop` ends every wait."""

  def __init__(self, endpoint: Endpoint, patience: Patience):
    self.endpoint, self.patience = endpoint, patience
    self.stop = threading.Event()
    self.retries = 0
    self._lock, self._pause_ends = threading.Lock(), 0.0

  def retrying(self, attempt: Callable[[], Reply]) -> Reply:
    """attempt() until it isn't Unanswered, at most `patience.tries` times, or Stopped."""
    for tries in range(1, self.patience.tries + 1):
      self._sleep(self._pause_ends - time.monotonic())
      try:
        return attempt()
      except Unanswered as error:
        if error.wait > self.patience.longest:
          raise Unanswered(f"{error}; it asks for {error.wait:.0f} s, more than allowed") from None
        if tries == self.patience.tries:
          raise
        with self._lock:
          self.retries += 1
          if error.wait:
            self._pause_ends = max(self._pause_ends, time.monotonic() + error.wait)
        self._sleep(self.patience.backoff(tries))
    raise AssertionError("unreachable")

  def post(self, body: Mapping[str, Any]) -> Reply:
    """One request. Raises Unusable, Rejected or Unanswered."""
    status, headers, raw = self._exchange(json.dumps(body).encode("ascii"))
    if status == 200:
      return self._reply(raw)
    where = f"{self.endpoint.address}: status {status}"
    if status in (401, 403):  # what it says may hold a part of the key
      given = "was given" if self.endpoint.key else "is not set"
      raise Unusable(f"{where} (the endpoint refuses the key; {KEY} {given})")
    where += self._said(raw)
    if status in _LATER or status >= 500:
      raise Unanswered(where, wait=_seconds(headers.get("Retry-After")))
    raise (Rejected if status in _THIS_REQUEST else Unusable)(where)

  def _sleep(self, seconds: float) -> None:
    if self.stop.wait(max(0.0, seconds)):
      raise Stopped

  def _exchange(self, sent: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
    """(status, headers, body). A timer, not the socket, limits the whole: bytes may trickle."""
    parts = urllib.parse.urlsplit(self.endpoint.address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    limit, expired = self.patience.seconds, threading.Event()
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if self.endpoint.key:
      headers["Authorization"] = f"Bearer {self.endpoint.key}"
    begin = time.monotonic()
    with contextlib.closing(kind(parts.hostname, parts.port, timeout=limit)) as connection:
      try:
        connection.connect()
      except ssl.SSLCertVerificationError as error:
        raise Unusable(f"{self.endpoint.address}: {error}") from None
      except OSError as error:
        raise Unanswered(f"{self.endpoint.address}: no connection ({error})") from None

      def expire(sock=connection.sock):
        expired.set()
        with contextlib.suppress(OSError):  # below TLS: another thread is reading
          socket.socket.shutdown(sock, socket.SHUT_RDWR)

      timer = threading.Timer(max(0.0, begin + limit - time.monotonic()), expire)
      timer.daemon = True
      timer.start()
      problem = None
      try:
        with contextlib.suppress(BrokenPipeError):  # it may have answered before all was sent
          connection.request("POST", parts.path, sent, headers)
        response = connection.getresponse()
        raw = response.read(_LARGEST + 1)
      except TimeoutError:  # one operation took as long as the whole may
        expired.set()
      except (OSError, http.client.HTTPException) as error:
        problem = f"the connection broke ({type(error).__name__}: {error})"
      finally:
        timer.cancel()
    if expired.is_set():  # also where the end of the stream looked like the end of the body
      problem = f"no answer within {limit:g} s"
    elif problem is None and len(raw) > _LARGEST:
      problem = f"more than {_LARGEST} bytes"
    elif problem is None and response.length and response.status == 200:  # read(n) doesn't complain
      problem = f"the connection broke ({response.length} bytes are missing)"
    if problem:
      message = self.endpoint.hide(f"{self.endpoint.address}: {problem}")
      raise Unanswered(message, lost=True) from None
    return response.status, response.headers, raw

  def _reply(self, raw: bytes) -> Reply:
    try:
      found = json.loads(raw)
      choice = found["choices"][0]
      message, usage = choice["message"], found.get("usage")
      text, cut = message.get("content"), choice.get("finish_reason")
      if isinstance(text, list):
        text = "".join(part.get("text", "") for part in text)
      if not isinstance(text, str | None):
        raise TypeError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
      what = f"{self.endpoint.address}: status 200, but no chat completion{self._said(raw)}"
      raise Unanswered(what, lost=True) from None
    counts = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    text = self.endpoint.hide(text) if text is not None else ""
    return Reply(text, None if cut in ("stop", None) else self.endpoint.hide(str(cut)), *counts)

  def _said(self, raw: bytes) -> str:
    """What stands in an error's body, in brackets, without the key and in one line."""
    text = raw.decode("utf-8", errors="replace")
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
      text = str(json.loads(raw)["error"]["message"])
    text = " ".join(self.endpoint.hide(text).split())
    text = text if len(text) <= _SAID else text[: _SAID - 3] + "..."
    return f" ({text})" if text else ""


def _count(usage: Any, name: str) -> int | None:
  found = usage.get(name) if isinstance(usage, dict) else None
  return found if type(found) is int and found >= 0 else None


def _seconds(header: str | None) -> float:
  """Retry-After, seconds or a date (RFC 9110); 0 where it is absent or neither."""
  if header is None:
    return 0.0
  if re.fullmatch(r"\s*\d{1,9}(\.\d*)?\s*", header):
    return float(header)
  try:
    return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
  except ValueError:
    return 0.0
