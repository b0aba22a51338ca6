"""The scores of the test impressions as a table, --mode=predict."""

import pathlib
from collections.abc import Iterable

import jax
import pandas as pd

from nif_jax.data.files import write_whole
from nif_jax.experiment import evaluation, pipeline
from nif_jax.stages import context
from nif_jax.training.devices.processes import is_writer


def _of_seed(run: context.Context) -> pd.DataFrame:
    """Test impressions with each trained model's click probability, online and frozen."""
    scores = evaluation.score_rankers(run, pipeline.run_seed(run)[0])
    plan = evaluation.test_plan(run, "online")
    lines, rows = run.dataset.movelines, plan.rows
    table = {
        "user_id": lines.vocabulary["user"][lines.user[rows]],
        "item_id": lines.vocabulary["item"][lines.item[rows] - 1],
        "timestamp": lines.time[rows],
        "label": lines.label[rows],
    }
    for variant, histories in scores.items():
        for history, found in histories.items():
            name = f"{variant}_{history}_seed_{run.seed}"
            table[name] = jax.nn.sigmoid(found["logit"]).__array__()
    return pd.DataFrame(table)


def write(runs: Iterable[context.Context], workdir: pathlib.Path) -> None:
    """Writes predictions.parquet, with columns for each variant, history and seed."""
    tables_by_seed = [_of_seed(run) for run in runs]
    if not is_writer():
        return
    keys = ["user_id", "item_id", "timestamp", "label"]
    first, *rest = tables_by_seed
    table = pd.concat([first, *(t.drop(columns=keys) for t in rest)], axis=1)
    path = write_whole(workdir / "predictions.parquet", table.to_parquet(index=False))
    print(f"{len(table)} test impressions with {len(table.columns) - 4} scores: {path}")
