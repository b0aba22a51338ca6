"""Files that are written whole or not at all, and JSON files that carry a checksum."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

CHECKSUM = "checksum"
"""Key of a JSON file: the SHA-256 of everything else in it."""


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Writes a file in one step, making its folder, and returns where.

    It is on disk when this returns. A write that fails leaves what was there before.

    Raises:
      OSError: the file cannot be written; the message names it and the remedy.
    """
    path = Path(path)
    # By process: two that write the same file do not write into each other's.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return path


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Lets an OSError within name the path, see `unwritable`."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> OSError:
    """The OSError of a path that cannot be written: names the path, the reason and the remedy."""
    return OSError(
        f"{path} cannot be written ({error.strerror or error}): make its folder writable or free "
        "some space, and run the same command again. What was saved before is intact."
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(content: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Writes a JSON object with its checksum in one step."""
    whole = dict(content) | {CHECKSUM: json_sha256(content)}
    return write_whole(path, json.dumps(whole, indent=2, allow_nan=False) + "\n")


def read_json(
    path: str | os.PathLike[str], check: Callable[[Any], None] = lambda _: None
) -> dict[str, Any]:
    """Reads what `write_json` wrote, without the checksum.

    Args:
      path: the file. A file without a checksum, from an earlier version, is read with a warning.
      check: raises a ValueError if the content is not what this file has to hold.

    Raises:
      FileNotFoundError: there is none.
      ValueError: not a JSON object, or not the one that was written; names the file.
    """
    try:
        content = json.loads(Path(path).read_bytes(), parse_constant=_reject_constant)
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        checksum = content.pop(CHECKSUM, None)
        check(content)
        if checksum is not None and checksum != json_sha256(content):
            raise ValueError("its content is not what its checksum was made of")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if checksum is None:
        logging.warning("%s has no checksum, so damage to it cannot be detected.", path)
    return content


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; an undefined number is null")
