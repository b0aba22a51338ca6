"""Checks of settings that need the data or the devices; all run before anything is trained."""

import dataclasses
import pathlib

import numpy as np

from nif_jax.data import splits
from nif_jax.data.schema import NO_LABEL, ConfigError
from nif_jax.data.vocabulary import read_values, row_values
from nif_jax.models.quantizer import require_codes
from nif_jax.stages import tokens
from nif_jax.stages.context import Context
from nif_jax.stages.step_counts import require_passes
from nif_jax.variants import VARIANTS, variant_config


def require_settings(run: Context) -> None:
    """Raises ConfigError now for what could not be built when the stages before it have trained."""
    if run.config.init_from:
        seed = pathlib.Path(run.config.init_from) / f"seed_{run.seed}"
        if not seed.is_dir():
            raise ConfigError(
                f"config.init_from: there is no {seed}; give the workdir of a run with that seed."
            )
        if any(VARIANTS[name].cohorts for name in run.config.rows):
            _require_same_catalogue(run)
    _require_classes(run)
    require_passes(run, "train")
    for name in run.config.rows:
        variant, config = VARIANTS[name], variant_config(run.config, name)
        if variant.flow:
            require_passes(run, "pretrain")
            _require_labels(dataclasses.replace(run, config=config))
        if variant.cohorts:
            items, form = run.dataset.movelines.num_items, config.tokenizer.form
            if form in tokens.TRAINED:
                require_passes(run, "tokenize")
            if form != "random":
                require_codes(config.tokenizer.codes, items)
            _ = run.for_stage("tokenizer").content  # raises where items have none
            tokens.require_beams(config.genci.beams, items)


def _require_same_catalogue(run: Context) -> None:
    """Raises ConfigError where semantic IDs of config.init_from would mean something else.

    They are codes of content vectors, whose axes are fitted to the catalogue.
    """
    here, there = row_values(run.dataset), read_values(run.config.init_from)
    for name in (key for key in here if key.startswith("item/")):
        if list(here[name]) != list(there.get(name, ())):
            raise ConfigError(
                f"config.init_from: {run.config.init_from} has other values of {name} than this "
                "run, so the content vectors of its items have other axes, and its semantic IDs "
                "cannot be kept: leave GenCI and the hybrid out of config.rows, or start without "
                "config.init_from."
            )


def _require_classes(run: Context) -> None:
    """Raises ConfigError where validation has no AUC to select by."""
    data, metric = run.dataset, run.config.train.metric
    found = np.flatnonzero(data.num_labels[splits.VALIDATION]).tolist()
    if len(found) < 2:
        raise ConfigError(
            f"{data.movelines.name}: impressions of the validation period have the labels {found} "
            f"only, so config.train.metric={metric} cannot choose a step. Sample negatives of a "
            "log of positives (--config.data.negatives=1), or use another split or share."
        )


def _require_labels(run: Context) -> None:
    """Raises ConfigError where the variant uses a label head that is trained on labels of one
    value."""
    if run.config.flow.label_head == "none":
        return
    data = run.dataset
    learned = (data.split == splits.TRAIN) & (data.eligible | data.sampled)
    known = np.unique(data.event_label[learned & (data.event_label != NO_LABEL)])
    if len(known) < 2:
        raise ConfigError(
            f"{data.movelines.name}: events that histories hold have the labels {known.tolist()} "
            "only (data.history=positive has no others) and no negatives are sampled, so there is "
            "nothing for the generator's label head to learn. Leave it out: "
            "--config.flow.label_head=none, and config.rows without nif_labels and amen_labels."
        )
