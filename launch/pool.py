"""Several processes at a time, each on its own cores and with its own log, until all have ended."""

import collections
import fcntl
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from launch import local_cluster

LOG_FILE = "log.txt"
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.1


class Task(NamedTuple):
    """A command."""

    name: str
    command: Sequence[str]
    folder: pathlib.Path  # of its log.txt
    prepare: Callable[[], None] = lambda: None  # called before it starts


class Outcome(NamedTuple):
    """How a task ended."""

    task: Task
    code: int | None  # exit code (-n: signal n), or None: not started, another pool runs it
    seconds: float


def core_sets(jobs: int) -> list[set[int]]:
    """Cores of each of `jobs` tasks: disjoint and of even size; empty where that cannot be."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []  # Linux
    if jobs == 1 or jobs > len(cores):
        return [set()] * jobs
    return [set(cores[slot::jobs]) for slot in range(jobs)]


def start(task: Task, cores: set[int] | None = None) -> subprocess.Popen | None:
    """Starts a task, its output appended to its log; None if another process runs it.

    The log is locked. The lock belongs to the open file, which the child inherits, so it lasts as
    long as the child does, whatever becomes of this process.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    with (task.folder / LOG_FILE).open("a") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        task.prepare()
        before = os.sched_getaffinity(0) if cores else None
        try:
            if cores:
                os.sched_setaffinity(0, cores)  # the child inherits it
            # A group of its own: Ctrl-C reaches this process alone, which ends it with its workers.
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            return subprocess.Popen(task.command, start_new_session=True, **streams)
        finally:
            if before:
                os.sched_setaffinity(0, before)


def last_lines(folder: pathlib.Path, count: int) -> list[str]:
    """The last lines of a task's log; a line of progress counts once for each state of it."""
    text = (folder / LOG_FILE).read_text(errors="replace").replace("\r", "\n")
    return [line for line in text.splitlines() if line.strip()][-count:]


def ending(code: int) -> str:
    """An exit code in words: "ended with exit code 1", or "was ended by SIGKILL"."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def progress_line(total: int, outcomes: Sequence[Outcome], running: Mapping[str, float]) -> str:
    """Done of total, failures, running tasks, and the time left by the mean of finished ones.

    `running` is name -> time.monotonic() at its start.
    """
    failed, left = sum(outcome.code != 0 for outcome in outcomes), "unknown"
    taken = [outcome.seconds for outcome in outcomes if outcome.code == 0]
    if taken and running:
        mean, now = sum(taken) / len(taken), time.monotonic()
        waiting = total - len(outcomes) - len(running)
        rest = sum(max(0.0, mean - (now - started)) for started in running.values())
        left = f"about {timedelta(seconds=round((waiting * mean + rest) / len(running)))}"
    names = ", ".join(running) or "nothing"
    failures = f", {failed} failed" if failed else ""
    return f"{len(outcomes)}/{total} done{failures}; running {names}; time left {left}"


def run(
    tasks: Sequence[Task],
    jobs: int,
    *,
    on_end: Callable[[Outcome], None],
    on_change: Callable[[str], None],
) -> list[Outcome]:
    """Runs tasks in order, `jobs` at a time, and returns how they ended, in order of their ends.

    Where there are cores enough, each has its own. on_end is called when a task has ended, also
    because this function is interrupted; on_change with a line of progress when a task has started
    or ended.
    """
    waiting, free = collections.deque(tasks), core_sets(jobs)
    running: dict[str, tuple[Task, subprocess.Popen, set[int]]] = {}
    started: dict[str, float] = {}
    outcomes: list[Outcome] = []

    def note(task: Task, code: int | None) -> None:
        seconds = time.monotonic() - started.pop(task.name) if task.name in started else 0.0
        outcomes.append(Outcome(task, code, seconds))
        on_end(outcomes[-1])

    try:
        while waiting or running:
            while waiting and free:
                task = waiting.popleft()
                if process := start(task, free[-1]):
                    running[task.name] = task, process, free.pop()
                    started[task.name] = time.monotonic()
                else:
                    note(task, None)
                on_change(progress_line(len(tasks), outcomes, started))
            for task, process, cores in list(running.values()):
                if process.poll() is not None:
                    del running[task.name]
                    free.append(cores)
                    note(task, process.returncode)
                    on_change(progress_line(len(tasks), outcomes, started))
            time.sleep(POLL_SECONDS)
    finally:
        local_cluster.end([process for _, process, _ in running.values()], GRACE_SECONDS)
        for task, process, _ in running.values():
            note(task, process.returncode)
    return outcomes
