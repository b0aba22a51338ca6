"""The stages of a run in order; each starts from the best checkpoint of the one before.

data -> base ranker -> generator -> flows -> nif, tsp, amen ...  (configs/nif.py)
data -> base ranker, tokenizer -> semantic IDs -> genci          (configs/genci.py)
all of it -> hybrid                                              (configs/hybrid.py)
the best of them on validation -> selected
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from nif_jax.data import splits
from nif_jax.experiment import selection
from nif_jax.experiment.start import initial_state, made_from
from nif_jax.stages import base, finetune, generator, tokenizer, tokens
from nif_jax.stages.checks import require_settings
from nif_jax.stages.context import Context
from nif_jax.stages.fitted import fit_baseline
from nif_jax.stages.flow_cache import generator_outputs
from nif_jax.stages.outputs import GeneratorOutputs
from nif_jax.stages.ranking import calibrated, warn_below_chance
from nif_jax.training import checkpoint
from nif_jax.training.loop import train_and_evaluate
from nif_jax.training.scoring import ScoringPlan
from nif_jax.training.stage import Stage, Trained
from nif_jax.variants import SELECTED, VARIANTS, require_variants, variant_config


def train_stage(
    run: Context, stage: Stage, source: Any = None, reads: Sequence[Trained] = ()
) -> Trained:
    """Trains a stage, or reads it where it is finished.

    Args:
      run: the run.
      stage: what to train.
      source: parameters of an earlier stage to copy equal layers from, or None.
      reads: the stages that this one starts from or reads.

    Raises:
      CheckpointError: the run may not train, and the stage is not finished.
    """
    folder = run.folder / stage.name
    if not run.train and not checkpoint.is_finished(folder):
        raise checkpoint.CheckpointError(
            f"{folder} holds no finished stage; run with --mode=train first."
        )
    train = functools.partial(
        train_and_evaluate,
        stage,
        initial=initial_state(run, stage, source),
        seed=run.seed,
        folder=folder,
        made_from=made_from(run, stage.name, reads),
        parallel=run.parallel,
        writer=run.writer,
        profiler=run.profiler,
    )
    try:
        trained = train()
    except checkpoint.DamagedError as error:
        if not run.train:
            raise
        kept = checkpoint.set_aside(folder)
        logging.warning(
            "%s The stage is trained again; what was there is kept in %s.", error.what, kept
        )
        trained = train()
    if "blend_weight" in trained.metrics:
        logging.info(
            "%s: weight of the label head's log odds %.1f",
            stage.name,
            trained.metrics["blend_weight"],
        )
    if stage.name not in VARIANTS:
        return trained
    warn_below_chance(run, {stage.name: trained.metrics.get("auc")}, "validation")
    return calibrated(run, trained)


def cross_fit(
    run: Context, stages: dict[str, Trained], source: Any, reads: Sequence[Trained] = ()
) -> np.ndarray:
    """[D_local, E] log odds of the labels of train impressions, each by a generator that was
    trained without the row's fold of users.

    A generator memorises the labels that it is trained on: a ranker that reads its log odds on such
    rows would give them too much weight elsewhere.
    """
    data, folds = run.dataset, run.config.flow.cross_fit
    plan = ScoringPlan(data, splits.TRAIN, run.scoring_rows)
    fold_of = data.movelines.user[plan.rows] % folds
    found = np.zeros(data.movelines.num_events, np.float32)
    for fold in range(folds):
        stage = train_stage(run, generator.make(run, (fold, folds)), source, reads)
        stages[stage.name] = stage
        label_logit = stage.score(plan, "labels")["label_logit"]
        found[plan.rows[fold_of == fold]] = label_logit[fold_of == fold]
    width = data.stores.item.shape[1]
    rows = [data.shard_rows[shard] for shard in run.parallel.local_shards]
    return np.stack([np.pad(found[r], (0, width - len(r))) for r in rows])


def tokenize(run: Context, stages: dict[str, Trained]) -> GeneratorOutputs:
    """Semantic IDs of every form that a variant uses; trains the tokenizer if one is needed."""
    configs = [
        variant_config(run.config, name) for name in run.config.rows if VARIANTS[name].cohorts
    ]
    codes, ids, own = {}, {}, run.for_stage("tokenizer")
    for form in dict.fromkeys(config.tokenizer.form for config in configs):
        section = run.config.tokenizer
        if form in tokens.TRAINED:
            stages["tokenizer"] = train_stage(run, tokenizer.make(run))
            found = stages["tokenizer"]
            codes[form] = tokenizer.codes_of(
                tokenizer.rq_vae(own), found.params, found.variables, own.content
            )
        else:
            sizes = (section.levels, section.codes)
            codes[form] = tokens.untrained_codes(form, own.content, *sizes, run.seed)
        beams = max(c.genci.beams for c in configs if c.tokenizer.form == form)
        ids[form] = tokens.semantic_ids(codes[form][1], section.codes, beams)
    return GeneratorOutputs(codes=codes, ids=ids)


def require_run(run: Context) -> None:
    """Raises ConfigError now for what run_seed could not do."""
    require_variants(run.config)
    selection.require_metrics(run.config)
    require_settings(run)


def run_seed(run: Context) -> tuple[Mapping[str, Trained], GeneratorOutputs]:
    """Trains every stage that config.rows needs; also returns what the generators gave."""
    config = run.config
    require_run(run)
    # Every variant is compared with the base, and the generator starts from it.
    stages = {"base": train_stage(run, base.make(run))}
    base_params, outputs = stages["base"].params, GeneratorOutputs()
    if any(VARIANTS[name].cohorts for name in config.rows):
        outputs = tokenize(run, stages)
    if any(VARIANTS[name].flow for name in config.rows):
        reads = [stages["base"]] if config.pretrain.init == "base" else []
        source = base_params if reads else None
        stages["generator"] = train_stage(run, generator.make(run), source, reads)
        found = generator_outputs(run, stages["generator"].params)
        outputs = dataclasses.replace(found, codes=outputs.codes, ids=outputs.ids)
        if config.flow.cross_fit:
            label_logit = cross_fit(run, stages, source, reads)
            outputs = dataclasses.replace(outputs, label_logit=label_logit)
    for name in config.rows:
        if name not in ("base", SELECTED):
            source = _source(run, name, base_params, outputs)
            reads = [stages[stage] for stage in _reads(config, name) if stage in stages]
            stages[name] = train_stage(run, finetune.make(run, name, outputs), source, reads)
    if SELECTED in config.rows:
        stages[SELECTED] = stages[selection.select(config, stages)]
        best = stages[SELECTED].name
        logging.info("selected: %s, by %s on validation", best, config.train.metric)
    return stages, outputs


def _source(run: Context, name: str, base_params: Any, outputs: GeneratorOutputs) -> Any:
    """What a fine-tuned ranker copies equal layers from, by config.init_rows and config.flow.

    A baseline that is not trained by gradients starts from what it was fitted to.
    """
    fitted = fit_baseline(run, name) if run.train else None
    if fitted is not None:
        return fitted
    source = dict(base_params) if run.config.init_rows == "base" else {}
    if VARIANTS[name].flow:
        flow = variant_config(run.config, name).flow
        if flow.generator_item_emb == "init":
            source["items"] = outputs.params["items"]
        if flow.tune:
            source["generator"] = outputs.params
    return source or None


def _reads(config: ConfigDict, name: str) -> list[str]:
    """Names of the stages that a variant starts from or reads."""
    names = ["base"] if config.init_rows == "base" else []
    if VARIANTS[name].flow:
        folds = config.flow.cross_fit
        names += ["generator", *(f"generator_without_{n}_of_{folds}" for n in range(folds))]
    if VARIANTS[name].cohorts and variant_config(config, name).tokenizer.form in tokens.TRAINED:
        names.append("tokenizer")
    return names
