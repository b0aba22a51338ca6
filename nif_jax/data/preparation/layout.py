"""What training reads of a large log, laid out once: files of columns, and a range for each shard.

    manifest.json          counts, and for each column the lengths of shards and their CRC-32
    split.npy, ...         columns of Dataset and Store that the prepared log has not
    listed_train.npy, ...  Dataset.listed of each period
    seen_item.npy, ...     columns of items and users

A log is laid out in parts of users: memory holds one part. Later starts map the files, and read and
verify the ranges of their own shards only.
"""

import dataclasses
import functools
import itertools
import json
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nif_jax.data import ranges, storage
from nif_jax.data.dataset import Dataset, build_dataset
from nif_jax.data.files import file_sha256, json_sha256, read_json
from nif_jax.data.preparation import column_files, columnar, layout_writer
from nif_jax.data.preparation.cache import kept
from nif_jax.data.ranges import RowRange, ShardColumn
from nif_jax.data.schema import PERIODS, Movelines
from nif_jax.data.shards import require_shardable
from nif_jax.data.vocabulary import item_tables, with_ids
from nif_jax.data.windows import Store

_LOG = logging.getLogger(__name__)

FORMAT_VERSION = "2.0.0"
"""Part of every name of a folder: raise it when the layout, or how it is computed, changes."""


def load_dataset(
    read_lines: Callable[..., Movelines],
    cache_dir: str,
    num_shards: int,
    local_shards: Sequence[int],
    **options: Any,
) -> Dataset:
    """What dataset.build_dataset returns; of a large log, with columns that are mapped from files.

    Args:
      read_lines: (own) -> the log, see cache.load_movelines.
      cache_dir: folder of prepared data, "" for the default.
      num_shards, local_shards: see dataset.build_dataset, as are the options, without negatives.

    Raises:
      ConfigError, DataError: see dataset.build_dataset.
    """
    shards: dict[str, Any] = {"num_shards": num_shards, "local_shards": local_shards}
    lines = read_lines(own=functools.partial(ranges.own_rows, **shards))
    if lines.num_events < ranges.LARGE:
        return build_dataset(lines, **options, **shards)
    parts = [FORMAT_VERSION, lines.digests["events"], options, num_shards]
    name = json_sha256(json.loads(json.dumps(parts)))
    target = storage.cache_dir(cache_dir) / "layouts" / f"{lines.name}-{name[:20]}"
    if target.exists():
        try:
            return read(target, lines, local_shards)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("layout %s is damaged (%s): making it again", target, error)
    lines = read_lines()  # all rows are used, so that all are verified
    require_shardable(lines, num_shards)
    try:
        with kept(target) as scratch:
            layout_writer.write(lines, scratch, num_shards, **options)
    except OSError as error:
        _LOG.warning("%s cannot be written (%s): laying out in memory", target, error)
        return build_dataset(lines, **options, **shards)
    return read(target, lines, local_shards)


def read(folder: pathlib.Path, lines: Movelines, local_shards: Sequence[int]) -> Dataset:
    """The data set of a layout, mapped.

    Raises:
      ValueError, OSError: a file is absent, or differs from what was written.
    """
    manifest = read_json(folder / columnar.MANIFEST)
    tables, columns, parts = {}, {}, {}
    for name, digest in manifest["files"].items():
        path = folder / f"{name}.npy"
        column_files.require(path, digest, file_sha256(path))
        tables[name] = column_files.map_file(path)
    for name, column in manifest["columns"].items():
        path = folder / f"{name}.npy"
        begins = np.cumsum([0, *column["lengths"]])
        columns[name] = column_files.map_file(path)
        column_files.require(path, (begins[-1],), columns[name].shape)
        column_files.require_digests(
            path, column["crc32"], begins, local_shards, column_files.Crc32
        )
        parts[name] = [columns[name][a:b] for a, b in itertools.pairwise(begins)]
    return _dataset(lines, manifest, columns, parts, tables, local_shards)


def _dataset(
    lines: Movelines,
    manifest: Mapping[str, Any],
    columns: Mapping[str, np.ndarray],
    parts: Mapping[str, Sequence[np.ndarray]],
    tables: Mapping[str, np.ndarray],
    local_shards: Sequence[int],
) -> Dataset:
    """The data set of columns, of the parts of them that each shard has, and of tables."""
    # What is not written equals another column, see layout_writer.write.
    parts = {"history_end": parts["visible"], "frozen_end": parts["cut"]} | dict(parts)
    ends = np.cumsum([0, *map(len, parts["split"])])
    shard_rows = [RowRange(begin, end) for begin, end in itertools.pairwise(ends)]

    def of_shards(values: Sequence[np.ndarray]) -> Any:
        if len(values) == 1:
            return values[0][None]
        return ShardColumn([values[shard] for shard in local_shards], max(map(len, values)))

    def prepared(column: np.ndarray) -> Any:
        return of_shards([ranges.of_rows(column, rows) for rows in shard_rows])

    none = np.broadcast_to(False, lines.num_events)
    order_only = none if lines.order_only is None else lines.order_only
    users, user_sizes = with_ids(lines.user_features, tables["seen_user"])
    items, item_sizes = item_tables(lines, tables["seen_item"])
    own = ("time", "train", "user", "history_row", "history_begin", "history_end", "frozen_end")
    store = Store(
        **{name: of_shards(parts[name]) for name in own},
        **{name: prepared(getattr(lines, name)) for name in ("item", "scene", "action", "label")},
        order_only=prepared(order_only),
        user_features={
            name: np.broadcast_to(ids, (len(local_shards), len(ids))) for name, ids in users.items()
        },
    )
    ranked = dataclasses.replace(lines, label=columns.get("label", lines.label))
    vars(ranked)["user"] = columns["user"]  # a cached property, which would be an array in memory
    if "label" not in columns:
        vars(ranked)["digests"] = lines.digests
    return Dataset(
        movelines=ranked,
        split=columns["split"],
        trained=columns["train"],
        items=items,
        item_sizes=item_sizes,
        user_sizes=user_sizes,
        num_scenes=manifest["num_scenes"],
        num_actions=manifest["num_actions"],
        shard_rows=shard_rows,
        stores=store,
        local_shards=tuple(local_shards),
        eligible=columns.get("eligible", np.broadcast_to(True, lines.num_events)),
        sampled=none,
        event_label=lines.label,
        seen_item=tables["seen_item"],
        seen_user=tables["seen_user"],
        visible=columns["visible"],
        cut=columns["cut"],
        num_labels=np.array(manifest["num_labels"]),
        listed=[parts[f"listed_{name}"] for name in PERIODS],
    )
