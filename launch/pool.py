"""Several processes at a time, each on its own cores and with its own log, until all have ended."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import tqdm

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
    enough: Callable[[], bool] = lambda: False  # whether to end it (SIGTERM) while it runs


END = object()


class Outcome(NamedTuple):
    """How a task ended."""

    task: Task
    code: int | None  # exit code (-n: signal n), or None: not started, another pool runs it
    seconds: float


def core_sets(jobs: int) -> list[list[int]]:
    """Cores of each of `jobs` tasks: disjoint and of even size; empty where that cannot be."""
    cores = sorted(os.sched_getaffinity(0)) if shutil.which("taskset") else []  # Linux
    if jobs == 1 or jobs > len(cores):
        return [[]] * jobs
    return [cores[slot::jobs] for slot in range(jobs)]


def start(task: Task, cores: Sequence[int] = ()) -> subprocess.Popen | None:
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
        pinned = ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        # A group of its own: Ctrl-C reaches this process alone, which ends it with its workers.
        return subprocess.Popen([*pinned, *task.command], start_new_session=True, **streams)


def is_running(folder: pathlib.Path) -> bool:
    """Whether a process has the lock of a task's log, see `start`."""
    if not (folder / LOG_FILE).exists():
        return False
    with (folder / LOG_FILE).open("a") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def last_lines(folder: pathlib.Path, count: int) -> list[str]:
    """The last lines of a task's log; a line of progress counts once for each state of it."""
    text = (folder / LOG_FILE).read_text(errors="replace").replace("\r", "\n")
    return [line for line in text.splitlines() if line.strip()][-count:]


def run(
    tasks: Iterable[Task | None], jobs: int, on_end: Callable[[Outcome], None], total: int = 0
) -> list[Outcome]:
    """Runs tasks in order, `jobs` at a time, and returns how they ended, in order of their ends.

    Where there are cores enough, each has its own. on_end is called when a task has ended, also
    because this function is interrupted. A bar shows progress, failures and what is running.

    Args:
      tasks: may be an iterator, which gives None while its next task cannot start yet.
      jobs: how many run at a time.
      on_end: see above.
      total: number of tasks, for the bar; 0 = their length.
    """
    waiting, free, outcomes, more = iter(tasks), core_sets(jobs), [], True
    running: dict[str, tuple[Task, subprocess.Popen, Sequence[int], float]] = {}
    stopped: set[str] = set()
    total = total or len(tasks)
    bar = tqdm.tqdm(total=total, unit="run", smoothing=0, disable=not total)

    def note(outcome: Outcome) -> None:
        running.pop(outcome.task.name, None)
        stopped.discard(outcome.task.name)
        outcomes.append(outcome)
        on_end(outcome)
        bar.update()
        show()

    def show() -> None:
        failed = sum(outcome.code != 0 for outcome in outcomes)
        failures = f"{failed} failed, " if failed else ""
        bar.set_postfix_str(f"{failures}running {', '.join(running) or 'nothing'}")

    def collect() -> None:
        for task, process, cores, started in list(running.values()):
            # Once: a second SIGTERM would end a run that is saving its state.
            if task.name not in stopped and process.poll() is None and task.enough():
                stopped.add(task.name)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
            if process.poll() is not None:
                free.append(cores)
                note(Outcome(task, process.returncode, time.monotonic() - started))

    try:
        while more or running:
            while more and free:
                task = next(waiting, END)
                more = task is not END
                if not isinstance(task, Task):
                    break
                if process := start(task, free[-1]):
                    running[task.name] = task, process, free.pop(), time.monotonic()
                    show()
                else:
                    note(Outcome(task, None, 0.0))
            collect()
            time.sleep(POLL_SECONDS)
    finally:
        local_cluster.end([process for _, process, *_ in running.values()], GRACE_SECONDS)
        collect()
        bar.close()
    return outcomes
