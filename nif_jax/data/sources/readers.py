"""Reads a file into a table: a row for each row of the file, in its order, without an index."""

import contextlib
import dataclasses
import pathlib
import re
import zlib
from collections.abc import Collection, Iterator

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from nif_jax.data.schema import DataError
from nif_jax.data.sources import arrow, delimited, formats, jsonl
from nif_jax.data.sources.formats import PLAIN, TextFormat


@dataclasses.dataclass(frozen=True)
class Table:
    """A file that was read.

    Attributes:
      file: its path, for messages.
      frame: [n] rows with the index 0..n-1.
      nested: columns that were left out, and their types: structs, maps, lists of lists.
      rows: of the file, if this is a piece of it; the index of a piece counts the file's rows.
    """

    file: pathlib.Path
    frame: pd.DataFrame
    nested: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: int | None = None

    def column(self, name: str, option: str) -> pd.Series:
        """[n] values; DataError, naming the option and the columns there are, without such one."""
        if name in self.frame:
            return self.frame[name]
        if name in self.nested:
            raise DataError(
                f"{self.file}: column {name!r} for {option} holds {self.nested[name]}; a column "
                "has to hold text, numbers, dates, or lists of them"
            )
        raise DataError(
            f"{self.file}: no column {name!r} for {option}; the file has: "
            f"{', '.join(map(str, self.frame.columns))}.{self.delimiter_hint()}"
        )

    def delimiter_hint(self) -> str:
        """What to set where the whole header was read as one column, else ""."""
        if len(self.frame.columns) != 1 or formats.extension(self.file) == ".parquet":
            return ""
        name = str(self.frame.columns[0])
        found = next((d for d in (";", "\t", "|", ",") if d in name), "")
        return f" Is {found!r} the delimiter? Set source.delimiter={found!r}." if found else ""


def read(file: pathlib.Path, text: TextFormat = PLAIN, as_text: Collection[str] = ()) -> Table:
    """The table in a file.

    Args:
      file: its extension says how it is read.
      text: how it is written, if it is CSV, TSV or the like.
      as_text: columns whose values stay the text that the file has: "007" is not 7.

    Raises:
      DataError: the file cannot be read; names it, and where it can the line and the remedy.
    """
    formats.require_extension(file)
    kind = formats.extension(file)
    nested: dict[str, str] = {}
    with _reported(file, kind, text):
        if kind == ".parquet":
            table, nested = _read_parquet(file)
        elif kind == ".jsonl":
            table, nested = jsonl.read(file, text, as_text)
        else:
            table = arrow.parsed(delimited.read(file, kind, text), as_text)
        return Table(file, arrow.to_frame(file, table), nested)


def _read_parquet(file: pathlib.Path) -> tuple[pa.Table, dict[str, str]]:
    """The columns, and the types of nested ones, which are not read.

    Not by pandas, which makes a column of the file the index: where an index is not unique, joins
    on it multiply rows. Nor as a data set, which takes columns from names of folders.
    """
    with pa.parquet.ParquetFile(file) as source:
        wanted, nested = _readable(file, source.schema_arrow)
        return source.read(wanted), nested


def parquet_schema(file: pathlib.Path) -> tuple[pa.Schema, int]:
    """Columns and number of rows of a Parquet file."""
    with _reported(file, ".parquet", PLAIN), pa.parquet.ParquetFile(file) as source:
        return source.schema_arrow, source.metadata.num_rows


def text_columns(file: pathlib.Path, text: TextFormat) -> list[str] | None:
    """Columns of a delimited file that `pieces` can read, else None."""
    kind = formats.extension(file)
    with _reported(file, kind, text):
        return delimited.columns(file, kind, text)


def pieces(
    file: pathlib.Path,
    rows: int,
    text: TextFormat = PLAIN,
    as_text: Collection[str] = (),
    folder: pathlib.Path = pathlib.Path(),
) -> Iterator[Table]:
    """What `read` returns of a Parquet or delimited file, in tables of at most `rows` rows.

    A column has one type in all of them, so that a delimited file is parsed into `folder` first.
    """
    kind, stored, kinds = formats.extension(file), file, arrow.Kinds(as_text)
    with _reported(file, kind, text):
        if kind != ".parquet":
            stored = folder / "text.parquet"
            _store(stored, delimited.batches(file, kind, text), kinds)
        with pa.parquet.ParquetFile(stored) as source:
            wanted, nested = _readable(file, source.schema_arrow)
            start, total = 0, source.metadata.num_rows
            for batch in source.iter_batches(rows, columns=wanted, use_threads=False):
                table = pa.Table.from_batches([batch])
                table = table if stored == file else kinds.convert(table)
                frame = arrow.to_frame(file, table)
                frame.index = pd.RangeIndex(start, start + len(frame))
                start += len(frame)
                yield Table(file, frame, nested, total)


def _store(file: pathlib.Path, tables: Iterator[pa.Table], kinds: arrow.Kinds) -> None:
    """Writes tables of text to a Parquet file, and sees what they are."""
    writer = None
    for table in tables:
        kinds.see(table)
        writer = writer or pa.parquet.ParquetWriter(file, table.schema, use_dictionary=False)
        writer.write_table(table)
    if writer:
        writer.close()


def _readable(file: pathlib.Path, schema: pa.Schema) -> tuple[list[str], dict[str, str]]:
    """The columns that are read, and the types of nested ones, which are not."""
    formats.require_distinct(file, schema.names)
    nested = {f.name: f"values of type {f.type}"[:80] for f in schema if arrow.is_nested(f.type)}
    wanted = (n for n in schema.names if n not in nested and not _is_index(n))
    return list(wanted), nested


def _is_index(column: str) -> bool:
    """Whether pandas wrote an index without a name there, which says nothing about the rows."""
    return re.fullmatch(r"__index_level_\d+__", column) is not None


@contextlib.contextmanager
def _reported(file: pathlib.Path, kind: str, text: TextFormat) -> Iterator[None]:
    """Turns what libraries raise about a file into a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise formats.undecodable(file, text) from error
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
        line = str(error).splitlines()[0]
        raise DataError(f"{file}: cannot be read as {kind[1:]}: {line}") from error
