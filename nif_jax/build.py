"""From a run's config to its stages: models, plans, losses and scorers, not yet trained."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nif_jax import optim
from nif_jax.data import splits
from nif_jax.data.cache import load_movelines
from nif_jax.data.dataset import Dataset, build_dataset
from nif_jax.data.sampling import ImpressionPlan, SequencePlan
from nif_jax.data.schema import ConfigError, require_choice
from nif_jax.metrics import ctr, retrieval
from nif_jax.metrics.writer import MetricWriter
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.ranker import Ranker
from nif_jax.parallel import AXIS, Placed, Pmap
from nif_jax.scoring import Scorer, ScoringPlan
from nif_jax.stages import base, finetune, generator
from nif_jax.stages.interface import Stage

RANKERS = {  # row -> (flow and returned item vectors, TSP)
    "base": (False, False),
    "nif": (True, False),
    "tsp": (False, True),
    "amen": (True, True),
}


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
        train = self.dataset.split == splits.TRAIN
        frequency = generator.item_frequency(lines.item, train, lines.num_items)
        return {"items": dict(self.dataset.items), "frequency": frequency}

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
      scorer: its predictions over any split.
    """

    stage: Stage
    section: ConfigDict
    data: Placed
    scorer: Scorer


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What a frozen generator gives to fine-tuning.

    Attributes:
      params: the generator's parameters.
      vectors: [N + 1, D] its unit item vectors.
      flow: [D_local, M, T, D], or None where config.flow.cache is off.
    """

    params: Any
    vectors: np.ndarray
    flow: np.ndarray | None


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


def ranker(run: Run) -> Ranker:
    """The configured ranker."""
    data = run.dataset
    return Ranker(
        item_sizes=dict(data.item_sizes),
        user_sizes=dict(data.user_sizes),
        num_scenes=data.num_scenes,
        num_actions=data.num_actions,
        **run.config.ranker,
    )


def validation_plan(run: Run, limit: int = 0) -> ScoringPlan:
    """Validation impressions with online histories."""
    return ScoringPlan(run.dataset, splits.VALIDATION, run.config.eval.batch_size, False, limit)


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
    section = run.config.train
    scorer = Scorer(predict, gather, data, run.parallel)
    stage = make(
        length=run.config.data.history_length,
        plan=plan,
        optimizer=_optimizer(section, plan),
        evaluate=_ranking_evaluator(run, scorer),
        metric=section.metric,
        config=run.config.to_dict(),
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


def build_generator(run: Run) -> Built:
    """Step 2, G_phi."""
    section, model = run.config.pretrain, flow_decoder(run)
    spec, data = generator.FlowLoss(**run.config.flow_loss), run.place()
    # Windows as long as a roll-out's last position: it never leaves the trained distances.
    length = section.context + run.config.flow.horizon
    plan = SequencePlan(run.dataset, _per_device(run, section), length, run.seed)
    predict = functools.partial(generator.rank_next, model)
    gather = functools.partial(generator.gather_next, section.context, section.context)
    scorer = Scorer(predict, gather, data, run.parallel)
    chosen = validation_plan(run, section.eval_rows)

    def evaluate(params, variables):
        return retrieval.summarize(scorer(chosen, params, variables)["rank"])

    stage = generator.make_stage(
        model,
        spec=spec,
        length=length,
        axis_name=AXIS,
        plan=plan,
        optimizer=_optimizer(section, plan),
        evaluate=evaluate,
        metric=section.metric,
        config=run.config.to_dict(),
    )
    return Built(stage, section, data, scorer)


def build_row(run: Run, row: str, frozen: Frozen | None) -> Built:
    """Steps 3 and 4: F_theta with flow, TSP or both, as RANKERS says of the row."""
    use_flow, use_tsp = RANKERS[row]
    config, model, decoder = run.config, ranker(run), None
    settings = dict(config.tsp)
    distances = {k: settings.pop(k) for k in ("min_events", "min_seconds", "max_events")}
    tsp = finetune.PairwiseLoss(**settings | ({} if use_tsp else {"weight": 0.0}))
    require_choice("flow.returned", config.flow.returned, ("add", "init", "none"))
    source = finetune.FlowSource(
        use=use_flow,
        returned=use_flow and config.flow.returned == "add",
        horizon=config.flow.horizon,
        context=0 if config.flow.cache else config.pretrain.context,
    )
    arrays, extra = {"store": run.dataset.stores}, {}
    if use_flow:
        decoder = flow_decoder(run)
        extra = {"returned": frozen.vectors, "generator": frozen.params}
        if frozen.flow is not None:
            arrays["flow"] = frozen.flow
    data = run.parallel.place(arrays, run.frozen | extra, run.on_device)
    size = _per_device(run, config.train)
    plan = ImpressionPlan(run.dataset, size, run.seed, use_tsp, **distances)
    predict = functools.partial(finetune.predict, model, decoder, source)
    gather = finetune.gather_rows(config.data.history_length, source)
    make = functools.partial(finetune.make_stage, row, model, decoder, flow=source, tsp=tsp)
    return _ranking_stage(run, make, plan, data, predict, gather)
