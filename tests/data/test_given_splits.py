"""Periods from a column or from dates, duplicates that are kept, and times that are not known."""

import dataclasses
import logging

import numpy as np
import pandas as pd
import pytest

from nif_jax.data import sources
from nif_jax.data.counters import Counters, Queries
from nif_jax.data.dataset import build_dataset
from nif_jax.data.movelines import prepare
from nif_jax.data.preparation import cache
from nif_jax.data.schema import ConfigError, DataError
from nif_jax.data.splits import assign_splits, period_column, require_split
from nif_jax.data.windows import gather_history, gather_impressions

DAY = 86_400
LOG = pd.DataFrame(
    {
        "user_id": ["u", "u", "u", "u", "v", "v", "v"],
        "item_id": ["a", "b", "b", "c", "a", "c", "b"],
        "ts": [DAY, 2 * DAY, 3 * DAY, 3 * DAY + 5, DAY + 7, 2 * DAY, 3 * DAY],
        "scene": ["old", "tab", "tab", "tab", "old", "tab", "tab"],
        "label": [1, 0, 1, 1, 0, 1, 0],
        "part": ["train", "validation", "test", "test", "train", "validation", "test"],
    }
)


def write(folder, events, name="log.parquet"):
    events.to_parquet(folder / name, index=False)
    return str(folder / name)


def lines_of(folder, events=LOG, duplicates="drop", **options):
    raw = sources.load("files", path=write(folder, events), **options)
    return prepare(raw, 0, duplicates)


def split(lines, kind, zone="UTC"):
    return assign_splits(lines, kind, 0.5, 0.25, 0, zone).tolist()


class TestColumn:
    def test_each_event_is_in_the_period_of_the_column(self, tmp_path):
        lines = lines_of(tmp_path, period="part")
        assert lines.period.dtype == np.int8
        assert split(lines, "column:part") == [0, 1, 2, 2, 0, 1, 2]

    def test_prepared_data_has_the_periods_and_another_column_is_other_data(self, tmp_path):
        path, folder = write(tmp_path, LOG.assign(half=LOG["part"][::-1].tolist())), str(tmp_path)
        options = {"path": path, "order_only": "scene=old"}
        found = [
            cache.load_movelines("files", seed=0, cache_dir=folder, period=column, **options)
            for column in ("part", "part", "half", "")
        ]
        np.testing.assert_array_equal(found[0].period, found[1].period)
        assert found[1].order_only.tolist() == [True, False, False, False, True, False, False]
        assert found[3].period is None
        assert len({lines.digests["events"] for lines in found}) == 3

    @pytest.mark.parametrize("value", ["valid", "Test", None, 1])
    def test_another_value_is_an_error_that_names_it(self, tmp_path, value):
        events = LOG.assign(part=LOG["part"].astype(object))
        events.loc[4:, "part"] = value
        events["part"] = events["part"].astype(str) if value == 1 else events["part"]
        with pytest.raises(DataError, match=r"log.parquet: column 'part', row 4: value ") as error:
            lines_of(tmp_path, events, period="part")
        assert "write train, validation or test (3 of 7 rows)" in str(error.value)

    def test_a_column_that_is_not_there_names_the_key_and_the_columns(self, tmp_path):
        with pytest.raises(DataError, match=r"no column 'x' for data.split=column:x; .*, part"):
            lines_of(tmp_path, period="x")

    def test_a_store_without_periods_is_refused(self, random_movelines):
        with pytest.raises(DataError, match=r"no periods.*data.source=files"):
            split(random_movelines(0), "column:part")

    def test_events_of_the_history_file_are_in_train(self, tmp_path):
        write(tmp_path, LOG[:2].drop(columns="part").assign(ts=5), "log_history.parquet")
        options = {"history": "beside", "period": "part", "order_only": "scene=old"}
        lines = lines_of(tmp_path, **options)
        assert lines.period.tolist() == [0, 0, 0, 1, 2, 2, 0, 1, 2]
        assert lines.order_only.sum() == 2

    def test_sampled_negatives_are_in_the_period_of_their_event(self, tmp_path):
        lines = lines_of(tmp_path, period="part", order_only="scene=old")
        choices = {"train_share": 0.5, "validation_share": 0.25, "history": "all", "ties": "order"}
        data = build_dataset(
            lines, split="column:part", negatives=1, negatives_exclude="basket", seed=0, **choices
        )
        drawn = np.flatnonzero(data.sampled)
        assert len(drawn) > 0
        np.testing.assert_array_equal(data.split, data.movelines.period)
        for column in (data.split, data.movelines.order_only):
            np.testing.assert_array_equal(column[drawn], column[drawn + 1])

    def test_periods_that_go_back_in_time_are_a_warning(self, tmp_path, caplog):
        lines = lines_of(tmp_path, period="part")
        split(lines, "column:part")
        assert not caplog.text
        with caplog.at_level(logging.WARNING):
            split(dataclasses.replace(lines, period=lines.period[::-1]), "column:part")
        assert "events follow an event of a later period" in caplog.text

    def test_an_empty_period_is_refused_by_name(self, tmp_path):
        events = LOG.assign(part=LOG["part"].replace("validation", "train"))
        with pytest.raises(DataError, match=r"leaves validation without .* Correct the column"):
            split(lines_of(tmp_path, events, period="part"), "column:part")


class TestDates:
    def test_periods_begin_with_the_dates(self, tmp_path):
        lines = lines_of(tmp_path)
        assert split(lines, "dates:1970-01-03+1970-01-04") == [0, 1, 2, 2, 0, 1, 2]

    def test_four_dates_leave_out_the_end_and_train_on_the_newest_rows(self, tmp_path):
        given = {"train_share": 0.5, "validation_share": 0.1, "history": "all", "ties": "order"}
        days, lines = "1970-01-03+1970-01-04", lines_of(tmp_path)
        whole, own = (
            build_dataset(lines, split=f"dates:{dates}", seed=0, **given)
            for dates in (days, f"1970-01-02T00:00:01+{days}+1970-01-04T00:00:05")
        )
        # The last event of u is left out, and a's impression by u is history only.
        kept = np.array([True, True, True, False, True, True, True])
        assert whole.trained.tolist() == (whole.split == 0).tolist()
        np.testing.assert_array_equal(own.split, whole.split[kept])
        np.testing.assert_array_equal(own.movelines.item, whole.movelines.item[kept])
        assert own.movelines.user_offsets.tolist() == [0, 3, 6]
        assert own.trained.tolist() == [False, False, False, True, False, False]
        assert own.impressions(0, 0).tolist() == [3]
        assert own.stores.train[0].tolist() == own.trained.tolist()
        # What is not trained on is in histories, and makes items known.
        assert own.stores.history_end[0].tolist() == [0, 1, 2, 3, 4, 5]
        np.testing.assert_array_equal(own.items["id"], whole.items["id"])
        late = f"dates:1970-01-02T00:00:08+{days}+1970-01-05"
        with pytest.raises(DataError, match="no impressions to train on between its first two"):
            build_dataset(lines, split=late, seed=0, **given)

    def test_dates_begin_at_midnight_of_the_time_zone(self, tmp_path):
        lines = lines_of(tmp_path)
        # Shanghai is 8 hours ahead of UTC, so that a day begins 8 hours earlier.
        there = split(lines, "dates:1970-01-03T08:00+1970-01-04T08:00", "Asia/Shanghai")
        assert there == [0, 1, 2, 2, 0, 1, 2]
        late = "dates:1970-01-03T08:00:01+1970-01-04T08:00:01"
        assert split(lines, late, "Asia/Shanghai") == [0, 0, 1, 2, 0, 0, 1]

    @pytest.mark.parametrize(
        ("kind", "zone", "message"),
        [
            ("dates:2022-04-22", "UTC", "has not two dates"),
            ("dates:2022-04-22+2022-04-23+2022-04-24", "UTC", "or four, of which the first is"),
            ("dates:2022-04-01+2022-04-22+2022-04-29+2022-04-29", "UTC", "be after the one before"),
            ("dates:2022-04-22+2022-13-01", "UTC", "'2022-13-01' is no date"),
            ("dates:2022-04-22+2022-04-22", "UTC", "test has to begin after validation"),
            ("dates:2022-04-22+2022-04-29T00:00Z", "UTC", "names a time zone"),
            ("column:", "UTC", "none of temporal_user, .*, column:<column of the events>"),
            ("random", "Asia/Peking", "'Asia/Peking' is no time zone.*Asia/Shanghai"),
            ("random", "../UTC", "is no time zone"),
            ("random", "", "is no time zone"),
        ],
    )
    def test_bad_dates_and_zones_are_refused(self, kind, zone, message):
        with pytest.raises(ConfigError, match=message):
            require_split(kind, zone)

    def test_only_a_column_is_read_from_the_file(self):
        assert period_column("column:a:b") == "a:b"
        assert not period_column("dates:2022-04-22+2022-04-29") + period_column("random")


def test_duplicates_are_kept_or_dropped(tmp_path):
    events = pd.concat([LOG, LOG[:3]])
    dropped, kept = (lines_of(tmp_path, events, d) for d in ("drop", "keep"))
    assert (dropped.num_events, dropped.counts["duplicates_dropped"]) == (7, 3)
    assert (kept.num_events, kept.counts["duplicates_dropped"]) == (10, 0)
    with pytest.raises(ConfigError, match=r"data.duplicates='none' is none of drop, keep"):
        lines_of(tmp_path, events, "none")


def test_no_scene_is_read_if_none_is_named(tmp_path):
    lines = lines_of(tmp_path, columns="scene=", order_only="scene=old")
    assert lines.vocabulary["scene"].tolist() == ["all"]
    with pytest.raises(DataError, match="'label=' is not <our name>=<column>"):
        lines_of(tmp_path, columns="label=")


class TestOrderOnly:
    """Rows of the scene "old" have timestamps that give their order alone."""

    def test_a_value_that_is_nowhere_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"nowhere 'new' \(order_only\); it has: old, tab"):
            lines_of(tmp_path, order_only="scene=new")

    def test_gaps_from_and_to_them_are_unknown(self, tmp_path):
        lines = lines_of(tmp_path, order_only="scene=old", period="part")
        choices = {"train_share": 0.5, "validation_share": 0.25, "history": "all", "ties": "order"}
        data = build_dataset(lines, split="column:part", seed=0, **choices)
        store = type(data.stores)(
            *(c if isinstance(c, dict) else np.asarray(c)[0] for c in data.stores)
        )
        store = store._replace(user_features={k: v[0] for k, v in store.user_features.items()})
        rows = np.arange(lines.num_events, dtype=np.int32)
        index = {"row": rows, "weight": np.ones(7, np.float32), "pair": np.zeros(3, np.float32)}
        batch = gather_impressions(store, index, 4)
        unknown = store.order_only[store.history_row]
        for row in rows:
            end = store.history_end[row]
            seen = np.arange(store.history_begin[row], end)
            known = ~unknown[seen] & ~store.order_only[row]
            gaps = batch.history.gap[row][4 - len(seen) :]
            np.testing.assert_array_equal(gaps > 0, known)
        np.testing.assert_array_equal(batch.recency > 0, [0, 0, 1, 1, 0, 0, 1])
        window, _ = gather_history(store, store.history_begin, store.history_end, 4)
        assert window.gap[3].tolist() == [0, 0, 0, 18]  # old, tab, tab: 1 + 1 + floor(log2(DAY))

    def test_statistics_of_their_times_are_missing(self, tmp_path):
        lines = lines_of(tmp_path, order_only="scene=old", period="part")
        train = lines.period == 0
        columns = (lines.user, lines.item, lines.scene, lines.time)
        event = np.ones(lines.num_events, bool)
        counters = Counters(*columns, lines.label, event, train, {}, lines.order_only)
        user, item, scene, time = columns
        rows = np.arange(lines.num_events)
        queries = Queries(user, rows, time, item, scene, ~train, lines.order_only)
        found = dict(counters.columns(queries))
        known = {
            "user seconds since": [0, 0, 1, 1, 0, 0, 1],
            "item age": [0] * 7,  # the first event of each item that train has is in "old"
            "hour sine": [0, 1, 1, 1, 0, 1, 1],
            "user and item seconds since": [0, 0, 1, 0, 0, 0, 0],
        }
        for name, expected in known.items():
            np.testing.assert_array_equal(np.isfinite(found[name]), np.bool_(expected), name)
        for name in ("user events", "user and item events", "user and item events since"):
            plain = Counters(*columns, lines.label, event, train, {})
            np.testing.assert_array_equal(
                found[name], dict(plain.columns(queries._replace(order_only=None)))[name]
            )
