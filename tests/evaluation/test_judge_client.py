"""One question to an endpoint on localhost that answers well, badly, slowly or not at all."""

import concurrent.futures
import email.utils
import time

import judge_server as js
import pytest

from swirl_jax.evaluation import judge_client
from swirl_jax.evaluation.judge_client import (
  Endpoint,
  Patience,
  Rejected,
  Stopped,
  Unanswered,
  Unusable,
  from_environment,
)
from swirl_jax.evaluation.judge_templates import TEMPLATES

NOT_THE_KEY = b'{"error": {"message": "' + f"bad key {js.KEY}".encode() + b'"}}'


def body(prediction="q"):
  return {"model": "judge-model",
          "messages": TEMPLATES["state"].messages(js.item(prediction)._asdict())}  # fmt: skip


def ask(server_or_url, patience=js.PATIENCE, **kwargs):
  asker = js.client(server_or_url, patience, **kwargs)
  return asker.retrying(lambda: asker.post(body())), asker


def test_a_reply_and_what_was_sent():
  with js.serving({"q": [js.says("fine", usage=(7, 3))]}) as server:
    reply, _ = ask(server)
  assert reply == ("fine", None, 7, 3)
  [(_, path, headers, sent)] = server.log
  assert path == "/v1/chat/completions" and sent == body()
  assert headers["Authorization"] == f"Bearer {js.KEY}"
  assert headers["Content-Type"] == "application/json"


def test_without_a_key_no_header_is_sent():
  with js.serving({"q": [js.says("fine")]}) as server:
    ask(server, key="")
  assert "Authorization" not in server.log[0][2]


@pytest.mark.parametrize(
  ("text", "kwargs", "reply"),
  [
    ("fin", {"finish": "length"}, ("fin", "length", 100, 20)),
    (None, {"finish": "content_filter"}, ("", "content_filter", 100, 20)),
    ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], {}, ("ab", None, 100, 20)),
    ("x", {"usage": None}, ("x", None, None, None)),
    ("x", {"usage": (-1, "2")}, ("x", None, None, None)),
    (f"I see {js.KEY}", {}, ("I see [key]", None, 100, 20)),
  ],
)
def test_replies_of_all_kinds(text, kwargs, reply):
  with js.serving({"q": [js.says(text, **kwargs)]}) as server:
    assert ask(server)[0] == reply


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again(code):
  with js.serving({"q": [js.status(code), js.says("fine")]}) as server:
    reply, asker = ask(server)
  assert reply.text == "fine" and len(server.log) == 2 and asker.retries == 1


def test_tries_are_limited_and_pauses_grow():
  with js.serving({"q": [js.status(500, body=NOT_THE_KEY)]}) as server:
    with pytest.raises(Unanswered) as error:
      ask(server, Patience(tries=4, first=0.1, longest=5.0))
  assert str(error.value) == f"{server.url}/chat/completions: status 500 (bad key [key])"
  times = [at for at, *_ in server.log]
  gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
  assert len(gaps) == 3 and not error.value.lost
  for gap, least in zip(gaps, (0.05, 0.1, 0.2), strict=True):
    assert gap >= least


def test_backoff_doubles_up_to_the_longest_with_jitter():
  patience = Patience(first=1.0, longest=10.0)
  for tries, whole in ((1, 1), (2, 2), (4, 8), (5, 10), (40, 10)):
    drawn = [patience.backoff(tries) for _ in range(200)]
    assert whole / 2 <= min(drawn) < 0.65 * whole and 0.85 * whole < max(drawn) <= whole


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(form):
  # A date has whole seconds: one that is 2 s ahead is at least 1 s away.
  value = "0.4" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
  steps = {"q": [js.status(429, ("Retry-After", value)), js.says("fine")]}
  with js.serving(steps) as server:
    ask(server, Patience(first=0.0, longest=3.0))
  gap = server.log[1][0] - server.log[0][0]
  assert gap >= (0.4 if form == "seconds" else 0.9)


def test_retry_after_holds_for_every_thread():
  steps = {"q": [js.status(429, ("Retry-After", "0.4")), js.says("fine")], "r": [js.says("fine")]}
  with js.serving(steps) as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
    asker = js.client(server, Patience(first=0.0))
    first = pool.submit(asker.retrying, lambda: asker.post(body("q")))
    while asker.retries == 0:
      time.sleep(0.005)
    pool.submit(asker.retrying, lambda: asker.post(body("r"))).result()
    first.result()
  assert server.asked[0] == "q" and all(at - server.log[0][0] >= 0.4 for at, *_ in server.log[1:])


def test_a_longer_pause_than_allowed_is_not_waited_for():
  with js.serving({"q": [js.status(429, ("Retry-After", "3600"))]}) as server:
    begin = time.monotonic()
    with pytest.raises(Unanswered, match="asks for 3600 s, more than allowed"):
      ask(server)
  assert len(server.log) == 1 and time.monotonic() - begin < 2


def test_a_pause_may_be_as_long_as_allowed_and_no_longer():
  asker = js.client(js.nobody(), Patience(seconds=5.0, tries=2, first=0.0, longest=0.1))

  def attempt(wait):
    raise Unanswered("busy", wait=wait)

  with pytest.raises(Unanswered, match="^busy; it asks for .* more than allowed"):
    asker.retrying(lambda: attempt(0.11))
  assert asker.retries == 0
  with pytest.raises(Unanswered, match="^busy$"):
    asker.retrying(lambda: attempt(0.1))
  assert asker.retries == 1


def test_a_shorter_pause_does_not_end_a_longer_one():
  asker = js.client(js.nobody(), Patience(first=0.0))
  end = time.monotonic() + 50

  def attempt():
    asker._pause_ends = end  # what another thread was told meanwhile
    asker.stop.set()
    raise Unanswered("busy", wait=0.1)

  with pytest.raises(Stopped):
    asker.retrying(attempt)
  assert asker._pause_ends == end


@pytest.mark.parametrize("code", [301, 307, 401, 403, 404, 405])
def test_what_will_not_pass_is_not_tried_again(code):
  headers = [("Location", "http://127.0.0.1:9/v1")] if code < 400 else []
  with js.serving({"q": [js.status(code, *headers, body=NOT_THE_KEY)]}) as server:
    with pytest.raises(Unusable, match=f"{server.url}/chat/completions: status {code}") as error:
      ask(server)
  assert len(server.log) == 1 and js.KEY not in str(error.value)


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_request_that_is_rejected(code):
  said = b'{"error": {"message": "context of 9 tokens\\n is too   long"}}'
  with js.serving({"q": [js.status(code, body=said)]}) as server:
    with pytest.raises(Rejected) as error:
      ask(server)
  where = f"{server.url}/chat/completions: status {code}"
  assert str(error.value) == f"{where} (context of 9 tokens is too long)"
  assert len(server.log) == 1


def test_401_says_whether_a_key_was_given():
  with js.serving({"q": [js.status(401)]}) as server:
    for key, word in ((js.KEY, "was given"), ("", "is not set")):
      with pytest.raises(Unusable, match=f"SWIRL_JUDGE_KEY {word}"):
        ask(server, key=key)


@pytest.mark.parametrize("step", [js.slow(1.5, js.says("late")), js.trickles(8.0)])
def test_the_time_limit_is_for_the_whole_request(step):
  with js.serving({"q": [step, js.says("fine")]}) as server:
    begin = time.monotonic()
    reply, asker = ask(server, Patience(seconds=0.6, tries=2, first=0.0))
    assert time.monotonic() - begin < 5
    assert reply.text == "fine" and asker.retries == 1
    with pytest.raises(Unanswered, match=r"no answer within 0\.6 s") as error:
      server.steps["q"] = [step]
      ask(server, Patience(seconds=0.6, tries=1))
  assert error.value.lost


@pytest.mark.parametrize(
  ("step", "what"),
  [
    (js.hangs_up, "the connection broke"),
    (js.breaks_off, "the connection broke .[0-9]+ bytes are missing"),
    (js.chunked(whole=False), "the connection broke .IncompleteRead"),
    (js.status(200, body=b"<html>Welcome</html>"), "no chat completion .<html>Welcome</html>"),
    (js.status(200, body=b"[" * 100_000), "no chat completion"),
    (js.status(200, body=b'{"choices": []}'), "no chat completion"),
    (js.status(200, body=b'{"choices": [{"message": "hello"}]}'), "no chat completion"),
    (js.status(200, body=b"\xff\xfe\x00"), "no chat completion"),
    (js.says({"a": "b"}), "no chat completion"),
  ],
)
def test_answers_that_are_none_are_tried_again_and_counted_as_sent(step, what):
  with js.serving({"q": [step, js.says("fine")]}) as server:
    assert ask(server)[0].text == "fine"
    server.steps["q"] = [step]
    with pytest.raises(Unanswered, match=what) as error:
      ask(server)
  assert error.value.lost and len(server.log) == 2 + js.PATIENCE.tries


def test_the_key_is_hidden_in_what_was_no_http():
  def step(handler):
    handler.wfile.write(f"you sent {js.KEY}\r\n\r\n".encode())

  with js.serving({"q": [step]}) as server:
    with pytest.raises(Unanswered, match=r"the connection broke .*\[key\]") as error:
      ask(server, Patience(tries=1))
  assert js.KEY not in str(error.value)


def test_a_body_in_chunks():
  with js.serving({"q": [js.chunked(whole=True)]}) as server:
    assert ask(server)[0] == ("fine", None, 100, 20)


def test_a_body_without_end_is_not_read(monkeypatch):
  monkeypatch.setattr(judge_client, "_LARGEST", 1000)
  with js.serving({"q": [js.says("x" * 2000)]}) as server:
    with pytest.raises(Unanswered, match="more than 1000 bytes"):
      ask(server)


def test_nothing_listens():
  with pytest.raises(Unanswered, match="no connection") as error:
    ask(js.nobody())
  assert not error.value.lost


def test_stop_ends_a_pause():
  with js.serving({"q": [js.status(500)]}) as server:
    asker = js.client(server, Patience(first=60.0))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      pending = pool.submit(asker.retrying, lambda: asker.post(body()))
      while asker.retries == 0:
        time.sleep(0.005)
      begin = time.monotonic()
      asker.stop.set()
      assert isinstance(pending.exception(), Stopped) and time.monotonic() - begin < 2


@pytest.mark.parametrize(
  "url",
  ["", "localhost:8000", "ftp://host/v1", "http://", "http://[::1", "http://host:port/v1",
   "http://me:sk-secret-0000@host/v1", "http://host/v1?key=sk-secret-0000", "http://host/v1#a",
   "http://ho st/v1", "http://hôte/v1"],
)  # fmt: skip
def test_urls_that_are_refused(url):
  with pytest.raises(ValueError, match="SWIRL_JUDGE_URL must be http") as error:
    Endpoint(url, "model")
  assert "sk-secret" not in str(error.value)


def test_a_slash_at_the_end_of_the_url_is_no_matter():
  assert Endpoint("http://host/v1/", "m").address == Endpoint("http://host/v1", "m").address


@pytest.mark.parametrize("key", ["sk-secret\nX-Injected: 1", "sk-secret 0000", "sk-sécret-0000"])
def test_keys_that_are_refused_are_not_shown(key):
  with pytest.raises(ValueError, match="SWIRL_JUDGE_KEY must be printable") as error:
    Endpoint("http://host/v1", "m", key)
  assert "secret" not in str(error.value)


def test_from_environment():
  given = {"SWIRL_JUDGE_URL": " http://host/v1\n", "SWIRL_JUDGE_MODEL": "m",
           "SWIRL_JUDGE_KEY": f"{js.KEY}\n"}  # fmt: skip
  found = from_environment(given)
  assert (found.url, found.model, found.key) == ("http://host/v1", "m", js.KEY)
  assert js.KEY not in repr(found)
  for name in ("SWIRL_JUDGE_URL", "SWIRL_JUDGE_MODEL"):
    with pytest.raises(ValueError, match=f"{name} is missing"):
      from_environment(given | {name: " "})
  assert from_environment({k: v for k, v in given.items() if "KEY" not in k}).key == ""


@pytest.mark.parametrize("field", [{"seconds": 0}, {"tries": 0}, {"first": -1.0}, {"longest": -1}])
def test_patience_refuses(field):
  with pytest.raises(ValueError, match=f"{next(iter(field))} is .*, must be"):
    Patience(**field)
