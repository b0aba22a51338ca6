"""The files of an artefact: a manifest, arrays, vocabularies and what encodes requests.

manifest.json    format, versions, schema, calibration, samples, sizes and digests of the files
programs/        StableHLO of the functions, serialised by jax.export
tables/          parameters and tables, the first argument of every program
encoder/         movelines of the run's data, features of users, totals of the count features
vocabulary/      names of users, items, scenes, actions and values of features, as Parquet
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nif_jax.data.counters import Counters
from nif_jax.data.files import file_sha256, read_json
from nif_jax.data.past_events import Past
from nif_jax.data.schema import DataError
from nif_jax.data.statistics import Statistics
from nif_jax.requests.encode import Encoder
from nif_jax.requests.log import Log, Rows
from nif_jax.requests.vocabulary import Vocabulary

MANIFEST = "manifest.json"
KIND, FORMAT = "nif_jax artefact", 3
AGAIN = "export it again by python -m nif_jax.main --mode=export"
KINDS = ("user", "item", "scene", "action")


class ArtefactError(DataError):
    """An artefact that cannot be used; the message names the file, the reason and the remedy."""


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of an artefact whose files are all there, in their sizes.

    Raises:
      ArtefactError: the folder is no artefact, one of another format, or a file is missing or has
        another size.
    """
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
    except FileNotFoundError as error:
        raise ArtefactError(f"{folder} is no artefact: it has no {MANIFEST}; {AGAIN}.") from error
    except ValueError as error:
        raise ArtefactError(f"{error}; {AGAIN}.") from error
    if (manifest.get("kind"), manifest.get("format")) != (KIND, FORMAT):
        raise ArtefactError(
            f"{path} is of {manifest.get('kind')!r}, format {manifest.get('format')!r}; this "
            f"version reads {KIND!r}, format {FORMAT}: {AGAIN}."
        )
    for name, file in manifest["files"].items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != file["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes, not {file['bytes']}"
            raise ArtefactError(f"{folder / name} {found}; {AGAIN}.")
    return manifest


def describe_files(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        for path in paths
    }


def check_digests(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Raises ArtefactError for the first file whose bytes are not those that were written."""
    for name, file in manifest["files"].items():
        if file_sha256(folder / name) != file["sha256"]:
            raise ArtefactError(f"{folder / name} is damaged: its SHA-256 is another one; {AGAIN}.")


def write_arrays(
    folder: pathlib.Path, under: str, arrays: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Writes arrays as .npy files.

    Args:
      folder: the artefact.
      under: a folder in it.
      arrays: name -> array. NumPy's format has no bfloat16: its bits are written.

    Returns:
      Name, file, dtype and shape of each, in their order.
    """
    (folder / under).mkdir(parents=True)
    found = []
    for number, (name, array) in enumerate(arrays.items()):
        file, array = f"{under}/{number:04}.npy", np.asarray(array)
        own = array.dtype.isbuiltin == 1
        bits = array if own else array.view(np.dtype(f"u{array.dtype.itemsize}"))
        np.save(folder / file, bits, allow_pickle=False)
        shape = list(array.shape)
        found.append({"name": name, "file": file, "dtype": array.dtype.name, "shape": shape})
    return found


def read_arrays(
    folder: pathlib.Path, described: Sequence[Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """Memory-maps what `write_arrays` wrote; raises ArtefactError for a damaged file."""
    found = {}
    for one in described:
        path = folder / one["file"]
        try:
            # As a plain array over the mapping: each slice of numpy.memmap makes an object more.
            array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            if array.dtype.name != one["dtype"]:
                array = array.view(jnp.dtype(one["dtype"]))
            if list(array.shape) != one["shape"]:
                raise ValueError(f"its shape is {array.shape}")
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise ArtefactError(f"{path} is damaged ({error}); {AGAIN}.") from error
        found[one["name"]] = array
    return found


def write_vocabulary(folder: pathlib.Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """Writes the names as Parquet; returns what `read_vocabulary` reads them by."""
    kinds = {kind: getattr(vocabulary, kind) for kind in KINDS}
    files = {kind: f"vocabulary/{kind}.parquet" for kind in KINDS}
    for of, profile in (("user", vocabulary.profile), ("item", vocabulary.item_profile)):
        for number, (feature, values) in enumerate(profile.items()):
            kinds[f"{of}/{feature}"] = values
            files[f"{of}/{feature}"] = f"vocabulary/{of}_feature_{number:03}.parquet"
    (folder / "vocabulary").mkdir()
    for kind, names in kinds.items():
        column = pa.array(names, pa.large_string())
        pq.write_table(pa.table({"name": column}), folder / files[kind])
    return {"files": files, "action_label": vocabulary.action_label.tolist()}


def read_vocabulary(folder: pathlib.Path, described: Mapping[str, Any]) -> Vocabulary:
    """What `write_vocabulary` wrote; raises ArtefactError for a damaged file."""
    names = {}
    for kind, file in described["files"].items():
        try:
            with pq.ParquetFile(folder / file) as parquet:
                names[kind] = parquet.read()["name"].to_numpy()
        except (OSError, KeyError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise ArtefactError(f"{folder / file} is damaged ({reason}); {AGAIN}.") from error
    profiles: dict[str, dict[str, np.ndarray]] = {"user": {}, "item": {}}
    for kind in names:
        of, slash, feature = kind.partition("/")
        if slash:
            profiles[of][feature] = names[kind]
    return Vocabulary(
        **{kind: names[kind] for kind in KINDS},
        profile=profiles["user"],
        item_profile=profiles["item"],
        action_label=np.array(described["action_label"], np.int8),
    )


def write_encoder(folder: pathlib.Path, encoder: Encoder) -> dict[str, Any]:
    """Writes what requests are encoded by; returns what `read_encoder` reads it by."""
    log, statistics = encoder.log, encoder.statistics
    rows = log.rows._asdict() | {"offsets": log.offsets, "ranked_scene": log.ranked_scene}
    found: dict[str, Any] = {
        "log": write_arrays(folder, "encoder/log", rows),
        "base": log.base,
        "history": log.history,
        "user_features": write_arrays(folder, "encoder/users", encoder.user_features),
        "statistics": None,
    }
    for name in ("length", "ranked", "context", "chunked", "past"):
        found[name] = getattr(encoder, name)
    if statistics is not None:
        totals = statistics.counters.past.arrays()
        found["statistics"] = {
            "names": list(statistics.names),
            "mean": statistics.mean.tolist(),
            "std": statistics.std.tolist(),
            "totals": write_arrays(folder, "encoder/totals", totals),
        }
    return found


def read_encoder(folder: pathlib.Path, described: Mapping[str, Any]) -> Encoder:
    """What `write_encoder` wrote; raises ArtefactError for a damaged file."""
    log, given = read_arrays(folder, described["log"]), described["statistics"]
    statistics = None
    if given is not None:
        statistics = Statistics(
            Counters.of_past(Past.of_arrays(read_arrays(folder, given["totals"]))),
            tuple(given["names"]),
            np.array(given["mean"]),
            np.array(given["std"]),
        )
    return Encoder(
        log=Log(
            rows=Rows(*(log[name] for name in Rows._fields)),
            offsets=log["offsets"],
            base=described["base"],
            history=described["history"],
            ranked_scene=log["ranked_scene"],
        ),
        user_features=read_arrays(folder, described["user_features"]),
        length=described["length"],
        statistics=statistics,
        ranked=described["ranked"],
        context=described["context"],
        chunked=described["chunked"],
        past=described["past"],
    )


def as_json(calibration: Any) -> dict[str, Any]:
    """A Calibration without what is undefined, which JSON has no number for."""
    fields = dataclasses.asdict(calibration)
    return {name: value for name, value in fields.items() if value == value}
