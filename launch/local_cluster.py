"""Several processes of nif_jax.main on this machine, as on several hosts, over loopback.

    python launch/local_cluster.py --processes=2 -- --config=configs/nif.py:synthetic,smoke

What comes after -- goes to every process, with --coordinator, --num_processes and --process_id.
Each line of output carries the number of its process. When a process fails, the others are ended
and its exit code is this command's.
"""

import argparse
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
from collections.abc import Mapping, Sequence

DEVICES_FLAG = "--xla_force_host_platform_device_count"
POLL_SECONDS = 0.05


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of this command; `arguments` are those of the processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=_positive, default=2, help="default 2")
    parser.add_argument(
        "--devices_per_process", type=_positive, default=1, help="CPU devices each; default 1"
    )
    parser.add_argument(
        "--command",
        type=shlex.split,
        default=[sys.executable, "-m", "nif_jax.main"],
        help="what each process runs; default: nif_jax.main",
    )
    parser.add_argument(
        "--grace_seconds",
        type=float,
        default=10.0,
        help="how long a process may take to end before it is killed; default 10",
    )
    parser.add_argument("arguments", nargs="*", help="of the processes, after --")
    return parser.parse_args(argv)


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def process_environment(environment: Mapping[str, str], devices: int) -> dict[str, str]:
    """The environment of a process with that many CPU devices; its other XLA flags stay."""
    flags = re.sub(rf"{DEVICES_FLAG}=\S*", "", environment.get("XLA_FLAGS", "")).split()
    return {
        **environment,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*flags, f"{DEVICES_FLAG}={devices}"]),
        "PYTHONUNBUFFERED": "1",
    }


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen:
    """Starts one process in a group of its own, so that it ends together with its workers."""
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def copy_lines(prefix: str, process: subprocess.Popen, lock: threading.Lock) -> None:
    """Prints a process's lines as they come, each whole."""
    for line in process.stdout:
        with lock:
            print(f"{prefix} {line.rstrip()}", flush=True)


def first_failure(processes: Sequence[subprocess.Popen]) -> tuple[int, int] | None:
    """(number, return code) of the first process to fail; None when all have ended well."""
    while True:
        codes = [process.poll() for process in processes]
        failures = [(number, code) for number, code in enumerate(codes) if code]
        if failures:
            return failures[0]
        if None not in codes:
            return None
        time.sleep(POLL_SECONDS)


def end(processes: Sequence[subprocess.Popen], grace_seconds: float) -> None:
    """Ends the groups of processes that still run: first politely, then for good."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def run(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], grace_seconds: float
) -> int:
    """Runs the commands at once; 0, or the exit code of the first to fail (128 + its signal)."""
    processes, readers, lock = [], [], threading.Lock()
    try:
        for number, command in enumerate(commands):
            processes.append(start(command, environment))
            arguments = (f"[{number}]", processes[-1], lock)
            readers.append(threading.Thread(target=copy_lines, args=arguments, daemon=True))
            readers[-1].start()
        failure = first_failure(processes)
    finally:
        end(processes, grace_seconds)
        for reader in readers:
            reader.join(timeout=1.0)  # a worker that outlives its process holds the pipe open
    if failure is None:
        return 0
    number, code = failure
    print(f"process {number} failed with {code}; ended the others.", file=sys.stderr)
    return code if code > 0 else 128 - code


def main(argv: Sequence[str] | None = None) -> int:
    """Starts the processes and returns the exit code."""
    options = parse_arguments(argv)
    cluster = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={options.processes}"]
    commands = [
        [*options.command, *options.arguments, *cluster, f"--process_id={number}"]
        for number in range(options.processes)
    ]
    environment = process_environment(os.environ, options.devices_per_process)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return run(commands, environment, options.grace_seconds)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
