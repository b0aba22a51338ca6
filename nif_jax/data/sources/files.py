"""Your own data: a tidy table of events in a file, and tables of items and users beside it.

One row an event. Formats: Parquet, CSV, TSV, JSON Lines, MovieLens `.dat` and RecBole atomic files
(formats.py). Identifiers are text: "007" in a CSV file stays "007".
"""

import dataclasses
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from nif_jax.data.files import file_sha256
from nif_jax.data.schema import PERIODS, DataError, RawTables
from nif_jax.data.sources import columns as column_log
from nif_jax.data.sources import events as event_source
from nif_jax.data.sources import formats, ids, readers, tables
from nif_jax.data.sources import history as history_source
from nif_jax.data.sources.events import Rules
from nif_jax.data.sources.formats import TextFormat
from nif_jax.data.sources.locate import Files, locate
from nif_jax.data.sources.readers import Table
from nif_jax.data.sources.tables import parse_columns, split_words

DEFAULT_ITEM_COLUMNS = ("title", "category", "genres", "year", "brand")
_LOG = logging.getLogger(__name__)

Known = dict[str, dict[str, ids.Ids | None]]
"""Kind of id -> table -> its ids, or None if there is no such table."""


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
    order_only: str = "",
    header: str = "",
    item_header: str = "",
    user_header: str = "",
    encoding: str = "",
    delimiter: str = "",
    time_format: str = "",
    ids: str = "strict",
    user_share: float = 1.0,
    seed: int = 0,
    period: str = "",
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
        timestamp (or ts, or time), timestamp_ms, scene, action, label, and truth (the true log odds
        of label 1, of a simulator). Without a scene column every row gets the same one;
        "scene=" reads none. user_id and item_id hold for the other files too.
      history_columns: the same for the history file; default: as in `columns`.
      item_columns: features of items, "category,brand,price:16"; default: those of title, category,
        genres, year and brand that are there. Lists, and text with "|", are sets; ":16" cuts a
        number into 16 bins of equal mass.
      user_columns: features of users; default: every column of at most 1,000 distinct values.
      action_columns: columns whose values, taken together, are an event's action code, say "value"
        or "label,is_like"; ":16" as above. Feedback of the user belongs here: histories show it,
        the event's own prediction does not. Default: the action column, and where there is none the
        label: "label=1", "label=0", "label=none".
      label_from: "value>=4" makes labels by comparing a column (no number there: no label); "all"
        gives every event label 1, for logs of purchases with data.negatives.
      unlabelled: "action=return" takes the label from rows whose column has this value, several
        with "," between: they are history and no impressions.
      order_only: "scene=history", in the same form: rows whose order is known and whose time is
        not. Their timestamps sort them, and no feature is computed from them.
      header: names of the columns of an events file without a header line; item_header and
        user_header: of the other two.
      encoding: of text files; default: utf-8, and latin-1 for `.dat`.
      delimiter: of text files; default: that of the extension.
      time_format: of times that are no unix time and no ISO 8601: "YYMMDDHH", or in the letters of
        strftime, "%y%m%d%H"; UTC.
      ids: what to do with ids that are the same number, see ids.RULES.
      user_share: share of the users to keep, at random by `seed`; a smaller share is a subset.
      seed: see user_share.
      period: column of the events file that holds each event's period, see schema.PERIODS; events
        of the history file are in train.

    Raises:
      DataError: a file, a column or a value cannot be used, or no id of the items or users file is
        one of the events'.
    """
    options = dict(locals())
    found = locate(path, items, users, history)
    given, text = rules(found, options), text_formats(options)
    events, known = _events(found, given, text["events"], history_columns)
    share = _share_of_users(events["user_id"], user_share, seed)
    events = events if share.all() else events[share].reset_index(drop=True)
    return with_features(found, given, options, known, events)


def rules(found: Files, options: Mapping[str, Any]) -> Rules:
    """How events are made of the table, by the options of `files`."""
    ours = (*history_source.NAMES, "label", "truth")
    names = parse_columns("source.columns", options["columns"], ours)
    names = {ours: formats.plain_name(found.events, theirs) for ours, theirs in names.items()}
    others = (field.name for field in dataclasses.fields(Rules))
    return Rules(names, **{name: options[name] for name in others if name in options})


def text_formats(options: Mapping[str, Any]) -> dict[str, TextFormat]:
    """How the files of events, items and users are written."""
    headers = {"events": "header", "items": "item_header", "users": "user_header"}
    return {
        kind: TextFormat(
            options["encoding"], options["delimiter"], tuple(split_words(options[header]))
        )
        for kind, header in headers.items()
    }


def with_features(
    found: Files, rules: Rules, options: Mapping[str, Any], known: Known, events: pd.DataFrame
) -> RawTables:
    """The events with the tables of items and users; raises DataError for ids that do not agree."""
    text = text_formats(options)
    item_table, known["item"]["items"] = _features(
        found.items, "item", rules, text["items"], options["item_columns"]
    )
    user_table, known["user"]["users"] = _features(
        found.users, "user", rules, text["users"], options["user_columns"]
    )
    _check_ids(known, rules.ids)
    origin = " ".join(file.name for file in found.given)
    return RawTables(formats.stem(found.events), events, item_table, user_table, origin)


def fingerprint(
    *, path: str = "", items: str = "", users: str = "", history: str = "", **_: object
) -> str:
    """Name and SHA-256 of each file that would be read."""
    given = locate(path, items, users, history).given
    return " ".join(f"{file.name}:{file_sha256(file)}" for file in given)


def _events(
    found: Files, rules: Rules, text: TextFormat, history_columns: str
) -> tuple[pd.DataFrame, Known]:
    """The events of the log, and behind them those of its history; and their ids."""
    table = _read(found.events, rules, text)
    events = event_source.from_table(table, rules)
    known: Known = {
        kind: {"log": ids.Ids(found.events, rules.names.get(key, key), events[key])}
        for kind, key in (("user", "user_id"), ("item", "item_id"))
    }
    if event_source.labels_as_actions(table.frame.columns, rules):
        log_label_actions(found.events, events["action"].unique())
    if not found.history:
        return events, known
    ours = parse_columns("source.history_columns", history_columns, history_source.NAMES)
    names = ours or {k: v for k, v in rules.names.items() if k not in ("label", "truth")}
    rules = dataclasses.replace(rules, names=names, period="", order_only="")
    table = _read(found.history, rules, dataclasses.replace(text, header=()))
    earlier, users, items = history_source.from_table(table, rules, events)
    known["user"]["history"], known["item"]["history"] = users, items
    missing = {"period": PERIODS[0], "order_only": False}
    earlier = earlier.assign(**{name: v for name, v in missing.items() if name in events})
    return pd.concat([events, earlier], ignore_index=True), known


def log_label_actions(file: pathlib.Path, actions: Iterable[str]) -> None:
    """Says that labels serve as actions."""
    _LOG.info(
        "%s: no action column and no source.action_columns, so that histories show the label "
        "as the action: %s",
        file,
        ", ".join(sorted(actions)),
    )


def _read(file: pathlib.Path, rules: Rules, text: TextFormat) -> Table:
    """A table whose ids, and whose times where they have a format, are the text of the file."""
    return readers.read(file, text, columns_as_text(rules))


def columns_as_text(rules: Rules) -> set[str]:
    """Columns whose values stay the text that the file has."""
    as_text = {rules.names.get(key, key) for key in ("user_id", "item_id")}
    if rules.time_format:
        as_text |= {rules.names.get("timestamp", name) for name in ("timestamp", "ts", "time")}
    return as_text


def _features(
    file: pathlib.Path | None, kind: str, rules: Rules, text: TextFormat, wanted: str
) -> tuple[pd.DataFrame, ids.Ids | None]:
    """The table of items or users, ids and features, and its ids; empty where there is no file."""
    key = f"{kind}_id"
    if not file:
        return pd.DataFrame({key: []}), None
    table = _read(file, rules, text)
    known = ids.read(table, rules.names.get(key, key), f"{kind}s", rules.ids)
    if kind == "item":
        default = [c for c in DEFAULT_ITEM_COLUMNS if c in table.frame]
    else:
        default = tables.few_valued(table, known.column)
    words = split_words(wanted) or default
    chosen = tables.features(table, known, key, f"source.{kind}_columns", words)
    used = dict.fromkeys(tables.named(table, words), f"{kind} feature")
    if kind == "item" and "title" in used:
        used["title"] = "title"
    column_log.log(table, used | {known.column: key})
    return chosen, known


def _check_ids(known: Known, rule: str) -> None:
    """Raises DataError if a table has no id of the log's, or ids are written in several ways."""
    for kind, tables_of in known.items():
        given = {name: found for name, found in tables_of.items() if found is not None}
        if rule == "strict":
            ids.check_spelling(list(given.values()))
        for name, found in given.items():
            # A history may be of other items: of another scene, say.
            if name not in ("log", "history") or (name, kind) == ("history", "user"):
                ids.check_shared(found, given["log"], f"source.{name}")


def _share_of_users(user: pd.Series, share: float, seed: int) -> np.ndarray:
    """[E] bool, the events of a share of the users."""
    if not 0 < share <= 1:
        raise DataError(f"source.user_share={share} is not in (0, 1]")
    if share == 1:
        return np.ones(len(user), bool)
    users = np.sort(user.unique())
    kept = users[np.random.default_rng(seed).random(len(users)) < share]
    if not len(kept):
        raise DataError(f"source.user_share={share} keeps none of {len(users)} users: take more")
    return user.isin(kept).to_numpy()
