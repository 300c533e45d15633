"""A run's models leave as folders that open elsewhere; nothing that is there is touched untold."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import test as test_config
from swirl_jax import export, plan, programs, prompts, rng, sharding, trained
from swirl_jax.checkpoint import Checkpointer
from swirl_jax.data import builders, fast_tokenizers
from swirl_jax.data.tokenizers import WordTokenizer
from swirl_jax.models import hf_export, huggingface, vocabulary
from swirl_jax.settings import from_config
from tests import tiny
from tests.models import tiny_files


def drawn(config, seed):
  """A model, or its adapters, with nothing at 0."""
  if not config.lora_rank:
    return tiny.params(config, seed)
  make = functools.partial(programs.trained_params, config)
  draw = np.random.default_rng(seed).normal
  shapes = jax.eval_shape(make, jax.random.key(0))
  return jax.tree.map(lambda s: jnp.asarray(0.3 * draw(size=s.shape), jnp.float32), shapes)


def fake_run(folder, *, saved=plan.final_models, seed=0, **model):
  """The folder of a run of configs/test.py that has ended: its config and both models, random."""
  c = test_config.get_config()
  c.seed = seed
  c.model.update(model)
  (folder / "config.json").write_text(c.to_json())
  settings = from_config(json.loads(c.to_json()))
  world = builders.get(settings.world["name"])
  config = trained.players_of(settings, world).fwm.config
  names = saved(plan.make_plan(settings))
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  params = {name: drawn(config, seed) for seed, name in enumerate(sorted(names.values()))}
  with jax.set_mesh(mesh), Checkpointer(folder / "checkpoints") as checkpoints:
    state = {"models": jax.device_put(params, sharding.replicated(mesh))}
    checkpoints.save(7, state, {"models": sorted(params)})
  return {field: params[name] for field, name in names.items()}, config, world


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  return folder, *fake_run(folder)


def test_both_models_leave_bit_for_bit(run, tmp_path):
  workdir, params, config, world = run
  folders = export.export(str(workdir), str(tmp_path / "out"), shard_bytes=10**9)
  assert [f.name for f in folders] == ["fwm", "idm"]
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  for folder, field in zip(folders, "yz", strict=True):
    found = huggingface.load(folder, mesh)
    assert found.config.vocab_size == world.tokenizer.vocab_size
    assert found.hf_config["model_type"] == "llama"
    ids = {name: found.hf_config[f"{name}_token_id"] for name in ("pad", "bos", "eos")}
    assert ids == {"pad": 0, "bos": 1, "eos": 2}
    jax.tree.map(np.testing.assert_array_equal, found.params, params[field])
  assert any(
    (np.asarray(a) != np.asarray(b)).any()
    for a, b in zip(jax.tree.leaves(params["y"]), jax.tree.leaves(params["z"]), strict=True)
  )  # or the two could have been mixed up


def test_adapters_leave_merged_with_their_base(tmp_path):
  """W + (α / r) A B, added in float32; W is of the run's seed, in the dtype that it trains in."""
  model = {"lora_rank": 2, "lora_alpha": 6.0, "dtype": "bfloat16"}
  adapters, config, _ = fake_run(tmp_path, seed=5, **model)
  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  with jax.set_mesh(mesh):
    base = programs.initial_base(config, rng.stream(jax.random.key(5), "base"))
  folders = export.export(str(tmp_path), str(tmp_path / "out"), shard_bytes=10**9)
  for folder, field in zip(folders, "yz", strict=True):
    found = huggingface.load(folder, mesh).params
    pair = adapters[field]["mlp"]["down"]
    expected = np.float32(base["layers"]["mlp"]["down"])
    expected = expected + 3.0 * np.einsum("lfr,lrd->lfd", pair["a"], pair["b"])
    np.testing.assert_allclose(found["layers"]["mlp"]["down"], expected, atol=1e-5)
    np.testing.assert_array_equal(found["embedding"], np.float32(base["embedding"]))


def test_adapters_do_not_leave_with_another_base_than_theirs(tmp_path):
  fake_run(tmp_path, lora_rank=2)
  (tmp_path / "dataset.json").write_text('{"pretrained": "abc"}')
  with pytest.raises(ValueError, match="was begun with a checkpoint of the SHA-256 'abc'"):
    export.export(str(tmp_path), str(tmp_path / "out"), shard_bytes=10**9)


def test_a_run_between_its_warm_up_and_its_end_has_its_warm_models(tmp_path):
  fake_run(tmp_path, saved=plan.warm_models)
  with trained.open_run(str(tmp_path)) as run:
    assert run.names == {"y": "warm_fwm", "z": "warm_idm"}

  def later(stages):
    return plan.final_models(stages) | dict(enumerate(plan.warm_models(stages).values()))

  (tmp_path / "later").mkdir()
  fake_run(tmp_path / "later", saved=later)
  with trained.open_run(str(tmp_path / "later")) as run:
    assert run.names == plan.final_models(plan.make_plan(run.settings))


def test_a_run_before_its_warm_up_has_none(tmp_path):
  fake_run(tmp_path, saved=lambda stages: {"y": "prior"})
  with pytest.raises(ValueError, match="has not trained warm_fwm, warm_idm yet: .* holds prior"):
    export.export(str(tmp_path), str(tmp_path / "out"), shard_bytes=10**9)


def test_no_file_is_larger_than_asked_for(run, tmp_path):
  fwm, _ = export.export(str(run[0]), str(tmp_path / "out"), shard_bytes=8_000)
  sizes = [file.stat().st_size for file in fwm.glob("*.safetensors")]
  assert len(sizes) > 1 and max(sizes) < 10_000  # tensors, and a head of their names


def test_the_card_names_the_codes_of_pictures():
  assert "as the ids 5 to 8.\n" in export.card("fwm", "rooms", "x", (5, 9))
  assert "pictures" not in export.card("fwm", "rooms", "x", None)


def test_the_cards_prompt_is_read_as_text_whatever_the_tokenizer():
  texts = ["the door opens", "take the red key"]
  bpe = fast_tokenizers.train_bpe(
    texts, vocab_size=300, chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}"
  )
  said = export.prompt_text(prompts.fwm_template(bpe), bpe, "")
  assert said == "<bos><fwm>{z}<sep>{x}<sep> → {y}<eos>"
  said = export.prompt_text(prompts.chat_template(bpe, "y"), bpe, "")
  assert "Action: {z}\\nState before it:\\n{x}" in said  # letters of bytes are no text
  words = fast_tokenizers.from_own(WordTokenizer(("a", "b")))
  choice = prompts.Choice(((words.fwm, words.encode("a")[0]), (words.encode("b")[0],)))
  template = prompts.Template(((words.bos,), choice, "x", (words.sep,)), "y", (words.eos,))
  assert export.prompt_text(template, words, " ") == "<bos> (<fwm> a | b) {x} <sep> → {y} <eos>"


def test_tokenizer_and_prompt_come_along(run, tmp_path):
  from transformers import AutoTokenizer

  workdir, _, _, world = run
  fwm, idm = export.export(str(workdir), str(tmp_path / "out"), shard_bytes=10**9)
  text = " ".join(world.words[:5])
  opened = AutoTokenizer.from_pretrained(fwm)
  assert opened.encode(text) == world.tokenizer.encode(text)
  assert "<bos> <fwm> {z} <sep> {x} <sep> → {y} <eos>" in (fwm / "README.md").read_text()
  assert "<bos> <idm> {x} <sep> {y} <sep> → {z} <eos>" in (idm / "README.md").read_text()


def test_nothing_is_overwritten_untold(run, tmp_path):
  workdir = str(run[0])
  (tmp_path / "idm").mkdir()
  (tmp_path / "idm" / "mine").write_text("")
  with pytest.raises(ValueError, match="idm' holds 'mine'"):
    export.export(workdir, str(tmp_path), shard_bytes=10**9)
  assert not (tmp_path / "fwm").exists()  # refused before anything was written
  export.export(workdir, str(tmp_path), shard_bytes=10**9, overwrite=True)
  assert (tmp_path / "idm" / "mine").exists() and (tmp_path / "idm" / "config.json").exists()


def test_bfloat16_halves_the_file(run, tmp_path):
  sizes = []
  for dtype in ("float32", "bfloat16"):
    fwm, _ = export.export(str(run[0]), str(tmp_path / dtype), dtype=dtype, shard_bytes=10**9)
    sizes.append((fwm / "model.safetensors").stat().st_size)
    assert json.loads((fwm / "config.json").read_text())["dtype"] == dtype
  assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize(
  "model, family",
  [
    ({}, "llama"),
    ({"qkv_bias": True}, "qwen2"),
    ({"qk_norm": "head"}, "qwen3"),
    ({"scale_embedding": True, "norm_offset": True, "activation": "gelu_tanh"}, "gemma"),
  ],
)
def test_the_family_is_one_that_can_say_what_the_settings_say(model, family):
  config = tiny.config(**model)
  assert export.family(config) == family


def test_a_model_that_no_family_describes_names_the_setting(tmp_path):
  fake_run(tmp_path, scale_embedding=True)
  with pytest.raises(ValueError, match="model.norm_offset = False: as gemma allowed is True"):
    export.export(str(tmp_path), str(tmp_path / "out"), shard_bytes=10**9)
  assert not (tmp_path / "out" / "fwm").exists()


def test_a_damaged_config_and_a_missing_folder_are_named(tmp_path):
  fake_run(tmp_path)
  with pytest.raises(ValueError, match="out = '': allowed is a folder"):
    export.export(str(tmp_path), "", shard_bytes=10**9)
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match="config.json: Expecting"):
    export.export(str(tmp_path), str(tmp_path / "out"), shard_bytes=10**9)


def test_a_folder_that_is_no_run(tmp_path):
  with pytest.raises(ValueError, match="no config.json there, so it isn't the folder of a run"):
    export.export(str(tmp_path), str(tmp_path / "out"), shard_bytes=10**9)


def test_a_checkpoint_with_a_tokenizer_of_its_own_goes_round(tmp_path):
  """As docs/models.md has it: import, add our tokens, export, and import what came out."""
  source = tiny_files.write(tmp_path / "in", *tiny_files.tensors("qwen2", 270))
  theirs = fast_tokenizers.train_bpe(["the red key"], vocab_size=266).tokenizer
  backend = json.loads(theirs.backend_tokenizer.to_str())
  for part in (backend["added_tokens"], [backend["model"]["vocab"]]):  # without our markers
    names = {"<sep>": "<a>", "<fwm>": "<b>", "<idm>": "<c>"}
    for entry in part:
      for old, new in names.items():
        if old in entry:
          entry[new] = entry.pop(old)
        elif entry.get("content") == old:
          entry["content"] = new
  (source / "tokenizer.json").write_text(json.dumps(backend))
  named = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
  (source / "tokenizer_config.json").write_text(json.dumps(named))

  mesh = sharding.make_mesh(data=1, fsdp=1, tensor=1, devices=jax.devices()[:1])
  found = huggingface.load(source, mesh)
  tokenizer = fast_tokenizers.open_tokenizer(found.folder)
  n = tokenizer.known
  assert tokenizer.added == (n, n + 1, n + 2) == (tokenizer.sep, tokenizer.fwm, tokenizer.idm)
  assert n < 270  # the model has padding rows
  params, config = vocabulary.add_tokens(found.params, found.config, tokenizer.added, known=n)
  assert config.vocab_size == 270
  out = hf_export.save(tmp_path / "out", params, config, found.hf_config, tokenizer=tokenizer)
  again = huggingface.load(out, mesh)
  assert again.config == config
  jax.tree.map(np.testing.assert_array_equal, again.params, params)
  reopened = fast_tokenizers.open_tokenizer(out)
  assert reopened.ids == tokenizer.ids and reopened.added == ()
  assert reopened.encode("the red <fwm> door") == tokenizer.encode("the red <fwm> door")
