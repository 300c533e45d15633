"""What is freed stays with the process; what sets XLA's flags sets known ones, and keeps others."""

import pathlib
import platform
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from swirl_jax import process

THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage")

# Pages that the kernel had to map for 6 steps with a temporary of 64 MB. glibc moves the size from
# which it gives memory back, by what has been freed, but never above 32 MB.
SCRIPT = """
import resource, sys
from swirl_jax import process
if sys.argv[1] == "keep":
  assert process.keep_freed_memory()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: (x @ x.T @ x).sum())
x = jnp.ones((4096, 8))
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


LARGE = """
import re
from swirl_jax import process
process.keep_freed_memory()
import numpy as np
at = np.ones(2**25, np.uint8).ctypes.data
with open("/proc/self/smaps") as file:
  parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", file.read(), flags=re.M)[1:]
here = [p for p in parts if int(p.split("-")[0], 16) <= at < int(p.split()[0].split("-")[1], 16)]
print("hg" in here[0].split("VmFlags:")[1].split())
"""


@pytest.mark.multiprocess
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.skipif(not THP.exists(), reason="no large pages in this kernel")
def test_what_is_allocated_may_have_large_pages():
  """The kernel gives them where it has some free; asked for they are in any case."""
  out = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "True"


INF = resource.RLIM_INFINITY


@pytest.mark.parametrize("addresses, data, mode, free", [
  (INF, INF, "0", True), (INF, INF, "1", True), (INF, INF, None, True), (INF, INF, "2", False),
  (2**40, INF, "0", False), (INF, 2**40, "0", False), (2**40, 2**40, "1", False),
])  # fmt: skip
def test_half_of_the_memory_is_reserved_where_that_costs_nothing(
  addresses, data, mode, free, tmp_path, monkeypatch
):
  """Not under `ulimit -v` or `-d`, nor where the kernel counts what isn't touched (mode 2)."""
  limits = {resource.RLIMIT_AS: addresses, resource.RLIMIT_DATA: data}
  monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], INF))
  if mode is not None:
    (tmp_path / "mode").write_text(f"{mode}\n")
  monkeypatch.setattr(process, "pathlib", SimpleNamespace(Path=lambda _: tmp_path / "mode"))
  assert process._addresses_are_free() == free


FLAGS = """
import os
from swirl_jax import process
twice = [f"--xla_force_host_platform_device_count={n}" for n in (3, 2)]
os.environ["XLA_FLAGS"] = " ".join(twice)
process.repeat_on_gpu()
process.compile_quickly()
flags = os.environ["XLA_FLAGS"].split()
assert flags[:3] == ["--xla_gpu_deterministic_ops=true", *twice], flags
assert flags[3] == "--xla_backend_optimization_level=0", flags
import jax, jax.numpy as jnp
assert jax.device_count() == 2
print(jax.jit(lambda x: jax.nn.softmax(x) @ jnp.arange(4.0))(jnp.zeros(4)))
"""


@pytest.mark.multiprocess
def test_this_jaxlib_knows_the_flags():
  """An unknown flag in XLA_FLAGS ends the process. Of a flag given twice the later counts, so that
  what was given stands behind `repeat_on_gpu`'s.
  """
  out = subprocess.run([sys.executable, "-c", FLAGS], capture_output=True, text=True)
  assert (out.returncode, out.stdout.strip()) == (0, "1.5"), out.stderr


def test_an_error_that_nobody_foresaw_is_shown_whole_and_waits_for_no_other(monkeypatch, capfd):
  """Of one process it goes its way; of several the process ends at once."""

  class Ended(Exception):
    pass

  def end(code):
    raise Ended(code)

  monkeypatch.setattr(process.os, "_exit", end)
  for several, raised in ((False, ZeroDivisionError), (True, Ended)):
    monkeypatch.setattr(process, "_one_of_several", lambda several=several: several)
    with pytest.raises(raised) as found:
      try:
        _ = 1 / 0
      except ZeroDivisionError:
        process.fail()
  assert found.value.args == (1,)
  assert "ZeroDivisionError" in capfd.readouterr().err
