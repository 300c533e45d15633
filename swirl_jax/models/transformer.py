"""A decoder-only transformer in Linen that works on groups: G completions which share one prompt.

Every call sees tokens [B, G, S]. They attend to three parts, each of which may be absent: the
prompt that the group shares ([B, P], computed once), what each sample has already decoded
([B, G, T], the cache, into which a decoding step puts its one token first), or else the S tokens
themselves, causally. So one piece of code is the prefill (G = 1), the teacher-forced pass over
completions (prefix) and the decoding step (prefix and cache, S = 1).

Raggedness is masks and positions: a masked token may stand anywhere in a row; it is never attended
to, and positions count real tokens.

Parameters are plain dicts; those of the layers are stacked on a leading axis L, whether the layers
are scanned or unrolled. (`decode_loop.split_layers` takes them apart for an unrolled loop.)
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from swirl_jax import sharding
from swirl_jax.models import lora
from swirl_jax.models.attention import KV, attend, near, write_cache
from swirl_jax.models.chunked_attention import Keys, chunked_attend
from swirl_jax.models.norms import RMSNorm, WideNorm
from swirl_jax.models.numerics import add_bias, lookup, times_few
from swirl_jax.models.rotary import rotary, rotate
from swirl_jax.models.transformer_config import ACTIVATIONS, PRODUCT, REMAT, TransformerConfig
from swirl_jax.sharding import BATCH

EVERY = np.int32(2**30)  # the window of a layer that has none, among layers that have


class Prefix(NamedTuple):
  """A prompt that a group shares: its keys and values, mask bool [B, P], and length int32 [B] (real
  tokens).
  """

  kv: Any
  mask: jax.Array
  length: jax.Array


class Places(NamedTuple):
  """By what windows are measured, positions of real tokens: queries [B, G, S], own keys [B, G, T]
  (the axis G may be 1), and a shared prompt's [B, P] or None.
  """

  queries: jax.Array
  own: jax.Array
  prefix: jax.Array | None


class Attention(nn.Module):
  """Grouped-query attention with rotary positions; q, k, v in one kernel [D, K, H/K + 2, d], so
  that kv heads shard over `tensor`.

  Without a cache it returns the KV of the tokens it is given; with one, the cache with the one
  token's in it. `at` is that token's place in the cache and, of a stacked cache, the layer.
  `window` is how many tokens are attended to, or None for all; `places`, Places or None where
  nobody asks.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(self, h, rotation, mask, prefix, cache, at, window, places):
    c, dtype = self.config, h.dtype
    b, g, s, m = h.shape
    ratio = c.n_heads // c.n_kv_heads
    kernel = nn.initializers.variance_scaling(
      1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2, 3)
    )
    qkv = self.param("qkv", kernel, (c.d_model, c.n_kv_heads, ratio + 2, c.head_dim))
    # As two axes: einsum over all of them would transpose the kernel, in decoding once a token.
    x = _times(self, "qkv", "bgsi,ix->bgsx", h, qkv.astype(dtype).reshape(m, -1))
    x = x.reshape(b, g, s, c.n_kv_heads, ratio + 2, c.head_dim).transpose(0, 3, 1, 4, 2, 5)
    if c.qkv_bias:
      bias = self.param("qkv_bias", nn.initializers.zeros, (c.n_kv_heads, ratio + 2, c.head_dim))
      x = add_bias(x, bias[None, :, None, :, None, :])
    q, k, v = jax.lax.split(x, (ratio, 1, 1), 3)
    if c.qk_norm != "none":
      q, k = self._norm("q_norm", q), self._norm("k_norm", k)
    q, k = rotate(q, rotation), rotate(k, rotation)
    kv = KV(k[:, :, :, 0].swapaxes(-1, -2), v[:, :, :, 0])

    if chunked(c, s, cache, prefix):
      out = self._chunked(q, kv, mask, prefix, window, places)
      return self._out(out), kv
    if cache is None:
      causal = jnp.tril(jnp.ones((s, s), bool))[None, None, None, None]
      own, visible = kv, causal & mask[:, None, :, None, None, :]
    else:
      index, layer = at
      kv = write_cache(cache, kv, index, layer)
      own = kv if layer is None else jax.tree.map(lambda a: a[layer], kv)
      visible = (jnp.arange(own.v.shape[-2]) <= index).reshape((1,) * 5 + (-1,))
    if window is not None:
      visible = visible & near(places.queries, places.own, window)
    parts = [("bkg", own, visible)]
    if prefix is not None:
      shared, prefix_mask = prefix
      visible = prefix_mask[:, None, None, None, None, :]
      if window is not None:
        visible = visible & near(places.queries, places.prefix, window)
      parts.insert(0, ("bk", shared, visible))
    return self._out(attend(q, parts, scale=c.query_scale, cap=c.attention_softcap)), kv

  def _chunked(self, q, kv, mask, prefix, window, places):
    c = self.config
    own = Keys(kv, mask, places.own)
    if prefix is not None:
      shared, prefix_mask = prefix
      prefix = Keys(shared, prefix_mask[:, None], places.prefix[:, None])
    return chunked_attend(
      q, places.queries, own, prefix, window,
      scale=c.query_scale, cap=c.attention_softcap, chunk=c.attention_chunk,
    )  # fmt: skip

  def _out(self, out):
    """The heads' values [B, K, G, R, S, d] → [B, G, S, D]."""
    c, dtype = self.config, out.dtype
    b, kv_heads, g, ratio, s, _ = out.shape
    kernel = nn.initializers.variance_scaling(
      0.5 / c.n_layers, "fan_in", "normal", in_axis=(0, 1, 2), out_axis=3
    )
    w = self.param("out", kernel, (kv_heads, ratio, c.head_dim, c.d_model))
    out = out.transpose(0, 2, 4, 1, 3, 5).reshape(b, g, s, -1)
    pieces = sharding.pieces("tensor", kv_heads)
    w = w.astype(dtype).reshape(-1, c.d_model)
    out = _times(self, "out", "bgsi,ix->bgsx", out, w, pieces)
    if c.out_bias:
      bias = self.param("out_bias", nn.initializers.zeros, (c.d_model,))
      out = add_bias(out, bias.reshape(1, 1, 1, -1))
    return out

  def _norm(self, name, x):
    c = self.config
    if c.qk_norm == "head":
      return RMSNorm(c.norm_eps, c.norm_offset, name=name)(x)
    return WideNorm(c, name=name)(x)


class Mlp(nn.Module):
  """down(activation(gate x) · up x), gate and up in one kernel [D, 2, F]. arXiv:2002.05202."""

  config: TransformerConfig

  @nn.compact
  def __call__(self, h):
    c, dtype = self.config, h.dtype
    kernel = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2))
    gate_up = self.param("gate_up", kernel, (c.d_model, 2, c.d_ff))
    x = _times(self, "gate_up", "bgsi,icf->bgscf", h, gate_up.astype(dtype))
    gate, up = (part.squeeze(-2) for part in jax.lax.split(x, (1, 1), x.ndim - 2))
    x = ACTIVATIONS[c.activation](gate) * up
    down = self.param(
      "down",
      nn.initializers.variance_scaling(0.5 / c.n_layers, "fan_in", "normal"),
      (c.d_ff, c.d_model),
    )
    pieces = sharding.pieces("tensor", c.d_ff)
    return _times(self, "down", "bgsi,im->bgsm", x, down.astype(dtype), pieces)


def _times(module: nn.Module, target: str, subscripts: str, x, kernel, pieces=1) -> jax.Array:
  """x times a layer's kernel: beside its adapter where it has one, by `times_few` where the
  collection "turned" has it. Named for remat, whose "dots" keeps these.
  """
  if (turned := module.get_variable("turned", target)) is not None:
    return times_few(turned, x)
  pair = (module.get_variable("params", "lora") or {}).get(target)
  y = lora.product(subscripts, x, kernel, pair, module.config.lora_scale, pieces=pieces)
  return checkpoint_name(y, PRODUCT)


class Block(nn.Module):
  """One layer: h + attention(norm h), then h + mlp(norm h); `norms` says where the norms stand.

  Returns h and the KV that `Attention` does.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(self, h, rotation, mask, prefix=None, cache=None, at=None, window=None, places=None):
    c = self.config

    def norm(name, x, *where):
      return RMSNorm(c.norm_eps, c.norm_offset, name=name)(x) if c.norms in where else x

    a, kv = Attention(c, name="attention")(
      norm("attention_norm", h, "pre", "both"), rotation, mask, prefix, cache, at, window, places
    )
    h = h + norm("attention_post_norm", a, "post", "both")
    a = Mlp(c, name="mlp")(norm("mlp_norm", h, "pre", "both"))
    h = h + norm("mlp_post_norm", a, "post", "both")
    return sharding.constrain(h, BATCH), kv


class Transformer(nn.Module):
  """Tokens to the hidden states that the head multiplies; logits are left to those who know which
  of them they need.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(self, tokens, rotation, mask, prefix: Prefix | None = None, cache=None, index=None):
    """Hidden states after the last norm, [B, G, S, D] in the compute dtype, and the KV of all
    layers: the tokens', or the cache with them in it.

    Args:
      tokens: int32 [B, G, S]; rotation: of their positions (see `rotary`), which count real tokens;
        mask: bool [B, G, S].
      prefix: a shared prompt (see `prefill`), or None.
      cache: the KV of each sample's T decoded tokens (see `decode_loop`), the first `index` of
        which are there, or None. With a cache S is 1 and the token a real one.
    """
    c = self.config
    width = nn.initializers.normal(c.d_model**-0.5)
    embedding = self.param("embedding", width, (c.vocab_size, c.d_model))
    if not c.tie_embeddings:
      self.param("head", width, (c.d_model, c.vocab_size))
    layers = self.get_variable("params", "layers") or self.param("layers", self._init_layers)
    # Gathered over fsdp before the lookup: XLA would otherwise replicate the activations.
    h = lookup(sharding.constrain(embedding.astype(c.compute_dtype), "tensor", None), tokens)
    if c.scale_embedding:
      h = h * jnp.asarray(c.d_model**0.5, h.dtype)
    h = sharding.constrain(h, BATCH)
    shared = None if prefix is None else prefix.kv
    asked = c.window or chunked(c, tokens.shape[-1], cache, prefix and (None, prefix.mask))
    places = self._places(mask, prefix, cache, index) if asked else None

    def layer_of(sliding):  # a bool, or None: the argument tells
      def layer(h, variables, shared_l, cache, i=None, is_sliding=None):
        shared_l = None if shared_l is None else (shared_l, prefix.mask)
        turn, window = of_layer(c, rotation, is_sliding if sliding is None else sliding)
        return Block(c, parent=None).apply(
          variables, h, turn, mask, shared_l, cache, (index, i), window, places
        )

      if c.remat == "none":
        return layer
      return jax.checkpoint(layer, policy=REMAT[c.remat], prevent_cse=not c.scan_layers)

    mixed = len(set(c.sliding)) > 1
    if c.scan_layers:
      layer = layer_of(None if mixed else c.sliding[0])

      def body(carry, xs):  # The stacked cache is carried, so that a token is written in place.
        h, cache = carry
        params, shared_l, *of = xs
        h, kv = layer(h, {"params": params}, shared_l, cache, *of)
        return ((h, None), kv) if cache is None else ((h, kv), None)

      of = (np.array(c.sliding),) if mixed else ()
      xs = (layers, shared, jnp.arange(c.n_layers), *of)
      (h, cache), kv = jax.lax.scan(body, (h, cache), xs)
      kv = kv or cache
    else:
      kv, layers = (), layers if isinstance(layers, tuple) else _unstack(layers)
      for i in range(c.n_layers):
        h, kv_l = layer_of(c.sliding[i])(h, layers[i], shared and shared[i], cache and cache[i])
        kv += (kv_l,)
    return RMSNorm(c.norm_eps, c.norm_offset, name="final_norm")(h), kv

  def _places(self, mask, prefix, cache, index) -> Places:
    start = 0 if prefix is None else prefix.length[:, None, None]
    prefix_at = None if prefix is None else real_positions(prefix.mask)
    if cache is None:
      own = start + real_positions(mask)
      return Places(own, own, prefix_at)
    length = jax.tree.leaves(cache)[-1].shape[-2]
    own = start + jnp.arange(length, dtype=jnp.int32).reshape(1, 1, -1)
    return Places((start + index) * jnp.ones((1, 1, 1), jnp.int32), own, prefix_at)

  def _init_layers(self, key):
    c = self.config
    h = jnp.zeros((1, 1, 1, c.d_model))
    at, on = jnp.zeros((1, 1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)
    rotation, _ = of_layer(c, rotary(c, at), False)
    one = lambda k: Block(c, parent=None).init(k, h, rotation, on)["params"]  # noqa: E731
    return jax.vmap(one)(jax.random.split(key, c.n_layers))


def _unstack(layers) -> tuple[Any, ...]:
  """Each layer's variables. By `split`, whose gradient is one concatenation of the layers', where
  an index's is a sum of as many padded ones.
  """
  leaves, structure = jax.tree.flatten(layers)
  parts = ([p[0] for p in jax.lax.split(leaf, (1,) * len(leaf))] for leaf in leaves)
  return tuple({"params": structure.unflatten(of)} for of in zip(*parts, strict=True))


def chunked(config: TransformerConfig, length: int, cache, prefix) -> bool:
  """Whether attention goes by blocks: where it is asked for and the scores are more than a block.

  prefix: (its KV, its mask) or None.
  """
  keys = length + (0 if prefix is None else prefix[1].shape[-1])
  return cache is None and 0 < config.attention_chunk**2 < length * keys


def real_positions(mask: jax.Array) -> jax.Array:
  """The positions of a row's tokens, which count real ones: bool [..., S] → int32 [..., S]."""
  return jnp.maximum(jnp.cumsum(mask, -1, dtype=jnp.int32) - 1, 0)


def of_layer(config: TransformerConfig, rotation, sliding):
  """A layer's (rotation, window); the window is None where it has none. `sliding` may be traced."""
  if config.sliding_rope_theta:
    row = int(sliding) if isinstance(sliding, bool) else sliding.astype(jnp.int32)
    rotation = jax.tree.map(lambda a: a[row], rotation)
  if not config.window or sliding is False:
    return rotation, None
  return rotation, config.window if sliding is True else jnp.where(sliding, config.window, EVERY)


def init_params(config: TransformerConfig, key: jax.Array) -> Any:
  """Float32 parameters, a plain dict; normal with variance 1 / fan-in, the residual outputs scaled
  down by the depth.
  """
  if not config.vocab_size:
    raise ValueError("model.vocab_size = 0: parameters need a vocabulary, of at least 1 token.")
  at, on = jnp.zeros((1, 1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)
  return Transformer(config).init(key, at, rotary(config, at), on)["params"]


def head_kernel(params: Any, config: TransformerConfig) -> jax.Array:
  """The matrix [D, V] from hidden states to logits; if they are tied, the embedding transposed."""
  return params["embedding"].T if config.tie_embeddings else params["head"]


def apply(
  params, config: TransformerConfig, segment, *, prefix=None, cache=None, index=None, rotation=None
):
  """`Transformer` on a Segment [B, G, S]; positions count the real tokens, from the prefix's length
  on where there is one, unless their rotation is given.
  """
  if rotation is None:
    positions = real_positions(segment.mask)
    if prefix is not None:
      positions = positions + prefix.length[:, None, None]
    rotation = rotary(config, positions)
  return Transformer(config).apply(
    {"params": params}, segment.tokens, rotation, segment.mask, prefix, cache, index
  )


def prefill(params, config: TransformerConfig, prompt) -> tuple[jax.Array, Prefix]:
  """Runs a prompt Segment [B, P] once: the hidden state of its last place, [B, D], and the Prefix
  its group shares.

  The last place must be a real token (templates end with a literal one).
  """
  segment = jax.tree.map(lambda a: a[:, None], prompt)
  hidden, kv = apply(params, config, segment)
  shared = jax.tree.map(
    lambda a: a.squeeze(-3), kv
  )  # the axis G, third from the end in k and v alike
  return hidden[:, 0, -1], Prefix(shared, prompt.mask, prompt.mask.sum(-1, dtype=jnp.int32))


def hidden_before(params, config: TransformerConfig, parts) -> jax.Array:
  """The hidden states from which the target's tokens are predicted, [B, G, T, D], the shared part
  computed once per group.

  parts: `prompts.Scored`, with shared [B, P], own [B, G, S] or None, target [B, G, T].
  """
  last, prefix = prefill(params, config, parts.shared)
  b, g, length = parts.target.tokens.shape
  fed = jax.tree.map(
    lambda a: a[..., : length - 1], parts.target
  )  # the last token predicts nothing
  start = 0
  if parts.own is not None:
    start = parts.own.tokens.shape[-1] - 1
    fed = jax.tree.map(lambda a, c: jnp.concatenate([a, c], -1), parts.own, fed)
  if fed.tokens.shape[-1]:
    hidden, _ = apply(params, config, fed, prefix=prefix)
  else:
    hidden = jnp.zeros((b, g, 0, config.d_model), last.dtype)
  if parts.own is None:
    first = jnp.broadcast_to(last[:, None, None], (b, g, 1, last.shape[-1]))
    return jnp.concatenate([first, hidden], 2)
  return hidden[:, :, start:]


def compute_params(params: Any, config: TransformerConfig) -> Any:
  """The parameters in the compute dtype: what every pass reads.

  Frozen slots are held so, and then this is the identity.
  """
  return jax.tree.map(lambda p: p.astype(config.compute_dtype), params)
