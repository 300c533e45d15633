"""A checkpoint that can't be read: what is wrong is named, with its file."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from swirl_jax.models import hf_export, huggingface
from swirl_jax.models.safetensors_files import CheckpointFilesError
from tests.models.tiny_files import D, F, assert_same_bits, mesh_of, read, tensors, write

Q = "model.layers.1.self_attn.q_proj.weight"


def edit(folder, change, file="model.safetensors"):
  arrays = load_file(folder / file)
  change(arrays)
  save_file(arrays, folder / file)


def set_to(name, value):
  return lambda arrays: arrays.__setitem__(name, value)


def spoil(name, value):
  def change(arrays):
    arrays[name] = arrays[name].copy()
    arrays[name].flat[7] = value

  return change


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda a: a.pop(Q), r"tensor '{q}': in none of the safetensors files of {folder}"),
    (set_to(Q, np.zeros((D, D + 1), np.float32)), r"{at}: found shape \(16, 17\), expected \(16, "),
    (set_to(Q, np.zeros((D, D), np.int8)), r"{at}: dtype I8; allowed are F32, BF16, F16"),
    (set_to(Q, np.zeros((D, D), np.float64)), r"{at}: dtype F64; allowed are"),
    (spoil(Q, np.nan), r"{at}: NaN or infinity"),
    (spoil(Q, -np.inf), r"{at}: NaN or infinity"),
    (set_to("model.layers.2.mlp.up_proj.weight", np.zeros((F, D), np.float32)), "'model.layers.2"),
    (set_to("model.layers.0.self_attn.q_proj.bias", np.zeros(D, np.float32)), "no such tensor"),
  ],
)
def test_a_tensor_that_is_wrong_is_named_with_its_file(tmp_path, change, message):
  folder = write(tmp_path / "in", *tensors("llama"))
  edit(folder, change)
  at = f"tensor '{Q}' in {folder / 'model.safetensors'}"
  with pytest.raises(CheckpointFilesError, match=message.format(q=Q, folder=folder, at=at)):
    huggingface.load(folder, mesh_of())


def test_nan_in_bfloat16_is_seen(tmp_path):
  config, arrays = tensors("llama")
  half = {n: a.astype(jnp.bfloat16) for n, a in arrays.items()}
  half[Q][3, 3] = np.nan
  with pytest.raises(CheckpointFilesError, match=f"tensor '{Q}' in .*: NaN"):
    huggingface.load(write(tmp_path / "in", config, half), mesh_of())


def test_a_missing_shard_is_named(tmp_path):
  folder = write(tmp_path / "in", *tensors("llama"), shards=3)
  (folder / "model-00002-of-00003.safetensors").unlink()
  with pytest.raises(
    CheckpointFilesError, match=r"tensor 'model.norm.weight' and \d+ more: the shard .*00002-of-00"
  ):
    huggingface.load(folder, mesh_of())


@pytest.mark.parametrize("left", [0, 7, 200, -1])
def test_a_shard_cut_short_is_named(tmp_path, left):
  """Nothing left, not even the header's length, half a header, all but the last byte."""
  folder = write(tmp_path / "in", *tensors("llama"), shards=3)
  file = folder / "model-00002-of-00003.safetensors"
  file.write_bytes(file.read_bytes()[:left])
  with pytest.raises(CheckpointFilesError, match=f"tensor '.*' in {file}: cut short"):
    huggingface.load(folder, mesh_of())


def test_a_shard_that_is_not_what_the_index_says(tmp_path):
  folder = write(tmp_path / "in", *tensors("llama"), shards=3)
  file = "model-00002-of-00003.safetensors"
  edit(folder, lambda a: a.pop("model.norm.weight"), file)
  with pytest.raises(CheckpointFilesError, match=f"'model.norm.weight' is not in .*{file}"):
    huggingface.load(folder, mesh_of())


def test_bytes_that_belong_to_no_tensor(tmp_path):
  folder = write(tmp_path / "in", *tensors("llama"))
  file = folder / "model.safetensors"
  whole = file.read_bytes()
  file.write_bytes(whole + b"more")
  with pytest.raises(CheckpointFilesError, match=f"{file}: 4 bytes behind its last tensor"):
    huggingface.load(folder, mesh_of())
  length = int.from_bytes(whole[:8], "little")
  table = json.loads(whole[8 : 8 + length])
  table["model.norm.weight"]["data_offsets"] = [0, 64]  # where another tensor lies
  text = json.dumps(table).encode()
  file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
  with pytest.raises(CheckpointFilesError, match="tensor '.*its header is damaged .it begins at"):
    huggingface.load(folder, mesh_of())


def test_damaged_files_are_named(tmp_path):
  folder = write(tmp_path / "in", *tensors("llama"))
  file = folder / "model.safetensors"
  file.write_bytes(file.read_bytes()[:8] + b"?" + file.read_bytes()[9:])
  with pytest.raises(CheckpointFilesError, match=f"{file}: its header is damaged"):
    huggingface.load(folder, mesh_of())
  file.unlink()
  with pytest.raises(CheckpointFilesError, match="neither model.safetensors nor .*index.json"):
    huggingface.load(folder, mesh_of())
  (folder / "config.json").write_text("{")
  with pytest.raises(ValueError, match="config.json: not JSON"):
    huggingface.load(folder, mesh_of())
  (folder / "config.json").unlink()
  with pytest.raises(ValueError, match="no config.json there"):
    huggingface.load(folder, mesh_of())


def test_a_tied_head_that_is_stored_must_be_the_embedding(tmp_path):
  config, arrays = tensors("qwen2")
  arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()
  assert "head" not in huggingface.load(write(tmp_path / "a", config, arrays), mesh_of()).params
  arrays["lm_head.weight"][5, 5] += 1
  with pytest.raises(CheckpointFilesError, match="'lm_head.weight' in .*: differs from the embed"):
    huggingface.load(write(tmp_path / "b", config, arrays), mesh_of())


def test_computed_buffers_of_old_checkpoints_are_no_weights(tmp_path):
  config, arrays = tensors("llama")
  arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
  huggingface.load(write(tmp_path / "in", config, arrays), mesh_of())


def test_another_model_in_the_files_is_taken_along(tmp_path):
  config, arrays = tensors("llama")
  arrays["model.vqmodel.quantize.embedding.weight"] = np.arange(6, dtype=np.float32).reshape(2, 3)
  found = huggingface.load(write(tmp_path / "in", config, arrays, shards=2), mesh_of())
  out = hf_export.save(tmp_path / "out", *found[1::-1], found.hf_config, rest=found.rest)
  assert_same_bits(read(out), arrays)


def test_settings_that_cannot_be(tmp_path):
  folder = write(tmp_path / "in", *tensors("llama"))
  with pytest.raises(ValueError, match="dtype = 'float16': allowed are"):
    huggingface.load(folder, mesh_of(), dtype="float16")
  found = huggingface.load(folder, mesh_of())
  with pytest.raises(ValueError, match="dtype = 'float16': allowed are"):
    hf_export.save(tmp_path / "out", *found[1::-1], found.hf_config, dtype="float16")
  with pytest.raises(ValueError, match="shard size = 0 bytes"):
    hf_export.save(tmp_path / "out", *found[1::-1], found.hf_config, shard_bytes=0)


# -------------------------------------------------------------------------------------------- hub


def test_a_name_that_is_neither_folder_nor_hub_name(tmp_path):
  with pytest.raises(ValueError, match="no such folder, and no owner/name of the Hub"):
    huggingface.resolve(tmp_path / "nothing")


def test_without_a_network_one_error_says_what_to_do(tmp_path, monkeypatch):
  import huggingface_hub

  def fail(name, **_):
    raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand a long story")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
  with pytest.raises(ValueError, match="'org/model': no such folder.*no connection.*no network"):
    huggingface.resolve("org/model")


def test_a_hub_name_is_fetched(tmp_path, monkeypatch):
  import huggingface_hub

  asked = {}

  def fetch(name, **settings):
    asked.update(settings, name=name)
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
  for source, revision in (("org/model@v1", "v1"), ("org/model", None)):
    assert huggingface.resolve(source) == tmp_path
    assert (asked["name"], asked["revision"]) == ("org/model", revision)
  assert not any(p.endswith((".bin", ".pt", ".pth")) for p in asked["allow_patterns"])
