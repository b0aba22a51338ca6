"""What all rankers share: sizes of their tables, and how a stage is scored, evaluated and made."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import logging

from nif_jax.data import splits
from nif_jax.data.dataset import Dataset
from nif_jax.metrics import blend, ctr
from nif_jax.metrics.calibration import fit_calibration
from nif_jax.models.baselines.interface import Baseline
from nif_jax.models.baselines.registry import make_baseline
from nif_jax.models.ranker import Ranker
from nif_jax.stages.context import Context
from nif_jax.stages.large_tables import ranker_lookups
from nif_jax.stages.step_counts import log_steps, loop_settings, make_optimizer, with_min_steps
from nif_jax.training.scoring import Scorer, ScoringPlan
from nif_jax.training.stage import Evaluation, Stage, Trained


def table_sizes(data: Dataset) -> dict[str, Any]:
    """What a ranker's tables depend on."""
    return {
        "item_sizes": dict(data.item_sizes),
        "user_sizes": dict(data.user_sizes),
        "num_scenes": data.num_scenes,
        "num_actions": data.num_actions,
    }


def make_ranker(run: Context, model: str = "ranker", **parts: Any) -> Ranker | Baseline:
    """The ranker of a run's config, with cohorts and side head if given, or a baseline."""
    sizes, config = table_sizes(run.dataset), run.config
    settings = {key: value for key, value in config.ranker.items() if key != "statistics"}
    settings["dtype"] = run.compute_dtype
    if model == "ranker":
        return Ranker(**sizes, **parts, **settings)
    return make_baseline(model, sizes, settings, config.baselines)


def statistics_arrays(run: Context) -> dict[str, Any]:
    """The count features that config.ranker.statistics names, as further arrays of a stage."""
    name = run.config.ranker.statistics
    return {} if name == "none" else {"statistics": run.dataset.statistics[name].arrays}


def validation_plan(run: Context, limit: int = 0, sampled: bool = True) -> ScoringPlan:
    """Validation impressions with rolling histories; see ScoringPlan for limit and sampled."""
    rows = run.scoring_rows
    return ScoringPlan(run.dataset, splits.VALIDATION, rows, False, limit, sampled)


def evaluate_ranking(dataset: Dataset, plan: ScoringPlan, logits: np.ndarray) -> dict[str, Any]:
    """metrics.ctr.evaluate of a plan's scores."""
    lines = dataset.movelines
    return ctr.evaluate(plan.read(lines.label), logits, plan.read(lines.user))


def calibrated(run: Context, trained: Trained) -> Trained:
    """A trained ranker with the calibration that validation chooses."""
    plan, lines = validation_plan(run), run.dataset.movelines
    logits = trained.score(plan)["logit"]
    found = fit_calibration(plan.read(lines.label), logits, plan.read(lines.user))
    return dataclasses.replace(trained, calibration=found)


def warn_below_chance(run: Context, aucs: Mapping[str, float | None], period: str) -> None:
    """Logs a warning with likely causes if models order a period worse than at random.

    Args:
      run: the run.
      aucs: what is scored -> its AUC, None if it is undefined.
      period: what the impressions are called.
    """
    below = [f"{name} {auc:.4f}" for name, auc in aucs.items() if auc is not None and auc < 0.5]
    if below:
        logging.warning(
            "%s: AUC on %s below .5: %s. Likely causes: sampled negatives that differ from "
            "positives by the age of their items (config.data.negatives_days), labels that are "
            "inverted, items and users that change after the train period, or few impressions.",
            run.dataset.movelines.name,
            period,
            ", ".join(below),
        )


def _evaluator(run: Context, scorer: Scorer, metric: str) -> Callable[..., Evaluation]:
    """(params, variables) -> metrics on validation, and the weight of the label head's logit."""
    plan = validation_plan(run)
    judge = functools.partial(evaluate_ranking, run.dataset, plan)

    def evaluate(params, variables):
        found = scorer(plan, params, variables)
        if "label_head" not in found:
            return Evaluation(judge(found["logit"]))
        metrics = blend.best_mean(judge, found["ranker"], found["label_head"], metric)
        return Evaluation(metrics, {"blend_weight": metrics["blend_weight"]})

    return evaluate


def make_ranking_stage(
    run: Context,
    name: str,
    *,
    init: Callable,
    gather: Callable,
    loss_fn: Callable,
    predict: Callable,
    gather_scores: Callable,
    plan: Any,
    data: Any,
    generators: Mapping[str, Callable] | None = None,
    predict_candidates: Callable | None = None,
    prepare: Callable | None = None,
    whole_catalogue: bool = False,
) -> Stage:
    """A stage of a ranker, trained by section `train` and selected by config.train.metric.

    Args:
      run: with the config of the stage.
      name: of the stage.
      init, gather, loss_fn, plan, data, predict_candidates: see Stage.
      predict: (params, variables, constants, batch) -> {"logit", "calibration"} [B].
      gather_scores: (arrays, index) -> the batch that `predict` reads.
      generators: name -> (params, variables, constants, batch) -> {"rank"} [B] of the next item, of
        a model that generates items.
      prepare: of the scorer of `predict`, see Scorer.
      whole_catalogue: see large_tables.ranker_lookups.
    """
    section = with_min_steps(run.config.train, plan.steps_per_epoch)
    shared = (gather_scores, data, run.parallel)
    programs = run.shared_programs(name, loss_fn)
    scorers = {"scores": Scorer(predict, *shared, prepare, programs.of("scores"))}
    scorers |= {
        kind: Scorer(fn, *shared, programs=programs.of(kind))
        for kind, fn in (generators or {}).items()
    }
    log_steps(run, name, "train", section, plan)
    sizes = (run.dataset.item_sizes, run.dataset.user_sizes)
    id_dropout = run.config.ranker.id_dropout
    lookups = ranker_lookups(*sizes, section.sparse_rows, id_dropout, whole_catalogue)
    flatten = lookups is None and not run.parallel.splits_tables
    return Stage(
        name=name,
        init=init,
        gather=gather,
        loss_fn=loss_fn,
        plan=plan,
        optimizer=make_optimizer(run, section, plan, flatten=flatten),
        evaluate=_evaluator(run, scorers["scores"], section.metric),
        metric=section.metric,
        config=run.config.to_dict(),
        settings=loop_settings(section, plan),
        data=data,
        scorers=scorers,
        lookups=lookups,
        per_shard=("beams",),
        predict_candidates=predict_candidates,
        programs=programs,
    )
