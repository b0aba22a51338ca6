"""Reports of one run or of many: pages that open offline (.html), and tables (.md)."""

import base64
import datetime
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from nif_jax.data.files import write_whole
from nif_jax.metrics.bootstrap import VERDICTS
from nif_jax.reports import curves, lifts, overview, significance, tables, workdirs
from nif_jax.reports.results import HISTORIES, RESULTS_FILE
from nif_jax.reports.workdirs import Workdir

REPORT_FILE = "report.html"
# The column that stays in sight where a wide table is scrolled: the first of these that it has.
_KEYS = ("model", "measurement", "key", "run", "form", "arm", "bucket")


def write_report(workdir: str | os.PathLike[str]) -> Path:
    """Writes <workdir>/report.html of a finished run, and returns where.

    The page names the parts that are missing. A page that would be the same is left alone. Raises
    WorkdirError where there are no results, or a file cannot be read.
    """
    path = Path(workdir) / REPORT_FILE
    content = _render("one_run.html.j2", run=workdirs.read(workdir))
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
        sections = {
            "": overview.overview(runs),
            "Labels saved at equal AUC": curves.labels_saved(runs),
            "Selected on validation": overview.section(runs, "selection"),
            "Where the runs differ": overview.run_differences(runs),
        }
        command = " ".join(command.splitlines())
        content = _render("runs.md.j2", title=path.stem, command=command, sections=sections)
    elif len(runs) == 1:
        content = _render("one_run.html.j2", run=runs[0])
    else:
        by_dataset: dict[str, list[Workdir]] = {}
        for run in runs:
            by_dataset.setdefault(run.data_name, []).append(run)
        between, notes = significance.between_runs(runs)
        content = _render(
            "many_runs.html.j2",
            runs=runs,
            rows=[row for run in runs for row in run.rows],
            overviews={
                name: [overview.overview(some, (history,)) for history in reversed(HISTORIES)]
                for name, some in by_dataset.items()
            },
            between=between,
            notes=notes,
            families=[(family, curves.curve_plot(family)) for family in curves.families(runs)],
            saved=curves.labels_saved(runs),
            differing=overview.run_differences(runs),
        )
    return write_whole(path, content)


def write_sweep(
    path: Path,
    workdirs_of: Mapping[str, Path],
    *,
    references: Mapping[str, str],
    with_buckets: Sequence[str],
    **about: Any,
) -> Path:
    """Writes the Markdown of a sweep: question, command, provenance, tables; and returns where.

    `workdirs_of` is name of each finished run -> its workdir, `references` the name of the run that
    each is compared with, or "", and `with_buckets` has the runs whose AUC by bucket is shown.
    `about` has doc, the docstring of the sweep; command, which runs it; configs, name of each run
    -> its --config; absent, name of a run without results -> why; seconds of all processes; and of
    a search trials, the lines of its table.
    Raises WorkdirError for files of a run that cannot be read; names them.
    """
    runs = {name: workdirs.read(folder, name) for name, folder in workdirs_of.items()}
    found, against, notes = list(runs.values()), [], []
    for reference in dict.fromkeys(references[name] for name in runs if references[name] in runs):
        others = [runs[name] for name in runs if references[name] == reference]
        table, why = significance.between_runs([runs[reference], *others])
        against.append(table)
        notes += why
    configs = [{"run": name, "--config": about["configs"][name]} for name in runs]
    sections = {
        "Click prediction on test": overview.overview(found),
        "Trials, the best on validation first": tables.Table.of(about.pop("trials", ()), labels=1),
        "Labels saved at equal AUC": curves.labels_saved(found),
        "Differences from the run of reference": tables.join(against),
        "Best score on validation, for choosing": overview.validation(found),
        "Next-item retrieval over the whole catalogue": overview.section(found, "retrieval"),
        "AUC by bucket, online histories, first seed": overview.buckets(
            [runs[name] for name in runs if name in with_buckets]
        ),
        "Configurations": tables.Table.of(configs, labels=2),
    }
    last = max((run.path / RESULTS_FILE).stat().st_mtime for run in found)
    about["day"] = datetime.datetime.fromtimestamp(last, datetime.UTC).date()
    about |= {"sweep": path.stem, "runs": found, "notes": notes, "sections": sections}
    return write_whole(path, _render("sweep.md.j2", **about))


def _render(template: str, **values: Any) -> str:
    """The text of a template in nif_jax/reports/templates; that of .html.j2 is escaped."""
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nif_jax.reports"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "base64": lambda data: base64.b64encode(data).decode("ascii"),
        "escape_markdown": tables.escape,
        "json": lambda content: json.dumps(content, indent=2, ensure_ascii=False),
        "markdown": tables.markdown,
    }
    environment.globals |= {
        "tables": tables,
        "ab_table": lifts.table,
        "buckets": overview.buckets,
        "key_columns": _KEYS,
        "verdicts": VERDICTS,
    }
    return environment
