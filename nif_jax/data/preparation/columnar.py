"""The format of prepared movelines on disk: a file a column, which is mapped into memory.

    manifest.json            schema, counts, shards of users, SHA-256 of all other files
    user_offsets.npy         [U + 1]
    item.npy, time.npy, ...  [E] of each event column, sorted by (user, time)
    item_features/*.npy      [N + 1, M] of each feature, in the order of the manifest
    user_features/*.npy      [U]
    names/*.parquet          texts [n]: each vocabulary, and titles

A shard is a range of users and of their rows, with digests of its own. It is a range of every file,
and not a file, so that a column is one array whichever part of it a process reads.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nif_jax.data.files import file_sha256, read_json, write_json
from nif_jax.data.preparation.column_files import (
    form,
    map_file,
    require,
    require_digests,
    shard_digests,
)
from nif_jax.data.ranges import RowRange
from nif_jax.data.schema import EVENT_COLUMNS, OPTIONAL_COLUMNS, Movelines

FORMAT_VERSION = "2.0.0"
"""Part of every cache key: raise it when a source, preparation or this format changes what is
stored."""

MANIFEST = "manifest.json"
SHARD_ROWS = 1 << 22
"""Rows of a shard, about: no user is in two."""


class Names(Mapping[str, np.ndarray]):
    """Movelines.vocabulary; the texts of a key are read when they are first used.

    Args of the constructor: key -> Parquet file.
    """

    def __init__(self, files: Mapping[str, pathlib.Path]):
        self._files = dict(files)
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._read:
            self._read[key] = read_names(self._files[key])
        return self._read[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def write(store: Movelines, folder: pathlib.Path, notes: Mapping[str, Any]) -> None:
    """Writes a store into an empty folder.

    Args:
      store: what to write.
      folder: where to; it exists.
      notes: JSON values to keep with it.

    Raises:
      OSError: the folder cannot be written.
    """
    for name in event_columns(store):
        np.save(folder / f"{name}.npy", getattr(store, name))
    write_rest(store, folder, notes)


def event_columns(store: Movelines) -> tuple[str, ...]:
    """The columns [E] of a store, with the optional ones that it has."""
    optional = (column for column in OPTIONAL_COLUMNS if getattr(store, column) is not None)
    return (*EVENT_COLUMNS, *optional)


def write_rest(store: Movelines, folder: pathlib.Path, notes: Mapping[str, Any]) -> None:
    """Writes all of a store but its event columns, which are there; the manifest comes last."""
    np.save(folder / "user_offsets.npy", store.user_offsets)
    for group in ("item_features", "user_features"):
        (folder / group).mkdir()
        for number, ids in enumerate(getattr(store, group).values()):
            np.save(folder / group / f"{number:04}.npy", ids)
    (folder / "names").mkdir()
    for number, texts in enumerate((store.titles, *store.vocabulary.values())):
        write_names(_names_file(folder, number), texts)
    shards = cut_shards(store.user_offsets)
    columns = {
        name: {
            "dtype": getattr(store, name).dtype.str,
            "sha256": shard_digests(folder / f"{name}.npy", store.user_offsets[shards]),
        }
        for name in event_columns(store)
    }
    others = {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stem not in columns
    }
    manifest = {
        "format": FORMAT_VERSION,
        "name": store.name,
        "origin": store.origin,
        "counts": dict(store.counts),
        "shards": {"users": shards.tolist(), "rows": store.user_offsets[shards].tolist()},
        "columns": columns,
        "item_features": list(store.item_features),
        "user_features": list(store.user_features),
        "vocabulary": list(store.vocabulary),
        "files": others,
        "digests": store.digests,
        "notes": dict(notes),
    }
    write_json(folder / MANIFEST, manifest)


def read(
    folder: pathlib.Path, own: Callable[[np.ndarray], Sequence[RowRange]] | None = None
) -> tuple[Movelines, dict[str, Any]]:
    """The store written to `folder`, and its notes; events stay on disk and are mapped.

    Bytes are compared with their digests, so that damage is found before training.

    Args:
      folder: of the store.
      own: [U + 1] user_offsets -> the rows that this process will use. Shards of event columns
        without any of them are neither read nor verified; None = all are.

    Raises:
      ValueError, OSError: a file is absent, or differs from what was written.
    """
    manifest = read_json(folder / MANIFEST)
    for name, expected in manifest["files"].items():
        require(folder / name, expected, file_sha256(folder / name))
    offsets = map_file(folder / "user_offsets.npy")
    rows, shards = np.asarray(manifest["shards"]["rows"]), None
    if own is not None:
        used = [(r.begin < rows[1:]) & (rows[:-1] < r.end) for r in own(offsets)]
        shards = np.flatnonzero(np.any(used, axis=0))
    columns: dict[str, Any] = {}
    for name, column in manifest["columns"].items():
        path = folder / f"{name}.npy"
        columns[name] = map_file(path)
        require(path, (column["dtype"], (rows[-1],)), form(columns[name]))
        require_digests(path, column["sha256"], rows, shards)
    features: dict[str, Any] = {
        group: {
            name: map_file(folder / group / f"{number:04}.npy")
            for number, name in enumerate(manifest[group])
        }
        for group in ("item_features", "user_features")
    }
    keys = enumerate(manifest["vocabulary"], start=1)
    store = Movelines(
        name=manifest["name"],
        origin=manifest["origin"],
        user_offsets=offsets,
        **columns,
        **features,
        vocabulary=Names({key: _names_file(folder, number) for number, key in keys}),
        titles=read_names(_names_file(folder, 0)),
        counts=manifest["counts"],
    )
    vars(store)["digests"] = manifest["digests"]  # of a cached property: not computed again
    return store, manifest["notes"]


def cut_shards(user_offsets: np.ndarray) -> np.ndarray:
    """[S + 1] users that shards begin with, and U: whole users, about SHARD_ROWS rows each."""
    ends = np.arange(SHARD_ROWS, user_offsets[-1], SHARD_ROWS)
    inner = np.searchsorted(user_offsets, ends)
    return np.unique([0, *inner, len(user_offsets) - 1])


def write_names(path: pathlib.Path, texts: np.ndarray) -> None:
    """Writes texts [n]."""
    pq.write_table(pa.table({"name": pa.array(texts, pa.large_string())}), path)


def read_names(path: pathlib.Path) -> np.ndarray:
    """[n] object array of str; equal texts are one object."""
    with pq.ParquetFile(path) as source:
        names = source.read()["name"].to_pandas(types_mapper=lambda _: None)
    return names.to_numpy(object)


def _names_file(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Of the titles, number 0, or of a vocabulary, counted from 1."""
    return folder / "names" / f"{number:04}.parquet"
