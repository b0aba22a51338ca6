"""Whose workdir it is: config.json and data.json, written when a run starts to train."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from nif_jax.config import run_differences
from nif_jax.data.files import read_json, write_json
from nif_jax.data.preparation.identity import changes
from nif_jax.data.schema import ConfigError
from nif_jax.data.vocabulary import VOCABULARY_FILE, write_values
from nif_jax.reports.workdirs import CONFIG_FILE
from nif_jax.training.devices.processes import barrier, is_writer

DATA_FILE = "data.json"
"""Of a workdir: what identifies the data that it was made of, see identity.identify."""


def claim_workdir(
    config: Mapping[str, Any], workdir: pathlib.Path, data: Mapping[str, Any]
) -> None:
    """Writes a flat config and what identifies the data into a workdir that is this run's."""
    if is_writer():
        for name, content in ((CONFIG_FILE, config), (DATA_FILE, data)):
            write_json(workdir / name, content)
    barrier("workdir")


def keep_values(workdir: pathlib.Path, values: Mapping[str, np.ndarray]) -> None:
    """Writes the values of a run's rows, which config.init_from reads, unless they are there."""
    if is_writer() and not (workdir / VOCABULARY_FILE).exists():
        write_values(workdir, values)


def require_own(config: Mapping[str, Any], workdir: pathlib.Path, *, train: bool) -> bool:
    """Whether a workdir's config.json is there and intact.

    Args:
      config: of the run, flat.
      workdir: its folder.
      train: whether the run may train: then the workdir may be given more seeds and rows than there
        are, and a damaged file is written again later.

    Raises:
      ConfigError: the workdir belongs to a run of another config; names the keys.
    """
    there = _read(workdir / CONFIG_FILE, train)
    changed = [] if there is None else run_differences(config, there, extend=train)
    if changed:
        raise ConfigError(
            f"{workdir} belongs to a run with another config (there -> here):\n  "
            + "\n  ".join(changed)
            + "\nUse another --workdir, or delete that folder to start over."
        )
    return there is not None


def require_same_data(workdir: pathlib.Path, data: Mapping[str, Any], *, train: bool) -> bool:
    """Whether a workdir's data.json is there and intact; arguments as in `require_own`.

    Raises:
      ConfigError: the workdir's run was made of other data; names the parts that differ.
    """
    path = workdir / DATA_FILE
    there = _read(path, train)
    if there is None:
        return False
    if not isinstance(there.get("sha256"), dict):
        raise ConfigError(
            f"{path} is from an earlier version of nif_jax, so it is not certain that {workdir} "
            "was trained on this data. Use another --workdir, or delete that folder to start over."
        )
    if changed := changes(there["sha256"], data["sha256"]):
        raise ConfigError(
            f"{data['name']}: {changed} that {workdir} was trained on, though the config is the "
            "same. Use another --workdir, or the data as it was."
        )
    return True


def _read(path: pathlib.Path, train: bool) -> dict[str, Any] | None:
    """A file of a workdir; None where there is none, or where it is damaged and will be replaced.

    That is safe: each checkpoint holds the config and the digests of the data that its stage was
    made from, and is refused where they differ.
    """
    if not path.exists():
        if any(path.parent.glob("seed_*/*/last")):
            logging.warning("%s is missing: it is written again after the stages are checked", path)
        return None
    try:
        return read_json(path)
    except ValueError as error:
        if not train:
            raise ConfigError(
                f"{error}. Run the same command with --mode=train: it checks all stages and writes "
                "the file again."
            ) from error
        logging.warning("%s. It is written again after the stages are checked.", error)
        return None
