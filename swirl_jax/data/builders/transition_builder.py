"""What every world's tfds builder shares: the features of a transition, written in order."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from swirl_jax.data import transitions
from swirl_jax.data.transitions import Record


class TransitionBuilder(tfds.core.GeneratorBasedBuilder):
  """A world's own says `VERSION` and `_split_generators`, which puts its counts into
  `info.metadata`; the data's description is the text of the world's file.
  """

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=sys.modules[type(self).__module__].__doc__,
      features=transitions.features(),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _generate_examples(self, records: Sequence[Record]) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, record in enumerate(records):
      yield key, dataclasses.asdict(record)
