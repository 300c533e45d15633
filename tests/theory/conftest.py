"""float64 for the tests that ask for it; all others run as users do, in float32."""

import jax
import pytest


@pytest.fixture(scope="module")
def float64():
  with jax.enable_x64(True):
    yield
