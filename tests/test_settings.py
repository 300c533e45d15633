"""What a config may not say: errors with the dotted path, what was found, what is allowed."""

import copy
import dataclasses
import re
import typing

import numpy as np
import pytest
import tiny

from configs import comparison, defaults, liquid_7b, minigrid, qwen2_5_3b, qwen3_0_6b
from configs import test as test_config
from swirl_jax import optimizer, programs, rewards, settings
from swirl_jax.models import transformer, variants


def config():
  return minigrid.get_config().to_dict()


def put(where: str, value):
  """The config with one field changed; `...` takes it out."""
  c = config()
  *groups, name = where.split(".")
  group = c
  for g in groups:
    group = group[g]
  if value is ...:
    del group[name]
  else:
    group[name] = value
  return c


@pytest.mark.parametrize("module", [minigrid, test_config], ids=["minigrid", "test"])
def test_the_shipped_configs_are_settings(module):
  c = module.get_config()
  found = settings.from_config(c.to_dict())
  assert found.weights == "separate" and found.world["name"] == "minigrid"
  assert found.phase1.group == c.phase1.group and found.phase1.keep == c.phase1.keep
  assert found.phase1.optimizer.learning_rate == c.phase1.optimizer.learning_rate
  assert found.swirl.order == ("phase1", "phase2")
  for weights in settings.WEIGHTS:
    c.weights = weights
    assert settings.from_config(c.to_dict()).weights == weights


@pytest.mark.parametrize("recipe", [qwen2_5_3b, qwen3_0_6b, liquid_7b])
def test_the_recipes_have_what_may_be_set_beside_a_checkpoint(recipe):
  """Every field, so that the command line reaches it; at its default where the recipe says none."""

  def check(group, kind, skipped=()):
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
      if field.name in skipped:
        continue
      assert field.name in group, (kind.__name__, field.name)
      if dataclasses.is_dataclass(hints[field.name]):
        if hints[field.name] is not transformer.TransformerConfig:
          check(group[field.name], hints[field.name])

  c = recipe.get_config()
  check(c, settings.Settings, skipped=("rivals",))
  assert set(c.model) == set(variants.EXECUTION)
  found = {f.name: f.default for f in dataclasses.fields(settings.PhaseSettings)}
  assert defaults.PHASE.items() <= found.items()
  assert (c.phase1.beta, c.phase1.top_p) == (0.1, 0.96)  # what a recipe says stays


def test_the_default_config_has_every_field():
  """So that every one can be set on the command line."""

  def missing(given, found, path="config"):
    for field in dataclasses.fields(found):
      value, where = getattr(found, field.name), f"{path}.{field.name}"
      if field.name not in given:
        yield where
      elif dataclasses.is_dataclass(value):
        yield from missing(given[field.name], value, where)

  c = minigrid.get_config().to_dict()
  assert list(missing(c, settings.from_config(c))) == []


def test_the_papers_setting():
  """method.md's table for text: T 0.7, top-p 0.96, β 0.1, cosine; the code's reward."""
  ours, paper = (settings.from_config(minigrid.get_config(s).to_dict()) for s in minigrid.SETTINGS)
  for kind in settings.PHASES:
    found, own = getattr(paper, kind), getattr(ours, kind)
    assert (found.temperature, found.top_p, found.top_k, found.beta) == (0.7, 0.96, 0, 0.1)
    assert (found.kl, found.kl_in, found.reference) == ("k3", "loss", "snapshot")
    assert (found.advantages, found.ratio, found.reduction) == ("grpo", "token", "token")
    assert (found.prompts, found.keep, found.anchor) == (own.keep, 0, 0)
    assert (found.steps, found.group, found.latents) == (own.steps, own.group, "fresh")
    assert found.reward == rewards.RewardSpec("mean", -10.0, count_end=kind == "phase2")
    assert found.optimizer == dataclasses.replace(own.optimizer, schedule="cosine")
  same = {name: getattr(ours, name) for name in ("phase1", "phase2", "compare")}
  assert dataclasses.replace(paper, **same) == ours and "paper_phase1" in ours.compare
  assert dataclasses.replace(ours.rivals["paper_phase1"].phase1, steps=100) == paper.phase1
  with pytest.raises(ValueError, match="minigrid.py:papr: allowed are default, paper"):
    minigrid.get_config("papr")


def test_a_config_is_not_changed_and_settings_cannot_be():
  c = config()
  before = copy.deepcopy(c)
  found = settings.from_config(c)
  assert c == before
  with pytest.raises(AttributeError):
    found.seed = 1
  with pytest.raises(TypeError):
    found.world["name"] = "other"


def test_a_whole_number_serves_as_a_real_one_and_nothing_else_is_cast():
  found = settings.from_config(put("phase1.beta", 1))
  assert found.phase1.beta == 1.0 and isinstance(found.phase1.beta, float)
  assert settings.from_config(put("phase1.reward.floor", None)).phase1.reward.floor is None
  assert settings.from_config(put("compare", [])).compare == ()


SFT = {"steps": 1, "batch": 1, "optimizer": {"learning_rate": 0.1}}
WRONG = [
  # Unknown fields.
  ("sead", 0, "config.sead is not a field; allowed are seed, weights"),
  ("phase1.betta", 0.1, "config.phase1.betta is not a field; allowed are reward, advantages"),
  ("phase1.optimizer.lr", 0.1, "config.phase1.optimizer.lr is not a field; allowed are learning"),
  ("phase2.reward.mean", True, "config.phase2.reward.mean is not a field; allowed are reduce"),
  # Missing fields.
  ("seed", ..., "config.seed is missing"),
  ("phase2", ..., "config.phase2 is missing"),
  ("warmup_idm.optimizer", ..., "config.warmup_idm.optimizer is missing"),
  ("world.name", ..., "world.name is missing"),
  # Mistyped fields.
  ("seed", "0", "config.seed = '0': a value of type int is needed, found str"),
  ("seed", 1.0, "config.seed = 1.0: a value of type int is needed, found float"),
  ("phase1.group", True, "config.phase1.group = True: a value of type int is needed, found bool"),
  ("phase1.beta", "0.1", "config.phase1.beta = '0.1': a value of type float is needed, found str"),
  ("phase1.beta", False, "config.phase1.beta = False: a value of type float is needed, found bool"),
  ("phase1.beta", float("nan"), "config.phase1.beta is not a number"),
  ("model.qkv_bias", 1, "config.model.qkv_bias = 1: a value of type bool is needed, found int"),
  ("model", 3, "config.model = 3: a group of fields is needed"),
  ("swirl.order", "phase1", "config.swirl.order = 'phase1': a tuple of names is needed"),
  ("compare", (1,), "config.compare = (1,): a tuple of names is needed"),
  # Values that cannot be.
  ("weights", "both", "weights = 'both': allowed are ['separate', 'shared']"),
  ("seed", -1, "seed = -1: allowed is a whole number from 0"),
  ("seed", 2**32, "seed = 4294967296: allowed is a whole number from 0 to 2**32 - 1"),
  ("mesh.fsdp", 0, "config.mesh: fsdp = 0: allowed is a whole number from 1"),
  ("compare", ("labels_only", "labels_only"), "allowed is each of them once"),
  ("evaluation.splits", ("validation", "validation"), "config.evaluation: splits = "),
  ("phase1.top_p", 0.0, "config.phase1: decoding.top_p = 0.0: allowed is more than 0"),
  ("warmup_fwm.optimizer.weight_decay", -1.0, "weight_decay = -1.0: allowed is 0 or more"),
  ("phase1.group", 1, "config.phase1: group = 1: allowed is a whole number from 2"),
  ("phase2.prompts", 0, "config.phase2: prompts = 0: allowed is a whole number from 1"),
  ("phase1.keep", 65, "config.phase1: keep = 65: allowed is at most prompts = 64"),
  ("phase1.steps", -1, "config.phase1: steps = -1"),
  ("phase1.reward.floor", 0.0, "reward.floor = 0.0: allowed is a number below 0, or None"),
  ("phase1.latent_floor", 1.0, "latent_floor = 1.0: allowed is a number below 0"),
  ("rivals", {"phase1": {"title": "x", "sft": SFT}}, "rivals.phase1: the name has another meaning"),
  ("phase1.temperature", 0.0, "config.phase1: temperature = 0.0: allowed is a number from 1e-6"),
  ("phase1.temperature", 1e-39, "temperature = 1e-39: allowed is a number from 1e-6"),
  ("phase2.latent_temperature", float("inf"), "temperature = inf: allowed is a number from 1e-6"),
  ("phase1.latent_temperature", -1.0, "config.phase1: latent_temperature = -1.0"),
  ("phase1.importance_cap", 0, "config.phase1: importance_cap = 0.0"),
  ("phase1.beta", -0.1, "config.phase1: beta = -0.1: allowed is a number from 0"),
  ("phase1.beta", float("inf"), "config.phase1: beta = inf: allowed is a number from 0"),
  ("phase1.clip_low", -0.1, "config.phase1: clip_low = -0.1: allowed is 0 or more"),
  ("phase1.latents", "old", "config.phase1: latents = 'old': allowed are ['fresh', 'cached']"),
  ("phase1.reference", "policy", "config.phase1: phase.reference = 'policy': allowed are"),
  ("phase1.micro_batch", 10, "config.phase1: micro_batch = 10: prompts = 64 is not a multiple"),
  ("warmup_fwm.micro_batch", 7, "config.warmup_fwm: micro_batch = 7: batch = "),
  ("phase1.micro_group", 3, "config.phase1: micro_group = 3: group = 8 is not a multiple of it"),
  ("phase1.reward.reduce", "max", "config.phase1.reward: reward.reduce = 'max': allowed are"),
  ("phase1.reference", "frozen", "phase1.reference = 'frozen': set 'snapshot'"),
  ("phase2.reference", "prior", "the z-free model serves phase1 alone"),
  ("swirl.order", ("phase3",), "config.swirl: order = ('phase3',): allowed are ['phase1', "),
  ("swirl.iterations", -1, "config.swirl: iterations = -1"),
  ("data.fwm_labels", -1, "config.data: fwm_labels = -1: allowed is a whole number from 0"),
  ("data.idm_labels", -1, "config.data: idm_labels = -1"),
  ("warmup_fwm.turns", 0, "config.warmup_fwm: turns = 0: allowed is a whole number from 1"),
  ("warmup_idm.turns", 2, "warmup_idm.turns = 2: allowed is 1; only the FWM's supervised training"),
  ("pretrain.turns", 2, "pretrain.turns = 2: allowed is 1; only the FWM's"),
  ("rivals.pseudo_labels.sft.turns", 2, "config.rivals.pseudo_labels: sft.turns = 2: allowed is 1"),
  ("warmup_fwm.batch", 0, "config.warmup_fwm: batch = 0"),
  ("warmup_fwm.validate_every", 0, "config.warmup_fwm: validate_every = 0"),
  ("checkpoint.every", 0, "config.checkpoint: every = 0"),
  ("compare", ("warmup",), "compare = ('warmup',): allowed are ['labels_only'"),
  ("compare", ("labels_only,pseudo_labels",), "several as \"('labels_only', 'paper_"),
  ("evaluation.splits", ("validation", "dev"), "'dev'): allowed are ['validation', 'test'"),
  ("evaluation.splits", ("test",), "splits = ('test',): validation is always scored"),
  ("rivals.labels_only.stf", 1, "config.rivals.labels_only.stf is not a field; allowed are title"),
  ("rivals.labels_only.title", ..., "config.rivals.labels_only.title is missing"),
  ("rivals.labels_only.sft", ..., "config.rivals.labels_only: sft: allowed is either sft, or"),
  ("rivals.paper_phase1.sft", SFT, "config.rivals.paper_phase1: sft: allowed is either sft, or"),
  ("rivals.labels_only.data", "all", "data = 'all': allowed are ['fwm_labels', 'idm_labels', 'ps"),
  ("rivals.labels_only.model", "y", "model = 'y': allowed are ['fwm', 'idm']"),
  ("rivals.pseudo_labels.sft.batch", 1, "config.rivals.pseudo_labels: sft.batch = 1: allowed is a"),
  ("rivals.labels_only.confident", 0, "confident = 0.0: allowed is a share above 0, at most 1"),
  ("rivals.labels_only.iterations", 0, "iterations = 0: allowed is a whole number from 1"),
  ("rivals.paper_phase1.weights", "one", "weights = 'one': allowed are ['separate', 'shared']"),
  ("rivals", {"swirl": {"title": "x", "sft": SFT}}, "rivals.swirl: the name has another meaning"),
  ("phase1.guidance", 0.5, "config.phase1: guidance = 0.5: allowed is a number from 1"),
  ("phase1.validate_every", -1, "config.phase1: validate_every = -1: allowed is a whole number fr"),
]  # fmt: skip


IDS = [f"{where}={str(value)[:20]}" for where, value, _ in WRONG]


@pytest.mark.parametrize("where, value, message", WRONG, ids=IDS)
def test_one_clear_error(where, value, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    settings.from_config(put(where, value))


def test_a_prior_that_nothing_trains():
  c = put("phase1.reference", "prior")
  c["pretrain"]["steps"] = 0
  with pytest.raises(ValueError, match=r"phase1 uses the z-free model, but pretrain\.steps = 0"):
    settings.from_config(c)


def test_a_kl_in_the_reward_needs_beta():
  c = put("phase1.kl_in", "reward")
  c["phase1"] |= {"kl": "k1", "beta": 0.0}
  with pytest.raises(ValueError, match=r"phase1\.kl_in = 'reward' needs phase1\.beta above 0"):
    settings.from_config(c)


def test_a_rivals_phase_is_checked_as_swirls():
  c = put("rivals.paper_phase1.phase1.reference", "frozen")
  c["compare"] = ("paper_phase1",)
  with pytest.raises(ValueError, match="rivals.paper_phase1.phase1.reference = 'frozen': set"):
    settings.from_config(c)


def test_an_anchor_that_micro_batches_do_not_divide():
  c = put("phase1.micro_batch", 8)
  c["phase1"]["anchor"] = 30
  with pytest.raises(ValueError, match="anchor = 30: must divide into the 4 micro-batches"):
    settings.from_config(c)
  c["phase1"]["anchor"] = 32
  settings.from_config(c)
  c["phase1"]["micro_group"] = 1
  with pytest.raises(ValueError, match="anchor = 31: must divide into the 32 micro-batches"):
    settings.from_config(c | {"phase1": c["phase1"] | {"anchor": 31}})


LENGTHS = programs.Lengths(tiny.STATE, tiny.ACTION)
NEEDED = 4 + 2 * tiny.STATE + tiny.ACTION + 1  # markers, x, y, z, end


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"max_len": NEEDED - 1}, f"max_len = {NEEDED - 1}: the world needs {NEEDED}"),
    ({"n_kv_heads": 3}, r"model\.n_heads = 4 is not a multiple of model\.n_kv_heads = 3"),
    ({"head_dim": 5}, r"model\.head_dim = 5"),
    ({"activation": "relu"}, r"model\.activation = 'relu': allowed are"),
    ({"dtype": "int8"}, r"model\.dtype = 'int8': allowed are"),
  ],
)
def test_models_that_cannot_be(changes, message):
  c = config()
  c["model"] |= changes
  with pytest.raises(ValueError, match=message):
    programs.make_roles(settings.from_config(c), tiny.TOKENIZER, LENGTHS)


def test_a_context_that_just_fits_and_one_that_is_made_to_fit():
  for given in (NEEDED, 0):
    made = programs.make_roles(settings.from_config(put("model.max_len", given)), tiny.TOKENIZER,
                               LENGTHS)  # fmt: skip
    assert made.fwm.config.max_len == NEEDED and made.fwm.config == made.idm.config
  assert made.fwm.decoding.length == tiny.STATE + 1 and made.idm.decoding.length == tiny.ACTION + 1
  assert made.of("y") is made.fwm and made.of("z") is made.idm


def test_the_context_holds_the_longest_sequence_of_turns():
  c = put("warmup_fwm.turns", 3)
  c["rivals"]["labels_only"]["sft"]["turns"] = 4  # of those that are compared
  turn = 2 + tiny.ACTION + tiny.STATE + 1  # markers, z, y, end
  for compare, turns in ((("pseudo_labels",), 3), (("labels_only", "pseudo_labels"), 4)):
    made = settings.from_config(c | {"compare": compare})
    assert made.turns == turns
    players = programs.make_roles(made, tiny.TOKENIZER, LENGTHS)
    assert players.fwm.config.max_len == NEEDED + (turns - 1) * turn


def test_an_image_world_samples_as_many_codes_as_an_image_has_and_names_actions_in_text():
  size = tiny.TOKENIZER.vocab_size
  for codes, text in (((7, 12), ((0, 7), (12, size))), ((7, size), ((0, 7),))):
    made = programs.make_roles(settings.from_config(config()), tiny.TOKENIZER,
                               LENGTHS._replace(codes=codes))  # fmt: skip
    fwm, idm = made.fwm.decoding, made.idm.decoding
    assert (fwm.length, fwm.end, fwm.allowed) == (tiny.STATE, None, (codes,))
    assert (idm.length, idm.end, idm.allowed) == (tiny.ACTION + 1, tiny.TOKENIZER.eos, text)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"advantages": "gae"}, r"phase\.advantages = 'gae'"),
    ({"ratio": "word"}, r"phase\.ratio = 'word'"),
    ({"reduction": "sum"}, r"phase\.reduction = 'sum'"),
    ({"kl": "k9"}, r"phase\.kl = 'k9'"),
    ({"inner_epochs": 0}, r"phase\.inner_epochs = 0"),
    ({"reference": "none"}, r"reference = 'none': .* beta = 0\.04; allowed is beta = 0"),
    ({"top_p": 0.0}, r"decoding\.top_p = 0\.0"),
    ({"top_k": -1}, r"decoding\.top_k = -1"),
  ],
)
def test_phases_that_cannot_be(changes, message):
  """By `from_config` or by the spec that is made of it, before anything runs."""
  c = config()
  c["phase1"] |= changes
  with pytest.raises(ValueError, match=message):
    made = settings.from_config(c)
    players = programs.make_roles(made, tiny.TOKENIZER, LENGTHS)
    programs.phase_spec(made.phase1, players, phase="phase1", shared=False)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_schedule_ends_with_the_last_inner_epoch(epochs):
  c = config()
  c["phase1"] |= {"steps": 50, "inner_epochs": epochs}
  c["phase1"]["optimizer"]["schedule"] = "cosine"
  hyper = programs.hyper(settings.from_config(c).phase1)
  rate = lambda step: float(optimizer.learning_rate(np.int32(step), hyper.schedule, kind="cosine"))  # noqa: E731
  assert rate(50 * epochs - 1) > 0 and rate(50 * epochs) == 0
  assert rate(50 * epochs // 2) > 0.3 * c["phase1"]["optimizer"]["learning_rate"]


def test_specs_of_the_two_phases():
  """Roles swap; β = 0 has no reference; shared weights pass the snapshot once."""
  made = settings.from_config(put("phase2.beta", 0.0))
  players = programs.make_roles(made, tiny.TOKENIZER, LENGTHS)
  spec = {
    (phase, shared): programs.phase_spec(getattr(made, phase), players, phase=phase, shared=shared)
    for phase in settings.PHASES
    for shared in (False, True)
  }
  one, two = spec["phase1", False], spec["phase2", False]
  assert (one.policy.field, one.frozen.field, one.latent.field) == ("y", "z", "z")
  assert (two.policy.field, two.frozen.field, two.latent) == ("z", "y", None)
  assert (one.reference, two.reference) == ("snapshot", "none")
  assert (spec["phase1", True].reference, spec["phase2", True].reference) == ("frozen", "none")
  assert (one.policy.decoding.group, one.latent.decoding.group) == (made.phase1.group, 1)
  assert one.keep == made.phase1.keep and one.anchor


def test_a_prior_serves_no_phase2_of_a_rival():
  c = comparison.get_config("test").run.to_dict() | {"compare": ("paper_shared",)}
  settings.from_config(c)
  c["rivals"]["paper_shared"]["phase2"]["reference"] = "prior"
  with pytest.raises(ValueError, match=r"rivals\.paper_shared\.phase2.*serves phase1 alone"):
    settings.from_config(c)
