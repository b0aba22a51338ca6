"""From a run's config to its stages: models, plans, losses and scorers, not yet trained.

The rows that are fine-tuned are in nif_jax/stages/build_rows.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nif_jax.data import splits
from nif_jax.data.dataset import Dataset
from nif_jax.data.packing import SequencePlan
from nif_jax.data.sampling import ImpressionPlan, ItemPlan
from nif_jax.losses.contrastive import item_frequency
from nif_jax.metrics import ctr, mix, retrieval
from nif_jax.models.baselines.interface import Baseline
from nif_jax.models.baselines.registry import make_baseline
from nif_jax.models.cohorts import CohortNetwork, DeepFm
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.quantizer import RqVae
from nif_jax.models.ranker import Ranker
from nif_jax.stages import base, generator, next_item, tokenizer
from nif_jax.stages.context import Run
from nif_jax.stages.step_counts import log_steps, per_device, stretched, total_steps
from nif_jax.training import optim
from nif_jax.training.devices.pmap import AXIS, Placed
from nif_jax.training.scoring import Scorer, ScoringPlan
from nif_jax.training.stage import Stage


@dataclasses.dataclass(frozen=True)
class Built:
    """A stage ready to train.

    Attributes:
      stage: its functions.
      section: its training settings.
      data: what its steps read.
      scorer: its predictions over any split; None for the tokenizer, which scores nothing.
      answers: for the flow generator, log odds of each row's answer.
      generators: for models that generate items, {"constrained": ..., "unconstrained": ...} ranks
        of the next item among what they generate.
      gather: for rankers, (arrays, index) -> the batch that predict and candidates read; the
        stage's own, for training, may hold less.
      predict: for rankers, (params, variables, frozen, batch) -> {"logit", "calibration"} [B].
      candidates: the same for a batch of one row and candidates [C], see finetune.
    """

    stage: Stage
    section: ConfigDict
    data: Placed
    scorer: Scorer | None = None
    answers: Scorer | None = None
    generators: Mapping[str, Scorer] = dataclasses.field(default_factory=dict)
    gather: Callable | None = None
    predict: Callable | None = None
    candidates: Callable | None = None


def _optimizer(section: ConfigDict, plan: Any):
    return optim.make_optimizer(
        learning_rate=section.learning_rate,
        total_steps=total_steps(section, plan),
        warmup_steps=section.warmup_steps,
        decay=section.decay,
        weight_decay=section.weight_decay,
        clip_norm=section.clip_norm,
    )


def _sizes(data: Dataset) -> dict[str, Any]:
    """What a ranker's tables depend on."""
    return {
        "item_sizes": dict(data.item_sizes),
        "user_sizes": dict(data.user_sizes),
        "num_scenes": data.num_scenes,
        "num_actions": data.num_actions,
    }


def ranker(run: Run, cohorts: CohortNetwork | None = None, side: DeepFm | None = None) -> Ranker:
    """The configured ranker, with or without cohorts."""
    return Ranker(**_sizes(run.dataset), cohorts=cohorts, side=side, **run.config.ranker)


def baseline(run: Run, name: str) -> Baseline:
    """A baseline with the ranker's settings, as far as it has such parts, and its own."""
    return make_baseline(name, _sizes(run.dataset), run.config.ranker, run.config.baselines)


def validation_plan(run: Run, limit: int = 0, sampled: bool = True) -> ScoringPlan:
    """Validation impressions with online histories; see ScoringPlan for limit and sampled."""
    size = run.config.eval.batch_size
    return ScoringPlan(run.dataset, splits.VALIDATION, size, False, limit, sampled)


def evaluate_ranking(dataset: Dataset, plan: ScoringPlan, logits: np.ndarray) -> dict[str, Any]:
    """metrics.ctr.evaluate of a plan's scores."""
    lines = dataset.movelines
    return ctr.evaluate(lines.label[plan.rows], logits, lines.user[plan.rows])


def _ranking_evaluator(run: Run, scorer: Scorer, metric: str):
    plan = validation_plan(run)
    judge = functools.partial(evaluate_ranking, run.dataset, plan)

    def evaluate(params, variables):
        found = scorer(plan, params, variables)
        if "response" not in found:
            return judge(found["logit"])
        return mix.best_mean(judge, found["ranker"], found["response"], metric)

    return evaluate


def flow_decoder(run: Run) -> FlowDecoder:
    """The configured generator."""
    data = run.dataset
    return FlowDecoder(
        item_sizes=dict(data.item_sizes),
        num_scenes=data.num_scenes,
        num_actions=data.num_actions,
        **run.config.generator,
    )


def ranking_stage(run: Run, make: Callable[..., Stage], plan, data, predict, gather) -> Built:
    """What all rankers share: settings, scores, and being chosen by a validation metric."""
    section = stretched(run.config.train, plan.steps_per_epoch)
    scorer = Scorer(predict, gather, data, run.parallel)
    stage = make(
        length=run.config.data.history_length,
        plan=plan,
        optimizer=_optimizer(section, plan),
        evaluate=_ranking_evaluator(run, scorer, section.metric),
        metric=section.metric,
        config=run.config.to_dict(),
    )
    log_steps(run, stage.name, "train", section, plan)
    return Built(stage, section, data, scorer, gather=gather)


def build_base(run: Run) -> Built:
    """Step 1, F_0."""
    run = run.seen_by("base")
    model = ranker(run)
    plan = ImpressionPlan(run.dataset, per_device(run, run.config.train), run.seed)
    predict = functools.partial(base.predict, model)
    gather = base.gather_rows(run.config.data.history_length)
    make = functools.partial(base.make_stage, model)
    return ranking_stage(run, make, plan, run.place(), predict, gather)


def _target_frequency(data: Dataset, spec: generator.FlowLoss) -> np.ndarray:
    """[N + 1] how often an item is among the generator's targets, see log_expected_count."""
    targets = data.train_events & data.eligible
    if spec.targets == "positive":
        targets &= data.answer == 1
    return item_frequency(data.movelines.item, targets, data.movelines.num_items)


def build_generator(run: Run, without: tuple[int, int] | None = None) -> Built:
    """Step 2, G_phi; or the one of config.flow.cross_fit that trains without (fold, of folds) of
    the users."""
    name = "generator_without_{}_of_{}".format(*without) if without else "generator"
    run = run.seen_by(name)
    section, model = run.config.pretrain, flow_decoder(run)
    spec = generator.FlowLoss(**run.config.flow_loss)
    data = run.place(frequency=_target_frequency(run.dataset, spec))
    # Windows as long as a roll-out's last position: it never leaves the trained distances.
    length = section.context + run.config.flow.horizon
    plan = SequencePlan(run.dataset, per_device(run, section), length, run.seed, without or (0, 0))
    predict = functools.partial(next_item.rank_next, model)
    gather = functools.partial(next_item.gather_next, section.context, section.context)
    scorer = Scorer(predict, gather, data, run.parallel)
    # Next items are events; answers are those of sampled impressions too.
    sampled = run.config.data.negatives
    chosen = validation_plan(run, section.eval_rows * (1 + sampled))
    events = ~run.dataset.sampled[chosen.rows]

    def evaluate(params, variables):
        found = scorer(chosen, params, variables)
        answers = run.dataset.movelines.label[chosen.rows]
        metrics = retrieval.summarize(found["rank"][events])
        metrics["quality"] = metrics["hr@10"]
        if spec.response and 0 < answers.mean() < 1:
            metrics["response_auc"] = ctr.auc(answers, found["response"])
            metrics["quality"] += spec.response * metrics["response_auc"]
        return metrics

    stage = generator.make_stage(
        model,
        name=name,
        spec=spec,
        sampled=sampled,
        axis_name=AXIS,
        plan=plan,
        optimizer=_optimizer(section, plan),
        evaluate=evaluate,
        metric=section.metric,
        config=run.config.to_dict(),
    )
    log_steps(run, name, "pretrain", section, plan)
    answers = Scorer(functools.partial(next_item.answer_next, model), gather, data, run.parallel)
    return Built(stage, section, data, scorer, answers=answers)


def build_tokenizer(run: Run) -> Built:
    """GenCI, step 1: the RQ-VAE."""
    run = run.seen_by("tokenizer")
    config, section = run.config, run.config.tokenize
    names = ("form", "levels", "codes", "commitment", "decay", "dead_share")
    settings = {name: config.tokenizer[name] for name in names}
    model = _rq_vae(run)
    spec = tokenizer.Codes(**settings, batch=section.batch_size, seed=run.seed)
    shards = run.parallel.num_shards
    plan = ItemPlan(run.dataset.movelines.num_items, per_device(run, section), shards, run.seed)
    data = run.place(content=run.content)

    def evaluate(params, variables):
        params, variables = run.parallel.unreplicate((params, variables))
        return tokenizer.evaluate(model, params, variables, run.content)

    stage = tokenizer.make_stage(
        model,
        spec=spec,
        axis_name=AXIS,
        plan=plan,
        optimizer=_optimizer(section, plan),
        evaluate=evaluate,
        metric=section.metric,
        config=run.config.to_dict(),
    )
    log_steps(run, stage.name, "tokenize", section, plan)
    return Built(stage, section, data)


def tokenizer_codes(run: Run, params: Any, variables: Any) -> tuple[np.ndarray, np.ndarray]:
    """[N, K] nearest codes by a trained tokenizer, and the same with collisions resolved."""
    return tokenizer.codes_of(_rq_vae(run), params, variables, run.content)


def _rq_vae(run: Run) -> RqVae:
    section = run.config.tokenizer
    return RqVae(run.content.shape[1], section.dim, section.hidden)
