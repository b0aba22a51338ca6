"""Your own data: a tidy table of events in a Parquet, CSV or TSV file, items and users beside it.

One row an event. Identifiers are read as text from CSV and TSV, so that "007" stays "007".
"""

import operator
import pathlib
import re
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from nif_jax.data import validate
from nif_jax.data.schema import NO_LABEL, DataError, RawTables

EXTENSIONS = (".parquet", ".csv", ".tsv")
DEFAULT_ITEM_COLUMNS = ("title", "category", "genres", "year", "brand")
MAX_USER_VALUES = 1000
"""A user column with more distinct values is a number or a name, and not used unless asked for."""

_ALTERNATIVES = {"timestamp": ("timestamp", "ts", "time")}
_FILL = {"scene": "all", "action": "event"}  # one value for every row, where there is no column
_COMPARE: Mapping[str, Callable] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, ">": operator.gt, "<": operator.lt
}  # fmt: skip


def files(
    *,
    path: str = "",
    items: str = "",
    users: str = "",
    columns: str = "",
    item_columns: str = "",
    user_columns: str = "",
    label_from: str = "",
) -> RawTables:
    """Tables from files.

    Args:
      path: the events file; or it without its extension; or a folder with one events file.
      items: items file; default: <stem>_items.<extension> beside the events, if it is there.
      users: users file; default: <stem>_users.<extension>, likewise.
      columns: our names and the file's, "user_id=uid,timestamp=ts". Ours are user_id, item_id,
        timestamp (or ts, or time), scene, action and label. Without a scene or action column
        every row gets the same one. user_id and item_id hold for the items and users file too.
      item_columns: features of items, "category,brand"; default: those of title, category, genres,
        year and brand that are there. Lists, and text with "|", are sets.
      user_columns: features of users; default: every column of at most 1,000 distinct values.
      label_from: "value>=4" makes labels by comparing a column (no number there: no label).

    Raises:
      DataError: a file, a column or a value cannot be used.
    """
    names = _parse_columns(columns)
    file, item_file, user_file = locate(path, items, users)
    events = _events(file, names, label_from)
    item_id, user_id = names.get("item_id", "item_id"), names.get("user_id", "user_id")
    item_table, user_table = pd.DataFrame({"item_id": []}), pd.DataFrame({"user_id": []})
    if item_file:
        table = _read(item_file, (item_id,))
        wanted = _split(item_columns) or [c for c in DEFAULT_ITEM_COLUMNS if c in table]
        item_table = _features(item_file, table, item_id, "item_id", wanted)
    if user_file:
        table = _read(user_file, (user_id,))
        wanted = _split(user_columns) or _few_valued(table, user_id)
        user_table = _features(user_file, table, user_id, "user_id", wanted)
    origin = " ".join(f.name for f in (file, item_file, user_file) if f)
    return RawTables(file.stem, events, item_table, user_table, origin)


def fingerprint(*, path: str = "", items: str = "", users: str = "", **_: str) -> str:
    """Absolute path, size and time of change of each file that would be read."""
    found = [file.resolve() for file in locate(path, items, users) if file]
    return " ".join(f"{f}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in found)


def locate(
    path: str, items: str = "", users: str = ""
) -> tuple[pathlib.Path, pathlib.Path | None, pathlib.Path | None]:
    """The events, items and users file, the last two None if absent; DataError if not found."""
    if not path:
        raise DataError("data source 'files' needs path=<events file, stem or folder>")
    given = pathlib.Path(path).expanduser()
    file = given if given.is_file() else _search(given)
    if file.suffix not in EXTENSIONS:
        raise DataError(f"{file}: unknown extension {file.suffix!r}; use {', '.join(EXTENSIONS)}")
    return file, _sibling(file, "items", items), _sibling(file, "users", users)


def _search(given: pathlib.Path) -> pathlib.Path:
    """The one events file of a folder or of a stem."""
    if given.is_dir():
        found = sorted(f for f in given.iterdir() if f.suffix in EXTENSIONS)
        found = [f for f in found if not f.stem.endswith(("_items", "_users"))]
        what = f"{given}: a folder has to hold one events file"
    else:
        found = [f for e in EXTENSIONS if (f := given.parent / f"{given.name}{e}").is_file()]
        what = f"{given}: no such file, with or without {', '.join(EXTENSIONS)}"
    if len(found) != 1:
        raise DataError(f"{what}; found: {', '.join(f.name for f in found) or 'none'}")
    return found[0]


def _sibling(file: pathlib.Path, kind: str, given: str) -> pathlib.Path | None:
    """The items or users file: the one given, which has to exist, or the one beside `file`."""
    if given:
        sibling = pathlib.Path(given).expanduser()
        if not sibling.is_file():
            raise DataError(f"{kind} file {sibling}: no such file")
        return sibling
    sibling = file.with_name(f"{file.stem}_{kind}{file.suffix}")
    return sibling if sibling.is_file() else None


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _parse_columns(text: str) -> dict[str, str]:
    """{"user_id": "uid"} of "user_id=uid"."""
    names = {}
    for pair in _split(text):
        ours, equals, theirs = (word.strip() for word in pair.partition("="))
        if not equals or not theirs or ours not in validate.EVENT_COLUMNS:
            choices = ", ".join(validate.EVENT_COLUMNS)
            raise DataError(f"columns: {pair!r} is not <our name>=<column>; our names: {choices}")
        names[ours] = theirs
    return names


def _read(file: pathlib.Path, text_columns: tuple[str, ...]) -> pd.DataFrame:
    """The table in `file`; raises DataError, naming it, if it cannot be read."""
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file)
        if file.suffix in EXTENSIONS:
            # Only an empty cell is missing: "NA" and "None" are names of scenes and users.
            missing = {"keep_default_na": False, "na_values": [""]}
            types = dict.fromkeys(text_columns, str)
            separator = "\t" if file.suffix == ".tsv" else ","
            return pd.read_csv(file, sep=separator, dtype=types, low_memory=False, **missing)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{file}: the file is empty") from error
    except (OSError, ValueError) as error:  # pyarrow's and pandas' parser errors are ValueErrors
        raise DataError(f"{file}: cannot be read as {file.suffix[1:]}: {error}") from error
    raise DataError(f"{file}: unknown extension {file.suffix!r}; use {', '.join(EXTENSIONS)}")


def _events(file: pathlib.Path, names: Mapping[str, str], label_from: str) -> pd.DataFrame:
    """Checked events; columns that we have no name for are kept, they tell duplicates apart."""
    text_columns = tuple(names.get(key, key) for key in ("user_id", "item_id"))
    table = _read(file, text_columns)
    found = {}
    for ours in validate.EVENT_COLUMNS:
        choices = (names[ours],) if ours in names else _ALTERNATIVES.get(ours, (ours,))
        found[ours] = next((column for column in choices if column in table), choices[0])
    computed = {
        ours: value for ours, value in _FILL.items() if ours not in names and ours not in table
    }
    if label_from:
        computed["label"] = _threshold(file, table, label_from)
    read = {ours: column for ours, column in found.items() if ours not in computed}
    validate.check_columns(str(file), table, read)
    # Taking columns, not renaming them, lets one column serve as two, say as scene and action.
    events = pd.DataFrame({ours: table[column] for ours, column in read.items()}).assign(**computed)
    for ours in ("scene", "action"):
        events[ours] = events[ours].astype("str")  # what is missing stays missing
    others = table.drop(columns=[c for c in table if c in read.values() or c in events])
    return validate.check_events(str(file), events.join(others), found)


def _threshold(file: pathlib.Path, table: pd.DataFrame, rule: str) -> pd.Series:
    """Labels [E] int8 of a rule such as "value>=4"; NO_LABEL where the column holds no number."""
    match = re.fullmatch(r"\s*(.+?)\s*(>=|<=|==|>|<)\s*(-?\d+(?:\.\d+)?)\s*", rule)
    if not match:
        raise DataError(f"label_from: {rule!r} is not <column>>=<number> (or <=, ==, >, <)")
    column, compare, bound = match.groups()
    if column not in table:
        choices = ", ".join(map(str, table.columns))
        raise DataError(f"{file}: no column {column!r} for label_from; the file has: {choices}")
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    holds = _COMPARE[compare](values, float(bound))
    labels = np.where(np.isnan(values), NO_LABEL, holds)
    return pd.Series(labels.astype(np.int8), index=table.index)


def _few_valued(table: pd.DataFrame, key: str) -> list[str]:
    others = [column for column in table.columns if column != key]
    return [c for c in others if _joined(table[c]).nunique() <= MAX_USER_VALUES]


def _features(
    file: pathlib.Path, table: pd.DataFrame, key: str, our_key: str, wanted: list[str]
) -> pd.DataFrame:
    """The id and the wanted columns, lists joined with "|"."""
    for column in (key, *wanted):
        if column not in table:
            choices = ", ".join(map(str, table.columns))
            raise DataError(f"{file}: no column {column!r}; the file has: {choices}")
    validate.check_ids(str(file), key, table[key])
    twice = table[key].duplicated().to_numpy()
    validate.reject(str(file), key, table[key], twice, "stands there twice: keep one row")
    chosen = {column: _joined(table[column]) for column in wanted if column != key}
    return pd.DataFrame({our_key: table[key], **chosen})


def _joined(column: pd.Series) -> pd.Series:
    """Lists and arrays as text with "|", other values as they are."""
    if column.dtype != object:
        return column
    sets = list | tuple | np.ndarray
    return column.map(lambda value: "|".join(map(str, value)) if isinstance(value, sets) else value)
