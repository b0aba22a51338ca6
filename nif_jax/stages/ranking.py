"""What all rankers share: sizes of their tables, and how a stage is scored, evaluated and made."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nif_jax.data import splits
from nif_jax.data.dataset import Dataset
from nif_jax.metrics import ctr, mix
from nif_jax.metrics.calibration import fit_calibration
from nif_jax.models.ranker import Ranker
from nif_jax.stages.context import Context
from nif_jax.stages.step_counts import log_steps, loop_settings, make_optimizer, stretched
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


def ranker_settings(config: ConfigDict) -> dict[str, Any]:
    """Fields of a ranker that config.ranker gives."""
    return {key: value for key, value in config.ranker.items() if key != "statistics"}


def make_ranker(run: Context, **parts: Any) -> Ranker:
    """The ranker of a run's config, with cohorts and side head if given."""
    return Ranker(**table_sizes(run.dataset), **parts, **ranker_settings(run.config))


def statistics_arrays(run: Context) -> dict[str, Any]:
    """The count features that config.ranker.statistics names, as further arrays of a stage."""
    name = run.config.ranker.statistics
    return {} if name == "none" else {"statistics": run.dataset.statistics[name].arrays}


def validation_plan(run: Context, limit: int = 0, sampled: bool = True) -> ScoringPlan:
    """Validation impressions with rolling histories; see ScoringPlan for limit and sampled."""
    size = run.config.eval.batch_size
    return ScoringPlan(run.dataset, splits.VALIDATION, size, False, limit, sampled)


def evaluate_ranking(dataset: Dataset, plan: ScoringPlan, logits: np.ndarray) -> dict[str, Any]:
    """metrics.ctr.evaluate of a plan's scores."""
    lines = dataset.movelines
    return ctr.evaluate(lines.label[plan.rows], logits, lines.user[plan.rows])


def calibrated(run: Context, trained: Trained) -> Trained:
    """A trained ranker with the calibration that validation chooses."""
    plan, lines = validation_plan(run), run.dataset.movelines
    logits = trained.score(plan)["logit"]
    found = fit_calibration(lines.label[plan.rows], logits, lines.user[plan.rows])
    return dataclasses.replace(trained, calibration=found)


def _evaluator(run: Context, scorer: Scorer, metric: str) -> Callable[..., Evaluation]:
    """(params, variables) -> metrics on validation, and the weight of the label head's logit."""
    plan = validation_plan(run)
    judge = functools.partial(evaluate_ranking, run.dataset, plan)

    def evaluate(params, variables):
        found = scorer(plan, params, variables)
        if "response" not in found:
            return Evaluation(judge(found["logit"]))
        metrics = mix.best_mean(judge, found["ranker"], found["response"], metric)
        return Evaluation(metrics, {"mix": metrics["mix"]})

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
    """
    section = stretched(run.config.train, plan.steps_per_epoch)
    functions = {"scores": predict} | dict(generators or {})
    scorers = {k: Scorer(fn, gather_scores, data, run.parallel) for k, fn in functions.items()}
    log_steps(run, name, "train", section, plan)
    return Stage(
        name=name,
        init=init,
        gather=gather,
        loss_fn=loss_fn,
        plan=plan,
        optimizer=make_optimizer(section, plan),
        evaluate=_evaluator(run, scorers["scores"], section.metric),
        metric=section.metric,
        config=run.config.to_dict(),
        settings=loop_settings(section, plan),
        data=data,
        scorers=scorers,
        predict_candidates=predict_candidates,
    )
