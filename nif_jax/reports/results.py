"""results.json: the results of a run, under a fixed schema (see SCHEMA), as strict JSON.

"run" describes config, commit, versions, devices and data set; "rows" has one object per model x
seed x split x history; "differences" one per pair x split x history x metric; "files" is path of a
file that reports read, within the workdir -> its SHA-256; "checksum" is the SHA-256 of all else.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nif_jax.data.files import read_json, write_json
from nif_jax.metrics import bootstrap

RESULTS_FILE = "results.json"
HISTORIES = ("online", "frozen")
METRICS = ("auc", "gauc", "logloss", "ne", "ece", "pcoc")
CALIBRATED = ("logloss", "ne", "ece", "pcoc")
"""Metrics that calibration changes; it keeps the order of the impressions."""
COSTS = ("train_examples_per_second", "parameters", "peak_rss_bytes")
ROW_KEYS = ("model", "seed", "split", "history", *METRICS, *COSTS)
AGAIN = "Give the command of that run again: --mode=train writes the file again"
"""The remedy for a damaged file of a finished run."""

# A field is what a value must be, a tuple of choices, [item of a list], {field of an object}, or
# {...: item}, which stands for all keys that are not named.
_NAME, _INTEGER, _NUMBER, _OBJECT = "a name", "an integer", "a number or null", "an object"
_IS: Mapping[str, Callable[[Any], bool]] = {
    _NAME: lambda value: isinstance(value, str) and value != "",
    _INTEGER: lambda value: type(value) is int,  # isinstance would accept a bool
    _NUMBER: lambda value: value is None or type(value) in (int, float),
    _OBJECT: lambda value: isinstance(value, dict),
    "a string": lambda value: isinstance(value, str),
}
_BUCKET = dict.fromkeys(("lower", "upper", "count", "auc"), _NUMBER)
SCHEMA: Mapping[str, Any] = {
    "run": _OBJECT,
    "rows": [
        {
            "model": _NAME,
            "seed": _INTEGER,
            "split": _NAME,
            "history": HISTORIES,
            **dict.fromkeys((*METRICS, *COSTS), _NUMBER),
        }
    ],
    "differences": [
        {
            "model": _NAME,
            "reference": _NAME,
            "split": _NAME,
            "history": HISTORIES,
            "metric": tuple(bootstrap.SIGNS),
            "seeds": _INTEGER,
            "mean": _NUMBER,
            "sd": _NUMBER,
            "low": _NUMBER,
            "high": _NUMBER,
            "verdict": bootstrap.VERDICTS,
        }
    ],
    "selection": [
        {"seed": _INTEGER, "selected": _NAME, "metric": _NAME, "validation": {...: _NUMBER}}
    ],
    "calibration": [
        {
            "model": _NAME,
            "seed": _INTEGER,
            "history": HISTORIES,
            "method": _NAME,
            **dict.fromkeys(("before", "after"), dict.fromkeys(CALIBRATED, _NUMBER)),
        }
    ],
    "retrieval": [
        {"model": _NAME, "seed": _INTEGER, "split": _NAME, "targets": _NAME, ...: _NUMBER}
    ],
    "semantic_ids": [{"seed": _NUMBER, "form": _NAME, "level": _NUMBER, ...: _NUMBER}],
    "buckets": {...: {...: [_BUCKET]}},  # property -> model -> buckets
    "files": {...: "a string"},
    "notes": ["a string"],
}
"""Of the keys of results.json, "run" and "rows" are required; further ones are not checked."""


def write_results(
    path: str | os.PathLike[str], run: Mapping[str, Any], rows: Sequence[Any], **extra: Any
) -> None:
    """Writes results.json in one step: a reader sees the old file or the new one, whole.

    Numbers that are not finite become null, arrays and tuples lists, and NumPy or JAX scalars
    Python ones. A metric or cost that was not measured is None.

    Raises:
      ValueError: a key or value that breaks SCHEMA, with its place and what is allowed.
      TypeError: a value that JSON has no form for, with its place.
    """
    results = _plain({"run": run, "rows": rows, **extra}, "results")
    check_results(results)
    write_json(path, results)


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks results.json, given its path or that of its workdir.

    Raises:
      FileNotFoundError: there is none.
      ValueError: the file is damaged; names it, the place and the remedy.
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
    """Raises a ValueError that names the first place where plain JSON data breaks SCHEMA."""
    if not isinstance(results, dict):
        raise ValueError(f"results must be an object, got {results!r}")
    for key, field in SCHEMA.items():
        if key in results or key in ("run", "rows"):
            _check(results.get(key), field, key)
    for index, entry in enumerate(results.get("selection", [])):
        _check(entry["selected"], tuple(entry["validation"]), f"selection[{index}].selected")


def _check(value: Any, field: Any, where: str) -> None:
    """Raises a ValueError unless a value is what a field of SCHEMA allows."""
    if isinstance(field, str):
        if not _IS[field](value):
            raise ValueError(f"{where} must be {field}, got {value!r}")
    elif isinstance(field, tuple):
        if value not in field:
            raise ValueError(f"{where} is {value!r}; choose from {field}")
    elif isinstance(field, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, got {value!r}")
        for index, item in enumerate(value):
            _check(item, field[0], f"{where}[{index}]")
    else:
        _check(value, _OBJECT, where)
        required = [key for key in field if key is not ...]
        missing = [key for key in required if key not in value]
        unknown = [] if ... in field else [key for key in value if key not in field]
        if missing or unknown:
            raise ValueError(
                f"{where}: missing keys {missing}, unknown keys {unknown}; the keys are {required}"
            )
        for key, item in value.items():
            _check(item, field.get(key, field.get(...)), f"{where}.{key}")


def _plain(value: Any, where: str) -> Any:
    """The value as what strict JSON can hold."""
    if hasattr(value, "__array__"):  # of NumPy or JAX, scalars too
        value = np.asarray(value).tolist()
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            raise TypeError(f"{where}: JSON keys are strings, got {odd[0]!r}")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{where}: JSON has no form for a {type(value).__name__}: {value!r}")
