"""Writes what nif_jax/data/preparation/layout.py reads, in parts of users."""

import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nif_jax.data import labels, ranges, splits
from nif_jax.data.dataset import count_labels
from nif_jax.data.files import file_sha256, write_json
from nif_jax.data.histories import history_bounds, visible_rows
from nif_jax.data.preparation import column_files, columnar
from nif_jax.data.schema import NO_LABEL, PERIODS, Movelines


class _Writer:
    """Writes columns in parts, shard after shard.

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

    def close(self) -> dict[str, Any]:
        """Completes the files; returns what the manifest has of each."""
        found = {}
        for name, file in self._files.items():
            file.close()
            ends = np.cumsum(self._lengths[name])
            digests = column_files.shard_digests(self._folder / f"{name}.npy", np.append(0, ends))
            found[name] = {"lengths": self._lengths[name].tolist(), "sha256": digests}
        return found


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
    rng, writer = np.random.default_rng(seed), _Writer(folder, num_shards)
    before, num_labels = np.zeros((3, 2), np.int64), np.zeros((3, 2), np.int64)
    seen_item, seen_user = np.zeros(lines.num_items + 1, bool), np.zeros(lines.num_users, bool)
    start, done, shard = lines.time.min(), dict.fromkeys(("row", "entry"), 0), -1
    for next_shard, first, end in _parts(lines.user_offsets, num_shards):
        if next_shard > shard:
            shard, done = next_shard, dict.fromkeys(done, 0)
        base = int(lines.user_offsets[first])
        part, complete = (store.of_users(first, end) for store in (ranked, lines))
        period = rule(part, slice(base, base + part.num_events))
        train = period == splits.TRAIN
        label = labels.share_of_train(part.label, train, label_share, rng)
        before, num_labels = (
            total + count_labels(period, values)
            for total, values in ((before, part.label), (num_labels, label))
        )
        seen_item[part.item[train]] = True
        seen_user[first + part.user[train]] = True
        columns = {"split": period, "train": train, "label": label}
        columns |= {"user": part.user + np.int32(first)}
        columns |= {"time": (part.time - start).astype(np.int32)}
        columns |= _listed(period, label, done["row"])
        columns |= _histories(complete, period, ties, history, base, **done)
        writer.append(shard, columns)
        done["row"] += part.num_events
        done["entry"] += len(columns["history_row"])
    splits.require_impressions(lines.name, split, before.sum(axis=1))
    kept_labels = (int(counts[splits.TRAIN].sum()) for counts in (before, num_labels))
    labels.require_share(label_share, *kept_labels)
    manifest = {
        "columns": writer.close(),
        "num_labels": num_labels.tolist(),
        "all_labels": bool((num_labels == before).all()),
        "num_scenes": int(lines.scene.max()),
        "num_actions": int(lines.action.max()),
        "files": {},
    }
    for name, values in (("seen_item", seen_item), ("seen_user", seen_user)):
        np.save(folder / f"{name}.npy", values)
        manifest["files"][name] = file_sha256(folder / f"{name}.npy")
    write_json(folder / columnar.MANIFEST, manifest)


def _parts(user_offsets: np.ndarray, num_shards: int) -> Iterator[tuple[int, int, int]]:
    """(shard, first user, end) of each part."""
    for shard, (first, end) in enumerate(
        itertools.pairwise(ranges.cut_users(user_offsets, num_shards))
    ):
        own = user_offsets[first : end + 1] - user_offsets[first]
        for begin, stop in itertools.pairwise(first + columnar.cut_shards(own)):
            yield shard, int(begin), int(stop)


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
