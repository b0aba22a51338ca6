"""Movelines of logs larger than memory: pieces become parts, a range of users each, on disk.

Each part is sorted by itself, as nif_jax/data/movelines.py sorts a whole log, and with the same
result. Memory holds one piece or part, the names of users and items, and the permutation of ties.
"""

import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from nif_jax.data import movelines
from nif_jax.data.preparation import columnar, parts
from nif_jax.data.preparation.parts import Columns
from nif_jax.data.schema import NO_LABEL, Movelines, RawPieces


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
    work = folder / parts.WORK
    work.mkdir()
    codes = {kind: _Codes() for kind in movelines.ID_COLUMNS}
    occurs = _spool(pieces, codes, work)
    distinct = {kind: coded.names for kind, coded in codes.items()}
    del codes
    raw, places, names = parts.number(pieces, distinct, occurs, duplicates)
    users = _users_of_parts(work, places["user"])
    for columns in _take_pieces(work):
        _distribute(columns, places, users, work)
    found = (
        parts.sort_part(_take_part(work, part), first, end, duplicates)
        for part, (first, end) in enumerate(itertools.pairwise(users))
    )
    return parts.complete(found, raw, names, seed, folder)


def _spool(pieces: RawPieces, codes: Mapping[str, _Codes], work: pathlib.Path) -> np.ndarray:
    """Writes each piece as columns of codes; returns RawPieces.finish's occurs [A, 3]."""
    occurs = np.zeros((0, 3), bool)
    for piece, events in enumerate(pieces.events(work)):
        encoded = {k: codes[k].encode(events[c]) for k, c in movelines.ID_COLUMNS.items()}
        columns: dict[str, Any] = parts.columns_of(events, encoded)
        most = max(len(occurs), int(columns["action"].max()) + 1)
        occurs = np.pad(occurs, ((0, most - len(occurs)), (0, 0)))
        occurs[columns["action"], columns["label"] - NO_LABEL] = True
        np.savez(work / f"piece-{piece:06}.npz", **columns)
    return occurs


def _take_pieces(work: pathlib.Path) -> Iterator[Columns]:
    """The columns of each piece, in the order of the log; its file is removed."""
    for path in sorted(work.glob("piece-*.npz")):
        with np.load(path) as piece:
            columns = dict(piece)
        path.unlink()
        yield columns


def _users_of_parts(work: pathlib.Path, place: np.ndarray) -> np.ndarray:
    """[P + 1] users that parts begin with, and U."""
    per_user = np.zeros(len(place), np.int64)
    for path in work.glob("piece-*.npz"):
        with np.load(path) as piece:
            per_user += np.bincount(place[piece["user"]], minlength=len(place))
    return columnar.cut_shards(np.append(0, np.cumsum(per_user)))


def _distribute(columns: Columns, places: Columns, users: np.ndarray, work: pathlib.Path) -> None:
    """Appends the rows of a piece to the files of their parts."""
    for part, rows in parts.split(columns, places, users):
        for name, column in rows.items():
            with (work / f"part-{part:06}-{name}-{column.dtype.str}").open("ab") as file:
                column.tofile(file)


def _take_part(work: pathlib.Path, number: int) -> Columns:
    """The columns of a part, rows in the order of the log; its files are removed."""
    columns = {}
    for path in work.glob(f"part-{number:06}-*"):
        _, _, name, kind = path.name.split("-")
        columns[name] = np.fromfile(path, kind)
        path.unlink()
    return columns
