"""Test-wide settings, made before anything uses a device: eight simulated CPUs, one compile cache.

What is in the environment reaches the processes that tests start; what is in `jax.config` is for
this process alone (a child of a test decides for itself how many devices it simulates).
"""

import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
# Tiny programs that run once: leave LLVM's optimisations out and compile in half the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
_own_cache = None  # the compile cache of this run, removed with it; one that was given is kept
if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
  _own_cache = tempfile.mkdtemp(prefix="swirl_jax_test_cache_")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _own_cache

from swirl_jax import allocator  # noqa: E402

allocator.keep_freed_memory()  # as the programs do

import jax  # noqa: E402

# Repeated here because a pytest plug-in may have imported jax, which reads the environment once.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update(
  "jax_persistent_cache_min_compile_time_secs",
  float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]),
)
jax.config.update(
  "jax_persistent_cache_min_entry_size_bytes",
  int(os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"]),
)


def pytest_configure(config):
  if jax.device_count() != 8:
    raise RuntimeError(f"the tests need 8 simulated CPU devices; found {jax.devices()}")


def pytest_collection_modifyitems(items):
  """Files of whole runs first: they take longest, and another process has the rest meanwhile."""
  items.sort(key=lambda item: item.path.name not in ("test_train.py", "test_language_models.py"))


def pytest_unconfigure(config):
  if _own_cache is not None:
    shutil.rmtree(_own_cache, ignore_errors=True)
