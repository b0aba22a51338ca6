"""Logs how each column of a file was read, and warns of what is likely a mistake."""

import logging
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from nif_jax.data.sources.readers import Table
from nif_jax.data.sources.tables import joined

_LOG = logging.getLogger(__name__)
_KINDS = {
    "b": "true or false",
    "i": "whole number",
    "u": "whole number",
    "f": "number",
    "M": "date",
}
_SAMPLE = 1000
"""Distinct values that are looked at."""
UNUSED = "-"
_LISTS = list | tuple | np.ndarray


def log(table: Table, used: Mapping[str, str]) -> None:
    """Writes a table to the log: each column, what it serves as, its type, its first value.

    Args:
      table: the file.
      used: column -> what it serves as; the others are unused.
    """
    rows = [_describe(table.frame[c], c, used.get(c, UNUSED)) for c in table.frame.columns]
    rows += [(c, UNUSED, f"nested, not read: {kind}", "", "") for c, kind in table.nested.items()]
    rows = [("column", "used as", "type", "missing", "first value"), *rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    count = f"{len(table.frame):,}"
    if table.rows is not None:
        count = f"the first {count} of {table.rows:,}"
    _LOG.info("%s: %s rows\n%s", table.file, count, "\n".join(lines))
    for column, role in used.items():
        if column in table.frame and (separator := _separator(table.frame[column], role)):
            _LOG.warning(
                "%s: column %r (%s) looks like sets with %r between values, and each is read as "
                "one value: write '|' between the values of an item's feature, or give lists",
                table.file,
                column,
                role,
                separator,
            )


def _describe(values: pd.Series, name: str, role: str) -> tuple[str, str, str, str, str]:
    known = values.dropna()
    first = str(known.iloc[0])[:40].replace("\n", " ") if len(known) else ""
    kind = _KINDS.get(values.dtype.kind, "text")
    if len(known) and isinstance(known.iloc[0], _LISTS):
        kind = "list"
    return name, role, kind if len(known) else "empty", f"{len(values) - len(known):,}", first


def _separator(values: pd.Series, role: str) -> str:
    """What separates the values of text that is clearly a set read as one value, "" if it is none.

    Clearly: at least a tenth of the distinct values have several parts, and parts come up again.
    Titles are text.
    """
    if role == "title" or "lists" in role or values.dtype.kind in _KINDS:
        return ""
    given = values.dropna()
    if len(given) and isinstance(given.iloc[0], _LISTS) and role != "user feature":
        return ""
    text = joined(given.iloc[: 100 * _SAMPLE]).drop_duplicates().head(_SAMPLE).astype("str")
    if text.str.fullmatch(r"\s*[\[{].*[\]}]\s*", flags=re.DOTALL).mean() > 0.1:
        return ","
    for separator in (";", "|", ","):
        if separator == "|" and role == "item feature":
            continue  # there it is what makes a set
        if separator == "," and text.str.contains(", ", regex=False).mean() > 0.1:
            continue  # a sentence, or "Smith, John"
        parts = text.str.split(separator, regex=False)
        several = parts.map(len) > 1
        if several.mean() > 0.1:
            pieces = parts[several].explode().str.strip()
            if pieces.nunique() < len(pieces) or len(text) < 3:
                return separator
    return ""
