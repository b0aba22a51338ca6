"""Preparation on a cluster: the steps of out_of_core.py as two Apache Beam pipelines.

    row groups -> distinct texts, by bucket -> one table of them a bucket      (find_texts)
    row groups -> rows with ids, by part of the users -> sorted part           (sort_parts)

Between them the launching process numbers the texts, and after them it writes the columns. Only
names of files and codes of texts pass through it. Workers exchange files with it, so that all have
to reach the events file and the folder of prepared data by the same paths.

A worker holds a piece, or a bucket or part, and the names of users and items. What it returns does
not depend on the order of elements: rows have the number that they have in the log, and a step that
a runner repeats writes the same file again.
"""

import dataclasses
import functools
import io
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pandas as pd
from apache_beam.options.pipeline_options import PipelineOptions

from nif_jax.data import movelines
from nif_jax.data.files import write_whole
from nif_jax.data.preparation import columnar, parts
from nif_jax.data.preparation.parts import Columns, SortedPart
from nif_jax.data.schema import NO_LABEL, DataError, Movelines, RawPieces, RowGroups

BUCKETS = 64
"""Tables of distinct texts of a kind, which workers merge side by side."""
_COUNTS = ["none", "0", "1"]
"""Columns that count the events of a text by label, from NO_LABEL on."""


@dataclasses.dataclass(frozen=True)
class Numbered:
    """How texts become ids.

    Attributes:
      codes: kind of id -> its distinct texts; the place is the code.
      places: see parts.number.
      users: see parts.split.
    """

    codes: Mapping[str, pd.Index]
    places: Columns
    users: np.ndarray


def prepare(
    pieces: RawPieces,
    seed: int,
    duplicates: str,
    folder: pathlib.Path,
    options: PipelineOptions,
) -> Movelines:
    """out_of_core.prepare_pieces on the workers of a runner.

    Args:
      pieces: the log.
      seed, duplicates, folder: see prepare_pieces; workers have to reach the folder.
      options: Beam's, the runner among them.

    Raises:
      ConfigError, DataError, OSError: see prepare_pieces.
    """
    work = folder.resolve() / parts.WORK
    work.mkdir()
    groups = pieces.groups(work)
    find_texts(groups, work, options)
    distinct, counts = _read_texts(work)
    occurs = counts["action"] > 0
    raw, places, names = parts.number(pieces, distinct, occurs, duplicates)
    per_user = np.zeros(len(names["user"]), np.int64)
    per_user[places["user"]] = counts["user"].sum(1)
    users = columnar.cut_shards(np.append(0, np.cumsum(per_user)))
    codes = {kind: series.to_numpy(object) for kind, series in distinct.items()}
    _write_numbered(work, codes, places, users)
    sort_parts(groups, work, users, duplicates, options)
    found = (_read_part(work, part) for part in range(len(users) - 1))
    return parts.complete(found, raw, names, seed, folder)


def find_texts(groups: RowGroups, work: pathlib.Path, options: PipelineOptions) -> None:
    """Writes the distinct texts of each kind, with first rows and counts, in buckets.

    Raises:
      DataError: a row cannot be used; of several groups with such rows, that of the first.
    """
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            _read(pipeline, groups)
            | "texts" >> beam.FlatMap(texts_of_group, groups, work)
            | "by bucket" >> beam.GroupByKey()
            | "merge" >> beam.MapTuple(functools.partial(write_bucket, work))
        )
    for path in sorted(work.glob("error-*")):
        raise DataError(path.read_text(encoding="utf-8"))


def sort_parts(
    groups: RowGroups,
    work: pathlib.Path,
    users: np.ndarray,
    duplicates: str,
    options: PipelineOptions,
) -> None:
    """Writes each part of the users sorted, see parts.sort_part."""
    bounds = list(itertools.pairwise(users.tolist()))
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            _read(pipeline, groups)
            | "ids" >> beam.FlatMap(rows_of_group, groups, work)
            | "by part" >> beam.GroupByKey()
            | "sort" >> beam.MapTuple(functools.partial(write_part, work, bounds, duplicates))
        )


def _read(pipeline: beam.Pipeline, groups: RowGroups) -> beam.PCollection:
    """The numbers of the row groups, spread over workers."""
    return pipeline | "groups" >> beam.Create(range(len(groups))) | "spread" >> beam.Reshuffle()


def texts_of_group(
    group: int, groups: RowGroups, work: pathlib.Path
) -> Iterator[tuple[tuple[str, int], pd.DataFrame]]:
    """Yields (kind, bucket), and the texts of a piece: "text", "row" that it is first in, _COUNTS.

    A DataError is written to a file: runners raise errors of their own, with many lines.
    """
    try:
        for events in groups.read(group):
            label = events["label"].to_numpy() - NO_LABEL
            for kind, column in movelines.ID_COLUMNS.items():
                for bucket, texts in _texts(events[column], label).groupby("bucket"):
                    yield (kind, int(bucket)), texts.drop(columns="bucket")
    except DataError as error:
        write_whole(work / f"error-{group:09}", str(error))


def _texts(values: pd.Series, label: np.ndarray) -> pd.DataFrame:
    """Distinct texts of a piece, with the bucket of each."""
    codes, distinct = pd.factorize(values)
    first = np.empty(len(distinct), np.int64)
    first[codes[::-1]] = values.index.to_numpy()[::-1]
    counts = np.bincount(codes * 3 + label, minlength=3 * len(distinct)).reshape(-1, 3)
    texts = distinct.to_numpy(object)
    table = pd.DataFrame({"text": texts, "row": first, **dict(zip(_COUNTS, counts.T, strict=True))})
    return table.assign(bucket=(pd.util.hash_array(texts) % BUCKETS).astype(np.int64))


def write_bucket(
    work: pathlib.Path, key: tuple[str, int], tables: Iterable[pd.DataFrame]
) -> pathlib.Path:
    """Writes the texts of a bucket, once each, and returns where."""
    by_text = pd.concat(tables).groupby("text", sort=False)
    found = by_text.agg({"row": "min"} | dict.fromkeys(_COUNTS, "sum")).reset_index()
    content = io.BytesIO()
    found.sort_values("row").to_parquet(content, index=False)
    return write_whole(work / f"texts-{key[0]}-{key[1]:03}", content.getvalue())


def _read_texts(work: pathlib.Path) -> tuple[dict[str, pd.Series], Columns]:
    """Kind -> distinct texts as parts.number wants them, and their events [k, 3] by label."""
    distinct, counts = {}, {}
    for kind in movelines.ID_COLUMNS:
        tables = [pd.read_parquet(path) for path in sorted(work.glob(f"texts-{kind}-*"))]
        # Two texts of a kind are not first in one row.
        table = pd.concat(tables).sort_values("row")
        distinct[kind] = pd.Series(table["text"].tolist(), table["row"].to_numpy(), dtype="str")
        counts[kind] = table[_COUNTS].to_numpy()
    return distinct, counts


def _write_numbered(
    work: pathlib.Path, codes: Columns, places: dict[str, Any], users: np.ndarray
) -> None:
    """Writes what `_read_numbered` reads."""
    for kind, texts in codes.items():
        columnar.write_names(work / f"codes-{kind}", texts)
    np.savez(work / "places.npz", users=users, **places)


@functools.lru_cache(maxsize=1)
def _read_numbered(work: pathlib.Path) -> Numbered:
    """Once in each process of a worker."""
    codes = {k: pd.Index(columnar.read_names(work / f"codes-{k}")) for k in movelines.ID_COLUMNS}
    with np.load(work / "places.npz") as places:
        found = dict(places)
    users = found.pop("users")
    return Numbered(codes, found, users)


def rows_of_group(
    group: int, groups: RowGroups, work: pathlib.Path
) -> Iterator[tuple[int, Columns]]:
    """Yields each part, and the rows of a piece that belong to it; "row" is that of the log."""
    numbered = _read_numbered(work)
    for events in groups.read(group):
        codes = {
            kind: numbered.codes[kind].get_indexer(events[column].to_numpy(object))
            for kind, column in movelines.ID_COLUMNS.items()
        }
        columns = parts.columns_of(events, codes) | {"row": events.index.to_numpy()}
        for part, rows in parts.split(columns, numbered.places, numbered.users):
            if len(rows["row"]):
                yield part, rows


def write_part(
    work: pathlib.Path,
    bounds: list[tuple[int, int]],
    duplicates: str,
    part: int,
    pieces: Iterable[Columns],
) -> pathlib.Path:
    """Writes a part sorted, and returns where; the pieces come in any order."""
    ordered = sorted(pieces, key=lambda rows: int(rows["row"][0]))
    columns = {name: np.concatenate([rows[name] for rows in ordered]) for name in ordered[0]}
    del columns["row"], ordered
    found = parts.sort_part(columns, *bounds[part], duplicates)
    arrays: dict[str, Any] = {f"column-{name}": values for name, values in found.columns.items()}
    arrays |= {"per_user": found.per_user, "items": found.items}
    content = io.BytesIO()
    np.savez(content, counts=np.array([found.dropped, found.unsorted]), **arrays)
    return write_whole(work / f"sorted-{part:06}", content.getvalue())


def _read_part(work: pathlib.Path, part: int) -> SortedPart:
    """What `write_part` wrote; the file is removed."""
    path = work / f"sorted-{part:06}"
    with np.load(path) as file:
        found = dict(file)
    path.unlink()
    columns = {k.removeprefix("column-"): v for k, v in found.items() if k.startswith("column-")}
    return SortedPart(columns, found["per_user"], found["items"], *found["counts"].tolist())
