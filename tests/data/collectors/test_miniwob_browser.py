"""The web world in a real browser."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from swirl_jax.data.collection import Episode
from swirl_jax.data.collectors import miniwob, miniwob_actions

SETTINGS = miniwob.DEFAULTS
TINY = {**SETTINGS, "train": 2, "validation": 1, "test": 1, "heldout": 1}


def _installed():
  try:
    miniwob.check(SETTINGS)
  except ValueError:
    return False
  return True


pytestmark = [
  pytest.mark.miniwob,
  pytest.mark.skipif(not _installed(), reason="no miniwob, selenium, chromium, chromedriver"),
]

OWN = """<html><head><script>
var WOB_DONE_GLOBAL = false, WOB_RAW_REWARD_GLOBAL = 0, WOB_TASK_READY = true, WOB_DATA_MODE;
var core = {startEpisodeReal: function () {}};
Math.seedrandom = function () {};
</script></head><body><div id="query">Press it.</div><div id="area">%s</div></body></html>"""


@pytest.fixture
def own(tmp_path, monkeypatch):
  """A function that writes a page of our own, as a task of its own, and gives its episode."""

  def write(body):
    (tmp_path / "own.html").write_text(OWN % body)
    return Episode("own", "own", "train", {"task": "own", "seed": 1, "longest": 700})

  monkeypatch.setattr(miniwob, "_pages", lambda: tmp_path)
  monkeypatch.setitem(miniwob.TASKS, "own", "Submit")
  return write


@pytest.fixture
def folder(monkeypatch):
  """A short path (a browser's sockets lie there) where the sessions of this test have their
  browsers' profiles: which tells its browsers from all others.
  """
  with tempfile.TemporaryDirectory(prefix="w", ignore_cleanup_errors=True) as found:
    monkeypatch.setattr(tempfile, "tempdir", found)
    yield found


def processes(folder):
  """The browsers' processes, no zombies, whose profile lies in the folder."""
  word, found = f"--user-data-dir={folder}", []
  for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      command, state = (process / "cmdline").read_bytes(), (process / "stat").read_text()
    except OSError:  # it has ended
      continue
    if word.encode() in command and state.rpartition(")")[2].split()[0] != "Z":
      found.append(int(process.name))
  return found


def gone(folder, seconds=10):
  """Whether no browser is left there, now or soon."""
  end = time.monotonic() + seconds
  while processes(folder) and time.monotonic() < end:
    time.sleep(0.1)
  return not processes(folder)


def test_the_same_bytes_in_any_order_and_browser():
  settings = {**TINY, "seed": 11, "heldout_tasks": miniwob.HELDOUT + miniwob.SHORT}
  chosen = {e.level: e for e in miniwob.episodes(settings) if e.name.endswith("-0")}
  with miniwob.session(SETTINGS) as play:
    once = {task: play(episode) for task, episode in chosen.items()}
  with miniwob.session(SETTINGS) as play:
    for task in sorted(chosen, reverse=True):
      assert play(chosen[task]) == once[task] == play(chosen[task]), task
  assert set(once) == set(miniwob.TASKS)
  assert all(p.lines for p in once.values())
  for p in once.values():
    for line in p.lines:
      assert line["x"].split() != line["y"].split()
      assert miniwob._CONTROL.search(json.dumps(line, ensure_ascii=False)) is None


def test_the_page_sees_what_is_done(own):
  """Typing, letters that the page refuses, timers, a label, a tick, and what is hidden."""
  body = """<p><label>Name</label><input onkeydown="if (event.key == 'b') return false"></p>
    <label><input type="checkbox" onclick="setTimeout(() => late.textContent = 'later', 900)">ok
    </label><p id="late">now</p><p style="display: none">secret</p>"""
  with miniwob.session(SETTINGS) as play:
    scripts = []
    original = miniwob.rollout
    miniwob.rollout = lambda script, **_: scripts.append(script)
    try:
      play(own(body))
    finally:
      miniwob.rollout = original
    (script,) = scripts
    states = [script("return swirl.start(arguments[0])", "1")]
    for given in ((0, "type", "abc"), (1, "click", ""), (0, "clear", "")):
      states.append(script("return swirl.act(...arguments)", *given))
  assert [miniwob_actions.describe(s) for s in states] == [
    "task Press it. ; text Name = ; checkbox ok =[ ] ; now",
    "task Press it. ; text Name =ac * ; checkbox ok =[ ] ; now",
    "task Press it. ; text Name =ac ; checkbox ok =[x] * ; later",
    "task Press it. ; text Name = * ; checkbox ok =[x] ; later",
  ]


FORM = """<script>Math.seedrandom = seed => { document.title = seed; };</script>
<p><label>Code</label><input maxlength="2"></p><p><input id="kept" readonly value="no"></p>
<p><button>Go</button><button>Go</button></p>
<p><select id="size" onchange="note.textContent = 'chosen'">
  <option></option><option>S</option><option>M</option></select></p>
<p><input type="time" id="at" oninput="note.textContent = 'soon'"></p><p id="note">none</p>
<p><button onclick="const add = text => () => { note.textContent += text; };
  setTimeout(add('b'), 20); setTimeout(add('a'), 10)">Count</button>
<button onclick="WOB_DONE_GLOBAL = true; WOB_RAW_REWARD_GLOBAL = reward">End</button></p>"""


@pytest.mark.parametrize("reward, ends", [(-1, "wrong"), (0, "wrong"), (0.5, "right")])
def test_what_hands_do_and_how_it_ends(own, monkeypatch, reward, ends):
  monkeypatch.setattr(miniwob, "rollout", lambda script, **_: script)
  with miniwob.session(SETTINGS) as play:
    script = play(own(FORM.replace("reward", str(reward))))
    seen = script("return swirl.start(arguments[0])", "5")
    assert script("return document.title") == "5"
    controls = [item for item in seen["items"] if "ref" in item]
    assert [c["ref"] for c in controls if c["locked"]] == ["text#kept"]
    place = {c["ref"]: i for i, c in enumerate(controls)}
    texts = [miniwob_actions.describe(seen)]
    for ref, hand, text in (
      ("text Code", "type", "xyz"), ("list#size", "choose", "M"), ("time#at", "set", "22:15"),
      ("button Count", "click", ""), ("button End", "click", ""),
    ):  # fmt: skip
      texts.append(
        miniwob_actions.describe(script("return swirl.act(...arguments)", place[ref], hand, text))
      )
  form = (
    "task Press it. ; text Code ={} ; text#kept =no ; button Go ; button Go (2) ; "
    "list#size ={} ; time#at ={} ; {} ; button Count{} ; button End{}"
  )
  assert texts == [
    form.format("", " of S, M", "", "none", "", ""),
    form.format("xy *", " of S, M", "", "none", "", ""),
    form.format("xy", "M of S, M *", "", "chosen", "", ""),
    form.format("xy", "M of S, M", "22:15 *", "soon", "", ""),
    form.format("xy", "M of S, M", "22:15", "soonab", " *", ""),
    f"{ends} ; " + form.format("xy", "M of S, M", "22:15", "soonab", "", " *"),
  ]


def test_control_characters_of_a_page_become_spaces(own):
  body = "<script>document.write('<input value=\"a\\u0007b\\u200bc\"><p>d\\u0001e</p>')</script>"
  with miniwob.session(SETTINGS) as play:
    lines, _ = play(own(body))
  assert "=a b c" in lines[0]["x"] and "d e" in lines[0]["x"]


def test_pages_that_do_not_come_to_rest(own, folder, monkeypatch):
  """Timers without end are an error at once; a loop without end is one when its time is up, and
  leaves no process behind.
  """
  timers = "<button onclick='(function f() { setTimeout(f, 0) })()'>Go</button>"
  with pytest.raises(Exception, match="never comes to rest"):
    with miniwob.session(SETTINGS) as play:
      play(own(timers))
  monkeypatch.setattr(miniwob, "CALL_LIMIT", 6.0)
  with pytest.raises(Exception, match="[Tt]imed out"):
    with miniwob.session(SETTINGS) as play:
      play(own("<button onclick='for (;;) {}'>Go</button>"))
  assert gone(folder)
  assert os.listdir(folder) == []


def test_a_browser_that_dies_in_an_episode(folder, monkeypatch):
  """Its episode raises; a new session plays it as if nothing had been."""
  (episode,) = (e for e in miniwob.episodes(TINY) if e.name == "train-login-user-1")
  with miniwob.session(SETTINGS) as play:
    whole = play(episode)
  assert len(whole.lines) >= 3
  choices, calls = miniwob_actions.choices, []

  def deadly(*given):
    calls.append(None)
    if len(calls) == 3:
      for pid in processes(folder):
        with contextlib.suppress(ProcessLookupError):  # its parent's end was its own
          os.kill(pid, signal.SIGKILL)
    return choices(*given)

  with monkeypatch.context() as patch, pytest.raises(Exception):  # noqa: B017  (its class depends on the moment)
    patch.setattr(miniwob_actions, "choices", deadly)
    with miniwob.session(SETTINGS) as play:
      play(episode)
  assert len(calls) == 3 and gone(folder)
  with miniwob.session(SETTINGS) as play:
    assert play(episode) == whole


def test_no_browser_outlives_its_worker(folder):
  code = (
    "import time\n"
    "from swirl_jax.data.collectors import miniwob\n"
    "with miniwob.session({}):\n  print('open', flush=True)\n  time.sleep(60)\n"
  )
  environment = {**os.environ, "TMPDIR": folder}
  worker = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True
  )
  try:
    assert worker.stdout.readline() == "open\n"
    assert processes(folder)
  finally:
    worker.kill()
    worker.communicate()
  assert gone(folder)
