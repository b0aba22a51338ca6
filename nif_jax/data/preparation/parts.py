"""Steps of preparation in pieces, on plain arrays: ids of a piece, and a part of the users sorted.

out_of_core.py takes them in one process, beam_pipeline.py on the workers of a cluster.
"""

import itertools
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from nif_jax.data import movelines, ordering
from nif_jax.data.preparation import column_files, columnar
from nif_jax.data.schema import NO_LABEL, Movelines, RawPieces, RawTables

Columns = dict[str, np.ndarray]
WORK = "work"
"""Folder, inside that of the result, of what is removed at the end."""
_KEPT = {"time": "timestamp", "label": "label", "other": "other"}
"""Column -> column of RawPieces.events that it is."""


def columns_of(events: pd.DataFrame, codes: Columns) -> Columns:
    """The columns of a piece of RawPieces.events, with codes [n] of its texts by kind."""
    columns = codes | {name: events[c].to_numpy() for name, c in _KEPT.items()}
    return columns | movelines.optional_columns(events)


def number(
    pieces: RawPieces, distinct: Mapping[str, pd.Series], occurs: np.ndarray, duplicates: str
) -> tuple[RawTables, Columns, dict[str, np.ndarray]]:
    """Numbers the texts of a log.

    Args:
      pieces: the log.
      distinct: kind of id -> its distinct texts in the order of their codes, which is the order of
        the rows that they are first in; the index has these rows.
      occurs: see RawPieces.finish.
      duplicates: see movelines.prepare.

    Returns:
      The tables of items and users; kind -> the place of each code among the names of its kind,
      for actions [A, 3], by label; and the names.
    """
    texts = {kind: series.to_numpy(object) for kind, series in distinct.items()}
    raw, shown = pieces.finish(distinct["user"], distinct["item"], texts["action"], occurs)
    movelines.check_tables(raw, duplicates)
    if shown is None:
        shown = np.repeat(texts["action"][:, None], 3, axis=1)
    texts["action"] = shown[occurs]
    places, names = {}, {}
    for kind, column in movelines.ID_COLUMNS.items():
        also = raw.items["item_id"] if kind == "item" else None
        places[kind], names[kind] = movelines.numbered(column, texts[kind], also)
    found = np.full(occurs.shape, -1)
    found[occurs] = places["action"]
    return raw, places | {"action": found}, names


def split(columns: Columns, places: Columns, users: np.ndarray) -> Iterator[tuple[int, Columns]]:
    """The rows of a piece by part, with ids counted from 0 in place of codes.

    Args:
      columns: see `columns_of`; further columns are kept as they are.
      places: see `number`.
      users: [P + 1] users that parts begin with, and U.

    Yields:
      Each part, and its rows in the order of the piece, of which there may be none.
    """
    action = places["action"][columns["action"], columns["label"] - NO_LABEL]
    columns = columns | {kind: places[kind][columns[kind]] for kind in ("user", "item", "scene")}
    columns |= {"action": action}
    part = (np.searchsorted(users, columns["user"], side="right") - 1).astype(np.int16)
    order = np.argsort(part, kind="stable")
    cuts = np.searchsorted(part[order], np.arange(len(users)))
    for name in columns:
        kind = np.int32 if name in movelines.ID_COLUMNS else columns[name].dtype
        columns[name] = columns[name][order].astype(kind)
    for number, (begin, end) in enumerate(itertools.pairwise(cuts)):
        yield number, {name: column[begin:end] for name, column in columns.items()}


class SortedPart(NamedTuple):
    """A range of users, sorted.

    Attributes:
      columns: event columns, ties ordered by content.
      per_user: events of each user.
      items: distinct items, counted from 0.
      dropped: rows that were left out as duplicates.
      unsorted: see movelines.prepare.
    """

    columns: Columns
    per_user: np.ndarray
    items: np.ndarray
    dropped: int
    unsorted: int


def sort_part(columns: Columns, first: int, end: int, duplicates: str) -> SortedPart:
    """Sorts the rows of users `first` to `end` - 1, which are in the order of the log."""
    user = columns["user"] - first
    keys = ordering.sort_keys(user, columns["time"])
    order = ordering.by_content(keys, [columns[name] for name in movelines.CONTENT])
    if duplicates == "drop":
        order = ordering.without_repeats(order, keys, columns)
    found = {name: columns[name][order] for name in columns.keys() - {"user", "other"}}
    for kind in ("item", "scene", "action"):
        found[kind] = movelines.dense_ids(found[kind])
    return SortedPart(
        found,
        np.bincount(user[order], minlength=end - first),
        np.unique(columns["item"]),
        len(keys) - len(order),
        ordering.count_unsorted(user, columns["time"]),
    )


def complete(
    parts: Iterable[SortedPart],
    raw: RawTables,
    names: Mapping[str, np.ndarray],
    seed: int,
    folder: pathlib.Path,
) -> Movelines:
    """Writes the event columns of all parts, one after another, and returns the store.

    Args:
      parts: in the order of their users; they may come from the folder WORK, which is removed.
      raw, names: see `number`.
      seed: of ties in time.
      folder: see `prepare_pieces`.
    """
    counts = {"duplicates_dropped": 0, "unsorted_rows": 0}
    per_user = []
    seen = np.zeros(len(names["item"]), bool)
    writers: dict[str, column_files.ColumnWriter] = {}
    for part in parts:
        counts["duplicates_dropped"] += part.dropped
        counts["unsorted_rows"] += part.unsorted
        per_user.append(part.per_user)
        seen[part.items] = True
        for name, column in part.columns.items():
            if name not in writers:
                path = folder / f"{name}.npy"
                writers[name] = column_files.ColumnWriter(path, column.dtype)
            writers[name].append(column)
    for writer in writers.values():
        writer.close()
    shutil.rmtree(folder / WORK)
    events = np.concatenate(per_user)
    counts["tied_rows"] = _shuffle_ties(np.append(0, np.cumsum(events)), seed, folder)
    columns = {path.stem: column_files.map_file(path) for path in folder.glob("*.npy")}
    return movelines.assemble(raw, names, events, columns, counts, int(seen.sum()))


def _shuffle_ties(offsets: np.ndarray, seed: int, folder: pathlib.Path) -> int:
    """Shuffles rows of equal user and time in the files; returns how many rows those are."""
    shuffle, count = ordering.permutation(int(offsets[-1]), seed), 0
    users = columnar.cut_shards(offsets)
    for first, end in itertools.pairwise(users):
        rows = slice(offsets[first], offsets[end])
        user = np.repeat(np.arange(end - first), np.diff(offsets[first : end + 1]))
        keys = ordering.sort_keys(user, np.load(folder / "time.npy", mmap_mode="r")[rows])
        places, sources = ordering.shuffled_ties(keys, shuffle[rows])
        count += len(places)
        for path in folder.glob("*.npy") if len(places) else ():
            column = np.load(path, mmap_mode="r+")[rows]
            column[places] = column[sources]
    return count
