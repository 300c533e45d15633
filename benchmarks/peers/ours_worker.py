"""Our side of the comparison: the shipped sampler and the shipped `phase_step`.

Masks and both log-probabilities are on. The reward is the peers' share of even tokens: a frozen
role that reads the sampled tokens on the device in place of a model.
"""

import argparse
import dataclasses
import sys
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

import swirl_jax
from swirl_jax import allocator, objectives, phases, prompts, rewards, roles, sampling
from swirl_jax.models import transformer
from swirl_jax.optimizer import AdamW, Schedule
from swirl_jax.types import PolicyState, Segment, Transition


def convert(weights: dict[str, np.ndarray]) -> dict[str, Any]:
  """transformers' names and layouts into ours: layers stacked, q, k, v fused, gate and up too."""
  kv, d, width = common.KV_HEADS, common.HEAD_DIM, common.WIDTH
  ratio = common.HEADS // kv

  def stack(name: str) -> np.ndarray:
    return np.stack([weights[f"model.layers.{i}.{name}.weight"] for i in range(common.LAYERS)])

  def heads(part: str, count: int) -> np.ndarray:  # [L, out, in] → [L, D, K, count, d]
    kernel = stack(f"self_attn.{part}_proj").reshape(-1, kv, count, d, width)
    return kernel.transpose(0, 4, 1, 2, 3)

  out = stack("self_attn.o_proj").transpose(0, 2, 1).reshape(-1, kv, ratio, d, width)
  gate_up = [stack(f"mlp.{part}_proj").transpose(0, 2, 1) for part in ("gate", "up")]
  layers = {
    "attention_norm": {"scale": stack("input_layernorm")},
    "attention": {
      "qkv": np.concatenate([heads("q", ratio), heads("k", 1), heads("v", 1)], axis=3),
      "out": out,
    },
    "mlp_norm": {"scale": stack("post_attention_layernorm")},
    "mlp": {
      "gate_up": np.stack(gate_up, axis=2),
      "down": stack("mlp.down_proj").transpose(0, 2, 1),
    },
  }
  params = {
    "embedding": weights["model.embed_tokens.weight"],
    "head": weights["lm_head.weight"].T,
    "layers": layers,
    "final_norm": {"scale": weights["model.norm.weight"]},
  }
  return jax.tree.map(jnp.array, params)


@dataclasses.dataclass(frozen=True)
class EvenShare:
  """What a frozen slot needs of `roles.Role`; its "log-probability" is the share of even tokens."""

  field: str = "z"

  def target(self, segment: Segment) -> Segment:
    return segment

  def logprobs(self, params, transition: Transition, target: Segment, *, sampled=False):
    sampled = transition.y
    share = (sampled.mask & (sampled.tokens % 2 == 0)).sum(-1) / sampled.mask.sum(-1)
    logp = jnp.broadcast_to(share[..., None], target.mask.shape)
    return logp, jnp.zeros_like(logp)


def build_spec() -> phases.PhaseSpec:
  """GRPO with k3 against a snapshot, a token mean, one update a batch and plain AdamW."""
  config = transformer.TransformerConfig(
    vocab_size=common.VOCAB,
    d_model=common.WIDTH,
    n_layers=common.LAYERS,
    n_heads=common.HEADS,
    n_kv_heads=common.KV_HEADS,
    head_dim=common.HEAD_DIM,
    d_ff=common.FFN,
    max_len=common.P + common.T,
    rope_theta=common.ROPE_THETA,
    norm_eps=common.NORM_EPS,
    tie_embeddings=False,
    scan_layers=False,
  )
  policy = roles.TransformerRole(
    config,
    prompts.Template(((common.FIRST,), "x", (common.LAST,)), "y", (common.UNREACHABLE,)),
    sampling.Decoding(length=common.T, group=common.G, end=common.UNREACHABLE),
  )
  optimizer = AdamW(
    b1=common.ADAM_B1,
    b2=common.ADAM_B2,
    weight_decay=common.WEIGHT_DECAY,
    clip_norm=0.0,
    schedule="constant",
  )
  reward = rewards.RewardSpec(floor=None)
  return phases.PhaseSpec(policy=policy, frozen=EvenShare(), optimizer=optimizer, reward=reward)


def transition_of(rows: np.ndarray) -> Transition:
  """Prompts [B, P] as transitions, which the template turns back; nothing reads z's one token."""
  x, z = rows[:, 1:-1], np.zeros((len(rows), 1), np.int32)
  empty = Segment(np.zeros((len(rows), 0), np.int32), np.zeros((len(rows), 0), bool))
  return Transition(Segment(x, np.ones_like(x, bool)), empty, Segment(z, np.ones_like(z, bool)))


class Worker:
  """Answers `loss`, `sample` and `step`."""

  def __init__(self, problem: str):
    weights, self.batch = common.load_problem(problem)
    self.spec = build_spec()
    self.params = convert(weights)
    self.slots = phases.Slots(frozen=None, reference=convert(weights))
    trained = convert(weights)
    self.state = PolicyState(trained, self.spec.optimizer.init(trained), jnp.int32(0))
    one, warm = jnp.float32(1.0), jnp.float32(0.0)
    self.hyper = phases.Hyper(
      schedule=Schedule(jnp.float32(common.LEARNING_RATE), warm, jnp.float32(10**6)),
      beta=jnp.float32(common.BETA),
      temperature=one,
      latent_temperature=one,
      clip_low=jnp.float32(common.CLIP),
      clip_high=jnp.float32(common.CLIP),
      importance_cap=one,
      anchor_weight=jnp.float32(0.0),
    )
    self.rollout = jax.jit(self.spec.policy.rollout)
    self.phase_step = jax.jit(phases.phase_step, static_argnames="spec", donate_argnums=0)
    self.key, self.calls = jax.random.key(0), 0
    self.channel, self.clock = common.Channel(), common.Clock()

  def loss(self) -> dict[str, float]:
    """`policy_loss` on the fixed batch, and its gradient's norm."""
    b = {name: jnp.asarray(value) for name, value in self.batch.items()}
    group = (common.B, common.G, common.T)
    mask = jnp.ones(group, bool)
    experience = phases.Experience(
      transition=transition_of(self.batch["prompts"]),
      target=Segment(b["completions"].reshape(group), mask),
      mask=mask,
      weight=objectives.token_weights(mask),
      advantages=b["advantages"].reshape(common.B, common.G, 1),
      logp_sampler=b["logp_old"].reshape(group),
      logp_old=b["logp_old"].reshape(group),
      logp_ref=b["logp_ref"].reshape(group),
    )
    value_and_grad = jax.value_and_grad(phases.policy_loss, has_aux=True)
    (loss, _), grads = jax.jit(value_and_grad, static_argnums=3)(
      self.params, experience, self.hyper, self.spec
    )
    return {"loss": float(loss), "grad_norm": float(optax.global_norm(grads))}

  def sample(self, logps: bool) -> dict[str, Any]:
    """The shipped rollout. Both log-probabilities are on, whatever `logps` asks of the peers."""
    del logps
    self.calls += 1
    rows, key = common.step_prompts(self.calls), jax.random.fold_in(self.key, self.calls)
    self.clock.start()
    drawn = self.rollout(self.params, transition_of(rows), key, self.hyper.temperature)
    drawn = jax.device_get(drawn)
    spent = self.clock.stop()
    return {"tokens": int(drawn.mask.sum()), **spent}

  def run(self) -> None:
    versions = {"swirl_jax": swirl_jax.__version__, "jax": jax.__version__}
    self.channel.reply(ready=True, versions=versions)
    step = 0
    while self.channel.serve_until_step({"loss": self.loss, "sample": self.sample}):
      self.clock.start()
      step += 1
      batch = phases.Batch(transition_of(common.step_prompts(step)))
      key = jax.random.fold_in(self.key, step)
      self.state, metrics = self.phase_step(
        self.state, self.slots, batch, key, self.hyper, spec=self.spec
      )
      metrics = jax.device_get(metrics)
      jax.block_until_ready(self.state)
      spent = self.clock.stop()
      if metrics["nonfinite"].sum:
        raise RuntimeError(f"step {step} was not finite: {metrics}")
      self.channel.reply(tokens=int(metrics["length"].sum), **spent)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--problem", required=True, help="the file that the driver wrote")
  allocator.keep_freed_memory()  # as our programs do
  Worker(parser.parse_args().problem).run()
  sys.exit(0)
