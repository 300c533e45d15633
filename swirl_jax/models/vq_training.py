"""How a VQGAN is trained on pictures, small ones in minutes on a CPU: one pure step.

  loss = |x̂ − x|² + |sg(z) − e|² + c |z − sg(e)|²   (arXiv:1711.00937; no GAN and no LPIPS terms)

Adam, cosine schedule, float32. A code that no latent vector has had for more than `revive_every`
steps moves to one of the batch's, drawn in proportion to the squared distance from its code (as
k-means++ seeds, so that a rare kind of patch gets a code of its own); in the last quarter of the
steps none moves any more. Where the model looks at squares one by one (`VQConfig.patch`), it is
trained on the distinct squares of the pictures, whatever their share.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from swirl_jax.models import vqgan
from swirl_jax.models.vqgan import VQConfig
from swirl_jax.optimizer import AdamW, Schedule

OPTIMIZER = AdamW(b2=0.99, clip_norm=1.0)


@dataclasses.dataclass(frozen=True)
class VQTraining:
  """vq: the model. steps: updates, each on `batch` pictures (or squares). learning_rate: the peak,
  after `warmup_steps` linear ones. continuous: so many first steps, the decoder sees the encoder's
  output as it is; commitment: c; revive_every: see above. seed: of parameters, batches, revivals.
  """

  vq: VQConfig
  steps: int
  batch: int
  learning_rate: float
  warmup_steps: int = 20
  continuous: int = 0
  commitment: float = 0.25
  revive_every: int = 20
  seed: int = 0

  def __post_init__(self):
    least = {"steps": 1, "batch": 1, "revive_every": 1}
    least |= dict.fromkeys(("warmup_steps", "continuous", "seed"), 0)
    for name, low in least.items():
      if getattr(self, name) < low:
        raise ValueError(f"{name} = {getattr(self, name)}: allowed is a whole number from {low}.")
    for name in ("learning_rate", "commitment"):
      if not 0.0 < getattr(self, name) < float("inf"):
        raise ValueError(f"{name} = {getattr(self, name)}: allowed is a number above 0.")


class State(NamedTuple):
  """params, optimizer state; idle: steps since a patch last had each code, int32 [codes]."""

  params: Any
  opt: Any
  step: jax.Array
  idle: jax.Array


def initial_state(settings: VQTraining) -> State:
  """Fresh parameters; all codes count as idle, so that the first step places them."""
  params = vqgan.init_params(settings.vq, _stream(settings, 0))
  idle = jnp.full((settings.vq.codes,), settings.revive_every, jnp.int32)
  return State(params, OPTIMIZER.init(params), jnp.int32(0), idle)


def _stream(settings: VQTraining, number: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(settings.seed), number)


def examples(pictures: np.ndarray, config: VQConfig) -> np.ndarray:
  """What batches are drawn from: the pictures, or their distinct squares. uint8 [M, H, W, 3]"""
  if not config.patch:
    return pictures
  return np.unique(np.asarray(vqgan.cut(pictures, config.patch)), axis=0)


def losses(
  params: Any, settings: VQTraining, pixels: jax.Array, quantise: jax.Array
) -> tuple[jax.Array, Any]:
  """(the loss, (its parts, codes, latents, quantised)); with `quantise` 0 instead of 1 the decoder
  sees z, and nothing binds z to the codebook.
  """
  drawn, codes, z, e = vqgan.reconstruct(params, settings.vq, pixels, quantise)
  reconstruction = jnp.square(drawn - pixels).mean()
  codebook, commitment = vqgan.quantiser_losses(z, e)
  parts = {"reconstruction": reconstruction, "codebook": codebook, "commitment": commitment}
  loss = reconstruction + codebook + quantise * settings.commitment * commitment
  return loss, (parts, codes, z, e)


def rows(state: State, count: int, settings: VQTraining) -> jax.Array:
  """Which of `count` examples the next step's batch holds, a function of seed and step. [batch]"""
  key = jax.random.fold_in(_stream(settings, 1), state.step)
  return jax.random.randint(key, (settings.batch,), 0, count)


def step(state: State, pixels: jax.Array, *, settings: VQTraining) -> tuple[State, dict]:
  """One update on a batch of pixels, float32 [batch, H, W, 3] in [-1, 1].

  Metrics: loss and its parts, codes (that the batch used), perplexity (of their shares), revived.
  """
  (loss, (parts, codes, z, e)), grads = jax.value_and_grad(losses, has_aux=True)(
    state.params, settings, pixels, jnp.float32(state.step >= settings.continuous)
  )
  schedule = Schedule(settings.learning_rate, settings.warmup_steps, settings.steps)
  params, opt = OPTIMIZER.update(grads, state.opt, state.params, state.step, schedule)
  counts = jnp.bincount(codes.reshape(-1), length=settings.vq.codes)
  idle = jnp.where(counts > 0, 0, state.idle + 1)
  dead = (idle > settings.revive_every) & (4 * state.step < 3 * settings.steps)
  key = jax.random.fold_in(_stream(settings, 2), state.step)
  book = revived(params["codebook"], dead, z, e, key)
  params, idle = {**params, "codebook": book}, jnp.where(dead, 0, idle)
  metrics = {"loss": loss, **parts, "codes": (counts > 0).sum(),
             "perplexity": perplexity(counts), "revived": dead.sum()}  # fmt: skip
  return State(params, opt, state.step + 1, idle), metrics


def revived(book: jax.Array, dead: jax.Array, z: jax.Array, e: jax.Array, key) -> jax.Array:
  """The codebook with each dead code at a latent vector z, drawn with p ∝ |z − e|². [codes, E]"""
  z, e = z.reshape(-1, z.shape[-1]), e.reshape(-1, e.shape[-1])
  away = jnp.log(jnp.square(z - e).sum(-1) + 1e-20)
  picks = jax.random.categorical(key, away, shape=(len(book),))
  return jnp.where(dead[:, None], z[picks], book)


def perplexity(counts: jax.Array) -> jax.Array:
  """exp of the entropy of the shares: how many codes, if all were used alike."""
  shares = counts / counts.sum()
  return jnp.exp(-(shares * jnp.log(jnp.where(counts > 0, shares, 1.0))).sum())
