"""The runs of a sweep as jobs of this machine: commands, configs, and stages that they share.

A stage that another run has trained with equal settings is copied, not trained again.
"""

import dataclasses
import functools
import json
import pathlib
import runpy
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from configs.sweeps import common
from nif_jax.config import STAGE_KEYS, flatten, run_differences, stage_settings
from nif_jax.data.files import read_json
from nif_jax.data.preparation.identity import load_identity
from nif_jax.data.schema import ConfigError, DataError
from nif_jax.experiment import flag_errors
from nif_jax.experiment.claims import DATA_FILE
from nif_jax.metrics.records import METRICS_FILE, good_records
from nif_jax.metrics.writer import MetricWriter
from nif_jax.reports.workdirs import CONFIG_FILE, is_finished
from nif_jax.training.checkpoint import DAMAGED
from nif_jax.variants import require_variants

SWEEPS = pathlib.Path(common.__file__).parent


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of the sweep on this machine."""

    run: common.Run
    workdir: pathlib.Path
    command: Sequence[str]
    missing: str = ""  # the data file that it needs and that is not there
    ended: str = ""  # why a search has ended it without results, in words

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """Flat; raises or exits as nif_jax.main would."""
        return flatten(build_config(self.command).to_dict())

    @property
    def finished(self) -> bool:
        """Whether it has the results of all its seeds and rows."""
        return not self.ended and is_finished(self.workdir, self.config)

    @property
    def state(self) -> str:
        """In words."""
        if self.ended or self.finished:
            return self.ended or "finished"
        return f"skipped, there is no {self.missing}" if self.missing else "to do"


def load_sweep(path: str) -> tuple[str, list[common.Run]]:
    """Docstring and runs of a sweep file; raises ConfigError if it is none."""
    file = pathlib.Path(path)
    if file.suffix != ".py" or not file.is_file():
        others = {"__init__", "common", "from_flags"}
        names = ", ".join(sorted({p.stem for p in SWEEPS.glob("*.py")} - others))
        raise ConfigError(f"--sweep={path} is no Python file. configs/sweeps has {names}.")
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
        folder, missing = workdir / run.name, ""
        words = [f"--config={run.text}", f"--workdir={folder}"]
        if run.file:
            path = pathlib.Path(data or "<--data>") / run.file
            words.append(f"--config.source.path={path}")
            missing = "" if path.exists() else str(path)
        jobs[run.name] = Job(run, folder, [*command, *words, *overrides], missing)
    return list(jobs.values())


def build_config(command: Sequence[str]) -> ConfigDict:
    """The config that nif_jax.main would make of its command; raises or exits as it would."""
    values = flags.FlagValues()
    argv = ["sweep", *(word for word in command if word.startswith("--config"))]
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=argv)
    flag_errors.parse(argv, values)
    require_variants(values.config)
    return values.config


def check(jobs: Sequence[Job]) -> None:
    """Raises ConfigError unless every config can be built, and no folder belongs to another."""
    names: dict[str, list[str]] = {}
    for job in jobs:
        names.setdefault(_fault(job), []).append(job.run.name)
    faults = [f"{n[0]}{' and others' * (len(n) > 1)}: {why}" for why, n in names.items() if why]
    if faults:
        raise ConfigError("nothing was started.\n  " + "\n  ".join(faults))


def _fault(job: Job) -> str:
    """Why a job cannot be started, or ""."""
    try:
        wanted = dict(job.config)
    except (ConfigError, SystemExit) as error:
        return str(error).removeprefix("error: ")
    try:
        there = read_json(job.workdir / CONFIG_FILE)
    except FileNotFoundError:
        return ""
    except ValueError as error:  # the run's own command writes it again
        logging.warning("%s", error)
        return ""
    if job.missing:  # results can be gathered where the data is not
        wanted["source.path"] = there["source.path"]
    changed = "\n    ".join(run_differences(wanted, there, extend=True))
    return changed and (
        f"{job.workdir} belongs to a run with another config (there -> here); use another "
        f"--workdir, or delete that folder to start over:\n    {changed}"
    )


def reuse_stages(
    workdir: pathlib.Path, config: Mapping[str, Any], others: Iterable[pathlib.Path]
) -> list[str]:
    """Copies into a run's folder the stages that it would train to the same end.

    Seed by seed: a stage that `workdir` has begun stays as it is. One whose stage_settings are
    equal in another run comes from there, with its lines of metrics.jsonl, without TensorBoard's.
    Only runs that were trained on the data that the flat config names now are used: a file at the
    same path may have changed since. They are finished, and trained by the same code. Returns
    "seed_0/base from <run>" for each stage.
    """
    found, data = [], None
    seeds = [f"seed_{config['seed'] + i}" for i in range(config["num_seeds"])]
    for other in others:
        bests = sorted(path for seed in seeds for path in other.glob(f"{seed}/*/best"))
        try:
            theirs = read_json(other / CONFIG_FILE) if bests else {}
            stages = [b.parent for b in bests if _is_wanted(b.parent, workdir, config, theirs)]
            if stages and data is None:
                data = load_identity(config)
            if stages and read_json(other / DATA_FILE) != data:
                logging.info("%s was trained on other data; nothing is copied from it", other)
                continue
        except (DataError, FileNotFoundError, ValueError) as error:
            logging.warning("nothing is copied from %s: %s", other, error)
            continue
        for stage in stages:
            _copy(stage, workdir / stage.parent.name)
            found.append(f"{stage.parent.name}/{stage.name} from {other.name}")
    return found


def _is_wanted(
    stage: pathlib.Path, workdir: pathlib.Path, config: Mapping[str, Any], theirs: Mapping[str, Any]
) -> bool:
    """Whether a run would train another run's stage to the same end, and has not begun it."""
    needed = stage.name in config["rows"] or stage.name.startswith(tuple(STAGE_KEYS))
    begun = (workdir / stage.parent.name / stage.name).exists()
    return (
        needed
        and not begun
        and stage_settings(stage.name, theirs) == stage_settings(stage.name, config)
    )


def _copy(stage: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the records first, and renames the folder last: where it exists, it is complete."""
    temporary = folder / f"{stage.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(stage, temporary, ignore=shutil.ignore_patterns(DAMAGED))
    with MetricWriter(folder) as writer:
        writer.truncate_after(-1, stage.name)  # of a copy that was cut short
    records = [r for r in good_records(stage.parent / METRICS_FILE) if r["stage"] == stage.name]
    with (folder / METRICS_FILE).open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    temporary.rename(folder / stage.name)
