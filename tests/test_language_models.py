"""Language models through whole runs: a folder in, the recipes' tiny variants, a folder out.

The checkpoints are made here: a BPE tokenizer trained on the world's text, with a chat template,
and random weights of each family in a folder as `transformers` writes them.
"""

import functools
import itertools
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import qwen2_5_3b, qwen3_0_6b
from swirl_jax import metrics, prompts, start
from swirl_jax.data import builders, fast_tokenizers
from swirl_jax.models import hf_export, transformer, variants
from swirl_jax.models.transformer import TransformerConfig
from swirl_jax.settings import from_config, model_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPES = {"qwen2": qwen2_5_3b, "qwen3": qwen3_0_6b}
TEMPLATE = (
  "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
  "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
SIZES = {
  "d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 8, "d_ff": 24,
  "max_len": 512, "norm_eps": 1e-6, "rope_theta": 1e6,
}  # fmt: skip
FAMILY = {"qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": "head", "tie_embeddings": False}}


def texts():
  """What this world's states and actions are made of."""
  words = builders.get("minigrid").words
  return [" ".join(pair) for pair in itertools.product(words, words[:8])]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
  """{family: folder} of tiny random models, whose tokenizer lacks three of our special tokens."""
  tokenizer = fast_tokenizers.train_bpe(texts(), vocab_size=420, chat_template=TEMPLATE)
  folders = {}
  for family, changes in FAMILY.items():
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, **SIZES, **changes)
    params = jax.jit(functools.partial(transformer.init_params, config))(jax.random.key(0))
    ids = {f"{n}_token_id": getattr(tokenizer, n) for n in ("bos", "eos", "pad")}
    folder = tmp_path_factory.mktemp("models") / family
    described = variants.to_hf(config, family, **ids)
    folders[family] = hf_export.save(folder, params, config, described, tokenizer=tokenizer)
  return folders


def settings(family, folder, **changes):
  config = RECIPES[family].get_config("tiny").to_dict() | {"pretrained": str(folder)}
  for where, value in changes.items():
    group, _, name = where.partition("__")
    config[group] = config[group] | {name: value} if name else value
  return from_config(config)


def call(module, *arguments):
  done = subprocess.run(
    [sys.executable, "-m", module, *arguments], cwd=ROOT, text=True,
    capture_output=True, timeout=600,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


@pytest.mark.parametrize(
  ("family", "weights"), [("qwen2", "separate"), ("qwen3", "separate"), ("qwen3", "shared")]
)
def test_a_recipe_from_a_folder_to_a_folder(family, weights, checkpoints, tmp_path):
  """Qwen2.5's recipe trains all parameters, Qwen3's adapters; both end as folders."""
  run, out = tmp_path / "run", tmp_path / "out"
  call(
    "swirl_jax.main", f"--config=configs/{RECIPES[family].__name__.split('.')[-1]}.py:tiny",
    f"--workdir={run}", f"--config.pretrained={checkpoints[family]}", f"--config.weights={weights}",
  )  # fmt: skip
  rows = metrics.read_rows(run / "metrics.jsonl")
  assert {r["stage"] for r in rows} >= {"phase1", "phase2"}
  assert all(np.isfinite(r["loss"]) and r["grad_norm"] > 0 for r in rows)
  before = fast_tokenizers.open_tokenizer(checkpoints[family])
  call("swirl_jax.export", f"--workdir={run}", f"--out={out}")
  names = sorted(p.parent.relative_to(out).as_posix() for p in out.rglob("config.json"))
  assert names
  for name in names:
    described = json.loads((out / name / "config.json").read_text())
    assert described["model_type"] == family
    tokenizer = fast_tokenizers.open_tokenizer(out / name)
    text = texts()[3]
    assert tokenizer.encode(text) == before.encode(text)


def test_the_checkpoint_decides_the_architecture(checkpoints):
  found = settings("qwen2", checkpoints["qwen2"])
  assert (found.model.d_model, found.model.n_layers, found.model.qkv_bias) == (16, 2, True)
  assert (found.model.scan_layers, found.model.dtype) == (True, "float32")
  with pytest.raises(ValueError, match=r"config\.model\.d_model: the checkpoint .* decides it"):
    settings("qwen2", checkpoints["qwen2"], model__d_model=32)
  with pytest.raises(ValueError, match=r"config\.model\.remat = 3: a value of type str is needed"):
    settings("qwen2", checkpoints["qwen2"], model__remat=3)
  with pytest.raises(ValueError, match=r"data\.state_len = 0: allowed with `pretrained`"):
    settings("qwen2", checkpoints["qwen2"], data__state_len=0)


def test_the_vocabulary_does_not_depend_on_the_mesh(checkpoints):
  """Another mesh may go on with a run."""
  found = [settings("qwen2", checkpoints["qwen2"], mesh__tensor=n) for n in (1, 2, 8)]
  sizes = [model_config(s, vocab_size=423, needed_len=64).vocab_size for s in found]
  assert sizes == [512] * 3


def test_another_checkpoint_of_the_same_name_is_refused(checkpoints, tmp_path):
  folder = shutil.copytree(checkpoints["qwen3"], tmp_path / "model")
  found = settings("qwen3", folder)
  begun = start.check_pretrained(found, tmp_path)
  (tmp_path / "dataset.json").write_text(json.dumps(begun))
  folder = folder.rename(tmp_path / "moved")
  found = settings("qwen3", folder)
  assert start.check_pretrained(found, tmp_path) == begun
  (weights,) = folder.glob("*.safetensors")
  content = weights.read_bytes()
  weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  with pytest.raises(ValueError, match="was begun with a checkpoint of the SHA-256"):
    start.check_pretrained(found, tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
  with pytest.raises(ValueError, match="nothing-here"):
    settings("qwen2", tmp_path / "nothing-here")


def test_chat_prompts_hold_every_field_between_literals(checkpoints):
  tokenizer = fast_tokenizers.open_tokenizer(checkpoints["qwen2"])
  for target, fields in (("y", ["z", "x"]), ("z", ["x", "y"])):
    template = prompts.chat_template(tokenizer, target)
    assert [p for p in template.prompt if isinstance(p, str)] == fields
    assert template.end == (tokenizer.eos,)
    literal = "".join(tokenizer.tokenizer.decode(p) for p in template.prompt if p not in fields)
    assert "assistant" in literal and "nothing else" in literal
  with pytest.raises(ValueError, match="prompts = 'chat': it needs a language model's tokenizer"):
    prompts.chat_template(builders.get("minigrid").tokenizer, "y")


def test_the_recipes_hold_the_papers_row_for_text(checkpoints):
  for family, recipe in RECIPES.items():
    config = recipe.get_config().to_dict() | {"pretrained": str(checkpoints[family])}
    found = from_config(config)
    for phase in (found.phase1, found.phase2):
      assert (phase.prompts, phase.group, phase.beta) == (128, 16, 0.1)
      assert (phase.temperature, phase.top_p) == (0.7, 0.96)
      o = phase.optimizer
      assert (o.learning_rate, o.warmup_steps, o.schedule) == (5e-5, 25, "cosine")
    assert not found.phase1.reward.count_end and found.phase2.reward.count_end
  with pytest.raises(ValueError, match="size 'small': allowed are full, tiny"):
    qwen3_0_6b.get_config("small")
