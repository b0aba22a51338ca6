"""Movelines of logs larger than memory: pieces become parts, a range of users each, on disk.

Each part is sorted by itself, as nif_jax/data/movelines.py sorts a whole log, and with the same
result. Memory holds one piece or part, the names of users and items, and the permutation of ties.
"""

import itertools
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from nif_jax.data import movelines, ordering
from nif_jax.data.preparation import column_files, columnar
from nif_jax.data.schema import NO_LABEL, Movelines, RawPieces, RawTables

Columns = dict[str, np.ndarray]


class _Codes:
    """Numbers texts in the order in which they first come."""

    def __init__(self):
        self._known: dict[str, int] = {}
        self._first: list[np.ndarray] = []

    def encode(self, values: pd.Series) -> np.ndarray:
        """[n] int32 codes of a piece, whose index counts rows of the log."""
        codes, distinct = pd.factorize(values)
        known, before = self._known, len(self._known)
        code = [known.setdefault(name, len(known)) for name in distinct.tolist()]
        code = np.array(code, np.int32)
        first = np.empty(len(code), np.int64)
        first[codes[::-1]] = np.arange(len(codes))[::-1]
        self._first.append(values.index.to_numpy()[first[code >= before]])
        return code[codes]

    @property
    def names(self) -> pd.Series:
        """[k] text in the order of codes; the index is the first row of each."""
        return pd.Series(list(self._known), np.concatenate(self._first), dtype="str")


def prepare_pieces(
    pieces: RawPieces, seed: int, duplicates: str, folder: pathlib.Path
) -> Movelines:
    """What movelines.prepare returns, with event columns that are mapped from files.

    Args:
      pieces: the log.
      seed, duplicates: see movelines.prepare.
      folder: where the event columns are written, as columnar.write does; it exists.

    Raises:
      ConfigError, DataError: see movelines.prepare.
      OSError: the folder cannot be written, or is full.
    """
    work = folder / "work"
    work.mkdir()
    codes = {kind: _Codes() for kind in movelines.ID_COLUMNS}
    occurs = _spool(pieces, codes, work)
    distinct = {kind: coded.names for kind, coded in codes.items()}
    del codes
    actions = distinct["action"].to_numpy(object)
    raw, shown = pieces.finish(distinct["user"], distinct["item"], actions, occurs)
    movelines.check_tables(raw, duplicates)
    places, names = _number(raw, distinct, shown, occurs)
    users = _users_of_parts(work, places["user"])
    for columns in _take_pieces(work):
        _distribute(columns, places, users, work)
    counts, per_user, with_events = _sort_parts(users, names, duplicates, work, folder)
    shutil.rmtree(work)
    offsets = np.append(0, np.cumsum(per_user))
    counts["tied_rows"] = _shuffle_ties(offsets, seed, folder)
    columns = {path.stem: column_files.map_file(path) for path in folder.glob("*.npy")}
    return movelines.assemble(raw, names, per_user, columns, counts, with_events)


def _spool(pieces: RawPieces, codes: Mapping[str, _Codes], work: pathlib.Path) -> np.ndarray:
    """Writes each piece as columns of codes; returns RawPieces.finish's occurs [A, 3]."""
    occurs = np.zeros((0, 3), bool)
    for number, events in enumerate(pieces.events(work)):
        columns: dict[str, Any] = {
            kind: codes[kind].encode(events[c]) for kind, c in movelines.ID_COLUMNS.items()
        }
        columns |= {"time": events["timestamp"].to_numpy(), "label": events["label"].to_numpy()}
        columns |= movelines.optional_columns(events)
        columns["other"] = events["other"].to_numpy()
        most = max(len(occurs), int(columns["action"].max()) + 1)
        occurs = np.pad(occurs, ((0, most - len(occurs)), (0, 0)))
        occurs[columns["action"], columns["label"] - NO_LABEL] = True
        np.savez(work / f"piece-{number:06}.npz", **columns)
    return occurs


def _take_pieces(work: pathlib.Path) -> Iterator[Columns]:
    """The columns of each piece, in the order of the log; its file is removed."""
    for path in sorted(work.glob("piece-*.npz")):
        with np.load(path) as piece:
            columns = dict(piece)
        path.unlink()
        yield columns


def _number(
    raw: RawTables,
    distinct: Mapping[str, pd.Series],
    shown: np.ndarray | None,
    occurs: np.ndarray,
) -> tuple[Columns, dict[str, np.ndarray]]:
    """The place of each code among the names of its kind, and the names; places of actions are
    [A, 3], by label."""
    places, names = {}, {}
    for kind, column in movelines.ID_COLUMNS.items():
        texts = distinct[kind].to_numpy(object)
        if kind == "action":
            shown = np.repeat(texts[:, None], 3, axis=1) if shown is None else shown
            texts = shown[occurs]
        also = raw.items["item_id"] if kind == "item" else None
        places[kind], names[kind] = movelines.numbered(column, texts, also)
    found = np.full(occurs.shape, -1)
    found[occurs] = places["action"]
    return places | {"action": found}, names


def _users_of_parts(work: pathlib.Path, place: np.ndarray) -> np.ndarray:
    """[P + 1] users that parts begin with, and U."""
    per_user = np.zeros(len(place), np.int64)
    for path in work.glob("piece-*.npz"):
        with np.load(path) as piece:
            per_user += np.bincount(place[piece["user"]], minlength=len(place))
    return columnar.cut_shards(np.append(0, np.cumsum(per_user)))


def _distribute(columns: Columns, places: Columns, users: np.ndarray, work: pathlib.Path) -> None:
    """Appends the rows of a piece to the files of their parts, with ids in place of codes."""
    action = places["action"][columns["action"], columns["label"] - NO_LABEL]
    columns |= {kind: places[kind][columns[kind]] for kind in ("user", "item", "scene")}
    columns["action"] = action
    part = (np.searchsorted(users, columns["user"], side="right") - 1).astype(np.int16)
    order = np.argsort(part, kind="stable")
    cuts = np.searchsorted(part[order], np.arange(len(users)))
    for name, column in columns.items():
        kind = np.int32 if name in movelines.ID_COLUMNS else column.dtype
        column = column[order].astype(kind)
        for number, (begin, end) in enumerate(itertools.pairwise(cuts)):
            with (work / f"part-{number:06}-{name}-{column.dtype.str}").open("ab") as file:
                column[begin:end].tofile(file)


def _take_part(work: pathlib.Path, number: int) -> Columns:
    """The columns of a part, rows in the order of the log; its files are removed."""
    columns = {}
    for path in work.glob(f"part-{number:06}-*"):
        _, _, name, kind = path.name.split("-")
        columns[name] = np.fromfile(path, kind)
        path.unlink()
    return columns


def _sort_parts(
    users: np.ndarray,
    names: Mapping[str, np.ndarray],
    duplicates: str,
    work: pathlib.Path,
    folder: pathlib.Path,
) -> tuple[dict[str, int], np.ndarray, int]:
    """Writes the event columns, ties ordered by content.

    Returns:
      Counts of movelines.prepare, [U] events of each user, and how many items have events.
    """
    counts = {"duplicates_dropped": 0, "unsorted_rows": 0}
    per_user = []
    seen = np.zeros(len(names["item"]), bool)
    writers: dict[str, column_files.ColumnWriter] = {}
    for number, (first, end) in enumerate(itertools.pairwise(users)):
        columns = _take_part(work, number)
        user = columns["user"] - first
        keys = ordering.sort_keys(user, columns["time"])
        order = ordering.by_content(keys, [columns[name] for name in movelines.CONTENT])
        if duplicates == "drop":
            order = ordering.without_repeats(order, keys, columns)
        counts["duplicates_dropped"] += len(keys) - len(order)
        counts["unsorted_rows"] += ordering.count_unsorted(user, columns["time"])
        per_user.append(np.bincount(user[order], minlength=end - first))
        seen[columns["item"]] = True
        for kind in ("item", "scene", "action"):
            columns[kind] = movelines.dense_ids(columns[kind])
        for name in columns.keys() - {"user", "other"}:
            if name not in writers:
                path = folder / f"{name}.npy"
                writers[name] = column_files.ColumnWriter(path, columns[name].dtype)
            writers[name].append(columns[name][order])
    for writer in writers.values():
        writer.close()
    return counts, np.concatenate(per_user), int(seen.sum())


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
