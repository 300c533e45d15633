"""PyTorch's side of the comparison: transformers' Llama and `generate`, TRL's GRPOTrainer.

Runs in an environment of its own. The trainer's callback waits for the driver between steps, so a
timed step is all that the trainer's loop does for one batch: rollout, reward, reference
log-probabilities and update, all TRL's own code.
"""

import argparse
import importlib.metadata
import os
import sys
import tempfile
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import common
import datasets
import numpy as np
import tokenizers
import torch
import transformers
import trl

STEPS_AT_HAND = 256  # prompts in the dataset; the trainer starts an epoch anew after them


def build_model(weights: dict[str, np.ndarray], folder: str) -> transformers.LlamaForCausalLM:
  """transformers' Llama with our weights, saved in `folder`, where TRL loads its reference from."""
  config = transformers.LlamaConfig(
    vocab_size=common.VOCAB,
    hidden_size=common.WIDTH,
    intermediate_size=common.FFN,
    num_hidden_layers=common.LAYERS,
    num_attention_heads=common.HEADS,
    num_key_value_heads=common.KV_HEADS,
    head_dim=common.HEAD_DIM,
    rms_norm_eps=common.NORM_EPS,
    rope_parameters={"rope_type": "default", "rope_theta": common.ROPE_THETA},
    max_position_embeddings=common.P + common.T,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
    dtype="float32",
  )
  model = transformers.LlamaForCausalLM(config)
  model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
  model.save_pretrained(folder)
  return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def build_tokenizer() -> transformers.PreTrainedTokenizerFast:
  """Token i is the word "i"; padding and end marker are one past the model's vocabulary."""
  vocabulary = {str(i): i for i in range(common.VOCAB)} | {"<end>": common.UNREACHABLE}
  core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<end>"))
  core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=core, eos_token="<end>", pad_token="<end>", padding_side="left"
  )


class Worker(transformers.TrainerCallback):
  """Answers `loss`, `sample` and, by letting the trainer's loop go on, `step`."""

  def __init__(self, problem: str, folder: str):
    self.weights, self.batch = common.load_problem(problem)
    self.channel, self.clock = common.Channel(), common.Clock()
    self.tokens, self.calls = 0, 0
    model = build_model(self.weights, folder)
    self.sampled = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    self.sampled.eval()
    rows = np.concatenate([common.step_prompts(step) for step in range(1, 1 + STEPS_AT_HAND)])
    prompts = [" ".join(map(str, row)) for row in rows]
    self.trainer = trl.GRPOTrainer(
      model=model,
      reward_funcs=self.reward,
      args=trl.GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=common.N,
        num_generations=common.G,
        max_completion_length=common.T,
        max_steps=10**6,
        beta=common.BETA,
        epsilon=common.CLIP,
        loss_type="bnpo",  # the mean over the batch's tokens
        use_bias_correction_kl=False,  # plain k3
        learning_rate=common.LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_beta1=common.ADAM_B1,
        adam_beta2=common.ADAM_B2,
        weight_decay=common.WEIGHT_DECAY,
        max_grad_norm=0.0,
        bf16=False,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
      ),
      train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
      processing_class=build_tokenizer(),
      callbacks=[self],
    )

  def reward(self, completion_ids, **_) -> list[float]:
    self.tokens = sum(map(len, completion_ids))
    return [common.even_share(row) for row in completion_ids]

  def loss(self) -> dict[str, float]:
    """TRL's own loss on the fixed batch, and its gradient's norm."""
    b = {name: torch.from_numpy(value) for name, value in self.batch.items()}
    prompts = b["prompts"].repeat_interleave(common.G, dim=0).long()
    inputs = {
      "prompt_ids": prompts,
      "prompt_mask": torch.ones_like(prompts),
      "completion_ids": b["completions"].long(),
      "completion_mask": torch.ones_like(b["completions"]),
      "advantages": b["advantages"],
      "old_per_token_logps": b["logp_old"],
      "ref_per_token_logps": b["logp_ref"],
    }
    model = self.trainer.model
    self.trainer.current_gradient_accumulation_steps = 1
    model.train()
    value = self.trainer._compute_loss(model, inputs)
    value.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
    model.zero_grad()
    return {"loss": value.item(), "grad_norm": norm.item()}

  @torch.no_grad()
  def sample(self, logps: bool) -> dict[str, Any]:
    """`generate`; with `logps`, its scores too, turned into the tokens' log-probabilities."""
    self.calls += 1
    rows = torch.from_numpy(np.repeat(common.step_prompts(self.calls), common.G, axis=0)).long()
    self.clock.start()
    output = self.sampled.generate(
      rows,
      attention_mask=torch.ones_like(rows),
      do_sample=True,
      temperature=1.0,
      top_p=1.0,
      top_k=0,
      max_new_tokens=common.T,
      eos_token_id=common.UNREACHABLE,
      pad_token_id=common.UNREACHABLE,
      return_dict_in_generate=True,
      output_scores=logps,
    )
    if logps:
      self.sampled.compute_transition_scores(
        output.sequences, output.scores, normalize_logits=True
      )
    spent = self.clock.stop()
    return {"tokens": output.sequences[:, common.P :].numel(), **spent}

  def _wait(self, control: transformers.TrainerControl) -> None:
    if self.channel.serve_until_step({"loss": self.loss, "sample": self.sample}):
      self.clock.start()
    else:
      control.should_training_stop = True

  def on_train_begin(self, args, state, control, **_) -> None:
    versions = {n: importlib.metadata.version(n) for n in ("torch", "transformers", "trl")}
    self.channel.reply(ready=True, versions=versions, threads=torch.get_num_threads())
    self._wait(control)

  def on_step_end(self, args, state, control, **_) -> None:
    self.channel.reply(tokens=self.tokens, **self.clock.stop())
    self._wait(control)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--problem", required=True, help="the file that the driver wrote")
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as scratch:
    Worker(arguments.problem, scratch).trainer.train()
  sys.exit(0)
