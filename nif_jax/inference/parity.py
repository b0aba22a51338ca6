"""--mode=parity: two files of scores, or an artefact and what it should equal."""

import os
import pathlib
from typing import Any

import pyarrow as pa

from nif_jax import serving
from nif_jax.data.schema import ConfigError, DataError
from nif_jax.inference import build
from nif_jax.requests import files
from nif_jax.requests.numbered import Numbered
from nif_jax.requests.objects import RequestError
from nif_jax.serving import artefact, parity_models, parity_tables
from nif_jax.serving.model import Model
from nif_jax.serving.parity_tables import Difference
from nif_jax.serving.samples import sample_requests

MOST_ROWS = 10_000
"""Rows of --input that are encoded and scored on both sides, about."""
MOST_NAMED = 12
"""Features that a line names."""


def compare(left: str, right: str, source: pathlib.Path | None) -> bool:
    """Prints the first feature that differs, with row, values and reason; returns whether any does.

    Args:
      left: a file of scores, an artefact, or, opposite an artefact, the workdir of a run. A file
        may be path:column, the column being probabilities, as predictions.parquet has them.
      right: likewise.
      source: requests for an artefact, of which the first MOST_ROWS rows are used; None for sample
        requests.

    Raises:
      ConfigError: sides that cannot be compared.
      DataError: a file or an artefact that cannot be read.
      WorkdirError, CheckpointError: see nif_jax.load.
    """
    folders = [pathlib.Path(side).is_dir() for side in (left, right)]
    if any(folders) and not all(folders):
        raise ConfigError(
            f"--left={left} and --right={right}: compare two files, or two folders. "
            "--mode=score --features writes the file of a folder."
        )
    if not all(folders):
        if source is not None:
            raise ConfigError("--input goes with two folders; files of scores hold their requests.")
        return _of_files(left, right)
    report = parity_models.of_models(*_models(left, right), lambda m: _requests(m, source))
    equal = f"equal: {', '.join(report.equal)}" if report.equal else "they are compared first"
    if not report.part:
        print(f"{left} and {right} are {equal}.")
        return False
    print(f"{left} (left) and {right} (right) differ in their {report.part}; {equal}.")
    _show(report.differences)
    return True


def _of_files(left: str, right: str) -> bool:
    differences, names = parity_tables.of_files(*map(_table, (left, right)))
    if not differences:
        print(f"{left} and {right} are equal in {_listed(names)}.")
        return False
    print(f"{left} (left) and {right} (right) differ; compared: {_listed(names)}.")
    _show(differences)
    return True


def _show(differences: list[Difference]) -> None:
    first, *rest = differences
    print(f"{first.feature}: {first.extent}, first in {first.where}")
    print(f"  left:   {first.values[0]}\n  right:  {first.values[1]}\n  reason: {first.reason}")
    if rest:
        print(f"also different: {_listed([one.feature for one in rest])}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _table(side: str) -> pa.Table:
    """A file of scores; path:column has probabilities in this column."""
    path, _, column = side.rpartition(":")
    if os.path.exists(side) or not path:
        return files.read_scores(pathlib.Path(side))
    table = files.read_scores(pathlib.Path(path))
    if column not in table.column_names:
        raise DataError(f"{path} has no column {column!r}; it has {', '.join(table.column_names)}")
    kept = [name for name in parity_tables.KEYS if name in table.column_names]
    return table.select([*kept, column]).rename_columns([*kept, "probability"])


def _models(left: str, right: str) -> tuple[Model, Model]:
    """Two artefacts, or one and the run's variant and seed that it says it is of."""
    sides = [pathlib.Path(side) for side in (left, right)]
    exported = [(folder / artefact.MANIFEST).exists() for folder in sides]
    if not any(exported):
        raise ConfigError(
            f"neither --left={left} nor --right={right} is an artefact: write one by "
            "--mode=export, or compare files of --mode=score --features."
        )
    manifest = artefact.read_manifest(sides[exported.index(True)])
    found: list[Any] = [
        serving.load(side) if there else build.load(side, manifest["variant"], manifest["seed"])
        for side, there in zip(sides, exported, strict=True)
    ]
    return found[0], found[1]


def _requests(model: Model, source: pathlib.Path | None) -> Numbered:
    """Requests with candidates, numbered for a model."""
    if source is None:
        return model.number(sample_requests(model.vocabulary, model.encoder))
    files.require_format("input", source)
    for chunk in files.read(source, model.vocabulary.profile, MOST_ROWS):
        if chunk.bad:
            row, reason = chunk.bad[0]
            raise DataError(f"{source}: row {row}: {reason}")
        try:
            return model.number_table("row", chunk.table, True)
        except (RequestError, DataError) as error:
            raise DataError(f"{source}: {error}") from error
    raise DataError(f"{source} has no rows")
