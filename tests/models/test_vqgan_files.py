"""VQ models in and out, and every number against transformers' own models.

The fixture is `tests/fixtures/codes.npz` (see `make_codes.py` there); the group `torch` computes
anew, with other weights, where torch is installed.
"""

import dataclasses
import functools
import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from swirl_jax.models import convert_vqgan, vqgan, vqgan_files
from swirl_jax.models.safetensors_files import CheckpointFilesError
from swirl_jax.models.vqgan import VQConfig
from swirl_jax.models.vqgan_files import VQ
from tests import torch_files

FIXTURES = Path(__file__).parents[1] / "fixtures"
sys.path.insert(0, str(FIXTURES))
from vq_cases import DECODER, ENCODERS, draw, pixels, quantised  # noqa: E402

GAP = 1e-4  # nearer to each other, relatively, the two nearest vectors may change places
TINY = VQConfig(
  ch=32, ch_mult=(1, 2), res_blocks=1, attn_levels=(1,), z_channels=6, embed_dim=4, codes=16
)
encode = tiny.jit(vqgan.encode, static_argnums=1)


@functools.partial(tiny.jit, static_argnums=0)
def latents_of(config, params, x):
  return vqgan.VQGAN(config).apply({"params": params}, x, method="latents")


@pytest.fixture(scope="module")
def fixture():
  """By case: what make_codes' functions return."""
  cases = {case: {} for case in (*ENCODERS, "decoder")}
  with np.load(FIXTURES / "codes.npz") as file:
    for name in file:
      case, key = name.split("/")
      cases[case][key] = file[name]
  return cases


@pytest.fixture(scope="module")
def small():
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: vqgan.init_params(TINY, jax.random.key(0)))
  return VQ(TINY, jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), shapes))


def drawn(found, seed=0) -> dict[str, np.ndarray]:
  shapes = json.loads(str(found["tensors"]))
  return {name: draw(name, shape, seed) for name, shape in shapes.items()}


def chameleon(folder: Path, found, arrays, shards=1) -> Path:
  """A Chameleon folder: the VQ model's tensors among a language model's."""
  folder.mkdir()
  (folder / "config.json").write_text(str(found["config"]))
  held = {"model.embed_tokens.weight": np.zeros((4, 2), np.float32)}
  held |= {f"model.vqmodel.{name}": array for name, array in arrays.items()}
  if shards == 1:
    save_file(held, folder / "model.safetensors")
    return folder
  where = {}
  for i in range(shards):
    file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
    part = dict(list(held.items())[i::shards])
    save_file(part, folder / file)
    where |= dict.fromkeys(part, file)
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
  return folder


def clear(latents: np.ndarray, book: np.ndarray) -> np.ndarray:
  """Where the second nearest vector is farther than the nearest by more than GAP of it."""
  distances = np.square(latents[..., None, :].astype(np.float64) - book).sum(-1)
  first, second = np.moveaxis(np.partition(distances, 1, axis=-1)[..., :2], -1, 0)
  return second - first > GAP * first


def assert_encodes(folder, found, case, seed=0):
  vq = vqgan_files.load(folder)
  x = pixels(ENCODERS[case][1], seed)
  latents = latents_of(vq.config, vq.params, x)
  np.testing.assert_allclose(latents, found["latents"], atol=1e-5, rtol=0)
  sure = clear(found["latents"], np.asarray(vq.params["codebook"]))
  assert sure.mean() > 0.9 and len(np.unique(found["codes"])) >= 10
  codes = np.asarray(encode(vq.params, vq.config, x))
  np.testing.assert_array_equal(codes[sure], found["codes"][sure])


def assert_decodes(vq, found, seed=0):
  def decoded(params, e):
    return vqgan.VQGAN(vq.config).apply({"params": params}, e, method="pixels")

  y = tiny.jit(decoded)(vq.params, quantised(seed))
  assert found["pixels"].std() > 0.3
  np.testing.assert_allclose(y, found["pixels"], atol=1e-4, rtol=0)


# ------------------------------------------------------------------------- equal to transformers


@pytest.mark.parametrize("case, shards", zip(ENCODERS, (1, 3, 1), strict=True))
def test_latents_and_codes_equal_chameleons(tmp_path, fixture, case, shards):
  found = fixture[case]
  folder = chameleon(tmp_path / "in", found, drawn(found), shards)
  assert_encodes(folder, found, case)
  vq = vqgan_files.load(folder)
  with pytest.raises(ValueError, match="no decoder weights.*vqgan.ckpt"):
    vqgan.decode(vq.params, vq.config, jnp.zeros((1, 2, 2), jnp.int32))


def test_the_decoder_equals_januses_and_a_ckpt_needs_no_config(tmp_path, fixture):
  """The weights as taming names them, in a file as Lightning writes it, through the command."""
  found = fixture["decoder"]
  arrays = drawn(found)
  loss = {"loss.discriminator.main.0.weight": np.ones((2, 2), np.float32),
          "loss.logvar": np.zeros((), np.float32)}  # fmt: skip
  file = torch_files.write(tmp_path / "vqgan.ckpt", {"epoch": 1, "state_dict": arrays | loss})
  vq, left_out = vqgan_files.read_checkpoint(file)
  assert left_out == 2
  assert vq.config == VQConfig(
    ch=32, ch_mult=(1, 2, 1), res_blocks=1, attn_levels=(2,), z_channels=9, embed_dim=5, codes=20
  )
  assert_decodes(vq, found)
  folder = vqgan_files.save(tmp_path / "out", vq)
  loaded = vqgan_files.load(folder)
  assert loaded.config == vq.config
  jax.tree.map(np.testing.assert_array_equal, loaded.params, vq.params)


@pytest.mark.torch
@pytest.mark.parametrize("case", ENCODERS)
def test_live_codes_with_other_weights(tmp_path, case):
  pytest.importorskip("torch")
  import make_codes

  seed = 7
  found = make_codes.encoded(case, seed)
  assert_encodes(chameleon(tmp_path / "in", found, drawn(found, seed)), found, case, seed)


@pytest.mark.torch
def test_live_pixels_with_other_weights(tmp_path):
  pytest.importorskip("torch")
  import make_codes

  found = make_codes.decoded(7)
  file = torch_files.write(tmp_path / "vqgan.ckpt", drawn(found, 7))
  assert_decodes(vqgan_files.read_checkpoint(file)[0], found, 7)


@pytest.mark.torch
def test_a_folder_that_transformers_saved(tmp_path):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  fields, size = ENCODERS["mid_attention"]
  config = transformers.ChameleonConfig(
    vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, vq_config=fields, vocabulary_map={},
  )  # fmt: skip
  model = transformers.ChameleonForConditionalGeneration(config).eval()
  model.save_pretrained(tmp_path, max_shard_size="100KB")
  x = pixels(size)
  with torch.no_grad():
    out = model.model.vqmodel.encode(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
  vq = vqgan_files.load(tmp_path)
  codes = encode(vq.params, vq.config, x)
  assert (np.asarray(codes).reshape(-1) == out.image_tokens.numpy().reshape(-1)).mean() > 0.99


# ------------------------------------------------------------------------------------ our folders


def test_a_folder_comes_back_and_its_digest_is_of_what_decides_codes(tmp_path, small):
  folder = vqgan_files.save(tmp_path / "a", small)
  loaded = vqgan_files.load(folder)
  assert loaded.config == TINY
  jax.tree.map(np.testing.assert_array_equal, loaded.params, small.params)
  told = vqgan_files.digest(folder)
  assert len(told) == 64

  def digest(name, config=TINY, **parts):
    return vqgan_files.digest(
      vqgan_files.save(tmp_path / name, VQ(config, small.params | parts))
    )

  assert digest("same") == told
  other = jax.tree.map(lambda a: a + 1, small.params)
  assert digest("decoder", decoder=other["decoder"]) == told
  changed = {digest(name, **{name: other[name]}) for name in ("encoder", "quant_conv", "codebook")}
  changed.add(digest("dtype", dataclasses.replace(TINY, dtype="bfloat16")))
  assert len(changed | {told}) == 5


def test_a_folder_without_a_decoder_and_of_chameleons_tensors_has_the_same_digest(
  tmp_path, fixture
):
  found = fixture["mid_attention"]
  folder = chameleon(tmp_path / "in", found, drawn(found))
  out = vqgan_files.save(tmp_path / "out", vqgan_files.load(folder))
  assert not any(name.startswith("decoder.") for name in load_file(out / "model.safetensors"))
  assert vqgan_files.digest(out) == vqgan_files.digest(folder)


def test_a_folder_that_holds_something_is_left_alone(tmp_path, small):
  (tmp_path / "a").mkdir()
  vqgan_files.save(tmp_path / "a", small)
  told = vqgan_files.digest(tmp_path / "a")
  other = VQ(TINY, small.params | {"codebook": small.params["codebook"] + 1})
  with pytest.raises(ValueError, match="holds 'config.json'.*or say overwrite"):
    vqgan_files.save(tmp_path / "a", other)
  assert vqgan_files.digest(tmp_path / "a") == told
  vqgan_files.save(tmp_path / "a", other, overwrite=True)
  assert vqgan_files.digest(tmp_path / "a") != told
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_a_folder_is_whole_or_not_readable_while_another_takes_its_place(
  tmp_path, small, monkeypatch
):
  """Of several files, stopped at any of them; and a link is followed."""
  (tmp_path / "real").mkdir()
  (tmp_path / "a").symlink_to(tmp_path / "real")
  vqgan_files.save(tmp_path / "a", small)
  assert (tmp_path / "real" / "model.safetensors").exists()
  other, moved, move = VQ(TINY, jax.tree.map(lambda a: a + 1, small.params)), [], os.replace

  def stop(source, target):
    if len(moved) == 1:
      raise OSError("stopped")
    moved.append(target)
    move(source, target)

  monkeypatch.setattr(os, "replace", stop)
  with pytest.raises(OSError, match="stopped"):
    vqgan_files.save(tmp_path / "a", other, overwrite=True)
  assert [path.name for path in moved] == ["config.json"]
  assert not (tmp_path / "real" / "model.safetensors").exists()


def test_tensors_are_checked_by_name(tmp_path, small):
  file = vqgan_files.save(tmp_path / "a", small) / "model.safetensors"
  arrays = load_file(file)

  def refused(message, **changes):
    save_file({k: v for k, v in (arrays | changes).items() if v is not None}, file)
    with pytest.raises(CheckpointFilesError, match=message):
      vqgan_files.load(tmp_path / "a")

  name = "encoder.down.1.block.0.conv1.weight"
  refused(f"tensor '{name}': not in", **{name: None})
  refused("tensor 'decoder.conv_in.bias': not in", **{"decoder.conv_in.bias": None})
  refused("'encoder.extra' in .* no such tensor", **{"encoder.extra": np.zeros(2, np.float32)})
  turned = np.ascontiguousarray(arrays[name].transpose(2, 3, 1, 0))
  refused(rf"'{name}' in .*found shape \(3, 3, 32, 64\), expected \(64, 32, 3, 3\)",
          **{name: turned})  # fmt: skip
  refused("NaN", **{name: arrays[name] * np.float32(np.nan)})


def test_config_json_is_checked_by_field(tmp_path, small):
  folder = vqgan_files.save(tmp_path / "a", small)
  config = json.loads((folder / "config.json").read_text())
  cases = [
    ({"model_type": "llama"}, "model_type = 'llama': allowed are 'swirl_vqgan' and 'chameleon'"),
    ({"ch": 33}, "config.json: vq.groups = 32: allowed are divisors of vq.ch = 33"),
    ({"ch_mult": 3}, "config.json: "),
    ({"depth": 3}, r"unknown \['depth'\]"),
    ({"codes": ...}, r"missing are \['codes'\]"),
  ]
  for change, message in cases:
    changed = {k: v for k, v in (config | change).items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=message):
      vqgan_files.load(folder)
  with pytest.raises(ValueError, match="no such folder"):
    vqgan_files.load(tmp_path / "none")


def test_vq_config_is_chameleons():
  assert vqgan_files.from_hf({}, "c") == VQConfig()
  assert vqgan_files.from_hf({"attn_resolutions": [32, 512]}, "c").attn_levels == (0, 4)
  none = vqgan_files.from_hf({"attn_type": "none", "attn_resolutions": [32]}, "c")
  assert none == VQConfig(mid_attention=False)
  for fields, message in (
    ({"double_latent": True}, "c: vq_config.double_latent = True"),
    ({"attn_resolutions": [33]}, r"c: vq_config.attn_resolutions = \[33\]: allowed are \[32, 64"),
    ({"base_channels": 40}, "c: vq.groups = 32"),
    ({"channel_multiplier": 5}, "c: vq_config.channel_multiplier = 5: allowed is list"),
    ({"resolution": "512"}, "c: vq_config.resolution = '512': allowed is int"),
  ):
    with pytest.raises(ValueError, match=message):
      vqgan_files.from_hf(fields, "c")


def test_a_ckpt_is_checked_by_tensor(tmp_path, fixture):
  arrays = drawn(fixture["decoder"])
  for i, name in enumerate(("encoder.conv_in.weight", "decoder.up.1.block.0.conv2.bias")):
    held = {k: v for k, v in arrays.items() if k != name}
    with pytest.raises(CheckpointFilesError, match=f"tensor '{name}'.*: not in"):
      vqgan_files.read_checkpoint(torch_files.write(tmp_path / f"{i}.ckpt", held))
  more = arrays | {"quantize.usage": np.zeros(3, np.float32)}
  with pytest.raises(CheckpointFilesError, match="'quantize.usage' in .* no such tensor"):
    vqgan_files.read_checkpoint(torch_files.write(tmp_path / "more.ckpt", more))


def test_a_ckpts_tensors_tell_another_models_settings(tmp_path):
  """Grey pictures, one level of two blocks, no attention: nothing of it is said in the file."""
  config = VQConfig(channels=1, ch=32, ch_mult=(1,), res_blocks=2, mid_attention=False,
                    z_channels=3, embed_dim=2, codes=5)  # fmt: skip
  shapes = jax.eval_shape(lambda: vqgan.init_params(config, jax.random.key(0)))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), shapes)
  saved = vqgan_files.save(tmp_path / "a", VQ(config, params)) / "model.safetensors"
  found, _ = vqgan_files.read_checkpoint(
    torch_files.write(tmp_path / "vqgan.ckpt", load_file(saved))
  )
  assert found.config == config
  jax.tree.map(np.testing.assert_array_equal, found.params, params)


def test_the_command_converts(tmp_path, fixture, capsys):
  loss = {"loss.logvar": np.zeros((), np.float32)}
  file = torch_files.write(tmp_path / "vqgan.ckpt", drawn(fixture["decoder"]) | loss)
  convert_vqgan.convert(str(file), str(tmp_path / "out"))
  assert "with decoder; 1 tensors of the loss left out" in capsys.readouterr().out
  with pytest.raises(ValueError, match="or say overwrite"):  # before the file is looked at
    convert_vqgan.convert(str(tmp_path / "none.ckpt"), str(tmp_path / "out"))
  found = vqgan_files.load(tmp_path / "out").config
  assert list(found.ch_mult) == DECODER["channel_multiplier"]
