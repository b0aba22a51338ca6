"""Stages that another run has trained with equal settings are copied, not trained again."""

import json
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from nif_jax.config_keys import READ, seen_by
from nif_jax.metrics.writer import METRICS_FILE, MetricWriter, read_metrics
from nif_jax.reports.results import RESULTS_FILE
from nif_jax.reports.workdirs import CONFIG_FILE


def finished_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Workdirs <folder>/<sweep>/<run> of runs that have results."""
    return [path.parent for path in sorted(folder.glob(f"*/*/{RESULTS_FILE}"))]


def borrow(
    workdir: pathlib.Path, config: Mapping[str, Any], lenders: Iterable[pathlib.Path]
) -> list[str]:
    """Copies into a run's folder the stages that it would train to the same end.

    Seed by seed: a stage that `workdir` has begun stays as it is, and one whose keys (seen_by) are
    equal in a lender comes from there, with its lines of metrics.jsonl, without TensorBoard's.

    Args:
      workdir: folder of a run.
      config: its flat config.
      lenders: workdirs of finished runs, trained by the same code on such a machine.

    Returns:
      "seed_0/base from <lender>" for each.
    """
    found = []
    seeds = [f"seed_{config['seed'] + i}" for i in range(config["num_seeds"])]
    for lender in lenders:
        bests = sorted(path for seed in seeds for path in lender.glob(f"{seed}/*/best"))
        theirs = json.loads((lender / CONFIG_FILE).read_text()) if bests else {}
        for best in bests:
            stage, folder = best.parent, workdir / best.parents[1].name
            wanted = stage.name in config["rows"] or stage.name.startswith(tuple(READ))
            if not wanted or (folder / stage.name).exists():
                continue
            if seen_by(stage.name, theirs) == seen_by(stage.name, config):
                _copy(stage, folder)
                found.append(f"{folder.name}/{stage.name} from {lender.name}")
    return found


def _copy(stage: pathlib.Path, folder: pathlib.Path) -> None:
    """Its records first, and by rename the folder: where that stands, all of it does."""
    temporary = folder / f"{stage.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(stage, temporary)
    with MetricWriter(folder) as writer:
        writer.truncate_after(-1, stage.name)  # of a copy that was cut short
    records = [r for r in read_metrics(stage.parent / METRICS_FILE) if r["stage"] == stage.name]
    with (folder / METRICS_FILE).open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    temporary.rename(folder / stage.name)
