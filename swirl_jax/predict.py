"""What a trained run says: the next state for a state and an action, or the action between two
states.

    python -m swirl_jax.predict --workdir=runs/minigrid --x="..." --z="pick up the red key" --n=4
    python -m swirl_jax.predict --workdir=runs/minigrid --x="..." --y="..."

Each answer has its log-probability, summed over its tokens. With `--verify` the FWM's samples are
ranked by the IDM, the paper's test-time verification: by the mean log-probability that it gives the
tokens of the action. Where states are pictures (docs/images.md), `--x` and `--y` are picture files
or codes, and `--out` is the folder that predicted ones are written into.
"""

import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags, logging

from swirl_jax import programs, rewards, rng, trained
from swirl_jax.checkpoint import CheckpointError
from swirl_jax.data import pipeline
from swirl_jax.data.transition_lines import composed
from swirl_jax.types import Segment, Transition


class Answer(NamedTuple):
  """A completion; logp: Σ log-probability under its model; verified: mean log Q(z | x, ŷ)."""

  text: str
  logp: float
  verified: float | None = None


class Predictor:
  """Both models of a run's newest whole checkpoint. Nothing in the folder is changed."""

  def __init__(self, workdir: str):
    with trained.open_run(workdir) as run:
      self.world, self.players, self.mesh, self.names = run.world, run.players, run.mesh, run.names
      self.models = run.models(*run.names.values())
    self.lengths = pipeline.Lengths(
      self.world.state_len, self.world.state_len, self.world.action_len
    )

  def draw(self, states: list[str]) -> np.ndarray:
    """States of a world of pictures, decoded: uint8 [N, H, W, 3]."""
    if self.world.pictures is None:
      raise ValueError("this run's world has no pictures, or no VQ model that draws them.")
    return self.world.pictures(states)

  def next_states(
    self,
    x: str,
    z: str,
    *,
    n: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    verify: bool = False,
  ) -> list[Answer]:
    """n states that may follow x under z, best first: by log-probability, or by the IDM."""
    transition = self._transition(x=x, z=z)
    answers, drawn = self._complete("y", transition, n, temperature, seed)
    if not verify:
      return sorted(answers, key=lambda a: -a.logp)
    spec = rewards.RewardSpec(reduce="mean", floor=None)
    with jax.set_mesh(self.mesh):
      scores = jax.jit(
        functools.partial(rewards.frozen_reward, self.players.idm, field="y", spec=spec)
      )(self.models[self.names["z"]], transition, self.players.fwm.content(drawn))
    checked = [a._replace(verified=float(s)) for a, s in zip(answers, scores[0], strict=True)]
    return sorted(checked, key=lambda a: -a.verified)

  def actions(
    self, x: str, y: str, *, n: int = 1, temperature: float = 1.0, seed: int = 0
  ) -> list[Answer]:
    """n actions that may lead from x to y, the likeliest first."""
    answers, _ = self._complete("z", self._transition(x=x, y=y), n, temperature, seed)
    return sorted(answers, key=lambda a: -a.logp)

  def _complete(self, field, transition, n, temperature, seed):
    role = programs.sampler(self.players.of(field), group=n, greedy=n == 1)
    with jax.set_mesh(self.mesh):
      drawn = jax.jit(role.rollout)(
        self.models[self.names[field]],
        transition,
        rng.stream(jax.random.key(seed), "predict"),
        np.float32(temperature),
      )
    tokens, mask, logp = (np.asarray(a)[0] for a in (drawn.tokens, drawn.mask, drawn.logp))
    texts = [self.world.tokenizer.decode(t[m]) for t, m in zip(tokens, mask, strict=True)]
    return [Answer(t, float(p.sum())) for t, p in zip(texts, logp, strict=True)], drawn

  def _transition(self, **texts: str) -> Transition:
    """One transition [1, S] of the given texts; ValueError for a word that isn't in the vocabulary,
    or too many.
    """
    fields = {name: None for name in Transition._fields}
    for name, text in texts.items():
      ids, length = self.world.tokenizer.encode(composed(text)), getattr(self.lengths, name)
      least = length if self.world.codes and name != "z" else 1
      if not least <= len(ids) <= length:
        raise ValueError(f"--{name} has {len(ids)} tokens: allowed is {least} to {length}.")
      tokens = np.zeros((1, length), np.int32)
      tokens[0, : len(ids)] = ids
      fields[name] = Segment(tokens, np.arange(length)[None] < len(ids))
    return Transition(**fields)


def write_pictures(pictures: np.ndarray, folder: str) -> list[pathlib.Path]:
  """uint8 [N, H, W, 3] as PNG files, prediction-1.png and so on; the folder is made."""
  from PIL import Image

  out = pathlib.Path(folder)
  out.mkdir(parents=True, exist_ok=True)
  paths = [out / f"prediction-{i + 1}.png" for i in range(len(pictures))]
  for path, picture in zip(paths, pictures, strict=True):
    Image.fromarray(picture).save(path)
  return paths


def table(answers: Sequence[Answer], shown: Sequence[object], field: str) -> str:
  """A line for each answer, under the names of its columns; `shown` is what stands for its text."""
  head = ["log P(y|x,z)", "next state"] if field == "y" else ["log Q(z|x,y)", "action"]
  rows = [[f"{a.logp:12.3f}", str(s)] for a, s in zip(answers, shown, strict=True)]
  if answers[0].verified is not None:
    head.insert(1, "log Q per token")
    for row, answer in zip(rows, answers, strict=True):
      row.insert(1, f"{answer.verified:15.3f}")
  return "\n".join("  ".join(cells) for cells in (head, *rows))


def main(argv):
  given = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  if (given.y is None) == (given.z is None):
    raise app.UsageError("give either --z (to predict the next state) or --y (to name the action)")
  for name in ("verify", "out"):
    if given[name].value and given.z is None:
      raise app.UsageError(f"--{name} is for next states: give --z")
  logging.set_verbosity(logging.WARNING)
  try:
    predictor = Predictor(given.workdir)
    draw = {"n": given.n, "temperature": given.temperature, "seed": given.seed}
    if given.out and predictor.world.pictures is None:
      raise ValueError("--out: this run's world has no pictures, or no VQ model that draws them.")
    x = predictor.world.state(given.x)
    if given.z is not None:
      answers = predictor.next_states(x, given.z, verify=given.verify, **draw)
    else:
      answers = predictor.actions(x, predictor.world.state(given.y), **draw)
    shown = [answer.text for answer in answers]
    if given.out:
      shown = write_pictures(predictor.draw(shown), given.out)
  except (ValueError, OSError, CheckpointError) as error:
    sys.exit(f"Nothing was predicted: {error}")
  print(table(answers, shown, "y" if given.y is None else "z"))


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "The folder of a run.")
  flags.DEFINE_string("x", None, "The state before: text, or a picture's file.")
  flags.DEFINE_string("y", None, "The state after: asks for the action.")
  flags.DEFINE_string("out", None, "The folder that predicted pictures are written into.")
  flags.DEFINE_string("z", None, "The action: asks for the state after.")
  flags.DEFINE_integer("n", 1, "Samples; 1 is the most likely tokens.", lower_bound=1)
  flags.DEFINE_float("temperature", 1.0, "Of the samples, if n > 1.", lower_bound=1e-3)
  flags.DEFINE_integer("seed", 0, "Of the samples.")
  flags.DEFINE_bool("verify", False, "Rank the predicted states by the IDM.")
  flags.mark_flags_as_required(["workdir", "x"])
  app.run(main)
