"""Exports prepared movelines as tensorflow-datasets of ArrayRecord, without TensorFlow.

    python -m nif_jax.data.preparation.tfds_builder <cache folder>/prepared/<key> <folder>

One builder, two configs: "users" has one record a user, its moveline inside; "items" has one record
an item. What belongs to the whole store (vocabularies, names of the feature columns, counts) is
TFDS metadata. The source "tfds" reads it, and everything comes back exactly: dtypes, shapes, order.
"""

import argparse
import contextlib
import io
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow_datasets as tfds

from nif_jax.data.preparation import columnar
from nif_jax.data.schema import DataError, Movelines
from nif_jax.data.sources.tfds_folder import NAME, VERSION, digest, stack

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

    name = NAME
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
            for column in columnar.event_columns(store):
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


def write(store: Movelines, folder: pathlib.Path) -> None:
    """Writes both configs of `store` below `folder`.

    Raises:
      DataError: the folder has such a data set. TFDS would keep its records.
    """
    if (folder / NAME).exists():
        raise DataError(f"{folder / NAME} exists: delete it, or give another folder")
    tfds.disable_progress_bar()
    for config in MovelineDataset.BUILDER_CONFIGS:
        builder = MovelineDataset(store=store, config=config.name, data_dir=os.fspath(folder))
        with contextlib.redirect_stdout(io.StringIO()):  # says "Downloading", which misleads
            builder.download_and_prepare()


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
    features = stack(list(store.user_features.values()), store.num_users).T
    columns = {column: getattr(store, column) for column in columnar.event_columns(store)}
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


def export(prepared: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the data of a folder of prepared data, see `write`.

    Raises:
      DataError: there is no such data, it is damaged, or the folder has a data set.
    """
    try:
        store, _ = columnar.read(prepared)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{prepared}: no prepared data can be read ({error}): give the folder that the log of "
            "a run names"
        ) from error
    write(store, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes prepared data as a TFDS data set.")
    parser.add_argument("prepared", type=pathlib.Path, help="its folder, which the log names")
    parser.add_argument("output", type=pathlib.Path, help="folder of the TFDS data set")
    arguments = parser.parse_args()
    try:
        export(arguments.prepared, arguments.output)
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
