"""Memory of a log-probability step with a vocabulary of 151,936, forward and backward.

    python -m benchmarks.vocabulary

Width 256, 4,096 tokens. The step is the gradient of a surrogate with an entropy metric, with
respect to the hidden states and the head: by `logprob.separable_loss` (fused: the gradient is taken
in the forward scan), by `logprob.token_logprobs` (three passes over the head, for any objective),
and by `jax.nn.log_softmax` on all logits. Temporaries are the compiler's, by `memory_analysis()`
(without arguments and results: the head and its gradient are 156 MB each); CPU-seconds are those of
1,024 tokens, the least of the repeats. Exits with 1 where a form of ours exceeds 400 MB at a
chunk of 256 tokens (`model.logprob_chunk`, whose default of 2,048 is for small vocabularies), or
where its loss isn't that of `log_softmax`.
"""

import argparse
import os
import sys
import time
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from swirl_jax import logprob  # noqa: E402

VOCAB, WIDTH, ROW = 151_936, 256, 128  # ROW: tokens of a row
BOUND = 400e6  # bytes
TOLERANCE = 1e-5  # of the loss, relative


def objective(logp, weight):
  """Terms [N, T] of a loss: the surrogate's at ratio 1, so that their gradient is REINFORCE's."""
  return -weight * jnp.exp(logp - jax.lax.stop_gradient(logp)) + 0.1 * weight * logp


def fused(hidden, head, targets, weight, *, chunk):
  def terms(logp, entropy, weight):
    return objective(logp, weight), entropy.sum()

  return logprob.separable_loss(hidden, head, targets, weight, terms, chunk=chunk)


def three_passes(hidden, head, targets, weight, *, chunk):
  logp, entropy = logprob.token_logprobs(hidden, head, targets, chunk=chunk)
  return objective(logp, weight).sum(), entropy.sum()


def plain(hidden, head, targets, weight, *, chunk):
  del chunk
  all_logp = jax.nn.log_softmax(hidden @ head)
  logp = jnp.take_along_axis(all_logp, targets[..., None], -1)[..., 0]
  entropy = -(jnp.exp(all_logp) * all_logp).sum()
  return objective(logp, weight).sum(), jax.lax.stop_gradient(entropy)


class Row(NamedTuple):
  name: str
  form: object
  chunk: int
  bounded: bool


ROWS = (
  Row("separable_loss (fused)", fused, 256, True),
  Row("token_logprobs (three passes)", three_passes, 256, True),
  Row("separable_loss (fused)", fused, 1024, False),
  Row("token_logprobs (three passes)", three_passes, 1024, False),
  Row("jax.nn.log_softmax", plain, 0, False),
)


def step(row: Row):
  """The jitted gradient of a form: (hidden, head, targets, weight) → ((loss, entropy), grads)."""

  def loss(hidden, head, targets, weight):
    return row.form(hidden, head, targets, weight, chunk=row.chunk)

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def shapes(tokens: int):
  rows = tokens // ROW
  floats = [(rows, ROW, WIDTH), (WIDTH, VOCAB)]
  return (
    *(jax.ShapeDtypeStruct(s, jnp.float32) for s in floats),
    jax.ShapeDtypeStruct((rows, ROW), jnp.int32),
    jax.ShapeDtypeStruct((rows, ROW), jnp.float32),
  )


def temporaries(row: Row, tokens: int) -> int:
  return step(row).lower(*shapes(tokens)).compile().memory_analysis().temp_size_in_bytes


def timed(row: Row, tokens: int, repeats: int) -> tuple[float, float]:
  """(loss, the least CPU-seconds of a call)."""
  rng = np.random.default_rng(0)
  hidden, head, targets, weight = shapes(tokens)
  arguments = (
    rng.standard_normal(hidden.shape, np.float32),
    rng.standard_normal(head.shape, np.float32) / np.float32(WIDTH**0.5),
    rng.integers(0, VOCAB, targets.shape, np.int32),
    rng.random(weight.shape, np.float32) / np.float32(tokens),
  )
  arguments = jax.device_put(arguments)
  call = step(row)
  (loss, _), _ = jax.block_until_ready(call(*arguments))
  seconds = []
  for _ in range(repeats):
    clock = time.process_time()
    jax.block_until_ready(call(*arguments))
    seconds.append(time.process_time() - clock)
  return float(loss), min(seconds)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--tokens", type=int, default=4096, help="of the step that is compiled")
  parser.add_argument("--timed_tokens", type=int, default=1024, help="of the step that is run")
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()
  head = f"CPU-s at {args.timed_tokens:,}"
  print(f"vocabulary {VOCAB:,}, width {WIDTH}, forward and backward, {jax.devices()[0].platform}")
  print(f"{'form':32s} {'chunk':>6s} {f'MB at {args.tokens:,}':>12s} {head:>14s} {'loss':>12s}")
  failed, losses = [], {}
  for row in ROWS:
    size = temporaries(row, args.tokens)
    loss, seconds = timed(row, args.timed_tokens, args.repeats)
    losses[row] = loss
    print(
      f"{row.name:32s} {row.chunk or '-':>6} {size / 1e6:12.0f} {seconds:14.2f} {loss:12.6f}",
      flush=True,
    )
    if row.bounded and size > BOUND:
      failed.append(f"{row.name} at chunk {row.chunk}: {size / 1e6:.0f} MB > {BOUND / 1e6:.0f} MB")
  truth = losses[ROWS[-1]]
  for row, loss in losses.items():
    if abs(loss - truth) > TOLERANCE * abs(truth):
      failed.append(f"{row.name} at chunk {row.chunk}: loss {loss}, log_softmax has {truth}")
  sys.exit("\n".join(failed) or 0)


if __name__ == "__main__":
  main()
