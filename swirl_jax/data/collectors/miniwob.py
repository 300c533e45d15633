"""MiniWoB++: pages of the `miniwob` package, played in a headless Chromium.

A state is the task's instruction, then what is visible, in the page's order: controls as kind and
name, with their value and marks, and plain text.

    task Enter the username "keli" and the password "1b" into the text fields and press login. ;
    text Username =ke * ; password Password = ; button Login

An action is a short phrase with a control's reference (kind and name; a second control of the same
name is "... (2)"): `type 'li' into text Username`, `click button Login`, `clear text Username`,
`set time#tt to '22:15'`, `choose 'Kassi' in list#options`. `*` is the focus, `on` a pressed or
selected control, `[x]` a ticked one. Where an action ends the episode, as Submit does, the last
state starts with "right" or "wrong", as the page rewards it.

The tasks of `heldout_tasks` are the split "heldout"; the other tasks' episodes have disjoint ranges
of page seeds in "train", "validation" and "test". An episode is at most `TURNS` actions of a
collector that prefers what the instruction names and what has not been without effect.

The pages are driven through selenium alone, without the package's gymnasium environments: those
load a page once and keep it for all episodes, run on the machine's clock, and need three calls for
a step. Here every episode loads its page anew, under a clock that only actions move
(miniwob_page.py), and a step is one call, so that the same settings give the same bytes.

Source: https://pypi.org/project/miniwob 1.1.0, MIT licence.
"""

import collections
import contextlib
import ctypes
import importlib.util
import os
import pathlib
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from swirl_jax.data.collection import Episode, Played
from swirl_jax.data.collectors import miniwob_actions, miniwob_page

# Task → what its controls must match to end an episode; the collector waits before it clicks them.
_SUBMIT = "Submit|Login|Search"
TASKS = {
  "choose-list": _SUBMIT,
  "click-checkboxes-soft": _SUBMIT,
  "click-tab-2-hard": "^link ",
  "email-inbox-nl-turk": "^trash|^send-",
  "enter-time": _SUBMIT,
  "form-sequence-2": _SUBMIT,
  "login-user": _SUBMIT,
  "multi-orderings": _SUBMIT,
  "navigate-tree": "^file ",
  "odd-or-even": _SUBMIT,
  "use-spinner": _SUBMIT,
  "click-checkboxes": _SUBMIT,
  "enter-password": _SUBMIT,
  "multi-layouts": _SUBMIT,
  "simple-algebra": _SUBMIT,
  "simple-arithmetic": _SUBMIT,
  "text-transform": _SUBMIT,
}
HELDOUT = ("click-checkboxes", "enter-password", "multi-layouts")
SHORT = ("simple-algebra", "simple-arithmetic", "text-transform")  # not among the defaults
TRAINED = tuple(task for task in TASKS if task not in HELDOUT + SHORT)
SPLITS = ("train", "validation", "test", "heldout")
# Of the splits: episodes of each task. longest: letters of x and of y.
DEFAULTS = {
  **{"seed": 0, "tasks": TRAINED, "heldout_tasks": HELDOUT, "longest": 700},
  **{"train": 150, "validation": 10, "test": 20, "heldout": 30},
}

TURNS = 12  # actions of an episode
PATIENCE = 6  # after so many of them, the collector is ready to end the episode
TEMPORARY = 44  # bytes of the temporary folder's path: a socket's, 62 longer, may have 107
SEEDS = 1_000_000  # page seeds of one split
_RANGES = {"seed": (0, 2**31 - 1), "longest": (100, 10_000), **dict.fromkeys(SPLITS, (1, SEEDS))}
TIME_LIMIT = 60.0  # seconds of an episode
PACKAGES = ("miniwob", "selenium", "numpy")
VERSION = 1
PAGE_LIMIT = 15.0  # seconds to load a page
SCRIPT_LIMIT = 10.0  # seconds of one action
CALL_LIMIT = 20.0  # seconds of any call: the driver itself waits for ever for a page that hangs

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "apt-get install chromium chromium-driver"
FLAGS = (
  *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
  *("--disable-breakpad", "--disable-component-update", "--remote-debugging-pipe"),
  *("--lang=en-US", "--window-size=800,600"),
)

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


# -- settings --------------------------------------------------------------------------------------


def _pages() -> pathlib.Path | None:
  """The folder of the package's pages, which is not imported (it would bring in gymnasium)."""
  found = importlib.util.find_spec("miniwob")
  return pathlib.Path(found.origin).parent / "html" / "miniwob" if found else None


def _browser() -> str | None:
  return next(filter(None, map(shutil.which, BROWSERS)), None)


def check(settings: Mapping[str, Any]) -> None:
  """ValueError: the setting that is wrong, or what is not installed, and how to install it."""
  for name, (low, high) in _RANGES.items():
    value = settings[name]
    if type(value) is not int or not low <= value <= high:
      raise ValueError(f"miniwob: {name} is {value!r}, must be an integer from {low} to {high}")
  for name in ("tasks", "heldout_tasks"):
    for task in settings[name]:
      if task not in TASKS:
        raise ValueError(f"miniwob: {name} has {task!r}, must be of {', '.join(TASKS)}")
  if not settings["tasks"]:
    raise ValueError(f"miniwob: tasks is empty, must have some of {', '.join(TASKS)}")
  names = [*settings["tasks"], *settings["heldout_tasks"]]
  for task in names:
    if names.count(task) > 1:
      raise ValueError(f"miniwob: {task!r} is there twice, must be in tasks or heldout_tasks, once")
  for package in ("miniwob", "selenium"):
    if importlib.util.find_spec(package) is None:
      raise ValueError(f"miniwob: {package} is not installed: pip install -e '.[miniwob]'")
  if _browser() is None:
    raise ValueError(f"miniwob: none of {', '.join(BROWSERS)} is on the PATH: {INSTALL}")
  if shutil.which("chromedriver") is None:
    raise ValueError(f"miniwob: chromedriver is not on the PATH: {INSTALL}")
  folder = tempfile.gettempdir()
  if len(os.fsencode(folder)) > TEMPORARY:
    raise ValueError(f"miniwob: TMPDIR is {folder!r}, must be a path of at most {TEMPORARY} bytes")


def episodes(settings: Mapping[str, Any]) -> list[Episode]:
  """Every episode: `settings[split]` of each task, whose page seeds no other split has."""
  found = []
  for place, split in enumerate(SPLITS):
    for task in settings["heldout_tasks" if split == "heldout" else "tasks"]:
      for i in range(settings[split]):
        seed = (settings["seed"] * len(SPLITS) + place) * SEEDS + i
        arguments = {"task": task, "seed": seed, "longest": settings["longest"]}
        found.append(Episode(f"{split}-{task}-{i}", task, split, arguments))
  return found


# -- the browser -----------------------------------------------------------------------------------


def _die_with_parent() -> None:
  """Linux: the driver is killed when the worker is, and the browser ends as its pipe closes."""
  ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _open(profile: str):
  """A headless browser in which a page has no time and place of its own."""
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  options.binary_location = _browser()
  for flag in (*FLAGS, f"--user-data-dir={profile}"):
    options.add_argument(flag)
  service = webdriver.ChromeService(
    shutil.which("chromedriver"),
    env={**os.environ, "TMPDIR": profile},
    popen_kw={"preexec_fn": _die_with_parent, "start_new_session": True},
  )
  driver = webdriver.Chrome(options=options, service=service)
  driver.set_page_load_timeout(PAGE_LIMIT)
  driver.set_script_timeout(SCRIPT_LIMIT)
  driver.command_executor.client_config.timeout = CALL_LIMIT
  for command, arguments in (
    ("Emulation.setTimezoneOverride", {"timezoneId": "UTC"}),
    ("Emulation.setLocaleOverride", {"locale": "en-US"}),
    ("Emulation.setFocusEmulationEnabled", {"enabled": True}),
    ("Page.addScriptToEvaluateOnNewDocument", {"source": miniwob_page.CLOCK}),
  ):
    driver.execute_cdp_cmd(command, arguments)
  return driver


@contextlib.contextmanager
def session(settings: Mapping[str, Any]) -> Iterator[Callable[[Episode], Played]]:
  """Opens a browser, and yields the function that plays an episode in it. Settings have no say in
  it: an episode carries all that it needs.
  """
  pages = _pages()
  with tempfile.TemporaryDirectory(prefix="miniwob_", ignore_cleanup_errors=True) as profile:
    driver = _open(profile)

    def play(episode: Episode) -> Played:
      driver.get((pages / f"{episode.arguments['task']}.html").as_uri())
      driver.execute_script(miniwob_page.HANDS)
      return rollout(driver.execute_script, **episode.arguments)

    try:
      yield play
      with contextlib.suppress(Exception):  # a browser that hangs or has died does not quit
        driver.quit()
    finally:
      process = driver.service.process
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # the driver's own group: browser and pages
        process.wait()


# -- an episode ------------------------------------------------------------------------------------


def rollout(
  script: Callable[..., dict[str, Any]], *, task: str, seed: int, longest: int
) -> Played:
  """An episode in a page that has just been loaded; `script(code, *arguments)` runs code in it. A
  step from or to a state of more than `longest` letters gives no line, and is counted.
  """
  draw = np.random.default_rng(seed)
  ends = re.compile(TASKS[task])
  seen = script("return swirl.start(arguments[0])", str(seed))
  x, turn, lines = miniwob_actions.describe(seen), 0, []
  counts, idle = {"unchanged": 0, "too_long": 0}, collections.Counter()
  sharp = 1 + 2 * draw.integers(2)  # half of the episodes do mostly what fits best
  for step in range(TURNS):
    choices = miniwob_actions.choices(seen, step >= PATIENCE, ends, draw)
    if not choices:
      break
    dull = [0.02 ** idle[x, a.phrase] * 0.3 ** idle[a.phrase] for _, a in choices]
    weights = np.array([weight for weight, _ in choices]) ** sharp * dull
    action = choices[draw.choice(len(choices), p=weights / weights.sum())][1]
    seen = script("return swirl.act(...arguments)", *action[:3])
    y = miniwob_actions.describe(seen)
    if control := _CONTROL.search(x + y + action.phrase):
      raise ValueError(f"{task}: a state or an action has the control character {control[0]!r}")
    if x == y:
      counts["unchanged"] += 1
      idle.update(((x, action.phrase), action.phrase))
      continue
    if max(len(x), len(y)) > longest:
      counts["too_long"] += 1
    else:
      lines.append({"x": x, "y": y, "z": action.phrase, "turn": turn})
    x, turn = y, turn + 1
    if seen["done"]:
      break
  return Played(lines, counts)
