"""Fills in the templates of pages (.html.j2, escaped) and of Markdown documents (.md.j2)."""

import base64
import functools
import json
from collections.abc import Mapping, Sequence
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
    environment.filters |= {
        "base64": lambda data: base64.b64encode(data).decode("ascii"),
        "escape_markdown": tables.escape,
        "json": lambda content: json.dumps(content, indent=2, ensure_ascii=False),
        "layout": layout,
        "markdown": tables.markdown,
    }
    functions = (bucket_table, detail_table, stage_tables)
    environment.globals |= {function.__name__: function for function in functions}
    environment.globals |= {"tables": tables, "ab_table": lifts.table}
    return environment


def layout(table: Table) -> dict[str, Any]:
    """How a table with rows is shown.

    "above" has the names that are the same in all rows; "lines" has header and rows of the other
    columns, as (text, CSS class).
    """
    key = next((table.header.index(name) for name in _KEYS if name in table.header), None)
    columns = [{line[index] for line in table.rows} for index in range(len(table.header))]
    constant = [i for i in range(table.labels) if len(table.rows) > 1 and len(columns[i]) == 1]

    def css(index: int, text: str) -> str:
        classes = ["key"] if index == key else []
        if index < table.labels:  # a name is never a verdict: a run may be called "better"
            classes.append("name")
        else:
            classes += [v.replace(" ", "-") for v in VERDICTS if text.endswith(v)]
        return " ".join(classes)

    return {
        "above": ", ".join(f"{table.header[i]}: {table.rows[0][i]}" for i in constant),
        "lines": [
            [(text, css(i, text)) for i, text in enumerate(line) if i not in constant]
            for line in (table.header, *table.rows)
        ],
    }


def bucket_table(by_model: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """AUC by one property: one row per model and bucket; the last bucket has no upper limit."""
    lines = [
        {
            "model": model,
            "from": _text(bucket["lower"]),
            "below": "" if bucket["upper"] is None else _text(bucket["upper"]),
            "impressions": _text(bucket["count"]),
            "AUC": _text(bucket["auc"]),
        }
        for model, buckets in by_model.items()
        for bucket in buckets
    ]
    return Table.of(lines, labels=1)


def stage_tables(records: Sequence[Mapping[str, Any]]) -> dict[str, Table]:
    """Stage -> the last value of each of its measurements."""
    last: dict[str, dict[str, dict[str, str]]] = {}
    for record in records:
        for name, value in record["values"].items():
            line = {"measurement": name, "step": f"{record['step']:,}", "last value": _text(value)}
            last.setdefault(record["stage"], {})[name] = line
    return {stage: Table.of(lines.values(), labels=1) for stage, lines in last.items()}


def detail_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """All rows of results.json with six digits."""
    return Table.of(({key: _text(row[key], ".6g") for key in ROW_KEYS} for row in rows), labels=4)


def _text(content: Any, form: str = ".4f") -> str:
    """Text of a JSON scalar: integers in full, other numbers in a format."""
    if content is None:
        return tables.NOT_AVAILABLE
    return format(content, form) if isinstance(content, float) else str(content)
