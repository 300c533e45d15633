"""Fixtures that the tests of the core share: a tiny transformer, roles, ragged transitions.

Two oracles: a transformer in plain NumPy (float64, one sequence at a time, no cache), and
log-probabilities by concatenating a whole sequence per sample and taking `log_softmax`. And a role
that is a table, so that a phase can be compared with arithmetic, at the price of no transformer.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax import phases, prompts, roles, sampling
from swirl_jax.data.tokenizers import WordTokenizer
from swirl_jax.models import transformer
from swirl_jax.optimizer import AdamW, Schedule
from swirl_jax.types import PolicyState, Rollout, Segment, Transition

VOCAB = 40
TOKENIZER = WordTokenizer(tuple(f"w{i}" for i in range(VOCAB - 6)))
STATE, ACTION = 6, 3  # the most tokens of a state and of an action

# `jax.jit` for tests: the arithmetic is the same, compiling takes half as long.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# ------------------------------------------------------------------------------------------ model


def config(**changes) -> transformer.TransformerConfig:
  """Two layers of width 16; 4 heads over 2 kv heads."""
  base = {
    "vocab_size": VOCAB, "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
    "head_dim": 4, "d_ff": 24, "max_len": 64, "logprob_chunk": 16,
  }  # fmt: skip
  return transformer.TransformerConfig(**(base | changes))


@functools.cache
def params(config: transformer.TransformerConfig, seed: int = 0):
  """Float32 parameters drawn by NumPy (no program to compile), nothing at 0 or 1."""
  shapes = jax.eval_shape(functools.partial(transformer.init_params, config), jax.random.key(0))
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    mean, std = (1.0, 0.2) if str(path[-1].key).endswith("scale") else (0.0, 0.35)
    return jnp.asarray(mean + std * rng.normal(size=leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def numpy_logits(params, c: transformer.TransformerConfig, ids) -> np.ndarray:
  """The model on one sequence of real tokens [S] → float64 [S, V], written out by hand."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  at = np.arange(len(ids))
  ratio = c.n_heads // c.n_kv_heads

  def by(scale):
    return 1.0 + scale if c.norm_offset else scale

  def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * by(scale)

  def head_norm(x, parameters):  # x [S, K, R, d]
    if c.qk_norm == "none":
      return x
    scale = by(parameters["scale"])
    if c.qk_norm == "layer":
      x = x - x.mean(-1, keepdims=True)
      return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale + parameters["bias"]
    axes = (-1,) if c.qk_norm == "head" else (1, 2, 3)
    return x / np.sqrt((x**2).mean(axes, keepdims=True) + c.norm_eps) * scale

  def frequencies(sliding):
    f = (c.sliding_rope_theta if sliding and c.sliding_rope_theta else c.rope_theta) ** (
      -np.arange(c.head_dim // 2) * 2 / c.head_dim
    )
    if c.rope_scaling == "none" or (sliding and c.sliding_rope_theta):
      return f
    if c.rope_scaling == "linear":
      return f / c.rope_factor
    out = []
    for x in f:
      wavelength = 2 * math.pi / x
      longest = c.rope_original_len / c.rope_low_freq_factor
      shortest = c.rope_original_len / c.rope_high_freq_factor
      smooth = c.rope_original_len / wavelength - c.rope_low_freq_factor
      smooth /= c.rope_high_freq_factor - c.rope_low_freq_factor
      middle = (1 - smooth) * x / c.rope_factor + smooth * x
      slow = wavelength > longest
      out.append(x / c.rope_factor if slow else x if wavelength < shortest else middle)
    return np.array(out)

  def rotate(x, sliding):  # [S, d]
    angle = at[:, None] * frequencies(sliding)
    a, b = np.split(x, 2, -1)
    return np.concatenate(
      [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1
    )

  def activation(x):
    if c.activation == "silu":
      return x / (1 + np.exp(-x))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

  def softcap(x, cap):
    return cap * np.tanh(x / cap) if cap else x

  def attention(w, x, sliding):
    x = np.einsum("sm,mkrd->skrd", x, w["qkv"]) + (w["qkv_bias"] if c.qkv_bias else 0.0)
    q, k, v = x[:, :, :ratio], x[:, :, ratio : ratio + 1], x[:, :, ratio + 1]
    q, k = head_norm(q, w.get("q_norm")), head_norm(k, w.get("k_norm"))
    total = w["out_bias"] if c.out_bias else 0.0
    for head in range(c.n_heads):
      kv, r = divmod(head, ratio)
      scores = rotate(q[:, kv, r], sliding) @ rotate(k[:, kv, 0], sliding).T
      scores = softcap(
        scores / math.sqrt(c.query_pre_attn_scalar or c.head_dim), c.attention_softcap
      )
      distance = at[:, None] - at[None, :]
      seen = (distance >= 0) & (distance < (c.window if sliding and c.window else len(ids)))
      weights = np.where(seen, np.exp(scores - scores.max(-1, keepdims=True)), 0.0)
      total = total + weights / weights.sum(-1, keepdims=True) @ v[:, kv] @ w["out"][kv, r]
    return total

  def feed_forward(w, x):
    return (activation(x @ w["gate_up"][:, 0]) * (x @ w["gate_up"][:, 1])) @ w["down"]

  h = p["embedding"][np.asarray(ids)] * (math.sqrt(c.d_model) if c.scale_embedding else 1.0)
  types = c.layer_types or ("sliding",)
  for i in range(c.n_layers):
    layer = jax.tree.map(lambda a, i=i: a[i], p["layers"])
    sliding = types[i % len(types)] == "sliding"
    for name, f in (("attention", functools.partial(attention, sliding=sliding)),
                    ("mlp", feed_forward)):  # fmt: skip
      x = h if c.norms == "post" else norm(h, layer[f"{name}_norm"]["scale"])
      x = f(layer[name], x)
      h = h + (x if c.norms == "pre" else norm(x, layer[f"{name}_post_norm"]["scale"]))
  head = p["embedding"].T if c.tie_embeddings else p["head"]
  return softcap(norm(h, p["final_norm"]["scale"]) @ head, c.final_softcap)


def log_softmax(logits) -> np.ndarray:
  logits = np.asarray(logits, np.float64)
  logits = logits - logits.max(-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def real(segment: Segment, *index) -> list[int]:
  """The real tokens of one row of a segment."""
  return np.asarray(segment.tokens)[index][np.asarray(segment.mask)[index]].tolist()


def allowed_mask(ranges, vocab_size: int) -> np.ndarray:
  """Ranges of token ids as bool [V]."""
  inside = np.zeros(vocab_size, bool)
  for start, stop in ranges:
    inside[start:stop] = True
  return inside


def numpy_logprobs(params, c, prompt: list[int], target: list[int]) -> np.ndarray:
  """log p of each token of `target` behind `prompt`."""
  logp = log_softmax(numpy_logits(params, c, prompt + target))
  return logp[len(prompt) - 1 : -1][np.arange(len(target)), target]


# ------------------------------------------------------------------------------------ transitions


def segment(rng, rows: tuple[int, ...], length: int, *, low: int = 1) -> Segment:
  """Random words, `low` to `length` in a row."""
  mask = np.arange(length) < rng.integers(low, length + 1, size=(*rows, 1))
  tokens = np.where(mask, rng.integers(6, VOCAB, size=(*rows, length)), 0)
  return Segment(tokens.astype(np.int32), mask)


def transitions(seed: int, batch: int, *, latent: bool = False) -> Transition:
  rng = np.random.default_rng(seed)
  x, y = (segment(rng, (batch,), STATE, low=2) for _ in range(2))
  z = segment(rng, (batch,), ACTION)
  return Transition(x, y, None if latent else z)


# ------------------------------------------------------------------------------------------ roles


def fwm(config, *, group: int = 1, **decoding) -> roles.TransformerRole:
  decoding = {"length": STATE, "group": group, "end": TOKENIZER.eos} | decoding
  return roles.TransformerRole(
    config, prompts.fwm_template(TOKENIZER), sampling.Decoding(**decoding)
  )


def idm(config, *, group: int = 1, **decoding) -> roles.TransformerRole:
  decoding = {"length": ACTION, "group": group, "end": TOKENIZER.eos} | decoding
  return roles.TransformerRole(
    config, prompts.idm_template(TOKENIZER), sampling.Decoding(**decoding)
  )


def prompt_ids(role: roles.TransformerRole, **fields: list[int]) -> list[int]:
  """The role's prompt for lists of token ids, piece by piece."""
  pieces = [fields[p] if isinstance(p, str) else list(p) for p in role.template.prompt]
  return sum(pieces, [])


def whole(role: roles.TransformerRole, transition: Transition, target: Segment) -> Segment:
  """Prompt and target of every sample in one row, nothing shared: [B, G, P + T]."""
  b, g = target.tokens.shape[:2]
  pieces = []
  for piece in role.template.prompt:
    if isinstance(piece, str):
      pieces.append(prompts.per_sample(getattr(transition, piece), g))
    else:
      ids = jnp.broadcast_to(jnp.asarray(piece, jnp.int32).reshape(1, 1, -1), (b, g, len(piece)))
      pieces.append(Segment(ids, jnp.ones(ids.shape, bool)))
  return Segment(*(jnp.concatenate(a, -1) for a in zip(*pieces, target, strict=True)))


def plain_logprobs(role: roles.TransformerRole, params, transition, target: Segment):
  """log p(target) by `log_softmax` over [B, G, S, V] of whole sequences: [B, G, T]."""
  hidden, _ = transformer.apply(params, role.config, whole(role, transition, target))
  logits = hidden @ transformer.head_kernel(params, role.config)
  if role.decoding.allowed is not None:
    inside = allowed_mask(role.decoding.allowed, role.config.vocab_size)
    logits = jnp.where(inside.reshape(1, 1, 1, -1), logits, -jnp.inf)
  length = target.tokens.shape[-1]
  logp = jax.nn.log_softmax(logits, -1)[:, :, -length - 1 : -1]
  return jnp.take_along_axis(logp, target.tokens[..., None], -1)[..., 0]


WORDS = 8  # the vocabulary of a table: end marker 2, and seven others


@dataclasses.dataclass(frozen=True)
class TableRole:
  """A `Role` whose parameters are logits {"table": [x, given, token before, token]}.

  Only the first tokens of x and of the field that is given are read (0 where there is none).
  """

  field: str
  group: int
  length: int
  end: int = 2

  def _logits(self, params, transition: Transition, tokens):
    g = tokens.shape[1]
    given = getattr(transition, "z" if self.field == "y" else "y")

    def first(s):
      if not s.tokens.shape[-1]:
        return jnp.zeros((s.tokens.shape[0], g), jnp.int32)
      s = prompts.per_sample(s, g)
      return jnp.where(s.mask[..., 0], s.tokens[..., 0], 0)

    before = jnp.pad(tokens[..., :-1], [(0, 0), (0, 0), (1, 0)])
    at = (first(transition.x)[..., None], first(given)[..., None], before)
    return params["table"][at].astype(jnp.float32)

  def rollout(self, params, transition, key, temperature):
    shape = (transition.x.tokens.shape[0], self.group)
    tokens = jnp.zeros((*shape, self.length), jnp.int32)
    u = jax.random.uniform(key, (*shape, self.length))
    for t in range(self.length):
      p = jax.nn.softmax(self._logits(params, transition, tokens)[:, :, t] / temperature)
      below = (p.cumsum(-1) <= u[..., t, None]).sum(-1, dtype=jnp.int32)
      tokens = tokens.at[..., t].set(jnp.minimum(below, WORDS - 1))
    ended = (tokens == self.end).astype(jnp.int32).cumsum(-1)
    mask = (ended - (tokens == self.end)) == 0
    tokens = jnp.where(mask, tokens, 0)
    logits = self._logits(params, transition, tokens)
    logp = [
      jnp.where(mask, jnp.take_along_axis(jax.nn.log_softmax(v), tokens[..., None], -1)[..., 0], 0)
      for v in (logits, logits / temperature)
    ]
    return Rollout(tokens, mask, *logp, jnp.broadcast_to(ended[..., -1] > 0, shape))

  def logprobs(self, params, transition, target, *, sampled=False):
    logp = jax.nn.log_softmax(self._logits(params, transition, target.tokens))
    entropy = -(jnp.exp(logp) * logp).sum(-1)
    return jnp.take_along_axis(logp, target.tokens[..., None], -1)[..., 0], entropy

  def separable_loss(self, params, transition, target, data, token_loss, *, sampled=False):
    logp, entropy = self.logprobs(params, transition, target)
    terms, metrics = token_loss(logp, entropy, data)
    return terms.sum(), metrics

  def target(self, segment):
    return prompts.with_end(segment, (self.end,))

  def content(self, rollout):
    return prompts.content(rollout, self.end)


def table(seed: int, spread: float = 1.0):
  rng = np.random.default_rng(seed)
  values = spread * rng.normal(size=(WORDS,) * 4)
  return {"table": jnp.asarray(values, jnp.float32)}


def table_transitions(seed: int, batch: int, *, latent: bool = False) -> Transition:
  """Fields of 1 or 2 tokens, none of them the end marker or padding."""
  rng = np.random.default_rng(seed)

  def field():
    mask = np.arange(2) < rng.integers(1, 3, size=(batch, 1))
    tokens = np.where(mask, rng.integers(3, WORDS, size=(batch, 2)), 0)
    return Segment(jnp.asarray(tokens, jnp.int32), jnp.asarray(mask))

  x, y, z = field(), field(), field()
  return Transition(x, y, None if latent else z)


# ------------------------------------------------------------------------------------------ phases

PLAIN = AdamW(b1=0.0, clip_norm=0.0, schedule="constant")  # its first moment is the gradient


def state(params, optimizer: AdamW = PLAIN) -> PolicyState:
  return PolicyState(params, optimizer.init(params), jnp.int32(0))


def gradient(state: PolicyState):
  """The last gradient that went into a state of `PLAIN`."""
  return state.opt_state[0].mu


def hyper(**changes) -> phases.Hyper:
  names = {
    "beta": 0.1, "temperature": 1.0, "latent_temperature": 1.0, "clip_low": 0.2, "clip_high": 0.2,
    "importance_cap": 2.0, "anchor_weight": 0.5, "learning_rate": 1e-2,
  } | changes  # fmt: skip
  rate = names.pop("learning_rate")
  schedule = Schedule(np.float32(rate), np.float32(0), np.float32(10))
  return phases.Hyper(schedule, **{k: np.float32(v) for k, v in names.items()})


def assert_gradients_close(found, expected, *, tolerance: float = 1e-4):
  """|found − expected| ≤ tolerance · |expected|, by the norm over the whole tree."""
  flat = [np.concatenate([np.ravel(a).astype(np.float64) for a in jax.tree.leaves(t)])
          for t in (found, expected)]  # fmt: skip
  assert np.isfinite(flat[0]).all() and np.linalg.norm(flat[1]) > 0
  error = np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])
  assert error <= tolerance, f"gradients differ by {error:.2e} of their norm"
