"""report.html: a run's tables, curves and configuration on one page that opens offline."""

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from nif_jax.metrics.writer import METRICS_FILE, read_metrics
from nif_jax.reports import tables
from nif_jax.reports.results import ROW_KEYS, read_results

REPORT_FILE = "report.html"
CONFIG_FILE = "config.json"
PLOTS_FOLDER = "plots"

CAPTIONS = {
    "training_curves": "Training loss and validation score of each stage.",
    "calibration_scores": "Calibration scores of clicked and unclicked impressions, with temporal "
                          "sequential pairwise training (TSP) off and on (NIF paper, Figure 3).",
    "auc_by_history": "AUC by the length of the history that an impression is scored from.",
    "reliability": "Observed against predicted click rate, in bins of equal mass.",
    "flow_map": "Predicted next interest flows among the items, with the items that came next.",
}
_GAUC_NOTE = (
    "GAUC on online histories is biased against models that use responses: within a user, an "
    "earlier click raises every later score. Compare GAUC on frozen histories."
)
_LEAKY_NOTE = (
    "The random split leaks the future through other rows' histories; it is here only to match "
    "the papers."
)
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { color-scheme: light dark; --page: #fff; --ink: #1c1e21; --soft: #5b6068;
  --line: #d9dce1; --head: #f3f4f6; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15171a; --ink: #e8eaed; --soft: #a3a9b2; --line: #363b42; --head: #20242a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
p, li, figcaption { max-width: 45rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { background: var(--head); }
.name { text-align: left; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
pre { overflow-x: auto; padding: .75rem; background: var(--head); border-radius: 6px;
  font-size: .82rem; }
summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .5rem; }
</style>
</head>
<body>
$body
</body>
</html>
""")


def write_report(workdir: str | os.PathLike[str]) -> Path:
    """Writes <workdir>/report.html from what the run left there.

    Reads results.json, and where they exist metrics.jsonl, config.json and plots/*.png; the page
    says which are missing. Everything is inlined, and every text escaped.

    Args:
      workdir: of a finished run.

    Returns:
      Path of the page.

    Raises:
      FileNotFoundError: no results.json.
      ValueError: a file that cannot be read; names it.
    """
    workdir = Path(workdir)
    results = read_results(workdir)
    title = f"nif_jax: {workdir.resolve().name}"
    body = [
        f"<h1>{_text(title)}</h1>",
        *_results(results),
        *_buckets(results.get("buckets", {})),
        *_plots(workdir / PLOTS_FOLDER),
        *_stages(workdir / METRICS_FILE),
        *_details(results, workdir / CONFIG_FILE),
    ]
    path = workdir / REPORT_FILE
    temporary = path.with_suffix(".tmp")
    temporary.write_text(_PAGE.substitute(title=_text(title), body="\n".join(body)),
                         encoding="utf-8")
    os.replace(temporary, path)
    return path


def _results(results: Mapping[str, Any]) -> list[str]:
    """Comparison, retrieval, costs and notes."""
    rows, entries = results["rows"], results.get("retrieval", [])
    parts = ["<h2>Click prediction</h2>", _table(tables.comparison(rows))]
    if any(row["history"] == "online" for row in rows):
        parts.append(_soft(_GAUC_NOTE))
    if any(row["split"] == "random" for row in rows):
        parts.append(_soft(_LEAKY_NOTE))
    if entries:
        parts += ["<h2>Next-item retrieval, whole catalogue</h2>",
                  _table(tables.retrieval(entries))]
    if results.get("semantic_ids"):
        parts += ["<h2>Semantic IDs</h2>", _table(tables.semantic_ids(results["semantic_ids"]))]
    parts += ["<h2>Cost</h2>", _table(tables.costs(rows))]
    if results.get("notes"):
        notes = "".join(f"<li>{_text(note)}</li>" for note in results["notes"])
        parts += ["<h2>Notes</h2>", f"<ul>{notes}</ul>"]
    return parts


def _buckets(buckets: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> list[str]:
    """One table a property: a line a model and bucket."""
    parts = []
    for name, by_model in buckets.items():
        rows = [[model, _value(row["lower"]), "" if row["upper"] is None else _value(row["upper"]),
                 _value(row["count"]), _value(row["auc"])]
                for model, bucket in by_model.items() for row in bucket]
        table = tables.Table(["model", "from", "below", "impressions", "AUC"], rows, labels=1)
        parts.append(_folded(f"AUC by {name.replace('_', ' ')}", _table(table)))
    return parts


def _plots(folder: Path) -> list[str]:
    """The PNGs: those with a caption in its order, then the others by name."""
    order = list(CAPTIONS)
    files = sorted(folder.glob("*.png"), key=lambda file: (
        order.index(file.stem) if file.stem in CAPTIONS else len(order), file.name))
    parts = ["<h2>Plots</h2>"] if files else ["<h2>Plots</h2>", _soft("This run left no plots.")]
    for file in files:
        caption = _text(CAPTIONS.get(file.stem, file.stem.replace("_", " ")))
        data = base64.b64encode(file.read_bytes()).decode("ascii")
        parts.append(f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
                     f"<figcaption>{caption}</figcaption></figure>")
    return parts


def _stages(path: Path) -> list[str]:
    """The last value of every measurement of each stage."""
    if not path.exists():
        return ["<h2>Stages</h2>", _soft(f"This run left no {METRICS_FILE}.")]
    parts, last = ["<h2>Stages</h2>"], {}
    for record in read_metrics(path):
        for name, value in record["values"].items():
            last.setdefault(record["stage"], {})[name] = (record["step"], value)
    for stage, values in last.items():
        rows = [[name, f"{step:,}", _value(value)] for name, (step, value) in values.items()]
        table = tables.Table(["measurement", "step", "last value"], rows, labels=1)
        parts.append(_folded(stage, _table(table)))
    return parts


def _details(results: Mapping[str, Any], config: Path) -> list[str]:
    """Every row unrounded, the run's description, the configuration."""
    rows = [[_value(row[key], ".6g") for key in ROW_KEYS] for row in results["rows"]]
    parts = ["<h2>Details</h2>",
             _folded("All rows", _table(tables.Table(list(ROW_KEYS), rows, labels=4))),
             _folded("Run", _json(results["run"]))]
    if not config.exists():
        return [*parts, _soft(f"This run left no {CONFIG_FILE}.")]
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config}: not JSON: {error}") from error
    return [*parts, _folded("Configuration", _json(content))]


def _table(table: tables.Table) -> str:
    if not table.rows:
        return _soft("No rows.")
    lines = []
    for tag, cells in [("th", table.header), *(("td", row) for row in table.rows)]:
        lines.append("<tr>" + "".join(
            f'<{tag} class="name">{_text(cell)}</{tag}>' if index < table.labels
            else f"<{tag}>{_text(cell)}</{tag}>" for index, cell in enumerate(cells)) + "</tr>")
    body = "\n".join(lines[1:])
    return (f'<div class="scroll"><table><thead>{lines[0]}</thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>")


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{content}</details>"


def _json(content: Any) -> str:
    return f"<pre>{_text(json.dumps(content, indent=2, ensure_ascii=False))}</pre>"


def _soft(text: str) -> str:
    return f'<p class="soft">{_text(text)}</p>'


def _value(value: Any, form: str = ".4f") -> str:
    """Text of a JSON scalar: integers in full, other numbers in a format."""
    if value is None:
        return tables.NOT_AVAILABLE
    return format(value, form) if isinstance(value, float) else str(value)


def _text(value: str) -> str:
    return html.escape(value, quote=True)
