"""Random small files: every row is read, or counted as dropped, or an error gives the reason."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from nif_jax.data import sources, splits
from nif_jax.data.dataset import build_dataset
from nif_jax.data.movelines import prepare
from nif_jax.data.schema import ConfigError, DataError
from nif_jax.data.vocabulary import OOV

_NAMES = st.sampled_from(
    [
        "id",
        "truth",
        "other",
        "item_id",
        "user_id",
        "title",
        "scene",
        "action",
        "index",
        "",
        "0",
        "name",
        "params",
        "a/b",
        "a.b",
        "é",
        "time",
        "genres",
        "label.1",
        "__index_level_0__",
    ]
)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
_IDS = st.one_of(
    st.sampled_from(["1", "01", "7.0", " 7", "a", "b", "NA", "None", "nan", "x|y", "1,2", 'q"r']),
    st.integers(-(2**62), 2**62),
    st.integers(0, 3),
    st.floats(),
    st.booleans(),
    _TEXT,
    st.none(),
)
_NESTED = st.fixed_dictionaries({"z": _IDS})
_VALUES = st.one_of(_IDS, st.lists(st.integers(0, 3), max_size=2), _NESTED)
_TIMES = st.one_of(
    st.integers(0, 2**33), st.sampled_from([1.6e9, "2020-01-01", "2020-01-01T00:00:00Z", None])
)
_LABELS = st.one_of(st.sampled_from([0, 1, -1, None, 0.0, 1.0]), st.just(5))


@st.composite
def _column(draw, values, count):
    """Values of one type, or now and then of several."""
    if draw(st.integers(0, 3)):
        kind = type(draw(values))
        values = values.filter(lambda value: value is None or isinstance(value, kind))
    return draw(st.lists(values, min_size=count, max_size=count))


@st.composite
def _frames(draw):
    count = draw(st.integers(1, 8))
    good = st.sampled_from
    columns = {
        "user_id": draw(_column(draw(good([_IDS, good(["u", "v"]), good([1, 2])])), count)),
        "item_id": draw(_column(draw(good([_IDS, good(["a", "b"]), good([1, 2])])), count)),
        "timestamp": draw(_column(draw(good([_TIMES, st.integers(10**9, 2 * 10**9)])), count)),
        "label": draw(_column(draw(good([_LABELS, good([0, 1])])), count)),
    }
    for name in draw(st.lists(_NAMES, max_size=3)):
        columns.setdefault(name, draw(_column(_VALUES, count)))
    frame = pd.DataFrame({name: pd.Series(v, dtype=object) for name, v in columns.items()})
    if draw(st.booleans()):
        frame = frame.infer_objects()
    index = draw(st.sampled_from(["range", "zeros", "user_id", "item_id", "named"]))
    if index == "zeros":
        frame.index = np.zeros(count, int)
    elif index == "named":
        frame.index = pd.Index(range(count), name="row")
    elif index != "range":
        frame = frame.set_index(index)
    return frame, count


@st.composite
def _users(draw):
    """A table of users with columns of any name, or none."""
    if draw(st.booleans()):
        return None
    names = draw(st.lists(_NAMES, max_size=4, unique=True))
    given = draw(st.sampled_from([["u", "v"], ["a"], [1, 2], ["1"], [1.0, 2.0]]))
    return pd.DataFrame(dict.fromkeys(names, "x") | {"user_id": given})


def _write(frame, folder, suffix, keep_index):
    path = folder / f"log{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        frame.reset_index().to_json(path, orient="records", lines=True)
    else:
        frame = frame if keep_index else frame.reset_index()
        frame.to_csv(path, index=keep_index, sep="\t" if suffix == ".tsv" else ",")
    return path


@pytest.fixture(scope="module", autouse=True)
def _without_logs():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(
    _frames(),
    st.sampled_from([".parquet", ".csv", ".tsv", ".csv.gz", ".jsonl"]),
    st.booleans(),
    _users(),
)
def test_all_rows_are_read_or_one_error_is_raised(made, suffix, keep_index, users):
    frame, count = made
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = _write(frame, Path(folder), suffix, keep_index)
        except (ValueError, TypeError, OverflowError, KeyError, pa.ArrowException):
            return  # pandas cannot write such a table
        if users is not None:
            users.to_parquet(Path(folder) / "log_users.parquet")
        try:
            lines = prepare(sources.load("files", path=str(path)), 0)
        except DataError as error:
            message = str(error)
            event(message.partition(": ")[2][:30])
            assert "log" in message and "\n" not in message
            return
        assert lines.num_events + lines.counts["duplicates_dropped"] == count
        assert len(lines.user) == count - lines.counts["duplicates_dropped"]
        assert lines.truth is None
        try:
            data = build_dataset(
                lines,
                split="random",
                train_share=0.8,
                validation_share=0.1,
                history="all",
                ties="order",
                seed=0,
            )
        except (DataError, ConfigError):
            return
        # Each user of the train period has an embedding, whatever the columns are called.
        train = data.split == splits.TRAIN
        assert data.user_sizes["id"] == OOV + len(np.unique(lines.user[train])) + 1
        assert data.item_sizes["id"] == OOV + len(np.unique(lines.item[train])) + 1


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=6), st.sampled_from([".csv", ".jsonl"])
)
def test_ids_of_any_text_survive(pairs, suffix):
    """What is read are the ids that were written, but for space around them."""
    frame = pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(timestamp=10**9, label=1)
    with tempfile.TemporaryDirectory() as folder:
        path = _write(frame, Path(folder), suffix, keep_index=False)
        try:
            events = sources.load("files", path=str(path), ids="exact").events
        except DataError:
            texts = [text for pair in pairs for text in pair]
            assert any(not text.strip() or "\r" in text or "\0" in text for text in texts)
            return
    assert events["user_id"].tolist() == [user.strip() for user, _ in pairs]
    assert events["item_id"].tolist() == [item.strip() for _, item in pairs]
