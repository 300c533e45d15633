"""Alignments against a search of all of them, and what a prediction has of what is new, by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swirl_jax.evaluation import alignment

WORDS = st.lists(st.sampled_from("abcd"), max_size=7)
TEXT = WORDS.map(" ".join)


def longest(a, b):
  """The length of a longest common subsequence, by trying all of them."""
  subsequences = lambda t: {  # noqa: E731
    tuple(t[i] for i in rows)
    for n in range(len(t) + 1)
    for rows in itertools.combinations(range(len(t)), n)
  }
  return max(map(len, subsequences(a) & subsequences(b)))


@settings(deadline=None, max_examples=150)
@given(WORDS, WORDS)
def test_an_alignment_is_a_longest_common_subsequence(a, b):
  pairs = alignment.align(a, b)
  assert len(pairs) == longest(a, b)
  assert all(a[i] == b[j] for i, j in pairs)
  assert all(p[0] < q[0] and p[1] < q[1] for p, q in itertools.pairwise(pairs))


@settings(deadline=None)
@given(WORDS, WORDS)
def test_the_order_of_the_texts_does_not_matter(a, b):
  assert alignment.align(b, a) == [(j, i) for i, j in alignment.align(a, b)]


def one(x, y, prediction):
  found = alignment.edits([x], [y], [prediction])
  return {name: int(values[0]) for name, values in found._asdict().items()}


@settings(deadline=None)
@given(TEXT, TEXT)
def test_the_truth_is_all_right_and_repeating_x_finds_nothing_new(x, y):
  truth = one(x, y, y)
  for name in ("new", "kept", "gone"):
    assert truth[f"{name}_right"] == truth[name]
  assert truth["new"] + truth["kept"] == truth["predicted"] == len(y.split())
  same = one(x, y, x)
  assert (same["new_right"], same["kept_right"], same["gone_right"]) == (0, same["kept"], 0)


@settings(deadline=None)
@given(TEXT, TEXT, TEXT)
def test_going_back_swaps_new_and_gone(x, y, p):
  there, back = one(x, y, p), one(y, x, p)
  assert (there["new"], there["kept"]) == (back["gone"], back["kept"])
  for name in ("new", "kept", "gone"):
    assert 0 <= there[f"{name}_right"] <= there[name]
  assert there["new_right"] + there["kept_right"] <= there["predicted"]
  # What is aligned with y is the same, whatever was there before.
  assert there["new_right"] + there["kept_right"] == len(alignment.align(y.split(), p.split()))


@settings(deadline=None)
@given(WORDS, WORDS, st.sampled_from(("front", "back")))
def test_common_words_at_either_end_change_nothing(a, b, where):
  x, y = (["s", "t", *t] if where == "front" else [*t, "s", "t"] for t in (a, b))
  bare, longer = one(" ".join(a), " ".join(b), ""), one(" ".join(x), " ".join(y), "")
  assert (longer["new"], longer["gone"]) == (bare["new"], bare["gone"])
  assert longer["kept"] == bare["kept"] + 2


@pytest.mark.parametrize(
  "x, y, prediction, expected",
  [  # new, new_right, kept, kept_right, gone, gone_right, predicted
    # A line in front shifts all that follows: no place is right, every word but one is.
    ("lamp off . door shut", "bell rings . lamp off . door shut", "bell . lamp off . door shut",
     (3, 2, 5, 5, 0, 0, 7)),
    ("door shut", "door open", "door ajar", (1, 0, 1, 1, 1, 1, 2)),
    ("door shut", "door open", "door shut open", (1, 1, 1, 1, 1, 0, 3)),
    ("a b c", "a c", "a b c", (0, 0, 2, 2, 1, 0, 3)),
    ("a b c", "a c", "", (0, 0, 2, 0, 1, 1, 0)),
    ("a", "b", "c d e", (1, 0, 0, 0, 1, 1, 3)),
  ],
)  # fmt: skip
def test_by_hand(x, y, prediction, expected):
  assert tuple(one(x, y, prediction).values()) == expected


def test_many_at_once_and_none():
  found = alignment.edits(["a b", "c"], ["a", "c d"], ["a", "c"])
  assert found.new.tolist() == [0, 1] and found.gone.tolist() == [1, 0]
  assert alignment.edits([], [], []).new.shape == (0,)
  with pytest.raises(ValueError):
    alignment.edits(["a"], ["a"], [])


def test_long_texts_as_word_by_word():
  rng = np.random.default_rng(0)
  a, b = (rng.integers(0, 50, 300).astype(str).tolist() for _ in range(2))
  length = np.zeros((len(a) + 1, len(b) + 1), int)
  for i, j in itertools.product(range(len(a)), range(len(b))):
    grown = length[i, j] + (a[i] == b[j])
    length[i + 1, j + 1] = max(length[i, j + 1], length[i + 1, j], grown)
  assert len(alignment.align(a, b)) == length[-1, -1] > 50
