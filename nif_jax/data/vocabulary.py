"""Rows of embedding tables: which value each has, and the file that keeps them for a later run.

A later run (config.init_from) numbers its values anew. It copies rows by value, so a workdir keeps
the values of its rows beside the checkpoints.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nif_jax.data.files import write_whole
from nif_jax.data.schema import ID_FEATURE, ConfigError, Movelines, digest

OOV = 1
"""Row of an id embedding for items and users that the train period has not seen."""
FIRST_ID = OOV + 1
"""Row of the first one that it has seen."""
VOCABULARY_FILE = "vocabulary.parquet"
"""Of a workdir: columns "table" and "value", in the order of the rows."""
COUNTED = "count features/"
"""What names of count features, which are inputs and no rows, are kept by."""


def with_ids(
    features: Mapping[str, np.ndarray], seen: np.ndarray, every: bool = False
) -> tuple[dict, dict]:
    """Adds the "id" feature; returns features and table sizes.

    `seen` covers non-padding rows. `every` gives the table of ids as many rows as if all were seen.
    """
    ids = np.where(seen, OOV + np.cumsum(seen), OOV).astype(np.int32)
    features = {ID_FEATURE: ids} | dict(features)
    sizes = {name: int(values.max(initial=0)) + 1 for name, values in features.items()}
    return features, sizes | ({ID_FEATURE: FIRST_ID + len(seen)} if every else {})


def first_row(key: str) -> int:
    """Row of the first value in the table of a key of `row_values`."""
    return FIRST_ID if key.endswith(f"/{ID_FEATURE}") else 1


def item_tables(movelines: Movelines, seen: np.ndarray, every: bool = False) -> tuple[dict, dict]:
    """Dataset.items and item_sizes; `seen` [N + 1] bool, items that the train period has; `every`
    as in `with_ids`."""
    items, sizes = with_ids({}, seen[1:], every)
    items["id"] = np.append(0, items["id"]).astype(np.int32)[:, None]
    items |= dict(movelines.item_features)
    sizes |= {k: int(v.max(initial=0)) + 1 for k, v in movelines.item_features.items()}
    return items, sizes


def row_values(data: Any) -> dict[str, np.ndarray]:
    """The values of the rows of each table whose rows are values of the data.

    Args:
      data: a Dataset.

    Returns:
      "scene", "action", "item/<feature>" and "user/<feature>", "id" being a feature -> [n] object
      array of distinct str, the values of n rows from `first_row` on. Rows before them (padding,
      unknown) and behind them (config.data.fixed_shapes) have no value. And
      "count features/<labels that they read>" -> [F] their names.
    """
    names = data.movelines.vocabulary
    found = {
        "scene": names["scene"][: data.num_scenes],
        "action": names["action"][: data.num_actions],
        f"item/{ID_FEATURE}": names["item"][data.items[ID_FEATURE][1:, 0] > OOV],
        f"user/{ID_FEATURE}": names["user"][data.seen_user],
    }
    for group, sizes in (("item", data.item_sizes), ("user", data.user_sizes)):
        for feature, size in sizes.items():
            if feature != ID_FEATURE:
                found[f"{group}/{feature}"] = names[f"{group}/{feature}"][: size - 1]
    for kind, statistics in data.statistics.items():
        found[f"{COUNTED}{kind}"] = np.array(statistics.fitted.names, object)
    return found


def write_values(workdir: pathlib.Path, values: Mapping[str, np.ndarray]) -> None:
    """Writes the values of a run's rows into its workdir."""
    sizes = [len(names) for names in values.values()]
    tables = pa.DictionaryArray.from_arrays(
        np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), pa.array(list(values), pa.string())
    )
    every = pa.array(np.concatenate([*values.values(), np.empty(0, object)]), pa.large_string())
    # A table without values is in the schema alone.
    schema = {"tables": "\n".join(values), "sha256": digest(values)}
    table = pa.table({"table": tables, "value": every}).replace_schema_metadata(schema)
    file = pa.BufferOutputStream()
    pq.write_table(table, file)
    write_whole(workdir / VOCABULARY_FILE, file.getvalue().to_pybytes())


def read_values(workdir: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """What `write_values` wrote.

    Raises:
      ConfigError: there is no such file, or it is damaged.
    """
    path = pathlib.Path(workdir) / VOCABULARY_FILE
    again = "give the command of that workdir again, which writes the file"
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        names = table.schema.metadata[b"tables"].decode().split("\n")
        of = table["table"].cast(pa.string()).to_numpy()
        values = table["value"].to_numpy()
        found = {name: values[of == name] for name in names}
        if digest(found) != table.schema.metadata[b"sha256"].decode():
            raise ValueError("it holds other values than were written")
    except FileNotFoundError as error:
        raise ConfigError(f"config.init_from: there is no {path}: {again}.") from error
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).splitlines())[:200]
        raise ConfigError(
            f"config.init_from: {path} is damaged ({reason}): delete it, and {again}."
        ) from error
    return found
