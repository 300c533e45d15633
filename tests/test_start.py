"""Where a run finds its world, and that it goes on with the data and checkpoint it began with."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import tiny

from configs import test as test_config
from swirl_jax import start
from swirl_jax.models import huggingface
from swirl_jax.settings import from_config


def settings(data_dir=""):
  c = test_config.get_config()
  c.data.dir = data_dir
  return from_config(c.to_dict())


def with_checkpoint(state_len=8, action_len=8):
  own = settings()
  data = dataclasses.replace(own.data, state_len=state_len, action_len=action_len)
  return dataclasses.replace(own, pretrained="model", data=data)


@dataclasses.dataclass
class World:
  source: str = "now"
  codes: None = None
  reader: str = "words"
  state_len: int = 1
  action_len: int = 1


@pytest.fixture
def asked(monkeypatch):
  """Where worlds were looked for; each has the source "now"."""
  found = []

  def get(name, own, data_dir, codecs):
    found.append(data_dir)
    return World()

  monkeypatch.setattr(start.builders, "get", get)
  return found


@pytest.mark.parametrize("given, with_folder, expected", [
  ("", False, None), ("/mine", False, "/mine"), ("", True, "data"), ("/mine", True, "/mine"),
])  # fmt: skip
def test_the_data_are_the_runs_own_or_where_the_config_says(
  given, with_folder, expected, tmp_path, asked
):
  start.world_of(settings(given), tmp_path if with_folder else None)
  assert asked == [str(tmp_path / expected) if expected == "data" else expected]


@pytest.mark.parametrize("begun", [None, {"source": "now"}, {"source": "other"}, {}])
def test_a_run_goes_on_with_the_file_it_began_with(begun, tmp_path, asked):
  if begun is not None:
    (tmp_path / "dataset.json").write_text(json.dumps(begun))
  if begun is None or begun.get("source") == "now":
    assert start.world_of(settings(), tmp_path).source == "now"
    return
  with pytest.raises(ValueError, match="was begun with a file whose SHA-256 is .* is now now"):
    start.world_of(settings(), tmp_path)


def test_a_language_models_tokens_are_counted_as_the_config_says(asked, monkeypatch):
  """A state has as many at most, and an action; the world's own counts are of its words."""
  monkeypatch.setattr(huggingface, "resolve", lambda name: name)
  monkeypatch.setattr(start.fast_tokenizers, "open_tokenizer", lambda folder: f"of {folder}")
  found = start.world_of(with_checkpoint(state_len=70, action_len=30))
  assert (found.reader, found.state_len, found.action_len) == ("of model", 70, 30)


@pytest.mark.parametrize("begun, pretrained, good", [
  ("", "", True), ("a", "a", True), ("a", "b", False), ("", "a", False), ("a", "", False),
])  # fmt: skip
def test_a_run_goes_on_with_the_checkpoint_it_began_with_or_with_none(
  begun, pretrained, good, tmp_path, monkeypatch
):
  """A run that began with fresh models isn't one of a language model, nor the other way round."""
  monkeypatch.setattr(huggingface, "resolve", lambda name: name)
  monkeypatch.setattr(huggingface, "digest", lambda folder: folder)
  found = SimpleNamespace(pretrained=pretrained)
  kept = {"pretrained": pretrained} if pretrained else {}
  assert start.check_pretrained(found, tmp_path) == kept  # nothing has begun there
  (tmp_path / "dataset.json").write_text(json.dumps({"pretrained": begun} if begun else {}))
  if good:
    assert start.check_pretrained(found, tmp_path) == kept
    return
  with pytest.raises(ValueError, match=f"was begun with a checkpoint of the SHA-256 '{begun}'"):
    start.check_pretrained(found, tmp_path)


def test_training_keeps_float32_of_a_checkpoint_and_adapters_stand_on_its_compute_dtype(
  monkeypatch,
):
  """Adapters themselves are always fresh."""
  monkeypatch.setattr(start, "_checkpoint", lambda settings, config, world, dtype: dtype)
  monkeypatch.setattr(start.programs, "initial_params", lambda config, key: "fresh")
  found = with_checkpoint()
  own = tiny.config(dtype="bfloat16")
  for config, params, base in (
    (own, "float32", None),
    (dataclasses.replace(own, lora_rank=2), "fresh", "bfloat16"),
  ):
    assert start.initial_params(found, config, None, None) == params
    assert start.base_params(found, config, None) == base
  assert start.initial_params(settings(), own, None, None) == "fresh"
