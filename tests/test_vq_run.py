"""A tokenizer from pictures to a folder, and how a world of pictures comes by one."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from swirl_jax import codecs, start, vq_run
from swirl_jax.metrics import read_rows
from swirl_jax.models import vqgan_files
from swirl_jax.models.vq_training import VQTraining
from swirl_jax.models.vqgan import VQConfig

VQ = {"ch": 4, "ch_mult": (1, 1), "res_blocks": 1, "mid_attention": False, "z_channels": 4,
      "embed_dim": 4, "codes": 8, "groups": 2, "patch": 4}  # fmt: skip
TRAINING = {"vq": VQ, "steps": 3, "batch": 4, "learning_rate": 1e-2}
SETTINGS = VQTraining(VQConfig(**VQ), **{k: v for k, v in TRAINING.items() if k != "vq"})


def pictures(seed=0):
  return np.random.default_rng(seed).integers(0, 256, (3, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("vq") / "run"
  return folder, vq_run.train(SETTINGS, pictures(), folder)


def weights(folder):
  return (folder / vq_run.MODEL / "model.safetensors").read_bytes()


def test_a_run_leaves_a_model_and_what_it_is_worth(whole):
  folder, quality = whole
  assert vqgan_files.load(folder / "model").config == SETTINGS.vq
  rows = read_rows(folder / "metrics.jsonl")
  assert [row["step"] for row in rows] == [0, 1, 2]
  assert all(np.isfinite(row["loss"]) for row in rows)
  assert json.loads((folder / "quality.json").read_text()) == quality
  assert quality["pictures"] == 3 and quality["kinds"] == 3 * 16
  assert (folder / "reconstructions.png").read_bytes().startswith(b"\x89PNG")
  codec = codecs.open_codec(folder / "model")
  codes = codec.encode(pictures())
  assert (codec.size, codec.factor) == (8, 2) and codes.shape == (3, 4, 4)
  drawn = codec.decode(codes)
  assert drawn.shape == (3, 8, 8, 3) and drawn.dtype == np.uint8


def test_a_whole_folder_is_left_alone_and_another_training_refused(whole, monkeypatch):
  folder, quality = whole
  monkeypatch.setattr(vq_run, "_fit", None)
  assert vq_run.train(SETTINGS, pictures(), folder) == quality
  with pytest.raises(ValueError, match=r"training.steps: saved 3, now 4"):
    vq_run.train(VQTraining(**{**vars(SETTINGS), "steps": 4}), pictures(), folder)
  with pytest.raises(ValueError, match="sha256: saved"):
    vq_run.train(SETTINGS, pictures(1), folder)


def test_a_run_that_was_killed_begins_again_and_ends_the_same(whole, tmp_path, monkeypatch):
  """Killed when all but the model is there, while that is written."""
  write = vqgan_files.safetensors_files.write

  def killed(path, *args):
    write(path, *args)
    shutil.copytree(path.parent, path.parent.with_name(".model.0.tmp"))  # as SIGKILL leaves it
    raise KeyboardInterrupt

  folder = tmp_path / "run"
  with monkeypatch.context() as patch:
    patch.setattr(vqgan_files.safetensors_files, "write", killed)
    with pytest.raises(KeyboardInterrupt):
      vq_run.train(SETTINGS, pictures(), folder)
  assert not (folder / "model").exists() and list(folder.glob(".model.*"))
  quality = vq_run.train(SETTINGS, pictures(), folder)
  assert quality == whole[1] and weights(folder) == weights(whole[0])
  assert not list(folder.glob(".model.*"))
  assert len(read_rows(folder / "metrics.jsonl")) == 3


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
  nothing = lambda state, pixels, settings: (state, {"loss": jnp.nan, "codes": 0})  # noqa: E731
  monkeypatch.setattr(vq_run.vq_training, "step", nothing)
  with pytest.raises(ValueError, match="loss is nan at step 0"):
    vq_run.train(SETTINGS, pictures(), tmp_path / "run")
  assert not (tmp_path / "run" / "model").exists()


def test_a_world_trains_its_tokenizer_when_it_is_first_asked(whole, tmp_path):
  asked = []
  settings = {"vq": "", "vq_training": TRAINING}
  codec = start.codec_of_world(settings, str(tmp_path), lambda: asked.append(1) or pictures())
  assert (codec.size, codec.factor, asked) == (8, 2, [])
  codes = codec.encode(pictures())
  again = start.codec_of_world(settings, str(tmp_path), lambda: asked.append(1) or pictures())
  np.testing.assert_array_equal(codes, again.encode(pictures()))
  np.testing.assert_array_equal(codes, codecs.open_codec(whole[0] / "model").encode(pictures()))
  assert asked == [1] and again.digest == codec.digest
  (folder,) = tmp_path.glob("vq_*[0-9a-f]")
  given = start.codec_of_world({"vq": str(folder / "model")}, None, None)
  np.testing.assert_array_equal(codes, given.encode(pictures()))
  assert given.digest == vqgan_files.digest(folder / "model") != codec.digest


def test_what_a_world_may_ask_for(tmp_path):
  described = start.codec_of_world({"vq": "", "vq_training": TRAINING}, None, pictures)
  assert (described.size, described.factor) == (8, 2)
  assert start.codec_of_world({"vq": ""}, str(tmp_path), None) is None
  for settings, message in (
    ({"vq": 3}, "config.world.vq = 3"),
    ({"vq": "", "vq_training": {}}, "config.world.vq_training.vq is missing"),
    ({"vq": "", "vq_training": {**TRAINING, "steps": 0}}, "vq_training: steps = 0"),
    ({"vq": "", "vq_training": {**TRAINING, "vq": {"codes": 0}}}, "vq_training.vq: vq.codes = 0"),
  ):
    with pytest.raises(ValueError, match=message):
      start.codec_of_world(settings, str(tmp_path), pictures)
  with pytest.raises(ValueError, match=str(tmp_path)):
    start.codec_of_world({"vq": str(tmp_path)}, None, None)
