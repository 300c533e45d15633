"""Checkpoints in and out: every number in its place, bit for bit, on one device and on a mesh; and
what is wrong with a file is named.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from swirl_jax import sharding
from swirl_jax.models import hf_export, huggingface, safetensors_files, variants
from swirl_jax.models.safetensors_files import CheckpointFilesError

V, D, L, H, K, F = 40, 16, 2, 4, 2, 24

BASE = {
  "vocab_size": V, "hidden_size": D, "num_hidden_layers": L, "num_attention_heads": H,
  "num_key_value_heads": K, "intermediate_size": F, "max_position_embeddings": 64,
  "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
  "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
  "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
  "llama": {},
  "mistral": {"sliding_window": 5},
  "qwen2": {"tie_word_embeddings": True},
  "qwen3": {"head_dim": 6, "attention_bias": True},
  "gemma": {"tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "head_dim": 6},
  "gemma2": {"tie_word_embeddings": True, "head_dim": 6, "sliding_window": 5},
  "gemma3_text": {"tie_word_embeddings": True, "head_dim": 6, "sliding_window": 5},
  "olmo2": {},
  "chameleon": {"vocabulary_map": {}},
}
NORMS = {  # before "_layernorm"
  "olmo2": ("post_attention", "post_feedforward"),
  "gemma2": ("input", "post_attention", "pre_feedforward", "post_feedforward"),
}
NORMS["gemma3_text"] = NORMS["gemma2"]


def config_of(family: str, vocab_size: int = V) -> dict:
  gemma = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
  config = BASE | {"model_type": family, "vocab_size": vocab_size} | FAMILIES[family]
  if family in ("gemma2", "gemma3_text"):
    config |= gemma | {"query_pre_attn_scalar": 6}
  if family == "gemma3_text":
    config["rope_parameters"] = {
      f"{kind}_attention": BASE["rope_parameters"] for kind in ("full", "sliding")
    }
  return config | {"architectures": [variants.FAMILIES[family].architecture]}


def tensors(family: str, vocab_size: int = V) -> tuple[dict, dict]:
  """(config.json, {name: array}) of a tiny random model, by the names that transformers gives."""
  config = config_of(family, vocab_size)
  d = config.get("head_dim", D // H)
  shapes = {"model.embed_tokens.weight": (vocab_size, D), "model.norm.weight": (D,)}
  if not config["tie_word_embeddings"]:
    shapes["lm_head.weight"] = (vocab_size, D)
  for i in range(L):
    block = f"model.layers.{i}."
    shapes |= {
      f"{block}{norm}_layernorm.weight": (D,)
      for norm in NORMS.get(family, ("input", "post_attention"))
    }
    heads = {"q": H, "k": K, "v": K}
    at = block + "self_attn."
    shapes |= {f"{at}{x}_proj.weight": (n * d, D) for x, n in heads.items()}
    shapes |= {
      at + "o_proj.weight": (D, H * d), block + "mlp.gate_proj.weight": (F, D),
      block + "mlp.up_proj.weight": (F, D), block + "mlp.down_proj.weight": (D, F),
    }  # fmt: skip
    if family == "qwen2" or config.get("attention_bias"):
      shapes |= {f"{at}{x}_proj.bias": (n * d,) for x, n in heads.items()}
    if config.get("attention_bias"):
      shapes[at + "o_proj.bias"] = (D,)
    if family in ("qwen3", "gemma3_text"):
      shapes |= {f"{at}{x}_norm.weight": (d,) for x in "qk"}
    if family == "olmo2":
      shapes |= {f"{at}{x}_norm.weight": (heads[x] * d,) for x in "qk"}
    if family == "chameleon":
      shapes |= {f"{at}{x}_norm.{y}": (heads[x], d) for x in "qk" for y in ("weight", "bias")}
  rng = np.random.default_rng(0)
  centred = family.startswith("gemma")
  mean = lambda name: float(not centred and name.endswith("norm.weight"))  # noqa: E731
  draw = lambda name, shape: mean(name) + 0.3 * rng.normal(size=shape)  # noqa: E731
  return config, {n: draw(n, s).astype(np.float32) for n, s in shapes.items()}


def write(folder, config, arrays, *, shards: int = 1):
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  if shards == 1:
    save_file(arrays, folder / "model.safetensors")
    return folder
  index = {}
  for i in range(shards):
    file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
    held = dict(list(arrays.items())[i::shards])
    save_file(held, folder / file)
    index |= dict.fromkeys(held, file)
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
  return folder


def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1):
  devices = jax.devices()[: data * fsdp * tensor]
  return sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=devices)


def read(folder) -> dict[str, np.ndarray]:
  return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


def assert_same_bits(found: dict, expected: dict):
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
    assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


@pytest.fixture
def small_pieces(monkeypatch):
  """So small that every tensor is read in several pieces, the last one shorter."""
  monkeypatch.setattr(safetensors_files, "PIECE", 3 * D * 4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma"])
def test_every_number_is_in_its_place(tmp_path, family):
  """By the meaning of the parameters: x W in the file's heads equals ours, for random x."""
  config, arrays = tensors(family)
  found = huggingface.load(write(tmp_path / "in", config, arrays), mesh_of())
  p, c = jax.tree.map(np.asarray, found.params), found.config
  d, ratio = c.head_dim, H // K
  x = np.random.default_rng(1).normal(size=D).astype(np.float32)
  for i in range(L):
    block = f"model.layers.{i}."
    layer = jax.tree.map(lambda a, i=i: a[i], p["layers"])
    qkv = np.einsum("m,mkrd->krd", x, layer["attention"]["qkv"])
    for name, part in (("q", qkv[:, :ratio]), ("k", qkv[:, ratio]), ("v", qkv[:, ratio + 1])):
      heads = (arrays[f"{block}self_attn.{name}_proj.weight"] @ x).reshape(part.shape)
      np.testing.assert_allclose(part, heads, rtol=1e-5, atol=1e-5)
      if family == "qwen2":
        bias = arrays[f"{block}self_attn.{name}_proj.bias"].reshape(part.shape)
        at = {"q": slice(ratio), "k": ratio, "v": ratio + 1}[name]
        np.testing.assert_array_equal(layer["attention"]["qkv_bias"][:, at], bias)
    heads = np.random.default_rng(2).normal(size=H * d).astype(np.float32)
    out = np.einsum("krd,krdm->m", heads.reshape(K, ratio, d), layer["attention"]["out"])
    np.testing.assert_allclose(
      out, arrays[block + "self_attn.o_proj.weight"] @ heads, rtol=1e-5, atol=1e-5
    )
    for part, name in enumerate(("gate", "up")):
      np.testing.assert_array_equal(
        layer["mlp"]["gate_up"][:, part], arrays[f"{block}mlp.{name}_proj.weight"].T
      )
    np.testing.assert_array_equal(layer["mlp"]["down"], arrays[block + "mlp.down_proj.weight"].T)
    for ours, theirs in (("attention_norm", "input"), ("mlp_norm", "post_attention")):
      np.testing.assert_array_equal(
        layer[ours]["scale"], arrays[f"{block}{theirs}_layernorm.weight"]
      )
    if family == "qwen3":
      for name in ("q_norm", "k_norm"):
        np.testing.assert_array_equal(
          layer["attention"][name]["scale"], arrays[f"{block}self_attn.{name}.weight"]
        )
  np.testing.assert_array_equal(p["embedding"], arrays["model.embed_tokens.weight"])
  np.testing.assert_array_equal(p["final_norm"]["scale"], arrays["model.norm.weight"])
  if family in ("llama", "qwen3"):
    np.testing.assert_array_equal(p["head"], arrays["lm_head.weight"].T)
  else:
    assert "head" not in p


@pytest.mark.parametrize("family", FAMILIES)
def test_import_export_import_is_bit_exact(tmp_path, family, small_pieces):
  config, arrays = tensors(family)
  first = huggingface.load(write(tmp_path / "in", config, arrays, shards=3), mesh_of())
  out = hf_export.save(tmp_path / "out", first.params, first.config, first.hf_config)
  assert_same_bits(read(out), arrays)
  again = huggingface.load(out, mesh_of())
  assert again.config == first.config
  jax.tree.map(np.testing.assert_array_equal, again.params, first.params)


def test_bfloat16_stays_as_it_is(tmp_path):
  config, arrays = tensors("llama")
  half = {n: a.astype(jnp.bfloat16) for n, a in arrays.items()}
  folder = write(tmp_path / "in", config, half)
  found = huggingface.load(folder, mesh_of(), dtype="bfloat16")
  assert {leaf.dtype for leaf in jax.tree.leaves(found.params)} == {jnp.dtype(jnp.bfloat16)}
  out = hf_export.save(
    tmp_path / "out", found.params, found.config, found.hf_config, dtype="bfloat16"
  )
  assert_same_bits(read(out), half)
  assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
  wide = huggingface.load(folder, mesh_of())  # bfloat16 in the file, float32 here: exact
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, np.asarray(b, np.float32)),
    wide.params,
    found.params,
  )


@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 1, 4)])
def test_a_mesh_gets_the_same_numbers_laid_out_by_the_rules(tmp_path, shape, small_pieces):
  folder = write(tmp_path / "in", *tensors("qwen2"), shards=2)
  one = huggingface.load(folder, mesh_of())
  mesh = mesh_of(*shape)
  with jax.set_mesh(mesh):  # as in a run
    many = huggingface.load(folder, mesh)
  jax.tree.map(np.testing.assert_array_equal, many.params, one.params)
  expected = sharding.tree_shardings(many.params, mesh)
  assert jax.tree.map(lambda leaf: leaf.sharding, many.params) == expected
  assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(many.params))
  out = hf_export.save(tmp_path / "out", many.params, many.config, many.hf_config)
  assert_same_bits(read(out), read(folder))


def test_shards_are_as_large_as_told_and_indexed(tmp_path):
  found = huggingface.load(write(tmp_path / "in", *tensors("llama")), mesh_of())
  limit = 6000
  out = hf_export.save(
    tmp_path / "out", found.params, found.config, found.hf_config, shard_bytes=limit
  )
  files = sorted(p.name for p in out.glob("*.safetensors"))
  assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
  held = {f: sum(a.nbytes for a in load_file(out / f).values()) for f in files}
  assert max(held.values()) <= limit
  index = json.loads((out / "model.safetensors.index.json").read_text())
  assert index["metadata"]["total_size"] == sum(held.values())
  assert {f: {n for n, w in index["weight_map"].items() if w == f} for f in files} == {
    f: set(load_file(out / f)) for f in files
  }
  again = huggingface.load(out, mesh_of())
  jax.tree.map(np.testing.assert_array_equal, again.params, found.params)


def test_what_a_folder_holds_is_left_alone(tmp_path):
  found = huggingface.load(write(tmp_path / "in", *tensors("llama")), mesh_of())
  out = tmp_path / "out"
  save = lambda **k: hf_export.save(out, *found[1::-1], found.hf_config, **k)  # noqa: E731
  out.mkdir()  # an empty folder is fine
  save(shard_bytes=6000)
  (out / "notes.txt").write_text("mine")
  before = {p.name: p.read_bytes() for p in out.iterdir()}
  with pytest.raises(ValueError, match=r"out = .* holds 'config.json' \(\d+ in all\): choose"):
    save()
  assert {p.name: p.read_bytes() for p in out.iterdir()} == before
  save(overwrite=True)
  names = {"config.json", "generation_config.json", "model.safetensors", "notes.txt"}
  assert {p.name for p in out.iterdir()} == names  # the old shards and index are gone
  assert (out / "notes.txt").read_text() == "mine"
  with pytest.raises(ValueError, match="a file is there"):
    hf_export.save(out / "notes.txt", *found[1::-1], found.hf_config)
  assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_an_export_that_fails_leaves_nothing(tmp_path):
  found = huggingface.load(write(tmp_path / "in", *tensors("llama")), mesh_of())

  class Broken:
    def save_pretrained(self, folder):
      raise OSError("disk full")

  with pytest.raises(OSError, match="disk full"):
    hf_export.save(tmp_path / "out", *found[1::-1], found.hf_config, tokenizer=Broken())
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_the_config_must_describe_the_model(tmp_path):
  found = huggingface.load(write(tmp_path / "in", *tensors("llama")), mesh_of())
  other = found.hf_config | {"rms_norm_eps": 1e-5}
  with pytest.raises(ValueError, match="config.json says norm_eps = 1e-05, the model has 1e-06"):
    hf_export.save(tmp_path / "out", found.params, found.config, other)


def test_generation_config(tmp_path):
  found = huggingface.load(write(tmp_path / "in", *tensors("llama")), mesh_of())
  out = hf_export.save(tmp_path / "out", *found[1::-1], found.hf_config)
  ids = json.loads((out / "generation_config.json").read_text())
  assert (ids["bos_token_id"], ids["eos_token_id"]) == (1, 2)
  given = {"eos_token_id": [2, 3], "temperature": 0.6}
  out = hf_export.save(
    tmp_path / "out", *found[1::-1], found.hf_config, generation=given, overwrite=True
  )
  assert given.items() <= json.loads((out / "generation_config.json").read_text()).items()


# ----------------------------------------------------------------------------------------- errors

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
  assert huggingface.resolve("org/model", revision="v1") == tmp_path
  assert (asked["name"], asked["revision"]) == ("org/model", "v1")
  assert not any(p.endswith((".bin", ".pt", ".pth")) for p in asked["allow_patterns"])


# -------------------------------------------------------------------------------------- processes

PROCESS = """
import sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
from swirl_jax import sharding
from swirl_jax.models import hf_export, huggingface, safetensors_files
safetensors_files.PIECE = 100
mesh = sharding.make_mesh(data=1, fsdp=2, tensor=2)
found = huggingface.load(sys.argv[3], mesh)
whole = huggingface.load(sys.argv[3], sharding.make_mesh(
  data=1, fsdp=1, tensor=1, devices=jax.local_devices()[:1]))
jax.tree.map(lambda a, b: [np.testing.assert_array_equal(s.data, np.asarray(b)[s.index])
  for s in a.addressable_shards], found.params, whole.params)
try:
  hf_export.save(sys.argv[3] + "/out", *found[1::-1], found.hf_config)
except ValueError as error:
  print(error)
"""


@pytest.mark.multiprocess
def test_two_processes_hold_their_parts(tmp_path):
  folder = write(tmp_path / "in", *tensors("llama"), shards=2)
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  root = pathlib.Path(__file__).resolve().parents[2]
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", PROCESS, str(port), str(i), str(folder)],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root,
      env=os.environ | {"PYTHONPATH": str(root)},
    )
    for i in range(2)
  ]  # fmt: skip
  try:
    outputs = [p.communicate(timeout=240)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  assert [p.returncode for p in processes] == [0, 0], outputs
  for out in outputs:
    assert "spread over several processes; export from one" in out
