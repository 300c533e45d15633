"""Image language models through whole runs: pictures → codes → a tiny Liquid or Chameleon folder →
warm-up → both phases → a predicted picture → a folder.
"""

import json
import pathlib

import numpy as np
import pytest
import tiny_liquid
from PIL import Image

from configs import liquid_7b
from swirl_jax import codecs, export, metrics, predict, programs, start, train, trained
from swirl_jax.data import image_tokenizers, tokenize_job
from swirl_jax.data.codec import Codec
from swirl_jax.data.image_codes import text_codes
from swirl_jax.data.pipeline import Split
from swirl_jax.models import safetensors_files
from swirl_jax.settings import from_config
from tests.data import test_images_world as pictures
from tests.data.test_tokenize_job import encode
from tests.models import tiny_files

LAYOUT = {"gemma": "liquid", "chameleon": "chameleon"}


FAKE = Codec(tiny_liquid.CODES, 4, "fake", lambda pixels: encode(pixels) // 8)  # 40 k → code 5 k


def tokenised(folder, codec):
  """A folder with pictures, and pairs of them as codes."""
  lines = pictures.write(folder, pictures.pairs(folder, episodes=24, turns=2))
  tokenize_job.tokenize(lines, folder / "codes", codec, size=pictures.SIZE, batch=8)
  return folder


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
  return tokenised(tmp_path_factory.mktemp("pictures"), FAKE)


def config_of(codes, model, kind="tiny", **changes):
  c = liquid_7b.get_config(kind)
  c.pretrained = str(model)
  c.world.update({"path": str(codes / "codes"), "met": "prompt"})
  c.mesh.update({"data": 8, "fsdp": 1, "tensor": 1})
  config = c.to_dict()
  for where, value in changes.items():
    group, _, name = where.partition("__")
    config[group] = config[group] | {name: value} if name else value
  return config


@pytest.mark.slow
def test_pictures_to_a_predicted_picture(tmp_path):
  """One run of configs/liquid_7b.py:tiny; then a picture file in, a picture file out."""
  vq = pictures.vq_folder(tmp_path / "vq")
  codes = tokenised(tmp_path / "pairs", codecs.open_codec(vq))
  model, workdir = tiny_liquid.write(tmp_path / "model", padding=8), str(tmp_path / "run")
  job = train.prepare(config_of(codes, model, world__vq=vq), workdir)
  start_, stop = job.data.world.codes
  assert (stop - start_, job.data.lengths.state) == (tiny_liquid.CODES, 4)
  assert job.players.fwm.decoding.allowed == ((start_, stop),)
  assert job.players.idm.decoding.allowed == ((0, start_),)  # no padding row either
  train.train(job)
  rows = metrics.read_rows(tmp_path / "run" / "metrics.jsonl")
  stages = [r["stage"] for r in rows]
  assert list(dict.fromkeys(stages)) == ["warmup_fwm", "warmup_idm", "phase2", "phase1"]
  assert all(np.isfinite(r["loss"]) and r["grad_norm"] > 0 for r in rows)
  phase1 = [r for r in rows if r["stage"] == "phase1"]
  assert all(r["length"] == 4 and r["truncated"] == 0 for r in phase1)

  predictor = predict.Predictor(workdir)
  file = codes / "pictures" / "0-0.png"
  x = predictor.world.state(str(file))
  assert text_codes(x).shape == (4,) and predictor.world.state(x) == x
  answers = predictor.next_states(x, "paint patch 1 with 2", n=2, verify=True)
  drawn = predictor.draw([answer.text for answer in answers])
  paths = predict.write_pictures(drawn, str(tmp_path / "out"))
  assert [p.name for p in paths] == ["prediction-1.png", "prediction-2.png"]
  assert drawn.shape == (2, pictures.SIZE, pictures.SIZE, 3)
  for path, picture in zip(paths, drawn, strict=True):
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
  for given, message in (("nowhere.png", "nowhere"), ("<1> <2>", "--x has 2 tokens: allowed is 4")):
    with pytest.raises(ValueError, match=message):
      predictor.next_states(predictor.world.state(given), "paint patch 1 with 2")
  (action,) = predictor.actions(x, predictor.world.state(str(codes / "pictures" / "0-1.png")))
  assert "<" not in action.text.replace("<unused", "")  # text, no code

  fwm, idm = export.export(workdir, str(tmp_path / "exported"), shard_bytes=10**9)
  before, after = tiny_liquid.config_of(model), tiny_liquid.config_of(fwm)
  assert after["model_type"] == "gemma" and after["vocab_size"] == before["vocab_size"]
  size = before["vocab_size"] - 8
  for folder in (fwm, idm):
    again = image_tokenizers.open_tokenizer(folder, after, codes=tiny_liquid.CODES)
    assert again == job.data.world.tokenizer and again.codes == (size - tiny_liquid.CODES, size)
  card = (fwm / "README.md").read_text()
  assert "<bos><boi>{x}<eoi>" in card and "→ {y}<eoi><eos>" in card
  assert f"as the ids {start_} to {stop - 1}" in card


@pytest.mark.parametrize("family", LAYOUT)
def test_a_world_of_pictures_is_read_by_the_models_tokenizer(codes, family, tmp_path):
  """The same records, in the model's ids, and both roles' prompts of the length they need."""
  model = tiny_liquid.write(tmp_path / "model", family)
  settings = from_config(config_of(codes, model, prompts=LAYOUT[family]))
  world = start.world_of(settings, tmp_path)
  reader = world.tokenizer
  assert (world.state_len, world.action_len) == (4, 24)
  assert world.codes == reader.codes and reader.vocab_size <= settings.model.vocab_size
  record = Split(world.prepare(str(tmp_path / "data")), "labelled")[0]
  ids = reader.encode(record.x)
  assert len(ids) == 4 and all(world.codes[0] <= i < world.codes[1] for i in ids)
  assert reader.decode(ids) == record.x and reader.decode(reader.encode(record.z)) == record.z
  players = trained.players_of(settings, world)
  assert players.fwm.template.end == (reader.eoi, reader.eos)
  assert players.fwm.decoding.end is None and players.idm.decoding.end == reader.eos


def test_what_a_run_of_pictures_cannot_be(codes, tmp_path):
  model = tiny_liquid.write(tmp_path / "model")
  for changes, message in (
    ({"data__state_len": 5}, "data.state_len = 5: a picture of this world has 4 codes"),
    ({"prompts": "plain"}, "prompts = 'plain': the tokenizer of an image model has none of our"),
    ({"prompts": "chameleon"}, "the tokenizer has no token '<reserved08706>'"),
  ):
    with pytest.raises(ValueError, match=message):
      train.prepare(config_of(codes, model, **changes), str(tmp_path / "run"))
  text = tiny_files.write(tmp_path / "text", *tiny_files.tensors("gemma", 300))
  tiny_liquid.text_tokenizer("<boi>", "<eoi>").save_pretrained(text)
  with pytest.raises(ValueError, match=r"VQ. has 32 codes; the image vocabulary of .* has \d+ .of"):
    train.prepare(config_of(codes, text), str(tmp_path / "run"))


def test_the_config_holds_the_papers_rows(codes, tmp_path):
  model = tiny_liquid.write(tmp_path / "model")
  rows = {"one_round": (64, 1e-6, 100), "iterative": (128, 2e-7, 50), "shared": (128, 5e-7, 50)}
  for kind, (batch, rate, warm) in rows.items():
    found = from_config(config_of(codes, model, kind))
    assert found.weights == ("shared" if kind == "shared" else "separate")
    assert found.data.state_len == 1024 and found.prompts == "liquid"
    for phase in (found.phase1, found.phase2):
      assert (phase.prompts, phase.group, phase.beta) == (batch, 8, 0.1)
      assert (phase.temperature, phase.top_p, phase.top_k) == (0.75, 0.96, 0)
      o = phase.optimizer
      assert (o.learning_rate, o.warmup_steps, o.schedule) == (rate, warm, "cosine")
    assert not found.phase1.reward.count_end and found.phase2.reward.count_end
    for stage in (found.warmup_fwm, found.warmup_idm):
      o, adam = stage.optimizer, stage.optimizer.build()
      assert (o.learning_rate, o.schedule, o.weight_decay) == (2e-5, "cosine", 0.01)
      assert o.warmup_steps / stage.steps == pytest.approx(0.05, abs=1e-3)
      assert (adam.b1, adam.b2) == (0.9, 0.95)
      assert (stage.batch, stage.steps) == (128, 5 * 400_000 // 128)
  assert from_config(config_of(codes, model, "one_round")).swirl.order == ("phase2", "phase1")
  with pytest.raises(ValueError, match="kind 'large': allowed are one_round, iterative"):
    liquid_7b.get_config("large")


@pytest.mark.parametrize("family", LAYOUT)
def test_a_folder_leaves_as_it_came(codes, family, tmp_path, monkeypatch):
  """What `export` writes of a run whose models are the checkpoint's own: every tensor bit for bit,
  Chameleon's image tokenizer with them."""
  config, arrays, tokenizer = tiny_liquid.files(family)
  if family == "chameleon":
    arrays["model.vqmodel.quantize.embedding.weight"] = np.ones((4, 3), np.float32)
  model = tiny_files.write(tmp_path / "model", config, arrays)
  tokenizer.save_pretrained(model)
  no_training = {"warmup_fwm": {"steps": 0, "batch": 4, "optimizer": {"learning_rate": 1.0}}}
  no_training |= {"warmup_idm": no_training["warmup_fwm"], "swirl": {"iterations": 0}}
  chosen = config_of(codes, model, prompts=LAYOUT[family], **no_training)
  monkeypatch.setattr("swirl_jax.scoring.stage_rows", lambda run, stage: [])
  monkeypatch.setattr("swirl_jax.scoring.final", lambda run: ([], {}))
  monkeypatch.setattr("swirl_jax.report.write", lambda folder, world: "")
  train.train(train.prepare(chosen, str(tmp_path / "run")))
  for folder in export.export(str(tmp_path / "run"), str(tmp_path / "out"), shard_bytes=10**9):
    tiny_files.assert_same_bits(tiny_files.read(folder), arrays)
    described = json.loads((folder / "config.json").read_text())
    assert described | {"dtype": None} == config | {"dtype": None}
    assert safetensors_files.find(pathlib.Path(folder)).keys() == arrays.keys()


def test_an_image_needs_its_whole_context(codes, tmp_path):
  """The longest prompt, the picture and both markers behind it must fit."""
  config, arrays, tokenizer = tiny_liquid.files("gemma")
  model = tiny_files.write(tmp_path / "model", config | {"max_position_embeddings": 100}, arrays)
  tokenizer.save_pretrained(model)
  settings = from_config(config_of(codes, model))
  with pytest.raises(ValueError, match="config.model.max_len = 100: the world needs"):
    programs.make_roles(settings, *_reader(settings, tmp_path))


def _reader(settings, folder):
  world = start.world_of(settings, folder)
  return world.tokenizer, programs.Lengths(world.state_len, world.action_len, world.codes)
