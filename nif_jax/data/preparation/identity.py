"""What identifies the data that a run is made from: by content, wherever it lies."""

import pathlib
from collections.abc import Mapping
from typing import Any

from nif_jax.data.files import file_sha256
from nif_jax.data.preparation.cache import load_movelines
from nif_jax.data.schema import Movelines
from nif_jax.data.splits import period_column

CONTENT = "content"
"""The part that is the file of config.content.path."""

_CHANGED = {
    "events": "the events are not those",
    "items": "the items table is not the one",
    "users": "the users table is not the one",
    CONTENT: "the file of config.content.path is not the one",
}


def identify(config: Mapping[str, Any], lines: Movelines) -> dict[str, Any]:
    """The content of data.json, {"name": ..., "sha256": {part: hexadecimal digits}}.

    Args:
      config: flat, see config.flatten.
      lines: the data set.
    """
    parts = dict(lines.digests)
    path = pathlib.Path(config.get("content.path", ""))
    if config.get("content.source") == "file" and path.is_file():
        parts[CONTENT] = file_sha256(path)
    return {"name": lines.name, "sha256": parts}


def load_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """`identify` of the data that a flat config names.

    Raises:
      DataError: data that cannot be had or used.
    """
    options = {
        key.removeprefix("source."): value
        for key, value in config.items()
        if key.startswith("source.")
    }
    lines = load_movelines(
        config["data.source"],
        seed=config["data.seed"],
        cache_dir=config["data.cache_dir"],
        period=period_column(config["data.split"]),
        duplicates=config["data.duplicates"],
        **options,
    )
    return identify(config, lines)


def changes(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Words for the parts that differ: "the events are not those and the users table is not the
    one"; "" if none does."""
    parts = dict.fromkeys([*_CHANGED, *there, *here])
    differing = [part for part in parts if there.get(part) != here.get(part)]
    return " and ".join(_CHANGED.get(part, f"the {part} part is not the one") for part in differing)
