"""Large files of events in pieces, so that memory need not hold them."""

import dataclasses
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from nif_jax.data.schema import RawPieces, RawTables
from nif_jax.data.sources import events as event_source
from nif_jax.data.sources import files, formats, readers
from nif_jax.data.sources.events import Rules
from nif_jax.data.sources.formats import TextFormat
from nif_jax.data.sources.ids import Ids
from nif_jax.data.sources.locate import locate

MIN_ROWS, MIN_BYTES = 1 << 21, 1 << 26
"""Rows of Parquet, or bytes of text, of a file that is read in pieces, not at one time."""
GZIP = 4
"""Bytes of text in a byte of gzip, about."""
PIECE_ROWS = 1 << 20
_NEED_ALL_ROWS = ("history", "action_columns", "unlabelled", "order_only")
"""Options that read values of all rows: bins, values that have to occur, first events of users."""


@dataclasses.dataclass(frozen=True)
class Groups:
    """RawPieces.groups of a file; it can be pickled."""

    stored: readers.Stored
    rules: Rules

    def __len__(self) -> int:
        return len(self.stored.group_rows())

    def read(self, group: int | None) -> Iterator[pd.DataFrame]:
        """Pieces of RawPieces.events: of a row group, or of the file."""
        for table in self.stored.pieces(PIECE_ROWS, group):
            yield event_source.read(table, self.rules)


def in_pieces(any_size: bool = False, **options: Any) -> RawPieces | None:
    """The pieces of the events file; None if it is read at one time, by files.files.

    That is a small file, one of JSON Lines or with a delimiter of several characters, and one with
    an option that needs all rows.

    Args:
      any_size: whether a small file has pieces too.
      **options: all of files.files.
    """
    found = locate(options["path"], options["items"], options["users"], options["history"])
    rules, text = files.rules(found, options), files.text_formats(options)["events"]
    if any(options[name] for name in _NEED_ALL_ROWS) or options["user_share"] != 1:
        return None
    columns = _columns_of_large(found.events, rules.names, text, any_size)
    if columns is None:
        return None

    def groups(folder: pathlib.Path) -> Groups:
        as_text = files.columns_as_text(rules)
        return Groups(readers.store(found.events, text, as_text, folder), rules)

    def events(folder: pathlib.Path) -> Iterator[pd.DataFrame]:
        return groups(folder).read(None)

    def finish(
        users: pd.Series, items: pd.Series, actions: np.ndarray, occurs: np.ndarray
    ) -> tuple[RawTables, np.ndarray | None]:
        known: files.Known = {
            kind: {"log": Ids(found.events, rules.names.get(f"{kind}_id", f"{kind}_id"), names)}
            for kind, names in (("user", users), ("item", items))
        }
        raw = files.with_features(found, rules, options, known, pd.DataFrame())
        if event_source.labels_as_actions(columns, rules):
            files.log_label_actions(found.events, actions)
            return raw, None
        return raw, event_source.shown_actions(found.events, actions, occurs)

    return RawPieces(events, finish, groups)


def _columns_of_large(
    file: pathlib.Path, names: Mapping[str, str], text: TextFormat, any_size: bool
) -> Collection[str] | None:
    """Names of the columns of a file that is read in pieces, else None."""
    kind = formats.extension(file)
    if kind == ".parquet":
        schema, rows = readers.parquet_schema(file)
        large = (any_size or rows >= MIN_ROWS) and _same_text_in_all_pieces(schema, names)
        return schema.names if large else None
    bytes_of_text = file.stat().st_size * (GZIP if file.suffix == ".gz" else 1)
    if kind not in formats.DELIMITED or (bytes_of_text < MIN_BYTES and not any_size):
        return None
    return readers.text_columns(file, text)


def _same_text_in_all_pieces(schema: pa.Schema, names: Mapping[str, str]) -> bool:
    """Whether ids, scenes and actions are whole numbers or text; dates, say, are written with or
    without a time of day according to the other rows."""
    columns = [names.get(ours, ours) for ours in ("user_id", "item_id", "scene", "action")]
    kinds = [schema.field(column).type for column in columns if column in schema.names]
    kinds = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
    text = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    return all(any(holds(kind) for holds in text) for kind in kinds)
