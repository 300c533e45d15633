"""The visual main job, tiny: killed while its tokenizer trains, then from there to the report."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from swirl_jax.data.image_codes import text_codes

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATIENCE = 600  # seconds


def start(workdir):
  command = [
    sys.executable, "-m", "swirl_jax.main", "--config=configs/minigrid_pixels.py:test",
    f"--workdir={workdir}", "--config.swirl.iterations=1", "--config.compare=('labels_only',)",
  ]  # fmt: skip
  return subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )


@pytest.mark.slow
@pytest.mark.multiprocess
def test_from_nothing_to_a_report_with_pictures(tmp_path):
  process, end = start(tmp_path), time.monotonic() + PATIENCE
  while not list(tmp_path.glob("data/vq_*/training.json")):
    assert process.poll() is None, process.communicate()[0]
    assert time.monotonic() < end
    time.sleep(0.01)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  assert not list(tmp_path.glob("data/vq_*/model"))  # it was in the middle

  process = start(tmp_path)
  out, _ = process.communicate(timeout=PATIENCE)
  assert process.returncode == 0, out
  assert len(list(tmp_path.glob("data/vq_*/model/config.json"))) == 1
  data, samples = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("dataset", "samples"))
  assert data["counts"]["pictures"]["states"] > 300
  predicted = [s["prediction"] for s in samples["gallery"]]
  predicted += [turn["prediction"] for chain in samples["chains"] for turn in chain]
  assert samples["chains"] and len(samples["chains"][0]) == 2
  for state in predicted:
    codes = text_codes(state)  # nothing but codes
    assert codes.shape == (20,) and codes.max() < 64
  report = (tmp_path / "report.html").read_text()
  assert report.count('<img alt="" src="data:image/png;base64,') > len(predicted)
