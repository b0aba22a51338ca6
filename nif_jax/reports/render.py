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
_KEYS = ("model", "measurement", "key", "run", "form", "arm", "bucket")


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
        "markdown": tables.markdown,
    }
    environment.globals |= {
        "tables": tables,
        "ab_table": lifts.table,
        "detail_table": detail_table,
        "stage_tables": stage_tables,
        "key_columns": _KEYS,
        "verdicts": VERDICTS,
    }
    return environment


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
