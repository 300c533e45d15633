"""The web world: its texts and its collector, on a page that Python plays."""

import collections
import json
import re
import tempfile

import numpy as np
import pytest

from configs import miniwob as config
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


def played(seed=3, longest=700, **page):
  return miniwob.rollout(Login(**page), task="login-user", seed=seed, longest=longest)


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

  episodes = [
    miniwob.rollout(Buttons(), task="login-user", seed=seed, longest=700) for seed in range(40)
  ]
  assert all(len(p.lines) + p.counts["unchanged"] == miniwob.TURNS for p in episodes)
  share = sum(p.counts["unchanged"] for p in episodes) / (40 * miniwob.TURNS)
  assert 0 < share < 0.65


def test_long_states_are_counted():
  whole, _ = played(note="note")
  most = max(len(text) for line in whole for text in (line["x"], line["y"]))
  assert played(note="note", longest=most).lines == whole
  lines, counts = played(note="note", longest=most - 1)
  assert lines == [n for n in whole if max(len(n["x"]), len(n["y"])) < most] != whole
  assert counts["too_long"] == len(whole) - len(lines)


def test_a_long_state_gives_no_line_from_it_and_its_turn_is_left_out():
  class Grows:
    """A page whose note is long between its first and its second press."""

    count = 0

    def __call__(self, code, *given):
      self.count += given[:2] == (0, "click")
      note = {"text": "n" * (300 if self.count == 1 else 1 + self.count)}
      return page("Press.", note, item("button", " go"))

  lines, counts = miniwob.rollout(Grows(), task="login-user", seed=0, longest=100)
  assert [line["turn"] for line in lines] == list(range(2, miniwob.TURNS))
  assert counts == {"unchanged": 0, "too_long": 2}


def test_the_page_is_started_with_the_episodes_seed_and_ended_late():
  given, presses = [], collections.Counter()
  for seed in range(3, 33):
    form = Login()
    steps = []
    form.act = lambda index, hand, text, steps=steps: steps.append(index)
    miniwob.rollout(form, task="login-user", seed=seed, longest=700)
    given.append(form.seed)
    presses.update("late" if i >= miniwob.PATIENCE else "soon" for i in range(len(steps))
                   if steps[i] == 2)  # fmt: skip
  assert given == [str(seed) for seed in range(3, 33)]
  assert presses["late"] > 4 * presses["soon"]


def test_what_ends_an_episode_is_that_of_the_pages_task():
  class Tree:
    def __init__(self):
      self.opened = []

    def __call__(self, code, *given):
      self.opened += given[:1] if "act" in code else ()
      return page("Open it.", item("file", " a"), item("folder", " b"))

  trees = [Tree() for _ in range(40)]
  for seed, tree in enumerate(trees):
    miniwob.rollout(tree, task="navigate-tree", seed=seed, longest=700)
  first = collections.Counter(tree.opened[0] for tree in trees)
  assert first[0] < 10 < first[1]  # the file ends it, so the folder comes first


def test_nothing_to_do_is_an_empty_episode():
  assert played(locked=True) == ([], {"unchanged": 0, "too_long": 0})


def test_a_control_character_is_an_error():
  with pytest.raises(ValueError, match=r"login-user: .* control character '\\x07'"):
    played(note="ding\x07")

  class Rings(Login):
    def act(self, *given):
      self.note, self.done = "ding\x07", True  # in the last state alone

  with pytest.raises(ValueError, match="control character"):
    miniwob.rollout(Rings(), task="login-user", seed=3, longest=700)


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
  assert {e.arguments["longest"] for e in miniwob.episodes({**TINY, "longest": 333})} == {333}
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
    ({"heldout_tasks": ("click-me",)}, "heldout_tasks has 'click-me', must be of choose-list, "),
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
