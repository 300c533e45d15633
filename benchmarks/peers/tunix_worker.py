"""Tunix's side of the comparison: its Llama 3, its sampler, its GRPOLearner.

Runs in an environment of its own. The learner pulls its batches from a generator, so a timed step
is what the learner does between two pulls: rollout by the "vanilla" engine, reward, reference
log-probabilities and update, all Tunix's own code.
"""

import argparse
import importlib.metadata
import sys
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.models.llama3 import model as llama3
from tunix.rl import rl_cluster as cluster_lib
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout


class WordTokenizer:
  """Token i is the word "i". No begin marker: with one, Tunix pads a 64-token prompt to 128."""

  def encode(self, text: str) -> list[int]:
    return [int(word) for word in text.split()]

  def decode(self, ids: list[int]) -> str:
    return " ".join(map(str, ids))

  def bos_id(self) -> None:
    return None

  def eos_id(self) -> int:
    return common.UNREACHABLE

  def pad_id(self) -> int:
    return common.UNREACHABLE


def build_model(weights: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> llama3.Llama3:
  """Tunix's Llama 3 with our weights, placed on the mesh at once, or the learner copies it."""
  placement = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  model = llama3.Llama3(
    llama3.ModelConfig(
      num_layers=common.LAYERS,
      vocab_size=common.VOCAB,
      embed_dim=common.WIDTH,
      hidden_dim=common.FFN,
      num_heads=common.HEADS,
      head_dim=common.HEAD_DIM,
      num_kv_heads=common.KV_HEADS,
      rope_theta=int(common.ROPE_THETA),
      norm_eps=common.NORM_EPS,
    ),
    rngs=nnx.Rngs(0),
  )

  def put(variable: nnx.Variable, name: str, shape: tuple[int, ...] | None = None) -> None:
    value = weights[name]
    if value.ndim == 2 and name != "model.embed_tokens.weight":
      value = value.T
    value = value.reshape(shape if shape is not None else value.shape)
    if variable.get_value().shape != value.shape:
      raise ValueError(f"{name}: Tunix has {variable.get_value().shape}, the file {value.shape}")
    variable.set_value(jax.device_put(value, placement))

  put(model.embedder.input_embedding, "model.embed_tokens.weight")
  put(model.final_norm.w, "model.norm.weight")
  put(model.lm_head.w, "lm_head.weight")
  for i, layer in enumerate(model.layers):
    name = f"model.layers.{i}."
    put(layer.input_layernorm.w, name + "input_layernorm.weight")
    put(layer.post_attention_layernorm.w, name + "post_attention_layernorm.weight")
    for part, count in (("q", common.HEADS), ("k", common.KV_HEADS), ("v", common.KV_HEADS)):
      variable = getattr(layer.attn, f"{part}_proj").w
      shape = (common.WIDTH, count, common.HEAD_DIM)
      put(variable, name + f"self_attn.{part}_proj.weight", shape)
    shape = (common.HEADS, common.HEAD_DIM, common.WIDTH)
    put(layer.attn.o_proj.w, name + "self_attn.o_proj.weight", shape)
    for part in ("gate", "up", "down"):
      put(getattr(layer.mlp, f"{part}_proj").kernel, name + f"mlp.{part}_proj.weight")
  return model


def build_learner(weights, mesh, reward) -> grpo_learner.GRPOLearner:
  """Tunix's GRPO with k3, a token mean, one update a batch and plain AdamW."""
  roles = (
    cluster_lib.Role.ACTOR,
    cluster_lib.Role.REFERENCE,
    cluster_lib.Role.ROLLOUT,
  )
  with mesh:
    actor, reference = build_model(weights, mesh), build_model(weights, mesh)
  optimizer = optax.adamw(
    common.LEARNING_RATE,
    b1=common.ADAM_B1,
    b2=common.ADAM_B2,
    weight_decay=common.WEIGHT_DECAY,
  )
  cluster = cluster_lib.RLCluster(
    actor=actor,
    reference=reference,
    tokenizer=WordTokenizer(),
    cluster_config=cluster_lib.ClusterConfig(
      role_to_mesh=dict.fromkeys(roles, mesh),
      rollout_engine="vanilla",
      training_config=cluster_lib.RLTrainingConfig(
        actor_optimizer=optimizer,
        eval_every_n_steps=10**9,
        max_steps=10**9,
      ),
      rollout_config=base_rollout.RolloutConfig(
        max_tokens_to_generate=common.T,
        max_prompt_length=common.P,
        kv_cache_size=common.P + common.T,
        temperature=1.0,
        top_p=1.0,
        top_k=None,
      ),
    ),
  )
  config = grpo_learner.GRPOConfig(
    num_generations=common.G,
    num_iterations=1,
    beta=common.BETA,
    epsilon=common.CLIP,
    kl_loss_mode="low_var_kl",
    loss_agg_mode="token-mean",
  )
  return grpo_learner.GRPOLearner(rl_cluster=cluster, algo_config=config, reward_fns=reward)


class Worker:
  """Answers `loss`, `sample` and, through the learner's own loop, `step`."""

  def __init__(self, problem: str):
    self.weights, self.batch = common.load_problem(problem)
    axes = (jax.sharding.AxisType.Auto,) * 2
    self.mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=axes)
    self.learner = build_learner(self.weights, self.mesh, self.reward)
    with self.mesh:
      model = build_model(self.weights, self.mesh)
    self.sampler = sampler_lib.Sampler(
      model,
      WordTokenizer(),
      sampler_lib.CacheConfig(
        cache_size=common.P + common.T,
        num_layers=common.LAYERS,
        num_kv_heads=common.KV_HEADS,
        head_dim=common.HEAD_DIM,
      ),
    )
    self.channel, self.clock = common.Channel(), common.Clock()
    self.tokens, self.calls = 0, 0

  def reward(self, prompts, completions, **_) -> list[float]:
    rows = [[int(word) for word in text.split()] for text in completions]
    self.tokens = sum(map(len, rows))
    return [common.even_share(row) for row in rows]

  def loss(self) -> dict[str, float]:
    """The loss that the learner gave its trainer, on the fixed batch, and its gradient's norm."""
    b = {name: jnp.asarray(value) for name, value in self.batch.items()}
    prompts = jnp.repeat(b["prompts"], common.G, axis=0)
    example = grpo_learner.TrainExample(
      prompt_ids=prompts,
      prompt_mask=jnp.ones_like(prompts, bool),
      completion_ids=b["completions"],
      completion_mask=jnp.ones_like(b["completions"], bool),
      advantages=b["advantages"],
      ref_per_token_logps=b["logp_ref"],
      old_per_token_logps=b["logp_old"],
    )
    cluster = self.learner.rl_cluster
    with self.mesh:
      (loss, _), grads = nnx.value_and_grad(cluster.actor_trainer.loss_fn, has_aux=True)(
        cluster.actor_trainer.model, example, self.learner.algo_config
      )
    return {"loss": float(loss), "grad_norm": float(optax.global_norm(nnx.to_tree(grads)))}

  def sample(self, logps: bool) -> dict[str, Any]:
    self.calls += 1
    rows = np.repeat(common.step_prompts(self.calls), common.G, axis=0)
    texts = [WordTokenizer().decode(row) for row in rows]
    self.clock.start()
    output = self.sampler(
      texts,
      max_generation_steps=common.T,
      max_prompt_length=common.P,
      temperature=1.0,
      top_p=1.0,
      seed=self.calls,
      return_logprobs=logps,
    )
    spent = self.clock.stop()
    return {"tokens": sum(len(row) for row in output.tokens), **spent}

  def batches(self):
    """The learner's data: each pull ends one timed step and waits for the driver's next."""
    handlers = {"loss": self.loss, "sample": self.sample}
    actor = self.learner.rl_cluster.actor_trainer.model
    versions = {name: importlib.metadata.version(name) for name in ("google-tunix", "jax", "flax")}
    self.channel.reply(ready=True, versions=versions)
    step = 0
    while self.channel.serve_until_step(handlers):
      self.clock.start()
      step += 1
      prompts = common.step_prompts(step)
      yield {"prompts": np.array([WordTokenizer().decode(row) for row in prompts])}
      jax.block_until_ready(nnx.state(actor))
      self.channel.reply(tokens=self.tokens, **self.clock.stop())


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--problem", required=True, help="the file that the driver wrote")
  worker = Worker(parser.parse_args().problem)
  worker.learner.train(worker.batches())
  sys.exit(0)
