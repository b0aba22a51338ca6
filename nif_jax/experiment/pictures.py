"""The pictures of a run, from its test scores and its generator's flow."""

import pathlib

import jax
import numpy as np

from nif_jax.experiment.evaluation import test_plan
from nif_jax.metrics.records import METRICS_FILE, good_records
from nif_jax.reports import flow_map, plots
from nif_jax.stages.context import Context
from nif_jax.stages.outputs import GeneratorOutputs
from nif_jax.training.scoring import ScoringPlan
from nif_jax.variants import SELECTED


def draw(run: Context, scores, buckets, outputs: GeneratorOutputs, workdir: pathlib.Path) -> None:
    """The run's pictures, of its first seed."""
    folder = workdir / "plots"
    records = good_records(run.folder / METRICS_FILE)
    if any("train/loss" in record["values"] for record in records):
        plots.training_curves(records, folder / "training_curves.png")
    plan = test_plan(run, "online")
    labels = run.dataset.movelines.label[plan.rows]
    plots.auc_by_history(buckets["history_length"], folder / "auc_by_history.png")
    logits = {name: found["online"]["logit"] for name, found in scores.items() if name != SELECTED}
    plots.reliability(labels, logits, folder / "reliability.png")
    off = next((name for name in ("nif", "base") if name in scores), None)
    on = {"nif": "amen", "base": "tsp"}.get(off or "")
    if on in scores and 0 < labels.sum() < len(labels):
        panels = {f"TSP off ({off})": off, f"TSP on ({on})": on}
        found = {title: scores[name]["online"]["calibration"] for title, name in panels.items()}
        plots.calibration_scores(
            {name: (c[labels == 1], c[labels == 0]) for name, c in found.items()},
            folder / "calibration_scores.png",
        )
    if outputs.vectors is not None and outputs.flow is not None:
        _draw_flow_map(run, plan, outputs.vectors, outputs.flow[0], folder / "flow_map.png")


def _draw_flow_map(
    run: Context, plan: ScoringPlan, vectors: np.ndarray, flow: np.ndarray, path: pathlib.Path
) -> None:
    """Four users at the start of their test period: history, flow, and what came next."""
    dataset, lines = run.dataset, run.dataset.movelines
    shard = run.parallel.local_shards[0]
    rows = plan.shard_rows[shard]
    store = jax.tree.map(lambda x: x[0], dataset.stores)
    # First test row of each user that leaves a few events to compare with.
    _, first, count = np.unique(store.user[rows], return_index=True, return_counts=True)
    chosen = rows[first[(count >= 4) & (store.history_end[rows[first]] > 0)]][:4]
    if not len(chosen):
        return
    end = store.history_end[chosen]
    horizon = run.config.flow.horizon
    following = chosen[:, None] + np.arange(horizon)
    past = store.history_row[np.maximum(end[:, None] + np.arange(-10, 0), 0)]
    names = None
    feature = next((f for f in ("category", "genres") if f in lines.item_features), None)
    if feature:
        ids = lines.item_features[feature][1:, 0]
        vocabulary = np.append("unknown", lines.vocabulary[f"item/{feature}"])
        names = vocabulary[ids]
    global_rows = dataset.shard_rows[shard][chosen]
    flow_map.flow_map(
        vectors[1:],
        flow[end - 1].astype(np.float32),
        store.item[np.minimum(following, len(store.item) - 1)] - 1,
        path,
        categories=names,
        histories=vectors[store.item[past]],
        users=[f"user {lines.vocabulary['user'][u]}" for u in lines.user[global_rows]],
    )
