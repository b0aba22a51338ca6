"""Data sources: each is a function from plain keyword arguments to RawTables.

A new source is a module with two functions: one that returns the tables, and `fingerprint`, which
takes the same arguments and returns the SHA-256 of the bytes it would read, so that prepared data
is never reused for changed input.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping

from nif_jax.data.schema import DataError, Movelines, RawPieces, RawTables
from nif_jax.data.simulator import World
from nif_jax.data.sources import files, movielens, pieces, synthetic, tfds_folder

Option = str | int | float


@dataclasses.dataclass(frozen=True)
class Source:
    """A way to get raw tables.

    Attributes:
      tables: makes them; or a whole store, of data that was prepared before it was exported.
      fingerprint: what identifies the bytes that it would read.
      signature: whose parameters are the options; None: those of `tables`.
      world: (Movelines.vocabulary, **options) -> the law that the events follow, where it is known.
      pieces: the log in pieces, if it is too large to be read at one time, else None.
    """

    tables: Callable[..., RawTables | Movelines]
    fingerprint: Callable[..., str]
    signature: Callable | None = None
    world: Callable[..., World] | None = None
    pieces: Callable[..., RawPieces | None] | None = None

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The options, those of _SHARED among them where they are of use."""
        return inspect.signature(self.signature or self.tables).parameters


SOURCES = {
    "movielens_100k": Source(movielens.movielens_100k, movielens.fingerprint),
    "files": Source(files.files, files.fingerprint, pieces=pieces.in_pieces),
    "synthetic": Source(
        synthetic.synthetic, synthetic.fingerprint, synthetic.simulate, synthetic.world
    ),
    "tfds": Source(tfds_folder.tfds_folder, tfds_folder.fingerprint),
}

# Offered to every source, taken by those that have a use for it.
_SHARED = ("seed", "cache_dir", "period")


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
    """The options of a source and their defaults, without those of _SHARED."""
    parameters = find(name).parameters
    return {key: p.default for key, p in parameters.items() if key not in _SHARED}


def arguments(
    name: str, *, seed: int, cache_dir: str, period: Option = "", **given: Option
) -> dict[str, Option]:
    """Every keyword argument of a call of source `name`, defaults included.

    Raises DataError on an option that the source does not have, naming the nearest.
    """
    accepted = options(name)
    for key in given:
        if key not in accepted:
            message = f"data source {name!r} has no option {key!r}; {nearest(key, accepted)}"
            raise DataError(message)
    parameters = find(name).parameters
    shared: dict[str, Option] = {"seed": seed, "cache_dir": cache_dir, "period": period}
    return accepted | given | {key: v for key, v in shared.items() if key in parameters}


def load(
    name: str, *, seed: int = 0, cache_dir: str = "", period: str = "", **given: Option
) -> RawTables | Movelines:
    """Raw tables of a data source, or the store of one that holds prepared data.

    Args:
      name: "movielens_100k", "files", "synthetic" or "tfds".
      seed: of what a source draws at random; only the synthetic one does.
      cache_dir: where downloads are kept, "" for the default (see storage.cache_dir).
      period: column of the events file that holds the periods of a split, "" for none; read by the
        source "files".
      **given: options of the source, as listed by `options(name)`.

    Raises:
      DataError: unknown source or option, or data that cannot be had or used.
    """
    given = {"period": period} | given
    return find(name).tables(**arguments(name, seed=seed, cache_dir=cache_dir, **given))


def load_pieces(
    name: str,
    *,
    seed: int = 0,
    cache_dir: str = "",
    period: str = "",
    any_size: bool = False,
    **given: Option,
) -> RawPieces | None:
    """The log of a data source in pieces, or None for one that `load` reads; see there.

    A small log is read by `load`, unless `any_size`.
    """
    source = find(name)
    if source.pieces is None:
        return None
    given = {"period": period} | given
    found = arguments(name, seed=seed, cache_dir=cache_dir, **given)
    return source.pieces(any_size=any_size, **found)


def world(name: str, lines: Movelines, *, seed: int, **given: Option) -> World:
    """The law that the events of a source follow, its rows in the order of the store `lines`.

    Args:
      name: of the source.
      lines: what was loaded from it with the same seed and options.
      seed: see load.
      **given: see load.

    Raises:
      DataError: the law of this source is not known, or its options cannot be used.
    """
    source = find(name)
    if source.world is None:
        known = [key for key, other in SOURCES.items() if other.world]
        raise DataError(
            f"the true click probabilities of data source {name!r} are not known; they are of "
            f"{', '.join(known)}."
        )
    options = arguments(name, seed=seed, cache_dir="", **given)
    return source.world(lines.vocabulary, **options)
