"""What a run writes beside checkpoints: descriptions, merged metrics, tables on the screen."""

import json
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

import flax
import jax
from ml_collections import ConfigDict

from nif_jax.config import flatten
from nif_jax.data.dataset import Dataset
from nif_jax.data.files import write_whole
from nif_jax.data.schema import PERIODS
from nif_jax.metrics.records import METRICS_FILE, good_records
from nif_jax.reports import results, tables


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """The "dataset" object of results.json."""
    lines = dataset.movelines
    sizes = dataset.num_labels.sum(axis=1).tolist()
    return {
        "name": lines.name,
        "origin": lines.origin,
        "events": lines.num_events,
        "users": lines.num_users,
        "items": lines.num_items,
        "impressions": dict(zip(PERIODS, sizes, strict=True)),
        "preparation": dict(lines.counts),
    }


def commit() -> str | None:
    """The commit of the checkout, None outside one."""
    root = pathlib.Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def describe_run(
    config: ConfigDict, dataset: Dataset, started: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The "run" object of results.json; `started`: see Context."""
    return {
        "config": flatten(config.to_dict()),
        "commit": commit(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "devices": [str(device) for device in jax.devices()],
        "dataset": describe_dataset(dataset),
    } | ({"init_from": started} if started else {})


def print_results(workdir: pathlib.Path) -> None:
    """The tables of a finished workdir."""
    found = results.read_results(workdir)
    print(tables.comparison_table(found["rows"]))
    if found.get("selection"):
        print("\nSelected on validation\n")
        print(tables.markdown(tables.selection(found["selection"])))
    if found.get("differences"):
        print("\nDifferences, 95 % intervals by paired bootstrap\n")
        print(tables.markdown(tables.differences(found["differences"])))
    if found.get("calibration"):
        print("\nCalibration on validation, measured on test\n")
        print(tables.markdown(tables.calibration(found["calibration"])))
    if found.get("retrieval"):
        print("\nNext-item retrieval over the whole catalogue\n")
        print(tables.markdown(tables.retrieval(found["retrieval"])))
    if found.get("semantic_ids"):
        print("\nSemantic IDs\n")
        print(tables.markdown(tables.semantic_ids(found["semantic_ids"])))
    print(f"\n{workdir}/report.html has the pictures, {workdir}/results.json the numbers.")


def merge_metrics(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes <workdir>/metrics.jsonl: the records of all seeds, "seed" added to each."""
    lines = (
        json.dumps({"seed": seed} | record) + "\n"
        for seed in range(config.seed, config.seed + config.num_seeds)
        for record in good_records(workdir / f"seed_{seed}" / METRICS_FILE)
    )
    write_whole(workdir / METRICS_FILE, "".join(lines))
