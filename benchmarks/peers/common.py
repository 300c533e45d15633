"""What the workers share: sizes, weights, the fixed batch and the way they talk to the driver.

NumPy and the standard library only, because every worker imports it in its own environment.
Axis alphabet: B prompts, G samples, N = B·G rows (sample g of prompt b is row b·G + g), P prompt
tokens, T completion tokens, S any run of tokens.
"""

import json
import os
import pathlib
import sys
import time
from typing import Any

import numpy as np

B, G, P, T = 8, 4, 64, 64
N = B * G
VOCAB, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 4096, 256, 4, 4, 2, 64, 1024
ROPE_THETA = 1_000_000.0  # Tunix's Llama 3 applies this base whatever its config says
NORM_EPS = 1e-5
BETA, CLIP, LEARNING_RATE, ADAM_B1, ADAM_B2, WEIGHT_DECAY = 0.04, 0.2, 1e-6, 0.9, 0.999, 0.0
# Every prompt begins and ends with these, because our templates begin and end with literal tokens.
FIRST, LAST = 1, 3
# One past the vocabulary: padding and end marker. It cannot be sampled, so every row has T tokens.
UNREACHABLE = VOCAB


def make_weights(seed: int = 0) -> dict[str, np.ndarray]:
  """Random float32 weights under transformers' Llama names, `weight` matrices as [out, in]."""
  rng = np.random.default_rng(seed)

  def dense(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal((rows, columns)) * scale / np.sqrt(columns)).astype(np.float32)

  weights = {"model.embed_tokens.weight": dense(VOCAB, WIDTH, np.sqrt(WIDTH) * 0.05)}
  for layer in range(LAYERS):
    name = f"model.layers.{layer}."
    weights |= {
      name + "input_layernorm.weight": np.ones(WIDTH, np.float32),
      name + "self_attn.q_proj.weight": dense(HEADS * HEAD_DIM, WIDTH),
      name + "self_attn.k_proj.weight": dense(KV_HEADS * HEAD_DIM, WIDTH),
      name + "self_attn.v_proj.weight": dense(KV_HEADS * HEAD_DIM, WIDTH),
      name + "self_attn.o_proj.weight": dense(WIDTH, HEADS * HEAD_DIM, 0.3),
      name + "post_attention_layernorm.weight": np.ones(WIDTH, np.float32),
      name + "mlp.gate_proj.weight": dense(FFN, WIDTH),
      name + "mlp.up_proj.weight": dense(FFN, WIDTH),
      name + "mlp.down_proj.weight": dense(WIDTH, FFN, 0.3),
    }
  weights["model.norm.weight"] = np.ones(WIDTH, np.float32)
  weights["lm_head.weight"] = dense(VOCAB, WIDTH)
  return weights


def token_logps(weights: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
  """The Llama forward pass in float64 NumPy: log p(tokens_t | tokens_<t), [N, S] → [N, S − 1].

  An implementation of its own: who agrees with it has the published architecture.
  """
  w = {name: value.astype(np.float64) for name, value in weights.items()}
  rows, length = tokens.shape

  def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + NORM_EPS) * scale

  angles = np.arange(length)[:, None] / ROPE_THETA ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
  cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]  # [S, 1, head_dim / 2]

  def heads(x: np.ndarray, count: int) -> np.ndarray:
    first, second = np.split(x.reshape(rows, length, count, HEAD_DIM), 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

  causal = np.tril(np.ones((length, length), bool))
  x = w["model.embed_tokens.weight"][tokens]
  for layer in range(LAYERS):
    part = {n.split(f".{layer}.")[1]: v for n, v in w.items() if f"layers.{layer}." in n}
    h = norm(x, part["input_layernorm.weight"])
    q = heads(h @ part["self_attn.q_proj.weight"].T, HEADS)
    k = heads(h @ part["self_attn.k_proj.weight"].T, KV_HEADS).repeat(HEADS // KV_HEADS, axis=2)
    v = (h @ part["self_attn.v_proj.weight"].T).reshape(rows, length, KV_HEADS, HEAD_DIM)
    v = v.repeat(HEADS // KV_HEADS, axis=2)
    scores = np.einsum("nqhd,nkhd->nhqk", q, k, optimize=True) / np.sqrt(HEAD_DIM)
    scores = np.where(causal, scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    mixed = np.einsum("nhqk,nkhd->nqhd", scores, v, optimize=True).reshape(rows, length, -1)
    x = x + mixed @ part["self_attn.o_proj.weight"].T
    h = norm(x, part["post_attention_layernorm.weight"])
    gate = h @ part["mlp.gate_proj.weight"].T
    gated = gate / (1 + np.exp(-gate)) * (h @ part["mlp.up_proj.weight"].T)
    x = x + gated @ part["mlp.down_proj.weight"].T
  logits = norm(x, w["model.norm.weight"])[:, :-1] @ w["lm_head.weight"].T
  top = logits.max(-1, keepdims=True)
  normalizer = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
  return np.take_along_axis(logits, tokens[:, 1:, None], -1)[..., 0] - normalizer


def grpo_loss(logp, logp_old, logp_ref, advantages) -> float:
  """mean_nt[ −min(ρ A_n, clip(ρ, 1 ± ε) A_n) + β (e^d − d − 1) ]. [N, T] three times, [N] → scalar.

  ρ = exp(logp − logp_old), d = logp_ref − logp.
  """
  ratio = np.exp(logp - logp_old)
  clipped = np.clip(ratio, 1 - CLIP, 1 + CLIP)
  surrogate = np.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
  d = logp_ref - logp
  return float((-surrogate + BETA * (np.exp(d) - d - 1)).mean())


def make_problem(path: pathlib.Path, seed: int = 0) -> float:
  """Writes weights and the fixed batch to `path`; returns the batch's loss, from the float64 pass.

  Keys: `weights/<name>`; prompts int32 [B, P]; completions int32 [N, T]; advantages float32 [N];
  logp_old, logp_ref float32 [N, T], the policy's own log-probabilities with noise of 0.15 and 0.3.
  """
  rng = np.random.default_rng(seed + 1)
  weights = make_weights(seed)
  prompts = _draw_prompts(rng)
  completions = rng.integers(0, VOCAB, (N, T), dtype=np.int32)
  advantages = (rng.standard_normal(N) + 0.5).astype(np.float32)
  logp = token_logps(weights, np.concatenate([prompts.repeat(G, axis=0), completions], axis=1))
  logp = logp[:, P - 1 :]
  logp_old = (logp + 0.15 * rng.standard_normal((N, T))).astype(np.float32)
  logp_ref = (logp + 0.3 * rng.standard_normal((N, T))).astype(np.float32)
  np.savez(
    path,
    prompts=prompts,
    completions=completions,
    advantages=advantages,
    logp_old=logp_old,
    logp_ref=logp_ref,
    **{f"weights/{name}": value for name, value in weights.items()},
  )
  return grpo_loss(logp, logp_old, logp_ref, advantages)


def load_problem(path: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """(weights by name, fixed batch by field) of a file that `make_problem` wrote."""
  with np.load(path) as file:
    weights = {k.removeprefix("weights/"): file[k] for k in file.files if k.startswith("weights/")}
    batch = {k: file[k] for k in file.files if not k.startswith("weights/")}
  return weights, batch


def step_prompts(step: int) -> np.ndarray:
  """The prompts of a timed call: int32 [B, P], the same for every system."""
  return _draw_prompts(np.random.default_rng(1000 + step))


def _draw_prompts(rng: np.random.Generator) -> np.ndarray:
  prompts = rng.integers(0, VOCAB, (B, P), dtype=np.int32)
  prompts[:, 0], prompts[:, -1] = FIRST, LAST
  return prompts


def even_share(tokens) -> float:
  """The peers' reward, as cheap as a reward can be: the share of even token ids."""
  return float((np.asarray(tokens) % 2 == 0).mean())


class Clock:
  """Wall and CPU seconds (all threads of this process) since `start`."""

  def start(self) -> None:
    self._wall, self._cpu = time.perf_counter(), time.process_time()

  def stop(self) -> dict[str, float]:
    return {"wall": time.perf_counter() - self._wall, "cpu": time.process_time() - self._cpu}


class Channel:
  """JSON lines: commands from stdin, replies on stdout. What libraries print goes to stderr."""

  def __init__(self):
    self._out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

  def reply(self, **values: Any) -> None:
    print(json.dumps(values), file=self._out, flush=True)

  def serve_until_step(self, handlers: dict[str, Any]) -> bool:
    """Answers commands by `handlers` until one asks for a step (True) or for the end (False)."""
    for line in iter(sys.stdin.readline, ""):
      command = json.loads(line)
      name = command.pop("command")
      if name == "step":
        return True
      if name == "stop":
        return False
      self.reply(**handlers[name](**command))
    return False
