"""Pictures into codes: our VQGAN's encoder beside transformers' ChameleonVQVAE, interleaved.

    python benchmarks/tokenising.py --torch_python=TORCH/bin/python

Chameleon's full config, pictures of 512 x 512, random weights that both load from one file, in
float32. Each system is a worker process of its own and encodes the same pictures in turn, ours,
PyTorch's, ours again. Their codes must be equal, or the run stops. Prints medians, minima, maxima
and the ratio; exits with 1 where ours encodes less than 1.1 times as many pictures a CPU-second.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile

import jax
import numpy as np
from compare import OURS, Worker

from swirl_jax.models import vqgan, vqgan_files

PEER = "transformers"
SCRIPTS = {OURS: "tokenising_ours.py", PEER: "tokenising_torch.py"}
SIDE = 512
TARGET = 1.1  # CPU-seconds of the peer over ours
SAME = 0.999  # of the codes; the rest may be ties


def random_vq(seed: int = 0) -> vqgan_files.VQ:
  """Chameleon's encoder with random weights, as NumPy draws them, that keep activations' size."""
  rng = np.random.default_rng(seed)
  config = vqgan.VQConfig()
  shapes = dict(jax.eval_shape(lambda: vqgan.init_params(config, jax.random.key(0))))
  del shapes[vqgan_files.DECODER]

  def draw(path, leaf):
    numbers = rng.standard_normal(leaf.shape, np.float32)
    if path[-1].key == "scale":
      return 1 + 0.1 * numbers
    if path[-1].key == "kernel":
      return numbers / np.float32(np.sqrt(np.prod(leaf.shape[:3])))
    return 0.1 * numbers

  return vqgan_files.VQ(config, jax.tree_util.tree_map_with_path(draw, shapes))


def pictures(round_: int, batch: int) -> np.ndarray:
  """[batch, SIDE, SIDE, 3] in [-1, 1]: patches of 16 under noise, other ones each round."""
  rng = np.random.default_rng(1000 + round_)
  side = SIDE // 16
  patches = rng.uniform(-0.8, 0.8, (batch, side, side, 3)).astype(np.float32)
  noise = rng.uniform(-0.2, 0.2, (batch, SIDE, SIDE, 3)).astype(np.float32)
  return patches.repeat(16, axis=1).repeat(16, axis=2) + noise


def measure(workers: list[Worker], scratch: pathlib.Path, args) -> dict[str, np.ndarray]:
  """{system: [rounds, (wall, CPU)] of a picture}, the warm-up left out."""
  spent = {worker.name: [] for worker in workers}
  file = scratch / "pictures.npy"
  for i in range(args.warmup + args.rounds):
    np.save(file, pictures(i, args.batch))
    answers = {worker.name: worker.call(command="encode", pictures=str(file)) for worker in workers}
    codes = [np.array(answer.pop("codes")) for answer in answers.values()]
    same = min(float((codes[0] == other).mean()) for other in codes)
    if same < SAME:
      raise SystemExit(f"round {i}: {same:.4f} of the codes are equal, not {SAME}: unequal work")
    if i == 0:
      kinds = len(np.unique(codes[0]))
      print(f"{kinds} different codes at {codes[0].size} places; {same:.4f} equal", flush=True)
    if i >= args.warmup:
      for name, answer in answers.items():
        spent[name].append((answer["wall"] / args.batch, answer["cpu"] / args.batch))
  return {name: np.array(values) for name, values in spent.items()}


def report(spent: dict[str, np.ndarray]) -> bool:
  """Prints the table and the ratio; whether the target was reached."""
  print(f"\na picture of {SIDE} x {SIDE} into codes, float32")
  print(f"  {'':<14} {'CPU-seconds':^27} {'wall seconds':^27} {'pictures per':>13}")
  header = f"{'median':>8} {'min':>8} {'max':>8} "
  print(f"  {'':<14} {header} {header} {'CPU-second':>13}")
  for name, values in spent.items():
    row = f"  {name:<14}"
    for column in (values[:, 1], values[:, 0]):
      row += f" {np.median(column):8.3f} {column.min():8.3f} {column.max():8.3f} "
    print(f"{row} {1 / np.median(values[:, 1]):13.3f}")
  if PEER not in spent:
    return True
  ratios = spent[PEER] / spent[OURS]
  wall, cpu = (statistics.median(ratios[:, i]) for i in (0, 1))
  reached = cpu >= TARGET
  print(
    f"  {PEER} / {OURS}: CPU {cpu:.2f} ({ratios[:, 1].min():.2f} to {ratios[:, 1].max():.2f}), "
    f"wall {wall:.2f}; target {TARGET}: {'reached' if reached else 'NOT reached'}"
  )
  return reached


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--our_python", default=sys.executable, help="default: the one running this")
  parser.add_argument("--torch_python", help="of an environment with torch and transformers")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--warmup", type=int, default=1, help="rounds before, which also compile")
  parser.add_argument("--batch", type=int, default=1, help="pictures a call")
  parser.add_argument("--cores", type=int, default=2, help="CPU cores that the workers share")
  args = parser.parse_args()
  if min(args.rounds, args.warmup, args.batch) < 1:
    parser.error("--rounds, --warmup and --batch: at least 1 each (the first call compiles)")
  if hasattr(os, "sched_setaffinity"):  # inherited by the workers
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
  pythons = {OURS: args.our_python, PEER: args.torch_python}
  workers = []
  with tempfile.TemporaryDirectory() as scratch:
    folder = vqgan_files.save(pathlib.Path(scratch) / "vq", random_vq())
    try:
      for name, python in pythons.items():
        if python:
          worker = Worker(name, python, SCRIPTS[name], folder, args.cores)
          workers.append(worker)
          print(f"{name}: {worker.receive()['versions']}", flush=True)
      reached = report(measure(workers, pathlib.Path(scratch), args))
    finally:
      for worker in workers:
        worker.close()
  return 0 if reached else 1


if __name__ == "__main__":
  sys.exit(main())
