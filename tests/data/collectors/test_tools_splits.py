"""How the tools' scenarios are divided: by size, by API, and never by what looks the same."""

import collections

import hypothesis
import hypothesis.strategies as st

from swirl_jax.data.collectors import tools


def test_two_hundred_scenarios_are_split_140_20_40():
  found = tools.split_of([[f"a {i}"] for i in range(200)], seed=0)
  assert collections.Counter(found) == {"train": 140, "validation": 20, "test": 40}
  assert found == tools.split_of([[f"a {i}"] for i in range(200)], seed=0)
  assert found != tools.split_of([[f"a {i}"] for i in range(200)], seed=1)


def test_scenarios_that_look_the_same_are_not_more_than_a_split_has_room_for():
  numbers = [i for i in range(2) for _ in range(6)] + list(range(2, 10))
  for seed in range(5):
    found = tools.split_of([[f"a {n}"] for n in numbers], seed=seed)
    assert collections.Counter(found) == {"train": 14, "validation": 2, "test": 4}


def test_each_api_is_divided_much_like_the_whole():
  kinds = [kind for kind, count in (("a", 100), ("b", 60), ("c", 40)) for _ in range(count)]
  found = tools.split_of([[f"{kind} {i}"] for i, kind in enumerate(kinds)], seed=0)
  for kind in "abc":
    count = collections.Counter(s for k, s in zip(kinds, found, strict=True) if k == kind)
    for split, share in tools.SHARES.items():
      assert abs(count[split] - share / 10 * kinds.count(kind)) <= 1


@hypothesis.given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=60))
def test_scenarios_that_look_the_same_share_a_split(numbers):
  looks = [[f"a {n}" for n in row] for row in numbers]
  found = tools.split_of(looks, seed=3)
  splits = collections.defaultdict(set)
  for row, split in zip(looks, found, strict=True):
    assert split in tools.SHARES
    for text in row:
      splits[text].add(split)
  assert all(len(names) == 1 for names in splits.values())
