"""Tables that play a `Role`, so that the very `phase_step` of the transformers drives them.

An outcome (an index) is written as a word of a prefix-free code. The parameters are logits over
outcomes; a token's log-probability is that of the outcomes that begin with the prefix and the token
less that of those that begin with the prefix, so that the sum over a word's tokens is the outcome's
own log-probability, whatever the code. Code and prefix probabilities: Cover and Thomas, "Elements
of Information Theory", chapter 5.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax import prompts
from swirl_jax.types import Rollout, Segment, Transition


@dataclasses.dataclass(frozen=True)
class Code:
  """N words, tuples of token numbers, none of which begins with another. Hashable, thus static."""

  words: tuple[tuple[int, ...], ...]

  def __post_init__(self):
    for i, a in enumerate(self.words):
      if not a:
        raise ValueError(f"code.words[{i}] is empty: allowed are words of at least one token.")
      for j, b in enumerate(self.words):
        if i != j and b[: len(a)] == a:
          raise ValueError(f"code.words[{j}] = {b} begins with words[{i}] = {a}: not prefix-free.")

  @classmethod
  def one_token(cls, size: int) -> "Code":
    """Outcome n is the token n."""
    return cls(tuple((n,) for n in range(size)))

  @classmethod
  def binary(cls, size: int) -> "Code":
    """Words of equal length over two tokens, the fewest that do (at least one)."""
    length = max(1, (size - 1).bit_length())
    return cls(tuple(tuple(n >> i & 1 for i in reversed(range(length))) for n in range(size)))

  @classmethod
  def unary(cls, size: int) -> "Code":
    """Words of every length: 0, 10, 110, …, and the last one without its 0."""
    words = [(1,) * n + (0,) for n in range(size - 1)]
    return cls((*words, (1,) * max(1, size - 1)))

  @property
  def size(self) -> int:
    return len(self.words)

  @functools.cached_property
  def lengths(self) -> np.ndarray:
    """int [N]."""
    return np.array([len(word) for word in self.words])

  @functools.cached_property
  def arrays(self) -> Segment:
    """The words as tokens int32 [N, L] and mask [N, L]; NumPy."""
    length = int(self.lengths.max())
    tokens = np.array([word + (0,) * (length - len(word)) for word in self.words], np.int32)
    return Segment(tokens, np.arange(length) < self.lengths[:, None])

  @functools.cached_property
  def shares(self) -> np.ndarray:
    """Whether words n and m agree in their first t tokens, bool [N, L + 1 (t), N (m)]."""
    length = int(self.lengths.max())
    return np.array(
      [[[a[:t] == b[:t] for b in self.words] for t in range(length + 1)] for a in self.words]
    )

  def segment(self, index) -> Segment:
    """The words of outcomes: int [...] → [..., L]."""
    return Segment(*(jnp.asarray(a)[index] for a in self.arrays))

  def index(self, segment: Segment) -> jax.Array:
    """The outcomes that words stand for; 0 for what is no word. [..., L] → int32 [...]."""
    tokens, mask = self.arrays
    if segment.tokens.shape[-1] != tokens.shape[-1]:
      raise ValueError(
        f"code: words have {tokens.shape[-1]} places; found {segment.tokens.shape[-1]}"
      )
    lead = (1,) * (segment.tokens.ndim - 1)
    tokens, mask = tokens.reshape(lead + tokens.shape), mask.reshape(lead + mask.shape)
    there = segment.mask[..., None, :]
    same = (there == mask) & (~mask | (segment.tokens[..., None, :] == tokens))
    return same.all(-1).argmax(-1).astype(jnp.int32)

  def token_logprobs(self, log_p) -> tuple[jax.Array, jax.Array]:
    """Of every word, each token's log-probability and the entropy of the distribution there.

    log_p [..., N], finite → two arrays [..., N, L], 0 behind a word's end.
    """
    if self.lengths.max() == 1:
      logp = log_p[..., None]
      entropy = -(jnp.exp(log_p) * log_p).sum(-1)[..., None, None]
      return logp, jnp.broadcast_to(entropy, logp.shape)
    lead = (1,) * (log_p.ndim - 1)
    shares = self.shares.reshape(lead + self.shares.shape)
    log_each = log_p[..., None, None, :]  # [..., 1, 1, N]
    log_prefix = jax.nn.logsumexp(jnp.where(shares, log_each, -jnp.inf), axis=-1)
    mask = self.arrays.mask.reshape(lead + self.arrays.mask.shape)
    logp = jnp.where(mask, log_prefix[..., 1:] - log_prefix[..., :-1], 0.0)  # [..., N, L]
    # E of −log p(token) over the words that begin with the prefix.
    given = jnp.where(shares[..., :-1, :], jnp.exp(log_each - log_prefix[..., :-1, None]), 0.0)
    entropy = -(given * logp.swapaxes(-1, -2)[..., None, :, :]).sum(-1)
    return logp, jnp.where(mask, entropy, 0.0)


@dataclasses.dataclass(frozen=True)
class Codes:
  """How a world's three axes are written."""

  x: Code
  y: Code
  z: Code

  @classmethod
  def one_token(cls, shape: tuple[int, int, int]) -> "Codes":
    return cls(*(Code.one_token(n) for n in shape))

  def transition(self, x, y, z=None) -> Transition:
    """Index arrays [B] → a batch of transitions, z latent unless given."""
    latent = None if z is None else self.z.segment(z)
    return Transition(self.x.segment(x), self.y.segment(y), latent)


@dataclasses.dataclass(frozen=True)
class TableRole:
  """A `Role` whose parameters are {"table": logits}, finite.

  field "y", the FWM: [X, Z, Y]; field "z", the IDM: [X, Y, Z]. Where the prompt's given field is
  hidden (`prompts.hide`: the z-free model) it reads {"free": logits [X, Y]} instead. The code is
  prefix-free, so a field needs no end marker. The temperature is that of the outcomes: samples come
  from softmax(logits / temperature).
  """

  field: str
  codes: Codes
  group: int = 1

  def __post_init__(self):
    if self.field not in ("y", "z"):
      raise ValueError(f"role.field = {self.field!r}: allowed are ['y', 'z'].")
    if self.group < 1:
      raise ValueError(f"role.group = {self.group}: allowed is a whole number from 1.")

  @property
  def code(self) -> Code:
    return getattr(self.codes, self.field)

  def rollout(self, params, transition: Transition, key: jax.Array, temperature) -> Rollout:
    logits = self._logits(params, transition, self.group)  # [B, G, N]
    drawn = jax.random.categorical(key, logits / temperature)
    return self.emit(params, transition, drawn, temperature)

  def emit(self, params, transition: Transition, drawn: jax.Array, temperature=1.0) -> Rollout:
    """The rollout in which these outcomes were drawn: int [B, G] → tokens [B, G, L]."""
    logits = self._logits(params, transition, drawn.shape[1])
    words = self.code.segment(drawn)

    def of_drawn(logits):
      logp = self.code.token_logprobs(jax.nn.log_softmax(logits))[0]
      return jnp.take_along_axis(logp, drawn[..., None, None], -2)[..., 0, :]

    complete = jnp.ones(drawn.shape, bool)
    return Rollout(*words, of_drawn(logits), of_drawn(logits / temperature), complete)

  def logprobs(self, params, transition: Transition, target: Segment, *, sampled: bool = False):
    logits = self._logits(params, transition, target.tokens.shape[1])
    at = self.code.index(target)[..., None, None]
    tables = self.code.token_logprobs(jax.nn.log_softmax(logits))
    return tuple(jnp.take_along_axis(a, at, -2)[..., 0, :] for a in tables)

  def separable_loss(self, params, transition, target, data: Any, token_loss, *, sampled=False):
    logp, entropy = self.logprobs(params, transition, target)
    terms, metrics = token_loss(logp, entropy, data)
    return terms.sum(), metrics

  def target(self, segment: Segment) -> Segment:
    return segment

  def content(self, rollout: Rollout) -> Segment:
    return Segment(rollout.tokens, rollout.mask)

  def _logits(self, params, transition: Transition, group: int) -> jax.Array:
    """The logits of each sample's prompt. → [B, G, N]."""
    x = self.codes.x.index(prompts.per_sample(transition.x, group))
    name = "z" if self.field == "y" else "y"
    given = getattr(transition, name)
    if given is None:
      raise ValueError(f"table role: the prompt needs field {name!r}, but the transition has none")
    if given.tokens.shape[-1] == 0:
      return params["free"][x]
    return params["table"][x, getattr(self.codes, name).index(prompts.per_sample(given, group))]
