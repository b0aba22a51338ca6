"""Prepared movelines, made once: the first start prepares them, later ones map them into memory."""

import contextlib
import functools
import hashlib
import json
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nif_jax.data import sources, storage
from nif_jax.data.movelines import prepare
from nif_jax.data.preparation import columnar
from nif_jax.data.preparation.out_of_core import prepare_pieces
from nif_jax.data.ranges import RowRange
from nif_jax.data.schema import DataError, Movelines, RawPieces
from nif_jax.data.splits import period_column
from nif_jax.data.summary import odd_times, summary

_LOG = logging.getLogger(__name__)
Engine = Callable[[RawPieces, int, str, pathlib.Path], Movelines]
"""Prepares a log in pieces, see out_of_core.prepare_pieces."""


def load_movelines(
    source: str,
    *,
    seed: int,
    cache_dir: str = "",
    period: str = "",
    duplicates: str = "drop",
    own: Callable[[np.ndarray], Sequence[RowRange]] | None = None,
    engine: Engine | None = None,
    **source_kwargs: sources.Option,
) -> Movelines:
    """The moveline store of a data source, from the cache if it is there; the log says what it has.

    Args:
      source: a name in sources.SOURCES.
      seed: of ties in time, and of what the source draws at random.
      cache_dir: folder of downloads and prepared data, "" for the default.
      period: column of the periods, see sources.load.
      duplicates: see movelines.prepare.
      own: which rows this process will use, see columnar.read.
      engine: prepares a log of any size in pieces; None prepares large logs in pieces, and others
        in memory, in this process.
      **source_kwargs: the source's options, see sources.options(source).

    Returns:
      The same store, bit for bit, whether it was prepared or read. Prepared data that is damaged is
      reported, and prepared again.

    Raises:
      DataError: unknown source or option, or data that cannot be had or used.
    """
    given = {"period": period} | source_kwargs
    store, notes = _read_or_prepare(source, seed, cache_dir, duplicates, own, engine, given)
    for line in notes["summary"]:
        _LOG.info("%s", line)
    for odd in notes["odd_times"]:
        _LOG.warning("%s", odd)
    return store


def configured(config: Any) -> dict[str, Any]:
    """The arguments of `load_movelines` that a config has."""
    data = config.data
    return {
        "source": data.source,
        "seed": data.seed,
        "cache_dir": data.cache_dir,
        "period": period_column(data.split),
        "duplicates": data.duplicates,
        **config.source,
    }


def _read_or_prepare(
    source: str,
    seed: int,
    cache_dir: str,
    duplicates: str,
    own: Callable[[np.ndarray], Sequence[RowRange]] | None,
    engine: Engine | None,
    source_kwargs: Mapping[str, Any],
) -> tuple[Movelines, Mapping[str, Any]]:
    """The store, and what the log says about it."""
    prepared = storage.cache_dir(cache_dir) / "prepared"
    key = functools.partial(cache_key, source, seed=seed, duplicates=duplicates, **source_kwargs)
    target = prepared / key()
    if target.exists():
        found = _read(target, own)
        if found is not None:
            _LOG.info("prepared data: %s", target)
            return found
    options = {"seed": seed, "cache_dir": cache_dir, **source_kwargs}

    def require_unchanged(origin: str) -> None:
        if target.name != key():
            raise DataError(f"{origin}: changed while it was read; run again when it is complete")

    def keep(pieces: RawPieces, prepare: Engine) -> tuple[Movelines, Mapping[str, Any]]:
        with kept(target) as scratch:
            store = prepare(pieces, seed, duplicates, scratch)
            require_unchanged(store.origin)
            notes = _notes(store)
            columnar.write_rest(store, scratch, notes)
        return store, notes

    pieces = sources.load_pieces(source, any_size=engine is not None, **options)
    if engine is not None:
        return keep(_required(pieces, source), engine)
    if pieces is not None:
        try:
            return keep(pieces, prepare_pieces)
        except OSError as error:
            _LOG.warning("%s cannot be written (%s): preparing in memory", target, error)
    raw = sources.load(source, **options)
    require_unchanged(raw.origin)
    store = raw if isinstance(raw, Movelines) else prepare(raw, seed, duplicates)
    notes = _notes(store)
    try:
        with kept(target) as scratch:
            columnar.write(store, scratch, notes)
    except OSError as error:
        _LOG.warning("prepared data is not kept, %s cannot be written: %s", target, error)
    return store, notes


def _required(pieces: RawPieces | None, source: str) -> RawPieces:
    """Raises DataError for data that cannot be prepared in pieces."""
    if pieces is None:
        raise DataError(
            f"data source {source!r} cannot be prepared in pieces with these settings: that takes "
            "source=files, an events file of Parquet, CSV or the like (not JSON Lines, nor with a "
            "delimiter of several characters), ids that are text or whole numbers, and none of "
            "source.history, action_columns, unlabelled, order_only and user_share."
        )
    return pieces


def _notes(store: Movelines) -> dict[str, Any]:
    """What the log says about a store."""
    return {"summary": summary(store), "odd_times": odd_times(store)}


@contextlib.contextmanager
def kept(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty folder that becomes `target` at the end; what is damaged there is removed."""
    if target.exists():
        storage.discard_directory(target)
    with storage.scratch_directory(target.parent) as scratch:
        yield scratch
        if not storage.publish_directory(scratch, target):
            _LOG.info("another process has prepared %s meanwhile", target)
    _LOG.info("prepared data: %s", target)


def cache_key(
    source: str, *, seed: int, duplicates: str = "drop", **source_kwargs: sources.Option
) -> str:
    """Name of the folder of prepared data: the source, and a hash of all that determines it.

    That is the source's options with their defaults, what identifies the bytes it reads, the seed,
    what becomes of duplicates, and the version of preparation and format.
    """
    options = sources.arguments(source, seed=seed, cache_dir="", **source_kwargs)
    fingerprint = sources.find(source).fingerprint(**options)
    parts = [source, options, fingerprint, seed, duplicates, columnar.FORMAT_VERSION]
    text = json.dumps(parts, sort_keys=True)
    return f"{source}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def _read(target: pathlib.Path, own) -> tuple[Movelines, Mapping[str, Any]] | None:
    """The prepared store and its notes, or None, with a warning, if it is damaged."""
    try:
        return columnar.read(target, own)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        _LOG.warning(
            "prepared data in %s is damaged (%s: %s): preparing it again",
            target,
            type(error).__name__,
            error,
        )
        return None
