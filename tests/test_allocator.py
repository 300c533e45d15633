"""What is freed stays with the process."""

import platform
import subprocess
import sys

import pytest

# Pages that the kernel had to map for 6 steps with temporaries of 4 MB.
SCRIPT = """
import resource, sys
from swirl_jax import allocator
if sys.argv[1] == "keep":
  assert allocator.keep_freed_memory()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: (x @ x @ x @ x).sum())
x = jnp.ones((1024, 1024))
step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
  step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.multiprocess
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_steps_map_no_memory_anew():
  faults = {}
  for how in ("keep", "give back"):
    out = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True,
                         check=True)  # fmt: skip
    faults[how] = int(out.stdout)
  assert faults["keep"] < 0.2 * faults["give back"], faults
