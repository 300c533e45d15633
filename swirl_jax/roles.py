"""A role is a model with its template: what a phase needs to sample from it, score with it and
train it.

`phases`, `rewards` and `sft` see the protocol alone, so a table of the theory and a transformer run
through the same step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from swirl_jax import logprob, prompts, sampling, sharding
from swirl_jax.models import columns, transformer
from swirl_jax.types import Rollout, Segment, Transition


class Role(Protocol):
  """Hashable (it is part of a static spec).

  `field` is what the role produces: "y" for the FWM, "z" for the IDM.
  """

  field: str

  def rollout(self, params, transition: Transition, key: jax.Array, temperature) -> Rollout:
    """G samples of the field for each transition."""

  def logprobs(
    self, params, transition: Transition, target: Segment, *, sampled: bool = False
  ) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of a target [B, G, T] and the entropies of the distributions there, float32
    [B, G, T].

    Over the whole vocabulary; with `sampled`, those of the policy that rollouts are drawn from,
    renormalised over the allowed tokens.
    """

  def separable_loss(
    self,
    params,
    transition: Transition,
    target: Segment,
    data: Any,
    token_loss: Callable,
    *,
    sampled: bool = False,
  ) -> tuple[jax.Array, Any]:
    """Σ ℓ(logp, entropy, data) over the tokens of a target, with metrics; see `logprobs` and
    `logprob.separable_loss`.
    """

  def target(self, segment: Segment) -> Segment:
    """A field as the role would have produced it, with its end markers: [..., S] → [..., S + n]."""

  def sequence(self, turns: Transition) -> tuple[Segment, jax.Array]:
    """A target over several turns and what of it is scored, of a role that is trained on such; see
    `prompts.sequence`.
    """

  def content(self, rollout: Rollout) -> Segment:
    """What was sampled, as a field: [B, G, T]."""


@dataclasses.dataclass(frozen=True)
class TransformerRole:
  """A `Role` played by a transformer.

  `gather` lays the weights out without the fsdp axis in a rollout, so that they are gathered once
  and not once a token.
  """

  config: transformer.TransformerConfig
  template: prompts.Template
  decoding: sampling.Decoding
  gather: bool = False

  @property
  def field(self) -> str:
    return self.template.target

  def rollout(self, params, transition, key, temperature):
    params = transformer.compute_params(params, self.config)
    prompt, without = prompts.prompt(self.template, transition), None
    if self.gather:
      params, prompt = sharding.gather(params, after=prompt)
    if self.decoding.guidance != 1.0:
      without = prompts.unconditional(self.template, transition)
    return sampling.rollout(
      params,
      prompt,
      key,
      temperature,
      config=self.config,
      decoding=self.decoding,
      unconditional=without,
    )

  def logprobs(self, params, transition, target, *, sampled=False):
    hidden, head, targets, rows = self._scored(params, transition, target, sampled)
    out = logprob.token_logprobs(hidden, head, targets, **self._options)
    return jax.tree.map(lambda a: a.reshape(target.mask.shape), out)

  def separable_loss(self, params, transition, target, data, token_loss, *, sampled=False):
    hidden, head, targets, rows = self._scored(params, transition, target, sampled)
    data = jax.tree.map(lambda a: rows(jnp.broadcast_to(a, target.mask.shape)), data)
    return logprob.separable_loss(hidden, head, targets, data, token_loss, **self._options)

  def target(self, segment):
    return prompts.with_end(segment, self.template.end)

  def sequence(self, turns):
    return prompts.sequence(self.template, turns)

  def content(self, rollout):
    return prompts.content(rollout, self.decoding.end)

  @property
  def _options(self):
    return {"chunk": self.config.logprob_chunk, "cap": self.config.final_softcap}

  def _scored(self, params, transition, target, sampled):
    """Hidden states that predict the target, [B·G, T, D]; the head, with `sampled` of the allowed
    tokens alone; the targets [B·G, T] as its columns; and how to bring [B, G, T] to rows [B·G, T].
    """
    params = transformer.compute_params(params, self.config)
    parts = prompts.scored(self.template, transition, target)
    hidden = transformer.hidden_before(params, self.config, parts)
    rows = lambda a: a.reshape(-1, *a.shape[2:])  # noqa: E731
    allowed = self.decoding.allowed if sampled else None
    head = columns.head(params, self.config, allowed)
    return rows(hidden), head, columns.places(rows(target.tokens), allowed), rows
