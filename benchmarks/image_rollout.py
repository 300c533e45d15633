"""What a rollout of image codes costs when the head is computed for the codes alone.

    python -m benchmarks.image_rollout

Liquid's vocabulary, 264,192 tokens of which the last 8,192 are image codes, over 2 layers of width
256, float32: 2 prompts x 4 samples of 32 codes, top-p 0.96 as the paper has it. Three forms, called
in turn in each round:

- whole head: every token may be sampled;
- codes: `Decoding.allowed` is the range of the codes;
- codes, guided: the same with guidance 3, so 2 x 8 rows.

Printed are the medians (and the least and most) of CPU-seconds of all threads, their ratio to the
whole head (the median over the rounds), and by the compiler FLOPs (a loop's body is counted once:
they are those of two tokens and the prompt) and temporaries. Exits with 1 where the codes are not
cheaper than the whole head in each of the three, or anything but a code is drawn.
"""

import argparse
import os
import statistics
import sys
import time
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from swirl_jax import prompts, roles, sampling  # noqa: E402
from swirl_jax.models import transformer  # noqa: E402
from swirl_jax.types import Segment, Transition  # noqa: E402

VOCABULARY, CODES = 264_192, (256_000, 264_192)
PROMPTS, GROUP, STATE, ACTION = 2, 4, 32, 8
CONFIG = transformer.TransformerConfig(
  vocab_size=VOCABULARY, d_model=256, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=64, d_ff=1024,
  max_len=128, tie_embeddings=True, scan_layers=False,
)  # fmt: skip
TEMPLATE = prompts.Template(((1,), "x", (2,), "z", (3,)), "y", (4,))
FORMS = {
  "whole head": {},
  "codes": {"allowed": (CODES,)},
  "codes, guided": {"allowed": (CODES,), "guidance": 3.0},
}


class Figures(NamedTuple):
  """The compiled rollout of a form, and what the compiler says of it."""

  program: Any
  flops: float
  temporaries: int


def arguments():
  """(parameters, transitions, key, temperature), drawn by NumPy."""
  rng = np.random.default_rng(0)
  make = jax.jit(transformer.init_params, static_argnums=0)

  def segment(length, low, high):
    shape = (PROMPTS, length)
    return Segment(jnp.asarray(rng.integers(low, high, shape, np.int32)), jnp.ones(shape, bool))

  x, y = (segment(STATE, *CODES) for _ in range(2))
  transition = Transition(x, y, segment(ACTION, 5, CODES[0]))
  return make(CONFIG, jax.random.key(0)), transition, jax.random.key(1), np.float32(0.75)


def compiled(form: dict[str, Any], given) -> Figures:
  decoding = sampling.Decoding(length=STATE, group=GROUP, end=None, top_p=0.96, **form)
  role = roles.TransformerRole(CONFIG, TEMPLATE, decoding)
  program = jax.jit(role.rollout).lower(*given).compile()
  return Figures(
    program,
    program.cost_analysis()["flops"],
    program.memory_analysis().temp_size_in_bytes,
  )


def timed(program, given) -> tuple[float, np.ndarray]:
  """CPU-seconds of a call, and the tokens that it drew."""
  clock = time.process_time()
  drawn = jax.block_until_ready(program(*given))
  return time.process_time() - clock, np.asarray(drawn.tokens)


def measure(figures: dict[str, Figures], given, rounds: int):
  """{form: CPU-seconds by round}, and {form: whether nothing but codes was drawn}."""
  seconds, inside = {name: [] for name in figures}, {}
  for i in range(rounds + 1):
    for name, found in figures.items():
      spent, tokens = timed(found.program, given)
      inside[name] = bool(((CODES[0] <= tokens) & (tokens < CODES[1])).all())
      if i:  # the first round warms up
        seconds[name].append(spent)
  return seconds, inside


def failures(figures: dict[str, Figures], ratios: dict[str, float], inside: dict[str, bool]):
  whole, codes = figures["whole head"], figures["codes"]
  checks = {
    "CPU-seconds": ratios["codes"] < 1,
    "FLOPs": codes.flops < whole.flops,
    "temporaries": codes.temporaries < whole.temporaries,
    "draws": inside["codes"] and inside["codes, guided"],
  }
  return [f"{name} of the codes miss their target" for name, good in checks.items() if not good]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rounds", type=int, default=5)
  rounds = parser.parse_args().rounds
  given = arguments()
  figures = {name: compiled(form, given) for name, form in FORMS.items()}
  seconds, inside = measure(figures, given, rounds)
  print(
    f"vocabulary {VOCABULARY:,}, {CODES[1] - CODES[0]:,} codes, width {CONFIG.d_model}, "
    f"{CONFIG.n_layers} layers; {PROMPTS} x {GROUP} samples of {STATE}; {rounds} rounds, "
    f"{jax.devices()[0].platform}"
  )
  print(f"{'form':14s} {'CPU-s':>7s} {'least-most':>13s} {'ratio':>6s} {'MFLOP':>8s} {'MB':>8s}")
  ratios = {}
  for name, found in figures.items():
    own = seconds[name]
    ratios[name] = statistics.median(
      a / b for a, b in zip(own, seconds["whole head"], strict=True)
    )
    print(
      f"{name:14s} {statistics.median(own):7.3f} {min(own):6.3f}-{max(own):6.3f} "
      f"{ratios[name]:6.3f} {found.flops / 1e6:8.0f} {found.temporaries / 1e6:8.1f}"
    )
  sys.exit("\n".join(failures(figures, ratios, inside)) or 0)


if __name__ == "__main__":
  main()
