"""The trials of `launch/sweep.py --search` as runs, shared by all processes that search.

A study holds the trials (nif_jax/experiment/study.py), the workdir their runs. A trial whose
process has ended too early is resumed by whichever process finds it first.
"""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from configs.sweeps import from_flags
from launch import pool
from launch.jobs import Job, build_config, check
from nif_jax.data.schema import ConfigError
from nif_jax.experiment import search, study
from nif_jax.experiment.settings import require_valid_settings
from nif_jax.training.loop import NonFiniteLossError

POLL_SECONDS = 1.0


class Search:
    """The trials of a command as jobs."""

    def __init__(
        self,
        name: str,
        config: str,
        space: from_flags.Space,
        workdir: pathlib.Path,
        make: Callable[[Sequence[from_flags.GridRun]], list[Job]],
        *,
        about: Mapping[str, Any],
        **options: Any,
    ):
        """Checks the ends of all ranges and opens the study, which is made if there is none.

        Args:
          name: of the study.
          config: config file and text.
          space: what is searched.
          workdir: of the trials' folders.
          make: makes jobs of runs.
          about: what else decides on the trials.
          **options: of Study.

        Raises:
          ConfigError: a setting is wrong, or the study has been made by another command.
        """
        self._config, self._make = config, make
        self._jobs: dict[int, Job] = {}
        self._running: set[int] = set()  # here
        self._failed: set[int] = set()  # here
        self._done: set[int] = set()  # ended, and their results are there
        self._sizes: dict[int, int] = {}  # of the metrics of runs
        first = self._check(space)
        about = {"config": config, **about} | {f"--set {k}": list(v) for k, v in space.items()}
        ranges = search.distributions(space, first)
        self._study = study.Study(name, workdir, ranges, seed=first["seed"], about=about, **options)

    def _check(self, space: from_flags.Space) -> dict[str, Any]:
        """The flat config of the first corner of the space; every value is tried in one of them."""
        ends = {k: v[:2] if isinstance(v, from_flags.Range) else v for k, v in space.items()}
        corners = [{key: values[0] for key, values in ends.items()}]
        corners += [corners[0] | {key: v} for key, values in ends.items() for v in values[1:]]
        names = [",".join(f"{key}={value}" for key, value in one.items()) for one in corners]
        jobs = self._make(
            [
                from_flags.GridRun("", name, self._config, one)
                for name, one in zip(names, corners, strict=True)
            ]
        )
        check(jobs)
        for job in jobs:
            try:
                require_valid_settings(build_config(job.command))
            except ConfigError as error:
                raise ConfigError(f"nothing was started.\n  {job.run.name}: {error}") from error
        return jobs[0].config

    def job(self, trial: FrozenTrial) -> Job:
        """The run of a trial, with what became of it."""
        number = trial.number
        if number not in self._jobs:
            settings = {key: str(value) for key, value in trial.params.items()}
            run = from_flags.GridRun("", f"trial_{number:03d}", self._config, settings)
            (self._jobs[number],) = self._make([run])
        return dataclasses.replace(self._jobs[number], ended=study.ended(trial))

    def jobs(self) -> list[Job]:
        """Of all trials that have been started."""
        return [self.job(trial) for trial in self._study.trials()]

    def lines(self) -> list[dict[str, str]]:
        """The table of trials, the best one on validation first."""
        lines = []
        for trial in study.by_value(self._study.trials()):
            job = self.job(trial)
            value = "–" if job.ended or trial.value is None else f"{trial.value:.4f}"
            line = {"trial": job.run.name, **job.run.settings}
            line |= {f"{job.config['train.metric']} on validation": value, "state": job.state}
            lines.append(line)
        return lines

    def has_ended(self, name: str) -> bool:
        """Whether a trial has come to its end, by its name."""
        return _number(name) not in self._failed

    def tasks(self, make: Callable[..., pool.Task]) -> Iterator[pool.Task | None]:
        """Trials to run here, one at a time; None while there is none.

        It ends when all trials have ended, or when those that have not failed here.

        Args:
          make: a task of a job and of `enough`, a function that says whether to stop the run.
        """
        checked = -math.inf
        while True:
            if time.monotonic() < checked + POLL_SECONDS:
                yield None
                continue
            with self._study.lock:
                trial, elsewhere = self._next()
            if trial is not None:
                self._running.add(trial.number)
                yield make(self.job(trial), enough=functools.partial(self._is_enough, trial))
            elif elsewhere or self._running:
                checked = time.monotonic()
                yield None
            else:
                return

    def _next(self) -> tuple[FrozenTrial | None, bool]:
        """The next trial to run here; without one, whether another process runs one."""
        elsewhere = False
        for trial in self._study.trials():
            if trial.number in self._running | self._failed | self._done:
                continue
            if pool.is_running(self.job(trial).workdir):
                elsewhere = True
            elif not self._settle(trial.number):
                return trial, False
        return self._study.start(), elsewhere

    def _settle(self, number: int, diverged: bool = False) -> bool:
        """Whether a trial has ended, see Study.settle, and its results are there if it has any."""
        job = self.job(self._study.trials()[number])
        told = self._study.settle(
            number, job.workdir, job.config, finished=job.finished, diverged=diverged
        )
        job = self.job(self._study.trials()[number])
        if told and (job.ended or job.finished):
            self._done.add(number)
        return number in self._done

    def _is_enough(self, trial: FrozenTrial) -> bool:
        """Whether to stop a run, which is pruned."""
        job = self.job(trial)
        file = job.workdir / f"seed_{job.config['seed']}" / search.METRICS_FILE
        size = file.stat().st_size if file.exists() else 0
        if size == self._sizes.get(trial.number, 0):
            return False
        self._sizes[trial.number] = size
        with self._study.lock:
            return self._settle(trial.number) and not job.finished

    def end(self, outcome: pool.Outcome) -> None:
        """Tells the study what a run that has ended here came to."""
        number = _number(outcome.task.name)
        self._running.discard(number)
        diverged = outcome.code == NonFiniteLossError.exit_code
        with self._study.lock:
            elsewhere = outcome.code is None
            if not elsewhere and not self._settle(number, diverged):
                self._failed.add(number)


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])
