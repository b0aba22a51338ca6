"""Preparation in pieces: the same store as in memory, whatever the pieces and parts are."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nif_jax.data import sources
from nif_jax.data.movelines import prepare
from nif_jax.data.preparation import cache, columnar, out_of_core
from nif_jax.data.schema import DataError
from nif_jax.data.sources import delimited
from nif_jax.data.sources import pieces as pieces_source
from tests.data.preparation.test_cache import assert_equal

HOUR = 1_600_000_000
EVENT = st.tuples(
    st.sampled_from(["u", "v", "w10", "x"]),
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from([0, 1, None]),
    st.sampled_from(["s", "t"]),
    st.sampled_from([0.0, -0.0, 1.5, None]),
)
COLUMNS = ["user_id", "item_id", "timestamp", "label", "scene", "price"]


def write_log(folder, rows, columns=COLUMNS, name="log.parquet", **more):
    """The path of a log; Parquet or CSV."""
    frame = pd.DataFrame(rows, columns=columns)
    if "label" in frame:
        frame["label"] = frame["label"].astype("Int8")
    frame["timestamp"] += HOUR
    frame = frame.assign(**more)
    if name.endswith(".parquet"):
        frame.to_parquet(folder / name)
    else:
        frame.to_csv(folder / name, index=False)
    return str(folder / name)


def both(path, seed=3, duplicates="drop", rows=(2, 3), **options):
    """The store of a log that is prepared in memory, and in pieces."""
    whole = prepare(sources.load("files", path=path, **options), seed, duplicates)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(pieces_source, "MIN_ROWS", 0)
        patch.setattr(pieces_source, "MIN_BYTES", 0)
        patch.setattr(delimited, "_BATCH", 64)
        patch.setattr(pieces_source, "PIECE_ROWS", rows[0])
        patch.setattr(columnar, "SHARD_ROWS", rows[1])
        pieces = sources.load_pieces("files", path=path, **options)
        assert pieces is not None
        store = out_of_core.prepare_pieces(pieces, seed, duplicates, Path(folder))
        columnar.write_rest(store, Path(folder), {})
        read, _ = columnar.read(Path(folder))
        assert_equal(read, store)
        assert read.digests == whole.digests
        assert_equal(store, whole)
    return whole


@settings(deadline=None, max_examples=30)
@given(
    st.lists(EVENT, min_size=1, max_size=25),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from(["drop", "keep"]),
    st.sampled_from(["log.parquet", "log.csv", "log.csv.gz"]),
)
def test_pieces_and_parts_of_any_length_give_the_same_store(rows, piece, part, duplicates, name):
    with tempfile.TemporaryDirectory() as folder:
        path = write_log(Path(folder), rows, name=name)
        both(path, duplicates=duplicates, rows=(piece, part))


ROWS = [(f"u{i % 5}", i % 7, i // 9, i % 2, "s", None) for i in range(60)]


class TestOptions:
    def test_tables_of_items_and_users(self, tmp_path):
        path = write_log(tmp_path, ROWS)
        items = {"item_id": [3, 1, 99], "title": ["a b", "b", "c"], "brand": ["x|y", "y", "z"]}
        pd.DataFrame(items).to_parquet(tmp_path / "log_items.parquet")
        users = {"user_id": ["u1", "idle"], "sex": ["f", "m"]}
        pd.DataFrame(users).to_parquet(tmp_path / "log_users.parquet")
        store = both(path)
        assert store.counts["items_without_events"] == 1
        assert store.counts["users_without_events"] == 1

    @pytest.mark.parametrize("actions", [["click"], ["click", "buy"]])
    def test_actions_that_hide_labels(self, tmp_path, actions):
        path = write_log(tmp_path, ROWS, action=[actions[i % len(actions)] for i in range(60)])
        store = both(path)
        shown = ["click label=0", "click label=1"] if len(actions) == 1 else ["buy", "click"]
        assert store.vocabulary["action"].tolist() == shown

    def test_labels_from_ratings_and_a_truth_and_periods(self, tmp_path):
        more = {"value": np.arange(60) % 5, "log_odds": np.linspace(-1, 1, 60)}
        more["part"] = ["train", "validation", "test"] * 20
        path = write_log(tmp_path, ROWS, **more)
        options = {"label_from": "value>=3", "columns": "truth=log_odds", "period": "part"}
        store = both(path, **options)
        assert store.truth is not None and store.period is not None
        assert store.label.mean() == 0.4

    @pytest.mark.parametrize(
        "options",
        [
            {"action_columns": "value"},
            {"unlabelled": "scene=s"},
            {"order_only": "scene=s"},
            {"user_share": 0.5},
            {"history": "beside"},
        ],
    )
    def test_what_needs_all_rows_is_read_at_one_time(self, tmp_path, monkeypatch, options):
        monkeypatch.setattr(pieces_source, "MIN_ROWS", 0)
        path = write_log(tmp_path, ROWS, value=1)
        write_log(tmp_path, ROWS[:1], name="log_history.parquet")
        assert sources.load_pieces("files", path=path) is not None
        assert sources.load_pieces("files", path=path, **options) is None

    def test_small_logs_other_formats_dates_as_scenes_and_other_sources(
        self, tmp_path, monkeypatch
    ):
        path = write_log(tmp_path, ROWS)
        assert sources.load_pieces("files", path=path) is None
        monkeypatch.setattr(pieces_source, "MIN_ROWS", 0)
        dated = write_log(tmp_path, ROWS, name="dated.parquet", day=pd.Timestamp("2024-01-01"))
        assert sources.load_pieces("files", path=dated, columns="scene=day") is None
        path = write_log(tmp_path, ROWS, name="text.csv")
        assert sources.load_pieces("files", path=path) is None
        monkeypatch.setattr(pieces_source, "MIN_BYTES", 0)
        assert sources.load_pieces("files", path=path) is not None
        assert sources.load_pieces("files", path=path, delimiter="::") is None
        pd.read_csv(path).to_json(tmp_path / "lines.jsonl", orient="records", lines=True)
        assert sources.load_pieces("files", path=str(tmp_path / "lines.jsonl")) is None
        assert sources.load_pieces("synthetic") is None


class TestText:
    """A column of text is what all of its values are, in whatever pieces they are read."""

    @pytest.mark.parametrize(
        "actions",
        [
            ["1", "2"],
            ["1", "1.5"],
            ["1", "x"],
            ["1", "01"],
            ["1", "99999999999999999999"],
            ["1.5", "99999999999999999999"],
            ["True", "False"],
            ["True", "x"],
            ["True", "1"],
        ],
    )
    def test_actions_of_several_types(self, tmp_path, actions):
        action = [actions[0]] * 40 + [actions[1]] * 20
        store = both(write_log(tmp_path, ROWS, name="log.csv", action=action), rows=(7, 9))
        assert len(store.vocabulary["action"]) == 2

    @pytest.mark.parametrize("gap", [slice(0, 20), slice(30, 60), slice(0, 60)])
    @pytest.mark.parametrize("value", [True, 5, 2.5])
    def test_other_columns_with_gaps(self, tmp_path, gap, value):
        more = pd.Series([value] * 60, dtype=object)
        more[gap] = None
        both(write_log(tmp_path, ROWS * 2, name="log.csv", more=[*more, *more]), rows=(7, 9))

    def test_a_line_that_is_wrong_is_located(self, tmp_path):
        path = Path(write_log(tmp_path, ROWS, name="log.csv"))
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:51], lines[51] + ",1", *lines[52:]]))
        with pytest.raises(
            DataError, match=r"log\.csv: row 50 has 7 fields where the header has 6"
        ):
            _in_pieces(str(path))
        path.write_bytes("\n".join(lines).encode().replace(b"u3", b"u\xff"))
        with pytest.raises(DataError, match=r"log\.csv.*encoding"):
            _in_pieces(str(path))


class TestErrors:
    def test_rows_are_those_of_the_file(self, tmp_path):
        rows = [*ROWS[:40], ("u", 1, -HOUR - 5, 1, "s", None), *ROWS[40:]]
        path = write_log(tmp_path, rows)
        with pytest.raises(DataError, match="column 'timestamp', row 40: value -5 is negative"):
            both(path, rows=(7, 5))

    def test_ids_are_checked_over_all_pieces(self, tmp_path):
        rows = [("1", *ROWS[0][1:]), *ROWS, ("01", *ROWS[0][1:])]
        path = write_log(tmp_path, rows)
        with pytest.raises(DataError, match=r"row 0 has the id '1', .* row 61 has '01'"):
            _in_pieces(path)
        both(path, ids="exact")
        both(path, ids="number")
        pd.DataFrame({"item_id": ["z"]}).to_parquet(tmp_path / "log_items.parquet")
        with pytest.raises(DataError, match="none of its ids is in the events"):
            _in_pieces(path, ids="exact")


def _in_pieces(path, **options):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(pieces_source, "MIN_ROWS", 0)
        patch.setattr(pieces_source, "MIN_BYTES", 0)
        patch.setattr(pieces_source, "PIECE_ROWS", 7)
        patch.setattr(delimited, "_BATCH", 64)
        pieces = sources.load_pieces("files", path=path, **options)
        out_of_core.prepare_pieces(pieces, 0, "drop", Path(folder))


class TestCache:
    def test_prepared_in_pieces_then_read(self, tmp_path, monkeypatch, caplog):
        path = write_log(tmp_path, ROWS)
        whole = prepare(sources.load("files", path=path), 3)
        monkeypatch.setattr(pieces_source, "MIN_ROWS", 0)
        monkeypatch.setattr(pieces_source, "PIECE_ROWS", 7)
        for _ in range(2):
            with caplog.at_level(logging.INFO):
                found = cache.load_movelines("files", seed=3, cache_dir=str(tmp_path), path=path)
            assert_equal(found, whole)
            monkeypatch.setattr(sources, "load_pieces", None)
        assert "the first 7 of 60 rows" in caplog.text
        (folder,) = (tmp_path / "prepared").iterdir()
        assert not (folder / "work").exists()

    def test_an_unwritable_cache_is_reported_and_not_fatal(self, tmp_path, monkeypatch, caplog):
        path = write_log(tmp_path, ROWS)
        monkeypatch.setattr(pieces_source, "MIN_ROWS", 0)
        (tmp_path / "file").write_text("no folder")
        cached = str(tmp_path / "file")
        found = cache.load_movelines("files", seed=3, cache_dir=cached, path=path)
        assert_equal(found, prepare(sources.load("files", path=path), 3))
        assert "preparing in memory" in caplog.text
