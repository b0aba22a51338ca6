"""Runs a sweep's experiments as processes, several at a time, and gathers them into one table.

    python launch/sweep.py --sweep=configs/sweeps/ablations.py
    python launch/sweep.py --sweep=configs/sweeps/main.py --data=data --jobs=4 --only='kuairand-*'
    python launch/sweep.py --sweep=configs/sweeps/labels.py --config.num_seeds=1 --workdir=runs/try

Each run is `python -m nif_jax.main --config=... --workdir=<workdir>/<run>`, with its log.txt there.
The same command skips finished runs and resumes the others. Several calls at once, also on several
machines that see this checkout, share the work. Stages that a finished run has trained with equal
settings, of this sweep or of those in --reuse_from, are copied, so after a change of the code use
another --workdir. A run that fails is reported at the end and does not stop the others.
--config.<key>=<value> holds for all runs. Relative paths start at the checkout.
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

import tqdm
from absl import app, flags

from launch import pool
from launch.jobs import Job, check, load_sweep, make_jobs, reuse_stages
from nif_jax.data.schema import ConfigError
from nif_jax.reports import page
from nif_jax.reports.results import RESULTS_FILE

FLAGS = flags.FLAGS
flags.DEFINE_string("sweep", None, "The sweep, e.g. configs/sweeps/ablations.py.", required=True)
flags.DEFINE_integer("jobs", 2, "Runs at a time, each with its share of the cores.", 1)
flags.DEFINE_string("only", "*", "Train the runs whose names match this pattern.")
flags.DEFINE_string("data", "", "Folder of the parquet files that configs/sweeps/common.py names.")
flags.DEFINE_string("workdir", None, "Folder of the runs; default runs/sweeps/<sweep>.")
flags.DEFINE_string(
    "reuse_from", "", "Folder of other sweeps' workdirs, to copy equal stages from."
)
flags.DEFINE_string("output", "results", "Folder of the gathered <sweep>.md.")
flags.DEFINE_bool("dry_run", False, "Print what would be done, and do nothing.")
flags.DEFINE_string("command", None, "What trains a run; default: this Python -m nif_jax.main.")

ATTEMPTS_FILE = "attempts.jsonl"
LOG_LINES = 12
say = functools.partial(tqdm.tqdm.write, file=sys.stdout)


def train(jobs: Sequence[Job], others: Sequence[Job]) -> int:
    """Trains jobs, reports failures, and returns how many are not finished."""

    def prepare(job: Job) -> None:
        folders = [other.workdir for other in others if other.finished]
        if FLAGS.reuse_from:
            found = sorted(pathlib.Path(FLAGS.reuse_from).glob(f"*/*/{RESULTS_FILE}"))
            folders += [path.parent for path in found]
        for line in reuse_stages(job.workdir, job.config, folders):
            say(f"{job.run.name}: {line}")

    def note(outcome: pool.Outcome) -> None:
        name, seconds = outcome.task.name, round(outcome.seconds, 1)
        with (outcome.task.folder.parent / ATTEMPTS_FILE).open("a") as file:
            file.write(json.dumps({"run": name, "code": outcome.code, "seconds": seconds}) + "\n")

    tasks = [
        pool.Task(job.run.name, job.command, job.workdir, functools.partial(prepare, job))
        for job in jobs
    ]
    outcomes = pool.run(tasks, FLAGS.jobs, note)
    unfinished = {job.run.name for job in jobs if not job.finished}
    failures = [outcome for outcome in outcomes if outcome.task.name in unfinished]
    for (name, _, folder, _), code, _ in failures:
        if code is None:
            say(f"\n{name} is being trained by another process.")
            continue
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        say(f"\n{name} ended with {how} and left no results; from {folder / pool.LOG_FILE}:")
        say("\n".join(f"    {line}" for line in pool.last_lines(folder, LOG_LINES)))
    return len(failures)


def gather(jobs: Sequence[Job], doc: str, command: str, workdir: pathlib.Path) -> None:
    """Writes <output>/<sweep>.md from the runs that are finished, if there are any."""
    finished = [job for job in jobs if job.finished]
    if not finished:
        say("No run has results yet: nothing to gather.")
        return
    attempts = workdir / ATTEMPTS_FILE
    lines = attempts.read_text().splitlines() if attempts.exists() else []
    path = page.write_sweep(
        pathlib.Path(FLAGS.output) / f"{pathlib.Path(FLAGS.sweep).stem}.md",
        {job.run.name: job.workdir for job in finished},
        references={
            job.run.name: job.run.reference and f"{job.run.data}-{job.run.reference}"
            for job in finished
        },
        with_buckets=[job.run.name for job in finished if job.run.buckets],
        doc=doc,
        command=command,
        configs={job.run.name: job.run.text for job in finished},
        absent={job.run.name: job.state for job in jobs if not job.finished},
        seconds=sum(json.loads(line)["seconds"] for line in lines),
    )
    say(f"Gathered {len(finished)} of {len(jobs)} runs: {path}")


def main(argv: Sequence[str]) -> int:
    """Trains unfinished runs, gathers, and returns the exit code."""
    overrides = argv[1:]
    odd = [word for word in overrides if not word.startswith("--config.") or "=" not in word]
    if odd:
        raise app.UsageError(f"what is {odd[0]!r}? Write --config.<key>=<value>.")
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    workdir = pathlib.Path(FLAGS.workdir or f"runs/sweeps/{pathlib.Path(FLAGS.sweep).stem}")
    command = shlex.split(FLAGS.command or "") or [sys.executable, "-m", "nif_jax.main"]
    try:
        doc, runs = load_sweep(FLAGS.sweep)
        jobs = make_jobs(runs, workdir, command, overrides, data=FLAGS.data)
        check(jobs)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    chosen = [job for job in jobs if fnmatch.fnmatchcase(job.run.name, FLAGS.only)]
    if not chosen:
        names = ", ".join(job.run.name for job in jobs)
        sys.exit(f"error: --only={FLAGS.only} matches no run. There are {names}.")
    pending = [job for job in chosen if job.state == "to do"]
    for job in chosen if FLAGS.dry_run else [job for job in chosen if job not in pending]:
        command = f"\n    {shlex.join(job.command)}" if FLAGS.dry_run else ""
        say(f"{job.run.name}: {job.state}{command}")
    if FLAGS.dry_run:
        return 0
    try:
        failures = train(pending, jobs)
    except KeyboardInterrupt:
        say("\nInterrupted; the same command goes on from here.")
        return 128 + signal.SIGINT
    # The command without what belongs to one machine.
    data = ["--data=<folder>"] if FLAGS.data else []
    words = [f"--sweep={FLAGS.sweep}", *data, *map(shlex.quote, overrides)]
    gather(jobs, doc, " ".join(["python launch/sweep.py", *words]), workdir)
    return 1 if failures else 0


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Reads this command's flags; the rest is its name and overrides of the runs' configs."""
    overrides = [word for word in argv if word.startswith("--config.")]
    return app.parse_flags_with_usage([word for word in argv if word not in overrides]) + overrides


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
