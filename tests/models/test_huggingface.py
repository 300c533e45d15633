"""Checkpoints in and out: every number in its place, bit for bit, on one device and on a mesh."""

import dataclasses
import functools
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
from safetensors.numpy import load_file

from swirl_jax import sharding
from swirl_jax.models import hf_export, huggingface, lora, safetensors_files, vocabulary
from tests.models.tiny_files import (
  FAMILIES,
  D,
  H,
  K,
  L,
  V,
  assert_same_bits,
  mesh_of,
  read,
  tensors,
  write,
)


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
  (out / "chat_template.jinja").write_text("of before")
  before = {p.name: p.read_bytes() for p in out.iterdir()}
  with pytest.raises(ValueError, match=r"out = .* holds 'chat_template.jinja' \(\d+ in all\)"):
    save()
  assert {p.name: p.read_bytes() for p in out.iterdir()} == before
  save(overwrite=True)
  names = {"config.json", "generation_config.json", "model.safetensors", "notes.txt"}
  assert {p.name for p in out.iterdir()} == names  # old shards, index and template are gone
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


def test_adapters_that_were_not_merged_are_not_left_out_in_silence(tmp_path):
  found = huggingface.load(write(tmp_path / "in", *tensors("llama")), mesh_of())
  own = lora.init_adapters(found.params, jax.random.key(0), rank=1, targets=("down",))
  with pytest.raises(ValueError, match="layers/mlp/lora/down/a"):
    hf_export.save(tmp_path / "out", lora.join(found.params, own), found.config, found.hf_config)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


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


def test_the_digest_is_of_all_that_makes_the_model_and_of_nothing_else(tmp_path):
  """A run that goes on must notice another config, tokenizer, template or weight."""
  folder = write(tmp_path / "in", *tensors("llama"), shards=2)
  names = ("tokenizer.json", "vocab.txt", "merges.txt", "chat_template.jinja")
  for name in names:
    (folder / name).write_text("{}")
  first = huggingface.digest(folder)
  (folder / "README.md").write_text("notes")
  assert huggingface.digest(folder) == first
  for name in ("config.json", *names, "model-00002-of-00002.safetensors"):
    file, before = folder / name, (folder / name).read_bytes()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert huggingface.digest(folder) != first, name
    file.write_bytes(before)
  (folder / "vocab.txt").rename(folder / "vocab.json")
  assert huggingface.digest(folder) != first


def test_a_folder_in_an_export_s_place_and_a_card(tmp_path):
  """What an overwriting export replaces may be a folder; the model's length may be shortened, and
  the token id 0 is an id.
  """
  found = huggingface.load(write(tmp_path / "in", *tensors("llama")), mesh_of())
  (tmp_path / "out" / "config.json").mkdir(parents=True)
  (tmp_path / "out" / "generation_config.json").write_text('{"eos_token_id": 9}')
  out = hf_export.save(
    tmp_path / "out", found.params, dataclasses.replace(found.config, max_len=8),
    found.hf_config | {"bos_token_id": 0, "torch_dtype": "float16"}, card="# Mine", overwrite=True,
  )  # fmt: skip
  written = json.loads((out / "config.json").read_text())
  assert written["dtype"] == "float32" and "torch_dtype" not in written
  ids = json.loads((out / "generation_config.json").read_text())
  assert (ids["bos_token_id"], ids["eos_token_id"]) == (0, 2)
  assert (out / "README.md").read_text() == "# Mine"
  assert_same_bits(read(out), read(tmp_path / "in"))


def test_a_vocabulary_that_grew_leaves_in_two_shards(tmp_path):
  """As many tokens as the model has now, whatever config.json said; two shards have an index."""
  found = huggingface.load(write(tmp_path / "in", *tensors("llama")), mesh_of())
  params, config = vocabulary.add_tokens(found.params, found.config, (V,), known=V)
  assert config.vocab_size > V
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  out = hf_export.save(tmp_path / "out", params, config, found.hf_config, shard_bytes=size * 2 // 3)
  assert len(list(out.glob("*.safetensors"))) == 2
  again = huggingface.load(out, mesh_of())
  assert again.config == config
  jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_an_export_that_is_cut_off_while_it_replaces_is_not_taken_for_whole(tmp_path, monkeypatch):
  """Neither the old weights with the new config nor a new index without its shards."""
  found = huggingface.load(write(tmp_path / "in", *tensors("llama")), mesh_of())
  replace = os.replace
  for old, new in ((10**9, 6000), (6000, 10**9), (6000, 4000)):
    out = tmp_path / f"out{old}{new}"
    save = functools.partial(hf_export.save, out, *found[1::-1], found.hf_config)
    save(shard_bytes=old)
    moved = []

    def fail(a, b, moved=moved):
      if os.path.basename(b).startswith("model"):
        raise OSError("cut off")
      moved.append(os.path.basename(b))
      replace(a, b)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="cut off"):
      save(shard_bytes=new, overwrite=True)
    monkeypatch.setattr(os, "replace", replace)
    assert "config.json" in moved
    with pytest.raises(ValueError, match="neither model.safetensors nor"):
      huggingface.load(out, mesh_of())


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
