"""Events from a table: which column serves as what, labels from ratings, labels as actions."""

import dataclasses
import logging
import operator
import pathlib
import re
from collections.abc import Callable, Collection, Mapping

import numpy as np
import pandas as pd

from nif_jax.data import validate
from nif_jax.data.features import as_text
from nif_jax.data.schema import NO_LABEL, DataError
from nif_jax.data.sources import columns, formats, ids, tables
from nif_jax.data.sources.readers import Table

_LOG = logging.getLogger(__name__)
_ALTERNATIVES = {"timestamp": ("timestamp", "ts", "time")}
_LABEL_ACTIONS = {1: "label=1", 0: "label=0", NO_LABEL: "label=none"}
"""Action codes of events that have a label and no action: histories contain the label."""
_COMPARE: Mapping[str, Callable] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclasses.dataclass(frozen=True)
class Rules:
    """How events are made of a table; the attributes are options of files.files."""

    names: Mapping[str, str]
    label_from: str = ""
    unlabelled: str = ""
    action_columns: str = ""
    time_format: str = ""
    ids: str = "strict"
    order_only: str = ""
    period: str = ""
    labelled: bool = True

    def __post_init__(self):
        ids.require_rule(self.ids)


def from_table(table: Table, rules: Rules) -> pd.DataFrame:
    """The checked events of a table, in its order, with actions that do not hide labels.

    Returns and raises what `read` does.
    """
    events = read(table, rules)
    codes, names = pd.factorize(events["action"])
    label = events["label"].to_numpy() - NO_LABEL
    occurs = np.zeros((len(names), 3), bool)
    occurs[codes, label] = True
    shown = shown_actions(table.file, names.to_numpy(object), occurs)
    if shown is not None and not labels_as_actions(table.frame.columns, rules):
        events["action"] = pd.Series(shown[codes, label], events.index, dtype="str")
    return events


def read(table: Table, rules: Rules) -> pd.DataFrame:
    """The checked events of a table, or of a piece of one, in its order.

    Returns:
      The columns of RawTables.events; "other" is a hash of the columns that are not taken as they
      are, since two rows that differ in them are two events.

    Raises:
      DataError: a column is missing, or a value cannot be used.
    """
    found = _columns(table, rules.names)
    if rules.period:
        table.column(rules.period, f"data.split=column:{rules.period}")
        found["period"] = rules.period
    used = {column: ours for ours, column in found.items() if column in table.frame}
    computed = _computed(table, rules, used)
    read = {ours: column for ours, column in found.items() if ours not in computed}
    for ours in [name for name in computed if found.get(name) in used and name != "timestamp"]:
        if used.get(found[ours]) == ours:
            del used[found[ours]]  # what is computed takes the place of the column
    for column in table.nested.keys() & read.values():
        table.column(column, "source.columns")  # raises: it cannot be read
    validate.check_columns(str(table.file), table.frame, read, table.delimiter_hint())
    # Taking columns, not renaming them, lets one column serve as two, say as scene and action.
    chosen = {ours: table.frame[column] for ours, column in read.items()}
    for ours in ("user_id", "item_id"):
        chosen[ours] = ids.read(table, read[ours], "columns", rules.ids).values
    events = pd.DataFrame(chosen).assign(**computed)
    for ours in ("scene", "action"):
        events[ours] = tables.joined(events[ours]).astype("str")  # what is missing stays missing
    for word in tables.split_words(rules.unlabelled):
        column, holds = _has_value(table, "unlabelled", word)
        events["label"] = events["label"].mask(holds, NO_LABEL)
        _use(used, column, "unlabelled")
    for word in tables.split_words(rules.order_only):
        column, holds = _has_value(table, "order_only", word)
        events["order_only"] = holds | events.get("order_only", False)
        _use(used, column, "order only")
    if table.frame.index[:1].tolist() in ([], [0]):  # of the first piece alone
        columns.log(table, used)
    events["other"] = tables.row_hashes(table.frame.drop(columns=set(read.values())))
    events = validate.check_events(str(table.file), events, found)
    if labels_as_actions(table.frame.columns, rules):  # of the labels as they are in the end
        events["action"] = events["label"].map(_LABEL_ACTIONS)
    return events


def shown_actions(file: pathlib.Path, names: np.ndarray, occurs: np.ndarray) -> np.ndarray | None:
    """What histories show as the action: with the label, where the action alone would hide it.

    Args:
      file: for the log.
      names: [A] text, distinct actions.
      occurs: [A, 3] bool, the labels NO_LABEL, 0 and 1 that each occurs with.

    Returns:
      [A, 3] text; or None where labelled events have several actions, or one label.
    """
    with_label = occurs[:, 1:].any(1)
    if with_label.sum() != 1 or occurs[:, 1:].any(0).sum() < 2:
        return None
    _LOG.info(
        "%s: all labelled events have the action %r, which would hide their labels in "
        "histories: the label is added to it",
        file,
        names[int(np.argmax(with_label))],
    )
    shown = [[name, *(f"{name} {_LABEL_ACTIONS[label]}" for label in (0, 1))] for name in names]
    return np.array(shown, object)


def labels_as_actions(columns: Collection[str], rules: Rules) -> bool:
    """Whether a table of these columns has no actions, so that labels serve as actions."""
    return not (rules.action_columns or "action" in rules.names or "action" in columns)


def _columns(table: Table, names: Mapping[str, str]) -> dict[str, str]:
    """Our name -> the file's column that serves as it, which may not be there."""
    found = {}
    for ours in validate.EVENT_COLUMNS:
        choices = (names[ours],) if ours in names else _ALTERNATIVES.get(ours, (ours,))
        found[ours] = next((column for column in choices if column in table.frame), choices[0])
    if "truth" in names:
        table.column(names["truth"], "columns")
        found["truth"] = names["truth"]
    return found


def _computed(table: Table, rules: Rules, used: dict[str, str]) -> dict[str, object]:
    """Our columns that are not a column of the file; adds what they are made of to `used`."""
    names = rules.names
    computed: dict[str, object] = {}
    if labels_as_actions(table.frame.columns, rules):
        computed["action"] = ""
    if not names.get("scene", "scene" in table.frame):
        computed["scene"] = "all"
    if "timestamp_ms" in names or rules.time_format:
        computed["timestamp"] = seconds(table, names, rules.time_format)
        used[time_column(table, names)] = "timestamp"
    if not rules.labelled:
        computed["label"] = NO_LABEL
    elif rules.label_from.strip() == "all":
        computed["label"] = 1
    elif rules.label_from:
        column, computed["label"] = _threshold(table, rules.label_from)
        _use(used, column, "label")
    if rules.action_columns:
        words = tables.split_words(rules.action_columns)
        described = tables.described(table, "action_columns", words)
        computed["action"] = _together(described)
        for column in described:
            _use(used, column, "action")
    return computed


def _use(used: dict[str, str], column: str, role: str) -> None:
    """Adds what a column serves as."""
    used[column] = f"{used[column]}, {role}" if column in used else role


def seconds(table: Table, names: Mapping[str, str], time_format: str = "") -> pd.Series:
    """[n] int64 unix seconds of the column named for timestamp or timestamp_ms."""
    column = time_column(table, names)
    values = table.column(column, "timestamp")
    per_second = 1000 if "timestamp_ms" in names else 1
    return validate.check_timestamps(str(table.file), column, values, per_second, time_format)


def time_column(table: Table, names: Mapping[str, str]) -> str:
    """The column that holds times."""
    return names.get("timestamp_ms") or _columns(table, names)["timestamp"]


def _together(columns: Mapping[str, pd.Series]) -> pd.Series:
    """[E] text "like=1 value=4" of several columns; a missing value is left out."""
    text = pd.Series("", index=next(iter(columns.values())).index)
    for name, values in columns.items():
        known = pd.Series(as_text(values), index=values.index)
        text += known.where(known == "", f" {name}=" + known)
    return text.str.strip().replace("", "none")


def _has_value(table: Table, option: str, word: str) -> tuple[str, np.ndarray]:
    """The column of "action=return", and [E] bool, where it has the value; DataError if nowhere."""
    column, equals, value = (part.strip() for part in word.partition("="))
    if not equals or not value:
        raise DataError(f"{option}: {word!r} is not <column>=<value>")
    values = as_text(tables.joined(table.column(column, option)))
    if not (values == value).any():
        some = ", ".join(sorted(set(values))[:10])
        raise DataError(
            f"{table.file}: column {column!r} is nowhere {value!r} ({option}); it has: {some}"
        )
    return column, values == value


def _threshold(table: Table, rule: str) -> tuple[str, pd.Series]:
    """The column of a rule such as "value>=4", and labels [E] int8, NO_LABEL where no number is."""
    match = re.fullmatch(r"\s*(.+?)\s*(>=|<=|==|>|<)\s*(-?\d+(?:\.\d+)?)\s*", rule)
    if not match:
        raise DataError(
            f"label_from: {rule!r} is not <column>>=<number> (or <=, ==, >, <), nor 'all', with "
            "which every event is a positive"
        )
    column, compare, bound = match.groups()
    column = formats.plain_name(table.file, column)
    given = tables.joined(table.column(column, "label_from"))
    values = pd.to_numeric(given, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if np.isnan(values).all():
        raise DataError(
            f"{table.file}: column {column!r} holds no number (row 0: {given.iloc[0]!r}), and "
            f"label_from={rule!r} compares numbers"
        )
    holds = _COMPARE[compare](values, float(bound))
    labels = np.where(np.isnan(values), NO_LABEL, holds)
    return column, pd.Series(labels.astype(np.int8), index=table.frame.index)
