"""The guide in docs/theory.md: its code runs, says what it should, and is short."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from swirl_jax.theory import exact

pytestmark = pytest.mark.usefixtures("float64")
PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "theory.md"


def code(title: str) -> dict:
  """Runs the block of a section, and returns its names."""
  section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
  (block,) = re.findall(r"```python\n(.*?)```", section, re.S)
  assert len(block.splitlines()) < 30
  names = {}
  exec(compile(block, title, "exec"), names)
  return names


def test_add_a_world():
  found = code("Add a world")
  exact.check_world(found["lift"](floors=3, stuck=0.0))
  # Two of four floors tell the action but for a stuck lift; at the ends one action stays.
  assert 0.3 < float(found["information"]) < np.log(2.0)


def test_add_an_objective():
  found = code("Add an objective")
  flat = jnp.full((4, 4), -np.log(4.0))
  want = exact.log_phase1_optimum(flat, found["idm"], beta=0.5)
  np.testing.assert_allclose(np.exp(found["fwm"]), np.exp(want), atol=1e-6)


def test_every_picture_is_there():
  pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE.read_text(encoding="utf-8"))
  assert pictures and all((PAGE.parent / p).is_file() for p in pictures)
