"""--mode=score and --mode=recommend: files of requests in, files of scores out."""

import contextlib
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tqdm
from absl import logging
from scipy.special import expit

from nif_jax.data.files import naming
from nif_jax.data.schema import DataError
from nif_jax.requests import files
from nif_jax.requests.columns import as_text, as_whole
from nif_jax.requests.numbered import Numbered, number
from nif_jax.requests.objects import RequestError
from nif_jax.serving.model import Model
from nif_jax.serving.new_items import read, with_items
from nif_jax.serving.recommend import shortlist_of

CANDIDATES = 1 << 18
"""Candidates of a piece, about: requests with many items are cut into more pieces."""
LOG_SECONDS = 10
SCORES = pa.schema(
    {
        "row": pa.int64(),
        "user_id": pa.string(),
        "item_id": pa.string(),
        "timestamp": pa.int64(),
        "logit": pa.float32(),
        "probability": pa.float32(),
    }
)
"""Columns of the output of --mode=score: `row` is the number of the row of the input."""
RECOMMENDED = SCORES.insert(2, pa.field("rank", pa.int64()))
"""Of --mode=recommend; `rank` counts from 1."""


def rejected_path(output: pathlib.Path) -> pathlib.Path:
    """The side file of rows that could not be scored."""
    return output.with_name(f"{output.name}.rejected.jsonl")


def score(
    model: Model,
    source: pathlib.Path,
    output: pathlib.Path,
    features: bool = False,
    items: pathlib.Path | None = None,
) -> None:
    """Scores all candidates of a file of requests, in its order.

    Args:
      model: see nif_jax.load.
      source: see files.read.
      output: .parquet, .csv or .jsonl, with the columns SCORES; see also rejected_path.
      features: whether what the scores are computed from is written too, see with_features.
      items: a file of items that the run has not seen, see new_items.read.

    Raises:
      DataError: a file of an unknown or of another format, or a column that cannot be used;
        features in CSV, which has no lists; new items that cannot be added.
      OSError: a file cannot be read or written.
    """
    if items is not None:
        try:
            model = with_items(model, read(items))
        except RequestError as error:
            raise DataError(f"{items}: {error}") from error
    schema = with_features(model) if features else SCORES
    if features and output.suffix == ".csv":
        raise DataError(f"--output={output}: --features writes lists; give .parquet or .jsonl")

    def of_piece(table: pa.Table, rows: np.ndarray, found: Numbered) -> pa.Table:
        columns: dict[str, pa.Array | pa.ChunkedArray] = {}
        if features:
            named, encoded = model.features.table(found)
            columns = dict(zip(named.column_names, named.columns, strict=True))
        else:
            encoded = model.encoder.encode(found)
        raw = model.raw_logits(encoded)
        logit, of = model.calibration(raw), pa.array(found.candidate_row)
        columns |= {"row": pa.array(rows[found.candidate_row])} | _who(table, of)
        columns |= {"item_id": found.candidate, "logit": pa.array(logit)}
        columns |= {"uncalibrated": pa.array(raw), "probability": pa.array(expit(logit))}
        return pa.table(columns).select(schema.names)

    _stream(model, source, output, schema, of_piece, candidates=True)


def with_features(model: Model) -> pa.Schema:
    """SCORES with the features before the scores, and the logit before its calibration."""
    raw = pa.field("uncalibrated", pa.float32())
    fields = list(SCORES)
    return pa.schema([*fields[:4], *model.features.schema(), raw, *fields[4:]])


def recommend(
    model: Model,
    source: pathlib.Path,
    output: pathlib.Path,
    k: int,
    exclude_seen: bool,
    shortlist: int = 0,
) -> None:
    """Writes the k best items of each row of a file of requests, in its order.

    Args:
      model, source, output: as for `score`; the columns are RECOMMENDED, and items are not read.
      k, exclude_seen, shortlist: see Model.recommend.

    Raises:
      RequestError: k is below 1.
      DataError, OSError: see `score`.
    """

    def of_piece(table: pa.Table, rows: np.ndarray, found: Numbered) -> pa.Table:
        best = model.recommender.recommend(found, k, exclude_seen, shortlist or shortlist_of(k))
        sizes = [len(one.item_id) for one in best]
        place = np.repeat(found.row, sizes)
        ranks = [np.arange(1, size + 1) for size in sizes]
        logit = np.concatenate([one.logit for one in best])
        names = [name for one in best for name in one.item_id]
        columns = {"row": pa.array(rows[place])} | _who(table, pa.array(place))
        columns |= {
            "rank": pa.array(np.concatenate(ranks)),
            "item_id": pa.array(names, pa.string()),
        }
        columns |= {"logit": pa.array(logit), "probability": pa.array(expit(logit))}
        return pa.table(columns).select(RECOMMENDED.names)

    _stream(model, source, output, RECOMMENDED, of_piece, candidates=False)


def _who(table: pa.Table, rows: pa.Array) -> dict[str, pa.Array]:
    """user_id and timestamp of some rows of a table."""
    user = pa.nulls(len(table), pa.string())
    if "user_id" in table.column_names:
        user = as_text("user_id", table["user_id"])
    second = pa.array(as_whole("timestamp", table["timestamp"])[0])
    return {"user_id": user.take(rows), "timestamp": second.take(rows)}


def _stream(
    model: Model,
    source: pathlib.Path,
    output: pathlib.Path,
    schema: pa.Schema,
    of_piece: Callable[[pa.Table, np.ndarray, Numbered], pa.Table],
    candidates: bool,
) -> None:
    """Reads, numbers, computes and writes, piece by piece; the side file holds the bad rows."""
    for flag, path in (("input", source), ("output", output)):
        files.require_format(flag, path)
    begin, rows, written, bad = time.monotonic(), 0, 0, 0
    rejected = rejected_path(output)
    rejected.unlink(missing_ok=True)
    with (
        files.Writer(output, schema) as writer,
        _progress(files.total(source)) as advance,
        contextlib.ExitStack() as stack,
    ):
        side = None
        for chunk in files.read(source, model.vocabulary.profile):
            reasons = list(chunk.bad)
            for first, table in _pieces(chunk.table):
                numbers = chunk.rows[first : first + len(table)]
                found, wrong = _number(source, model, table, candidates)
                reasons += [(int(numbers[row]), reason) for row, reason in wrong]
                if len(found.row):
                    made = of_piece(table, numbers, found)
                    writer.write(made)
                    written += len(made)
            if reasons and side is None:
                with naming(rejected):
                    side = stack.enter_context(rejected.open("w", encoding="utf-8"))
            for row, reason in sorted(reasons):
                assert side is not None
                side.write(json.dumps({"row": row, "reason": reason}) + "\n")
            rows, bad = rows + len(chunk.rows) + len(chunk.bad), bad + len(reasons)
            advance(chunk.done)
    seconds = time.monotonic() - begin
    print(
        f"{output}: {written:,} scores of {rows - bad:,} rows in {seconds:.1f} s, "
        f"{written / seconds:,.0f} scores a second."
    )
    if bad:
        print(f"{rejected}: {bad:,} rows that were left out, with reasons.")


def _number(source: pathlib.Path, model: Model, table: pa.Table, candidates: bool):
    try:
        return number(table, model.vocabulary, model.base, candidates)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def _pieces(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """(first row, rows) of pieces with about CANDIDATES candidates, at least a row each."""
    if "items" not in table.column_names or not pa.types.is_list(table["items"].type):
        yield 0, table
        return
    sizes = pc.fill_null(pc.list_value_length(table["items"]), 0).to_numpy()
    piece = (np.cumsum(sizes) - sizes) // CANDIDATES
    bounds = [0, *(np.flatnonzero(np.diff(piece)) + 1), len(table)]
    for first, end in itertools.pairwise(bounds):
        yield int(first), table.slice(first, end - first)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A function of what is done of a total: a bar on a terminal, else a line now and then."""
    bar = tqdm.tqdm(total=total, unit_scale=True) if sys.stderr.isatty() else None
    last = time.monotonic()

    def advance(done: int) -> None:
        nonlocal last
        if bar is not None:
            bar.update(done - bar.n)
        elif time.monotonic() - last > LOG_SECONDS:
            last = time.monotonic()
            logging.info("%.0f %% of the input", 100 * done / total)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()
