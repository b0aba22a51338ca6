"""Finished workdirs, found by name or pattern and read: what reports are made of."""

import dataclasses
import difflib
import fnmatch
import glob
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from nif_jax.config import GROWING
from nif_jax.data.files import file_sha256, read_json
from nif_jax.metrics.records import METRICS_FILE, read_metrics
from nif_jax.reports.lifts import AB_FILE
from nif_jax.reports.results import AGAIN, RESULTS_FILE, read_results
from nif_jax.reports.scores import SCORES_FILE, Scores, read_scores

CONFIG_FILE = "config.json"
_PLOTS = "plots/*.png"


class WorkdirError(ValueError):
    """Workdirs that no report can be made of; the message says which, and the choices."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """A finished run, read.

    Attributes:
      label: its name in tables, unique among the workdirs of a report.
      path: its folder.
      results: see results.py.
      records: of metrics.jsonl; empty if there is none.
      plots: name -> PNG.
      ab: ab.json of an online A/B test, None without one.
    """

    label: str
    path: Path
    results: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]] = ()
    plots: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    ab: Mapping[str, Any] | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        """{"tsp.weight": 0.05, ...}"""
        return self.results["run"].get("config", {})

    @property
    def dataset(self) -> Mapping[str, Any]:
        """What the run says of its data."""
        return self.results["run"].get("dataset", {})

    def scores(self) -> dict[int, Scores]:
        """Seed -> scores of the test impressions, as far as they were kept.

        Raises:
          WorkdirError: a damaged file.
        """
        seeds = sorted({row["seed"] for row in self.results["rows"]})
        files = {seed: self.path / f"seed_{seed}" / SCORES_FILE for seed in seeds}
        check_files(self.path, self.results, f"*/{SCORES_FILE}")
        try:
            return {seed: read_scores(file) for seed, file in files.items() if file.exists()}
        except ValueError as error:
            raise WorkdirError(str(error)) from error


def find(patterns: Sequence[str]) -> list[Path]:
    """Finished workdirs by path or by pattern (runs/*), each once, in the order given.

    What a pattern matches beside workdirs is passed over; an unfinished workdir is an error.

    Raises:
      WorkdirError: no patterns, nothing there, or a run that has not finished.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
        if glob.has_magic(pattern) and not Path(pattern).is_dir():
            matches = [path for path in matches if _is_workdir(path)]
        if not matches:
            raise WorkdirError(f"no workdir at {pattern}.{_choices(Path(pattern))}")
        for path in matches:
            if not (path / RESULTS_FILE).exists():
                state = (
                    f"has not finished: it has no {RESULTS_FILE}. Give its command again to go on "
                    "with it" if _is_workdir(path) else "is no workdir of a run"
                )  # fmt: skip
                raise WorkdirError(f"{path} {state}.{_choices(path)}")
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
    return all(there.get(key) == config[key] for key in GROWING)


def list_files(path: Path) -> dict[str, str]:
    """"files" of results.json: {file that reports read: SHA-256}."""
    found = [path / METRICS_FILE, *path.glob(f"seed_*/{SCORES_FILE}"), *path.glob(_PLOTS)]
    there = sorted(file for file in found if file.is_file())
    return {file.relative_to(path).as_posix(): file_sha256(file) for file in there}


def check_files(path: Path, results: Mapping[str, Any], pattern: str = "*") -> None:
    """Raises WorkdirError if a file of a workdir is not the one that its results were written with.

    Args:
      path: the workdir.
      results: its results.json.
      pattern: of the files that are checked.
    """
    for name, digest in results.get("files", {}).items():
        if not fnmatch.fnmatchcase(name, pattern):
            continue
        file = path / name
        if not file.is_file() or file_sha256(file) != digest:
            state = "has changed" if file.exists() else "is missing"
            raise WorkdirError(f"{file} {state} since {RESULTS_FILE} was written. {AGAIN}")


def read(path: str | os.PathLike[str], label: str | None = None) -> Workdir:
    """Reads a finished workdir; the label is its folder's name if none is given.

    Raises:
      WorkdirError: no results, or a file that is damaged or missing; names it.
    """
    path = Path(path)
    try:
        results = read_results(path)
        for pattern in (METRICS_FILE, _PLOTS):
            check_files(path, results, pattern)
        return Workdir(
            label=label or path.resolve().name,
            path=path,
            results=results,
            records=_read_if_there(path / METRICS_FILE, read_metrics, AGAIN) or (),
            plots={file.stem: file.read_bytes() for file in path.glob(_PLOTS)},
            ab=_read_if_there(path / AB_FILE, read_json, "Delete it, or write it with --mode=ab"),
        )
    except WorkdirError:
        raise
    except (OSError, ValueError) as error:
        raise WorkdirError(str(error)) from error


def _read_if_there(path: Path, reader: Callable[[Path], Any], remedy: str) -> Any:
    """What a reader makes of a file, or None where there is none."""
    try:
        return reader(path) if path.exists() else None
    except ValueError as error:
        raise WorkdirError(f"{error}. {remedy}") from error


def read_all(patterns: Sequence[str]) -> list[Workdir]:
    """Finds and reads workdirs; labels are as short as they can be and differ.

    Raises:
      WorkdirError: as `find` and `read`.
    """
    paths = find(patterns)
    return [read(path, label) for path, label in zip(paths, labels(paths), strict=True)]


def labels(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _is_workdir(path: Path) -> bool:
    return (path / CONFIG_FILE).exists() or (path / RESULTS_FILE).exists()


def _choices(missing: Path) -> str:
    """What is there instead: finished workdirs beside it, the nearest name first."""
    beside = sorted(str(path.parent) for path in missing.parent.glob(f"*/{RESULTS_FILE}"))
    if not beside:
        return f" There is no finished workdir in {missing.parent}."
    near = difflib.get_close_matches(str(missing), beside, n=1)
    hint = f" Did you mean {near[0]}?" if near and near[0] != str(missing) else ""
    more = f" and {len(beside) - 12} more" if len(beside) > 12 else ""
    return f"{hint} Finished ones: {', '.join(beside[:12])}{more}."
