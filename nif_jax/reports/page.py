"""report.html: what one run or many measured, on one page that opens offline."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nif_jax.data.files import write_whole
from nif_jax.metrics.writer import METRICS_FILE
from nif_jax.reports import glossary, lifts, markup, overview, tables, workdirs
from nif_jax.reports.across import Across, between
from nif_jax.reports.curve_plot import curve_plot
from nif_jax.reports.curves import families, labels_saved
from nif_jax.reports.results import HISTORIES, ROW_KEYS
from nif_jax.reports.workdirs import Workdir

REPORT_FILE = "report.html"

CAPTIONS = {
    "training_curves": "Training loss and validation score of each stage.",
    "calibration_scores": "Calibration scores of clicked and unclicked impressions, with temporal "
                          "sequential pairwise training (TSP) off and on (NIF paper, Figure 3).",
    "auc_by_history": "AUC by the length of the history that an impression is scored from.",
    "reliability": "Observed against predicted click rate, in bins of equal mass.",
    "flow_map": "Predicted next interest flows among the items, with the items that came next.",
}  # fmt: skip


def write_report(workdir: str | os.PathLike[str]) -> Path:
    """Writes <workdir>/report.html from what the run left there; the page says what is missing.

    A page that is there and would be the same is left alone.

    Args:
      workdir: of a finished run.

    Returns:
      Path of the page.

    Raises:
      WorkdirError: no results, or a file that cannot be read; names it.
    """
    path, content = Path(workdir) / REPORT_FILE, one_run(workdirs.read(workdir))
    if not path.is_file() or path.read_bytes() != content.encode():
        write_whole(path, content)
    return path


def write_many(patterns: Sequence[str], output: str | os.PathLike[str], command: str) -> Path:
    """Writes the page (.html) or the tables (.md) of workdirs, and returns where.

    Args:
      patterns: workdirs, by path or pattern.
      output: the file; its ending decides.
      command: what makes it again, for the Markdown.

    Raises:
      WorkdirError: no such ending; as `workdirs.read_all`.
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
    parts = run_sections(run, level=2)
    return markup.page(f"nif_jax: {_title(run)}", [*parts, *_explained(parts)])


def many_runs(runs: Sequence[Workdir]) -> str:
    """The page of many runs: what they say together, then each.

    Raises:
      WorkdirError: a damaged file of scores.
    """
    results = {run.label: run.results for run in runs}
    parts = [markup.soft(f"{len(runs)} runs on {len({r.dataset.get('name') for r in runs})} data "
                         "sets. Each run's own tables and pictures are at the end.")]
    parts += _overviews(results)
    parts += _between(between(runs))
    parts += _curves(results)
    differing = overview.config_differences(results)
    parts += ["<h2>Where the configurations differ</h2>",
              markup.table(differing) if differing.rows else markup.soft("Nowhere.")]
    parts += ["<h2>Environment</h2>", markup.table(overview.environment(results))]
    each = [
        f'<details class="run"><summary>{markup.text(_title(run))}</summary>'
        + "\n".join(run_sections(run, level=3)) + "</details>"
        for run in runs
    ]  # fmt: skip
    title = f"nif_jax: {len(runs)} runs"
    return markup.page(title, [*parts, *_explained([*parts, *each]), "<h2>Runs</h2>", *each])


def run_sections(run: Workdir, level: int) -> list[str]:
    """A run's tables, plots, stages and details, with headings of a level."""
    return [
        *_measured(run.results, level),
        *_lifts(run.ab, level),
        *_buckets(run.results.get("buckets", {})),
        *_plots(run.plots, level),
        *_stages(run.records, level),
        *_details(run, level),
    ]


def _title(run: Workdir) -> str:
    leaky = any(row["split"] == "random" for row in run.results["rows"])
    return f"{run.label} (random split: leaky)" if leaky else run.label


def _measured(results: Mapping[str, Any], level: int) -> list[str]:
    """Comparison, differences, retrieval, semantic IDs, costs and notes."""
    rows = results["rows"]
    parts = [markup.heading("Click prediction", level), markup.table(tables.comparison(rows)),
             *_cautions(rows)]
    for key, title, make in (
        ("selection", "Selected on validation", tables.selection),
        ("differences", "Differences, 95 % intervals by paired bootstrap", tables.differences),
        ("retrieval", "Next-item retrieval, whole catalogue", tables.retrieval),
        ("semantic_ids", "Semantic IDs", tables.semantic_ids),
    ):
        if results.get(key):
            parts += [markup.heading(title, level), markup.table(make(results[key]))]
    parts += [markup.heading("Cost", level), markup.table(tables.costs(rows))]
    if results.get("notes"):
        parts += [markup.heading("Notes", level), markup.bullets(results["notes"])]
    return parts


def _lifts(ab: Mapping[str, Any] | None, level: int) -> list[str]:
    """The online A/B test, where there was one."""
    if ab is None:
        return []
    return [markup.heading("Online A/B test on simulated traffic", level),
            markup.table(lifts.table(ab["arms"])),
            markup.folded("Its settings", markup.preformatted(ab["ab"]))]


def _cautions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader has to know of histories and splits, where it applies."""
    notes = []
    if any(row["history"] == "online" for row in rows):
        notes.append(markup.soft(glossary.GAUC_NOTE))
    if any(row["split"] == "random" for row in rows):
        notes.append(markup.soft(glossary.LEAKY_NOTE))
    return notes


def _overviews(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The overview, a table for each data set and kind of history."""
    by_dataset: dict[str, dict[str, Mapping[str, Any]]] = {}
    for label, found in results.items():
        name = found["run"].get("dataset", {}).get("name", tables.NOT_AVAILABLE)
        by_dataset.setdefault(name, {})[label] = found
    parts = ["<h2>Overview</h2>"]
    for name, runs in by_dataset.items():
        found = [overview.overview(runs, (history,)) for history in reversed(HISTORIES)]
        parts += [markup.heading(name, 3), *(markup.table(table) for table in found if table.rows)]
    return parts + _cautions([row for found in results.values() for row in found["rows"]])


def _between(found: Across) -> list[str]:
    parts = ["<h2>Between runs</h2>"]
    if found.table.rows:
        parts += [markup.soft("A model against the model of the same name in the first run with "
                              "the same test impressions, or against its base."),
                  markup.table(found.table), markup.folded("GAUC and LogLoss",
                                                           markup.table(found.others))]
    return [*parts, *map(markup.soft, found.notes)]


def _curves(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A figure for each key that was swept, and the labels that are saved."""
    parts = [
        markup.figure(curve_plot(family), f"Test AUC by {family.key}, {family.name}; bars are "
                      "standard deviations over seeds.")
        for family in families(results)
    ]  # fmt: skip
    saved = labels_saved(results)
    if saved.rows:
        parts += ["<h3>Labels saved at equal AUC</h3>", markup.table(saved)]
    return ["<h2>Curves</h2>", *parts] if parts else []


def _explained(parts: Sequence[str]) -> list[str]:
    return ["<h2>What the words mean</h2>", markup.definitions(glossary.chosen(parts))]


def _buckets(buckets: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> list[str]:
    """One table a property: a line a model and bucket."""
    parts = []
    for name, by_model in buckets.items():
        rows = [[model, *("" if key == "upper" and row[key] is None else markup.value(row[key])
                          for key in ("lower", "upper", "count", "auc"))]
                for model, bucket in by_model.items() for row in bucket]
        table = tables.Table(["model", "from", "below", "impressions", "AUC"], rows, labels=1)
        parts.append(markup.folded(f"AUC by {name.replace('_', ' ')}", markup.table(table)))
    return parts


def _plots(plots: Mapping[str, bytes], level: int) -> list[str]:
    """The pictures: those with a caption in its order, then the others by name."""
    order = list(CAPTIONS)
    names = sorted(plots, key=lambda name: (
        order.index(name) if name in CAPTIONS else len(order), name))
    pictures = [markup.figure(plots[name], CAPTIONS.get(name, name.replace("_", " ")))
                for name in names]
    return [markup.heading("Plots", level), *(pictures or [markup.soft("This run left no plots.")])]


def _stages(records: Sequence[Mapping[str, Any]], level: int) -> list[str]:
    """The last value of every measurement of each stage."""
    parts, last = [markup.heading("Stages", level)], {}
    for record in records:
        for name, value in record["values"].items():
            last.setdefault(record["stage"], {})[name] = (record["step"], value)
    for stage, values in last.items():
        rows = [[name, f"{step:,}", markup.value(found)] for name, (step, found) in values.items()]
        table = tables.Table(["measurement", "step", "last value"], rows, labels=1)
        parts.append(markup.folded(stage, markup.table(table)))
    return parts if last else [*parts, markup.soft(f"This run left no {METRICS_FILE}.")]


def _details(run: Workdir, level: int) -> list[str]:
    """Every row unrounded, the run's description, its configuration."""
    rows = [[markup.value(row[key], ".6g") for key in ROW_KEYS] for row in run.results["rows"]]
    described = {key: value for key, value in run.results["run"].items() if key != "config"}
    return [
        markup.heading("Details", level),
        markup.folded("All rows", markup.table(tables.Table(list(ROW_KEYS), rows, labels=4))),
        markup.folded("Run", markup.preformatted(described)),
        markup.folded("Configuration", markup.preformatted(run.config)),
    ]
