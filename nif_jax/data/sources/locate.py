"""Finds the files of a data set: events, and beside them items, users and history."""

import pathlib
from typing import NamedTuple

from nif_jax.data.schema import DataError
from nif_jax.data.sources import formats
from nif_jax.data.sources.formats import ATOMIC, EXTENSIONS

_SIBLINGS = ("items", "users", "history")
_ATOMIC_SIBLINGS = {"items": ".item", "users": ".user"}


class Files(NamedTuple):
    """The files of a data set, None where there is none."""

    events: pathlib.Path
    items: pathlib.Path | None
    users: pathlib.Path | None
    history: pathlib.Path | None

    @property
    def given(self) -> list[pathlib.Path]:
        """Those that there are."""
        return [file for file in self if file]


def locate(path: str, items: str = "", users: str = "", history: str = "") -> Files:
    """The files that are named, or stand beside the events; see files.files.

    Raises:
      DataError: a file is not there, several could be meant, or its format cannot be read.
    """
    if not path:
        raise DataError("data source 'files' needs source.path=<events file, stem or folder>")
    given = pathlib.Path(path).expanduser()
    events = given if given.is_file() else _search(given)
    formats.require_extension(events)
    if history == "beside":
        history = str(_beside(events, "history") or _sibling(events, "history"))
    return Files(
        events,
        _given("items", items) or _beside(events, "items"),
        _given("users", users) or _beside(events, "users"),
        _given("history", history),
    )


def _search(given: pathlib.Path) -> pathlib.Path:
    """The one events file of a folder or of a stem."""
    if given.is_dir():
        readable = (".parquet", *formats.TEXT)
        found = sorted(f for f in given.iterdir() if formats.extension(f) in readable)
        found = [f for f in found if f.is_file() and not _is_sibling(f)]
        what = f"{given}: a folder has to hold one events file"
    else:
        found = [f for e in EXTENSIONS if (f := given.parent / f"{given.name}{e}").is_file()]
        found = [f for f in found if not _is_sibling(f)]
        what = f"{given}: no such file, with or without {', '.join(EXTENSIONS)}"
    if len(found) != 1:
        raise DataError(f"{what}; found: {', '.join(f.name for f in found) or 'none'}")
    return found[0]


def _is_sibling(file: pathlib.Path) -> bool:
    ending = tuple(f"_{kind}" for kind in _SIBLINGS)
    return formats.stem(file).endswith(ending) or formats.extension(file) in (".item", ".user")


def _given(kind: str, path: str) -> pathlib.Path | None:
    """The file that is named, which has to exist; None if none is."""
    if not path:
        return None
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{kind} file {file}: no such file; name it with source.{kind}=<file>")
    formats.require_extension(file)
    return file


def _sibling(events: pathlib.Path, kind: str) -> pathlib.Path:
    """<stem>_<kind> beside the events, with their extension."""
    name = events.name.removeprefix(formats.stem(events))
    return events.with_name(f"{formats.stem(events)}_{kind}{name}")


def _beside(events: pathlib.Path, kind: str) -> pathlib.Path | None:
    """<stem>_<kind> beside the events, with their extension, else with the one that there is.

    RecBole's are <stem>.item and <stem>.user.
    """
    own = _sibling(events, kind)
    if formats.extension(events) in ATOMIC and kind in _ATOMIC_SIBLINGS:
        own = events.with_name(formats.stem(events) + _ATOMIC_SIBLINGS[kind])
    if own.is_file():
        return own
    stem = f"{formats.stem(events)}_{kind}"
    found = [f for e in EXTENSIONS if (f := events.with_name(f"{stem}{e}")).is_file()]
    if len(found) > 1:
        names = ", ".join(f.name for f in found)
        raise DataError(f"{events}: beside it are {names}; say which with source.{kind}=<file>")
    return found[0] if found else None
