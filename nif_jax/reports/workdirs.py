"""Finished workdirs, found by name or pattern and read: the input of reports."""

import difflib
import fnmatch
import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from nif_jax.config import EXTENDABLE
from nif_jax.data.files import file_sha256, read_json
from nif_jax.metrics.records import METRICS_FILE, read_metrics
from nif_jax.reports.lifts import AB_FILE
from nif_jax.reports.results import AGAIN, RESULTS_FILE, read_results
from nif_jax.reports.scores import SCORES_FILE, Scores, read_scores

CONFIG_FILE = "config.json"
_PLOTS = "plots/*.png"


class WorkdirError(ValueError):
    """Workdirs that no report can be made of; the message names them and the choices."""


class Workdir(NamedTuple):
    """A finished run, read."""

    label: str  # its name in tables, unique among the workdirs of a report
    path: Path
    results: Mapping[str, Any]  # see results.py
    records: Sequence[Mapping[str, Any]]  # of metrics.jsonl; empty if there is none
    plots: Mapping[str, bytes]  # name -> PNG
    ab: Mapping[str, Any] | None  # ab.json of an online A/B test

    @property
    def config(self) -> Mapping[str, Any]:
        """{"tsp.weight": 0.05, ...}"""
        return self.results["run"].get("config", {})

    @property
    def dataset(self) -> Mapping[str, Any]:
        """The description of the data."""
        return self.results["run"].get("dataset", {})

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The rows of results.json."""
        return self.results["rows"]

    @property
    def data_name(self) -> str:
        """The name of the data set, or "n/a"."""
        return self.dataset.get("name", "n/a")

    def scores(self) -> dict[int, Scores]:
        """Seed -> scores of the test impressions, as far as they were kept.

        Raises WorkdirError for a damaged file.
        """
        check_files(self.path, self.results, f"*/{SCORES_FILE}")
        seeds = sorted({row["seed"] for row in self.rows})
        files = {seed: self.path / f"seed_{seed}" / SCORES_FILE for seed in seeds}
        try:
            return {seed: read_scores(file) for seed, file in files.items() if file.exists()}
        except ValueError as error:
            raise WorkdirError(str(error)) from error


def find(patterns: Sequence[str]) -> list[Path]:
    """Finished workdirs by path or by pattern (runs/*), each once, in the order given.

    Raises WorkdirError where there is no pattern or no match, and for a run that has not finished.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
        if glob.has_magic(pattern) and not Path(pattern).is_dir():
            matches = [path for path in matches if _is_workdir(path)]
        for path in matches or [Path(pattern)]:
            if not (path / RESULTS_FILE).exists():
                problem = f"{path} is no workdir of a run" if matches else f"no workdir at {path}"
                if _is_workdir(path):
                    problem = f"{path} has not finished (no {RESULTS_FILE}). Give its command again"
                raise WorkdirError(f"{problem}.{_choices(path)}")
            found.setdefault(path.resolve(), path)
    if not found:
        raise WorkdirError("no workdirs given; say which, e.g. --workdirs=runs/a,runs/b")
    return list(found.values())


def is_finished(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a workdir has the intact results of all seeds and rows of a flat config.

    A damaged or missing file gets a warning that names it: the run's command writes it again.
    """
    if not (path / RESULTS_FILE).exists():
        return False
    try:
        found = read_results(path)
        check_files(path, found)
    except ValueError as error:
        logging.warning("%s", error)
        return False
    there = found["run"].get("config", {})
    return all(there.get(key) == config[key] for key in EXTENDABLE)


def list_files(path: Path) -> dict[str, str]:
    """Value of "files" in results.json: {file that reports read: SHA-256}."""
    patterns = (METRICS_FILE, f"seed_*/{SCORES_FILE}", _PLOTS)
    files = sorted(file for pattern in patterns for file in path.glob(pattern))
    return {file.relative_to(path).as_posix(): file_sha256(file) for file in files}


def check_files(path: Path, results: Mapping[str, Any], pattern: str = "*") -> None:
    """Raises WorkdirError if a file that matches is not the one that results.json lists."""
    for name in fnmatch.filter(results.get("files", {}), pattern):
        file = path / name
        if not file.is_file() or file_sha256(file) != results["files"][name]:
            state = "has changed" if file.exists() else "is missing"
            raise WorkdirError(f"{file} {state} since {RESULTS_FILE} was written. {AGAIN}")


def read(path: str | os.PathLike[str], label: str | None = None) -> Workdir:
    """Reads a finished workdir; the label is its folder's name if none is given.

    Raises WorkdirError where there are no results, and for a file that is damaged or missing.
    """
    path, remedy = Path(path), ""
    try:
        results = read_results(path)
        for pattern in (METRICS_FILE, _PLOTS):
            check_files(path, results, pattern)
        plots = {file.stem: file.read_bytes() for file in path.glob(_PLOTS)}
        records = read_metrics(path / METRICS_FILE) if (path / METRICS_FILE).exists() else ()
        remedy = ". Delete it, or write it with --mode=ab"
        ab = read_json(path / AB_FILE) if (path / AB_FILE).exists() else None
    except (OSError, ValueError) as error:
        raise WorkdirError(f"{error}{remedy}") from error
    return Workdir(label or path.resolve().name, path, results, records, plots, ab)


def read_all(patterns: Sequence[str]) -> list[Workdir]:
    """Finds and reads workdirs; their labels differ."""
    paths = find(patterns)
    return [read(path, label) for path, label in zip(paths, labels(paths), strict=True)]


def labels(paths: Sequence[Path]) -> list[str]:
    """The paths below the folder that they have in common."""
    whole = [path.resolve() for path in paths]
    common = os.path.commonpath([path.parent for path in whole])
    return [path.relative_to(common).as_posix() for path in whole]


def _is_workdir(path: Path) -> bool:
    return (path / CONFIG_FILE).exists() or (path / RESULTS_FILE).exists()


def _choices(missing: Path) -> str:
    """The finished workdirs beside a path, the nearest name first."""
    beside = sorted(str(path.parent) for path in missing.parent.glob(f"*/{RESULTS_FILE}"))
    if not beside:
        return f" There is no finished workdir in {missing.parent}."
    near = difflib.get_close_matches(str(missing), beside, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{hint} Finished ones: {', '.join(beside[:12])}{', ...' if len(beside) > 12 else ''}."
