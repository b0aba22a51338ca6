"""Runs a sweep's experiments as processes, several at a time, and gathers them into one table.

    python launch/sweep.py --sweep=configs/sweeps/ablations.py
    python launch/sweep.py --sweep=configs/sweeps/main.py --data=data --jobs=4 --only='kuairand-*'
    python launch/sweep.py --sweep=configs/sweeps/labels.py --num_seeds=1 --workdir=runs/try
    python launch/sweep.py --config=configs/nif.py:synthetic --set tsp.weight=0,0.05 --set seed=0,1
    python launch/sweep.py --config=configs/nif.py:synthetic --set tsp.weight=0..0.2 --search=30

Each run is `python -m nif_jax.main --config=... --workdir=<workdir>/<run>`, with its log.txt there.
The same command skips finished runs and resumes the others. Several calls at once, also on several
machines that see this checkout, share the work. Stages that a finished run has trained with equal
settings, of this sweep or of those in --reuse_from, are copied, so after a change of the code use
another --workdir. A run that fails is reported at the end and does not stop the others.
--config.<key>=<value> holds for all runs. Relative paths start at the checkout. docs/sweeps.md
describes --search.
"""

import fnmatch
import functools
import importlib.util
import json
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script finds the modules of its own folder only

import tqdm
from absl import app, flags

from configs.sweeps import common, from_flags
from configs.text import TextError
from launch import pool
from launch.jobs import Job, check, load_sweep, make_jobs, reuse_stages
from nif_jax.data.schema import ConfigError
from nif_jax.reports import page
from nif_jax.reports.results import RESULTS_FILE

FLAGS = flags.FLAGS
flags.DEFINE_string("sweep", None, "The sweep, e.g. configs/sweeps/ablations.py.")
flags.DEFINE_string("config", None, "Instead of --sweep: the config of a grid or search of --set.")
flags.DEFINE_multi_string(
    "set",
    [],
    "<key>=<value>,<value>,... of the grid; once for each key. With --search a range too: "
    "<key>=<low>..<high> or <key>=<low>..<high>:log.",
)
flags.DEFINE_integer("search", None, "Instead of the grid: trials that Optuna chooses.", 1)
flags.DEFINE_string("storage", "", "Of --search: an Optuna URL; default: a file in the workdir.")
flags.DEFINE_integer("trials_at_once", 4, "Of --search: at most so many, over all processes.", 1)
flags.mark_flags_as_mutual_exclusive(["sweep", "config"], required=True)
flags.DEFINE_integer("num_seeds", None, "Short for --config.num_seeds.", 1)
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


def make_task(others: Callable[[], Sequence[Job]], job: Job, **options: Any) -> pool.Task:
    """A job as a task of the pool, with stages of the finished ones of the others."""

    def prepare() -> None:
        folders = [other.workdir for other in others() if other.finished]
        if FLAGS.reuse_from:
            found = sorted(pathlib.Path(FLAGS.reuse_from).glob(f"*/*/{RESULTS_FILE}"))
            folders += [path.parent for path in found]
        for line in reuse_stages(job.workdir, job.config, folders):
            say(f"{job.run.name}: {line}")

    return pool.Task(job.run.name, job.command, job.workdir, prepare, **options)


def train(
    tasks: Iterable[pool.Task | None],
    total: int,
    has_ended: Callable[[str], bool],
    on_end: Callable[[pool.Outcome], None] = lambda _: None,
) -> int:
    """Runs tasks, reports failures, and returns how many have not ended well."""

    def note(outcome: pool.Outcome) -> None:
        name, seconds = outcome.task.name, round(outcome.seconds, 1)
        with (outcome.task.folder.parent / ATTEMPTS_FILE).open("a") as file:
            file.write(json.dumps({"run": name, "code": outcome.code, "seconds": seconds}) + "\n")
        on_end(outcome)

    outcomes = pool.run(tasks, FLAGS.jobs, note, total) if total else []
    failures = [outcome for outcome in outcomes if not has_ended(outcome.task.name)]
    for (name, _, folder, *_), code, _ in failures:
        if code is None:
            say(f"\n{name} is being trained by another process.")
            continue
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        say(f"\n{name} ended with {how} and left no results; from {folder / pool.LOG_FILE}:")
        say("\n".join(f"    {line}" for line in pool.last_lines(folder, LOG_LINES)))
    return len(failures)


def gather(jobs: Sequence[Job], name: str, workdir: pathlib.Path, **about: Any) -> None:
    """Writes <output>/<name>.md from the runs that are finished, if there are any."""
    finished = [job for job in jobs if job.finished]
    if not finished:
        say("No run has results yet: nothing to gather.")
        return
    attempts = workdir / ATTEMPTS_FILE
    lines = attempts.read_text().splitlines() if attempts.exists() else []
    path = page.write_sweep(
        pathlib.Path(FLAGS.output) / f"{name}.md",
        {job.run.name: job.workdir for job in finished},
        references={job.run.name: job.run.reference_name for job in finished},
        with_buckets=[job.run.name for job in finished if job.run.buckets],
        configs={job.run.name: job.run.text for job in finished},
        absent={job.run.name: job.state for job in jobs if not job.finished},
        seconds=sum(json.loads(line)["seconds"] for line in lines),
        **about,
    )
    say(f"Gathered {len(finished)} of {len(jobs)} runs: {path}")


def load(overrides: Sequence[str]) -> tuple[str, str, list[common.Run]]:
    """Name, docstring and runs of --sweep, or of the grid of --config and --set."""
    if FLAGS.config and FLAGS.data:
        raise ConfigError("--data is for --sweep; name the file in --config, source.path=<file>.")
    if FLAGS["storage"].present or FLAGS["trials_at_once"].present:
        raise ConfigError("--storage and --trials_at_once are for a search; add --search=<trials>.")
    if FLAGS.config:
        return from_flags.get_grid(FLAGS.config, FLAGS["set"].value, overrides)
    if FLAGS["set"].value:
        raise ConfigError("--set is for --config; for all runs of a sweep, use --config.<key>=.")
    return pathlib.Path(FLAGS.sweep).stem, *load_sweep(FLAGS.sweep)


def run_listed(command: Sequence[str], overrides: Sequence[str]) -> int:
    """Trains the unfinished runs of a list, gathers all, and returns the exit code."""
    name, doc, runs = load(overrides)
    workdir = pathlib.Path(FLAGS.workdir or f"runs/sweeps/{name}")
    jobs = make_jobs(runs, workdir, command, overrides, data=FLAGS.data)
    check(jobs)
    chosen = [job for job in jobs if fnmatch.fnmatchcase(job.run.name, FLAGS.only)]
    if not chosen:
        names = ", ".join(job.run.name for job in jobs)
        raise ConfigError(f"--only={FLAGS.only} matches no run. There are {names}.")
    pending = {job.run.name: job for job in chosen if job.state == "to do"}
    for job in chosen if FLAGS.dry_run else [job for job in chosen if job.run.name not in pending]:
        shown = f"\n    {shlex.join(job.command)}" if FLAGS.dry_run else ""
        say(f"{job.run.name}: {job.state}{shown}")
    if FLAGS.dry_run:
        return 0
    tasks = [make_task(lambda: jobs, job) for job in pending.values()]
    failures = train(tasks, len(tasks), lambda name: pending[name].finished)
    gather(jobs, name, workdir, doc=doc, command=shown_command(overrides))
    return 1 if failures else 0


def run_search(command: Sequence[str], overrides: Sequence[str]) -> int:
    """Runs the trials of --search, gathers them, and returns the exit code."""
    wrong = [name for name in ("sweep", "only", "data", "dry_run") if FLAGS[name].present]
    if wrong:
        raise ConfigError(f"--{wrong[0]} is not for --search; leave it out.")
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError('--search needs an optional package: pip install "nif_jax[search]"')
    from launch.search import Search

    space = from_flags.get_space(FLAGS.config, FLAGS["set"].value, overrides)
    name = from_flags.name(FLAGS.config, "search", *space)
    workdir = pathlib.Path(FLAGS.workdir or f"runs/sweeps/{name}")
    study = Search(
        name,
        FLAGS.config,
        space,
        workdir,
        functools.partial(make_jobs, workdir=workdir, command=command, overrides=overrides),
        total=FLAGS.search,
        at_once=FLAGS.trials_at_once,
        storage=FLAGS.storage,
        about={"overrides": overrides},
    )
    tasks = study.tasks(functools.partial(make_task, study.jobs))
    failures = train(tasks, FLAGS.search, study.has_ended, study.end)
    doc = f"Which {' and '.join(space)} is best on validation?"
    about = {"doc": doc, "command": shown_command(overrides), "trials": study.lines()}
    gather(study.jobs(), name, workdir, **about)
    return 1 if failures else 0


def shown_command(overrides: Sequence[str]) -> str:
    """The command without what belongs to one machine."""
    words = [f"--config={FLAGS.config}" if FLAGS.config else f"--sweep={FLAGS.sweep}"]
    words += ["--data=<folder>"] if FLAGS.data else []
    words += [f"--set={word}" for word in FLAGS["set"].value]
    if FLAGS.search:
        words += [f"--search={FLAGS.search}", f"--trials_at_once={FLAGS.trials_at_once}"]
    words = [word if "<" in word else shlex.quote(word) for word in [*words, *overrides]]
    return " ".join(["python launch/sweep.py", *words])


def main(argv: Sequence[str]) -> int:
    """Dispatches on --search."""
    overrides = argv[1:]
    odd = [word for word in overrides if not word.startswith("--config.") or "=" not in word]
    if odd:
        raise app.UsageError(f"what is {odd[0]!r}? Write --config.<key>=<value>.")
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    command = shlex.split(FLAGS.command or "") or [sys.executable, "-m", "nif_jax.main"]
    try:
        if FLAGS.num_seeds:
            if any(word.startswith("--config.num_seeds=") for word in overrides):
                raise ConfigError("--num_seeds and --config.num_seeds are the same; leave one out.")
            overrides.append(f"--config.num_seeds={FLAGS.num_seeds}")
        return (run_search if FLAGS.search else run_listed)(command, overrides)
    except (ConfigError, TextError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        say("\nInterrupted; the same command goes on from here.")
        return 128 + signal.SIGINT


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Reads this command's flags; the rest is its name and overrides of the runs' configs."""
    overrides = [word for word in argv if word.startswith("--config.")]
    return app.parse_flags_with_usage([word for word in argv if word not in overrides]) + overrides


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
