"""The registry of sources, files and the simulator; test_movielens.py has the third source."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest

from nif_jax.data import sources
from nif_jax.data.movelines import prepare
from nif_jax.data.schema import NO_LABEL, DataError
from nif_jax.data.sources import files

SHARED = pathlib.Path(__file__).resolve().parents[3].parent / "shared" / "data"

EVENTS = pd.DataFrame(
    {
        "user_id": ["u1", "u1", "u2"],
        "item_id": ["a", "b", "a"],
        "timestamp": [10, 20, 15],
        "label": [1, 0, 1],
    }
)


def _write(folder, events, name="log.csv"):
    path = folder / name
    if path.suffix == ".parquet":
        events.to_parquet(path, index=False)
    else:
        events.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return str(path)


class TestDispatch:
    def test_unknown_source_names_the_nearest_and_all(self):
        with pytest.raises(
            DataError, match="'movielens_10k'; did you mean 'movielens_100k'"
        ) as error:
            sources.load("movielens_10k")
        assert all(name in str(error.value) for name in sources.SOURCES)

    def test_unknown_option_names_the_nearest(self):
        with pytest.raises(DataError, match="no option 'num_user'; did you mean 'num_users'"):
            sources.load("synthetic", num_user=3)

    @pytest.mark.parametrize("name", sorted(sources.SOURCES))
    def test_options_are_plain_so_a_config_can_hold_them(self, name):
        given = sources.options(name)
        assert given and not {"seed", "cache_dir"} & set(given)
        assert json.loads(json.dumps(given)) == given

    def test_seed_reaches_the_synthetic_source(self):
        small = {"num_users": 20, "num_items": 20, "events_per_user": 5.0}
        one, same, other = (sources.load("synthetic", seed=s, **small).events for s in (1, 1, 2))
        pd.testing.assert_frame_equal(one, same)
        assert not one.equals(other)


class TestFiles:
    @pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.parquet"])
    def test_formats_agree(self, tmp_path, name):
        raw = sources.load("files", path=_write(tmp_path, EVENTS, name))
        action = ["label=1", "label=0", "label=1"]
        expected = EVENTS.assign(scene="all", action=action, label=EVENTS["label"].astype("int8"))
        pd.testing.assert_frame_equal(raw.events[expected.columns], expected)

    def test_stem_and_folder_find_the_file_and_its_siblings(self, tmp_path):
        _write(tmp_path, EVENTS)
        items = {"item_id": ["a", "b"], "category": ["x|y", "z"], "weight": [1, 2]}
        _write(tmp_path, pd.DataFrame(items), "log_items.csv")
        _write(tmp_path, pd.DataFrame({"user_id": ["u1"], "sex": ["F"]}), "log_users.csv")
        for path in (tmp_path, tmp_path / "log"):
            raw = sources.load("files", path=str(path))
            assert raw.name == "log" and list(raw.items) == ["item_id", "category"]
            assert raw.users.to_dict("list") == {"user_id": ["u1"], "sex": ["F"]}
        chosen = sources.load("files", path=str(tmp_path), item_columns="weight")
        assert list(chosen.items) == ["item_id", "weight"]

    def test_items_and_users_may_have_another_extension(self, tmp_path):
        path = _write(tmp_path, EVENTS)
        _write(tmp_path, pd.DataFrame({"item_id": ["a"], "brand": ["x"]}), "log_items.parquet")
        _write(tmp_path, pd.DataFrame({"user_id": ["u1"], "sex": ["F"]}), "log_users.tsv")
        before = files.fingerprint(path=path)
        raw = sources.load("files", path=path)
        assert list(raw.items) == ["item_id", "brand"] and list(raw.users) == ["user_id", "sex"]
        _write(tmp_path, pd.DataFrame({"item_id": ["a"], "brand": ["y"]}), "log_items.tsv")
        with pytest.raises(
            DataError, match=r"beside it are log_items\.parquet, log_items\.tsv; say"
        ):
            sources.load("files", path=path)
        # That of the events goes first.
        _write(tmp_path, pd.DataFrame({"item_id": ["a"], "brand": ["z"]}), "log_items.csv")
        assert sources.load("files", path=path).items["brand"].tolist() == ["z"]
        assert files.fingerprint(path=path) != before

    @pytest.mark.parametrize(
        ("kind", "theirs", "ours"), [("item", "007", "a"), ("user", "x", "u1")]
    )
    def test_a_table_about_nothing_in_the_events(self, tmp_path, kind, theirs, ours):
        path = _write(tmp_path, EVENTS)
        table = pd.DataFrame({f"{kind}_id": [theirs, "other"], "category": ["p", "q"]})
        file = _write(tmp_path, table, f"log_{kind}s.csv")
        message = f"{file}: column '{kind}_id': none of its ids is in the events of {path}: it has "
        message += f"'{theirs}', they have '{ours}'"
        with pytest.raises(DataError, match=message):
            sources.load("files", path=path)
        _write(tmp_path, table.replace("other", ours), f"log_{kind}s.csv")
        sources.load("files", path=path)

    def test_numbers_are_the_same_ids_in_every_format(self, tmp_path):
        path = _write(tmp_path, EVENTS.assign(item_id=[7.0, 8.0, 7.0]), "log.parquet")
        _write(tmp_path, pd.DataFrame({"item_id": [7, 8], "brand": ["x", "y"]}), "log_items.csv")
        assert prepare(sources.load("files", path=path), 0).counts["items_without_features"] == 0

    def test_the_log_shows_how_each_column_is_used(self, tmp_path, caplog):
        path = _write(
            tmp_path, EVENTS.assign(stars=[5, 2, 2], kind=["a", "b", "a"], price=1, dwell=2)
        )
        options = {"label_from": "stars>=4", "unlabelled": "kind=b", "action_columns": "dwell:2"}
        with caplog.at_level("INFO"):
            sources.load("files", path=path, columns="scene=kind", **options)
        assert f"{path}: 3 rows\n" in caplog.text
        rows = [line.split() for line in caplog.text.splitlines()]
        for row in (
            ["timestamp", "timestamp", "whole", "number", "0", "10"],
            ["label", "-", "whole", "number", "0", "1"],
            ["stars", "label", "whole", "number", "0", "5"],
            ["kind", "scene,", "unlabelled", "text", "0", "a"],
            ["price", "-", "whole", "number", "0", "1"],
            ["dwell", "action", "whole", "number", "0", "2"],
        ):
            assert row in rows

    def test_columns_map_our_names_to_theirs(self, tmp_path):
        theirs = EVENTS.rename(columns={"user_id": "uid", "timestamp": "when"}).assign(tab="feed")
        path = _write(tmp_path, theirs)
        columns = "user_id=uid, timestamp=when, scene=tab, action=tab"
        events = sources.load("files", path=path, columns=columns).events
        assert events["user_id"].tolist() == ["u1", "u1", "u2"]
        assert events["timestamp"].tolist() == [10, 20, 15]
        assert events["scene"].tolist() == ["feed"] * 3
        assert events["action"].tolist() == ["feed label=1", "feed label=0", "feed label=1"]

    def test_csv_identifiers_are_text(self, tmp_path):
        path = _write(tmp_path, EVENTS.assign(user_id=["007", "8", "NA"]))
        assert sources.load("files", path=path).events["user_id"].tolist() == ["007", "8", "NA"]

    def test_lists_become_sets(self, tmp_path):
        _write(tmp_path, EVENTS, "log.parquet")
        items = pd.DataFrame({"item_id": ["a", "b"], "genres": [["x", "y"], []]})
        _write(tmp_path, items, "log_items.parquet")
        raw = sources.load("files", path=str(tmp_path / "log"))
        assert raw.items["genres"].tolist() == ["x|y", ""]

    def test_label_from_a_rating(self, tmp_path):
        rated = EVENTS.drop(columns="label").assign(value=[4.0, 3.5, np.nan])
        path = _write(tmp_path, rated)
        events = sources.load("files", path=path, label_from="value>=4").events
        assert events["label"].tolist() == [1, 0, NO_LABEL]
        with pytest.raises(DataError, match="no column 'label' for 'label'; the file has: user_id"):
            sources.load("files", path=path)
        with pytest.raises(DataError, match="no column 'stars' for label_from"):
            sources.load("files", path=path, label_from="stars>=4")
        with pytest.raises(DataError, match="'value~4' is not"):
            sources.load("files", path=path, label_from="value~4")

    def test_action_columns_make_one_code(self, tmp_path):
        events = EVENTS.assign(like=[1, 0, 1], stars=[4.0, np.nan, 4.5], note=[None, None, None])
        path = _write(tmp_path, events, "log.parquet")
        events = sources.load("files", path=path, action_columns="like,stars").events
        assert events["action"].tolist() == ["like=1 stars=4.0", "like=0", "like=1 stars=4.5"]
        # Actions are not part of the scene, and the absence of all of them is an action of its own.
        assert set(events["scene"]) == {"all"}
        events = sources.load("files", path=path, action_columns="note").events
        assert set(events["action"]) == {"none label=0", "none label=1"}
        with pytest.raises(DataError, match=r"log.parquet: no column 'liked' for action_columns"):
            sources.load("files", path=path, action_columns="liked")

    def test_without_an_action_the_action_is_the_label(self, tmp_path, caplog):
        def actions(events, **options):
            caplog.clear()
            with caplog.at_level("INFO"):
                path = _write(tmp_path, events)
                return sources.load("files", path=path, **options).events["action"].tolist()

        noted = "histories show the label as the action: "
        labels = ["label=1", "label=0", "label=none"]
        stars = EVENTS.assign(label=[1.0, 0.0, np.nan], stars=[5, 2, 2])
        assert actions(stars) == labels
        assert noted + "label=0, label=1, label=none" in caplog.text
        # The label is the one that the rules make.
        rated = stars.drop(columns="label").assign(stars=[5, 2, np.nan])
        assert actions(rated, label_from="stars>=4") == labels
        assert actions(stars.assign(label=[1, 0, 1]), unlabelled="stars=5") == [
            "label=none",
            "label=0",
            "label=1",
        ]
        # Whatever says what the action is wins.
        assert actions(stars, action_columns="stars") == ["stars=5", "stars=2", "stars=2"]
        assert noted not in caplog.text
        assert actions(stars, columns="action=stars") == ["5", "2", "2"]
        assert actions(stars.assign(action=["seen", "left", "seen"])) == ["seen", "left", "seen"]
        assert noted not in caplog.text

    def test_a_constant_action_does_not_hide_labels_from_histories(self, tmp_path, caplog):
        def actions(label, action):
            caplog.clear()
            with caplog.at_level("INFO"):
                path = _write(tmp_path, EVENTS.assign(label=label, action=action))
                return sources.load("files", path=path).events["action"].tolist()

        found = actions([1.0, 0.0, np.nan], "seen")
        assert found == ["seen label=1", "seen label=0", "seen"]
        assert "all labelled events have the action 'seen'" in caplog.text
        # What has no label may have another action.
        found = actions([1.0, 0.0, np.nan], ["seen", "seen", "bought"])
        assert found == ["seen label=1", "seen label=0", "bought"]
        # Labels of one value tell nothing.
        assert actions([1.0, 1.0, np.nan], "seen") == ["seen"] * 3
        assert "all labelled events" not in caplog.text

    def test_bins_have_equal_mass(self, tmp_path):
        values = [5, 1, 7, 3, 1000, 2, 4, 6]
        rows = pd.DataFrame({"user_id": "u", "item_id": range(8), "timestamp": 1, "label": 1})
        path = _write(tmp_path, rows.assign(value=values))
        prices = pd.DataFrame({"item_id": range(8), "price": [*values[:7], np.nan]})
        _write(tmp_path, prices, "log_items.csv")
        options = {"action_columns": "value:4", "item_columns": "price:2"}
        raw = sources.load("files", path=path, **options)
        bins = raw.events["action"].str.removeprefix("value=").astype(int)
        assert bins.tolist() == [2, 0, 3, 1, 3, 0, 1, 2]
        assert raw.items["price"].fillna(-1).tolist() == [1, 0, 1, 0, 1, 0, 0, -1]
        with pytest.raises(DataError, match="'price:1' is not <column>:<number of bins"):
            sources.load("files", path=path, item_columns="price:1")
        words = _write(tmp_path, prices.assign(price="cheap"), "words_items.csv")
        with pytest.raises(DataError, match=r"'price', row 0: value 'cheap' is no finite number"):
            sources.load("files", path=path, items=words, item_columns="price:2")

    def test_unlabelled_rows_are_history(self, tmp_path):
        path = _write(tmp_path, EVENTS.assign(action=["buy", "return", "tag"]))

        def labels(rule):
            return sources.load("files", path=path, unlabelled=rule).events["label"].tolist()

        assert labels("action=return") == [1, NO_LABEL, 1]
        assert labels("action=return,action=tag") == [1, NO_LABEL, NO_LABEL]
        # The rule reads the file's column, whatever becomes the action code.
        raw = sources.load("files", path=path, unlabelled="action=tag", action_columns="label")
        assert raw.events["label"].tolist() == [1, 0, NO_LABEL]
        with pytest.raises(DataError, match=r"'action' is nowhere 'returned'.*it has: buy, return"):
            labels("action=returned")
        with pytest.raises(DataError, match="'return' is not <column>=<value>"):
            labels("return")

    def test_a_share_of_users_is_whole_users_and_nested(self, tmp_path):
        rows = pd.DataFrame({"user_id": np.repeat(range(200), 3), "item_id": "a", "label": 1})
        path = _write(tmp_path, rows.assign(timestamp=range(600)))

        def users(share, seed=0):
            events = sources.load("files", path=path, user_share=share, seed=seed).events
            assert (events.groupby("user_id").size() == 3).all()
            return set(events["user_id"])

        tenth, half = users(0.1), users(0.5)
        assert tenth < half and 70 < len(half) < 130 and 8 < len(tenth) < 35
        assert users(0.5, seed=1) != half
        assert len(users(1.0)) == 200
        for share in (0.0, 1.5):
            with pytest.raises(DataError, match=rf"user_share={share} is not in \(0, 1\]"):
                users(share)

    def test_milliseconds_are_named(self, tmp_path):
        rows = EVENTS.assign(ms=EVENTS["timestamp"] * 1000 + 999).drop(columns="timestamp")
        path = _write(tmp_path, rows)
        events = sources.load("files", path=path, columns="timestamp_ms=ms").events
        assert events["timestamp"].tolist() == [10, 20, 15]
        for factor, message in ((10**6, "microseconds: divide by 1,000 "), (-1, "is negative")):
            path = _write(tmp_path, rows.assign(ms=[1, 2, 1_650_812_741 * factor]))
            with pytest.raises(DataError, match=f"column 'ms', row 2: .*{message}"):
                sources.load("files", path=path, columns="timestamp_ms=ms")
        path = _write(tmp_path, rows.assign(ms=[1, "noon", None]))
        with pytest.raises(DataError, match="'ms', row 2: value nan is missing"):
            sources.load("files", path=path, columns="timestamp_ms=ms")
        path = _write(tmp_path, rows.assign(ms=[1, "noon", 2]))
        with pytest.raises(DataError, match=r"row 1: value 'noon' .* to unix milliseconds"):
            sources.load("files", path=path, columns="timestamp_ms=ms")
        # What is smaller than a millisecond is cut off too.
        path = _write(tmp_path, rows.assign(ms=[1_000.5, 2_999.9, 3_000]))
        found = sources.load("files", path=path, columns="timestamp_ms=ms").events
        assert found["timestamp"].tolist() == [1, 2, 3]

    @pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
    @pytest.mark.parametrize("as_text", [False, True])
    def test_dates_are_times(self, tmp_path, name, as_text):
        dates = pd.Series(
            pd.to_datetime(
                ["2024-05-31 18:00:00", "2024-05-31 18:00:01.9", "1970-01-02"], format="ISO8601"
            )
        )
        rows = EVENTS.assign(timestamp=dates.astype(str) if as_text else dates)
        events = sources.load("files", path=_write(tmp_path, rows, name)).events
        assert events["timestamp"].tolist() == [1_717_178_400, 1_717_178_401, 86_400]
        rows = EVENTS.assign(timestamp=["2024-05-31T20:00:00+02:00", "2024-05-31", "2024-06-01"])
        events = sources.load("files", path=_write(tmp_path, rows, name)).events
        assert events["timestamp"].tolist() == [1_717_178_400, 1_717_113_600, 1_717_200_000]

    def test_truth_of_your_own_simulator(self, tmp_path):
        path = _write(tmp_path, EVENTS.assign(truth=[0.5, -2, 1]))
        assert prepare(sources.load("files", path=path), seed=0).truth is None
        raw = sources.load("files", path=path, columns="truth=truth")
        assert prepare(raw, seed=0).truth.tolist() == [0.5, -2, 1]
        path = _write(tmp_path, EVENTS.assign(truth=[0.5, np.nan, 1]))
        with pytest.raises(DataError, match=r"column 'truth', row 1.*is not a finite number"):
            sources.load("files", path=path, columns="truth=truth")

    def test_missing_and_minus_one_labels_are_history(self, tmp_path):
        path = _write(tmp_path, EVENTS.assign(label=[1, np.nan, -1]))
        assert sources.load("files", path=path).events["label"].tolist() == [1, NO_LABEL, NO_LABEL]

    @pytest.mark.parametrize(
        ("column", "values", "message"),
        [
            ("timestamp", [1, -5, 2], r"column 'ts', row 1: value .*-5.* is negative"),
            ("timestamp", [1, 2, 1.5], r"column 'ts', row 2: value .*1\.5.* is not a whole number"),
            (
                "timestamp",
                [1, None, 2],
                r"column 'ts', row 1: value nan is missing: every event needs",
            ),
            ("timestamp", ["1", "May", "2"], r"row 1: value 'May' is not a whole number"),
            ("timestamp", ["2024-05-31", "31/5/24", "2024-06-01"], r"row 1: .*ISO 8601, such as"),
            ("timestamp", ["1969-12-31", "2024-05-31", "2024-06-01"], r"row 0: .* is negative"),
            (
                "timestamp",
                [1, 2, 1_650_812_741_000],
                r"'ts', row 2: .*milliseconds: name .* source\.columns='timestamp_ms=<column>', or",
            ),
            ("timestamp", [1, 1_650_812_741 * 10**6, 2], r"microseconds: divide by 1,000,000 \(1"),
            ("timestamp", [1_650_812_741 * 10**9, 1, 2], r"nanoseconds: divide by 1,000,000,000 "),
            ("label", [1, 0, 2], r"column 'label', row 2: value .*2.* is not a label"),
            ("label", ["1", "0", "yes"], r"column 'label', row 2: value 'yes' is not a label"),
            ("user_id", ["u", None, "v"], r"column 'user_id', row 1: value nan is null"),
            ("item_id", ["u", "v", None], r"column 'item_id', row 2: value nan is null"),
            ("scene", ["u", "v", None], r"column 'scene', row 2: value nan is null"),
        ],
    )
    def test_bad_values_are_located(self, tmp_path, column, values, message):
        events = EVENTS.assign(**{column: values}).rename(columns={"timestamp": "ts"})
        for name in ("log.csv", "log.parquet"):
            path = _write(tmp_path, events, name)
            with pytest.raises(DataError, match=message) as error:
                sources.load("files", path=path)
            assert str(error.value).startswith(path)

    @pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp", "label"])
    def test_missing_column(self, tmp_path, column):
        path = _write(tmp_path, EVENTS.drop(columns=column))
        with pytest.raises(DataError, match=f"no column '{column}' for '{column}'; the file has"):
            sources.load("files", path=path)

    def test_unusable_files(self, tmp_path):
        def load(name, content=None, **options):
            path = tmp_path / name
            if content is not None:
                path.write_bytes(content)
            sources.load("files", path=str(path), **options)

        with pytest.raises(DataError, match="the file is empty"):
            load("empty.csv", b"")
        with pytest.raises(DataError, match="no rows"):
            load("header.csv", b"user_id,item_id,timestamp,label\n")
        with pytest.raises(DataError, match=r"unknown extension '.xls'; the formats are .parq"):
            load("log.xls", b"x")
        with pytest.raises(DataError, match="cannot be read as parquet"):
            load("broken.parquet", b"no parquet")
        with pytest.raises(DataError, match="no such file, with or without"):
            load("absent")
        with pytest.raises(DataError, match=r"one events file; found: broken\.parquet, empty\.csv"):
            sources.load("files", path=str(tmp_path))
        with pytest.raises(DataError, match=r"needs source\.path="):
            sources.load("files")
        with pytest.raises(DataError, match="'uid=user_id' is not <our name>=<column>"):
            load("log.csv", b"", columns="uid=user_id")

    def test_repeated_item_is_located(self, tmp_path):
        path = _write(tmp_path, EVENTS)
        items = _write(tmp_path, pd.DataFrame({"item_id": ["a", "a"]}), "catalogue.csv")
        with pytest.raises(DataError, match="row 1: value 'a' stands there twice"):
            sources.load("files", path=path, items=items)

    @pytest.mark.parametrize(
        ("name", "events"), [("uci_online_retail", 805_888), ("kuairand_pure_14d", 228_329)]
    )
    def test_real_logs(self, name, events):
        if not (SHARED / f"{name}.parquet").exists():
            pytest.skip(f"{SHARED} has no {name}.parquet")
        raw = files.files(path=str(SHARED / name))
        assert len(raw.events) == events and len(raw.items) > 1000


class TestSynthetic:
    def test_knob_out_of_range(self):
        for knob, value, message in [
            ("dim", 1, "dim=1 is out of range, at least 2"),
            ("turnover", 1.5, "turnover=1.5 is out of range, 0 to 1"),
            ("cold_users", 0.5, "cold_users=0.5 is out of range, 0 to 0.4"),
            ("law", "mine", "law='mine' with dim=4; choose 'shared'"),
            ("dim", 5, "law='shared' with dim=5; choose"),
        ]:
            with pytest.raises(DataError, match=message):
                sources.load("synthetic", **{knob: value})

    def test_tables_carry_the_truth_that_the_store_keeps(self):
        small = {"num_users": 20, "num_items": 20, "events_per_user": 5.0}
        raw = sources.load("synthetic", seed=3, **small)
        lines = prepare(raw, seed=3)
        np.testing.assert_array_equal(lines.truth, raw.events["truth"].to_numpy(np.float32))
        world = sources.world("synthetic", lines, seed=3, **small)
        logit = world.log_odds(lines.user, lines.scene - 1, lines.time, lines.item - 1)
        np.testing.assert_allclose(logit, lines.truth, rtol=1e-6)

    def test_a_world_has_the_rows_that_the_store_has(self):
        # Few events leave scenes and users' orders that a store numbers anew.
        knobs = {"num_users": 30, "num_items": 12, "events_per_user": 3.0, "scenes": 40}
        lines = prepare(sources.load("synthetic", seed=1, **knobs), seed=1)
        assert len(lines.vocabulary["scene"]) < 40
        world = sources.world("synthetic", lines, seed=1, **knobs)
        logit = world.log_odds(lines.user, lines.scene - 1, lines.time, lines.item - 1)
        np.testing.assert_allclose(logit, lines.truth, rtol=1e-6)

    def test_a_source_whose_law_is_unknown(self, tmp_path):
        with pytest.raises(DataError, match=r"of data source 'files' are not known.*synthetic"):
            sources.world("files", None, seed=0, path=_write(tmp_path, EVENTS))
