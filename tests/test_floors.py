"""The house's floors: a file imports only from floors below, or from its own line without loops.

The table is architecture.md's. An entry is a file, or a folder (with its slash); files that share
an entry, or a line and a folder, may import each other as long as no loop closes. A package's
`__init__` counts as part of what imports see, so it has its place too.
"""

import ast
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "swirl_jax"

# (floor, the files and folders that share the line)
LINES = (
  (0, ("__init__",)),
  (0, ("types",)),
  (0, ("objectives",)),
  (0, ("rng", "sharding")),
  (0, ("optimizer",)),
  (0, ("whole_files",)),
  (1, ("models/",)),
  (1, ("data/",)),
  (1, ("checkpoint", "files", "hosts", "metrics", "process", "typed")),
  (1, ("charts",)),
  (1, ("theory/exact", "theory/worlds", "theory/__init__")),
  (2, ("logprob", "sampling")),
  (2, ("prompts", "image_prompts")),
  (3, ("roles", "rewards", "micro_batches", "sft")),
  (4, ("phases",)),
  (4, ("evaluation/",)),
  (4, ("theory/tables",)),
  (5, ("theory/learning", "theory/results", "theory/error_rates", "theory/experiments/")),
  (
    5,
    (
      "settings",
      "codecs",
      "vq_run",
      "plan",
      "programs",
      "inputs",
      "scoring",
      "stage_run",
      "start",
      "train",
      "trained",
      "report",
      "findings",
      "pages",
      "comparison",
      "comparison_page",
    ),
  ),
  (6, ("main", "predict", "export", "memory", "collect", "compare", "tokenize_images", "train_vq")),
)
TOP = 6  # every __main__

STANDARD_LIBRARY = sys.stdlib_module_names

FORBIDDEN = ("torch", "tensorflow")  # tensorflow_datasets is another name, and allowed
ALONE = {  # what a file of the ground floor may import besides the standard library and floor 0
  "objectives": {"jax"},
  "optimizer": {"jax", "optax"},
  "rng": {"jax"},
}


class Place(NamedTuple):
  floor: int
  line: str  # the line's files, as one name
  folder: str  # where the entry of the table stands


def place(module: str) -> Place | None:
  """'models/transformer' → its floor, line and folder; None for a file that is not in the table."""
  folder, _, name = module.rpartition("/")
  if name == "__main__":
    return Place(TOP, "__main__", folder)
  for floor, entries in LINES:
    for entry in entries:
      if module == entry:
        return Place(floor, " ".join(entries), folder)
      if entry.endswith("/") and module.startswith(entry):
        return Place(floor, " ".join(entries), entry.rstrip("/").rpartition("/")[0])
  return None


def modules(root: Path) -> dict[str, ast.Module]:
  """{'models/transformer': its syntax tree}, of every file of the package below `root`."""
  base = root / PACKAGE
  return {
    path.relative_to(base).with_suffix("").as_posix(): ast.parse(path.read_text(), str(path))
    for path in sorted(base.rglob("*.py"))
  }


def imported(tree: ast.Module, package: tuple[str, ...]) -> set[tuple[str, ...]]:
  """Dotted names that a file imports, wherever in it; `from a import b` as a.b, dots resolved."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names |= {tuple(alias.name.split(".")) for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      stem = package[: len(package) - node.level + 1] if node.level else ()
      stem += tuple(node.module.split(".")) if node.module else ()
      names |= {(*stem, alias.name) for alias in node.names}
  return names


def dependencies(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
  """{file: the files of the package it imports}; a name that is no file is its package's."""
  edges = {}
  for module, tree in trees.items():
    package = (PACKAGE, *module.split("/")[:-1])
    edges[module] = set()
    for name in imported(tree, package):
      if name[0] != PACKAGE:
        continue
      parts = name[1:]
      while parts and "/".join(parts) not in trees and "/".join((*parts, "__init__")) not in trees:
        parts = parts[:-1]
      target = "/".join(parts)
      edges[module].add(target if target in trees else f"{target}/__init__".lstrip("/"))
    edges[module].discard(module)
  return edges


def loops(edges: dict[str, set[str]]) -> list[str]:
  """Every import loop once, as 'a → b → a'."""
  found, done = [], set()

  def visit(module, path):
    if module in path:
      found.append(" → ".join([*path[path.index(module) :], module]))
    elif module not in done:
      for target in sorted(edges.get(module, ())):
        visit(target, [*path, module])
      done.add(module)

  for module in sorted(edges):
    visit(module, [])
  return found


def violations(root: Path) -> list[str]:
  """What breaks the house's rules below `root`, one line each."""
  trees = modules(root)
  edges = dependencies(trees)
  found = [f"{m}.py is not in the table of floors" for m in trees if place(m) is None]
  for module, targets in edges.items():
    here = place(module)
    for target in sorted(targets):
      there = place(target)
      if here is None or there is None or there.floor < here.floor or there[1:] == here[1:]:
        continue
      if target == "__init__":  # the package's version, which imports nothing
        continue
      found.append(
        f"{module}.py (floor {here.floor}) imports {target}.py (floor {there.floor}): "
        "only lower floors, or the same line of the table and folder"
      )
  found += [f"import loop: {loop}" for loop in loops(edges)]
  for module, tree in trees.items():
    roots = {name[0] for name in imported(tree, (PACKAGE, *module.split("/")[:-1]))}
    found += [f"{module}.py imports {name}" for name in FORBIDDEN if name in roots]
    if module in ALONE:
      extra = roots - ALONE[module] - {PACKAGE} - STANDARD_LIBRARY
      found += [f"{module}.py imports {name}; allowed: {ALONE[module]}" for name in sorted(extra)]
  for path in sorted((root / "configs").rglob("*.py")):
    for name in sorted(imported(ast.parse(path.read_text(), str(path)), ("configs",))):
      if name[0] not in ("ml_collections", "configs"):
        where = path.relative_to(root).as_posix()
        found.append(f"{where} imports {'.'.join(name)}; only ml_collections")
  return found


def test_the_house_stands():
  assert modules(ROOT), "no files found: the checker looked in the wrong place"
  assert violations(ROOT) == []


GOOD = {
  "swirl_jax/__init__.py": '__version__ = "1"',
  "swirl_jax/types.py": "import jax",
  "swirl_jax/models/transformer.py": "from swirl_jax.models import variants\nimport flax.linen",
  "swirl_jax/models/variants.py": "import swirl_jax\nfrom swirl_jax import types",
  "swirl_jax/data/builders/__init__.py": "import tensorflow_datasets as tfds",
  "swirl_jax/data/builders/world.py": "from .. import transitions\nfrom . import Base",
  "swirl_jax/data/__init__.py": "",
  "swirl_jax/data/transitions.py": "",
  "swirl_jax/logprob.py": "from swirl_jax.models.transformer import apply",
  "swirl_jax/sampling.py": "from swirl_jax.logprob import chunk",
  "swirl_jax/theory/__init__.py": "",
  "swirl_jax/theory/exact.py": "import swirl_jax.objectives",
  "swirl_jax/theory/learning.py": "from swirl_jax.theory import exact",
  "swirl_jax/theory/experiments/__init__.py": "from . import bounds",
  "swirl_jax/theory/experiments/bounds.py": "from swirl_jax.theory import exact, learning",
  "swirl_jax/objectives.py": "from jax import numpy as jnp",
  "swirl_jax/main.py": "from swirl_jax import __version__, logprob",
  "swirl_jax/theory/__main__.py": "from swirl_jax.theory import exact",
  "configs/test.py": "import ml_collections\nfrom ml_collections import config_dict",
}


def write(root: Path, files: dict[str, str]) -> Path:
  for name, text in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
  return root


def test_the_checker_passes_a_house_that_stands(tmp_path):
  assert violations(write(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
  "name, text, complaint",
  [
    ("types", "from swirl_jax.models import variants", "types.py (floor 0) imports models/var"),
    ("types", "from .models.variants import tiny", "types.py (floor 0) imports models/variants"),
    ("types", "import swirl_jax.models.variants", "types.py (floor 0) imports models/variants"),
    ("types", "def f():\n  from swirl_jax import logprob", "types.py (floor 0) imports logprob.py"),
    ("types", "from swirl_jax import objectives", "types.py (floor 0) imports objectives.py"),
    ("prompts", "from swirl_jax import sampling", "prompts.py (floor 2) imports sampling.py"),
    ("models/a", "from swirl_jax.data import transitions", "models/a.py (floor 1) imports data/tr"),
    ("theory/exact", "from . import experiments", "exact.py (floor 1) imports theory/experime"),
    ("theory/tables", "from . import learning", "tables.py (floor 4) imports theory/learning"),
    ("theory/learning", "from .experiments import bounds", "import loop: theory/experiments/bou"),
    ("data/transitions", "import swirl_jax.data.builders.world", "loop: data/builders/world → d"),
    ("logprob", "from swirl_jax import sampling", "import loop: logprob → sampling → logprob"),
    ("surprise", "", "surprise.py is not in the table of floors"),
    ("theory/surprise", "", "theory/surprise.py is not in the table of floors"),
    ("main", "def f():\n  import torch.nn", "main.py imports torch"),
    ("data/transitions", "from tensorflow import io", "data/transitions.py imports tensorflow"),
    ("objectives", "import chex", "objectives.py imports chex; allowed: {'jax'}"),
    ("../configs/a", "import jax", "configs/a.py imports jax; only ml_collections"),
    ("../configs/a", "from swirl_jax import types", "configs/a.py imports swirl_jax.types;"),
  ],
)
def test_the_checker_can_fail(tmp_path, name, text, complaint):
  found = violations(write(tmp_path, GOOD | {f"swirl_jax/{name}.py": text}))
  assert any(complaint in line for line in found), found
