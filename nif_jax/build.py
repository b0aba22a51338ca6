"""From a run's config to its stages: models, plans, losses and scorers, not yet trained."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nif_jax import optim
from nif_jax.data import splits
from nif_jax.data.cache import load_movelines
from nif_jax.data.content import content_vectors
from nif_jax.data.dataset import Dataset, build_dataset
from nif_jax.data.sampling import ImpressionPlan, ItemPlan, SequencePlan
from nif_jax.data.schema import ConfigError, require_choice
from nif_jax.metrics import ctr, retrieval
from nif_jax.metrics.writer import MetricWriter
from nif_jax.models.baselines.interface import Baseline
from nif_jax.models.baselines.registry import make_baseline
from nif_jax.models.cohorts import CohortNetwork, DeepFm
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.intent import Intent
from nif_jax.models.quantizer import RqVae
from nif_jax.models.ranker import Ranker
from nif_jax.models.semantic_ids import SemanticIds
from nif_jax.parallel import AXIS, Placed, Pmap
from nif_jax.rows import ROWS, row_config
from nif_jax.scoring import Scorer, ScoringPlan
from nif_jax.stages import base, finetune, generator, tokenizer
from nif_jax.stages.genci import CohortSource, rank_generated
from nif_jax.stages.interface import Stage


@dataclasses.dataclass(frozen=True)
class Run:
    """What all stages of one seed share.

    Attributes:
      config: the configuration.
      seed: the model seed.
      folder: checkpoints and metrics of this seed.
      dataset: the data.
      parallel: the devices.
      writer: metrics.
      train: False only reads finished stages.
    """

    config: ConfigDict
    seed: int
    folder: pathlib.Path
    dataset: Dataset
    parallel: Pmap
    writer: MetricWriter
    train: bool

    @functools.cached_property
    def on_device(self) -> bool:
        """Whether the store fits the devices, or config.data.input says so."""
        choice = self.config.data.input
        require_choice("data.input", choice, ("auto", "device", "host"))
        size = sum(x.nbytes // len(x) for x in jax.tree.leaves(self.dataset.stores))
        return choice == "device" or (choice == "auto" and size <= self.config.data.device_bytes)

    @functools.cached_property
    def frozen(self) -> dict[str, Any]:
        """What every stage may read and none changes."""
        lines = self.dataset.movelines
        events = self.dataset.train_events
        frequency = generator.item_frequency(lines.item, events, lines.num_items)
        return {"items": dict(self.dataset.items), "frequency": frequency}

    @functools.cached_property
    def content(self) -> np.ndarray:
        """[N + 1, C] content vectors of the catalogue."""
        seed = self.config.data.seed
        return content_vectors(self.dataset.movelines, seed=seed, **self.config.content)

    @property
    def stage_config(self) -> dict[str, Any]:
        """What shapes stages, for their checkpoints: all but the test that comes after them."""
        return {key: value for key, value in self.config.to_dict().items() if key != "ab"}

    def place(self, **extra: Any) -> Placed:
        """The store on the devices (or not), and frozen with more in it."""
        return self.parallel.place({"store": self.dataset.stores}, self.frozen | extra,
                                   self.on_device)  # fmt: skip


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
      predict: for rankers, (params, variables, frozen, batch) -> {"logit", "calibration"} [B].
      candidates: the same for a batch of one row and candidates [C], see finetune.
    """

    stage: Stage
    section: ConfigDict
    data: Placed
    scorer: Scorer | None = None
    answers: Scorer | None = None
    generators: Mapping[str, Scorer] = dataclasses.field(default_factory=dict)
    predict: Callable | None = None
    candidates: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What earlier stages give to fine-tuning; None where no row asks for it.

    Attributes:
      params: the flow generator's parameters.
      vectors: [N + 1, D] its unit item vectors.
      flow: [D_local, M, T, D], or None where config.flow.cache is off.
      response: [D_local, E] log odds of the answer to each train impression by a generator that has
        not seen its user, or None where config.flow.cross_fit is off.
      codes: form of tokenizer -> [N, K] nearest codes, and with collisions resolved; collision
        digit left out.
      ids: form of tokenizer -> semantic IDs.
    """

    params: Any = None
    vectors: np.ndarray | None = None
    flow: np.ndarray | None = None
    response: np.ndarray | None = None
    codes: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict)
    ids: Mapping[str, SemanticIds] = dataclasses.field(default_factory=dict)


def load_dataset(config: ConfigDict, parallel: Pmap) -> Dataset:
    """The configured data set, laid out for the devices."""
    data = config.data
    lines = load_movelines(data.source, seed=data.seed, cache_dir=data.cache_dir, **config.source)
    return build_dataset(
        lines,
        split=data.split,
        train_share=data.train_share,
        validation_share=data.validation_share,
        history=data.history,
        ties=data.ties,
        label_share=data.label_share,
        label_scenes=data.label_scenes,
        negatives=data.negatives,
        negatives_exclude=data.negatives_exclude,
        seed=data.seed,
        num_shards=parallel.num_shards,
        local_shards=tuple(parallel.local_shards),
    )


def _per_device(run: Run, section: ConfigDict) -> int:
    size, rest = divmod(section.batch_size, run.parallel.num_shards)
    if rest or size % 2:
        raise ConfigError(
            f"batch_size={section.batch_size} has to be an even number of rows on each of "
            f"{run.parallel.num_shards} devices."
        )
    return size


def _optimizer(section: ConfigDict, plan: Any):
    return optim.make_optimizer(
        learning_rate=section.learning_rate,
        total_steps=int(section.epochs * plan.steps_per_epoch),
        warmup_steps=section.warmup_steps,
        decay=section.decay,
        weight_decay=section.weight_decay,
        clip_norm=section.clip_norm,
    )


def stretched(section: ConfigDict, steps_per_epoch: int) -> ConfigDict:
    """Section `train` with as many whole epochs as min_steps takes, where it has fewer.

    Evaluations are as many as before, further apart. No epochs remain none (closed forms).
    """
    epochs = math.ceil(section.min_steps / steps_per_epoch)
    if not 0 < section.epochs < epochs:
        return section
    longer = section.copy_and_resolve_references()
    longer.update(epochs=float(epochs), eval_epochs=section.eval_epochs * epochs / section.epochs)
    return longer


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


def _ranking_evaluator(run: Run, scorer: Scorer):
    plan = validation_plan(run)

    def evaluate(params, variables):
        return evaluate_ranking(run.dataset, plan, scorer(plan, params, variables)["logit"])

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


def _ranking_stage(run: Run, make: Callable[..., Stage], plan, data, predict, gather) -> Built:
    """What all rankers share: settings, scores, and being chosen by a validation metric."""
    section = stretched(run.config.train, plan.steps_per_epoch)
    scorer = Scorer(predict, gather, data, run.parallel)
    stage = make(
        length=run.config.data.history_length,
        plan=plan,
        optimizer=_optimizer(section, plan),
        evaluate=_ranking_evaluator(run, scorer),
        metric=section.metric,
        config=run.stage_config,
    )
    return Built(stage, section, data, scorer)


def build_base(run: Run) -> Built:
    """Step 1, F_0."""
    model = ranker(run)
    plan = ImpressionPlan(run.dataset, _per_device(run, run.config.train), run.seed)
    predict = functools.partial(base.predict, model)
    gather = base.gather_rows(run.config.data.history_length)
    make = functools.partial(base.make_stage, model)
    return _ranking_stage(run, make, plan, run.place(), predict, gather)


def build_generator(run: Run, fold: int | None = None) -> Built:
    """Step 2, G_phi; or the one of config.flow.cross_fit that trains without a fold of users."""
    folds = run.config.flow.cross_fit
    name, without = "generator", (0, 0)
    if fold is not None:
        name, without = f"generator_without_{fold}_of_{folds}", (fold, folds)
    section, model = run.config.pretrain, flow_decoder(run)
    spec, data = generator.FlowLoss(**run.config.flow_loss), run.place()
    # Windows as long as a roll-out's last position: it never leaves the trained distances.
    length = section.context + run.config.flow.horizon
    plan = SequencePlan(run.dataset, _per_device(run, section), length, run.seed, without)
    predict = functools.partial(generator.rank_next, model)
    gather = functools.partial(generator.gather_next, section.context, section.context)
    scorer = Scorer(predict, gather, data, run.parallel)
    chosen = validation_plan(run, section.eval_rows, sampled=False)

    def evaluate(params, variables):
        found = scorer(chosen, params, variables)
        answers = run.dataset.movelines.label[chosen.rows]
        metrics = retrieval.summarize(found["rank"])
        metrics["quality"] = metrics["hr@10"]
        if spec.response and 0 < answers.mean() < 1:
            metrics["response_auc"] = ctr.auc(answers, found["response"])
            metrics["quality"] += metrics["response_auc"]
        return metrics

    stage = generator.make_stage(
        model,
        name=name,
        spec=spec,
        axis_name=AXIS,
        plan=plan,
        optimizer=_optimizer(section, plan),
        evaluate=evaluate,
        metric=section.metric,
        config=run.stage_config,
    )
    answers = Scorer(
        functools.partial(generator.answer_next, model), gather, data, run.parallel
    )
    return Built(stage, section, data, scorer, answers=answers)


def build_tokenizer(run: Run) -> Built:
    """GenCI, step 1: the RQ-VAE."""
    config, section = run.config, run.config.tokenize
    names = ("form", "levels", "codes", "commitment", "decay", "dead_share")
    settings = {name: config.tokenizer[name] for name in names}
    model = _rq_vae(run)
    spec = tokenizer.Codes(**settings, batch=section.batch_size, seed=run.seed)
    shards = run.parallel.num_shards
    plan = ItemPlan(run.dataset.movelines.num_items, _per_device(run, section), shards, run.seed)
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
        config=run.stage_config,
    )

    return Built(stage, section, data)


def tokenizer_codes(run: Run, params: Any, variables: Any) -> tuple[np.ndarray, np.ndarray]:
    """[N, K] nearest codes by a trained tokenizer, and the same with collisions resolved."""
    return tokenizer.codes_of(_rq_vae(run), params, variables, run.content)


def _rq_vae(run: Run) -> RqVae:
    section = run.config.tokenizer
    return RqVae(run.content.shape[1], section.dim, section.hidden)


def _cohort_source(run: Run, config: ConfigDict, ids: SemanticIds):
    """The generative half of a ranker: intent model, cohort network, side head."""
    data, genci = run.dataset, config.genci
    intent = Intent(
        num_codes=ids.num_codes,
        num_digits=ids.num_digits,
        num_scenes=data.num_scenes,
        num_actions=data.num_actions,
        **config.intent,
    )
    settings = dict(config.cohorts)
    levels = settings.pop("levels") or config.tokenizer.levels
    if levels > config.tokenizer.levels:
        raise ConfigError(
            f"config.cohorts.levels={levels} is more than config.tokenizer.levels="
            f"{config.tokenizer.levels}."
        )
    network = CohortNetwork(dim=config.ranker.dim, levels=levels, **settings)
    side = DeepFm(genci.side, genci.side_dropout) if genci.delta > 0 else None
    names = ("beams", "gamma", "delta", "targets", "detach", "refresh")
    slots = (run.parallel.num_shards, data.stores.history_row.shape[1])
    settings = {name: config.genci[name] for name in names}
    source = CohortSource(intent, slots=slots, **settings)
    return source, network, side


def _flow_source(config: ConfigDict, use: bool) -> finetune.FlowSource:
    if not use:
        return finetune.FlowSource(False, False, horizon=0, context=0, response=False)
    require_choice("flow.returned", config.flow.returned, ("add", "init", "none"))
    return finetune.FlowSource(
        use=True,
        returned=config.flow.returned == "add",
        horizon=config.flow.horizon,
        context=0 if config.flow.cache else config.pretrain.context,
        response=config.flow.response,
        tune=config.flow.tune,
    )


def _pairwise(config: ConfigDict, use: bool) -> tuple[finetune.PairwiseLoss, dict[str, int]]:
    """TSP and how far apart the members of its pairs are."""
    if not use:
        return finetune.PairwiseLoss(0.0, 0.0, "calibration", "own"), {}
    settings = dict(config.tsp)
    distances = {k: settings.pop(k) for k in ("min_events", "min_seconds", "max_events")}
    return finetune.PairwiseLoss(**settings), distances


def build_row(run: Run, name: str, frozen: Frozen) -> Built:
    """F_theta with flow, TSP, cohorts or several of them, or a baseline: what ROWS says."""
    row, config = ROWS[name], row_config(run.config, name)
    run = dataclasses.replace(run, config=config)
    flow, (tsp, distances) = _flow_source(config, row.flow), _pairwise(config, row.tsp)
    cohorts, network, side = CohortSource(), None, None
    decoder, arrays, extra = None, {"store": run.dataset.stores}, {}
    if row.flow:
        decoder = flow_decoder(run)
        extra |= {"returned": frozen.vectors, "generator": frozen.params}
        if frozen.flow is not None:
            arrays["flow"] = frozen.flow
        if frozen.response is not None and flow.response:
            arrays["response"] = frozen.response
    if row.cohorts:
        extra["ids"] = frozen.ids[config.tokenizer.form]
        cohorts, network, side = _cohort_source(run, config, extra["ids"])
    model = ranker(run, network, side) if row.model == "ranker" else baseline(run, row.model)
    data = run.parallel.place(arrays, run.frozen | extra, run.on_device)
    plan = ImpressionPlan(
        run.dataset, _per_device(run, config.train), run.seed, row.tsp, **distances
    )
    parts = (model, decoder, flow, cohorts)
    gather = finetune.gather_rows(config.data.history_length, flow)
    make = functools.partial(
        finetune.make_stage, name, model, decoder, flow=flow, cohorts=cohorts, tsp=tsp,
        axis_name=AXIS,
    )  # fmt: skip
    predict = functools.partial(finetune.predict, *parts)
    built = dataclasses.replace(
        _ranking_stage(run, make, plan, data, predict, gather),
        predict=predict,
        candidates=functools.partial(finetune.predict_candidates, *parts),
    )
    if not row.cohorts:
        return built
    width = min(config.eval.beams, run.dataset.movelines.num_items)
    generators = {
        kind: Scorer(
            functools.partial(rank_generated, cohorts.intent, width, constrained),
            gather,
            data,
            run.parallel,
        )
        for kind, constrained in (("constrained", True), ("unconstrained", False))
    }
    return dataclasses.replace(built, generators=generators)
