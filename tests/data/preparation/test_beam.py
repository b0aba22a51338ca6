"""Preparation by Apache Beam: the files of the local way, byte for byte."""

import functools
import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nif_jax.data import sources
from nif_jax.data.preparation import beam, cache, columnar
from nif_jax.data.schema import DataError

REASON = 'Apache Beam is not installed: pip install "nif_jax[beam]"'
pytest.importorskip("apache_beam", reason=REASON)

from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402

from nif_jax.data.preparation import beam_pipeline  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[3]
COUNT = 600


def write_log(folder, suffix=".parquet"):
    """A log with ties in time, repeated rows, and rows that differ in an unused column only."""
    rng = np.random.default_rng(0)
    events = pd.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, 30, COUNT)],
            "item_id": rng.integers(0, 12, COUNT),
            "timestamp": 1_700_000_000 + rng.integers(0, 5, COUNT),
            "label": rng.integers(0, 2, COUNT),
            "scene": np.array(["home", "search"])[rng.integers(0, 2, COUNT)],
            "price": rng.integers(0, 3, COUNT) / 2,
            "log_odds": rng.normal(size=COUNT),
        }
    )
    events = pd.concat([events, events[:50]]).sample(frac=1, random_state=1)
    folder.mkdir()
    path = folder / f"log{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pandas(events, preserve_index=False), path, row_group_size=97)
    else:
        events.to_csv(path, index=False)
    items = pd.DataFrame({"item_id": range(15), "brand": [f"b{i % 4}" for i in range(15)]})
    items.to_csv(folder / "log_items.csv", index=False)
    return str(path)


def load(path, cache_dir, engine=None, **options):
    return cache.load_movelines(
        "files", seed=3, cache_dir=str(cache_dir), path=path, engine=engine, **options
    )


def in_memory(*flags):
    options = PipelineOptions(["--runner=DirectRunner", "--direct_running_mode=in_memory", *flags])
    return functools.partial(beam_pipeline.prepare, options=options)


def files(cache_dir):
    """Path -> bytes of all files of prepared data."""
    folder = cache_dir / "prepared"
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_files_are_those_of_the_local_way(tmp_path, monkeypatch, suffix, duplicates):
    path = write_log(tmp_path / "log", suffix)
    monkeypatch.setattr(columnar, "SHARD_ROWS", 100)  # six parts
    options = {"duplicates": duplicates, "columns": "truth=log_odds"}
    load(path, tmp_path / "local", **options)
    store = load(path, tmp_path / "beam", in_memory(), **options)
    assert files(tmp_path / "local") == files(tmp_path / "beam")
    assert (store.counts["duplicates_dropped"] == 50) == (duplicates == "drop")
    assert store.counts["tied_rows"] > 500


def test_a_run_finds_what_two_workers_have_prepared(tmp_path, monkeypatch):
    path = write_log(tmp_path / "log")
    command = [sys.executable, "-m", beam.__name__]
    command += [f"--config=configs/base.py:files,data.seed=3,source.path={path}"]
    command += ["--config.data.cache_dir", str(tmp_path / "beam"), "--runner=DirectRunner"]
    command += ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)
    own = load(path, tmp_path / "local")
    assert files(tmp_path / "local") == files(tmp_path / "beam")
    monkeypatch.setattr(sources, "load", None)  # nothing is prepared again
    monkeypatch.setattr(sources, "load_pieces", None)
    assert load(path, tmp_path / "beam").digests == own.digests


def test_no_step_depends_on_the_order_of_elements(tmp_path):
    path = write_log(tmp_path / "log")
    pieces = sources.load_pieces("files", path=path, any_size=True)
    groups = pieces.groups(tmp_path)
    assert len(groups) == 7
    found = {}
    for name, numbers in (("forward", range(7)), ("backward", range(6, -1, -1))):
        work = tmp_path / name
        work.mkdir()
        texts = [x for g in numbers for x in beam_pipeline.texts_of_group(g, groups, work)]
        for key in {key for key, _ in texts}:
            beam_pipeline.write_bucket(work, key, [table for k, table in texts if k == key])
        distinct, counts = beam_pipeline._read_texts(work)
        found[name] = distinct
        assert {kind: table.sum() for kind, table in counts.items()} == dict.fromkeys(
            counts, COUNT + 50
        )
    for kind, texts in found["forward"].items():
        pd.testing.assert_series_equal(texts, found["backward"][kind])
    rows = [
        {name: values[begin:end] for name, values in part.items()}
        for part in [part_of(path)]
        for begin, end in itertools.pairwise((0, 200, 400, 600))
    ]
    written = [
        beam_pipeline.write_part(tmp_path, [(0, 30)], "drop", 0, order).read_bytes()
        for order in (rows, rows[::-1])
    ]
    assert written[0] == written[1]


def part_of(path):
    """The rows of a log as ids, with their numbers; some differ in "other" alone."""
    events = pd.read_parquet(path)[:COUNT]
    return {
        "user": events["user_id"].str[1:].astype(np.int32).to_numpy(),
        "item": events["item_id"].to_numpy(np.int32) % 2,
        "scene": np.zeros(COUNT, np.int32),
        "action": np.zeros(COUNT, np.int32),
        "time": events["timestamp"].to_numpy(),
        "label": events["label"].to_numpy(np.int8),
        "truth": events["log_odds"].to_numpy(np.float32),
        "other": np.arange(COUNT),
        "row": np.arange(COUNT),
    }


class TestErrors:
    def test_a_wrong_value_is_one_line_that_names_the_first_row(self, tmp_path):
        path = write_log(tmp_path / "log")
        events = pd.read_parquet(path)
        events.loc[events.index[[300, 500]], "label"] = 7
        table = pa.Table.from_pandas(events, preserve_index=False)
        pq.write_table(table, path, row_group_size=97)
        with pytest.raises(DataError, match=r"row 300\b") as found:
            load(path, tmp_path / "beam", in_memory())
        assert "\n" not in str(found.value)
        assert not files(tmp_path / "beam")  # nothing is left behind

    def test_options_that_need_all_rows_are_named(self, tmp_path):
        path = write_log(tmp_path / "log")
        with pytest.raises(DataError, match=r"none of source\.history"):
            load(path, tmp_path / "beam", in_memory(), action_columns="price")
