"""Records, their validation, and chains of turns."""

import dataclasses

import pytest

from swirl_jax.data import transitions
from swirl_jax.data.transitions import Record

GOOD = Record(x="a", y="b", z="go", episode="e", turn=0, action="go", level="l")


def record(x, y, turn, episode="e"):
  return dataclasses.replace(GOOD, x=x, y=y, turn=turn, episode=episode)


def test_a_good_record_passes_and_comes_back_from_bytes():
  assert transitions.validate(GOOD, "test") == GOOD
  fields = dataclasses.asdict(GOOD)
  example = {k: v.encode() if isinstance(v, str) else v for k, v in fields.items()}
  assert transitions.from_example(example) == GOOD


@pytest.mark.parametrize(
  ("field", "value", "split", "message"),
  [
    ("y", "a", "test", r"split 'test', episode 'e', turn 0: y is 'a', must be another state"),
    ("x", " ", "test", "x is ' ', must be non-empty"),
    ("turn", -1, "labelled", "turn is -1, must be 0 or more"),
    ("turn", 1.0, "labelled", "turn is 1.0, must be of type int"),
    ("z", "", "labelled", "z is '', must be non-empty"),
    ("z", " ", "test", "z is ' ', must be non-empty"),
    ("episode", "", "test", "episode is '', must be non-empty"),
    ("level", " ", "test", "level is ' ', must be non-empty"),
    ("turn", True, "labelled", "turn is True, must be of type int"),
    ("z", "go", "unlabelled", "z is 'go', must be empty: this split holds no actions"),
    ("x", "a", "train", "unknown split 'train'; the splits are labelled"),
  ],
)
def test_a_bad_record_is_refused_by_name(field, value, split, message):
  with pytest.raises(ValueError, match=message):
    transitions.validate(dataclasses.replace(GOOD, **{field: value}), split)


def test_the_class_of_an_action_does_not_slip_into_the_unlabelled_split():
  with pytest.raises(ValueError, match="action is 'go', must be empty"):
    transitions.validate(dataclasses.replace(GOOD, z=""), "unlabelled")


def test_chains_follow_the_states_and_never_cross_episodes():
  records = [
    record("c", "d", 4),  # order on disk does not matter, nor do steps that changed nothing
    record("a", "b", 0),
    record("b", "c", 1),
    record("d", "e", 0, "a"),  # continues, but in another episode (whose name sorts first)
    record("e", "g", 1, "a"),
    record("x", "y", 3, "a"),  # turn 2 was dropped
    record("y", "x", 4, "a"),
  ]
  assert transitions.chains(records, 1) == [(1,), (2,), (0,), (3,), (4,), (5,), (6,)]
  assert transitions.chains(records, 2) == [(1, 2), (3, 4), (5, 6)]
  assert transitions.chains(records, 3) == [(1, 2, 0)]
  assert transitions.chains([], 2) == []
  with pytest.raises(ValueError, match="length is 0"):
    transitions.chains(records, 0)
  # As sequences none is lost: what is left of a run is a shorter one.
  assert transitions.sequences(records, 2) == [(1, 2), (0,), (3, 4), (5, 6)]
  assert transitions.sequences(records, 4) == [(1, 2, 0), (3, 4), (5, 6)]
  assert transitions.sequences([], 2) == []
