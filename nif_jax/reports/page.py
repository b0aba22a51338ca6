"""report.html: the results of one run or of many, on one page that opens offline."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nif_jax.data.files import write_whole
from nif_jax.reports import across, curves, overview, tables, workdirs
from nif_jax.reports.render import render
from nif_jax.reports.results import HISTORIES
from nif_jax.reports.workdirs import Workdir

REPORT_FILE = "report.html"


def write_report(workdir: str | os.PathLike[str]) -> Path:
    """Writes <workdir>/report.html of a finished run, and returns where.

    The page names the parts that are missing. A page that would be the same is left alone. Raises
    WorkdirError where there are no results, or a file cannot be read.
    """
    path, content = Path(workdir) / REPORT_FILE, one_run(workdirs.read(workdir))
    if not path.is_file() or path.read_bytes() != content.encode():
        write_whole(path, content)
    return path


def write_many(patterns: Sequence[str], output: str | os.PathLike[str], command: str) -> Path:
    """Writes the page (.html) or the tables (.md) of workdirs, and returns where.

    Args:
      patterns: workdirs, by path or pattern.
      output: the file; its ending selects the form. Raises WorkdirError for any other ending.
      command: the command that writes it, for the Markdown.
    """
    path = Path(output)
    if path.suffix not in (".html", ".md"):
        raise workdirs.WorkdirError(
            f"{path} ends neither in .html, for a page, nor in .md, for tables."
        )
    runs = workdirs.read_all(patterns)
    if path.suffix == ".html":
        return write_whole(path, many_runs(runs) if len(runs) > 1 else one_run(runs[0]))
    results = {run.label: run.results for run in runs}
    return write_whole(path, overview.document(results, path.stem, command))


def one_run(run: Workdir) -> str:
    """The page of one run."""
    return render("one_run.html.j2", run=run)


def many_runs(runs: Sequence[Workdir]) -> str:
    """The page of many runs: tables over all of them, then each.

    Raises WorkdirError for a damaged file of scores.
    """
    results = {run.label: run.results for run in runs}
    by_dataset: dict[str, dict[str, Any]] = {}
    for run in runs:
        name = run.dataset.get("name", tables.NOT_AVAILABLE)
        by_dataset.setdefault(name, {})[run.label] = run.results
    return render(
        "many_runs.html.j2",
        runs=runs,
        rows=[row for run in runs for row in run.results["rows"]],
        overviews={
            name: [overview.overview(some, (history,)) for history in reversed(HISTORIES)]
            for name, some in by_dataset.items()
        },
        between=across.between(runs),
        families=[(family, curves.curve_plot(family)) for family in curves.families(results)],
        saved=curves.labels_saved(results),
        differing=overview.config_differences(results),
        environment=overview.environment(results),
    )
