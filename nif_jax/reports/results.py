"""results.json: what a run measured, under a fixed schema, as strict JSON.

    {"run": {...}, "rows": [one object of ROW_KEYS a model x seed x split x history],
     "differences": [one of DIFFERENCE_KEYS a pair x split x history x metric],  # the rest is
     "selection": [{"seed", "selected", "metric", "validation": {model: number}}],
     "retrieval": [{"model", "seed", "split", "targets", "hr@10", ...}],         # optional
     "semantic_ids": [{"seed", "form", "level", "codes", ...}],
     "buckets": {property: {model: [{"lower", "upper", "count", "auc"}]}},
     "files": {path of a file that reports read, within the workdir: its SHA-256},
     "notes": [str],
     "checksum": SHA-256 of all else}
"""

import math
import numbers
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nif_jax.data.files import read_json, write_json
from nif_jax.metrics import bootstrap

RESULTS_FILE = "results.json"
HISTORIES = ("online", "frozen")
METRICS = ("auc", "gauc", "logloss", "ne", "ece", "pcoc")
COSTS = ("train_examples_per_second", "parameters", "peak_rss_bytes")
ROW_KEYS = ("model", "seed", "split", "history", *METRICS, *COSTS)
DIFFERENCE_KEYS = ("model", "reference", "split", "history", "metric", "seeds", "mean", "sd", "low",
                   "high", "verdict")  # fmt: skip
RETRIEVAL_KEYS = ("model", "seed", "split", "targets")
SELECTION_KEYS = ("seed", "selected", "metric", "validation")
CODE_KEYS = ("seed", "form", "level")
BUCKET_KEYS = ("lower", "upper", "count", "auc")
AGAIN = "Give the command of that run again: --mode=train writes the file again"
"""The remedy for a damaged file of a finished run."""


def write_results(
    path: str | os.PathLike[str],
    run: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    **extra: Any,
) -> None:
    """Writes results.json in one step: a reader sees the old file or the new one, whole.

    Numbers that are not finite become null, arrays and tuples lists, and NumPy or JAX scalars
    Python ones.

    Args:
      path: the file; its folder is made.
      run: config, commit, versions, devices, data set.
      rows: each has exactly ROW_KEYS; a metric or cost that was not measured is None.
      **extra: "differences", "selection", "retrieval", "semantic_ids", "buckets", "files", "notes"
        (module docstring), or more keys of JSON values.

    Raises:
      ValueError: a key or value that breaks the schema, with its place and what is allowed.
      TypeError: a value that JSON has no form for, with its place.
    """
    results = _plain({"run": run, "rows": rows, **extra}, "results")
    check_results(results)
    write_json(path, results)


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks results.json.

    Args:
      path: the file, or the workdir that holds it.

    Raises:
      FileNotFoundError: there is none.
      ValueError: not strict JSON, not the schema, or not what was written; names the file and the
        place.
    """
    path = Path(path)
    path = path / RESULTS_FILE if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"no results at {path}; a run writes them when its last stage ends")
    try:
        return read_json(path, check_results)
    except ValueError as error:
        raise ValueError(f"{error}. {AGAIN}") from error


def check_results(results: Any) -> None:
    """Raises a ValueError that names the first place where plain JSON data breaks the schema."""
    _require_object(results, "results")
    _require_object(results.get("run"), "run")
    for index, row in enumerate(_list_of(dict, results.get("rows"), "rows")):
        where = f"rows[{index}]"
        _check_keys(row, where, required=ROW_KEYS, exact=True)
        _check_identity(row, where)
        _check_choice(row, "history", HISTORIES, where)
        _check_numbers(row, (*METRICS, *COSTS), where)
    for index, entry in enumerate(_list_of(dict, results.get("differences", []), "differences")):
        _check_difference(entry, f"differences[{index}]")
    for index, entry in enumerate(_list_of(dict, results.get("selection", []), "selection")):
        where = f"selection[{index}]"
        _check_keys(entry, where, required=SELECTION_KEYS, exact=True)
        _check_integer(entry, "seed", where)
        _require_object(entry["validation"], f"{where}.validation")
        _check_numbers(entry["validation"], tuple(entry["validation"]), f"{where}.validation")
        _check_choice(entry, "selected", tuple(entry["validation"]), where)
        _check_names(entry, ("metric",), where)
    for index, entry in enumerate(_list_of(dict, results.get("retrieval", []), "retrieval")):
        where = f"retrieval[{index}]"
        _check_keys(entry, where, required=RETRIEVAL_KEYS, exact=False)
        _check_identity(entry, where)
        _check_numbers(entry, entry.keys() - set(RETRIEVAL_KEYS), where)
    for index, entry in enumerate(_list_of(dict, results.get("semantic_ids", []), "semantic_ids")):
        where = f"semantic_ids[{index}]"
        _check_keys(entry, where, required=CODE_KEYS, exact=False)
        _check_numbers(entry, entry.keys() - {"form"}, where)
    files = results.get("files", {})
    _require_object(files, "files")
    _list_of(str, list(files.values()), "files")
    _list_of(str, results.get("notes", []), "notes")
    _check_buckets(results.get("buckets", {}))


def _check_buckets(buckets: Any) -> None:
    _require_object(buckets, "buckets")
    for name, by_model in buckets.items():
        _require_object(by_model, f"buckets.{name}")
        for model, rows in by_model.items():
            for index, row in enumerate(_list_of(dict, rows, f"buckets.{name}.{model}")):
                where = f"buckets.{name}.{model}[{index}]"
                _check_keys(row, where, required=BUCKET_KEYS, exact=True)
                _check_numbers(row, BUCKET_KEYS, where)


def _check_difference(entry: dict[str, Any], where: str) -> None:
    _check_keys(entry, where, required=DIFFERENCE_KEYS, exact=True)
    _check_names(entry, ("model", "reference", "split"), where)
    _check_integer(entry, "seeds", where)
    _check_choice(entry, "history", HISTORIES, where)
    _check_choice(entry, "metric", tuple(bootstrap.SIGNS), where)
    _check_choice(entry, "verdict", bootstrap.VERDICTS, where)
    _check_numbers(entry, ("mean", "sd", "low", "high"), where)


def _check_keys(row: dict[str, Any], where: str, required: Sequence[str], exact: bool) -> None:
    missing = [key for key in required if key not in row]
    unknown = [key for key in row if key not in required] if exact else []
    if missing or unknown:
        raise ValueError(f"{where}: missing keys {missing}, unknown keys {unknown}; "
                         f"the keys are {list(required)}")


def _check_identity(row: dict[str, Any], where: str) -> None:
    _check_names(row, ("model", "split"), where)
    _check_integer(row, "seed", where)


def _check_names(row: dict[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if not isinstance(row[key], str) or not row[key]:
            raise ValueError(f"{where}.{key} must be a name, got {row[key]!r}")


def _check_integer(row: dict[str, Any], key: str, where: str) -> None:
    if type(row[key]) is not int:  # isinstance would let a bool pass
        raise ValueError(f"{where}.{key} must be an integer, got {row[key]!r}")


def _check_choice(row: dict[str, Any], key: str, choices: Sequence[str], where: str) -> None:
    if row[key] not in choices:
        raise ValueError(f"{where}.{key} is {row[key]!r}; choose from {choices}")


def _check_numbers(row: dict[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if row[key] is not None and type(row[key]) not in (int, float):
            raise ValueError(f"{where}.{key} must be a number or null, got {row[key]!r}")


def _require_object(value: Any, where: str) -> None:
    if type(value) is not dict:
        raise ValueError(f"{where} must be an object, got {value!r}")


def _list_of(kind: type, value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
        raise ValueError(f"{where} must be a list of {kind.__name__}")
    return value


def _plain(value: Any, where: str) -> Any:
    """The value as what strict JSON can hold."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            raise TypeError(f"{where}: JSON keys are strings, got {odd[0]!r}")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist(), where)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{where}: JSON has no form for a {type(value).__name__}: {value!r}")
