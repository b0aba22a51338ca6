"""A file of more events without labels, tidy or as lists of each user."""

import pandas as pd
import pytest

from nif_jax.data import sources
from nif_jax.data.movelines import prepare
from nif_jax.data.schema import NO_LABEL, DataError
from nif_jax.data.sources import files, history, tables
from nif_jax.data.sources.events import Rules
from nif_jax.data.sources.readers import Table

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


class TestHistory:
    """More events, of a file of their own and without labels."""

    LOG = EVENTS.assign(timestamp=[1010, 1020, 1015])
    LISTS = pd.DataFrame(
        {
            "uid": ["u1", "u2", "u9"],
            "seen": [["c", "a", "c"], None, ["d"]],
            "liked": [["a"], ["a"], []],
            "end_ms": [500_999, 1_000, 7_000_000],
        }
    )
    NAMES = "user_id=uid,item_id=seen,timestamp_ms=end_ms,action=liked"

    def load(self, folder, lists, names=NAMES, **options):
        path = _write(folder, self.LOG, "log.parquet")
        _write(folder, lists, "log_history.parquet")
        options = {"history": "beside", "history_columns": names} | options
        return sources.load("files", path=path, **options).events

    def test_lists_become_events_before_the_log(self, tmp_path):
        events = self.load(tmp_path, self.LISTS)
        assert events["label"].tolist() == [1, 0, 1] + [NO_LABEL] * 4
        new = events.iloc[3:]
        assert new["user_id"].tolist() == ["u1"] * 3 + ["u9"]
        assert new["item_id"].tolist() == ["c", "a", "c", "d"]
        # Second 500 is the last entry's, the others stand before it, a minute apart.
        assert new["timestamp"].tolist() == [380, 440, 500, 7_000]
        assert new["action"].tolist() == ["liked=0", "liked=1", "liked=0", "liked=0"]
        assert set(new["scene"]) == {"history"}

    def test_a_list_that_ends_with_the_first_event_moves_before_it(self, tmp_path):
        events = self.load(tmp_path, self.LISTS.assign(end_ms=[1_010_500, 1_000, 7_000]))
        assert events["timestamp"].tolist()[3:6] == [1009 - 120, 1009 - 60, 1009]

    @pytest.mark.parametrize(
        ("column", "values", "message"),
        [
            (
                "end_ms",
                [5_000, 1_016_000, 1],
                r"'end_ms', row 1: value .*1016000.* is later than the",
            ),
            ("end_ms", [5_000, None, 1], r"'end_ms', row 1: value None is missing"),
            ("seen", [["a"], None, "d"], r"'seen', row 2: value 'd' is no list of items"),
            ("uid", ["u1", "u2", "u1"], r"'uid', row 2: value 'u1' stands there twice"),
            ("uid", ["u1", None, "u2"], r"'uid', row 1: value None is null"),
        ],
    )
    def test_bad_lists_are_located(self, tmp_path, column, values, message):
        path = _write(tmp_path, self.LOG, "log.parquet")
        lists = self.LISTS.assign(**{column: pd.Series(values, dtype=object)})
        rules = Rules(tables.parse_columns("history_columns", self.NAMES, history.NAMES))
        file = tmp_path / "log_history.parquet"
        with pytest.raises(DataError, match=message) as error:
            history.from_table(Table(file, lists), rules, sources.load("files", path=path).events)
        assert str(error.value).startswith(str(file))

    def test_tidy_events_keep_their_times_and_lose_their_labels(self, tmp_path):
        path = _write(tmp_path, EVENTS.assign(action="view"))
        rows = {"user_id": ["u2", "007"], "item_id": ["z", "a"], "timestamp": [12, 99]}
        rows = pd.DataFrame(rows | {"scene": ["app", "app"], "label": [1, 1]})
        events = sources.load("files", path=path, history=_write(tmp_path, rows, "old.csv")).events
        assert events["user_id"].tolist() == ["u1", "u1", "u2", "u2", "007"]
        assert events["timestamp"].tolist() == [10, 20, 15, 12, 99]
        assert events["label"].tolist() == [1, 0, 1, NO_LABEL, NO_LABEL]
        assert events["scene"].tolist() == ["all"] * 3 + ["app"] * 2
        shown = ["view label=1", "view label=0", "view label=1"]
        assert events["action"].tolist() == shown + ["label=none"] * 2

    def test_items_of_the_history_are_known_and_never_shown(self, tmp_path):
        self.load(tmp_path, self.LISTS)
        raw = files.files(path=str(tmp_path / "log"), history="beside", history_columns=self.NAMES)
        lines = prepare(raw, 0)
        assert lines.vocabulary["item"].tolist() == ["a", "b", "c", "d"]
        mine = slice(*lines.user_offsets[:2])
        assert lines.label[mine].tolist() == [NO_LABEL] * 3 + [1, 0]

    def test_a_history_that_is_not_there(self, tmp_path):
        path = _write(tmp_path, EVENTS)
        with pytest.raises(DataError, match=r"history file .*log_history\.csv: no such file"):
            sources.load("files", path=path, history="beside")
        self.load(tmp_path, self.LISTS)
        with pytest.raises(
            DataError, match=r"no column 'user_id' for history_columns; .* uid, seen"
        ):
            sources.load("files", path=str(tmp_path / "log.parquet"), history="beside")
        with pytest.raises(DataError, match="history_columns: 'label=x' is not <our name>"):
            self.load(tmp_path, self.LISTS, "label=x")

    def test_a_changed_history_is_prepared_again(self, tmp_path):
        self.load(tmp_path, self.LISTS)
        options = {"path": str(tmp_path / "log.parquet"), "history": "beside"}
        before = files.fingerprint(**options)
        _write(tmp_path, self.LISTS.iloc[:1], "log_history.parquet")
        assert files.fingerprint(**options) != before
