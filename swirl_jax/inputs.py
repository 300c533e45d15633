"""What a run reads: the splits as token arrays, and the batch of every step as a pure function of
(seed, stage, step).
"""

import dataclasses
import functools
import time
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from swirl_jax.data import builders, pipeline, transitions
from swirl_jax.evaluation import one_step
from swirl_jax.plan import make_plan
from swirl_jax.programs import Lengths
from swirl_jax.roles import TransformerRole
from swirl_jax.settings import LABELS, Settings
from swirl_jax.types import Segment, Transition


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
  """A world's splits. `arrays`: tokenised training sources; `examples`: what evaluation scores,
  without the optional splits that the world hasn't; `summary`: counts for the report; `turns`: by
  the name of a stage that trains on sequences of turns, their rows in its source, int [M, K].
  """

  world: builders.World
  arrays: Mapping[str, Transition]
  examples: Mapping[str, one_step.Examples]
  summary: Mapping[str, Any]
  turns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  @property
  def lengths(self) -> Lengths:
    return lengths_of(self.world)


class Latents(NamedTuple):
  """Actions that the IDM wrote for every pair of a source: tokens int32 [N, T], mask bool [N, T],
  and their mean log-probability [N].
  """

  tokens: jax.Array
  mask: jax.Array
  logp: jax.Array


def lengths_of(world: builders.World) -> Lengths:
  return Lengths(world.state_len, world.action_len, world.codes)


def load(settings: Settings, world: builders.World, data_dir: str) -> Data:
  """Collects the world's data if it isn't there, and tokenises it. Raises ValueError for an empty
  split or a label budget beyond it.
  """
  builder = world.prepare(data_dir)
  limits = pipeline.Lengths(world.state_len, world.state_len, world.action_len)
  tokenize = functools.partial(pipeline.tokenize, tokenizer=world.tokenizer, lengths=limits)
  d, e = settings.data, settings.evaluation
  arrays = {"unlabelled": tokenize(pipeline.Split(builder, "unlabelled"), actions=False)}
  labels = {name: _labelled(builder, name, getattr(d, name)) for name in LABELS}
  arrays |= {name: tokenize(split) for name, split in labels.items()}
  turns = {
    stage.name: pipeline.rows_of_turns(labels[stage.data[0]], stage.settings.turns)
    for stage in make_plan(settings)
    if stage.kind == "sft" and stage.settings.turns > 1
  }
  examples = {}
  for name in e.splits:
    if name in transitions.OPTIONAL and name not in builder.info.splits:
      continue
    split = pipeline.Split(builder, name)
    examples[name] = one_step.examples(split[: getattr(e, name)], world.tokenizer, limits)
  splits = {name: info.num_examples for name, info in builder.info.splits.items()}
  counts = dict(builder.info.metadata or {})
  summary = {
    "world": settings.world["name"],
    "splits": splits,
    "source": world.source,
    "fwm_labels": d.fwm_labels or splits["labelled"],
    "idm_labels": d.idm_labels or splits["labelled"],
    "dropped": {k: v["dropped"] for k, v in counts.items() if k in transitions.EVALUATION_SPLITS},
    "counts": counts,
    "scored": {name: len(x.records) for name, x in examples.items()},
    "sequences": {name: _of_each_length(rows) for name, rows in turns.items()},
  }
  return Data(world, arrays, examples, summary, turns)


def _labelled(builder, name: str, budget: int) -> pipeline.Split:
  """The labelled transitions of a model's budget; 0: all of them."""
  size = len(whole := pipeline.Split(builder, "labelled"))
  if budget > size:
    raise ValueError(
      f"data.{name} = {budget}: allowed is 0 (all) to the {size} labelled transitions that the "
      "world has."
    )
  return pipeline.Split(builder, "labelled", limit=budget) if budget else whole


def _of_each_length(rows: np.ndarray) -> dict[str, int]:
  """How many sequences have 1, 2, ... turns."""
  counts = np.bincount((rows >= 0).sum(-1), minlength=rows.shape[1] + 1)
  return {str(turns): int(counts[turns]) for turns in range(1, len(counts))}


def seed_of(seed: int, *names) -> int:
  """A 32-bit seed for a data stream, a function of the run's seed and of names."""
  return zlib.crc32("/".join(map(str, (seed, *names))).encode())


def annotate(
  role: TransformerRole, params, data: Transition, *, batch: int
) -> tuple[Latents, float]:
  """The frozen model's greedy action for every pair of a source, on every process; and the seconds
  that took, compilation left out.
  """
  decode = functools.partial(one_step.decode, role, params, group=1, greedy=True, batch=batch)
  decode(pipeline.take(data, np.arange(1)))  # compiles
  began = time.perf_counter()
  found = decode(data)
  seconds = time.perf_counter() - began
  return Latents(found.tokens[:, 0], found.mask[:, 0], found.logp[:, 0]), seconds


def with_latents(
  data: Transition, latents: Latents, *, floor: float, share: float = 1.0
) -> Transition:
  """The pairs whose action has a mean log-probability of at least `floor`, with that action; of
  these the `share` with the largest, one at least. Raises ValueError where none is left.
  """
  logp = np.asarray(latents.logp)
  keep = np.flatnonzero(logp >= floor)
  most = max(1, round(share * keep.size))
  keep = np.sort(keep[np.argsort(-logp[keep], kind="stable")[:most]])
  if not keep.size:
    raise ValueError(
      f"latent_floor = {floor}: no annotated pair reaches it; best: {np.max(latents.logp):.2f}."
    )
  z = Segment(np.asarray(latents.tokens)[keep], np.asarray(latents.mask)[keep])
  return pipeline.take(data, keep)._replace(z=z)


def widen(data: Transition, length: int) -> Transition:
  """Pads z on the right to `length` tokens, so that labelled and annotated transitions fit in one
  batch.
  """
  pad = [(0, 0), (0, length - data.z.tokens.shape[1])]
  return data._replace(z=Segment(np.pad(data.z.tokens, pad), np.pad(data.z.mask, pad)))


def join(*parts: Transition) -> Transition:
  """Batches one below the other."""
  return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
