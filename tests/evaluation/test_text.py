"""Comparisons and intervals, by hand."""

import numpy as np
import pytest

from swirl_jax.evaluation import text


def segment(*rows):
  width = max(map(len, rows))
  tokens = np.array([[*r, *[0] * (width - len(r))] for r in rows], np.int32)
  return tokens, np.arange(width) < np.array([[len(r)] for r in rows])


def test_compare_by_hand():
  x = segment([1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3])
  y = segment([1, 5, 3], [1, 5, 3], [1, 5, 6], [1, 2, 3, 4], [1, 5, 3])
  # right; wrong where nothing changed; one of two changes; a missing last word; one word too many
  prediction = segment([1, 5, 3], [9, 5, 3], [1, 5, 3], [1, 2, 3], [1, 5, 3, 3])
  found = text.compare(x, y, prediction)
  assert found.exact.tolist() == [True, False, False, False, False]
  assert found.changed_exact.tolist() == [True, True, False, False, True]
  assert found.changed.tolist() == [1, 1, 2, 1, 1]
  assert found.changed_right.tolist() == [1, 1, 1, 0, 1]
  assert found.unchanged.tolist() == [2, 2, 1, 3, 2]
  assert found.unchanged_right.tolist() == [2, 1, 1, 3, 2]


def test_compare_ignores_what_the_mask_hides():
  x, y = segment([1, 2], [3, 4]), segment([1, 5], [3, 5])
  tokens, mask = segment([1, 5, 7], [3, 5, 7])
  mask[:, 2] = False
  assert text.compare(x, y, (tokens, mask)).exact.all()


def test_by_episode_keeps_the_order_of_appearance():
  found = text.by_episode([1, 0, 1, 1], ["b", "a", "b", "c"])
  assert found == {"correct": [2, 0, 1], "size": [2, 1, 1]}


def test_interval_is_wider_over_episodes_than_over_examples():
  right = np.repeat(np.arange(40) % 2, 10)  # whole episodes right or wrong
  by_episode = text.interval(text.by_episode(right, np.repeat(np.arange(40), 10).tolist()))
  by_example = text.interval(text.by_episode(right, list(range(400))))
  spread = 1.96 * np.sqrt(0.25 / 40)
  assert by_episode == pytest.approx((0.5 - spread, 0.5 + spread), abs=0.02)
  assert by_example[1] - by_example[0] < 0.4 * (by_episode[1] - by_episode[0])
  assert by_episode == text.interval(text.by_episode(right, np.repeat(np.arange(40), 10).tolist()))


def test_a_resample_draws_from_all_episodes():
  draws = text._draws(7)
  assert draws.shape == (text.RESAMPLES, 7) and set(draws.flat) == set(range(7))


def test_interval_of_a_certain_thing_is_a_point():
  assert text.interval({"correct": [2, 3], "size": [2, 3]}) == (1.0, 1.0)


def test_paired_interval():
  rng = np.random.default_rng(1)
  size = [10] * 50
  hard = rng.integers(2, 9, 50)  # both methods share the difficulty of an episode
  a, b = ({"correct": (hard + gain).tolist(), "size": size} for gain in (1, 0))
  assert text.paired_interval(a, b) == pytest.approx((0.1, 0.1, 0.1))
  assert text.interval(a)[0] < text.interval(b)[1]  # which the single intervals do not see
  difference, low, high = text.paired_interval(b, a)
  assert difference == pytest.approx(-0.1) and low <= difference <= high
  with pytest.raises(ValueError, match="same examples"):
    text.paired_interval(a, {"correct": [1], "size": [1]})


def test_an_estimate_of_a_share_is_that_of_the_rows():
  """The same draws as `interval`, whatever is added up."""
  rng = np.random.default_rng(2)
  right, episodes = rng.integers(0, 2, 90), rng.integers(0, 12, 90).tolist()
  found, row = text.ratio(right, 1, episodes), text.with_interval("exact", right, episodes)
  assert found == pytest.approx({"value": row["exact"], "low": row["exact_low"],
                                 "high": row["exact_high"]})  # fmt: skip
  weights = np.asarray(rng.integers(1, 5, 90))
  weighted = text.ratio(right * weights, weights, episodes)
  assert weighted["value"] == pytest.approx((right * weights).sum() / weights.sum())
  assert weighted["low"] < weighted["value"] < weighted["high"]


def test_an_estimate_of_something_that_is_no_mean():
  columns = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
  found = text.estimate(lambda s: s[:, 0] * s[:, 1], columns, ["a", "a", "a"])
  assert found == {"value": 108.0, "low": 108.0, "high": 108.0}


def test_an_estimate_of_what_is_rare_or_absent():
  """Resamples without a part of the whole say nothing of the share."""
  found = text.ratio([0, 1, 0, 0], [0, 1, 0, 0], ["a", "b", "c", "d"])
  assert found == {"value": 1.0, "low": 1.0, "high": 1.0}
  nothing = {"value": None, "low": None, "high": None}
  assert text.ratio([0, 0], [0, 0], ["a", "b"]) == nothing


def test_small_ones():
  assert text.share([1, 2], [3, 3]) == 0.5
  assert text.share([], []) == 0.0
  assert text.unique_share(["a", "b", "a", "a"]) == 0.5
  assert list(text.shares(["b", "c", "b", "a"]).items()) == [("b", 0.5), ("a", 0.25), ("c", 0.25)]
  assert text.accuracy_by(["b", "a", "b"], [True, True, False]) == {
    "a": {"count": 1, "match": 1.0},
    "b": {"count": 2, "match": 0.5},
  }
