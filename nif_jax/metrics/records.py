"""metrics.jsonl: one measurement of a stage a line."""

import json
import math
import os
from pathlib import Path
from typing import Any

from absl import logging

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, in order.

    Raises:
      FileNotFoundError: there is none.
      ValueError: a line that is not a record, with its number.
    """
    records, damaged = _read_lines(Path(path))
    if damaged:
        number, error = damaged[0]
        raise ValueError(f"{path}, line {number}: not a metrics record: {error}")
    return records


def good_records(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl that can be read; a warning for each line that cannot.

    For plots and the page only: no result depends on them.
    """
    path = Path(path)
    if not path.exists():
        logging.warning("%s is missing: plots and report.html lack its records", path)
        return []
    records, damaged = _read_lines(path)
    for number, error in damaged:
        logging.warning("%s, line %d: dropped, it is not a metrics record: %s", path, number, error)
    return records


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """Records, and number and fault of each line that is none."""
    records, damaged = [], []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        try:
            records.append(_record(line))
        except (ValueError, RecursionError) as error:
            damaged.append((number, str(error)))
    return records, damaged


def _record(line: bytes) -> dict[str, Any]:
    """The record of a line; raises ValueError if there is none."""
    if not line.endswith(b"\n"):  # a process was killed while it wrote
        raise ValueError("the line has no end")
    record = json.loads(line, parse_constant=_reject_constant)
    if not isinstance(record, dict) or {"step", "stage", "time", "values"} - record.keys():
        raise ValueError("a record has step, stage, time and values")
    values = record["values"] if isinstance(record["values"], dict) else {"": ""}
    numbers = [record["time"], *(value for value in values.values() if value is not None)]
    if (
        type(record["step"]) is not int
        or not isinstance(record["stage"], str)
        or not all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
    ):
        raise ValueError("step is an integer, stage a text, and values are numbers by name")
    return record


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; what is not finite is null")
