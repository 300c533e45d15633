"""What the commands say of a mistake: one line that names it, and neither traceback nor usage."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NO_RUN = "workdir = '{}/none': no config.json there, so it isn't the folder of a run."


@pytest.mark.parametrize(("command", "said"), [
  ("predict --workdir={}/none --x=a --z=b", f"Nothing was predicted: {NO_RUN}"),
  ("export --workdir={}/none --out={}/out", f"Nothing was exported: {NO_RUN}"),
  ("evaluation --workdir={}/none", f"Nothing was evaluated: {NO_RUN}"),
  ("collect --config=configs/tools.py --config.world.workers=2",
   "--config.world.workers=2: the config has no field 'workers'."),
  ("memory --config=configs/minigrid.py --config.model.n_kv_heads=3",
   "config.model: model.n_heads = 4 is not a multiple of model.n_kv_heads = 3."),
  ("tokenize_images --lines={}/none --vq={}/none --out={}/out",
   "Stopped: checkpoint '{}/none': no such folder"),
  ("models.convert_vqgan --ckpt={}/none --out={}/out", "Nothing was converted: {}/none: no such"),
  ("data.official --format=mind2web --folder={}/none --out={}/out",
   "Nothing was converted: --folder={}/none lacks files of Mind2Web"),
  ("evaluation.judge --predictions={}/none --template=state --out={}/out",
   "Stopped: "),
])  # fmt: skip
def test_a_mistake_is_one_line(command, said, tmp_path):
  out = subprocess.run(
    [sys.executable, "-m", *f"swirl_jax.{command}".replace("{}", str(tmp_path)).split()],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=300,
  )
  assert out.returncode == 1
  (line,) = out.stdout.splitlines()
  assert said.replace("{}", str(tmp_path)) in line
  assert not list(tmp_path.iterdir())
