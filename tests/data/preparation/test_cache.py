"""Prepared data: exact round trip, what makes a key, damage, concurrent writers."""

import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from nif_jax.data import schema, sources, storage
from nif_jax.data.movelines import prepare
from nif_jax.data.preparation import cache, columnar, tfds_builder
from nif_jax.data.sources import tfds_folder

SMALL = {"num_users": 25, "num_items": 30, "events_per_user": 6.0}


@pytest.fixture(scope="module")
def store():
    return prepare(sources.load("synthetic", seed=5, **SMALL), seed=5)


def assert_equal(one: schema.Movelines, other: schema.Movelines) -> None:
    """Every field equal: values, dtypes, shapes, keys and their order."""
    for field in dataclasses.fields(schema.Movelines):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            a, b = {"": a}, {"": b}
        if not isinstance(a, Mapping):
            assert a == b, field.name
            continue
        assert list(a) == list(b), field.name
        for key, value in a.items():
            assert type(value) is type(b[key]), (field.name, key)
            if isinstance(value, np.ndarray):
                assert value.dtype == b[key].dtype, (field.name, key)
                np.testing.assert_array_equal(value, b[key], err_msg=f"{field.name} {key}")
            else:
                assert value == b[key], (field.name, key)


def _forbid_loading(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the source was loaded again")

    monkeypatch.setattr(sources, "load", refuse)


def _write_columns(store, folder):
    columnar.write(store, folder, {"said": ["x"]})


def _read_columns(folder):
    store, notes = columnar.read(folder)
    assert notes == {"said": ["x"]}
    return store


FORMATS = pytest.mark.parametrize(
    ("write", "read"),
    [(_write_columns, _read_columns), (tfds_builder.write, tfds_folder.read)],
)


@FORMATS
class TestRoundTrip:
    def test_synthetic(self, store, tmp_path, write, read):
        write(store, tmp_path)
        found = read(tmp_path)
        assert_equal(found, store)
        assert found.digests == store.digests

    def test_odd_names_no_features_and_extreme_values(self, tmp_path, write, read):
        events = pd.DataFrame(
            {
                "user_id": ["ü", "", "名前"],
                "item_id": ["a b", "a/b", "a\n|b"],
                "timestamp": [0, 10**11, 5],
                "scene": ["s", "s", "té"],
                "action": ["x", "", "x"],
                "label": [schema.NO_LABEL, 1, 0],
            }
        )
        items = pd.DataFrame({"item_id": ["a b"], "title": ["naïve"], "x/y": ["1|2"]})
        users = pd.DataFrame({"user_id": []})
        odd = prepare(schema.RawTables("odd", events, items, users, "ø"), seed=0)
        assert list(odd.user_features) == [] and list(odd.item_features) == ["x/y"]
        assert odd.truth is None
        write(odd, tmp_path)
        assert_equal(read(tmp_path), odd)


class TestColumns:
    @pytest.mark.parametrize("rows", [1, 7, 50, 10**6])
    def test_shards_are_whole_users_of_about_equal_length(self, store, tmp_path, monkeypatch, rows):
        monkeypatch.setattr(columnar, "SHARD_ROWS", rows)
        columnar.write(store, tmp_path, {})
        assert_equal(columnar.read(tmp_path)[0], store)
        users = columnar.cut_shards(store.user_offsets)
        assert users[0] == 0 and users[-1] == store.num_users and (np.diff(users) > 0).all()
        longest = np.diff(store.user_offsets).max()
        assert np.diff(store.user_offsets[users]).max() < rows + longest
        label = np.load(tmp_path / "label.npy")
        begin, end = store.user_offsets[users[-2:]]
        found = json.loads((tmp_path / "manifest.json").read_text())["columns"]["label"]["sha256"]
        assert found[-1] == hashlib.sha256(label[begin:end].tobytes()).hexdigest()

    def test_events_are_mapped_and_read_only(self, store, tmp_path):
        columnar.write(store, tmp_path, {})
        found, _ = columnar.read(tmp_path)
        assert isinstance(found.item.base, np.memmap) and not found.item.flags.writeable

    def test_texts_are_read_when_they_are_used(self, store, tmp_path):
        columnar.write(store, tmp_path, {})
        found, _ = columnar.read(tmp_path)
        for path in (tmp_path / "names").iterdir():
            path.unlink()
        with pytest.raises(FileNotFoundError):
            found.vocabulary["user"]

    def test_a_flip_in_any_file_is_found(self, store, tmp_path):
        columnar.write(store, tmp_path, {})
        for path in sorted(p for p in tmp_path.rglob("*") if p.is_file()):
            before = path.read_bytes()
            for at in (0, len(before) // 2, len(before) - 1):
                flipped = bytearray(before)
                flipped[at] ^= 4
                path.write_bytes(flipped)
                with pytest.raises(ValueError, match=path.name):
                    columnar.read(tmp_path)
            path.write_bytes(before)
        assert_equal(columnar.read(tmp_path)[0], store)


class TestTfds:
    def _load(self, folder, cache_dir):
        return cache.load_movelines("tfds", seed=9, cache_dir=str(cache_dir), path=str(folder))

    def test_what_was_exported_is_a_source_and_is_exported_alike(self, store, tmp_path):
        exported, again = tmp_path / "exported", tmp_path / "again"
        tfds_builder.write(store, exported)
        for _ in range(2):  # read from TFDS, then from the cache
            found = self._load(exported, tmp_path / "cache")
            assert_equal(found, store)
        tfds_builder.write(found, again)
        assert_equal(self._load(again, tmp_path / "other"), store)

    def test_the_command_exports_prepared_data(self, store, tmp_path):
        cache.load_movelines("synthetic", seed=5, cache_dir=str(tmp_path), **SMALL)
        (prepared,) = (tmp_path / "prepared").iterdir()
        name = "nif_jax.data.preparation.tfds_builder"
        command = [sys.executable, "-m", name, str(prepared), str(tmp_path / "exported")]
        subprocess.run(command, check=True, capture_output=True)
        assert_equal(sources.load("tfds", path=str(tmp_path / "exported")), store)
        # A second export would keep the records of the first.
        again = subprocess.run(command, check=False, capture_output=True, text=True)
        assert again.returncode == 1
        assert again.stderr.splitlines()[-1].startswith("error: ")
        assert "moveline_dataset exists: delete it, or give another folder" in again.stderr

    def test_what_cannot_be_exported_is_named(self, tmp_path):
        with pytest.raises(schema.DataError, match="none: no prepared data can be read"):
            tfds_builder.export(tmp_path / "none", tmp_path / "exported")
        assert not (tmp_path / "exported").exists()

    def test_bad_folders_are_named(self, store, tmp_path):
        for path in ("", str(tmp_path)):
            with pytest.raises(schema.DataError, match="give the folder that"):
                sources.load("tfds", path=path)
        tfds_builder.write(store, tmp_path)
        key = cache.cache_key("tfds", seed=0, path=str(tmp_path))
        record = next(tmp_path.rglob("users/*/*.array_record*"))
        content = bytearray(record.read_bytes())
        content[len(content) // 2] ^= 1
        record.write_bytes(content)
        with pytest.raises(schema.DataError, match=r"cannot be read .*: delete it and export"):
            sources.load("tfds", path=str(tmp_path))
        assert cache.cache_key("tfds", seed=0, path=str(tmp_path)) != key


class TestDigest:
    def test_digest_sees_every_field(self, store):
        seen = {tfds_folder.digest(store)}
        changes = {"name": "other", "origin": "other", "counts": {}, "titles": store.titles[::-1]}
        for name in (*schema.EVENT_COLUMNS, "truth", "user_offsets"):
            changes[name] = getattr(store, name) + 1
        for group in ("item_features", "user_features", "vocabulary"):
            key, *_ = getattr(store, group)
            changes[group] = getattr(store, group) | {key: getattr(store, group)[key][::-1].copy()}
        for name, value in changes.items():
            seen.add(tfds_folder.digest(dataclasses.replace(store, **{name: value})))
        assert len(seen) == 1 + len(changes)


class TestLoad:
    def test_second_start_reads_what_the_first_prepared(self, store, tmp_path, monkeypatch):
        first = cache.load_movelines("synthetic", seed=5, cache_dir=str(tmp_path), **SMALL)
        _forbid_loading(monkeypatch)
        second = cache.load_movelines("synthetic", seed=5, cache_dir=str(tmp_path), **SMALL)
        assert_equal(first, store)
        assert_equal(second, store)
        assert not list((tmp_path / "prepared").glob(".incomplete-*"))

    def test_the_log_names_the_folder_of_prepared_data(self, tmp_path, caplog):
        for _ in range(2):
            caplog.clear()
            with caplog.at_level(logging.INFO):
                cache.load_movelines("synthetic", seed=5, cache_dir=str(tmp_path), **SMALL)
            (folder,) = (tmp_path / "prepared").iterdir()
            assert f"prepared data: {folder}\n" in caplog.text

    def test_the_log_says_what_was_read_whether_prepared_or_cached(self, tmp_path, caplog):
        hour = 1_600_000_000
        rows = [("u", "a", hour, 1), ("u", "b", hour + 9000, 0), ("v", "a", hour, np.nan)]
        columns = ["user_id", "item_id", "timestamp", "label"]
        events = pd.DataFrame([*rows, rows[0]], columns=columns)
        events.to_csv(tmp_path / "log.csv", index=False)
        items = {"item_id": ["a", "z"], "title": ["one", "two"], "brand": ["x", "y"]}
        pd.DataFrame(items).to_csv(tmp_path / "log_items.csv", index=False)
        for _ in range(2):
            caplog.clear()
            with caplog.at_level(logging.INFO):
                cache.load_movelines(
                    "files", seed=0, cache_dir=str(tmp_path), path=str(tmp_path / "log.csv")
                )
            assert (
                "log: 3 events (2 with a label, 1 of them 1) of 2 users and 3 items, "
                "2020-09-13T12:26:40 to 2020-09-13T14:56:40; scenes: 1 (all); "
                "actions: 3 (label=0, label=1, label=none)\n"
            ) in caplog.text
            assert (
                "log: item features: 1 (brand); user features: none; duplicates dropped: 1; items "
                "without features: 1, without events: 1; users without features: 2\n"
            ) in caplog.text

    @pytest.mark.parametrize(
        ("times", "warning"),
        [
            ((10, 20_000), "1970-01-01T05:33:20, all before 1990: are they unix seconds?"),
            ((1_600_000_000, 1_600_003_599), "less than an hour: are they seconds"),
            ((1_600_000_000, 1_600_003_600), ""),
        ],
    )
    def test_times_that_look_wrong_are_reported(self, tmp_path, caplog, times, warning):
        log = tmp_path / "log.csv"
        rows = "\n".join(f"u,a,{time},1" for time in times)
        log.write_text(f"user_id,item_id,timestamp,label\n{rows}\n")
        with caplog.at_level(logging.WARNING):
            cache.load_movelines("files", seed=0, cache_dir=str(tmp_path), path=str(log))
        assert warning in caplog.text and bool(warning) == bool(caplog.text)

    def test_damage_is_reported_and_repaired(self, store, tmp_path, caplog):
        def load():
            return cache.load_movelines("synthetic", seed=5, cache_dir=str(tmp_path), **SMALL)

        def halve(path):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

        load()
        (folder,), other = (tmp_path / "prepared").iterdir(), tmp_path / "other"
        other.mkdir()
        columnar.write(dataclasses.replace(store, label=1 - store.label), other, {})
        damages = {
            "half a file": lambda: halve(folder / "item.npy"),
            "lost file": lambda: (folder / "names" / "0001.parquet").unlink(),
            "half the manifest": lambda: halve(folder / "manifest.json"),
            "no manifest": lambda: (folder / "manifest.json").unlink(),
            "another store's column": lambda: shutil.copy(other / "label.npy", folder),
            "another store's manifest": lambda: shutil.copy(other / "manifest.json", folder),
            "an empty file": lambda: (folder / "user_features" / "0000.npy").write_bytes(b""),
        }
        for name, damage in damages.items():
            damage()
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                assert_equal(load(), store)
            assert "is damaged" in caplog.text, name

    def test_unwritable_cache_is_reported_and_not_fatal(self, store, tmp_path, caplog):
        blocked = tmp_path / "file"
        blocked.write_text("not a folder")
        with caplog.at_level(logging.WARNING):
            found = cache.load_movelines("synthetic", seed=5, cache_dir=str(blocked), **SMALL)
        assert_equal(found, store)
        assert "prepared data is not kept" in caplog.text

    def test_two_processes_at_once(self, store, tmp_path):
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            found = pool.map(_load_digest, [str(tmp_path)] * 2)
        assert found == [tfds_folder.digest(store)] * 2
        left = list((tmp_path / "prepared").iterdir())
        assert len(left) == 1 and not left[0].name.startswith(".")


class TestPublish:
    def test_the_second_writer_loses_and_goes_on(self, tmp_path):
        target = tmp_path / "target"
        for writer, expected in (("first", True), ("second", False)):
            with storage.scratch_directory(tmp_path) as scratch:
                (scratch / "who").write_text(writer)
                assert storage.publish_directory(scratch, target) is expected
        assert (target / "who").read_text() == "first"
        assert os.listdir(tmp_path) == ["target"]

    def test_nothing_is_left_of_a_writer_that_fails(self, tmp_path):
        def fail_half_way():
            with storage.scratch_directory(tmp_path) as scratch:
                (scratch / "half").write_text("x")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail_half_way()
        assert os.listdir(tmp_path) == []


class TestKey:
    def test_defaults_spelt_out_are_the_same_key(self):
        plain = cache.cache_key("synthetic", seed=1)
        assert plain == cache.cache_key("synthetic", seed=1, num_users=1000)

    def test_seed_options_and_version_change_it(self, monkeypatch):
        keys = [cache.cache_key("synthetic", seed=1), cache.cache_key("synthetic", seed=2)]
        keys.append(cache.cache_key("synthetic", seed=1, drift=0.1))
        monkeypatch.setattr(columnar, "FORMAT_VERSION", "0.0.0")
        keys.append(cache.cache_key("synthetic", seed=1))
        assert len(set(keys)) == 4

    def test_data_that_had_one_action_for_every_label_is_prepared_again(
        self, tmp_path, monkeypatch
    ):
        log = tmp_path / "log.csv"
        log.write_text("user_id,item_id,timestamp,label\nu,a,1,1\nu,b,2,0\n")
        monkeypatch.setattr(columnar, "FORMAT_VERSION", "1.1.0")
        old = cache.cache_key("files", seed=0, path=str(log))
        monkeypatch.undo()
        assert cache.cache_key("files", seed=0, path=str(log)) != old
        lines = cache.load_movelines("files", seed=0, cache_dir=str(tmp_path), path=str(log))
        assert lines.vocabulary["action"].tolist() == ["label=0", "label=1"]
        assert lines.action.tolist() == [2, 1]

    def test_changed_files_change_it(self, tmp_path):
        log = tmp_path / "log.csv"
        log.write_text("user_id,item_id,timestamp,label\nu,a,1,1\n")
        keys = [cache.cache_key("files", seed=0, path=str(log))]
        log.write_text("user_id,item_id,timestamp,label\nu,a,1,1\nu,b,2,1\n")
        keys.append(cache.cache_key("files", seed=0, path=str(log)))
        (tmp_path / "log_items.csv").write_text("item_id\na\n")
        keys.append(cache.cache_key("files", seed=0, path=str(log)))
        assert len(set(keys)) == 3

    def test_content_changes_it_at_equal_size_and_time(self, tmp_path):
        log = tmp_path / "log.csv"
        log.write_text("user_id,item_id,timestamp,label\nu,a,1,1\n")
        before, key = log.stat(), cache.cache_key("files", seed=0, path=str(log))
        log.write_text("user_id,item_id,timestamp,label\nu,a,1,0\n")
        os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert log.stat().st_size == before.st_size
        assert cache.cache_key("files", seed=0, path=str(log)) != key
        os.rename(log, tmp_path / "moved.csv")
        log.write_text("user_id,item_id,timestamp,label\nu,a,1,1\n")
        assert cache.cache_key("files", seed=0, path=str(log)) == key

    def test_a_file_that_changes_while_it_is_read_is_refused(self, tmp_path, monkeypatch):
        log = tmp_path / "log.csv"
        log.write_text("user_id,item_id,timestamp,label\nu,a,1,1\n")
        load = sources.load

        def slow(*args, **kwargs):
            found = load(*args, **kwargs)
            with log.open("a") as file:
                file.write("u,b,2,1\n")
            return found

        monkeypatch.setattr(sources, "load", slow)
        options = {"seed": 0, "cache_dir": str(tmp_path), "path": str(log)}
        with pytest.raises(schema.DataError, match="changed while it was read"):
            cache.load_movelines("files", **options)
        monkeypatch.undo()
        assert cache.load_movelines("files", **options).num_events == 2


def test_cache_dir_order(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.delenv("NIF_JAX_CACHE", raising=False)
    assert storage.cache_dir() == pathlib.Path("/xdg/nif_jax")
    monkeypatch.setenv("NIF_JAX_CACHE", "/chosen")
    assert storage.cache_dir() == pathlib.Path("/chosen")
    assert storage.cache_dir("/given") == pathlib.Path("/given")
    monkeypatch.delenv("NIF_JAX_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert storage.cache_dir() == pathlib.Path.home() / ".cache" / "nif_jax"


def _load_digest(folder: str) -> str:
    found = cache.load_movelines("synthetic", seed=5, cache_dir=folder, **SMALL)
    return tfds_folder.digest(found)
