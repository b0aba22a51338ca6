"""Prepared movelines as tensorflow-datasets of ArrayRecord, written and read without TensorFlow.

One builder, two configs: "users" has one record a user, its moveline inside; "items" has one record
an item. What belongs to the whole store (vocabularies, names of the feature columns, counts) is
TFDS metadata. Everything comes back exactly: dtypes, shapes, order.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from nif_jax.data.features import strings
from nif_jax.data.preparation.columnar import event_columns
from nif_jax.data.schema import EVENT_COLUMNS, OPTIONAL_COLUMNS, Movelines

VERSION = "1.4.0"
"""Of the records: raise it when they change."""

_DTYPES: dict[str, type] = {
    "item": np.int32,
    "scene": np.int32,
    "action": np.int32,
    "time": np.int64,
}
_DTYPES |= {"label": np.int8, "truth": np.float32, "period": np.int8, "order_only": np.bool_}


class MovelineDataset(tfds.core.GeneratorBasedBuilder):
    """Users and items of a moveline store.

    Records of config "users": user_id (text), features [F] int32 in the order of
    metadata["user_features"], and item, scene, action, time, label and the optional columns that
    the store has (schema.OPTIONAL_COLUMNS), each [n] for a user's n events.
    Records of config "items": item_id, title (text), features [M_1 + M_2 + ..] int32, the ids of
    every feature one after the other, widths M in metadata["item_features"].
    """

    name = "moveline_dataset"
    # TFDS looks for checksums of downloads beside the code, with a package that it does not
    # declare (importlib_resources). There is nothing to download, so there is nowhere to look.
    code_path = None
    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="users", description="One record a user."),
        tfds.core.BuilderConfig(name="items", description="One record an item."),
    )

    def __init__(self, *, store: Movelines, **kwargs: object) -> None:
        """`store` is what to write; the other arguments are TFDS's."""
        self._store = store
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        store, integers = self._store, tfds.features.Tensor
        if self.builder_config.name == "users":
            features = {"user_id": tfds.features.Text()}
            features["features"] = integers(shape=(len(store.user_features),), dtype=np.int32)
            for column in event_columns(store):
                features[column] = integers(shape=(None,), dtype=_DTYPES[column])
        else:
            width = sum(ids.shape[1] for ids in store.item_features.values())
            features = {"item_id": tfds.features.Text(), "title": tfds.features.Text()}
            features["features"] = integers(shape=(width,), dtype=np.int32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{store.name}: {store.num_users} users, {store.num_items} items.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(_metadata(store)),
            disable_shuffling=True,  # record u is user u
        )

    def _split_generators(self, dl_manager: object) -> Mapping[str, Iterator]:
        del dl_manager  # nothing to download
        return {"train": self._generate_examples()}  # TFDS's name where there is one split

    def _generate_examples(self) -> Iterator[tuple[int, Mapping[str, object]]]:
        users = self.builder_config.name == "users"
        return _user_records(self._store) if users else _item_records(self._store)


def digest(store: Movelines) -> str:
    """SHA-256 of everything in a store: two stores with the same digest are equal."""
    parts = [store.name, store.origin, sorted(store.counts.items()), sorted(store.digests.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write(store: Movelines, folder: pathlib.Path) -> None:
    """Writes both configs of `store` below `folder`."""
    tfds.disable_progress_bar()
    for config in MovelineDataset.BUILDER_CONFIGS:
        builder = MovelineDataset(store=store, config=config.name, data_dir=os.fspath(folder))
        with contextlib.redirect_stdout(io.StringIO()):  # says "Downloading", which misleads
            builder.download_and_prepare()


def read(folder: pathlib.Path) -> Movelines:
    """The store written to `folder`.

    Raises:
      ValueError: what is read differs from what was written.
      Exception: whatever TFDS and ArrayRecord raise on absent or damaged files.
    """
    metadata, users = _records(folder, "users")
    _, items = _records(folder, "items")
    widths = np.array([width for _, width in metadata["item_features"]], dtype=int)
    packed = _stack([record["features"] for record in items], widths.sum())
    packed = np.concatenate([np.zeros((1, packed.shape[1]), np.int32), packed])  # the padding item
    columns = np.split(packed, np.cumsum(widths), axis=1)[:-1]
    names = [name for name, _ in metadata["item_features"]]
    personal = _stack([record["features"] for record in users], len(metadata["user_features"]))
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


def _metadata(store: Movelines) -> dict[str, object]:
    """What is not in a record, as JSON; names of users and items are in theirs."""
    small = {key: v.tolist() for key, v in store.vocabulary.items() if key not in ("user", "item")}
    return {
        "name": store.name,
        "origin": store.origin,
        "counts": dict(store.counts),
        "vocabulary": small,
        "user_features": list(store.user_features),
        "item_features": [[name, ids.shape[1]] for name, ids in store.item_features.items()],
        "digest": digest(store),
    }


def _user_records(store: Movelines) -> Iterator[tuple[int, Mapping[str, object]]]:
    features = _stack(list(store.user_features.values()), store.num_users).T
    columns = {column: getattr(store, column) for column in event_columns(store)}
    for user, name in enumerate(store.vocabulary["user"].tolist()):
        rows = slice(store.user_offsets[user], store.user_offsets[user + 1])
        moveline = {column: values[rows] for column, values in columns.items()}
        yield user, {"user_id": name, "features": features[user], **moveline}


def _item_records(store: Movelines) -> Iterator[tuple[int, Mapping[str, object]]]:
    empty = np.zeros((store.num_items + 1, 0), np.int32)
    features = np.concatenate([empty, *store.item_features.values()], axis=1)[1:]
    names = zip(store.vocabulary["item"].tolist(), store.titles.tolist(), strict=True)
    for item, (name, title) in enumerate(names):
        yield item, {"item_id": name, "title": title, "features": features[item]}


def _stack(rows: list[np.ndarray], width: int) -> np.ndarray:
    """[n, width] int32, also of no rows."""
    return np.asarray(rows, np.int32).reshape(len(rows), width)


def _records(folder: pathlib.Path, config: str) -> tuple[dict, list[Mapping[str, Any]]]:
    """Metadata and all records of a config, fetched in one bulk read."""
    place = folder / MovelineDataset.name / config / VERSION
    builder = tfds.builder_from_directory(os.fspath(place))
    source = builder.as_data_source(split="train")
    return dict(builder.info.metadata), source.__getitems__(range(len(source)))
