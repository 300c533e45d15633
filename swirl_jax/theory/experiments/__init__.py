"""The experiments, a file each: `Settings`, a frozen dataclass with a `seed`, and `run(settings) →
Result`. A new file is found by its name; nothing lists it but the config.
"""

import importlib
import pkgutil
import types


def names() -> tuple[str, ...]:
  return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


def load(name: str) -> types.ModuleType:
  """An experiment's module. ValueError for a name that is none."""
  if name not in names():
    raise ValueError(f"experiments = {name!r}: allowed are {list(names())}.")
  return importlib.import_module(f"{__name__}.{name}")
