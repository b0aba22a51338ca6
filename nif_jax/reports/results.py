"""results.json: the results of a run, in a fixed form, as strict JSON.

"run" describes config, commit, versions, devices and data set; "rows" has one object per model x
seed x split x history; "differences" one per pair x split x history x metric; "buckets" is
property -> model -> list of buckets; "files" is path of a file that reports read, within the
workdir -> its SHA-256; "checksum" is the SHA-256 of all else. "run" and "rows" are required.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nif_jax.data.files import read_json, write_json
from nif_jax.metrics.bootstrap import VERDICTS, Difference

RESULTS_FILE = "results.json"
HISTORIES = ("online", "frozen")
METRICS = ("auc", "gauc", "gauc_positives", "ndcg@5", "rank", "logloss", "ne", "ece", "pcoc")
TITLES = {"logloss": "LogLoss", "gauc_positives": "GAUC by positives", "rank": "rank"}
CALIBRATED = ("logloss", "ne", "ece", "pcoc")
"""Metrics that calibration changes; it keeps the order of the impressions."""
COSTS = ("train_examples_per_second", "parameters", "peak_rss_bytes")
ROW_KEYS = ("model", "seed", "split", "history", *METRICS, *COSTS)
AGAIN = "Give the command of that run again: --mode=train writes the file again"
"""The remedy for a damaged file of a finished run."""

_COMPARED = ("model", "reference", "split", "history", "metric", "seeds")
KEYS: Mapping[str, Sequence[str]] = {
    "rows": ROW_KEYS,
    "differences": (*_COMPARED, *Difference._fields),
    "selection": ("seed", "selected", "metric", "validation"),
    "calibration": (
        *("model", "seed", "history", "method"),
        *(f"{metric}_{when}" for metric in CALIBRATED for when in ("before", "after")),
    ),
    "retrieval": ("model", "seed", "split", "targets"),
    "semantic_ids": ("seed", "form", "level"),
    "bucket": ("lower", "upper", "count", "auc"),
}
"""The keys of the objects in each list of results.json."""
_OPEN = ("retrieval", "semantic_ids")  # further keys of these are measurements

_NAME = ("a name", lambda value: isinstance(value, str) and value != "")
_INTEGER = ("an integer", lambda value: type(value) is int)  # isinstance would accept a bool
_NUMBER = ("a number or null", lambda value: value is None or type(value) in (int, float))
_NAMES = ("model", "reference", "split", "metric", "selected", "targets", "form", "method")
_VALUES = dict.fromkeys(_NAMES, _NAME) | {
    "seed": _INTEGER,
    "seeds": _INTEGER,
    "history": (f"one of {HISTORIES}", HISTORIES.__contains__),
    "verdict": (f"one of {VERDICTS}", VERDICTS.__contains__),
    "validation": ("numbers by name", lambda value: all(map(_NUMBER[1], value.values()))),
}
"""Key -> what its value must be, in words and as a test; all others are numbers or null."""


def write_results(
    path: str | os.PathLike[str], run: Mapping[str, Any], rows: Sequence[Any], **extra: Any
) -> None:
    """Writes results.json in one step: a reader sees the old file or the new one, whole.

    Numbers that are not finite become null, arrays and tuples lists, and NumPy or JAX scalars
    Python ones. A metric or cost that was not measured is None. Raises a ValueError for a key or
    value that is not allowed, with its place, and a TypeError for one that JSON has no form for.
    """
    text = json.dumps({"run": run, "rows": rows, **extra}, default=_plain)
    results = json.loads(text, parse_constant=lambda _: None)
    check_results(results)
    write_json(path, results)


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks results.json, given its path or that of its workdir.

    Raises a FileNotFoundError if there is none, and a ValueError for a damaged file, which names
    the file, the place and the remedy.
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
    """Raises a ValueError that names the first place where plain JSON data has another form."""
    try:
        if not isinstance(results["run"], dict):
            raise ValueError(f"run must be an object, got {results['run']!r}")
        for name in KEYS:
            if name == "rows" or name in results:
                _check(results[name], name, name)
        for name, by_model in results.get("buckets", {}).items():
            for model, buckets in by_model.items():
                _check(buckets, "bucket", f"buckets.{name}.{model}")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"these are no results ({type(error).__name__}: {error})") from error


def _check(entries: Any, kind: str, where: str) -> None:
    """Raises a ValueError unless entries is a list of objects of a kind of KEYS."""
    if not isinstance(entries, list):
        raise ValueError(f"{where} must be a list, got {entries!r}")
    for index, entry in enumerate(entries):
        missing = [key for key in KEYS[kind] if key not in entry]
        unknown = [key for key in entry if key not in KEYS[kind] and kind not in _OPEN]
        if missing or unknown:
            raise ValueError(
                f"{where}[{index}]: missing keys {missing}, unknown keys {unknown}; "
                f"the keys are {KEYS[kind]}"
            )
        for key, value in entry.items():
            what, is_right = _VALUES.get(key, _NUMBER)
            if not is_right(value):
                raise ValueError(f"{where}[{index}].{key} must be {what}, got {value!r}")


def _plain(value: Any) -> Any:
    """What strict JSON can hold, of a value that it cannot."""
    if hasattr(value, "__array__"):  # of NumPy or JAX, scalars too
        return np.asarray(value).tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"JSON has no form for a {type(value).__name__}: {value!r}")
