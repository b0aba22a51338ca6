"""Data sources: each is a function from plain keyword arguments to RawTables.

A new source is a module with two functions: one that returns the tables, and `fingerprint`, which
takes the same arguments and returns what identifies the bytes it would read (without reading them
all), so that prepared data is never reused for changed input.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable

from nif_jax.data.schema import DataError, RawTables
from nif_jax.data.sources import files, movielens, synthetic

Option = str | int | float


@dataclasses.dataclass(frozen=True)
class Source:
    """A way to get raw tables, and what identifies the bytes that it would read."""

    tables: Callable[..., RawTables]
    fingerprint: Callable[..., str]


SOURCES = {
    "movielens_100k": Source(movielens.movielens_100k, movielens.fingerprint),
    "files": Source(files.files, files.fingerprint),
    "synthetic": Source(synthetic.synthetic, synthetic.fingerprint),
}

_SHARED = ("seed", "cache_dir")  # offered to every source, taken by those that have a use for it


def nearest(word: str, choices: Iterable[str]) -> str:
    """The part of an error message that names the nearest choice, if one is near, and all."""
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}The choices are: {', '.join(choices) or 'none'}"


def find(name: str) -> Source:
    """The source called `name`; raises DataError naming the nearest choice."""
    if name not in SOURCES:
        raise DataError(f"unknown data source {name!r}; {nearest(name, SOURCES)}")
    return SOURCES[name]


def options(name: str) -> dict[str, Option]:
    """The options of a source and their defaults, without `seed` and `cache_dir`."""
    parameters = inspect.signature(find(name).tables).parameters
    return {key: p.default for key, p in parameters.items() if key not in _SHARED}


def arguments(name: str, *, seed: int, cache_dir: str, **given: Option) -> dict[str, Option]:
    """Every keyword argument of a call of source `name`, defaults included.

    Raises DataError on an option that the source does not have, naming the nearest.
    """
    accepted = options(name)
    for key in given:
        if key not in accepted:
            message = f"data source {name!r} has no option {key!r}; {nearest(key, accepted)}"
            raise DataError(message)
    parameters = inspect.signature(find(name).tables).parameters
    shared = {"seed": seed, "cache_dir": cache_dir}
    return accepted | given | {key: v for key, v in shared.items() if key in parameters}


def load(name: str, *, seed: int = 0, cache_dir: str = "", **given: Option) -> RawTables:
    """Raw tables of a data source.

    Args:
      name: "movielens_100k", "files" or "synthetic".
      seed: of what a source draws at random; only the synthetic one does.
      cache_dir: where downloads are kept, "" for the default (see storage.cache_dir).
      **given: options of the source, as listed by `options(name)`.

    Raises:
      DataError: unknown source or option, or data that cannot be had or used.
    """
    return find(name).tables(**arguments(name, seed=seed, cache_dir=cache_dir, **given))
