"""What the slots hold: counted by hand, and in proportion to the mesh."""

import dataclasses

import jax
import pytest
from jax.sharding import AbstractMesh

from configs import liquid_7b_shape, minigrid, text_shapes
from swirl_jax import memory, sharding
from swirl_jax.settings import from_config


def mesh_of(data, fsdp, tensor):
  return AbstractMesh((data, fsdp, tensor), sharding.AXES)


ONE = mesh_of(1, 1, 1)
PHASE1 = liquid_7b_shape.get_config().phase1.to_dict()


def settings(**changes):
  config = liquid_7b_shape.get_config().to_dict()
  for where, value in changes.items():
    group, _, name = where.partition("__")
    config[group] = config[group] | {name: value} if name else value
  return from_config(config)


def test_a_7b_model_by_hand():
  """Liquid 7B: the embedding, and 28 layers of 4 · 3072 · 4096 + 3 · 3072 · 24576 and two norms."""
  size = 264_448 * 3072 + 28 * (4 * 3072 * 4096 + 3 * 3072 * 24_576 + 2 * 3072) + 3072
  found = memory.slot_bytes(settings(), "phase1", ONE)
  assert found["policy"] == 4 * size
  assert found["optimizer"] == pytest.approx(8 * size, rel=1e-6)  # two moments and a counter
  assert found["frozen"] == found["reference"] == 2 * size
  assert found["prior"] == found["base"] == 0
  assert found["idle models"] == 4 * 4 * size  # as warmed up, and the newest, of both parts
  kept = memory.temporary_bytes(settings(), "phase1", ONE)
  assert kept["gradients"] == 4 * size
  assert kept["rollout's cache"] == 32 * 8 * 1024 * 28 * 16 * 256 * 2 * 2
  assert kept["prompt's keys and values"] == 32 * 1152 * 28 * 16 * 256 * 2 * 2


def test_the_policy_has_the_logits_of_what_it_samples():
  """8,192 codes of 264,448 words, or the others; a reward reads all. Guidance decodes twice."""
  image = memory.temporary_bytes(settings(), "phase1", ONE)
  assert image["logits of a chunk"] == 4 * 16_384 * 8192
  assert image["logits of a reward"] == 4 * 16_384 * 264_448
  assert image["columns of the head"] == 3072 * 8192 * 2
  text = memory.temporary_bytes(settings(), "phase2", ONE)
  words = 264_448 - 8192
  assert text["logits of a chunk"] == 4 * 16_384 * words
  assert text["columns of the head"] == 3072 * words * 2
  guided = settings(phase1=PHASE1 | {"guidance": 2.0})
  guided = memory.temporary_bytes(guided, "phase1", ONE)
  for name in ("rollout's cache", "prompt's keys and values"):
    assert guided[name] == 2 * image[name]


def test_a_mesh_divides_what_it_lays_out():
  one, many = (memory.slot_bytes(settings(), "phase2", m) for m in (ONE, mesh_of(1, 16, 4)))
  assert one["policy"] / many["policy"] == pytest.approx(64, rel=1e-2)
  one, many = (memory.temporary_bytes(settings(), "phase2", m) for m in (ONE, mesh_of(1, 16, 4)))
  assert one["rollout's cache"] == 64 * many["rollout's cache"]


def test_the_peak_is_what_is_held_and_the_largest_need():
  """An update needs most on one device; a rollout on many, which gather the weights for it."""
  for kind, mesh, largest in (("phase1", ONE, "update"), ("phase2", mesh_of(1, 16, 4), "rollout")):
    s = settings()
    t = memory.temporary_bytes(s, kind, mesh)
    rollout = ("weights of a rollout", "prompt's keys and values", "rollout's cache")
    update = ("gradients", "gradients", "activations", "logits of a chunk")  # the sum, the newest
    needs = {
      "rollout": sum(t[n] for n in (*rollout, "columns of the head")),
      "update": sum(t[n] for n in (*update, "columns of the head")),
      "reward": t["logits of a reward"],
    }
    assert max(needs, key=needs.get) == largest
    held = sum(memory.slot_bytes(s, kind, mesh).values())
    assert memory.peak_bytes(s, kind, mesh) == held + needs[largest]


def test_what_a_rollout_gathers():
  """Axis fsdp's parts of the weights where the mesh says so, else only the device's own."""
  mesh = mesh_of(1, 16, 4)
  own, gathered = (
    memory.temporary_bytes(settings(mesh__rollout_gather=g), "phase1", mesh)["weights of a rollout"]
    for g in (False, True)
  )
  assert gathered / own == pytest.approx(16, rel=1e-2)


def test_a_device_holds_a_head_of_keys_at_least():
  one, many = (
    memory.temporary_bytes(settings(), "phase1", mesh_of(1, 1, n))["rollout's cache"]
    for n in (1, 32)
  )
  assert one == 16 * many > 0  # 16 heads of keys


def test_a_model_that_nothing_reads_any_more_is_not_held():
  """The prior has gone when phases run: both models as warmed up stay, and the newest of each."""
  s = from_config(minigrid.get_config().to_dict())
  assert s.pretrain.steps and memory.idle_models(s, "phase1") == 4


def test_without_remat_every_layer_keeps_what_it_computed():
  """Else only its input, and two layers' own are there while one is computed again."""
  full, none = (
    memory.temporary_bytes(settings(model__remat=r), "phase1", ONE)["activations"]
    for r in ("full", "none")
  )
  layer = 4 * 3072 + 3 * 24_576 + 2 * 32 * 256
  assert none / full == pytest.approx(28 * layer / (28 * 3072 + 2 * layer))


def test_only_the_prompts_that_are_kept_are_learnt_from():
  whole, kept = (
    memory.temporary_bytes(settings(phase1=PHASE1 | {"micro_batch": 0, "keep": n}), "phase1", ONE)
    for n in (0, 8)
  )
  assert kept["activations"] == whole["activations"] * 8 / PHASE1["prompts"]
  assert kept["rollout's cache"] == whole["rollout's cache"]


def test_adapters_share_one_base():
  whole = memory.slot_bytes(settings(), "phase1", ONE)
  found = memory.slot_bytes(settings(model__lora_rank=16), "phase1", ONE)
  assert found["base"] == whole["frozen"]  # one copy, in the compute dtype
  for name in ("policy", "optimizer", "frozen", "reference", "idle models"):
    assert 0 < found[name] < 0.01 * whole[name]


def test_shared_weights_pass_one_frozen_tree():
  found = memory.slot_bytes(settings(weights="shared"), "phase1", ONE)
  assert found["reference"] == 0 < found["frozen"]
  kept = settings(weights="shared", swirl__reset_reference=False)  # a reference beside it
  for kind in ("phase1", "phase2"):
    found = memory.slot_bytes(kept, kind, ONE)
    assert found["reference"] == found["frozen"]


def test_what_liquid_holds_on_a_v5e():
  """One model for both parts idles less; adapters hold one copy of the weights and little else."""
  held = {}
  for name in liquid_7b_shape.NAMES:
    found = from_config(liquid_7b_shape.get_config(name).to_dict())
    assert (found.mesh.fsdp * found.mesh.tensor, found.phase1.group) == (64, 8)
    mesh = mesh_of(1, found.mesh.fsdp, found.mesh.tensor)
    held[name] = [memory.slot_bytes(found, kind, mesh) for kind in ("phase1", "phase2")]
  for whole, shared, lora in zip(*(held[n] for n in liquid_7b_shape.NAMES[1:]), strict=True):
    assert shared["policy"] == whole["policy"] and shared["reference"] == 0
    assert shared["idle models"] < whole["idle models"]
    assert lora["base"] == whole["frozen"]  # and as much again for all that belongs to adapters
    assert sum(lora.values()) < 2 * lora["base"] < 0.2 * sum(whole.values())
  with pytest.raises(ValueError, match="shape 'v4': allowed are v5p, v5e, v5e_shared, v5e_lora"):
    liquid_7b_shape.get_config("v4")


def test_frozen_trees_in_host_memory():
  on_device, offloaded = settings(), settings(mesh__offload_frozen=True)
  here, there = (memory.slot_bytes(s, "phase1", ONE) for s in (on_device, offloaded))
  assert there["frozen"] == there["reference"] == 0
  assert there["policy"] == here["policy"]
  moved = memory.host_bytes(offloaded, "phase1", ONE)
  assert moved == here["frozen"] + here["reference"]
  assert memory.host_bytes(on_device, "phase1", ONE) == 0
  assert "held in host memory" in memory.table(offloaded)


def test_a_real_world_and_its_table():
  text = memory.table(from_config(minigrid.get_config().to_dict()))
  assert text.count("held in all") == 2 and "64 prompts x 8 samples" in text
  assert not [a for a in jax.live_arrays() if a.size > 10**6]


def test_the_most_prompts_are_the_most_that_fit():
  text, mesh = from_config(text_shapes.get_config("qwen2_5_3b").to_dict()), mesh_of(1, 32, 2)

  def peak(prompts):
    phase = dataclasses.replace(text.phase1, prompts=prompts)
    return memory.peak_bytes(dataclasses.replace(text, phase1=phase), "phase1", mesh)

  found = memory.most_prompts(text, "phase1", mesh, 16 * memory.GB)
  assert found % 32 == 0 < found
  room = 16 * memory.GB / memory.MARGIN
  assert peak(found) <= room < peak(found + 32)
  assert memory.most_prompts(text, "phase1", mesh, memory.GB) == 0
  anchored = dataclasses.replace(text.phase1, anchor=32)  # divides few numbers of micro-batches
  anchored = dataclasses.replace(text, phase1=anchored)
  assert memory.most_prompts(anchored, "phase1", mesh, 16 * memory.GB) == found


def test_parts_of_a_group_hold_fewer_activations():
  whole, parts = (
    memory.temporary_bytes(settings(phase1=PHASE1 | {"micro_group": g}), "phase1", ONE)
    for g in (0, 2)
  )
  assert parts["activations"] < 0.5 * whole["activations"]
  assert parts["rollout's cache"] == whole["rollout's cache"]


def test_prompts_that_are_too_short():
  world = dataclasses.replace(settings()).world | {"fwm_prompt": 1000}
  with pytest.raises(ValueError, match="a prompt of 1000 tokens is .* short of its fields"):
    memory.table(settings(world=world))
