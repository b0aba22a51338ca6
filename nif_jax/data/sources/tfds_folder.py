"""Movelines from a TFDS folder of preparation/tfds_builder.py: they are prepared already."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from nif_jax.data.features import strings
from nif_jax.data.files import file_sha256
from nif_jax.data.schema import EVENT_COLUMNS, OPTIONAL_COLUMNS, DataError, Movelines

NAME = "moveline_dataset"
VERSION = "1.4.0"
"""Of the records: raise it when they change."""
CONFIGS = ("users", "items")


def tfds_folder(*, path: str = "") -> Movelines:
    """The store of a TFDS folder, with the order, the ties and the counts that it has there.

    Args:
      path: the folder that was exported to; moveline_dataset/ is inside.

    Raises:
      DataError: the folder has no such data set, or it is damaged.
    """
    _files(path)
    try:
        return read(pathlib.Path(path).expanduser())
    except Exception as error:
        raise DataError(
            f"source.path={path}: the data set {NAME} cannot be read "
            f"({type(error).__name__}: {error}): delete it and export it again"
        ) from error


def fingerprint(*, path: str = "") -> str:
    """SHA-256 of every file."""
    return " ".join(f"{file.name}:{file_sha256(file)}" for file in _files(path))


def _files(path: str) -> list[pathlib.Path]:
    """The files of both configs."""
    places = [_place(pathlib.Path(path).expanduser(), config) for config in CONFIGS]
    for place in places:
        if not path or not place.is_dir():
            raise DataError(
                f"source.path={path!r}: no folder {place}: give the folder that "
                "nif_jax.data.preparation.tfds_builder exported to"
            )
    return sorted(file for place in places for file in place.iterdir() if file.is_file())


def _place(folder: pathlib.Path, config: str) -> pathlib.Path:
    return folder / NAME / config / VERSION


def digest(store: Movelines) -> str:
    """SHA-256 of everything in a store: two stores with the same digest are equal."""
    parts = [store.name, store.origin, sorted(store.counts.items()), sorted(store.digests.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read(folder: pathlib.Path) -> Movelines:
    """The store written to `folder`.

    Raises:
      ValueError: what is read differs from what was written.
      Exception: whatever TFDS and ArrayRecord raise on absent or damaged files.
    """
    metadata, users = _records(folder, "users")
    _, items = _records(folder, "items")
    widths = np.array([width for _, width in metadata["item_features"]], dtype=int)
    packed = stack([record["features"] for record in items], widths.sum())
    packed = np.concatenate([np.zeros((1, packed.shape[1]), np.int32), packed])  # the padding item
    columns = np.split(packed, np.cumsum(widths), axis=1)[:-1]
    names = [name for name, _ in metadata["item_features"]]
    personal = stack([record["features"] for record in users], len(metadata["user_features"]))
    lengths = [len(record["item"]) for record in users]
    columns_read = [c for c in (*EVENT_COLUMNS, *OPTIONAL_COLUMNS) if c in users[0]]
    events = {column: np.concatenate([r[column] for r in users]) for column in columns_read}
    vocabulary = {
        "user": strings(record["user_id"].decode() for record in users),
        "item": strings(record["item_id"].decode() for record in items),
    }
    vocabulary |= {key: strings(values) for key, values in metadata["vocabulary"].items()}
    store = Movelines(
        name=metadata["name"],
        origin=metadata["origin"],
        user_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        **events,
        item_features={k: np.ascontiguousarray(v) for k, v in zip(names, columns, strict=True)},
        user_features={
            name: np.ascontiguousarray(personal[:, i])
            for i, name in enumerate(metadata["user_features"])
        },
        vocabulary=vocabulary,
        titles=strings(record["title"].decode() for record in items),
        counts=metadata["counts"],
    )
    found = digest(store)
    if found != metadata["digest"]:
        raise ValueError(f"{folder}: digest {found}, expected {metadata['digest']}")
    return store


def stack(rows: list[np.ndarray], width: int) -> np.ndarray:
    """[n, width] int32, also of no rows."""
    return np.asarray(rows, np.int32).reshape(len(rows), width)


def _records(folder: pathlib.Path, config: str) -> tuple[dict, list[Mapping[str, Any]]]:
    """Metadata and all records of a config, fetched in one bulk read."""
    import tensorflow_datasets as tfds  # slow to import, and rarely needed

    builder = tfds.builder_from_directory(os.fspath(_place(folder, config)))
    source = builder.as_data_source(split="train")
    return dict(builder.info.metadata), source.__getitems__(range(len(source)))
