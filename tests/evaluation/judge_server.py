"""A judge on localhost that behaves as it is told: well, badly, slowly or not at all."""

import contextlib
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

from swirl_jax.evaluation.judge_asking import Item
from swirl_jax.evaluation.judge_client import Client, Endpoint, Patience

KEY = "sk-test-4f9b71c2d8e04b7f"
PATIENCE = Patience(seconds=5.0, tries=3, first=0.01, longest=0.5)

Step = Callable[[http.server.BaseHTTPRequestHandler], None]


def prediction_of(body: dict) -> str:
  """The last material of the first question, which all templates give to the prediction."""
  content = body["messages"][1]["content"]
  if not isinstance(content, str):
    content = "".join(part.get("text", "") for part in content)
  return re.findall(r"<material>\n(.*?)\n</material>", content, re.DOTALL)[-1]


def send(handler, status: int, body: bytes, headers=(), *, length: int | None = None) -> None:
  handler.send_response(status)
  for name, value in headers:
    handler.send_header(name, value)
  handler.send_header("Content-Length", str(len(body) if length is None else length))
  handler.end_headers()
  handler.wfile.write(body)


def completion(text, *, usage=(100, 20), finish="stop") -> bytes:
  choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
  found = {"object": "chat.completion", "choices": [choice]}
  if usage is not None:
    found["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
  return json.dumps(found).encode()


def says(text, **kwargs) -> Step:
  return lambda handler: send(handler, 200, completion(text, **kwargs))


def scores(score, reason="as it should be", **kwargs) -> Step:
  return says(json.dumps({"reason": reason, "score": score}), **kwargs)


def status(code: int, *headers: tuple[str, str], body: bytes = b"") -> Step:
  return lambda handler: send(handler, code, body, headers)


def slow(seconds: float, then: Step) -> Step:
  def step(handler):
    time.sleep(seconds)
    with contextlib.suppress(OSError):  # nobody may be there any more
      then(handler)

  return step


def trickles(seconds: float) -> Step:
  """A byte now and then: no operation of a socket ever times out."""

  def step(handler):
    body = completion('{"reason": "slow", "score": 1}')
    end = time.monotonic() + seconds
    with contextlib.suppress(OSError):
      send(handler, 200, b"", length=len(body))
      for byte in body:
        if time.monotonic() > end:
          break
        handler.wfile.write(bytes([byte]))
        time.sleep(0.05)

  return step


def breaks_off(handler) -> None:
  """Half of a body, and the end of the connection."""
  body = completion('{"reason": "long", "score": 1}')
  send(handler, 200, body[: len(body) // 2], length=len(body))


def chunked(*, whole: bool) -> Step:
  """A body in chunks, as proxies send it; with its last chunk, or without."""

  def step(handler):
    body = completion("fine")
    chunks = [body[:30], body[30:], b""] if whole else [body]
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for chunk in chunks:
      handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")

  return step


def hangs_up(handler) -> None:
  handler.connection.shutdown(socket.SHUT_RDWR)


class Server(http.server.ThreadingHTTPServer):
  """steps: prediction → what happens at its first, second, ... request; the last goes on for ever.

  A prediction without steps is a number: it is scored with it.
  """

  daemon_threads = True
  request_queue_size = 64

  def __init__(self, steps: dict[str, list[Step]]):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.steps = steps
    self.log: list[tuple[float, str, dict, dict]] = []  # (time, path, headers, body)
    self.busy = self.busiest = 0
    self.lock = threading.Lock()

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self.server_address[1]}/v1"

  @property
  def asked(self) -> list[str]:
    """The prediction of each request, in order."""
    return [prediction_of(body) for _, _, _, body in self.log]

  def handle_error(self, request, client_address):
    pass  # a client that went away


class _Handler(http.server.BaseHTTPRequestHandler):
  def do_POST(self):
    arrived = time.monotonic()
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    prediction = prediction_of(body)
    with self.server.lock:
      count = self.server.asked.count(prediction)
      self.server.log.append((arrived, self.path, dict(self.headers), body))
      self.server.busy += 1
      self.server.busiest = max(self.server.busiest, self.server.busy)
    try:
      steps = self.server.steps.get(prediction)
      step = steps[min(count, len(steps) - 1)] if steps else scores(float(prediction))
      step(self)
    finally:
      with self.server.lock:
        self.server.busy -= 1

  def do_GET(self):
    raise AssertionError("a redirect was followed")

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def serving(steps: dict[str, list[Step]] | None = None) -> Iterator[Server]:
  with Server(steps if steps is not None else {}) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
      yield server
    finally:
      server.shutdown()
      thread.join()


def nobody() -> str:
  """An address where nothing listens."""
  with socket.socket() as held:
    held.bind(("127.0.0.1", 0))
    return f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def endpoint(server_or_url, key: str = KEY) -> Endpoint:
  return Endpoint(getattr(server_or_url, "url", server_or_url), "judge-model", key)


def client(server_or_url, patience: Patience = PATIENCE, key: str = KEY) -> Client:
  return Client(endpoint(server_or_url, key), patience)


def item(prediction: str, episode: str = "e", level: str = "all") -> Item:
  return Item(x="the lamp is off", z="turn on the lamp", y="the lamp is on", prediction=prediction,
              episode=episode, level=level)  # fmt: skip
