"""Host memory of an import: how far it rises above the arrays that stay.

    python -m benchmarks.import_memory
    python -m benchmarks.import_memory --devices=4 --dtype=bfloat16 --shard_mb=600

Writes a random Llama of 1.2 billion parameters (the shapes of Llama 3.2 1B) in bfloat16 shards into
a temporary folder, imports it in a process of its own on the CPU backend, where resident arrays are
host memory too, and prints, from /proc/self/status (Linux):

    above = peak RSS during the import - RSS before it - bytes of the resident parameters

Exits with 1 where that is not below the size of one shard, `--shard_mb`. It needs 2.5 GB of disk
and, in float32, 5 GB of memory. A tensor larger than a shard (the embedding) gets one of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

from swirl_jax import sharding  # noqa: E402
from swirl_jax.models import huggingface, safetensors_files, tensor_table  # noqa: E402
from swirl_jax.models.safetensors_files import Entry  # noqa: E402
from swirl_jax.models.transformer import TransformerConfig  # noqa: E402

CONFIG = TransformerConfig(
  vocab_size=128_256,
  d_model=2048,
  n_layers=16,
  n_heads=32,
  n_kv_heads=8,
  head_dim=64,
  d_ff=8192,
  max_len=131_072,
)


def write_checkpoint(folder: Path, shard_bytes: int) -> int:
  """Random weights in bfloat16, by the table's names and shapes; the number of parameters."""
  rng = np.random.default_rng(0)
  dtype = safetensors_files.DTYPES["BF16"]
  entries = [
    Entry(name, dtype, tensor_table.place(row, CONFIG).file)
    for row in tensor_table.rows(CONFIG)
    for name in tensor_table.names(row, CONFIG)
  ]

  def draw(entry: Entry) -> np.ndarray:
    return ((rng.random(entry.shape, np.float32) - 0.5) / 8).astype(dtype)

  shards = safetensors_files.plan_shards(entries, shard_bytes)
  for file, held in shards:
    safetensors_files.write(folder / file, held, map(draw, held))
  index = json.dumps(safetensors_files.index(shards))
  (folder / safetensors_files.INDEX).write_text(index)
  return sum(e.nbytes for e in entries) // dtype.itemsize


def status(field: str) -> int:
  """A field of /proc/self/status, in bytes."""
  lines = Path("/proc/self/status").read_text().splitlines()
  return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def measure(folder: Path) -> dict[str, float]:
  jax.config.update("jax_num_cpu_devices", flags.FLAGS.devices)
  mesh = sharding.make_mesh(data=1, fsdp=flags.FLAGS.devices, tensor=1)
  before, start = status("VmRSS"), time.perf_counter()
  params = jax.block_until_ready(
    huggingface.load_params(folder, CONFIG, mesh, dtype=flags.FLAGS.dtype)
  )
  seconds, peak = time.perf_counter() - start, status("VmHWM")
  shards = [s for leaf in jax.tree.leaves(params) for s in leaf.addressable_shards]
  resident = sum(s.data.nbytes for s in shards)
  return {"before": before, "peak": peak, "resident": resident, "seconds": seconds}


def main(argv):
  given = flags.FLAGS
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  if given.read:
    print(json.dumps(measure(Path(given.read))))
    return
  shard = given.shard_mb * 10**6
  with tempfile.TemporaryDirectory(dir=given.dir) as folder:
    count = write_checkpoint(Path(folder), shard)
    sizes = [p.stat().st_size for p in Path(folder).glob("*.safetensors")]
    command = [sys.executable, "-m", "benchmarks.import_memory", f"--read={folder}"]
    command += [f"--dtype={given.dtype}", f"--devices={given.devices}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
  found = json.loads(done.stdout.splitlines()[-1])
  above = found["peak"] - found["before"] - found["resident"]
  mb = {k: v / 1e6 for k, v in found.items() if k != "seconds"}
  print(
    f"{count / 1e9:.2f} billion parameters in {len(sizes)} shards, the largest of "
    f"{max(sizes) / 1e6:.0f} MB, into {given.dtype} on {given.devices} device(s): "
    f"{found['seconds']:.1f} s\n"
    f"resident {mb['resident']:.0f} MB, before {mb['before']:.0f} MB, peak {mb['peak']:.0f} MB\n"
    f"above the resident arrays: {above / 1e6:.0f} MB (a shard: {given.shard_mb} MB)"
  )
  sys.exit(above >= shard)


if __name__ == "__main__":
  flags.DEFINE_integer("shard_mb", 400, "Size of a shard, in 10^6 bytes.", lower_bound=1)
  flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the parameters.")
  flags.DEFINE_integer("devices", 1, "Simulated devices, along fsdp.", lower_bound=1)
  flags.DEFINE_string("dir", None, "Where the temporary folder is made.")
  flags.DEFINE_string("read", None, "The folder to measure; set for the child process.")
  app.run(main)
