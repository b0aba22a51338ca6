"""Your own data: a tidy table of events in a Parquet, CSV or TSV file, items and users beside it.

One row an event. Identifiers are read as text from CSV and TSV, so that "007" stays "007".
"""

import logging
import operator
import pathlib
import re
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from nif_jax.data import movelines, validate
from nif_jax.data.features import as_text
from nif_jax.data.schema import NO_LABEL, DataError, RawTables
from nif_jax.data.sources import history as history_source
from nif_jax.data.sources import tables

DEFAULT_ITEM_COLUMNS = ("title", "category", "genres", "year", "brand")
_ALTERNATIVES = {"timestamp": ("timestamp", "ts", "time")}
_ANSWERS = {1: "label=1", 0: "label=0", NO_LABEL: "label=none"}
"""Action codes of events that have a label and no action: histories show how the user answered."""
_COMPARE: Mapping[str, Callable] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, ">": operator.gt, "<": operator.lt
}  # fmt: skip

_LOG = logging.getLogger(__name__)


def files(
    *,
    path: str = "",
    items: str = "",
    users: str = "",
    history: str = "",
    columns: str = "",
    history_columns: str = "",
    item_columns: str = "",
    user_columns: str = "",
    action_columns: str = "",
    label_from: str = "",
    unlabelled: str = "",
    user_share: float = 1.0,
    seed: int = 0,
) -> RawTables:
    """Tables from files.

    Args:
      path: the events file; or it without its extension; or a folder with one events file.
      items: items file; default: <stem>_items beside the events, if it is there: with their
        extension, else with another that can be read.
      users: users file; default: <stem>_users, likewise.
      history: file of more events, without labels (see sources/history.py): tidy, or a row a user
        with lists of items. "beside" is <stem>_history, found as items are; default: none.
      columns: our names and the file's, "user_id=uid,timestamp=ts". Ours are user_id, item_id,
        timestamp (or ts, or time), timestamp_ms, scene, action and label. Without a scene column
        every row gets the same one. user_id and item_id hold for the other files too.
      history_columns: the same for the history file; default: as in `columns`.
      item_columns: features of items, "category,brand,price:16"; default: those of title, category,
        genres, year and brand that are there. Lists, and text with "|", are sets; ":16" cuts a
        number into 16 bins of equal mass.
      user_columns: features of users; default: every column of at most 1,000 distinct values.
      action_columns: columns whose values, taken together, are an event's action code, say "value"
        or "label,is_like"; ":16" as above. What the user answered belongs here: histories show it,
        the event's own prediction does not. Default: the action column, and where there is none the
        label: "label=1", "label=0", "label=none".
      label_from: "value>=4" makes labels by comparing a column (no number there: no label).
      unlabelled: "action=return" takes the label from rows whose column has this value, several
        with "," between: they are history and no impressions.
      user_share: share of the users to keep, at random by `seed`; a smaller share is a subset.
      seed: see user_share.

    Raises:
      DataError: a file, a column or a value cannot be used, or no id of the items or users file is
        one of the events'.
    """
    names = tables.parse_columns("columns", columns, (*history_source.NAMES, "label"))
    file, item_file, user_file, history_file = locate(path, items, users, history)
    events = _events(file, names, label_from, unlabelled, action_columns)
    if history_file:
        ours = tables.parse_columns("history_columns", history_columns, history_source.NAMES)
        earlier = _history(history_file, ours or names, events)
        events = pd.concat([events, earlier], ignore_index=True)
    item_id, user_id = names.get("item_id", "item_id"), names.get("user_id", "user_id")
    item_table, user_table = pd.DataFrame({"item_id": []}), pd.DataFrame({"user_id": []})
    if item_file:
        table = tables.read_table(item_file, (item_id,))
        default = [c for c in DEFAULT_ITEM_COLUMNS if c in table]
        wanted = tables.split_words(item_columns) or default
        item_table = tables.features(item_file, table, item_id, "item_id", "item_columns", wanted)
        _check_shared(item_file, item_id, item_table["item_id"], file, events["item_id"])
    if user_file:
        table = tables.read_table(user_file, (user_id,))
        wanted = tables.split_words(user_columns) or tables.few_valued(table, user_id)
        user_table = tables.features(user_file, table, user_id, "user_id", "user_columns", wanted)
        _check_shared(user_file, user_id, user_table["user_id"], file, events["user_id"])
    events = _share_of_users(events, user_share, seed)
    origin = " ".join(f.name for f in (file, item_file, user_file, history_file) if f)
    return RawTables(file.stem, events, item_table, user_table, origin)


def fingerprint(
    *, path: str = "", items: str = "", users: str = "", history: str = "", **_: object
) -> str:
    """Absolute path, size and time of change of each file that would be read."""
    found = [file.resolve() for file in locate(path, items, users, history) if file]
    return " ".join(f"{f}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in found)


def locate(
    path: str, items: str = "", users: str = "", history: str = ""
) -> tuple[pathlib.Path, pathlib.Path | None, pathlib.Path | None, pathlib.Path | None]:
    """The events, items, users and history file, None if absent; DataError if not found."""
    if not path:
        raise DataError("data source 'files' needs path=<events file, stem or folder>")
    given = pathlib.Path(path).expanduser()
    file = given if given.is_file() else _search(given)
    if file.suffix not in tables.EXTENSIONS:
        known = ", ".join(tables.EXTENSIONS)
        raise DataError(f"{file}: unknown extension {file.suffix!r}; use {known}")
    if history == "beside":
        beside = _beside(file, "history") or file.with_name(f"{file.stem}_history{file.suffix}")
        history = str(beside)
    return (
        file,
        _given("items", items) or _beside(file, "items"),
        _given("users", users) or _beside(file, "users"),
        _given("history", history),
    )


def _search(given: pathlib.Path) -> pathlib.Path:
    """The one events file of a folder or of a stem."""
    if given.is_dir():
        found = sorted(f for f in given.iterdir() if f.suffix in tables.EXTENSIONS)
        found = [f for f in found if not f.stem.endswith(("_items", "_users", "_history"))]
        what = f"{given}: a folder has to hold one events file"
    else:
        found = [f for e in tables.EXTENSIONS if (f := given.parent / f"{given.name}{e}").is_file()]
        what = f"{given}: no such file, with or without {', '.join(tables.EXTENSIONS)}"
    if len(found) != 1:
        raise DataError(f"{what}; found: {', '.join(f.name for f in found) or 'none'}")
    return found[0]


def _given(kind: str, path: str) -> pathlib.Path | None:
    """The file that is named, which has to exist; None if none is."""
    if not path:
        return None
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{kind} file {file}: no such file")
    return file


def _beside(file: pathlib.Path, kind: str) -> pathlib.Path | None:
    """<stem>_<kind> beside `file`, with its extension, else with the one that there is."""
    stem = f"{file.stem}_{kind}"
    own = file.with_name(f"{stem}{file.suffix}")
    if own.is_file():
        return own
    found = [f for e in tables.EXTENSIONS if (f := file.with_name(f"{stem}{e}")).is_file()]
    if len(found) > 1:
        names = ", ".join(f.name for f in found)
        raise DataError(f"{file}: beside it are {names}; say which with source.{kind}=<file>")
    return found[0] if found else None


def _check_shared(
    file: pathlib.Path, key: str, ids: pd.Series, event_file: pathlib.Path, event_ids: pd.Series
) -> None:
    """Raises DataError if a table describes nothing that the events speak of."""
    known = movelines.id_names(ids)
    there = movelines.id_names(event_ids.drop_duplicates())
    if len(known) and not pd.Index(known).isin(there).any():
        raise DataError(
            f"{file}: column {key!r}: none of its ids is in the events of {event_file}: it has "
            f"'{known[0]}', they have '{there[0]}'. Write ids alike in both, or name the right "
            "file or column (source.items, source.users, source.columns)"
        )


def _events(
    file: pathlib.Path,
    names: Mapping[str, str],
    label_from: str = "",
    unlabelled: str = "",
    action_columns: str = "",
    labelled: bool = True,
) -> pd.DataFrame:
    """Checked events; columns that we have no name for are kept, they tell duplicates apart."""
    text_columns = tuple(names.get(key, key) for key in ("user_id", "item_id"))
    table = tables.read_table(file, text_columns)
    found = {}
    for ours in validate.EVENT_COLUMNS:
        choices = (names[ours],) if ours in names else _ALTERNATIVES.get(ours, (ours,))
        found[ours] = next((column for column in choices if column in table), choices[0])
    answers = not action_columns and "action" not in names and "action" not in table
    computed = {"action": ""} if answers else {}
    used = {"truth", names.get("timestamp_ms")}
    if "scene" not in names and "scene" not in table:
        computed["scene"] = "all"
    if "timestamp_ms" in names:
        computed["timestamp"] = history_source.seconds(file, table, names)
    if not labelled:
        computed["label"] = NO_LABEL
    elif label_from:
        label_column, computed["label"] = _threshold(file, table, label_from)
        used.add(label_column)
    if action_columns:
        words = tables.split_words(action_columns)
        described = tables.described(file, table, "action_columns", words)
        computed["action"] = _together(described)
        used.update(described)
    read = {ours: column for ours, column in found.items() if ours not in computed}
    validate.check_columns(str(file), table, read)
    # Taking columns, not renaming them, lets one column serve as two, say as scene and action.
    events = pd.DataFrame({ours: table[column] for ours, column in read.items()}).assign(**computed)
    for ours in ("scene", "action"):
        events[ours] = events[ours].astype("str")  # what is missing stays missing
    for word in tables.split_words(unlabelled):
        column, holds = _has_value(file, table, word)
        events["label"] = events["label"].mask(holds, NO_LABEL)
        used.add(column)
    unused = [column for column in table if column not in used | set(read.values())]
    if unused and labelled:
        _LOG.info("%s: columns that nothing uses: %s", file, ", ".join(map(str, unused)))
    others = table.drop(columns=[c for c in table if c in read.values() or c in events])
    events = validate.check_events(str(file), events.join(others), found)
    if answers:  # of the labels as they are in the end, unlabelled rows among them
        events["action"] = events["label"].map(_ANSWERS)
        if labelled:
            _LOG.info(
                "%s: no action column and no source.action_columns, so that histories show the "
                "label as the action: %s", file, ", ".join(sorted(events["action"].unique())),
            )  # fmt: skip
    return events


def _history(file: pathlib.Path, names: Mapping[str, str], events: pd.DataFrame) -> pd.DataFrame:
    """Events of a history file, without labels; its labels, if it has any, are not read."""
    table = tables.read_table(file, tuple(names.get(key, key) for key in ("user_id", "item_id")))
    if history_source.is_lists(file, table, names):
        return history_source.from_lists(file, table, names, events)
    found = _events(file, names, labelled=False)
    return found[list(validate.EVENT_COLUMNS)]


def _together(columns: Mapping[str, pd.Series]) -> pd.Series:
    """[E] text "like=1 value=4" of several columns; a missing value is left out."""
    text = pd.Series("", index=next(iter(columns.values())).index)
    for name, values in columns.items():
        known = pd.Series(as_text(values), index=values.index)
        text += known.where(known == "", f" {name}=" + known)
    return text.str.strip().replace("", "none")


def _has_value(file: pathlib.Path, table: pd.DataFrame, word: str) -> tuple[str, np.ndarray]:
    """The column of "action=return", and [E] bool, where it has the value; DataError if nowhere."""
    column, equals, value = (part.strip() for part in word.partition("="))
    if not equals or not value:
        raise DataError(f"unlabelled: {word!r} is not <column>=<value>")
    values = as_text(tables.column_of(file, table, column, "unlabelled"))
    if not (values == value).any():
        some = ", ".join(sorted(set(values))[:10])
        raise DataError(
            f"{file}: column {column!r} is nowhere {value!r} (unlabelled); it has: {some}"
        )
    return column, values == value


def _share_of_users(events: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """The events of a share of the users; rows keep their order."""
    if not 0 < share <= 1:
        raise DataError(f"user_share={share} is not in (0, 1]")
    if share == 1:
        return events
    user = events["user_id"].astype(str)
    users = np.sort(user.unique())
    kept = users[np.random.default_rng(seed).random(len(users)) < share]
    if not len(kept):
        raise DataError(f"user_share={share} keeps none of {len(users)} users: take more")
    return events[user.isin(kept)].reset_index(drop=True)


def _threshold(file: pathlib.Path, table: pd.DataFrame, rule: str) -> tuple[str, pd.Series]:
    """The column of a rule such as "value>=4", and labels [E] int8, NO_LABEL where no number is."""
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
    return column, pd.Series(labels.astype(np.int8), index=table.index)
