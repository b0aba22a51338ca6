"""The stages of a run in order; each starts from the best checkpoint of the one before.

data -> base ranker -> generator -> flows -> nif, tsp, amen      (configs/nif.py)
data -> base ranker, tokenizer -> semantic IDs -> genci          (configs/genci.py)
all of it -> hybrid                                              (configs/hybrid.py)
the best of them on validation -> selected
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from nif_jax.data import splits
from nif_jax.data.preparation.identity import CONTENT
from nif_jax.data.schema import NO_LABEL, ConfigError
from nif_jax.experiment import selection
from nif_jax.models.baselines.popularity import click_logits
from nif_jax.models.embed import ItemEmbed
from nif_jax.models.flow import unit
from nif_jax.models.transfer import transplant
from nif_jax.stages import flow_cache, tokens
from nif_jax.stages.build import (
    Built,
    build_base,
    build_generator,
    build_tokenizer,
    flow_decoder,
    tokenizer_codes,
)
from nif_jax.stages.build_rows import Frozen, build_row, require_settings
from nif_jax.stages.context import Run
from nif_jax.training import checkpoint, checkpoint_meta, train_state
from nif_jax.training.loop import Settings, Trained, train_and_evaluate
from nif_jax.training.scoring import Scorer, ScoringPlan
from nif_jax.variants import ROWS, SELECTED, require_rows, row_config


@dataclasses.dataclass(frozen=True)
class TrainedStage:
    """A finished stage and how to score with it.

    Attributes:
      name: of its folder; for a ranker, its row.
      trained: its best state.
      scorer: predictions over any split, or None, see Built.
      state: replicated (params, variables).
      generators: see Built.
    """

    name: str
    trained: Trained
    scorer: Scorer | None
    state: tuple[Any, Any]
    generators: Mapping[str, Scorer] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def digest(self) -> str:
        """Of the state that later stages start from or read."""
        return checkpoint_meta.tree_digest(
            {"params": self.trained.params, "variables": self.trained.variables}
        )

    def score(self, plan: ScoringPlan) -> dict[str, np.ndarray]:
        """{name: [R, ...]}, rows as in plan.rows."""
        return self.scorer(plan, *self.state)


def loop_settings(built: Built) -> Settings:
    """What the loop reads of a stage's section of the config.

    Raises:
      ConfigError: the passes that this kind of device is given do not divide its batch.
    """
    section, rows = built.section, built.stage.plan.batch_size
    on_cpu, elsewhere = section.microbatch, section.accelerator_microbatch
    is_cpu = jax.default_backend() == "cpu"
    key, part = ("microbatch", on_cpu) if is_cpu else ("accelerator_microbatch", elsewhere)
    if 0 < part < rows and (part % 2 or rows % part):
        raise ConfigError(
            f"{key}={part} has to be even and to divide the {rows} rows of a device's batch."
        )
    names = [field.name for field in dataclasses.fields(Settings)]
    return Settings(**{name: section[name] for name in names} | {"microbatch": part})


def initial_state(run: Run, built: Built, source: Any = None) -> tuple[Any, Any]:
    """Where a stage starts: config.init_from > copies of `source`'s equal layers > scratch."""
    stage, data = built.stage, built.data
    index = jax.tree.map(lambda x: x[0], stage.plan.indices(0, run.parallel.local_shards[0]))
    if data.on_device:  # gathered there: the host needs one batch, not the store
        arrays = jax.tree.map(lambda x: x.addressable_shards[0].data, data.arrays)
        batch = jax.jit(lambda a, i: stage.gather(jax.tree.map(lambda x: x[0], a), i))(
            arrays, index
        )
    else:
        batch = data.host_gather(stage.gather)(0, index)
    frozen = run.parallel.unreplicate(data.frozen)
    params, variables = stage.init(train_state.key(run.seed), batch, frozen)
    params = jax.tree.map(np.asarray, params)
    if source is not None:
        params, copied, different = transplant(source, params)
        logging.info("%s: %d arrays from the stage before, %d of other shape left alone %s",
                     stage.name, len(copied), len(different), different)  # fmt: skip
    if run.config.init_from:
        like = {"params": params, "variables": variables}
        found = _from_init(run, stage.name, lambda folder: checkpoint.load_best(folder, like))
        if found is None:
            logging.info("%s: not in %s, starts as usual", stage.name, run.config.init_from)
        else:
            params, variables = found["params"], found["variables"]
    return params, variables


def _made_from(run: Run, name: str, reads: Sequence[TrainedStage]) -> dict[str, dict[str, str]]:
    """Digests of what a stage is made from, see Checkpointer."""
    data = dict(run.identity["sha256"])
    if name != "tokenizer" and not getattr(ROWS.get(name), "cohorts", False):
        data.pop(CONTENT, None)
    stages = {stage.name: stage.digest for stage in reads}
    if run.config.init_from:
        other = _from_init(run, name, checkpoint.best_digest)
        stages |= {} if other is None else {"config.init_from": other}
    return {"data": data, "stages": stages}


def _from_init(run: Run, name: str, read: Callable[[pathlib.Path], Any]) -> Any:
    """What `read` makes of the folder that config.init_from has for a stage."""
    try:
        return read(pathlib.Path(run.config.init_from) / f"seed_{run.seed}" / name)
    except checkpoint.DamagedError as error:
        raise checkpoint.CheckpointError(
            f"config.init_from: {error.what} Run the command of that workdir again, which trains "
            "the stage anew, or start without config.init_from."
        ) from error


def train_stage(
    run: Run, built: Built, source: Any = None, reads: Sequence[TrainedStage] = ()
) -> TrainedStage:
    """Trains a stage, or reads it where it is finished.

    Args:
      run: the run.
      built: the stage.
      source: parameters of an earlier stage to copy equal layers from, or None.
      reads: the stages that this one starts from or reads.

    Raises:
      CheckpointError: the run may not train, and the stage is not finished.
    """
    folder = run.folder / built.stage.name
    if not run.train and not checkpoint.is_finished(folder):
        raise checkpoint.CheckpointError(
            f"{folder} holds no finished stage; run with --mode=train first."
        )
    train = functools.partial(
        train_and_evaluate,
        built.stage,
        data=built.data,
        initial=initial_state(run, built, source),
        seed=run.seed,
        settings=loop_settings(built),
        folder=folder,
        made_from=_made_from(run, built.stage.name, reads),
        parallel=run.parallel,
        writer=run.writer,
    )
    try:
        trained = train()
    except checkpoint.DamagedError as error:
        if not run.train:
            raise
        kept = checkpoint.set_aside(folder)
        logging.warning("%s The stage is trained again; what was there is kept in %s.",
                        error.what, kept)  # fmt: skip
        trained = train()
    if "mix" in trained.metrics:
        logging.info("%s: weight of the generator's log odds %.1f", built.stage.name,
                     trained.metrics["mix"])  # fmt: skip
    state = run.parallel.replicate((trained.params, trained.variables))
    return TrainedStage(built.stage.name, trained, built.scorer, state, built.generators)


def compute_flows(run: Run, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """The frozen generator's flow after every history entry, and the past, see flow_cache.py."""
    context = run.config.pretrain.context
    bounds = []
    for rows in run.dataset.shard_rows:
        users = run.dataset.movelines.user[rows[run.dataset.eligible[rows]]]
        _, first = np.unique(users, return_index=True)
        bounds.append(np.append(first, len(users)))
    return flow_cache.compute_flows(
        flow_decoder(run),
        run.parallel.replicate(params),
        run.place(),
        plan=flow_cache.FlowPlan(bounds, max(1, context // 2), batch_size=64),
        context=context,
        horizon=run.config.flow.horizon,
        parallel=run.parallel,
    )


def freeze(run: Run, params: Any) -> Frozen:
    """Computes once what fine-tuning reads again and again."""
    vectors = jax.jit(functools.partial(flow_decoder(run).apply, method="vectors"))(
        {"params": params}, run.items
    )
    flow, past = compute_flows(run, params) if run.config.flow.cache else (None, None)
    return Frozen(params, np.asarray(vectors), flow, past)


def cross_fit(
    run: Run, stages: dict[str, TrainedStage], source: Any, reads: Sequence[TrainedStage] = ()
) -> np.ndarray:
    """[D_local, E] log odds of the answers to train impressions, each by a generator that was
    trained without the row's fold of users.

    What a generator says of answers that it has learned by heart is worth less elsewhere, and a
    ranker that reads it on such rows would trust it too much.
    """
    data, folds = run.dataset, run.config.flow.cross_fit
    plan = ScoringPlan(data, splits.TRAIN, run.config.eval.batch_size)
    fold_of = data.movelines.user[plan.rows] % folds
    found = np.zeros(data.movelines.num_events, np.float32)
    for fold in range(folds):
        built = build_generator(run, (fold, folds))
        stage = stages[built.stage.name] = train_stage(run, built, source, reads)
        response = built.answers(plan, *stage.state)["response"]
        found[plan.rows[fold_of == fold]] = response[fold_of == fold]
    width = data.stores.item.shape[1]
    rows = [data.shard_rows[shard] for shard in run.parallel.local_shards]
    return np.stack([np.pad(found[r], (0, width - len(r))) for r in rows])


def base_vectors(run: Run, base_params: Any) -> np.ndarray:
    """[N + 1, D] unit item vectors of the base ranker, the control of the generator's."""
    model = ItemEmbed(dict(run.dataset.item_sizes), run.config.ranker.dim)
    table = jax.jit(functools.partial(model.apply, method="table"))
    return np.asarray(unit(table({"params": base_params["items"]}, run.items)))


def tokenize(run: Run, stages: dict[str, TrainedStage]) -> Frozen:
    """Semantic IDs of every form that a row asks for; trains the tokenizer if one is to be."""
    configs = [row_config(run.config, row) for row in run.config.rows if ROWS[row].cohorts]
    codes, ids, seen = {}, {}, run.seen_by("tokenizer")
    for form in dict.fromkeys(config.tokenizer.form for config in configs):
        section = run.config.tokenizer
        if form in tokens.TRAINED:
            stages["tokenizer"] = train_stage(run, build_tokenizer(seen))
            found = stages["tokenizer"].trained
            codes[form] = tokenizer_codes(seen, found.params, found.variables)
        else:
            sizes = (section.levels, section.codes)
            codes[form] = tokens.untrained_codes(form, seen.content, *sizes, run.seed)
        beams = max(c.genci.beams for c in configs if c.tokenizer.form == form)
        ids[form] = tokens.semantic_ids(codes[form][1], section.codes, beams)
    return Frozen(codes=codes, ids=ids)


def require_run(run: Run) -> None:
    """Raises ConfigError now for what run_seed could not do."""
    require_rows(run.config)
    selection.require_metrics(run.config)
    require_settings(run)


def run_seed(run: Run) -> tuple[Mapping[str, TrainedStage], Frozen]:
    """Trains every stage that config.rows needs; also returns what the frozen ones gave."""
    config = run.config
    require_run(run)
    # Every row is compared with the base, and the generator starts from it.
    stages = {"base": train_stage(run, build_base(run))}
    base_params, frozen = stages["base"].trained.params, Frozen()
    if any(ROWS[row].cohorts for row in config.rows):
        frozen = tokenize(run, stages)
    if any(ROWS[row].flow for row in config.rows):
        reads = [stages["base"]] if config.pretrain.init == "base" else []
        source = base_params if reads else None
        stages["generator"] = train_stage(run, build_generator(run), source, reads)
        found = freeze(run, stages["generator"].trained.params)
        frozen = dataclasses.replace(found, codes=frozen.codes, ids=frozen.ids)
        if config.flow.cross_fit:
            frozen = dataclasses.replace(frozen, response=cross_fit(run, stages, source, reads))
    for row in config.rows:
        if row not in ("base", SELECTED):
            source = _row_source(run, row, base_params, frozen)
            reads = [stages[name] for name in _row_reads(config, row) if name in stages]
            stages[row] = train_stage(run, build_row(run, row, frozen), source, reads)
    if SELECTED in config.rows:
        stages[SELECTED] = stages[selection.select(config, stages)]
        best = stages[SELECTED].name
        logging.info("selected: %s, by %s on validation", best, config.train.metric)
    return stages, frozen


def _row_source(run: Run, row: str, base_params: Any, frozen: Frozen) -> Any:
    """What a fine-tuned ranker copies equal layers from, by config.init_rows and config.flow.

    Popularity has nothing to learn: it starts from its closed form.
    """
    if ROWS[row].model == "popularity":
        return {"logit": _click_logits(run)}
    source = dict(base_params) if run.config.init_rows == "base" else {}
    if ROWS[row].flow:
        flow = row_config(run.config, row).flow
        if flow.returned == "init":
            source["items"] = frozen.params["items"]
        if flow.tune:
            source["generator"] = frozen.params
    return source or None


def _row_reads(config: ConfigDict, row: str) -> list[str]:
    """Names of the stages that a row starts from or reads."""
    names = ["base"] if config.init_rows == "base" else []
    if ROWS[row].flow:
        folds = config.flow.cross_fit
        names += ["generator", *(f"generator_without_{n}_of_{folds}" for n in range(folds))]
    if ROWS[row].cohorts and row_config(config, row).tokenizer.form in tokens.TRAINED:
        names.append("tokenizer")
    return names


def _click_logits(run: Run) -> np.ndarray:
    """[N + 1] popularity of the items among the train impressions."""
    lines = run.dataset.movelines
    rows = (run.dataset.split == splits.TRAIN) & (lines.label != NO_LABEL)
    prior = run.config.baselines.prior
    return click_logits(lines.item[rows], lines.label[rows], lines.num_items, prior)
