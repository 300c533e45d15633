"""A world of images without a model: 2 × 2 patches, four codes, each a patch of one grey."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax import prompts, sampling
from swirl_jax.data import builders
from swirl_jax.data.pipeline import Lengths
from swirl_jax.data.tokenizers import EOS, WordTokenizer
from swirl_jax.data.transitions import Record
from swirl_jax.types import Rollout

SIDE, PATCHES = 2, 4
PATCH = 6  # pixels a side
GREYS = np.array([0, 80, 160, 240], np.uint8)  # by code
ACTIONS = tuple(f"make{c}" for c in range(4))
WORDS = (*(f"<{c}>" for c in range(4)), *ACTIONS)
FIRST = WordTokenizer(WORDS).encode("<0>")[0]  # the id of code 0; the codes' ids are consecutive


def pictures(states):
  """uint8 [N, 12, 12, 3]"""
  codes = np.array([[int(w[1:-1]) for w in s.split()] for s in states])
  grey = GREYS[codes].reshape(-1, SIDE, SIDE).repeat(PATCH, 1).repeat(PATCH, 2)
  return np.repeat(grey[..., None], 3, -1)


def encode(drawn):
  """The other way, by the first pixel of each patch."""
  codes = np.searchsorted(GREYS, drawn[:, ::PATCH, ::PATCH, 0]).reshape(-1, PATCHES)
  return [" ".join(f"<{c}>" for c in row) for row in codes]


def render(state, marks=()):
  picture = pictures([state])[0].copy()
  for i in marks:
    top, left = i // SIDE * PATCH, i % SIDE * PATCH
    picture[top, left : left + PATCH] = (255, 0, 0)
  return picture


WORLD = builders.World(
  name="greys", words=WORDS, state_len=PATCHES, action_len=1, builder=None,
  action_class=lambda phrase: phrase if phrase in ACTIONS else None, render=render,
  codes=(FIRST, FIRST + 4), pictures=pictures,
  encode=encode)  # fmt: skip
LENGTHS = Lengths(PATCHES, PATCHES, 1)


def record(x, code, episode, turn, level="easy"):
  """The action shifts the codes and adds one."""
  y = " ".join([*x.split()[1:], f"<{code}>"])
  return Record(x, y, f"make{code}", episode, turn, "make", level)


def _records():
  found = []
  for episode, level, (start, codes) in (
    ("a", "easy", ("<0> <0> <1> <2>", (3, 1))), ("b", "easy", ("<3> <2> <1> <0>", (0, 2))),
    ("c", "hard", ("<1> <1> <2> <2>", (0, 0)))):  # fmt: skip
    x = start
    for turn, code in enumerate(codes):
      found.append(record(x, code, episode, turn, level))
      x = found[-1].y
  return found


RECORDS = _records()


@dataclasses.dataclass(frozen=True)
class Player:
  """Plays both parts by rule. As the FWM all samples but number params["good"] have code 0 at place
  params["place"] (nowhere where it is negative). logp is −1 a token; as a judge the IDM takes 1 off
  where y's last code isn't that of z; as the FWM 1 is taken off each code that is wrong.
  """

  field: str
  decoding: sampling.Decoding

  def _right(self, transition):
    if self.field == "y":
      code = transition.z.tokens[..., :1] - len(GREYS)
      return jnp.concatenate([transition.x.tokens[:, 1:], code], -1)
    return transition.y.tokens[..., -1:] + len(GREYS)

  def rollout(self, params, transition, key, temperature):
    right = self._right(transition)
    b, n = right.shape
    g = self.decoding.group
    tokens = jnp.broadcast_to(right[:, None], (b, g, n))
    if self.field == "y":
      spoilt = (jnp.arange(n) == params["place"]).reshape(1, 1, n)
      spoilt &= (jnp.arange(g) != params["good"]).reshape(1, g, 1)
      tokens = jnp.where(spoilt, FIRST, tokens)
    else:
      tokens = jnp.concatenate([tokens, jnp.full((b, g, 1), EOS)], 2)
    mask = jnp.ones(tokens.shape, bool)
    logp = -jnp.ones(tokens.shape)
    return Rollout(tokens.astype(jnp.int32), mask, logp, logp, jnp.ones((b, g), bool))

  def logprobs(self, params, transition, target, *, sampled=False):
    logp = -jnp.ones(target.mask.shape)
    right = self._right(transition)
    if right.ndim == 2:
      right = right[:, None]
    wrong = target.tokens[..., : right.shape[-1]] != right
    logp = logp.at[..., : right.shape[-1]].add(-1.0 * wrong)
    return logp, jnp.zeros_like(logp)

  def target(self, segment):
    return prompts.with_end(segment, (EOS,))

  def content(self, rollout):
    return prompts.content(rollout, self.decoding.end)


FWM = Player("y", sampling.Decoding(length=PATCHES, group=1, end=None))
IDM = Player("z", sampling.Decoding(length=2, group=1, end=EOS))
PERFECT = {"place": -1, "good": -1}
KEY = {"key": jax.random.key(0), "batch": 4, "world": WORLD}
