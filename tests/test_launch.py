"""launch/local.py, with children that do not import jax."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch import local

ROOT = pathlib.Path(__file__).parent.parent


def start(script: str, *flags: str, processes: int = 2) -> subprocess.Popen:
  command = [sys.executable, "-m", "launch.local", f"--processes={processes}", *flags]
  return subprocess.Popen(
    [*command, "--", sys.executable, "-c", script],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(script: str, *flags: str, processes: int = 2) -> tuple[int, str, str]:
  child = start(script, *flags, processes=processes)
  out, err = child.communicate(timeout=120)
  return child.returncode, out, err


def test_every_process_gets_its_place_and_one_coordinator():
  code, out, _ = run(
    "import os; e = os.environ;"
    "print(e['SWIRL_PROCESS_ID'], e['SWIRL_NUM_PROCESSES'], e['SWIRL_COORDINATOR'])",
    processes=3,
  )
  assert code == 0
  rows = sorted(line.split() for line in out.splitlines())
  assert [row[:3] for row in rows] == [[f"[{i}]", str(i), "3"] for i in range(3)]
  assert len({row[3] for row in rows}) == 1
  host, port = rows[0][3].split(":")
  assert host == "localhost" and 0 < int(port) < 65536


def test_lines_stay_whole_and_keep_their_stream():
  code, out, err = run(
    "import sys\nfor i in range(200): print('x' * 50)\nprint('to stderr', file=sys.stderr)\n"
    "sys.stdout.write('no newline')"
  )
  assert code == 0
  lines = out.splitlines()
  assert {line[4:] for line in lines} == {"x" * 50, "no newline"}
  for i in (0, 1):
    assert sum(line.startswith(f"[{i}] ") for line in lines) == 201
    assert f"[{i}] to stderr" in err.splitlines()


def test_one_failure_ends_the_others_with_its_code():
  began = time.monotonic()
  code, out, err = run(
    "import os, sys, time\nif os.environ['SWIRL_PROCESS_ID'] == '1': sys.exit(7)\n"
    "time.sleep(50); print('slept through')"
  )
  assert code == 7
  assert "slept through" not in out
  assert "process 1 ended with 7" in err
  assert time.monotonic() - began < 30


def test_an_error_of_one_process_ends_the_run():
  """The others wait in a collective, and at the end of `jax.distributed` all would for all."""
  began = time.monotonic()
  code, _, err = run(
    "import os, jax\nfrom jax.experimental import multihost_utils\nfrom swirl_jax import process\n"
    "n, i = int(os.environ['SWIRL_NUM_PROCESSES']), int(os.environ['SWIRL_PROCESS_ID'])\n"
    "jax.distributed.initialize(os.environ['SWIRL_COORDINATOR'], n, i)\n"
    "multihost_utils.sync_global_devices('start')\n"
    "if i == 0: process.leave('Stopped: the disk is full')\n"
    "multihost_utils.sync_global_devices('end')"
  )
  assert code == 1 and "[0] Stopped: the disk is full" in err.splitlines()
  assert time.monotonic() - began < 90


def test_a_process_that_a_signal_ended_gives_128_plus_its_number():
  code, _, _ = run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", processes=1)
  assert code == 128 + signal.SIGKILL


def test_one_that_ignores_sigterm_after_a_failure_is_killed():
  code, _, _ = run(
    "import os, signal, sys, time\n"
    "if os.environ['SWIRL_PROCESS_ID'] == '1': time.sleep(1); sys.exit(3)\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(50)",
    "--grace=0.5",
  )
  assert code == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_every_process_which_may_end_well(number):
  child = start(
    "import signal, sys, time\n"
    "def leave(n, _): print('saved on', n); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, leave); signal.signal(signal.SIGINT, leave)\n"
    "print('ready'); time.sleep(50)"
  )
  try:
    seen = ""
    while seen.count("ready") < 2:
      line = child.stdout.readline()
      assert line, "the launcher ended before its processes were ready"
      seen += line
    child.send_signal(number)
    out, _ = child.communicate(timeout=30)
  finally:
    child.kill()
  assert sorted(out.splitlines()) == [f"[{i}] saved on {number.value}" for i in (0, 1)]
  assert child.returncode == 0


def test_bad_usage_is_said_at_once(capsys):
  with pytest.raises(SystemExit):
    local.parse(["--processes=0", "--", "true"])
  assert "--processes=0" in capsys.readouterr().err
  for flag in ("--port=65536", "--port=0", "--grace=-1", "--grace=nan"):
    with pytest.raises(SystemExit):
      local.parse(["--processes=2", flag, "--", "true"])
    assert flag.partition("=")[0] in capsys.readouterr().err
  with pytest.raises(SystemExit):
    local.parse(["--processes=2"])
  assert "after --" in capsys.readouterr().err
  assert local.main(["--processes=1", "--", "no-such-program-here"]) == 127
  assert "no-such-program-here" in capsys.readouterr().err


def slice_script(tmp_path: pathlib.Path, *args: str, state: str = "READY") -> tuple[int, str, str]:
  """Runs tpu_slice.sh with a gcloud that notes its arguments: (exit code, stderr, the notes)."""
  log, fake = tmp_path / "log", tmp_path / "gcloud"
  fake.write_text(
    f"#!/usr/bin/env bash\nprintf '%s\\n' \"$@\" >> {log}\n[[ $4 != describe ]] || echo {state}\n"
  )
  fake.chmod(0o755)
  result = subprocess.run(
    ["bash", str(ROOT / "launch" / "tpu_slice.sh"), *args],
    env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    capture_output=True,
    text=True,
    timeout=60,
  )
  return result.returncode, result.stderr, log.read_text() if log.exists() else ""


def test_slice_script_runs_the_program_on_all_workers_with_its_arguments_whole(tmp_path):
  flags = ("--tpu=pod", "--zone=here", "--project=ours", "--skip_install")
  code, err, log = slice_script(tmp_path, *flags, "--", "python", "-c", "print('a b')")
  assert code == 0, err
  lines = log.splitlines()
  assert "--worker=all" in lines and "--zone=here" in lines and "--project=ours" in lines
  (command,) = [line for line in lines if line.startswith("--command=")]
  assert "SWIRL_COORDINATOR=auto" in command
  words = command.split("SWIRL_COORDINATOR=auto ")[1]
  shown = subprocess.run(["bash", "-c", f"printf '%s|' {words}"], capture_output=True, text=True)
  assert shown.stdout == "python|-c|print('a b')|"


@pytest.mark.parametrize(
  ("args", "state", "said"),
  [
    (("--zone=z", "--", "true"), "READY", "--tpu=NAME is needed"),
    (("--tpu=t", "--", "true"), "READY", "--zone=ZONE is needed"),
    (("--tpu=t", "--zone=z"), "READY", "no program"),
    (("--tpu=t", "--zone=z", "--spot"), "READY", "unknown argument '--spot'"),
    (("--tpu=t", "--zone=z", "--", "true"), "CREATING", "'t' is CREATING; it must be READY"),
  ],
)
def test_slice_script_says_what_is_wrong_before_it_copies(tmp_path, args, state, said):
  code, err, log = slice_script(tmp_path, *args, state=state)
  assert code == 2
  assert said in err
  assert "scp" not in log and "ssh" not in log


def test_the_platform_a_user_chose_is_kept(monkeypatch):
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  assert local.environment(0, processes=1, port=1)["JAX_PLATFORMS"] == "cpu"
  monkeypatch.setitem(os.environ, "JAX_PLATFORMS", "tpu")
  assert local.environment(0, processes=1, port=1)["JAX_PLATFORMS"] == "tpu"
