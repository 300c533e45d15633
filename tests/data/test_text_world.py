"""Lines as a world's records: what is one transition, what training may see, how long texts are."""

import pytest

from swirl_jax.data.builders import jsonl, text_world
from swirl_jax.data.transition_lines import Line, meanings_of

SETTINGS = {**jsonl.DEFAULTS, "path": "own.jsonl"}


def lines(*rows):
  """Of (split, x, y, z); each is an episode of its own."""
  return [Line(i, x, y, z, f"e{i}", 0, "all", s, "") for i, (s, x, y, z) in enumerate(rows, 1)]


OTHERS = (
  ("train", "k", "l", ""), ("validation", "v0", "v1", "go"), ("test", "t0", "t1", "go"),
)  # fmt: skip


def divided(*rows):
  found = lines(*rows, *OTHERS)
  return text_world.divide(found, meanings_of(found), SETTINGS)


def test_two_phrases_for_one_step_are_two_transitions():
  splits, counts = divided(("train", "a", "b", "go"), ("train", "a", "b", "walk on"))
  assert sorted(r.z for r in splits["labelled"]) == ["go", "walk on"]
  assert counts["file"]["duplicates"] == 0


def test_white_space_makes_no_other_transition():
  splits, counts = divided(("train", "a c", "b", "go on"), ("train", " a  c", "b\n", "go  on"))
  assert [r.y for r in splits["labelled"]] == ["b"] and counts["file"]["duplicates"] == 1


def test_a_bpe_vocabulary_is_learned_from_training_alone():
  """A word that only evaluation has is as many tokens as bytes; training's are merged."""
  rows = [("train", f"common{i}", f"common{i + 1}", "step") for i in range(30)]
  rows += [("test", f"qqqqzzzz {i}", f"qqqqzzzz {i + 1}", "jjjjwwww") for i in range(60)]
  source = text_world.source_of("", lines(*rows, *OTHERS), {**SETTINGS, "bpe": 400}, {})
  assert len(source.reader.encode("common1")) <= 2
  for word in ("qqqqzzzz", "jjjjwwww"):
    assert len(source.reader.encode(word)) == 8


@pytest.mark.parametrize("longest", ["x", "y"])
def test_the_longest_state_counts_wherever_it_stands(longest):
  states = {"x": "a", "y": "b"} | {longest: "c d e f g"}
  rows = [("train", states["x"], states["y"], "turn it on")]
  source = text_world.source_of("", lines(*rows, *OTHERS), SETTINGS, {})
  assert (source.state_len, source.action_len) == (5, 3)
