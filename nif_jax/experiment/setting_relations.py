"""Relations between keys of a config, each checked before a run starts (settings.py)."""

from ml_collections import ConfigDict

from nif_jax.config import flatten
from nif_jax.data.schema import ConfigError, require_choice
from nif_jax.data.splits import period_column, require_split
from nif_jax.experiment.selection import METRICS
from nif_jax.variants import Variant


def require_variant_relations(config: ConfigDict, variant: Variant) -> None:
    """Raises ConfigError where keys that a variant uses contradict each other."""
    _require_flow_shapes(config, variant)
    _require_pairs(config, variant)
    _require_cohort_shapes(config, variant)
    if variant.model == "sasrec":
        _require_multiple(config, "ranker.dim", "baselines.encoder_heads", 2)
    if variant.model == "hstu":
        _require_multiple(config, "ranker.dim", "baselines.encoder_heads")
    if variant.model in ("counters", "lightgbm") and config.ranker.statistics == "none":
        raise ConfigError(
            f"variant {variant.model!r} is made of count features, which config.ranker.statistics="
            "'none' leaves out: use 'all' or 'labelled', or leave the variant out."
        )


def require_relations(config: ConfigDict) -> None:
    """Raises ConfigError where keys that every run uses contradict each other."""
    for section in METRICS:
        if section in config and config[section].learning_rate == 0 < config[section].epochs:
            raise ConfigError(
                f"config.{section}.learning_rate=0.0 is out of range: a positive number, or 0 "
                f"with epochs=0 (here {config[section].epochs})."
            )
    data = config.data
    require_split(data.split, data.time_zone)
    if period_column(data.split) and data.source not in ("files", "tfds"):
        raise ConfigError(
            f"config.data.split={data.split!r} reads a column of the events file, which "
            f"config.data.source={data.source!r} does not have: use the source 'files', or another "
            "split."
        )
    if data.train_share + data.validation_share >= 1:
        raise ConfigError(
            f"config.data.train_share={data.train_share} and config.data.validation_share="
            f"{data.validation_share} leave no share for test: their sum has to be below 1."
        )
    require_choice("ab.reference", config.ab.reference or config.rows[0], config.rows)


def _require_multiple(config: ConfigDict, dim: str, heads: str, times: int = 1) -> None:
    """Raises ConfigError unless a width is a multiple of `times` x heads.

    It is 2 where each head rotates pairs of numbers by their position.
    """
    flat = flatten(config.to_dict())
    if flat[dim] % (times * flat[heads]):
        factor = f"{times} x " if times > 1 else ""
        raise ConfigError(
            f"config.{dim}={flat[dim]} has to be a multiple of {factor}config.{heads}="
            f"{flat[heads]}."
        )


def _require_flow_shapes(config: ConfigDict, variant: Variant) -> None:
    if not variant.flow:
        return
    _require_multiple(config, "generator.dim", "generator.heads", 2)
    _require_multiple(config, "ranker.dim", "ranker.align_heads")
    if config.flow_loss.negatives == "uniform" and not config.flow_loss.uniform:
        raise ConfigError(
            "config.flow_loss.uniform=0 leaves config.flow_loss.negatives='uniform' without "
            "negatives: give 1 or more."
        )
    if config.flow.generator_item_emb == "init" and config.generator.dim != config.ranker.dim:
        raise ConfigError(
            f"config.flow.generator_item_emb='init' copies item vectors, so config.generator.dim="
            f"{config.generator.dim} and config.ranker.dim={config.ranker.dim} have to be equal; "
            "config.flow.generator_item_emb='add' projects them."
        )


def _require_pairs(config: ConfigDict, variant: Variant) -> None:
    if not variant.tsp:
        return
    tsp = config.tsp
    if tsp.score == "logit" and tsp.moveline == "positive":
        raise ConfigError(
            "config.tsp.moveline='positive' goes with config.tsp.score='calibration' only: the "
            "logit of the negative would need a second pass with the positive's moveline."
        )
    if 0 < tsp.max_events < tsp.min_events:
        raise ConfigError(
            f"config.tsp.max_events={tsp.max_events} is below config.tsp.min_events="
            f"{tsp.min_events}, which leaves no pairs: raise it, or give 0 for no bound."
        )


def _require_cohort_shapes(config: ConfigDict, variant: Variant) -> None:
    if not variant.cohorts:
        return
    if config.cohorts.levels > config.tokenizer.levels:
        raise ConfigError(
            f"config.cohorts.levels={config.cohorts.levels} is more than config.tokenizer.levels="
            f"{config.tokenizer.levels}; 0 takes all levels."
        )
    _require_multiple(config, "ranker.dim", "cohorts.heads")
    if config.intent.head_dim % 2:
        raise ConfigError(
            f"config.intent.head_dim={config.intent.head_dim} has to be even, because each head "
            "rotates pairs of numbers by their position; 0 gives dim / heads."
        )
    if not config.intent.head_dim:
        _require_multiple(config, "intent.dim", "intent.heads", 2)
