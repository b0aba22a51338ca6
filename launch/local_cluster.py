"""Several processes of nif_jax.main on this machine, as on several hosts, over loopback.

    python launch/local_cluster.py --processes=2 -- --config=configs/nif.py:synthetic,smoke

What comes after -- goes to every process, with --coordinator, --num_processes and --process_id.
Each line of output carries the number of its process. When a process fails, the others are ended
and its exit code is this command's.
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from absl import app, flags

FLAGS = flags.FLAGS
DEVICES_FLAG = "--xla_force_host_platform_device_count"
POLL_SECONDS = 0.1


def end(processes: Sequence[subprocess.Popen], grace_seconds: float) -> None:
    """Ends the groups of processes that still run: SIGTERM, and SIGKILL after some seconds."""

    def send(process: subprocess.Popen, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    running = [process for process in processes if process.poll() is None]
    for process in running:
        send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            send(process, signal.SIGKILL)
            process.wait()


def _copy_lines(prefix: str, process: subprocess.Popen) -> None:
    for line in process.stdout:
        print(f"{prefix} {line.rstrip()}\n", end="", flush=True)  # one write, so whole lines


def run(commands: Sequence[Sequence[str]], environment: dict[str, str], grace: float) -> int:
    """Runs the commands at once; 0, or the exit code of the first to fail (128 + its signal)."""
    processes, readers = [], []
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    options = {"env": environment, "text": True, "errors": "replace", **streams}
    try:
        for number, command in enumerate(commands):
            # A group of its own, so that it ends together with its workers.
            processes.append(subprocess.Popen(command, start_new_session=True, **options))
            arguments = (f"[{number}]", processes[-1])
            readers.append(threading.Thread(target=_copy_lines, args=arguments, daemon=True))
            readers[-1].start()
        codes = [None]
        while None in codes and not any(codes):
            time.sleep(POLL_SECONDS)
            codes = [process.poll() for process in processes]
        for number, code in enumerate(codes):
            if code:
                print(f"process {number} failed with {code}; ended the others.", file=sys.stderr)
                return code if code > 0 else 128 - code
        return 0
    finally:
        end(processes, grace)
        for reader in readers:
            reader.join(timeout=1.0)  # a worker that outlives its process holds the pipe open


def main(argv: Sequence[str]) -> int:
    """Starts the processes and returns the exit code."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"--coordinator=127.0.0.1:{probe.getsockname()[1]}"
    command = shlex.split(FLAGS.command or "") or [sys.executable, "-m", "nif_jax.main"]
    command += [*argv[1:], coordinator, f"--num_processes={FLAGS.processes}"]
    commands = [[*command, f"--process_id={number}"] for number in range(FLAGS.processes)]
    xla_flags = re.sub(rf"{DEVICES_FLAG}=\S*", "", os.environ.get("XLA_FLAGS", "")).split()
    xla_flags.append(f"{DEVICES_FLAG}={FLAGS.devices_per_process}")
    own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(xla_flags), "PYTHONUNBUFFERED": "1"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return run(commands, os.environ | own, FLAGS.grace_seconds)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    flags.DEFINE_integer("processes", 2, "How many.", 1)
    flags.DEFINE_integer("devices_per_process", 1, "CPU devices each.", 1)
    flags.DEFINE_string("command", None, "What each process runs; default: nif_jax.main.")
    flags.DEFINE_float("grace_seconds", 10.0, "How long a process may take to end before SIGKILL.")
    app.run(main)
