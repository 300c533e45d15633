"""Supervised training: the warm-up of both models, the z-free model P0(y|x), and the label anchor
of a phase.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from swirl_jax import micro_batches, objectives, prompts
from swirl_jax.models import lora
from swirl_jax.optimizer import AdamW, Schedule
from swirl_jax.roles import Role
from swirl_jax.types import Mean, PolicyState, Segment, Transition


@dataclasses.dataclass(frozen=True)
class SftSpec:
  """Static. roles: one, or both for shared weights (their losses add up); hide_z trains P(y|x)
  without z; micro_batch: how many rows of a batch have activations at a time, 0 for all.
  """

  roles: tuple[Role, ...]
  optimizer: AdamW
  hide_z: bool = False
  micro_batch: int = 0


class Supervised(NamedTuple):
  """Labelled transitions, ready for the loss: those of the prompt, the target [B, 1, T] with its
  end marker, and each token's weight in the loss, 0 for what is read alone.
  """

  transition: Transition
  target: Segment
  weight: jax.Array


def supervised(role: Role, transition: Transition, *, hide_z: bool = False) -> Supervised:
  """Token mean over the whole batch, so that micro-batches of it add up exactly.

  Transition fields [B, S]. With y and z [B, K, S] a row is a sequence of turns: the prompt of the
  first, and a target whose every y counts (arXiv:2602.06130: "loss on every y").
  """
  field = getattr(transition, role.field)
  if field.tokens.ndim == 3:
    target, scored = role.sequence(transition)
    y, z = (Segment(*(a[:, 0] for a in s)) for s in (transition.y, transition.z))
    transition = Transition(transition.x, y, z)
  else:
    target = role.target(Segment(*(a[:, None] for a in field)))
    scored = target.mask
  if hide_z:
    transition = prompts.hide(transition, "z")
  return Supervised(transition, target, objectives.token_weights(scored))


def supervised_loss(role: Role, params, batch: Supervised) -> tuple[jax.Array, dict[str, Mean]]:
  """Σ weight · −log p(field | the rest), end marker included, with metrics named by the field."""

  def token_loss(logp, entropy, weight):
    scored = weight > 0
    return -weight * logp, {
      f"nll_{role.field}": Mean.of(-logp, scored),
      f"entropy_{role.field}": Mean.of(entropy, scored),
    }

  return role.separable_loss(params, batch.transition, batch.target, batch.weight, token_loss)


def sft_step(
  state: PolicyState,
  batch: tuple[Transition, ...],
  schedule: Schedule,
  base: Any = None,
  *,
  spec: SftSpec,
) -> tuple[PolicyState, dict[str, Mean]]:
  """One update on a batch of transitions for each role; of adapters, where there is a `base`.

  Where loss or gradient isn't finite the state comes back unchanged and `nonfinite` is 1.
  """

  def loss_fn(params, part):
    params = params if base is None else lora.join(base, params)
    found = [supervised_loss(r, params, b) for r, b in zip(spec.roles, part, strict=True)]
    return sum(loss for loss, _ in found), {k: v for _, m in found for k, v in m.items()}

  prepared = tuple(
    supervised(r, b, hide_z=spec.hide_z) for r, b in zip(spec.roles, batch, strict=True)
  )
  parts = micro_batches.split(prepared, spec.micro_batch)
  loss, grads, metrics = micro_batches.gradient(loss_fn, state.params, parts)
  state, applied = apply_update(state, grads, loss, schedule, optimizer=spec.optimizer)
  return state, {"loss": Mean.of(loss), **metrics, **applied}


def apply_update(
  state: PolicyState, grads, loss, schedule: Schedule, *, optimizer: AdamW
) -> tuple[PolicyState, dict[str, Mean]]:
  """The optimizer's update, left out where `loss` or the gradient's norm isn't finite."""
  norm = optax.tree.norm(grads)
  good = jnp.isfinite(loss) & jnp.isfinite(norm)
  params, opt_state = optimizer.update(grads, state.opt_state, state.params, state.step, schedule)
  new = PolicyState(params, opt_state, state.step + 1)
  state = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
  return state, {"grad_norm": Mean.of(norm), "nonfinite": Mean.of(~good)}
