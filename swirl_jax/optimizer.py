"""AdamW with gradient clipping, and the learning rate as a function of traced numbers: changing one
of them compiles nothing.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("cosine", "constant")
MU_DTYPES = ("float32", "bfloat16")


class Schedule(NamedTuple):
  """Traced: the peak learning rate, the updates of linear warm-up, and the updates in all (read by
  cosine).
  """

  learning_rate: jax.Array
  warmup_steps: jax.Array
  total_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class AdamW:
  """Static settings.

  Weight decay applies to matrices, not to norms and biases; `clip_norm` 0 means no clipping.
  `mu_dtype` is what the first moment is kept in; the second, whose steps bfloat16 would round
  away, is float32. arXiv:1711.05101.
  """

  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.0
  clip_norm: float = 1.0
  schedule: str = "cosine"
  mu_dtype: str = "float32"

  def __post_init__(self):
    for name, allowed in (("schedule", SCHEDULES), ("mu_dtype", MU_DTYPES)):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f"optimizer.{name} = {getattr(self, name)!r}: allowed are {list(allowed)}."
        )
    for name in ("weight_decay", "clip_norm"):
      if getattr(self, name) < 0:
        raise ValueError(f"optimizer.{name} = {getattr(self, name)}: allowed is 0 or more.")

  def transform(self) -> optax.GradientTransformation:
    """The direction of the update, to be multiplied by −learning rate."""
    parts = [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
    parts.append(optax.scale_by_adam(self.b1, self.b2, self.eps, mu_dtype=self.mu_dtype))
    if self.weight_decay:
      parts.append(optax.add_decayed_weights(self.weight_decay, mask=_decayed))
    return optax.chain(*parts)

  def init(self, params: Any) -> Any:
    return self.transform().init(params)

  def update(
    self, grads: Any, opt_state: Any, params: Any, step: jax.Array, schedule: Schedule
  ) -> tuple[Any, Any]:
    """One AdamW update: (new parameters, new optimizer state)."""
    direction, opt_state = self.transform().update(grads, opt_state, params)
    rate = learning_rate(step, schedule, kind=self.schedule)
    return jax.tree.map(lambda p, d: p - rate * d, params, direction), opt_state


def learning_rate(step: jax.Array, schedule: Schedule, *, kind: str) -> jax.Array:
  """Update `step` (from 0) has peak · min(1, (step + 1) / warm-up), times, for cosine, (1 + cos π
  progress) / 2 after the warm-up.
  """
  step = jnp.asarray(step, jnp.float32)
  warm = jnp.maximum(jnp.asarray(schedule.warmup_steps, jnp.float32), 0.0)
  rate = schedule.learning_rate * jnp.minimum(1.0, (step + 1.0) / jnp.maximum(warm, 1.0))
  if kind == "constant":
    return rate
  progress = jnp.clip(
    (step - warm) / jnp.maximum(jnp.asarray(schedule.total_steps, jnp.float32) - warm, 1.0),
    0.0,
    1.0,
  )
  return rate * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def _decayed(params: Any) -> Any:
  def is_matrix(path, _):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return not name.endswith(("scale", "bias"))

  return jax.tree_util.tree_map_with_path(is_matrix, params)
