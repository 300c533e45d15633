"""The rotary positions of a config.json, in the settings of `TransformerConfig` and back."""

import math
from collections.abc import Mapping
from typing import Any

from swirl_jax.models.transformer_config import LAYER_TYPES, TransformerConfig

FIELDS = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor")
SLIDING_FIELD = "rope_local_base_freq"  # where there are parameters by layer type
TYPES = {f"{name}_attention": name for name in LAYER_TYPES}
ROPE_FIELDS = {  # by type; beside the type's own name and rope_theta
  "default": (),
  "linear": ("factor",),
  "llama3": (
    "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
  ),
}  # fmt: skip


def refusal(name: str, found: Any, allowed: Any) -> ValueError:
  return ValueError(f"config.json {name} = {found!r}: allowed is {allowed}.")


def number(value: Any, name: str) -> float:
  if value is None:
    return 0.0
  if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
    raise refusal(name, value, "a number above 0")
  return float(value)


def read(fields: Mapping[str, Any], max_len: int, *, nested: bool, sliding: bool) -> dict[str, Any]:
  """The rope settings, from either layout: of config.json the FIELDS (None where it has none).

  nested: full and sliding layers have parameters of their own. sliding: there are sliding layers.
  """
  new, old = fields["rope_parameters"], fields["rope_scaling"]
  for name, value in (("rope_parameters", new), ("rope_scaling", old)):
    if value is not None and not isinstance(value, Mapping):
      raise refusal(name, value, "a group of fields, or null")
  if new is not None and old is not None and dict(new) != dict(old):
    raise refusal("rope_scaling", old, "null, as rope_parameters is given")
  name = "rope_scaling" if new is None else "rope_parameters"
  found = dict(old if new is None else new) if (old is not None or new is not None) else {}
  theta, partial = fields["rope_theta"], fields["partial_rotary_factor"]
  if partial not in (None, 1):
    raise refusal("partial_rotary_factor", partial, "1")
  if not nested:
    return _group(found, name, 10_000.0 if theta is None else theta, max_len)
  local = fields[SLIDING_FIELD]
  by_type = any(key in found for key in TYPES)
  full = found.get("full_attention") if by_type else found
  settings = _group(
    full if full is not None else {}, f"{name}.full_attention" if by_type else name,
    1_000_000.0 if theta is None else theta, max_len,
  )  # fmt: skip
  if by_type and set(found) - set(TYPES):
    extra = sorted(set(found) - set(TYPES))[0]
    raise refusal(f"{name}.{extra}", found[extra], f"only {sorted(TYPES)}")
  if sliding:
    inner = found.get("sliding_attention") if by_type else None
    path = f"{name}.sliding_attention"
    inner = _group(
      inner if inner is not None else {}, path, 10_000.0 if local is None else local, max_len
    )
    if "rope_scaling" in inner:
      raise refusal(f"{path}.rope_type", inner["rope_scaling"], "default")
    if inner != settings:
      settings["sliding_rope_theta"] = inner["rope_theta"]
  return settings


def _group(found: Mapping[str, Any], path: str, theta: Any, max_len: int) -> dict[str, Any]:
  """One group of rope fields."""
  kind = found.get("rope_type", found.get("type", "default"))
  if kind not in ROPE_FIELDS:
    raise refusal(f"{path}.rope_type", kind, f"one of {sorted(ROPE_FIELDS)}")
  for name, value in found.items():
    if name == "partial_rotary_factor" and value in (None, 1):
      continue
    if name not in ("rope_type", "type", "rope_theta", *ROPE_FIELDS[kind]) and value is not None:
      raise refusal(f"{path}.{name}", value, f"to leave it out, as rope_type is {kind!r}")
  if found.get("rope_theta") is not None:
    theta = found["rope_theta"]
  settings = {"rope_theta": number(theta, f"{path}.rope_theta")}
  if kind == "default":
    return settings
  settings["rope_scaling"] = kind
  for name in ROPE_FIELDS[kind]:
    value = found.get(name)
    if name == "original_max_position_embeddings":
      value = max_len if value is None else value
      if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise refusal(f"{path}.{name}", value, "a whole number from 1")
      settings["rope_original_len"] = value
    elif value is None:
      raise ValueError(f"config.json {path}.{name} is missing: rope_type {kind!r} needs it.")
    else:
      settings[f"rope_{name}"] = number(value, f"{path}.{name}")
  return settings


def write(c: TransformerConfig, *, nested: bool) -> dict[str, Any]:
  """The field rope_parameters that says what the config does."""
  fields = {"rope_type": "default", "rope_theta": c.rope_theta}
  if c.rope_scaling != "none":
    fields["rope_type"] = c.rope_scaling
    for name in ROPE_FIELDS[c.rope_scaling]:
      ours = "original_len" if name.startswith("original") else name
      fields[name] = getattr(c, f"rope_{ours}")
  if not nested:
    return fields
  theta = c.sliding_rope_theta if c.sliding_rope_theta else c.rope_theta
  sliding = {"rope_type": "default", "rope_theta": theta}
  return {"full_attention": fields, "sliding_attention": sliding}
