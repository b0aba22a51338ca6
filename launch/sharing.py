"""Stages that another run has trained with equal settings are copied, not trained again."""

import json
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging

from nif_jax.config import READ, seen_by
from nif_jax.data.files import read_json
from nif_jax.data.preparation.identity import load_identity
from nif_jax.data.schema import DataError
from nif_jax.experiment.claims import DATA_FILE
from nif_jax.metrics.records import METRICS_FILE, good_records
from nif_jax.metrics.writer import MetricWriter
from nif_jax.reports.results import RESULTS_FILE
from nif_jax.reports.workdirs import CONFIG_FILE
from nif_jax.training.checkpoint import DAMAGED


def finished_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Workdirs <folder>/<sweep>/<run> of runs that have results."""
    return [path.parent for path in sorted(folder.glob(f"*/*/{RESULTS_FILE}"))]


def borrow(
    workdir: pathlib.Path, config: Mapping[str, Any], lenders: Iterable[pathlib.Path]
) -> list[str]:
    """Copies into a run's folder the stages that it would train to the same end.

    Seed by seed: a stage that `workdir` has begun stays as it is, and one whose keys (seen_by) are
    equal in a lender comes from there, with its lines of metrics.jsonl, without TensorBoard's. Only
    lenders that were trained on the data that the flat config names now are used: a file at the
    same path may have changed since. Lenders are finished runs, trained by the same code. Returns
    "seed_0/base from <lender>" for each stage.
    """
    found, data = [], None
    seeds = [f"seed_{config['seed'] + i}" for i in range(config["num_seeds"])]
    for lender in lenders:
        bests = sorted(path for seed in seeds for path in lender.glob(f"{seed}/*/best"))
        try:
            theirs = read_json(lender / CONFIG_FILE) if bests else {}
            stages = [b.parent for b in bests if _is_wanted(b.parent, workdir, config, theirs)]
            if stages and data is None:
                data = load_identity(config)
            if stages and read_json(lender / DATA_FILE) != data:
                logging.info("%s was trained on other data; nothing is copied from it", lender)
                continue
        except (DataError, FileNotFoundError, ValueError) as error:
            logging.warning("nothing is copied from %s: %s", lender, error)
            continue
        for stage in stages:
            _copy(stage, workdir / stage.parent.name)
            found.append(f"{stage.parent.name}/{stage.name} from {lender.name}")
    return found


def _is_wanted(
    stage: pathlib.Path, workdir: pathlib.Path, config: Mapping[str, Any], theirs: Mapping[str, Any]
) -> bool:
    """Whether a run would train a lender's stage to the same end, and has not begun it."""
    needed = stage.name in config["rows"] or stage.name.startswith(tuple(READ))
    begun = (workdir / stage.parent.name / stage.name).exists()
    return needed and not begun and seen_by(stage.name, theirs) == seen_by(stage.name, config)


def _copy(stage: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the records first, and renames the folder last: where it exists, it is complete."""
    temporary = folder / f"{stage.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(stage, temporary, ignore=shutil.ignore_patterns(DAMAGED))
    with MetricWriter(folder) as writer:
        writer.truncate_after(-1, stage.name)  # of a copy that was cut short
    records = [r for r in good_records(stage.parent / METRICS_FILE) if r["stage"] == stage.name]
    with (folder / METRICS_FILE).open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    temporary.rename(folder / stage.name)
