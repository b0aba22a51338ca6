"""The valid values of every key of a config.

`require_valid_settings` runs before a run touches its workdir or reads data. Relations between
keys, and the forms of data.split, are in setting_relations.py. Two kinds of checks are elsewhere
and run before training: those that need the data or the devices (nif_jax/stages/checks.py), and the
ranges of `source.*`, which each source of nif_jax/data/sources has for its own options. Its text is
free, and its numbers have to be finite.
"""

import math
import re
from collections.abc import Mapping

from ml_collections import ConfigDict

from nif_jax.config import flatten
from nif_jax.data.schema import ConfigError, require_choice
from nif_jax.data.sources import SOURCES
from nif_jax.experiment.selection import METRICS
from nif_jax.experiment.setting_kinds import (
    TRAINING,
    Choice,
    Setting,
    Several,
    at_least,
    between,
    boolean,
    dropout,
    even,
    id_dropout,
    one_of,
    positive,
    positive_share,
    rules,
    seed,
    share,
    text,
    whole,
    widths,
)
from nif_jax.experiment.setting_relations import require_relations, require_variant_relations
from nif_jax.variants import LABEL_HEADS, VARIANTS, require_variants, variant_config

SETTINGS: Mapping[str, Setting] = {
    **{f"{section}.{key}": setting for section in METRICS for key, setting in TRAINING.items()},
    **{f"{section}.metric": one_of(*names) for section, names in METRICS.items()},
    "train.min_steps": whole(0),
    "train.sparse_rows": whole(0),
    "pretrain.init": one_of("base", "scratch"),
    "pretrain.context": whole(1),
    "pretrain.eval_rows": whole(0),
    "pretrain.sparse_rows": whole(0),
    "seed": seed,
    "num_seeds": whole(1),
    "rows": Several(one_of(*VARIANTS)),
    "init_from": text,
    "init_rows": one_of("scratch", "base"),
    "xla_flags": text,
    "parallel": one_of("pmap", "mesh"),
    "mesh.data": whole(0),
    "mesh.model": whole(0),
    "mesh.rules": rules,
    "compute_dtype": one_of("float32", "bfloat16"),
    "quirks": boolean,
    "data.source": one_of(*SOURCES),
    "data.split": text,
    "data.time_zone": text,
    "data.duplicates": one_of("drop", "keep"),
    "data.train_share": between(0, 1, open_low=True, open_high=True),
    "data.validation_share": between(0, 1, open_low=True, open_high=True),
    "data.history": one_of("all", "positive"),
    "data.ties": one_of("order", "exclude"),
    "data.label_share": positive_share,
    "data.label_scenes": text,
    "data.negatives": whole(0),
    "data.negatives_exclude": one_of("user", "basket"),
    "data.negatives_days": at_least(0),
    "data.history_length": whole(1),
    "data.input": one_of("auto", "device", "host"),
    "data.device_bytes": whole(0),
    "data.fixed_shapes": boolean,
    "data.cache_dir": text,
    "data.seed": seed,
    "ranker.dim": whole(1),
    "ranker.attention": widths,
    "ranker.tower": widths,
    "ranker.dropout": dropout,
    "ranker.id_dropout": id_dropout,
    "ranker.statistics": one_of("all", "labelled", "none"),
    "ranker.statistics_widths": Several(whole(1), fewest=0),
    "ranker.align_heads": whole(1),
    "ranker.align_dropout": dropout,
    "ranker.calibration": whole(1),
    "baselines.prior": positive,
    "baselines.num_trees": whole(1),
    "baselines.leaves": whole(2),
    "baselines.factors": whole(1),
    "baselines.cross_layers": whole(0),
    "baselines.encoder_layers": whole(0),
    "baselines.encoder_heads": whole(1),
    "baselines.encoder_dropout": dropout,
    "eval.batch_size": even,
    "eval.accelerator_batch_size": even,
    "eval.resample_unit": one_of("user", "impression"),
    "eval.resamples": whole(1),
    "eval.beams": whole(1),
    "ab.reference": text,
    "ab.slate": whole(1),
    "ab.impressions": whole(1),
    "ab.resamples": whole(1),
    "ab.seed": seed,
    "daily.first_days": whole(1),
    "daily.replay_days": whole(1),
    "daily.epochs_share": positive,
    "daily.learning_rate_share": positive,
    "generator.dim": whole(2),
    "generator.heads": whole(1),
    "generator.layers": whole(1),
    "generator.mlp_ratio": whole(1),
    "generator.dropout": dropout,
    "generator.id_dropout": id_dropout,
    "generator.context_dropout": share,
    "generator.flow": one_of("heads", "mixed"),
    "generator.label_head": whole(1),
    "flow_loss.temperature": positive,
    "flow_loss.negatives": one_of("exact", "in_batch", "uniform"),
    "flow_loss.uniform": whole(0),
    "flow_loss.targets": one_of("all", "positive"),
    "flow_loss.alpha": at_least(0),
    "flow_loss.diversity": one_of("scores", "cosine", "tangent"),
    "flow_loss.diversity_items": whole(2),
    "flow_loss.beta": at_least(0),
    "flow_loss.velocity": one_of("geodesic", "chord"),
    "flow_loss.half_life": positive,
    "flow_loss.velocity_starts": whole(0),
    "flow_loss.rollout_steps": whole(0),
    "flow_loss.label_head": at_least(0),
    "flow_loss.label_gradient": one_of("head", "generator"),
    "flow.horizon": whole(1),
    "flow.cache": boolean,
    "flow.cache_dtype": one_of("float32", "bfloat16"),
    "flow.cache_bytes": whole(0),
    "flow.tune": boolean,
    "flow.generator_item_emb": one_of("add", "init", "none"),
    "flow.label_head": one_of(*LABEL_HEADS),
    "flow.cross_fit": whole(0),
    "tsp.weight": at_least(0),
    "tsp.margin": at_least(0),
    "tsp.score": one_of("calibration", "logit"),
    "tsp.moveline": one_of("own", "positive"),
    "tsp.min_events": whole(1),
    "tsp.min_seconds": whole(0),
    "tsp.max_events": whole(0),
    "content.source": one_of("tfidf", "text", "file", "cooccurrence"),
    "content.path": text,
    "content.dim": whole(1),
    "tokenizer.form": one_of("ema", "straight_through", "kmeans", "random"),
    "tokenizer.levels": whole(1),
    "tokenizer.codes": whole(2),
    "tokenizer.dim": whole(1),
    "tokenizer.hidden": Several(whole(1), fewest=0),
    "tokenizer.commitment": at_least(0),
    "tokenizer.decay": share,
    "tokenizer.dead_share": share,
    "intent.dim": whole(1),
    "intent.heads": whole(1),
    "intent.head_dim": whole(0),
    "intent.hidden": whole(1),
    "intent.encoder_layers": whole(0),
    "intent.decoder_layers": whole(1),
    "intent.dropout": dropout,
    "intent.history": one_of("item", "flat"),
    "cohorts.heads": whole(1),
    "cohorts.levels": whole(0),
    "cohorts.dropout": dropout,
    "cohorts.form": one_of("prefix", "level"),
    "cohorts.mean": one_of("members", "padded"),
    "cohorts.attention": one_of("separate", "shared"),
    "cohorts.residual": boolean,
    "genci.beams": whole(0),
    "genci.refresh": whole(1),
    "genci.gamma": at_least(0),
    "genci.delta": at_least(0),
    "genci.delta_fade": share,
    "genci.targets": one_of("positive", "all"),
    "genci.detach": boolean,
    "genci.side": Several(whole(1), fewest=0),
    "genci.side_dropout": dropout,
}

OF_COHORTS = frozenset({"eval.beams", "quirks"})
"""Keys that a config without the section `genci` has not."""


def require_valid_settings(config: ConfigDict) -> None:
    """Raises ConfigError for the first setting that is out of range or contradicts another one.

    Args:
      config: of the run; each variant is checked with its own settings (nif_jax/variants.py) too.
    """
    _require_ranges(config)
    require_variants(config)
    require_relations(config)
    for name in dict.fromkeys(config.rows):
        own = variant_config(config, name)
        if own is not config:
            _require_ranges(own)
        require_variant_relations(own, VARIANTS[name])


def _require_ranges(config: ConfigDict) -> None:
    for key, value in flatten(config.to_dict()).items():
        setting = SETTINGS.get(key)
        if setting is None:
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"config.{key}={value!r} is out of range: a finite number")
            continue
        values = tuple(value) if isinstance(value, list) else value
        if key == "rows":
            _require_variant_names(values)
        if isinstance(setting, Choice):
            require_choice(key, value, setting.choices)
        if not setting.accepts(value):
            raise ConfigError(f"config.{key}={values!r} is out of range: {setting.description}")


def _require_variant_names(names: tuple) -> None:
    """Raises ConfigError, naming the form of a flag for several variants."""
    if not any(names):
        raise ConfigError(
            f"config.rows={names!r} is out of range: one or more variants, such as "
            "--config.rows=base."
        )
    for name in names:
        if isinstance(name, str) and ("," in name or "+" in name):
            several = " ".join(f"--config.rows={one}" for one in re.split("[,+]", name))
            raise ConfigError(
                f"config.rows={name!r} is no variant. Repeat the flag for several: {several}"
            )
        require_choice("rows", name, VARIANTS)
