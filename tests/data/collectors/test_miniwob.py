"""The web world: its texts and its collector, on a page that Python plays; and the real browser
(marked `miniwob`), where the extra `miniwob`, chromium and chromedriver are installed.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from configs import miniwob as config
from swirl_jax.data.collection import Episode
from swirl_jax.data.collectors import miniwob, miniwob_actions

SETTINGS = miniwob.DEFAULTS
TINY = {**SETTINGS, "train": 2, "validation": 1, "test": 1, "heldout": 1}


def item(kind, name="", **fields):
  return {"kind": kind, "text": kind + name, "ref": kind + name, "marks": [], "depth": 0,
          "locked": False} | fields  # fmt: skip


class Login:
  """The narrow interface of a page, by a login form that knows its user."""

  def __init__(self, *, locked=False, note=""):
    self.seed, self.values, self.focus, self.done = None, ["", ""], None, False
    self.locked, self.note = locked, note

  def __call__(self, code, *given):
    if "start" in code:
      (self.seed,) = given
    else:
      self.act(*given)
    return self.read()

  def act(self, index, hand, text):
    self.focus = index
    if hand == "type":
      self.values[index] += text
    elif hand == "clear":
      self.values[index] = ""
    elif index == 2:
      self.done = True

  def read(self):
    controls = [
      item("text", " Username", value=self.values[0]),
      item("password", " Password", value=self.values[1]),
      item("button", " Login"),
    ]
    for place, control in enumerate(controls):
      control["locked"] = self.locked
      control["marks"] = ["*"] if place == self.focus else []
    return {
      "task": 'Enter the username "keli" and the password "1b" and press login.',
      "hints": ["username", "password"],
      "items": [*([{"text": self.note}] if self.note else []), *controls],
      "done": self.done,
      "success": self.done and self.values == ["keli", "1b"],
    }


def played(seed=3, **page):
  return miniwob.rollout(Login(**page), task="login-user", seed=seed)


# -- texts -----------------------------------------------------------------------------------------


def test_describe():
  seen = {
    "task": "Do it.", "hints": [], "done": False, "success": False,
    "items": [
      {"text": "Movies"},
      item("text", "#tt", value="the", marks=["*"]),
      item("text", "#tt", ref="text#tt (2)", value=""),
      item("checkbox", " red", value="[x]"),
      item("list", "#options", value="b", options=["", "a", "b"]),
      item("file", " Emile", depth=2),
      item("tab", " 1", marks=["on", "*"]),
    ],
  }  # fmt: skip
  text = (
    "task Do it. ; Movies ; text#tt =the * ; text#tt (2) = ; checkbox red =[x] ; "
    "list#options =b of a, b ; >> file Emile ; tab 1 on *"
  )
  assert miniwob_actions.describe(seen) == text
  assert miniwob_actions.describe({**seen, "done": True}) == "wrong ; " + text
  assert miniwob_actions.describe({**seen, "done": True, "success": True}) == "right ; " + text


def weights_of(seen, ready=False, task="login-user", seed=0):
  """{phrase: weight} of what the collector would do."""
  ends, draw = re.compile(miniwob.TASKS[task]), np.random.default_rng(seed)
  found = miniwob_actions.choices(seen, ready, ends, draw)
  return {action.phrase: weight for weight, action in found}


def page(task, *items):
  return {"task": task, "hints": [], "items": list(items), "done": False, "success": False}


def test_the_collector_ends_late_and_leaves_locked_controls_alone():
  seen = Login().read()
  soon, late = weights_of(seen), weights_of(seen, ready=True)
  assert soon["click button Login"] * 5 < late["click button Login"]
  assert weights_of(Login(locked=True).read()) == {}


def test_the_collector_ticks_what_is_named_and_unticks_the_rest():
  boxes = [item("checkbox", f" {name}", value=value) for name, value in
           (("red", "[ ]"), ("blue", "[ ]"), ("old", "[x]"))]  # fmt: skip
  found = weights_of(page("Select red and click Submit.", *boxes), task="click-checkboxes-soft")
  assert found["click checkbox red"] == found["click checkbox old"] > found["click checkbox blue"]


def test_times_lists_spinners():
  time_field = item("time", "#tt", value="22:15")
  found = weights_of(page("Enter 12:05 AM as the time and press submit.", time_field))
  assert "set time#tt to '00:05'" in found and "clear time#tt" in found
  found = weights_of(page("Enter 10:15 PM as the time.", time_field))
  assert "set time#tt to '22:15'" not in found  # it would change nothing

  places = item("list", "#options", value="Peru", options=["Peru", "Chile", "Cuba"])
  found = weights_of(page("Select Cuba from the list.", places))
  assert set(found) == {"choose 'Chile' in list#options", "choose 'Cuba' in list#options"}
  assert found["choose 'Cuba' in list#options"] > found["choose 'Chile' in list#options"]

  up, down = item("link", "#spinner-up"), item("link", "#spinner-down")
  for value, better, worse in (("-2", "up", "down"), ("7", "down", "up")):
    field = item("text", " Select a value", value=value)
    found = weights_of(page("Select 4 with the spinner and hit Submit.", field, up, down))
    assert found[f"click link#spinner-{better}"] > found[f"click link#spinner-{worse}"]


def test_a_text_that_is_begun_is_gone_on_with():
  seen = Login().read()
  seen["items"][0]["value"] = "ke"
  typed = collections.Counter(
    phrase
    for seed in range(40)
    for phrase in weights_of(seen, seed=seed)
    if phrase.startswith("type") and phrase.endswith("into text Username")
  )
  assert typed.most_common(1)[0][0] == "type 'li' into text Username"


# -- episodes --------------------------------------------------------------------------------------


def test_an_episode():
  lines, counts = played()
  assert counts["too_long"] == 0
  assert [line["turn"] for line in lines] == list(range(len(lines)))
  for before, after in zip(lines, lines[1:], strict=False):
    assert before["y"] == after["x"]
  for line in lines:
    assert line["x"] != line["y"]
    hand, _, rest = line["z"].partition(" ")
    if hand == "type":
      text, _, field = re.fullmatch(r"'(.*)' into (\w+ (\w+))", rest).groups()
      was = re.search(rf"{field} =(\S*)", line["x"])[1]
      assert f"{field} ={was}{text} *" in line["y"]
    elif hand == "clear":
      assert f"{rest} = *" in line["y"]
  assert played() == (lines, counts) != played(seed=4)


def test_submit_ends_the_episode():
  episodes = [played(seed).lines for seed in range(60)]
  last = [lines[-1] for lines in episodes if "Login" in lines[-1]["z"]]
  ends = collections.Counter(line["y"].split()[0] for line in last)
  assert ends["right"] >= 5 and ends["wrong"] >= 5, ends
  for line in last:
    good = "Username =keli " in line["y"] and "Password =1b " in line["y"]
    assert line["y"].startswith("right" if good else "wrong")
  assert all(not n["y"].startswith(("right", "wrong")) for lines in episodes for n in lines[:-1])


def test_steps_without_effect_are_counted_and_become_rare():
  """Of six buttons one counts: without a memory, five of six steps would change nothing."""

  class Buttons:
    count = 0

    def __call__(self, code, *given):
      self.count += given[:2] == (0, "click")
      return page("Press.", {"text": str(self.count)}, *(item("button", f" {i}") for i in range(6)))

  episodes = [miniwob.rollout(Buttons(), task="login-user", seed=seed) for seed in range(40)]
  assert all(len(p.lines) + p.counts["unchanged"] == miniwob.TURNS for p in episodes)
  share = sum(p.counts["unchanged"] for p in episodes) / (40 * miniwob.TURNS)
  assert 0 < share < 0.65


def test_long_states_are_counted():
  lines, counts = played(note="x" * miniwob.LONGEST)
  assert not lines and counts["too_long"] > 0


def test_nothing_to_do_is_an_empty_episode():
  assert played(locked=True) == ([], {"unchanged": 0, "too_long": 0})


def test_a_control_character_is_an_error():
  with pytest.raises(ValueError, match=r"login-user: .* control character '\\x07'"):
    played(note="ding\x07")


# -- settings --------------------------------------------------------------------------------------


def test_episodes_have_one_split_and_seeds_of_their_own():
  found = miniwob.episodes(SETTINGS)
  assert len({e.name for e in found}) == len(found)
  assert json.loads(json.dumps([e.arguments for e in found])) == [e.arguments for e in found]
  count = collections.Counter((e.split, e.level) for e in found)
  assert count == {
    **{(s, task): SETTINGS[s] for s in miniwob.SPLITS[:3] for task in miniwob.TRAINED},
    **{("heldout", task): SETTINGS["heldout"] for task in miniwob.HELDOUT},
  }
  seeds = collections.defaultdict(set)
  for settings in (SETTINGS, {**SETTINGS, "seed": 1}):
    for e in miniwob.episodes(settings):
      seeds[settings["seed"], e.split].add(e.arguments["seed"])
  assert len(set.union(*seeds.values())) == sum(len(s) for s in seeds.values())
  largest = miniwob.episodes({**TINY, "seed": 2**31 - 1})
  assert max(e.arguments["seed"] for e in largest) < 2**53


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"seed": -1}, "seed is -1, must be an integer from 0"),
    ({"train": 0}, "train is 0, must be an integer from 1"),
    ({"test": 2.0}, "test is 2.0, must be an integer"),
    ({"tasks": ("click-me",)}, "tasks has 'click-me', must be of choose-list, "),
    ({"tasks": ()}, "tasks is empty"),
    ({"tasks": ("enter-password",)}, "'enter-password' is there twice"),
  ],
)
def test_check_names_a_bad_setting(change, message):
  with pytest.raises(ValueError, match=message):
    miniwob.check({**SETTINGS, **change})


@pytest.mark.parametrize(
  ("missing", "message"),
  [
    ("miniwob", r"miniwob is not installed: pip install -e '\.\[miniwob\]'"),
    ("selenium", "selenium is not installed: pip install"),
    ("chromium", "chromium, .* on the PATH: apt-get install chromium chromium-driver"),
    ("chromedriver", "chromedriver is not on the PATH: apt-get install chromium chromium-driver"),
  ],
)
def test_check_names_what_is_not_installed(monkeypatch, missing, message):
  monkeypatch.setattr(miniwob.importlib.util, "find_spec", lambda name: None if name == missing
                      else object())  # fmt: skip
  absent = miniwob.BROWSERS if missing == "chromium" else (missing,)
  monkeypatch.setattr(miniwob.shutil, "which", lambda name: None if name in absent
                      else f"/bin/{name}")  # fmt: skip
  with pytest.raises(ValueError, match=message):
    miniwob.check(SETTINGS)
  monkeypatch.undo()
  monkeypatch.setattr(miniwob.importlib.util, "find_spec", lambda name: object())
  monkeypatch.setattr(miniwob.shutil, "which", lambda name: f"/bin/{name}")
  miniwob.check(SETTINGS)


def test_check_names_a_long_temporary_folder(monkeypatch):
  monkeypatch.setattr(miniwob.importlib.util, "find_spec", lambda name: object())
  monkeypatch.setattr(miniwob.shutil, "which", lambda name: f"/bin/{name}")
  monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * 44)
  with pytest.raises(ValueError, match="TMPDIR is '/ttt.*', must be a path of at most 44 bytes"):
    miniwob.check(SETTINGS)


def test_the_config_says_the_defaults():
  world = config.get_config().world.to_dict()
  assert {name: world[name] for name in SETTINGS} == SETTINGS
  assert set(world) - set(SETTINGS) == {"name", "labelled", "bpe"}


# -- the real browser ------------------------------------------------------------------------------


def _installed():
  try:
    miniwob.check(SETTINGS)
  except ValueError:
    return False
  return True


def browser(test):
  skip = pytest.mark.skipif(not _installed(), reason="no miniwob, selenium, chromium, chromedriver")
  return pytest.mark.miniwob(skip(test))


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
    return Episode("own", "own", "train", {"task": "own", "seed": 1})

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


@browser
def test_the_same_bytes_in_any_order_and_browser():
  chosen = {e.level: e for e in miniwob.episodes({**TINY, "seed": 11}) if e.name.endswith("-0")}
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


@browser
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


@browser
def test_control_characters_of_a_page_become_spaces(own):
  body = "<script>document.write('<input value=\"a\\u0007b\\u200bc\"><p>d\\u0001e</p>')</script>"
  with miniwob.session(SETTINGS) as play:
    lines, _ = play(own(body))
  assert "=a b c" in lines[0]["x"] and "d e" in lines[0]["x"]


@browser
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


@browser
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


@browser
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
