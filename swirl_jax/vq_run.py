"""A VQ tokenizer from pictures to a folder: the run that trains one.

    metrics.jsonl          a row a step
    quality.json           how well it keeps its pictures (`data/codec_quality.py`)
    reconstructions.png    pictures above what came back of them
    training.json          what it was trained on
    model/                 the VQ model (`models/vqgan_files.py`), written last, in one go

A run is short, so one that was killed begins again; a folder without `model` isn't whole. On one
machine the same settings and pictures give the same model.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from swirl_jax import codecs, metrics
from swirl_jax.data import codec_quality, images
from swirl_jax.data.codec import in_batches
from swirl_jax.files import check_config, write_json_atomic
from swirl_jax.models import vq_training, vqgan_files
from swirl_jax.models.vq_training import State, VQTraining

MODEL = "model"
_ROWS_EVERY = 20  # steps whose metrics are fetched together
_MEASURED = 1000  # pictures
_SHOWN = 12


def train(settings: VQTraining, pictures: np.ndarray, folder: str | os.PathLike) -> dict:
  """Trains a tokenizer of `pictures` uint8 [N, H, W, 3] into `folder`, if it isn't there yet.
  Returns what quality.json holds.

  Raises ValueError for pictures that the model can't take, for a folder whose training had other
  settings or pictures, and where the loss stops being finite.
  """
  folder = pathlib.Path(folder)
  settings.vq.grid(*pictures.shape[1:3])
  described = {"training": dataclasses.asdict(settings), "pictures": list(pictures.shape),
               "sha256": hashlib.sha256(np.ascontiguousarray(pictures)).hexdigest()}  # fmt: skip
  path = folder / "training.json"
  if path.exists():
    check_config(json.loads(path.read_text()), described, ())
  if (folder / MODEL).exists():
    return json.loads((folder / "quality.json").read_text())
  for left in folder.glob(f".{MODEL}.*.tmp"):
    shutil.rmtree(left)
  folder.mkdir(parents=True, exist_ok=True)
  write_json_atomic(path, described)
  params = _fit(settings, pictures, folder)
  vq = vqgan_files.VQ(settings.vq, params)
  codec = codecs.codec_of(settings.vq, lambda: params)
  quality = codec_quality.measure(codec, _spread(pictures, _MEASURED))
  shown = _spread(pictures, _SHOWN)
  back = in_batches(codec.decode, in_batches(codec.encode, shown))
  Image.fromarray(codec_quality.sheet(list(zip(shown, back, strict=True)))).save(
    folder / "reconstructions.png"
  )
  write_json_atomic(folder / "quality.json", quality)
  vqgan_files.save(folder / MODEL, vq)
  return quality


def _fit(settings: VQTraining, pictures: np.ndarray, folder: pathlib.Path):
  """All steps; their metrics as rows of metrics.jsonl. Returns the parameters."""
  data = jnp.asarray(vq_training.examples(pictures, settings.vq))

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state: State, data):
    rows = vq_training.rows(state, len(data), settings)
    return vq_training.step(state, images.to_pixels(data[rows]), settings=settings)

  state, log = jax.jit(lambda: vq_training.initial_state(settings))(), folder / "metrics.jsonl"
  log.unlink(missing_ok=True)
  writer, waiting = metrics.JsonlLog(log), []
  with metrics.Progress(settings.steps, description="training the tokenizer") as bar:
    begun = time.monotonic()
    for number in range(settings.steps):
      state, found = update(state, data)
      waiting.append(found)
      if len(waiting) == _ROWS_EVERY or number == settings.steps - 1:
        first = number + 1 - len(waiting)
        rows = [{k: float(v) for k, v in row.items()} for row in jax.device_get(waiting)]
        seconds = (time.monotonic() - begun) / len(rows)
        for i, row in enumerate(rows, start=first):
          writer.write({"position": i, "step": i, **row, metrics.PERF: {"seconds": seconds}})
          if not np.isfinite(row["loss"]):
            raise ValueError(f"the tokenizer's loss is {row['loss']} at step {i}: lower the rate.")
        bar.update(len(rows), loss=rows[-1]["loss"], codes=int(rows[-1]["codes"]))
        waiting, begun = [], time.monotonic()
  writer.close()
  return state.params


def _spread(pictures: np.ndarray, most: int) -> np.ndarray:
  """At most so many of them, evenly spaced."""
  rows = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).astype(int)
  return pictures[np.unique(rows)]
