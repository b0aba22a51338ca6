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


@dataclasses.dataclass(frozen=True)
class Stored:
    """A file that can be read in pieces: Parquet, or text that was parsed into Parquet.

    Attributes:
      file: the file, for messages.
      text: how it is written.
      path: the Parquet file.
      kinds: what the columns of text are; None for Parquet.
    """

    file: pathlib.Path
    text: TextFormat
    path: pathlib.Path
    kinds: arrow.Kinds | None

    def group_rows(self) -> list[int]:
        """Rows of each row group of the Parquet file."""
        with self._open() as source:
            groups = range(source.metadata.num_row_groups)
            return [source.metadata.row_group(group).num_rows for group in groups]

    def pieces(self, rows: int, group: int | None = None) -> Iterator[Table]:
        """Tables of at most `rows` rows: of the file, or of one of its row groups."""
        start = sum(self.group_rows()[:group]) if group is not None else 0
        groups = None if group is None else [group]
        with self._open() as source:
            wanted, nested = _readable(self.file, source.schema_arrow)
            total = source.metadata.num_rows
            options = {"columns": wanted, "row_groups": groups, "use_threads": False}
            for batch in source.iter_batches(rows, **options):
                table = pa.Table.from_batches([batch])
                table = self.kinds.convert(table) if self.kinds else table
                frame = arrow.to_frame(self.file, table)
                frame.index = pd.RangeIndex(start, start + len(frame))
                start += len(frame)
                yield Table(self.file, frame, nested, total)

    @contextlib.contextmanager
    def _open(self) -> Iterator[pa.parquet.ParquetFile]:
        kind = formats.extension(self.file)
        with _reported(self.file, kind, self.text), pa.parquet.ParquetFile(self.path) as source:
            yield source


def store(
    file: pathlib.Path,
    text: TextFormat = PLAIN,
    as_text: Collection[str] = (),
    folder: pathlib.Path = pathlib.Path(),
) -> Stored:
    """A Parquet or delimited file for reading in pieces, in which `read` would find the same.

    A column has one type in all pieces, so that a delimited file is parsed into `folder` first.
    """
    kind = formats.extension(file)
    if kind == ".parquet":
        return Stored(file, text, file, None)
    path, kinds = folder / "text.parquet", arrow.Kinds(as_text)
    with _reported(file, kind, text):
        _store(path, delimited.batches(file, kind, text), kinds)
    return Stored(file, text, path, kinds)


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
