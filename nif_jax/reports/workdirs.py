"""Finished workdirs, found by name or pattern and read: what reports are made of."""

import dataclasses
import difflib
import glob
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nif_jax.config_keys import GROWING
from nif_jax.metrics.writer import METRICS_FILE, read_metrics
from nif_jax.reports.lifts import AB_FILE
from nif_jax.reports.results import RESULTS_FILE, read_results
from nif_jax.reports.scores import SCORES_FILE, Scores, read_scores

CONFIG_FILE = "config.json"
PLOTS_FOLDER = "plots"


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
    """Whether a workdir has the results of all seeds and rows of a flat config.

    Raises:
      ValueError: results.json cannot be read; names it.
    """
    if not (path / RESULTS_FILE).exists():
        return False
    there = read_results(path)["run"]["config"]
    return all(there[key] == config[key] for key in GROWING)


def read(path: str | os.PathLike[str], label: str | None = None) -> Workdir:
    """Reads a finished workdir; the label is its folder's name if none is given.

    Raises:
      WorkdirError: no results, or a file that cannot be read; names it.
    """
    path = Path(path)
    metrics, ab = path / METRICS_FILE, path / AB_FILE
    try:
        return Workdir(
            label=label or path.resolve().name,
            path=path,
            results=read_results(path),
            records=read_metrics(metrics) if metrics.exists() else (),
            plots={file.stem: file.read_bytes() for file in (path / PLOTS_FOLDER).glob("*.png")},
            ab=_json(ab) if ab.exists() else None,
        )
    except (FileNotFoundError, ValueError) as error:
        raise WorkdirError(str(error)) from error


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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}; delete it, or write it again") from error


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
