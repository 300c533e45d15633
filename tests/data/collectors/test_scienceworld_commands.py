"""What ScienceWorld's collector would do in a state, and how it answers the simulator."""

import collections
import random

import pytest

from swirl_jax.data.collectors import scienceworld
from swirl_jax.data.collectors import scienceworld_text as text


def state(*lines, carried=(), doors=""):
  """A hut with an item a line."""
  seen, held = ("".join(f"\t{line}\n" for line in some) for some in (lines, carried))
  return text.parse(
    f"This room is called the hut. In it, you see: \n{seen}You also see:\n{doors}",
    f"In your inventory, you see:\n{held}",
  )


def candidates(*lines, carried=()):
  found = text.candidates(state(*lines, carried=carried))
  return collections.defaultdict(list, found)


def test_what_is_carried_is_dropped_and_what_it_holds_is_picked_up():
  jar = "a jar (containing a pea seed)"
  found = candidates(carried=[jar])
  assert (found["drop"], found["pick up"]) == (["drop jar"], ["pick up pea seed"])
  four = candidates("a cup", carried=[jar, "a fork", "a spoon", "a knife"])
  assert not four["pick up"] and len(four["drop"]) == 4


def test_what_stands_in_its_room_is_neither_moved_nor_picked_up():
  plane = "an inclined plane B, with:  a wood block at the top of the plane"
  found = candidates(plane, "the ground", "a drawer", "a table. On the table is: nothing.")
  assert found["pick up"] == ["pick up wood block"]
  assert found["move"] == ["move wood block to table"]  # it is on the plane already
  found = candidates("an inclined plane B", "a steel block")
  assert "move steel block to inclined plane B" in found["move"]


def test_things_are_moved_to_what_is_open():
  found = candidates(
    "a freezer. The freezer door is open. In the freezer is: nothing.",
    "a fridge. The fridge door is closed. ",
    "a jug (containing a pea seed)",
  )
  assert "move jug to freezer" in found["move"] and "move pea seed to freezer" in found["move"]
  assert not any(c.endswith(("to fridge", "to jug")) for c in found["move"])


def test_a_vessel_is_poured_dunked_or_mixed_by_what_it_holds():
  found = candidates(
    "a sink, which is turned off. In the sink is: a substance called water, a fork.",
    "a tub. In the tub is: nothing.",
    "a cup (containing nothing)",
    "a pot (containing a substance called milk)",
    "a bowl (containing a substance called soap, a substance called milk)",
  )
  assert "pour pot into tub" in found["pour"]
  assert not any(c.startswith("pour cup") for c in found["pour"])
  assert found["dunk"] == ["dunk cup into sink"]
  assert found["mix"] == ["mix bowl"]


def test_some_things_are_left_alone():
  found = candidates(
    "a bee hive. The bee hive door is closed. ",
    "a cupboard. The cupboard door is closed. ",
    "a red light bulb, which is off",
    "a stove, which is turned off. On the stove is: nothing.",
    "a red apple",
    "an apple tree",
  )
  assert found["open"] == ["open cupboard"]  # never the bees
  assert found["activate"] == ["activate stove"]
  assert found["eat"] == ["eat red apple"]


def test_vessels_that_hold_several_things_are_not_called_by_the_first():
  found = candidates("a cup (containing a fork, a spoon)", "a cup (containing a knife)")
  assert {"pick up cup", "pick up cup containing knife"} <= set(found["pick up"])


# -- a command that is chosen --------------------------------------------------------------------

DOORS = "\tA door to the hall (that is open)\n\tA door to the bath (that is closed)\n"
STOVE = "a stove, which is turned off. On the stove is: nothing."
HUT = state(STOVE, "a cupboard. The cupboard door is closed. ", "an apple", doors=DOORS)


def test_a_detour_stays_where_it_is():
  seen = {scienceworld._choose(HUT, random.Random(i), set(), True) for i in range(60)}
  assert seen == {"open cupboard", "activate stove", "wait1"}
  assert scienceworld._choose(HUT, random.Random(0), seen, True) == ""


def test_kinds_of_commands_are_chosen_by_their_weights():
  chosen = [scienceworld._choose(HUT, random.Random(i), set(), False) for i in range(600)]
  count = collections.Counter(command.split()[0] for command in chosen)
  assert {"go", "pick", "move", "open", "close", "activate", "eat", "wait1"} == set(count)
  assert count["move"] > 4 * count["eat"] and count["open"] > 4 * count["wait1"] > 0


# -- the simulator's questions ---------------------------------------------------------------------


def test_the_answers_to_an_ambiguous_request():
  said = (
    "Ambiguous request: Please enter the number for the action you intended (or blank to cancel):\n"
    "0:\tmove orange (in sink, in kitchen) to stove (in kitchen)\n"
    "1:\tmove orange (in inventory, in agent, in kitchen) to stove (in kitchen)\n\n"
  )
  assert text.options(said) == {
    "0": "move orange in sink to stove",
    "1": "move orange in inventory to stove",
  }
  assert text.options("The door is now open.") == {}


class Asks:
  """Asks once which thing was meant."""

  def __init__(self, *options):
    self.said = "Ambiguous request: Which?\n" + "".join(f"{o}\n" for o in options)
    self.taken = []

  def step(self, command):
    self.taken.append(command)
    return self.said if len(self.taken) == 1 else "Done."


@pytest.mark.parametrize(
  "answers, taken, done",
  [
    ([], "2", "open box in bag"),  # the first of them, by number
    (["10"], "10", "open box in chest"),
    (["7"], "2", "open box in bag"),
  ],
)
def test_the_simulators_question_is_answered(answers, taken, done):
  asks = Asks("10:\topen box (in chest, in hut)", "2:\topen box (in bag, in hut)")
  assert scienceworld._act(asks, "open box", answers) == done
  assert asks.taken == ["open box", taken]


def test_things_that_no_words_tell_apart_are_called_what_the_command_calls_them():
  asks = Asks("0:\topen box (in hut)", "1:\topen box (in hut)")
  assert scienceworld._act(asks, "open the box", []) == "open the box"
