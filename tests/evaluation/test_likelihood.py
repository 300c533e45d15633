"""Distractors by hand; DiscEdit and naturalness of models whose likelihoods are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from swirl_jax import prompts, sampling, sharding
from swirl_jax.data.pipeline import Lengths
from swirl_jax.data.tokenizers import EOS, WordTokenizer
from swirl_jax.data.transitions import Record
from swirl_jax.evaluation import likelihood, one_step
from swirl_jax.types import Rollout

TOKENIZER = WordTokenizer(("a", "b", "c", "d", "go", "run"))
B, RUN = TOKENIZER.encode("b run")


def record(x, y, episode, turn, level="plain", z="go"):
  return Record(x, y, z, episode, turn, z, level)


RECORDS = [
  record("a a", "a b", "one", 0),
  record("a b", "a c", "one", 1),
  record("a c", "a b", "one", 2),  # back again: the y of turn 0
  record("b b", "b", "two", 0),
  record("c c", "c d d", "three", 0, level="other"),
]


@pytest.fixture(autouse=True)
def mesh():
  with jax.set_mesh(sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])):
    yield


@pytest.fixture(scope="module")
def split():
  return one_step.examples(RECORDS, TOKENIZER, Lengths(3, 3, 2))


def test_distractors_by_hand():
  found = likelihood.distractors(RECORDS)
  # Turn 1 has turns 0 and 2 beside it: the y of both is its x.
  assert found["episode"].tolist() == [1, -1, -1, -1, -1]
  level = found["level"].tolist()
  assert level[:3] == [3, 3, 3] and level[3] in (0, 1, 2) and level[4] == -1
  assert likelihood.distractors(RECORDS)["level"].tolist() == level


def test_the_nearest_by_turn_is_taken_the_later_of_two():
  rows = [record(f"a {t}", f"a {t + 1}", "e", t) for t in (0, 1, 3, 5)]
  # From turn 3: turn 1 (y: a 2) and turn 5 are as near.
  assert likelihood.distractors(rows)["episode"].tolist() == [1, 2, 3, 2]


def test_white_space_makes_no_other_state():
  rows = [record("a", "a  b", "e", 0), record("c", "a b", "e", 1), record("d", "d b", "f", 0)]
  assert likelihood.distractors(rows)["episode"].tolist() == [-1, -1, -1]


@dataclasses.dataclass(frozen=True)
class Scorer:
  """−1 a token, but `params["price"]` for the words b and run; samples are "run run"."""

  field: str
  decoding: sampling.Decoding = sampling.Decoding(length=3, group=1, end=EOS)

  def logprobs(self, params, transition, target, *, sampled=False):
    priced = (target.tokens == B) | (target.tokens == RUN)
    logp = jnp.where(priced, params["price"], -1.0)
    return logp, jnp.zeros_like(logp)

  def rollout(self, params, transition, key, temperature):
    count = len(transition.x.tokens)
    tokens = jnp.broadcast_to(jnp.array([RUN, RUN, EOS], jnp.int32), (count, 1, 3))
    mask = jnp.ones(tokens.shape, bool)
    return Rollout(tokens, mask, -1.0 * mask, -1.0 * mask, mask[..., 0])

  def target(self, segment):
    return prompts.with_end(segment, (EOS,))

  def content(self, rollout):
    return prompts.content(rollout, EOS)


def shares(price, kind):
  """By the definition, one transition at a time: [share by mean, share by sum], and how many."""
  logp = lambda text: [price if w == "b" else -1.0 for w in text.split()] + [-1.0]  # noqa: E731
  rows, wins = likelihood.distractors(RECORDS), []
  for i, r in enumerate(RECORDS):
    if kind == "unchanged":
      wrong = r.x
    elif rows[kind][i] >= 0:
      wrong = RECORDS[rows[kind][i]].y
    else:
      continue
    gaps = [value(logp(r.y)) - value(logp(wrong)) for value in (np.mean, np.sum)]
    wins.append(0.5 + 0.5 * np.sign(gaps))
  return np.mean(wins, 0), len(wins)


@pytest.mark.parametrize("price", [-0.5, -1.0, -2.0])
def test_discedit_one_at_a_time(split, price):
  role, params = Scorer("y"), {"price": jnp.float32(price)}
  truth = one_step.score(role, params, split.data, batch=2)
  found = likelihood.discedit(role, params, split, truth, batch=2)
  for kind in likelihood.DISTRACTORS:
    expected, count = shares(price, kind)
    assert found[kind]["count"] == count
    assert [found[kind][n]["value"] for n in ("mean", "sum")] == pytest.approx(expected), kind


def test_discedit_by_hand(split):
  """ "a b" against "a c", where b is likelier than all else, then as likely, then less."""
  for price, expected in ((-0.5, 1.0), (-1.0, 0.5), (-2.0, 0.0)):
    role, params = Scorer("y"), {"price": jnp.float32(price)}
    truth = one_step.score(role, params, split.data, batch=2)
    found = likelihood.discedit(role, params, split, truth, batch=2)["episode"]
    assert (found["count"], found["mean"]["value"], found["sum"]["value"]) == (
      1,
      expected,
      expected,
    )
    assert found["mean"]["low"] == found["mean"]["high"] == expected


def test_a_kind_without_a_distractor_has_no_score():
  split = one_step.examples(RECORDS[3:], TOKENIZER, Lengths(3, 3, 2))
  role, params = Scorer("y"), {"price": jnp.float32(-0.5)}
  truth = one_step.score(role, params, split.data, batch=2)
  found = likelihood.discedit(role, params, split, truth, batch=2)
  assert found["episode"] == {"count": 0, "mean": {"value": None, "low": None, "high": None},
                              "sum": {"value": None, "low": None, "high": None}}  # fmt: skip


def test_naturalness_by_hand(split):
  """True: "go" and the end, −1 each; sampled: "run run" at `price` and the end."""
  role = Scorer("z")
  for price in (-0.5, -1.0, -3.0):
    reference = {"price": jnp.float32(price)}
    found = likelihood.naturalness(
      role, {"price": jnp.float32(-9.0)}, reference, split, key=jax.random.key(0), temperature=1.0,
      batch=2)  # fmt: skip
    perplexity = np.exp((-2 * price + 1) / 3)
    assert found["perplexity"]["value"] == pytest.approx(perplexity, rel=1e-5)
    assert found["perplexity_reference"]["value"] == pytest.approx(np.e, rel=1e-5)
    assert found["naturalness"]["value"] == pytest.approx(perplexity / np.e, rel=1e-5)
    assert found["naturalness"]["low"] == pytest.approx(found["naturalness"]["high"], rel=1e-5)
