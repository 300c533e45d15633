"""Grouped decoding: G samples of each of B prompts in one jitted loop, the prompt computed once per
group.

The distribution that is drawn from is softmax(logits / temperature), cut to the top-k tokens and
then to the nucleus of mass top-p. Only allowed tokens have logits: the head is computed for them
alone, and no other has mass in what is drawn from or in the policy.

With guidance the logits that are drawn from are u + s (c − u): c of the prompt, u of an
unconditional one, s the scale (classifier-free guidance, arXiv:2207.12598; on tokens as in Liquid,
arXiv:2412.04332). The policy is that of c all the same.

Every draw is inverse-CDF sampling from one uniform number per sample and token.
"""

import dataclasses

import jax
import jax.numpy as jnp

from swirl_jax import rng, sharding
from swirl_jax.models import columns, decode_loop, transformer
from swirl_jax.models.attention import softcap
from swirl_jax.models.numerics import einsum, times_few
from swirl_jax.sharding import BATCH
from swirl_jax.types import Rollout, Segment


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How completions are drawn. Static; the temperature is an argument of `rollout`.

  length: T, the most tokens of a completion, end marker included. group: G. end: id of the end
  marker; None: every completion has exactly T tokens, as an image has. top_k: 0 keeps all tokens.
  top_p: 1.0 keeps all. greedy: the most likely token, of guided logits where there is guidance.
  allowed: ranges (start, stop) of token ids, rising and disjoint, None for all; must hold `end`.
  guidance: the scale s; 1.0 is none, and costs nothing.
  """

  length: int
  group: int
  end: int | None
  top_k: int = 0
  top_p: float = 1.0
  greedy: bool = False
  allowed: columns.Ranges | None = None
  guidance: float = 1.0

  def __post_init__(self):
    for name, low in (("length", 1), ("group", 1), ("top_k", 0)):
      if getattr(self, name) < low:
        raise ValueError(
          f"decoding.{name} = {getattr(self, name)}: allowed is a whole number from {low}."
        )
    if not 0.0 < self.top_p <= 1.0:
      raise ValueError(f"decoding.top_p = {self.top_p}: allowed is more than 0 and at most 1.")
    if not 1.0 <= self.guidance < float("inf"):
      raise ValueError(f"decoding.guidance = {self.guidance}: allowed is a number from 1.")
    columns.check(self.allowed, "decoding.allowed")
    if (
      self.allowed is not None
      and self.end is not None
      and not any(a <= self.end < b for a, b in self.allowed)
    ):
      raise ValueError(f"decoding.allowed = {self.allowed} leaves out the end marker {self.end}.")


def keep_top(p: jax.Array, *, top_k: int, top_p: float) -> jax.Array:
  """Zeroes all but the k most probable tokens, then all but the smallest set of the most probable
  with mass ≥ top_p of what is left.

  p [..., V], not normalised, its largest at most 1 → the same shape. No sort: the cut is found by
  bisection over the bits of float32, in 30 sums over V, exactly up to ties, which are kept. Nucleus
  sampling: arXiv:1904.09751.
  """

  def cut(p, enough):  # the largest threshold that still keeps enough
    def halve(_, bounds):
      low, high = bounds
      middle = low + (high - low) // 2
      t = jax.lax.bitcast_convert_type(middle, jnp.float32)
      good = enough(jnp.where(p >= t, p, 0.0))
      return jnp.where(good, middle, low), jnp.where(good, high, middle)

    shape = p.shape[:-1] + (1,)
    low, high = jnp.zeros(shape, jnp.int32), jnp.full(shape, 0x3F800001, jnp.int32)
    low, _ = jax.lax.fori_loop(0, 30, halve, (low, high))
    return jnp.where(p >= jax.lax.bitcast_convert_type(low, jnp.float32), p, 0.0)

  if top_k:
    p = cut(p, lambda kept: (kept > 0).sum(-1, keepdims=True) >= top_k)
  if top_p < 1.0:
    mass = top_p * p.sum(-1, keepdims=True)
    p = cut(p, lambda kept: kept.sum(-1, keepdims=True) >= mass)
  return p


def inverse_cdf(p: jax.Array, u: jax.Array) -> jax.Array:
  """The token at which the running sum of p passes u · Σp; never one of zero probability.

  p [..., V], u [...] in [0, 1) → int32 [...].

  In two levels, about √V blocks and then the places of one block, so that only one block is summed
  token by token.
  """
  size = p.shape[-1]
  block = max(1, 2 ** ((size - 1).bit_length() // 2))
  pad = [(0, 0)] * (p.ndim - 1) + [(0, -size % block)]
  blocks = jnp.pad(p, pad).reshape(*p.shape[:-1], -1, block)  # [..., V / block, block]

  def pick(mass, target):
    # The first place of some mass whose running sum exceeds the target, and what is left of the
    # target there. A running sum is made in parallel: it may move by a rounding, even back, where
    # the mass is zero, and so it alone does not tell which places count.
    running, some = jnp.cumsum(mass, -1), mass > 0
    end = jnp.where(some, running, 0.0).max(-1)
    target = jnp.minimum(target, jnp.nextafter(end, jnp.float32(0.0)))
    index = ((running > target[..., None]) & some).argmax(-1)[..., None]
    before = jnp.take_along_axis(running - mass, index, -1)[..., 0]
    return index[..., 0].astype(jnp.int32), jnp.maximum(target - before, 0.0)

  sums = blocks.sum(-1)
  which, rest = pick(sums, u * sums.sum(-1))
  inside = jnp.take_along_axis(blocks, which[..., None, None], -2)[..., 0, :]
  place, _ = pick(inside, rest)
  return which * block + place


def draw(logits, u, temperature, *, decoding: Decoding, policy=None):
  """One token of each row. logits float32 [..., V] of what is drawn from, u [...] in [0, 1); policy
  [..., V]: the policy's own logits, where they are others.

  Returns (token int32, log-probability under the policy at temperature 1, log-probability under
  what was drawn from), [...] each.
  """

  def at(values, token):
    return jnp.take_along_axis(values, token[..., None], -1)[..., 0]

  centred = logits - logits.max(-1, keepdims=True)
  own = centred if policy is None else policy - policy.max(-1, keepdims=True)
  lse = jnp.log(jnp.exp(own).sum(-1))
  if decoding.greedy:
    token = logits.argmax(-1).astype(jnp.int32)
    return token, at(own, token) - lse, jnp.zeros_like(lse)
  p = jnp.exp(centred / temperature)
  p = keep_top(p, top_k=decoding.top_k, top_p=decoding.top_p)
  token = inverse_cdf(p, u)
  return token, at(own, token) - lse, jnp.log(at(p, token)) - jnp.log(p.sum(-1))


def in_turn(prompt: Segment, unconditional: Segment) -> Segment:
  """Two prompts of each row, [B, P] and [B, P'], as rows of their own, in turn: [2 B, max(P, P')].

  The shorter is padded in front, since its last place must stay the last.
  """
  length = max(prompt.tokens.shape[1], unconditional.tokens.shape[1])
  front = lambda a: jnp.pad(a, [(0, 0), (length - a.shape[1], 0)])  # noqa: E731
  pairs = zip(prompt, unconditional, strict=True)
  return Segment(*(jnp.stack([front(a), front(b)], 1).reshape(-1, length) for a, b in pairs))


def guide(logits: jax.Array, scale: float) -> tuple[jax.Array, jax.Array]:
  """u + s (c − u) and c, [B, G, V] each, of logits [2 B, G, V] whose rows are c and u in turn."""
  pairs = logits.reshape(-1, 2, *logits.shape[1:])
  c, u = pairs[:, 0], pairs[:, 1]
  return u + scale * (c - u), c


def rollout(
  params,
  prompt: Segment,
  key,
  temperature,
  *,
  config: transformer.TransformerConfig,
  decoding: Decoding,
  unconditional: Segment | None = None,
) -> Rollout:
  """G completions of each prompt [B, P], until the end marker or T tokens; the loop stops when
  every row is done. Without an end marker every row is complete at T.

  params in the compute dtype; temperature a positive scalar. Token t of every sample is drawn with
  `rng.stream(key, "token", t)`. unconditional: with guidance, the prompts [B, P'] that it leads
  away from, whose completions are the same tokens.
  """
  b, g, length = prompt.tokens.shape[0], decoding.group, decoding.length
  guided = decoding.guidance != 1.0
  if guided != (unconditional is not None):
    raise ValueError("rollout: an unconditional prompt is needed with guidance, and only then.")
  if guided:
    prompt = in_turn(prompt, unconditional)
  head = columns.head(params, config, decoding.allowed)
  hidden, prefix = transformer.prefill(params, config, prompt)
  rows = hidden.shape[0]  # B, or 2 B with guidance
  few = decode_loop.few(config, rows * g, length)
  head = head.T if few else head

  def put(out: Rollout, hidden, t):
    if few:
      logits = times_few(head, hidden, out=jnp.float32)
    else:
      logits = einsum("bgd,dv->bgv", hidden, head, out=jnp.float32)
    # As they come; XLA would else lay out the layers, too, as the draw has its rows.
    logits = sharding.constrain(logits, BATCH, None, "tensor")
    logits, policy = softcap(logits, config.final_softcap), None
    if guided:
      logits, policy = guide(logits, decoding.guidance)
      policy = by_rows(policy)
    u = jax.random.uniform(rng.stream(key, "token", t), (b, g))
    drawn = draw(by_rows(logits), u, temperature, decoding=decoding, policy=policy)
    token, logp, logp_sampler = (sharding.constrain(a, BATCH) for a in drawn)
    token = columns.ids(token, decoding.allowed)
    return write(out, t, (token, logp, logp_sampler), decoding)

  def step(carry):
    t, out, cache = carry
    last = jax.lax.dynamic_slice_in_dim(out.tokens, t - 1, 1, -1)
    last = jnp.repeat(last, 2, 0) if guided else last
    segment = Segment(last, jnp.ones(last.shape, bool))
    now = [jax.lax.dynamic_slice_in_dim(a, t - 1, 1, -2) for a in rotation]
    hidden, cache = transformer.apply(
      layered, config, segment, prefix=prefix, cache=cache, index=t - 1, rotation=now
    )
    return t + 1, put(out, hidden[:, :, 0], t), cache

  def unfinished(carry):
    t, out, _ = carry
    return (t < length) & ~out.complete.all()

  out = empty(b, g, length)
  out = put(out, jnp.broadcast_to(hidden[:, None], (rows, g, hidden.shape[-1])), 0)
  # Made here, not in the step: XLA would compute the sines anew wherever a layer reads them.
  positions = prefix.length[:, None, None] + jnp.arange(length).reshape(1, 1, -1)
  rotation = transformer.rotary(config, positions)
  after = out.tokens[0, 0, 0]
  layered = decode_loop.split_layers(params, config, turn=few, after=after)
  cache = decode_loop.empty_cache(config, rows, g, max(1, length - 1))
  return jax.lax.while_loop(unfinished, step, (jnp.int32(1), out, cache))[1]


def by_rows(logits: jax.Array) -> jax.Array:
  """[B, G, V] with whole rows on a chip, a group's samples split where the vocabulary was. A draw
  would else exchange a number for each of its sums over it, with top-p about forty times a token.
  """
  return sharding.constrain(logits, BATCH, "tensor")


def empty(batch: int, group: int, length: int) -> Rollout:
  """A rollout in which nothing has been drawn, [B, G, T], laid out as its rows are."""
  zeros = [
    sharding.constrain(jnp.zeros((batch, group, length), d), BATCH)
    for d in (jnp.int32, bool, jnp.float32, jnp.float32)
  ]
  return Rollout(*zeros, jnp.zeros((batch, group), bool))


def write(out: Rollout, t, drawn: tuple[jax.Array, ...], decoding: Decoding) -> Rollout:
  """The rollout with (token, logp, logp_sampler), [B, G] each, at place t of the rows that were not
  complete.
  """
  live = ~out.complete
  new = [jnp.where(live, x, jnp.zeros_like(x)) for x in (drawn[0], live, *drawn[1:])]
  at = [
    jax.lax.dynamic_update_slice_in_dim(old, x[..., None], t, -1)
    for old, x in zip(out[:4], new, strict=True)
  ]
  ended = t + 1 == decoding.length if decoding.end is None else drawn[0] == decoding.end
  return Rollout(*at, out.complete | ended)
