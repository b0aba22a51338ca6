"""Runs a sweep's experiments as processes, several at a time, and gathers them into one table.

    python launch/sweep.py --sweep=configs/sweeps/ablations.py
    python launch/sweep.py --sweep=configs/sweeps/main.py --data=data --jobs=4 --only='kuairand-*'
    python launch/sweep.py --sweep=configs/sweeps/labels.py --config.num_seeds=1 --workdir=runs/try

Each run is `python -m nif_jax.main --config=... --workdir=<workdir>/<run>`; its log.txt lies there.
Called again, this skips what is finished and goes on with the rest where it was; several calls at
once share the work. Stages that a finished run of the sweep, or of the sweeps in --lenders, has
trained with equal settings are copied (launch/sharing.py), so after a change of the code use
another --workdir. A run that fails is reported at the end and does not stop the others.
--config.<key>=<value> holds for all runs. On a cluster whose nodes see this checkout:

    python launch/sweep.py --sweep=... --print_commands > commands
    sbatch --array=1-$(wc -l < commands) --wrap='sed -n "${SLURM_ARRAY_TASK_ID}p" commands | bash'
    python launch/sweep.py --sweep=... --gather_only

Relative paths start at the checkout, wherever it is called from.
"""

import fnmatch
import functools
import json
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script finds the modules of its own folder only

from absl import app, flags

from launch import pool, sharing
from launch.jobs import Job, check, load_sweep, make_jobs
from nif_jax.data.schema import ConfigError
from nif_jax.reports import sweeps
from nif_jax.reports.sweep_tables import Entry

FLAGS = flags.FLAGS
flags.DEFINE_string("sweep", None, "The sweep, e.g. configs/sweeps/ablations.py.", required=True)
flags.DEFINE_integer("jobs", 2, "Runs at a time, each with its share of the cores.", 1)
flags.DEFINE_string("only", "*", "Train the runs whose names match this pattern.")
flags.DEFINE_string("data", "", "Folder of the parquet files that configs/sweeps/common.py names.")
flags.DEFINE_string("workdir", None, "Folder of the runs; default runs/sweeps/<sweep>.")
flags.DEFINE_string("lenders", "", "Folder of other sweeps' workdirs, to copy equal stages from.")
flags.DEFINE_string("output", "results", "Folder of the gathered <sweep>.md and <sweep>.json.")
flags.DEFINE_bool("dry_run", False, "Say what would be done, and do nothing.")
flags.DEFINE_bool("print_commands", False, "Print the commands of unfinished runs, one a line.")
flags.DEFINE_bool("gather_only", False, "Gather what is finished; train nothing.")
flags.DEFINE_string("command", None, "What trains a run; default: this Python -m nif_jax.main.")

ATTEMPTS_FILE = "attempts.jsonl"
LOG_LINES = 12


def say(line: str) -> None:
    """Prints at once, also into a file."""
    print(line, flush=True)


def borrow(job: Job, jobs: Sequence[Job]) -> None:
    """Copies what finished jobs have of a job's stages, and says so."""
    lenders = [other.workdir for other in jobs if other.finished]
    if FLAGS.lenders:
        lenders += sharing.finished_below(pathlib.Path(FLAGS.lenders))
    for line in sharing.borrow(job.workdir, job.config, lenders):
        say(f"{job.run.name}: {line}")


def train(jobs: Sequence[Job], lenders: Sequence[Job], at_a_time: int) -> int:
    """Trains jobs, notes each attempt beside their folders, and says how many are not finished."""
    tasks = [
        pool.Task(
            job.run.name, job.command, job.workdir, functools.partial(borrow, job, lenders)
        )
        for job in jobs
    ]

    def on_end(outcome: pool.Outcome) -> None:
        attempt = {"run": outcome.task.name, "code": outcome.code,
                   "seconds": round(outcome.seconds, 1)}  # fmt: skip
        with (outcome.task.folder.parent / ATTEMPTS_FILE).open("a") as file:
            file.write(json.dumps(attempt) + "\n")

    outcomes = pool.run(tasks, at_a_time, on_end=on_end, on_change=say)
    unfinished = {job.run.name for job in jobs if not job.finished}
    failures = [outcome for outcome in outcomes if outcome.task.name in unfinished]
    for outcome in failures:
        name, folder = outcome.task.name, outcome.task.folder
        if outcome.code is None:
            say(f"\n{name} is being trained by another process.")
            continue
        say(f"\n{name} {pool.ending(outcome.code)} and left no results; the end of its "
            f"{folder / pool.LOG_FILE}:")  # fmt: skip
        say("\n".join(f"    {line}" for line in pool.last_lines(folder, LOG_LINES)))
    return len(failures)


def gather(
    jobs: Sequence[Job], *, name: str, doc: str, command: str, workdir: pathlib.Path, output: str
) -> None:
    """Writes <output>/<name>.md and .json from the runs that are finished, if there are any."""
    finished = [job for job in jobs if job.finished]
    if not finished:
        say("No run has results yet: nothing to gather.")
        return
    attempts = workdir / ATTEMPTS_FILE
    lines = attempts.read_text().splitlines() if attempts.exists() else []
    entries = [
        Entry(
            job.run.name,
            job.run.text,
            job.workdir,
            reference=f"{job.run.data}-{job.run.reference}" if job.run.reference else "",
            buckets=job.run.buckets,
        )
        for job in finished
    ]
    absent = {job.run.name: job.state for job in jobs if not job.finished}
    seconds = sum(json.loads(line)["seconds"] for line in lines)
    sweep = sweeps.Sweep(name, doc, command, entries, absent, seconds)
    for path in sweeps.write(sweep, pathlib.Path(output)):
        say(f"Gathered {len(finished)} of {len(jobs)} runs: {path}")


def shared_command(overrides: Sequence[str]) -> str:
    """This command without what belongs to one machine, for the gathered table."""
    data = ["--data=<folder>"] if FLAGS.data else []
    words = [f"--sweep={FLAGS.sweep}", *data, *map(shlex.quote, overrides)]
    return " ".join(["python launch/sweep.py", *words])


def plan(overrides: Sequence[str], workdir: pathlib.Path) -> tuple[str, list[Job], list[Job]]:
    """Docstring of the sweep, all of its jobs, and those that --only names; all are checked."""
    doc, runs = load_sweep(FLAGS.sweep)
    more = {"command": shlex.split(FLAGS.command)} if FLAGS.command else {}
    jobs = make_jobs(runs, workdir, data=FLAGS.data, overrides=overrides, **more)
    check(jobs)
    chosen = [job for job in jobs if fnmatch.fnmatchcase(job.run.name, FLAGS.only)]
    if not chosen:
        names = ", ".join(job.run.name for job in jobs)
        raise ConfigError(f"--only={FLAGS.only} matches no run. There are {names}.")
    return doc, jobs, chosen


def main(argv: Sequence[str]) -> int:
    """Trains what is to be trained, gathers, and returns the exit code."""
    overrides = argv[1:]
    odd = [word for word in overrides if not word.startswith("--config.") or "=" not in word]
    if odd:
        raise app.UsageError(f"what is {odd[0]!r}? Write --config.<key>=<value>.")
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    name = pathlib.Path(FLAGS.sweep).stem
    workdir = pathlib.Path(FLAGS.workdir or f"runs/sweeps/{name}")
    try:
        doc, jobs, chosen = plan(overrides, workdir)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    pending = [job for job in chosen if not job.finished and not job.missing]
    if FLAGS.print_commands:
        for job in pending:
            say(shlex.join(job.command))
        return 0
    for job in chosen:
        if FLAGS.dry_run or job not in pending:
            say(f"{job.run.name}: {job.state}")
        if FLAGS.dry_run:
            say(f"    {shlex.join(job.command)}")
    if FLAGS.dry_run:
        return 0
    failures = 0
    if not FLAGS.gather_only:
        try:
            failures = train(pending, jobs, FLAGS.jobs)
        except KeyboardInterrupt:
            say("\nInterrupted; the same command goes on from here.")
            return 128 + signal.SIGINT
    command = shared_command(overrides)
    gather(jobs, name=name, doc=doc, command=command, workdir=workdir, output=FLAGS.output)
    return 1 if failures else 0


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Reads our flags; what is left are the command's name and overrides of the runs' configs."""
    ours = [word for word in argv if not word.startswith("--config.")]
    overrides = [word for word in argv if word.startswith("--config.")]
    return app.parse_flags_with_usage(ours) + overrides


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
