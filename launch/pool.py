"""Several processes at a time, each on its own cores and with its own log, until all have ended."""

import collections
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

from launch import local_cluster

LOG_FILE = "log.txt"
POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Task:
    """A command with a name, the folder that its log.txt is kept in, and what is done before it."""

    name: str
    command: Sequence[str]
    folder: pathlib.Path
    prepare: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
      task: the task.
      code: exit code (-n: signal n), or None: it was not started, since another pool runs it.
      seconds: time that it took.
    """

    task: Task
    code: int | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Running:
    task: Task
    process: subprocess.Popen
    slot: int
    started: float


def core_sets(jobs: int) -> list[set[int]]:
    """Cores of each of `jobs` slots: disjoint and of even size; empty sets where that cannot be."""
    if not hasattr(os, "sched_getaffinity"):  # not Linux
        return [set()] * jobs
    cores = sorted(os.sched_getaffinity(0))
    if jobs == 1 or jobs > len(cores):
        return [set()] * jobs
    return [set(cores[slot::jobs]) for slot in range(jobs)]


@contextlib.contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Puts this thread on some cores, for a child to inherit; an empty set changes nothing."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start(task: Task, cores: set[int]) -> subprocess.Popen | None:
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
        with pinned(cores):
            # A group of its own: Ctrl-C reaches us alone, and we end it with its workers.
            return subprocess.Popen(
                task.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def last_lines(folder: pathlib.Path, count: int) -> list[str]:
    """The last lines of a task's log; a line of progress counts once for each state of it."""
    text = (folder / LOG_FILE).read_text(errors="replace").replace("\r", "\n")
    return [line for line in text.splitlines() if line.strip()][-count:]


def ending(code: int) -> str:
    """What an exit code says: "ended with exit code 1", or "was ended by SIGKILL"."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def duration(seconds: float) -> str:
    """1 h 05 min, 3 min, or 12 s."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def progress_line(total: int, outcomes: Sequence[Outcome], running: Sequence[_Running]) -> str:
    """Done of total, failures, what runs, and the time left by the mean of the finished ones."""
    failed = sum(outcome.code != 0 for outcome in outcomes)
    taken = [outcome.seconds for outcome in outcomes if outcome.code == 0]
    left = "unknown"
    if taken and running:
        mean, now = sum(taken) / len(taken), time.monotonic()
        waiting = total - len(outcomes) - len(running)
        rest = sum(max(0.0, mean - (now - run.started)) for run in running)
        left = f"about {duration((waiting * mean + rest) / len(running))}"
    names = ", ".join(run.task.name for run in running) or "nothing"
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

    Args:
      tasks: what to run.
      jobs: how many at a time; where there are cores enough, each has its own.
      on_end: called when a task has ended, also when that is because this function is interrupted.
      on_change: called with a line of progress when a task has started or ended.
    """
    cores, free = core_sets(jobs), list(range(jobs))
    waiting, outcomes = collections.deque(tasks), []
    running: list[_Running] = []

    def note(task: Task, code: int | None, seconds: float) -> None:
        outcomes.append(Outcome(task, code, seconds))
        on_end(outcomes[-1])

    try:
        while waiting or running:
            changed = False
            for one in [r for r in running if r.process.poll() is not None]:
                running.remove(one)
                free.append(one.slot)
                note(one.task, one.process.returncode, time.monotonic() - one.started)
                changed = True
            while waiting and free:
                task, slot = waiting.popleft(), min(free)
                process = start(task, cores[slot])
                if process is None:
                    note(task, None, 0.0)
                else:
                    free.remove(slot)
                    running.append(_Running(task, process, slot, time.monotonic()))
                changed = True
            if changed:
                on_change(progress_line(len(tasks), outcomes, running))
            time.sleep(POLL_SECONDS)
    finally:
        local_cluster.end([one.process for one in running], GRACE_SECONDS)
        for one in running:
            note(one.task, one.process.returncode, time.monotonic() - one.started)
    return outcomes
