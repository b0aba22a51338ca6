"""The registry of sources, files and the simulator; test_movielens.py has the third source."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from nif_jax.data import sources
from nif_jax.data.schema import NO_LABEL, DataError
from nif_jax.data.sources import files, synthetic

SHARED = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "data"

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
        expected = EVENTS.assign(scene="all", action="event", label=EVENTS["label"].astype("int8"))
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

    def test_columns_map_our_names_to_theirs(self, tmp_path):
        theirs = EVENTS.rename(columns={"user_id": "uid", "timestamp": "when"}).assign(tab="feed")
        path = _write(tmp_path, theirs)
        columns = "user_id=uid, timestamp=when, scene=tab, action=tab"
        events = sources.load("files", path=path, columns=columns).events
        assert events["user_id"].tolist() == ["u1", "u1", "u2"]
        assert events["timestamp"].tolist() == [10, 20, 15]
        assert events["scene"].tolist() == events["action"].tolist() == ["feed"] * 3

    def test_csv_identifiers_are_text(self, tmp_path):
        path = _write(tmp_path, EVENTS.assign(user_id=["007", "7", "NA"]))
        assert sources.load("files", path=path).events["user_id"].tolist() == ["007", "7", "NA"]

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

    def test_missing_and_minus_one_labels_are_history(self, tmp_path):
        path = _write(tmp_path, EVENTS.assign(label=[1, np.nan, -1]))
        assert sources.load("files", path=path).events["label"].tolist() == [1, NO_LABEL, NO_LABEL]

    @pytest.mark.parametrize(
        ("column", "values", "message"),
        [
            ("timestamp", [1, -5, 2], r"column 'ts', row 1: value .*-5.* is negative"),
            ("timestamp", [1, 2, 1.5], r"column 'ts', row 2: value .*1\.5.* is not a whole number"),
            ("timestamp", [1, None, 2], r"column 'ts', row 1: value .*nan.* is not a whole number"),
            ("timestamp", ["1", "May", "2"], r"row 1: value 'May' is not a whole number"),
            ("timestamp", [1, 2, 1_650_812_741_000], r"row 2: .*milliseconds: divide by 1000"),
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
        with pytest.raises(DataError, match=r"unknown extension '.xls'; use .parquet, .csv, .tsv"):
            load("log.xls", b"x")
        with pytest.raises(DataError, match="cannot be read as parquet"):
            load("broken.parquet", b"no parquet")
        with pytest.raises(DataError, match="no such file, with or without"):
            load("absent")
        with pytest.raises(DataError, match=r"one events file; found: broken\.parquet, empty\.csv"):
            sources.load("files", path=str(tmp_path))
        with pytest.raises(DataError, match="needs path="):
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
    def test_the_stated_probability_is_the_true_one(self):
        truth = synthetic.simulate(num_users=400, seed=3)
        order = np.argsort(truth.probability)
        for rows in np.array_split(order, 10):
            p = truth.probability[rows]
            error = np.sqrt((p * (1 - p)).sum()) / len(rows)
            assert abs(truth.label[rows].mean() - p.mean()) < 4 * error
        assert roc_auc_score(truth.label, truth.probability) > 0.75

    def test_logit_recomputed_from_the_equations(self):
        truth = synthetic.simulate(num_users=30, drift=0.2, noise=0.5, scene_pull=0.4, seed=1)
        angle = 0.2 * (truth.time - 1_600_000_000) / 86_400
        affinity = []
        for e in range(200):
            a, b = truth.interests[truth.user[e], :, 0], truth.interests[truth.user[e], :, 1]
            u = np.cos(angle[e]) * a + np.sin(angle[e]) * b
            u = u + 0.4 * truth.scene_vectors[truth.scene[e]]
            u /= np.linalg.norm(u, axis=1, keepdims=True)
            affinity.append((u @ truth.item_vectors[truth.item[e]]).max())
        offset = truth.logit[:200] - np.array(affinity) / 0.5
        np.testing.assert_allclose(offset, offset[0], atol=1e-9)

    def test_less_noise_raises_the_best_auc(self):
        sharp, vague = (synthetic.simulate(noise=n, seed=0) for n in (0.02, 1.0))
        assert roc_auc_score(sharp.label, sharp.probability) > 0.95
        assert roc_auc_score(vague.label, vague.probability) < 0.7

    def test_knob_out_of_range(self):
        with pytest.raises(DataError, match="dim=1 is too small, at least 2"):
            sources.load("synthetic", dim=1)
