"""Starts N processes of one program on this machine, joined by jax.distributed over localhost.

    python -m launch.local --processes=2 -- python -m swirl_jax.main --config=... --workdir=...

Each process gets SWIRL_COORDINATOR (localhost:PORT), SWIRL_NUM_PROCESSES and SWIRL_PROCESS_ID,
which `swirl_jax.main` hands to `jax.distributed.initialize`. Output lines begin with their
process's number, [i]. SIGTERM and SIGINT reach every process. When one fails, the others are
terminated and the launcher exits with that one's code (128 + n where signal n ended it); otherwise
with 0.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

POLL_SECONDS = 0.05


def parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m launch.local",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--processes", type=int, required=True, help="how many, at least 1")
  parser.add_argument("--port", type=int, default=None, help="the coordinator's (default: any)")
  parser.add_argument(
    "--grace", type=float, default=60.0, help="seconds between SIGTERM and SIGKILL after a failure"
  )
  parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the program to start")
  args = parser.parse_args(argv)
  if args.processes < 1:
    parser.error(f"--processes={args.processes}: at least 1 is needed")
  if args.port is not None and not 0 < args.port < 2**16:
    parser.error(f"--port={args.port}: allowed is 1 to 65535")
  if not args.grace >= 0:
    parser.error(f"--grace={args.grace}: allowed is a number of seconds from 0")
  if args.command[:1] == ["--"]:
    args.command = args.command[1:]
  if not args.command:
    parser.error("no program: put it after --, as in: --processes=2 -- python -m swirl_jax.main")
  return args


def free_port() -> int:
  """A port that is free now; the coordinator, process 0, binds it a moment later."""
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


def environment(process_id: int, *, processes: int, port: int) -> dict[str, str]:
  """What process `process_id` of `processes` finds in its environment."""
  return os.environ | {
    "SWIRL_COORDINATOR": f"localhost:{port}",
    "SWIRL_NUM_PROCESSES": str(processes),
    "SWIRL_PROCESS_ID": str(process_id),
    "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
    "PYTHONUNBUFFERED": "1",
  }


def copy_lines(process_id: int, source, target, lock: threading.Lock) -> None:
  """Copies lines to `target` as they come, each whole and with its process's number before it."""
  for line in source:
    with lock:
      target.write(f"[{process_id}] {line}" if line.endswith("\n") else f"[{process_id}] {line}\n")
      target.flush()


def signal_all(children: Sequence[subprocess.Popen], number: int) -> None:
  """Sends `number` to the process group of every child that still runs."""
  for child in children:
    if child.poll() is None:
      try:
        os.killpg(child.pid, number)
      except ProcessLookupError:
        pass  # It ended between the two calls.


def wait_all(children: Sequence[subprocess.Popen], grace: float) -> int:
  """Waits for every child; a failure terminates the others. The first failure's code, or 0."""
  failed, deadline = None, None
  while True:
    codes = [child.poll() for child in children]
    if failed is None:
      failed = next((i for i, code in enumerate(codes) if code), None)
      if failed is not None:
        print(f"[launch] process {failed} ended with {codes[failed]}", file=sys.stderr, flush=True)
        signal_all(children, signal.SIGTERM)
        deadline = time.monotonic() + grace
    if all(code is not None for code in codes):
      code = 0 if failed is None else codes[failed]
      return code if code >= 0 else 128 - code
    if deadline is not None and time.monotonic() > deadline:
      signal_all(children, signal.SIGKILL)
      deadline = None
    time.sleep(POLL_SECONDS)


def run(command: Sequence[str], *, processes: int, port: int, grace: float) -> int:
  """Starts the processes, passes their output and our signals on, and returns the exit code."""
  children: list[subprocess.Popen] = []
  forward = (signal.SIGTERM, signal.SIGINT)
  early: list[int] = []

  def handler(number: int, _) -> None:
    early.append(number)
    signal_all(children, number)

  previous = {number: signal.signal(number, handler) for number in forward}
  lock, threads = threading.Lock(), []
  try:
    for i in range(processes):
      if early:
        break
      child = subprocess.Popen(
        command,
        env=environment(i, processes=processes, port=port),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # A terminal's Ctrl-C comes through us, once.
      )
      children.append(child)
      for source, target in ((child.stdout, sys.stdout), (child.stderr, sys.stderr)):
        thread = threading.Thread(target=copy_lines, args=(i, source, target, lock), daemon=True)
        thread.start()
        threads.append(thread)
    for number in early:  # One that came before the last child was in the list.
      signal_all(children, number)
    code = wait_all(children, grace)
    for thread in threads:
      thread.join(timeout=5.0)
    return code
  finally:
    signal_all(children, signal.SIGKILL)
    for number, old in previous.items():
      signal.signal(number, old)


def main(argv: Sequence[str] | None = None) -> int:
  args = parse(sys.argv[1:] if argv is None else argv)
  port = free_port() if args.port is None else args.port
  try:
    return run(args.command, processes=args.processes, port=port, grace=args.grace)
  except OSError as error:
    print(f"[launch] {args.command[0]!r} can't be started: {error.strerror}", file=sys.stderr)
    return 127


if __name__ == "__main__":
  sys.exit(main())
