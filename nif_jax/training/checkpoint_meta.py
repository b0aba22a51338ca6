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


def _leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def describe(tree: Any) -> dict[str, str]:
    """Type and shape of each array of a tree."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in _leaves(tree).items()}


def _digests(tree: Any) -> dict[str, str]:
    return {
        name: hashlib.sha256(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data).hexdigest()
        for name, x in _leaves(tree).items()
    }


def tree_digest(tree: Any) -> str:
    """SHA-256 of names, types, shapes and values of host arrays."""
    return described_digest({"schema": describe(tree), "sha256": _digests(tree)})


def described_digest(described: Mapping[str, Any]) -> str:
    """`tree_digest` of a checkpoint's arrays, by its description."""
    return json_sha256([described["schema"], described["sha256"]])


def pack(tree: Any, record: Mapping[str, Any], origin: Mapping[str, Any]) -> dict[str, str]:
    """The description of a checkpoint as one JSON text, with the text's SHA-256.

    Args:
      tree: its host arrays.
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
    damaged = differences(_digests(tree), described["sha256"])
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
