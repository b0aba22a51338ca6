"""Fills in the templates of pages (.html.j2, escaped) and of Markdown documents (.md.j2)."""

import base64
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2

from nif_jax.metrics.bootstrap import VERDICTS
from nif_jax.reports import lifts, tables
from nif_jax.reports.results import ROW_KEYS
from nif_jax.reports.tables import Table

# The column that stays in sight where a wide table is scrolled: the first of these that it has.
_KEYS = ("model", "measurement", "key", "run", "form", "arm")


def render(template: str, **values: Any) -> str:
    """The text of a template in nif_jax/reports/templates."""
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
    filters: dict[str, Callable[..., Any]] = {
        "base64": lambda data: base64.b64encode(data).decode("ascii"),
        "escape_markdown": tables.escape,
        "json": lambda content: json.dumps(content, indent=2, ensure_ascii=False),
        "layout": layout,
        "markdown": tables.markdown,
    }
    environment.filters |= filters
    environment.globals |= {
        "tables": tables,
        "ab_table": lifts.table,
        "bucket_table": bucket_table,
        "detail_table": detail_table,
        "stage_tables": stage_tables,
    }
    return environment


def layout(table: Table) -> dict[str, Any]:
    """How a table with rows is shown.

    "above" has the names that are the same in all rows; "lines" has header and rows of the other
    columns, as (text, CSS class).
    """
    columns = list(zip(*table.rows, strict=True))
    constant = [
        index
        for index in range(table.labels)
        if len(table.rows) > 1 and len(set(columns[index])) == 1
    ]
    above = ", ".join(f"{table.header[index]}: {columns[index][0]}" for index in constant)
    shown = [index for index in range(len(table.header)) if index not in constant]
    key = next((table.header.index(name) for name in _KEYS if name in table.header), None)

    def css(index: int, text: str) -> str:
        # A name is never a verdict: a run may be called "better".
        verdicts = [] if index < table.labels else [v for v in VERDICTS if text.endswith(v)]
        classes = ["name"] * (index < table.labels) + ["key"] * (index == key) + verdicts[:1]
        return " ".join(name.replace(" ", "-") for name in classes)

    lines = [
        [(line[index], css(index, line[index])) for index in shown]
        for line in (table.header, *table.rows)
    ]
    return {"above": above, "lines": lines}


def bucket_table(by_model: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """AUC by one property: one row per model and bucket; the last bucket has no upper limit."""
    rows = [
        [
            model,
            *map(
                _text, (b["lower"], "" if b["upper"] is None else b["upper"], b["count"], b["auc"])
            ),
        ]
        for model, buckets in by_model.items()
        for b in buckets
    ]
    return Table(["model", "from", "below", "impressions", "AUC"], rows, labels=1)


def stage_tables(records: Sequence[Mapping[str, Any]]) -> dict[str, Table]:
    """Stage -> the last value of each of its measurements."""
    last: dict[str, dict[str, list[str]]] = {}
    for record in records:
        for name, value in record["values"].items():
            cells = [name, f"{record['step']:,}", _text(value)]
            last.setdefault(record["stage"], {})[name] = cells
    header = ["measurement", "step", "last value"]
    return {stage: Table(header, list(rows.values()), 1) for stage, rows in last.items()}


def detail_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """All rows of results.json with six digits."""
    lines = [[_text(row[key], ".6g") for key in ROW_KEYS] for row in rows]
    return Table(list(ROW_KEYS), lines, labels=4)


def _text(content: Any, form: str = ".4f") -> str:
    """Text of a JSON scalar: integers in full, other numbers in a format."""
    if content is None:
        return tables.NOT_AVAILABLE
    return format(content, form) if isinstance(content, float) else str(content)
