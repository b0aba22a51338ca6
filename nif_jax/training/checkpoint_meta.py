"""What is kept beside a checkpoint's arrays: enough to tell damage and another origin."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nif_jax.config import differences
from nif_jax.data.files import file_sha256, json_sha256, read_json, write_json
from nif_jax.data.preparation.identity import changes
from nif_jax.training.devices.processes import gather_processes, on_host

ANY_ORIGIN: Mapping[str, Any] = {"config": None, "made_from": None}


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; the message names the folder and what to do."""


class DamagedError(CheckpointError):
    """A checkpoint that is missing or is not what was saved; training its stage again helps.

    Attributes:
      what: the message without the remedy.
    """

    def __init__(self, path: pathlib.Path, reason: str):
        self.what = f"{path} is damaged ({reason})."
        super().__init__(
            f"{self.what} Run the same command with --mode=train: it trains this stage again and "
            "keeps the others."
        )


def unwritten(folder: Any, step: int, reason: str) -> CheckpointError:
    """The error of a step that could not be written."""
    return CheckpointError(
        f"{folder}: step {step} could not be written ({reason}): free some space and run the same "
        "command again; earlier checkpoints are intact."
    )


def _leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def describe(tree: Any) -> dict[str, str]:
    """Name -> type and shape of each array of a tree, such as "float32[9, 4]"."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in _leaves(tree).items()}


def shape_of(described: str) -> list[int]:
    """The shape of an array, from its description by `describe`."""
    return json.loads(described[described.index("[") :])


_BY_COLUMN = "columns:"


def _digests(tree: Any, like: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name -> SHA-256 of each array; of the same kind as those of `like`, if given."""
    leaves = _leaves(tree)
    if like is None:
        by_column = {name for name, x in leaves.items() if _is_spread(x)}
    else:
        by_column = {name for name in leaves if like.get(name, "").startswith(_BY_COLUMN)}
    return {n: _column_digest(x) if n in by_column else _digest(x) for n, x in leaves.items()}


def _is_spread(x: Any) -> bool:
    return isinstance(x, jax.Array) and not x.is_fully_replicated


def _digest(x: Any) -> str:
    return hashlib.sha256(_bytes(on_host(x) if isinstance(x, jax.Array) else x)).hexdigest()


def _bytes(x: np.ndarray) -> memoryview:
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8).data


def _column_digest(x: Any) -> str:
    """SHA-256 of the digests of an array's columns, which no device or process needs to have all.

    It does not depend on which device has which.
    """
    found = np.zeros((x.shape[-1], hashlib.sha256().digest_size), np.uint8)
    parts = {0: x}
    if _is_spread(x):
        parts = {part.index[-1].start or 0: part.data for part in x.addressable_shards}
    for first, part in parts.items():
        columns = np.asarray(part).reshape(-1, part.shape[-1]).T
        for place, column in enumerate(columns, first):
            found[place] = np.frombuffer(hashlib.sha256(_bytes(column)).digest(), np.uint8)
    if _is_spread(x):
        found = gather_processes(found).max(0)  # what a process has not is 0
    return _BY_COLUMN + hashlib.sha256(_bytes(found)).hexdigest()


def tree_digest(tree: Any) -> str:
    """SHA-256 of names, types, shapes and values of host arrays."""
    return described_digest({"schema": describe(tree), "sha256": _digests(tree)})


def described_digest(described: Mapping[str, Any]) -> str:
    """`tree_digest` of a checkpoint's arrays, by its description."""
    return json_sha256([described["schema"], described["sha256"]])


def pack(tree: Any, record: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, str]:
    """The description of a checkpoint as one JSON text, with the text's SHA-256.

    Args:
      tree: its arrays, on the host or on the devices of a mesh; every process calls this.
      record: the loop's.
      origin: {"config": ..., "made_from": ...}, see Checkpointer.
    """
    described = {"record": dict(record), "schema": describe(tree), "sha256": _digests(tree)}
    text = json.dumps(described | dict(origin))
    return {"text": text, "sha256": _text_digest(text)}


def unpack(stored: Any, path: pathlib.Path) -> dict[str, Any]:
    """{"record", "schema", "sha256", "config", "made_from"} of what `pack` made.

    Raises:
      DamagedError: it is not what was saved.
      CheckpointError: it is from a version that kept no digests.
    """
    if not isinstance(stored, dict) or not isinstance(stored.get("text"), str):
        if isinstance(stored, dict) and stored.keys() == {"record", "config", "schema"}:
            raise CheckpointError(
                f"{path} is from an earlier version of nif_jax, whose checkpoints cannot be "
                "verified. Use another --workdir, or delete that folder to start over."
            )
        raise DamagedError(path, "its description cannot be read")
    if _text_digest(stored["text"]) != stored.get("sha256"):
        raise DamagedError(path, "its description has changed")
    return json.loads(stored["text"])


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def manifest_of(folder: pathlib.Path) -> pathlib.Path:
    """The file beside <stage>/<best or last> that lists the files of its newest checkpoint."""
    return folder.with_name(f"{folder.name}.files.json")


def write_manifest(folder: pathlib.Path, step: int) -> None:
    """Writes the SHA-256 of each file of a checkpoint of <stage>/<best or last>."""
    path = folder / str(step)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    digests = {file.relative_to(path).as_posix(): file_sha256(file) for file in files}
    write_json(manifest_of(folder), {"step": step, "files": digests})


def require_same_files(path: pathlib.Path) -> None:
    """Raises DamagedError, naming the file, if a checkpoint's files are not those that were saved.

    Orbax then reads no damaged file, of which TensorStore would print tracebacks. A run that was
    killed between the two writes has a manifest of an earlier step, and digests of arrays only.
    """
    try:
        manifest = read_json(manifest_of(path.parent))
    except (FileNotFoundError, ValueError):
        return
    if manifest.get("step") != int(path.name):
        return
    for name, digest in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise DamagedError(path, f"its file {name} is missing")
        if file_sha256(file) != digest:
            raise DamagedError(path, f"its file {name} has changed")


def require_same_arrays(path: pathlib.Path, like: Any, described: Mapping[str, Any]) -> None:
    """Raises CheckpointError if a checkpoint has other names, types or shapes than `like`."""
    changed = differences(describe(like), described["schema"])
    if changed:
        raise CheckpointError(
            f"{path} holds other arrays than this config makes (found -> wanted):\n  "
            + "\n  ".join(changed[:10])
            + "\nUse another --workdir, or the config that the checkpoint was made with."
        )


def require_undamaged(path: pathlib.Path, tree: Any, described: Mapping[str, Any]) -> None:
    """Raises DamagedError, naming the array, if values are not those that were saved."""
    damaged = differences(_digests(tree, described["sha256"]), described["sha256"])
    if damaged:
        raise DamagedError(path, f"array {damaged[0].partition(': ')[0]} has changed")


def require_same_origin(
    path: pathlib.Path, origin: Mapping[str, Any], described: Mapping[str, Any]
) -> None:
    """Raises CheckpointError if <stage>/<best or last>/<step> was made with or from other things.

    Args:
      path: of the checkpoint.
      origin: what it has to be made with and from; None for a part that may be anything.
      described: see `unpack`.
    """
    stage = path.parents[1]
    again = f"Delete {stage}: --mode=train trains it again."
    changed = differences(origin["config"] or described["config"], described["config"])
    if changed:
        raise CheckpointError(
            f"{path} was made with another config (there -> here):\n  "
            + "\n  ".join(changed)
            + f"\nUse another --workdir. {again}"
        )
    wanted, found = origin["made_from"] or described["made_from"], described["made_from"]
    if data := changes(found["data"], wanted["data"]):
        raise CheckpointError(
            f"{data} that stage {stage.name} in {stage} was trained on. Use the data as it was, "
            f"or another --workdir. {again}"
        )
    other = differences(wanted["stages"], found["stages"])
    if other:
        name = other[0].partition(": ")[0]
        raise CheckpointError(
            f"stage {stage.name} in {stage} was trained from another stage {name} than the one "
            f"that is there now. {again}"
        )
