"""Parses delimited text: CSV, TSV, MovieLens `.dat`, RecBole atomic files.

Strictly: a line with too many or too few fields is an error, not a shifted or shortened row.
"""

import csv
import io
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv

from nif_jax.data.schema import DataError
from nif_jax.data.sources import arrow, formats
from nif_jax.data.sources.formats import ATOMIC, ATOMIC_TYPE, TextFormat

DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
"""Of the formats that have a usual one; that of `.dat` is "::" or a tab, see `_delimiter`."""
_BLOCKS = (1 << 24, 1 << 27, 2**31 - 1)
"""Bytes that are parsed at one time; a row has to fit."""
_BATCH = 1 << 25
_UNIT = "\x1f"
"""Stands for a delimiter of several characters while a file is parsed: the parser takes one."""


def read(file: pathlib.Path, kind: str, text: TextFormat) -> pa.Table:
    """A table whose columns are all text."""
    layout = _layout(file, kind, text)
    table = _own_columns(file, kind, _parse_rows(file, text, layout), layout)
    if layout.quoted and arrow.has_line_breaks(table):
        _require_quotes(file, text, layout.delimiter)
    return table


def batches(file: pathlib.Path, kind: str, text: TextFormat) -> Iterator[pa.Table]:
    """What `read` returns, in tables of about _BATCH bytes of the file, which a row has to fit."""
    layout, bad = _layout(file, kind, text), list[Any]()
    start, may_break = 0, layout.quoted
    with formats.open_bytes(file) as stream:
        try:
            for batch in pa.csv.open_csv(stream, *_options(file, text, layout, _BATCH, bad)):
                table = pa.Table.from_batches([batch])
                yield _own_columns(file, kind, table, layout, start)
                start += len(table)
                if may_break and arrow.has_line_breaks(table):
                    _require_quotes(file, text, layout.delimiter)
                    may_break = False
        except pa.ArrowInvalid as error:
            _raise_known(error, file, text, layout, bad)
            raise


def columns(file: pathlib.Path, kind: str, text: TextFormat) -> list[str] | None:
    """Names of the columns of a file that `batches` can read, else None."""
    layout = _layout(file, kind, text)
    if layout.delimiter == _UNIT:  # all of its bytes are replaced at one time
        return None
    names = (ATOMIC_TYPE.sub("", name) if kind in ATOMIC else name for name in layout.header)
    return list(filter(None, names))


def _own_columns(
    file: pathlib.Path, kind: str, table: pa.Table, layout: "_Layout", start: int = 0
) -> pa.Table:
    """The columns of the header that have a name; `start` is the first row's number."""
    if layout.extra:
        table = _without_empty(file, table, layout.header, start)
    if "" in table.column_names:  # an index of pandas, or a delimiter at the end of each line
        table = table.drop([""])
    return _atomic(table) if kind in ATOMIC else table


def _delimiter(file: pathlib.Path, kind: str, text: TextFormat) -> str:
    if text.delimiter:
        return text.delimiter.replace("\\t", "\t")
    if kind in DELIMITERS:
        return DELIMITERS[kind]
    first = next(formats.lines(file, text), "")
    for delimiter in ("::", "\t"):
        if delimiter in first:
            return delimiter
    raise DataError(
        f"{file}: neither '::' nor a tab is in its first line: name its delimiter with "
        "source.delimiter=<character>"
    )


class _Layout(NamedTuple):
    """How the rows of a text file are read.

    Attributes:
      header: names of the columns.
      skipped: lines up to the header and with it.
      extra: whether every row ends in a delimiter that the header lacks.
      delimiter: one character; _UNIT where the file's has several.
      quoted: whether quotation marks enclose values.
    """

    header: list[str]
    skipped: int
    extra: bool
    delimiter: str
    quoted: bool


def _layout(file: pathlib.Path, kind: str, text: TextFormat) -> _Layout:
    """Reads the beginning of a file."""
    delimiter = _delimiter(file, kind, text)
    if delimiter == "::" and kind == ".dat" and not text.header:
        raise DataError(
            f"{file}: a file with '::' has no header line: name its columns, for instance "
            "source.header=user_id,item_id,rating,timestamp (source.item_header and "
            "source.user_header for the files of items and users)"
        )
    quoted, lines = len(delimiter) == 1, formats.lines(file, text)
    if not quoted:
        lines, delimiter = (line.replace(delimiter, _UNIT) for line in lines), _UNIT
    records = csv.reader(lines, delimiter=delimiter, quoting=0 if quoted else csv.QUOTE_NONE)
    header, skipped = list(text.header), 0
    if not header:
        header = [name.strip() for name in next(filter(None, records), [])]
        skipped = records.line_num
    first = next(filter(None, records), header)
    if not header or first == []:
        raise DataError(f"{file}: the file is empty")
    extra = len(first) == len(header) + 1 and not first[-1].strip()
    formats.require_distinct(file, header)
    return _Layout(header, skipped, extra, delimiter, quoted)


def _parse_rows(file: pathlib.Path, text: TextFormat, layout: _Layout) -> pa.Table:
    """All rows, as text; raises DataError for a row of another length than the header."""
    bad: list[Any] = []
    for block_size in _BLOCKS:
        try:
            with _stream(file, text, layout) as stream:
                return pa.csv.read_csv(stream, *_options(file, text, layout, block_size, bad))
        except pa.ArrowInvalid as error:
            _raise_known(error, file, text, layout, bad)
            if block_size == _BLOCKS[-1] or "block" not in str(error):
                raise
    raise AssertionError("the last block size returns or raises")


def _options(
    file: pathlib.Path, text: TextFormat, layout: _Layout, block_size: int, bad: list[Any]
) -> tuple[pa.csv.ReadOptions, pa.csv.ParseOptions, pa.csv.ConvertOptions]:
    """How all columns are read as text; rows of another length than the header go to `bad`."""
    names = [*layout.header, *[_UNIT] * layout.extra]

    def remember(row: Any) -> str:
        bad.append(row)
        return "error"

    read = pa.csv.ReadOptions(
        column_names=names,
        skip_rows=layout.skipped,
        block_size=block_size,
        use_threads=False,
        encoding=formats.encoding(file, text).replace("utf-8-sig", "utf8"),
    )
    parse = pa.csv.ParseOptions(
        delimiter=layout.delimiter,
        quote_char='"' if layout.quoted else False,
        newlines_in_values=layout.quoted,
        invalid_row_handler=remember,
    )
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.large_string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    return read, parse, convert


def _raise_known(
    error: pa.ArrowInvalid, file: pathlib.Path, text: TextFormat, layout: _Layout, bad: list[Any]
) -> None:
    """Raises DataError for a row of another length than the header, or bytes that are no text."""
    if bad:
        raise DataError(_field_count(file, bad[0], layout, text)) from error
    if "UTF8" in str(error):
        raise formats.undecodable(file, text) from error


def _stream(file: pathlib.Path, text: TextFormat, layout: _Layout) -> io.BufferedIOBase:
    """The bytes to parse: those of the file, but for a delimiter of several characters."""
    if layout.delimiter != _UNIT:
        return formats.open_bytes(file)
    delimiter = _delimiter(file, formats.extension(file), text)
    encoding = formats.encoding(file, text).replace("utf-8-sig", "utf8")
    with formats.open_bytes(file) as stream:
        content = stream.read()
    return io.BytesIO(content.replace(delimiter.encode(encoding), _UNIT.encode(encoding)))


def _field_count(file: pathlib.Path, row: Any, layout: _Layout, text: TextFormat) -> str:
    """What is wrong with a row that has too many or too few fields."""
    of, count = "source.header names" if text.header else "the header has", len(layout.header)
    shown = row.text[:80].replace(_UNIT, "::")
    return (
        f"{file}: row {row.number - layout.skipped - 1} has {row.actual_columns} fields where {of} "
        f"{count} ({', '.join(layout.header)}): {shown!r}. Quote values that hold the delimiter, "
        "write the missing fields, or remove the row"
    )


def _without_empty(
    file: pathlib.Path, table: pa.Table, header: Sequence[str], start: int
) -> pa.Table:
    """The table without the column behind the header's last; DataError if that holds a value."""
    values = table[_UNIT]
    if values.null_count < len(values):
        row = start + arrow.first(values.is_valid())
        raise DataError(
            f"{file}: row {row} has {len(header) + 1} fields where the header has {len(header)} "
            f"({', '.join(header)}): name the last one in the header, or remove it"
        )
    return table.drop([_UNIT])


def _require_quotes(file: pathlib.Path, text: TextFormat, delimiter: str) -> None:
    """Raises DataError unless quotation marks come in pairs around whole values.

    Values with line breaks are read as such; a mark that is not closed would make one of many rows.
    """
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(formats.lines(file, text), delimiter=delimiter, strict=True)
    try:
        for _ in reader:
            pass
    except csv.Error as error:
        raise DataError(
            f"{file}: a value that begins with a quotation mark and holds line breaks ends at line "
            f"{reader.line_num} without one ({error}): close it, or double the marks inside it"
        ) from error


def _atomic(table: pa.Table) -> pa.Table:
    """A table of RecBole without the types in its header; sequences are sets, with "|" between."""
    columns, names = [], []
    for name in table.column_names:
        found = ATOMIC_TYPE.search(name)
        sequence = found and found.group(2)
        columns.append(arrow.replaced(table[name], " ", "|") if sequence else table[name])
        names.append(ATOMIC_TYPE.sub("", name))
    return pa.table(columns, names=names)
