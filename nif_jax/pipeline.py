"""The stages of a run in order; each starts from the best checkpoint of the one before.

data -> base ranker -> generator -> flows -> nif, tsp, amen      (configs/nif.py)
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from nif_jax import checkpoint, flows, optim, train_state
from nif_jax.data import splits
from nif_jax.data.cache import load_movelines
from nif_jax.data.dataset import Dataset, build_dataset
from nif_jax.data.sampling import ImpressionPlan, SequencePlan
from nif_jax.data.schema import ConfigError, require_choice
from nif_jax.metrics import ctr, retrieval
from nif_jax.metrics.writer import MetricWriter
from nif_jax.models.embed import ItemEmbed
from nif_jax.models.flow import FlowDecoder, unit
from nif_jax.models.ranker import Ranker
from nif_jax.models.transfer import transplant
from nif_jax.parallel import AXIS, Placed, Pmap
from nif_jax.scoring import Scorer, ScoringPlan
from nif_jax.stages import base, finetune, generator
from nif_jax.stages.interface import Stage
from nif_jax.train import Settings, Trained, train_and_evaluate

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
class TrainedStage:
    """A finished stage and how to score with it.

    Attributes:
      trained: its best state.
      scorer: predictions over any split.
      state: replicated (params, variables).
    """

    trained: Trained
    scorer: Scorer
    state: tuple[Any, Any]

    def score(self, plan: ScoringPlan) -> dict[str, np.ndarray]:
        """{name: [R, ...]}, rows as in plan.rows."""
        return self.scorer(plan, *self.state)


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


def _settings(section: ConfigDict, rows: int) -> Settings:
    if (section.microbatch and min(section.microbatch, rows) % 2) or rows % max(
        section.microbatch, 1
    ):
        if section.microbatch < rows:
            raise ConfigError(
                f"microbatch={section.microbatch} has to be even and to divide the {rows} rows of "
                "a device's batch."
            )
    names = [field.name for field in dataclasses.fields(Settings)]
    return Settings(**{name: section[name] for name in names})


def _optimizer(section: ConfigDict, plan: Any):
    return optim.make_optimizer(
        learning_rate=section.learning_rate,
        total_steps=int(section.epochs * plan.steps_per_epoch),
        warmup_steps=section.warmup_steps,
        decay=section.decay,
        weight_decay=section.weight_decay,
        clip_norm=section.clip_norm,
    )


def _initial(run: Run, stage: Stage, data: Placed, source: Any, skip: tuple[str, ...] = ()):
    """Where a stage starts: config.init_from > copies of `source`'s equal layers > scratch."""
    shard = run.parallel.local_shards[0]
    index = jax.tree.map(lambda x: x[0], stage.plan.indices(0, shard))
    arrays = jax.tree.map(lambda x: np.asarray(x[0]), data.arrays)
    frozen = jax.tree.map(lambda x: x[0], data.frozen)
    # Two rows are enough to tell shapes.
    batch = jax.tree.map(lambda x: x[:2], stage.gather(arrays, index))
    params, variables = stage.init(train_state.key(run.seed), batch, frozen)
    params = jax.tree.map(np.asarray, params)
    if source is not None:
        params, copied, different = transplant(source, params)
        logging.info("%s: %d arrays from the stage before, %d of other shape left alone %s",
                     stage.name, len(copied), len(different), different)  # fmt: skip
    if run.config.init_from:
        folder = pathlib.Path(run.config.init_from) / f"seed_{run.seed}" / stage.name
        found = checkpoint.load_best(folder, {"params": params, "variables": variables})
        if found is not None:
            params, variables = found["params"], found["variables"]
    return params, variables


def _train(run: Run, stage: Stage, data: Placed, scorer: Scorer, section, source) -> TrainedStage:
    rows = stage.plan.batch_size
    folder = run.folder / stage.name
    if not run.train and not checkpoint.is_finished(folder):
        raise checkpoint.CheckpointError(
            f"{folder} holds no finished stage; run with --mode=train first."
        )
    trained = train_and_evaluate(
        stage,
        data=data,
        initial=_initial(run, stage, data, source),
        seed=run.seed,
        settings=_settings(section, rows),
        folder=folder,
        parallel=run.parallel,
        writer=run.writer,
    )
    state = run.parallel.replicate((trained.params, trained.variables))
    return TrainedStage(trained, scorer, state)


def _ranker(run: Run) -> Ranker:
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


def train_base(run: Run) -> TrainedStage:
    """Step 1, F_0."""
    section, model, length = run.config.train, _ranker(run), run.config.data.history_length
    data = run.place()
    plan = ImpressionPlan(run.dataset, _per_device(run, section), run.seed)
    predict = functools.partial(base.predict, model)
    scorer = Scorer(predict, base.gather_rows(length), data, run.parallel)
    stage = base.make_stage(
        model,
        length=length,
        plan=plan,
        optimizer=_optimizer(section, plan),
        evaluate=_ranking_evaluator(run, scorer),
        metric=section.metric,
        config=run.config.to_dict(),
    )
    return _train(run, stage, data, scorer, section, None)


def flow_decoder(run: Run) -> FlowDecoder:
    """The configured generator."""
    data = run.dataset
    return FlowDecoder(
        item_sizes=dict(data.item_sizes),
        num_scenes=data.num_scenes,
        num_actions=data.num_actions,
        **run.config.generator,
    )


def train_generator(run: Run, base_params: Any) -> TrainedStage:
    """Step 2, G_phi, starting from F_0's equal layers unless config.pretrain.init says no."""
    section, model = run.config.pretrain, flow_decoder(run)
    require_choice("pretrain.init", section.init, ("base", "scratch"))
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
    return _train(
        run, stage, data, scorer, section, base_params if section.init == "base" else None
    )


def compute_flows(run: Run, params: Any) -> np.ndarray:
    """[D_local, M, T, D] the frozen generator's flow after every history entry."""
    context = run.config.pretrain.context
    bounds = []
    for rows in run.dataset.shard_rows:
        users = run.dataset.movelines.user[rows[run.dataset.eligible[rows]]]
        _, first = np.unique(users, return_index=True)
        bounds.append(np.append(first, len(users)))
    return flows.compute_flows(
        flow_decoder(run),
        run.parallel.replicate(params),
        run.place(),
        plan=flows.FlowPlan(bounds, max(1, context // 2), batch_size=64),
        context=context,
        horizon=run.config.flow.horizon,
        parallel=run.parallel,
    )


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


def freeze(run: Run, trained: Trained) -> Frozen:
    """Computes once what fine-tuning reads again and again."""
    vectors = jax.jit(functools.partial(flow_decoder(run).apply, method="vectors"))(
        {"params": trained.params}, run.frozen["items"]
    )
    flow = compute_flows(run, trained.params) if run.config.flow.cache else None
    return Frozen(trained.params, np.asarray(vectors), flow)


def train_row(run: Run, row: str, base_params: Any, frozen: Frozen | None) -> TrainedStage:
    """Steps 3 and 4: F_theta with flow, TSP or both, as RANKERS says of the row."""
    use_flow, use_tsp = RANKERS[row]
    config, section, model = run.config, run.config.train, _ranker(run)
    tsp_settings = dict(config.tsp)
    distances = {k: tsp_settings.pop(k) for k in ("min_events", "min_seconds", "max_events")}
    tsp = finetune.PairwiseLoss(**tsp_settings | ({} if use_tsp else {"weight": 0.0}))
    require_choice("flow.returned", config.flow.returned, ("add", "init", "none"))
    require_choice("flow.init", config.flow.init, ("scratch", "base"))
    source = finetune.FlowSource(
        use=use_flow,
        returned=use_flow and config.flow.returned == "add",
        horizon=config.flow.horizon,
        context=0 if config.flow.cache else config.pretrain.context,
    )
    arrays, extra, decoder = {"store": run.dataset.stores}, {}, None
    if use_flow:
        decoder = flow_decoder(run)
        extra = {"returned": frozen.vectors, "generator": frozen.params}
        if frozen.flow is not None:
            arrays["flow"] = frozen.flow
    data = run.parallel.place(arrays, run.frozen | extra, run.on_device)
    plan = ImpressionPlan(run.dataset, _per_device(run, section), run.seed, use_tsp, **distances)
    length = config.data.history_length
    predict = functools.partial(finetune.predict, model, decoder, source)
    scorer = Scorer(predict, finetune.gather_rows(length, source), data, run.parallel)
    stage = finetune.make_stage(
        row,
        model,
        decoder,
        flow=source,
        tsp=tsp,
        length=length,
        plan=plan,
        optimizer=_optimizer(section, plan),
        evaluate=_ranking_evaluator(run, scorer),
        metric=section.metric,
        config=config.to_dict(),
    )
    start = base_params if config.flow.init == "base" else None
    if use_flow and config.flow.returned == "init":
        start = (start or {}) | {"items": frozen.params["items"]}
    return _train(run, stage, data, scorer, section, start)


def base_vectors(run: Run, base_params: Any) -> np.ndarray:
    """[N + 1, D] unit item vectors of the base ranker, the control of the generator's."""
    model = ItemEmbed(dict(run.dataset.item_sizes), run.config.ranker.dim)
    table = jax.jit(functools.partial(model.apply, method="table"))
    return np.asarray(unit(table({"params": base_params["items"]}, run.frozen["items"])))


def run_seed(run: Run) -> tuple[Mapping[str, TrainedStage], Frozen | None]:
    """Trains every stage that config.rows needs; also returns what the frozen generator gave."""
    for row in run.config.rows:
        require_choice("rows", row, RANKERS)
    # Every row is compared with the base, and the generator starts from it.
    stages = {"base": train_base(run)}
    base_params, frozen = stages["base"].trained.params, None
    if any(RANKERS[row][0] for row in run.config.rows):
        stages["generator"] = train_generator(run, base_params)
        frozen = freeze(run, stages["generator"].trained)
    for row in run.config.rows:
        if row != "base":
            stages[row] = train_row(run, row, base_params, frozen)
    return stages, frozen
