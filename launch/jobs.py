"""The runs of a sweep as jobs of this machine: folders, commands, and configs that are checked."""

import dataclasses
import functools
import pathlib
import runpy
from collections.abc import Sequence
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from configs.sweeps import common
from nif_jax.config import flatten, run_differences
from nif_jax.data.files import read_json
from nif_jax.data.schema import ConfigError
from nif_jax.reports.workdirs import CONFIG_FILE, is_finished
from nif_jax.variants import require_variants

SWEEPS = pathlib.Path(common.__file__).parent


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of the sweep on this machine."""

    run: common.Run
    workdir: pathlib.Path
    command: Sequence[str]
    missing: str = ""  # the data file that it needs and that is not there

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """Flat; raises what nif_jax.main would raise."""
        return flatten(build_config(self.command).to_dict())

    @property
    def finished(self) -> bool:
        """Whether it has the results of all its seeds and rows."""
        return is_finished(self.workdir, self.config)

    @property
    def state(self) -> str:
        """In words."""
        if self.finished:
            return "finished"
        return f"skipped, there is no {self.missing}" if self.missing else "to do"


def load_sweep(path: str) -> tuple[str, list[common.Run]]:
    """Docstring and runs of a sweep file; raises ConfigError if it is none."""
    file = pathlib.Path(path)
    if file.suffix != ".py" or not file.is_file():
        choices = sorted({p.stem for p in SWEEPS.glob("*.py")} - {"__init__", "common"})
        raise ConfigError(
            f"--sweep={path} is no Python file. configs/sweeps has {', '.join(choices)}."
        )
    module = runpy.run_path(path)
    if "get_sweep" not in module:
        raise ConfigError(f"--sweep={path} has no get_sweep().")
    return module["__doc__"] or "", module["get_sweep"]()


def make_jobs(
    runs: Sequence[common.Run],
    workdir: pathlib.Path,
    command: Sequence[str] = (),
    overrides: Sequence[str] = (),
    data: str = "",
) -> list[Job]:
    """The runs with folders in `workdir` and commands; raises ConfigError for a name used twice.

    A run's --config and --workdir and the overrides, --config.<key>=<value>, follow `command`.
    `data` is the folder of parquet files; without it, runs that need one are skipped.
    """
    jobs: dict[str, Job] = {}
    for run in runs:
        if run.name in jobs:
            raise ConfigError(f"the sweep has several runs called {run.name}.")
        folder, file, missing = workdir / run.name, common.DATA[run.data].file, ""
        words = [f"--config={run.text}", f"--workdir={folder}"]
        if file:
            path = pathlib.Path(data or "<--data>") / file
            words.append(f"--config.source.path={path}")
            missing = "" if path.exists() else str(path)
        jobs[run.name] = Job(run, folder, [*command, *words, *overrides], missing)
    return list(jobs.values())


def build_config(command: Sequence[str]) -> ConfigDict:
    """The config that nif_jax.main would make of its command; raises what it would raise."""
    values = flags.FlagValues()
    argv = ["sweep", *(word for word in command if word.startswith("--config"))]
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=argv)
    values(argv)
    require_variants(values.config)
    return values.config


def check(jobs: Sequence[Job]) -> None:
    """Raises ConfigError unless every config can be built, and no folder belongs to another."""
    faults = [fault for job in jobs if (fault := _fault(job))]
    if faults:
        raise ConfigError("nothing was started.\n  " + "\n  ".join(faults))


def _fault(job: Job) -> str:
    """Why a job cannot be started, or ""."""
    try:
        wanted = dict(job.config)
    except (ConfigError, ValueError, TypeError, LookupError, AttributeError, flags.Error) as error:
        return f"{job.run.name}: {_reason(error)}"
    path = job.workdir / CONFIG_FILE
    try:
        there = read_json(path) if path.exists() else wanted
    except ValueError as error:  # its own command writes it again
        logging.warning("%s", error)
        there = wanted
    if job.missing:  # results can be gathered where the data is not
        wanted["source.path"] = there["source.path"]
    changed = run_differences(wanted, there, grow=True)
    if not changed:
        return ""
    return (
        f"{job.workdir} belongs to a run with another config (there -> here); use another "
        "--workdir, or delete that folder to start over:\n    " + "\n    ".join(changed)
    )


def _reason(error: Exception) -> str:
    """The message of an error of a config in one line, without the traceback that some carry."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    lines = str(error.args[0] if error.args else error).strip().splitlines()
    text = lines[-1] if "Traceback" in " ".join(lines) else " ".join(lines)
    return f"no config key {text}" if isinstance(error, LookupError) else text
