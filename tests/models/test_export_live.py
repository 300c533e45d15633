"""What `transformers` makes of an exported folder: the same logits, the same tokens."""

import jax
import numpy as np
import pytest

from swirl_jax.data import fast_tokenizers
from swirl_jax.models import hf_export, huggingface, transformer
from swirl_jax.models.attention import softcap
from swirl_jax.types import Segment
from tests.models import tiny_files

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

TEXT = "the red key is left of the blue door, and it's 12 steps"
CASES = [(family, 5 * 10**9) for family in tiny_files.FAMILIES] + [("llama", 6000)]
VQ = {  # the smallest image tokenizer that Chameleon's class builds
  "embed_dim": 4, "num_embeddings": 8, "latent_channels": 4, "resolution": 16, "base_channels": 32,
  "channel_multiplier": [1], "num_res_blocks": 1,
}  # fmt: skip


@pytest.mark.parametrize("family, shard_bytes", CASES)
def test_an_exported_folder_opens_with_the_same_logits(tmp_path, family, shard_bytes):
  """import → export → transformers, against our own pass; loads whole, with nothing left over."""
  tokenizer = fast_tokenizers.train_bpe([TEXT] * 3, vocab_size=290)
  config, arrays = tiny_files.tensors(family, tokenizer.vocab_size)
  if family == "chameleon":
    config |= {"vq_config": VQ, "vocabulary_map": {"<image>": tokenizer.sep}}
    full = transformers.ChameleonForConditionalGeneration(transformers.ChameleonConfig(**config))
    parts = full.state_dict()
    arrays |= {n: parts[n].numpy() for n in parts if n.startswith("model.vqmodel.")}
  found = huggingface.load(tiny_files.write(tmp_path / "in", config, arrays), tiny_files.mesh_of())
  out = hf_export.save(
    tmp_path / "out",
    found.params,
    found.config,
    found.hf_config,
    tokenizer=tokenizer,
    shard_bytes=shard_bytes,
    rest=found.rest,
  )
  theirs, info = getattr(transformers, config["architectures"][0]).from_pretrained(
    out, output_loading_info=True, dtype=torch.float32
  )
  assert not any(info.values())
  assert theirs.generation_config.eos_token_id == config["eos_token_id"]
  opened = transformers.AutoTokenizer.from_pretrained(out)
  ids = tokenizer.encode(TEXT)
  assert opened.encode(TEXT, add_special_tokens=False) == ids
  assert opened.decode(ids) == TEXT
  assert (opened.pad_token_id, opened.bos_token_id, opened.eos_token_id) == (0, 1, 2)
  with torch.no_grad():
    expected = theirs(torch.tensor([ids])).logits[0].numpy()
  assert len(ids) > 10 and expected.std() > 0.5  # or equal logits would say little
  np.testing.assert_allclose(logits(found, ids), expected, rtol=0, atol=2e-5)


def test_a_run_leaves_as_a_folder_that_opens(tmp_path):
  from swirl_jax import export
  from tests.test_export import fake_run

  params, config, world = fake_run(tmp_path)
  fwm, idm = export.export(str(tmp_path), str(tmp_path / "out"), shard_bytes=10**9)
  text = " ".join(world.words[:3])
  for folder, field, marker in ((fwm, "y", "<fwm>"), (idm, "z", "<idm>")):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    opened = transformers.AutoTokenizer.from_pretrained(folder)
    found = opened(f"<bos> {marker} {text} <sep>", return_tensors="pt")
    t = world.tokenizer
    ids = [t.bos, getattr(t, marker[1:-1]), *t.encode(text), t.sep]
    assert found["input_ids"].tolist() == [ids]
    with torch.no_grad():
      expected = theirs(found["input_ids"]).logits[0].numpy()
    model = huggingface.Checkpoint(config, params[field], {}, folder)
    np.testing.assert_allclose(logits(model, ids), expected, rtol=0, atol=2e-5)


def logits(found, ids) -> np.ndarray:
  tokens = np.asarray(ids, np.int32).reshape(1, 1, -1)
  segment = Segment(tokens, np.ones(tokens.shape, bool))
  with jax.default_matmul_precision("float32"):
    hidden, _ = transformer.apply(found.params, found.config, segment)
    found_logits = hidden[0, 0] @ transformer.head_kernel(found.params, found.config)
    return np.asarray(softcap(found_logits, found.config.final_softcap))
