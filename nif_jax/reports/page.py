"""report.html: the results of one run or of many, on one page that opens offline."""

import os
from collections.abc import Sequence
from pathlib import Path

from nif_jax.data.files import write_whole
from nif_jax.reports import curves, overview, significance, tables, workdirs
from nif_jax.reports.render import render
from nif_jax.reports.results import HISTORIES
from nif_jax.reports.workdirs import Workdir

REPORT_FILE = "report.html"


def write_report(workdir: str | os.PathLike[str]) -> Path:
    """Writes <workdir>/report.html of a finished run, and returns where.

    The page names the parts that are missing. A page that would be the same is left alone. Raises
    WorkdirError where there are no results, or a file cannot be read.
    """
    path = Path(workdir) / REPORT_FILE
    content = render("one_run.html.j2", run=workdirs.read(workdir))
    if not path.is_file() or path.read_bytes() != content.encode():
        write_whole(path, content)
    return path


def write_many(patterns: Sequence[str], output: str | os.PathLike[str], command: str) -> Path:
    """Writes the page (.html) or the tables (.md) of workdirs, and returns where.

    `patterns` are workdirs, by path or pattern; `command` is what writes the file, for the
    Markdown. Raises WorkdirError for a file with another ending, and for a damaged run.
    """
    path = Path(output)
    if path.suffix not in (".html", ".md"):
        raise workdirs.WorkdirError(
            f"{path} ends neither in .html, for a page, nor in .md, for tables."
        )
    runs = workdirs.read_all(patterns)
    if path.suffix == ".md":
        content = overview.document({r.label: r.results for r in runs}, path.stem, command)
    elif len(runs) == 1:
        content = render("one_run.html.j2", run=runs[0])
    else:
        content = _many_runs(runs)
    return write_whole(path, content)


def _many_runs(runs: Sequence[Workdir]) -> str:
    """The page of many runs: tables over all of them, then each."""
    results, by_dataset = {run.label: run.results for run in runs}, {}
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
        between=significance.between_runs(runs),
        families=[(family, curves.curve_plot(family)) for family in curves.families(results)],
        saved=curves.labels_saved(results),
        differing=overview.run_differences(results),
    )
