"""Writes what nif_jax/data/preparation/layout.py reads, in parts of users."""

import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from nif_jax.data import labels, ranges, splits
from nif_jax.data.dataset import count_labels
from nif_jax.data.files import file_sha256, write_json
from nif_jax.data.histories import history_bounds, visible_rows
from nif_jax.data.preparation import column_files, columnar
from nif_jax.data.schema import NO_LABEL, PERIODS, Movelines

TABLES = ("seen_item", "seen_user")
"""Columns of items and users."""


class _Writer:
    """Writes columns in parts, shard after shard. A context manager, which completes the files.

    Args of the constructor: the folder, and the number of shards.
    """

    def __init__(self, folder: pathlib.Path, num_shards: int):
        self._folder = folder
        self._files: dict[str, column_files.ColumnWriter] = {}
        self._lengths: dict[str, np.ndarray] = {}
        self._num_shards = num_shards

    def append(self, shard: int, columns: Mapping[str, np.ndarray]) -> None:
        """Adds the next part [n] of each column."""
        for name, values in columns.items():
            if name not in self._files:
                path = self._folder / f"{name}.npy"
                self._files[name] = column_files.ColumnWriter(path, values.dtype)
                self._lengths[name] = np.zeros(self._num_shards, np.int64)
            self._files[name].append(values)
            self._lengths[name][shard] += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def describe(self) -> dict[str, Any]:
        """What the manifest has of each column; the files are complete."""
        found = {}
        for name, lengths in self._lengths.items():
            rows = np.append(0, np.cumsum(lengths))
            path = self._folder / f"{name}.npy"
            digests = column_files.shard_digests(path, rows, method=column_files.Crc32)
            found[name] = {"lengths": lengths.tolist(), "crc32": digests}
        return found


class _Counts:
    """What is counted over all parts.

    Attributes:
      before: [3, 2] labels of each period, see Dataset.num_labels; num_labels: those that are kept.
      seen_item, seen_user: see Dataset.
    """

    def __init__(self, lines: Movelines):
        self.before, self.num_labels = (np.zeros((3, 2), np.int64) for _ in range(2))
        self.seen_item = np.zeros(lines.num_items + 1, bool)
        self.seen_user = np.zeros(lines.num_users, bool)

    def add(self, part: Movelines, first: int, period, label) -> None:
        """Counts a part whose first user is `first`, with its labels before and after the draw."""
        train = period == splits.TRAIN
        self.before += count_labels(period, part.label)
        self.num_labels += count_labels(period, label)
        self.seen_item[part.item[train]] = True
        self.seen_user[first + part.user[train]] = True


def write(
    lines: Movelines,
    folder: pathlib.Path,
    num_shards: int,
    *,
    split: str,
    time_zone: str,
    train_share: float,
    validation_share: float,
    history: str,
    ties: str,
    label_share: float,
    label_scenes: str,
    seed: int,
) -> None:
    """Writes a layout into an empty folder; for options and errors see dataset.build_dataset.

    Raises:
      OSError: the folder cannot be written.
    """
    ranked = labels.of_scenes(lines, label_scenes)
    rule = splits.split_rule(ranked, split, train_share, validation_share, seed, time_zone)
    rng, start, counts = np.random.default_rng(seed), lines.time.min(), _Counts(lines)
    with _Writer(folder, num_shards) as writer:
        for shard, parts in enumerate(_parts(lines.user_offsets, num_shards)):
            row, entry = 0, 0  # of the shard
            for first, end in parts:
                base = int(lines.user_offsets[first])
                part, complete = (store.of_users(first, end) for store in (ranked, lines))
                period = rule(part, slice(base, base + part.num_events))
                train = period == splits.TRAIN
                label = labels.share_of_train(part.label, train, label_share, rng)
                counts.add(part, first, period, label)
                columns = {"split": period, "train": train}
                if label_scenes or label_share < 1:
                    columns["label"] = label
                columns["user"] = part.user + np.int32(first)
                columns["time"] = (part.time - start).astype(np.int32)
                columns |= _listed(period, label, row)
                columns |= _histories(complete, period, ties, history, base, row, entry)
                row, entry = row + part.num_events, entry + len(columns["history_row"])
                if history == "all":  # every row is an entry
                    del columns["eligible"]
                    if num_shards == 1:  # equal to visible and cut
                        del columns["history_end"], columns["frozen_end"]
                writer.append(shard, columns)
    splits.require_impressions(lines.name, split, counts.before.sum(axis=1))
    train_labels = (int(n[splits.TRAIN].sum()) for n in (counts.before, counts.num_labels))
    labels.require_share(label_share, *train_labels)
    for name in TABLES:
        np.save(folder / f"{name}.npy", getattr(counts, name))
    manifest = {
        "columns": writer.describe(),
        "num_labels": counts.num_labels.tolist(),
        "num_scenes": int(lines.scene.max()),
        "num_actions": int(lines.action.max()),
        "files": {name: file_sha256(folder / f"{name}.npy") for name in TABLES},
    }
    write_json(folder / columnar.MANIFEST, manifest)


def _parts(user_offsets: np.ndarray, num_shards: int) -> Iterator[list[tuple[int, int]]]:
    """For each shard, (first user, end) of its parts."""
    for first, end in itertools.pairwise(ranges.cut_users(user_offsets, num_shards)):
        own = user_offsets[first : end + 1] - user_offsets[first]
        yield list(itertools.pairwise((first + columnar.cut_shards(own)).tolist()))


def _listed(period: np.ndarray, label: np.ndarray, row: int) -> dict[str, np.ndarray]:
    """Impressions of each period in a part whose first row in its shard is `row`."""
    kept_rows = {
        name: np.flatnonzero((period == code) & (label != NO_LABEL))
        for code, name in enumerate(PERIODS)
    }
    return {f"listed_{name}": (row + rows).astype(np.int32) for name, rows in kept_rows.items()}


def _histories(
    part: Movelines, period: np.ndarray, ties: str, history: str, base: int, row: int, entry: int
) -> dict[str, np.ndarray]:
    """What the rows of a part may see.

    Args:
      part: some users.
      period, ties, history: see visible_rows and history_bounds.
      base: first row of the part in the store.
      row: its first row in its shard; entry: of the shard's history_row.
    """
    visible, cut = visible_rows(part, period, ties)
    sampled = np.broadcast_to(False, part.num_events)
    eligible, *bounds = history_bounds(part, history, (visible, cut), sampled)
    names = ("history_begin", "history_end", "frozen_end")
    found = {name: bound + np.int32(entry) for name, bound in zip(names, bounds, strict=True)}
    found |= {"visible": visible + np.int32(base), "cut": cut + np.int32(base)}
    history_row = (row + np.flatnonzero(eligible)).astype(np.int32)
    return found | {"eligible": eligible, "history_row": history_row}
