"""A config's plain values as frozen dataclasses: by their annotations, with one clear error."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any


def build(cls, value: Any, path: str):
  """A mapping → the frozen dataclass `cls`; ValueError names a wrong field, below `path`."""
  if not isinstance(value, Mapping):
    raise ValueError(f"{path} = {value!r}: a group of fields is needed.")
  hints = typing.get_type_hints(cls)
  fields = {f.name: f for f in dataclasses.fields(cls)}
  for name in value:
    if name not in fields:
      raise ValueError(f"{path}.{name} is not a field; allowed are {', '.join(fields)}.")
  out = {}
  for name, field in fields.items():
    if name in value:
      out[name] = convert(hints[name], value[name], f"{path}.{name}")
    elif dataclasses.MISSING is field.default is field.default_factory:
      raise ValueError(f"{path}.{name} is missing.")
  try:
    return cls(**out)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


def convert(hint, value, path: str):
  """A value as the type that the field is annotated with; never a silent cast but int → float."""
  if isinstance(hint, types.UnionType):
    if value is None:
      return None
    return convert(next(h for h in typing.get_args(hint) if h is not type(None)), value, path)
  if dataclasses.is_dataclass(hint):
    return value if isinstance(value, hint) else build(hint, value, path)
  if typing.get_origin(hint) is tuple:
    inner = typing.get_args(hint)[0]
    if not isinstance(value, list | tuple) or (
      inner is str and not all(isinstance(v, str) for v in value)
    ):
      of = "names" if inner is str else "numbers"
      raise ValueError(f"{path} = {value!r}: a tuple of {of} is needed.")
    return tuple(convert(inner, v, f"{path}[{i}]") for i, v in enumerate(value))
  if typing.get_origin(hint) is not None:
    if not isinstance(value, Mapping):
      raise ValueError(f"{path} = {value!r}: a group of fields is needed.")
    inner = typing.get_args(hint)[1]
    if inner is Any:
      return types.MappingProxyType(dict(value))
    return types.MappingProxyType({k: convert(inner, v, f"{path}.{k}") for k, v in value.items()})
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, hint) or isinstance(value, bool) != (hint is bool):
    raise ValueError(
      f"{path} = {value!r}: a value of type {hint.__name__} is needed, found "
      f"{type(value).__name__}."
    )
  if isinstance(value, float) and value != value:
    raise ValueError(f"{path} is not a number.")
  return value
