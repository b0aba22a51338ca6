"""The variants that a run compares, which are the rows of its tables."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from nif_jax.data.schema import ConfigError, require_choice


@dataclasses.dataclass(frozen=True)
class Variant:
    """Attributes:
    model: "ranker", ours, a module of nif_jax/models/baselines, or SELECTED.
    flow: the frozen generator's flow and item vectors.
    tsp: the Temporal Sequential Pairwise loss.
    cohorts: generated interest cohorts.
    settings: keys of the config that this variant changes.
    against: variants that it is compared with beside the base: its parts, or what it changes.
    package: an optional dependency without which the variant is left out.
    """

    model: str = "ranker"
    flow: bool = False
    tsp: bool = False
    cohorts: bool = False
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    against: tuple[str, ...] = ()
    package: str = ""

    def __post_init__(self):
        if self.model != "ranker" and (self.flow or self.cohorts):
            raise ValueError(f"{self.model!r} attends to neither flow nor cohorts; 'ranker' does.")


QUIRKS = {
    "genci.targets": "all",
    "genci.beams": 1,
    "genci.detach": False,
    "genci.delta_fade": 0.0,
    "cohorts.form": "level",
    "cohorts.mean": "padded",
    "cohorts.attention": "shared",
    "cohorts.residual": False,
}
"""How the authors' GenCI code differs from a careful reading of their paper (method.md, 2)."""


def _genci(**settings: Any) -> Variant:
    settings = {k.replace("__", "."): v for k, v in settings.items()}
    return Variant(cohorts=True, settings=settings, against=("genci",))


# Weights of its own for each id have far to go: chosen on validation, as train.learning_rate was.
LINEAR = {"train.learning_rate": 3e-2}

SELECTED = "selected"
"""No model of its own: the best of the run's other variants on validation, seed by seed."""

CLOSED_FORM = {"train.epochs": 0.0, "train.learning_rate": 0.0}
"""One dispatch of the loop that changes nothing: scores and checkpoint are made as for others."""

BPR = {
    "tsp.score": "logit",
    "tsp.moveline": "own",
    "tsp.weight": 1.0,
    "tsp.margin": 0.0,
    "tsp.min_events": 1,
    "tsp.min_seconds": 0,
}
"""Bayesian personalised ranking: TSP's loss on the logits of any two rows of a user."""

LABELS = {"flow.label_head": "blend"}
"""Our addition to the paper's models: the generator's label logit (method.md, 1.3)."""

VARIANTS: Mapping[str, Variant] = {
    "constant": Variant("constant", settings=CLOSED_FORM),
    "counters": Variant("counters", settings=CLOSED_FORM),
    "lightgbm": Variant("lightgbm", settings=CLOSED_FORM, package="lightgbm"),
    "popularity": Variant("popularity", settings=CLOSED_FORM),
    "fm": Variant("fm"),
    "fm_bpr": Variant("fm", tsp=True, settings=BPR, against=("fm",)),
    "lr": Variant("lr", settings=LINEAR),
    "deepfm": Variant("deepfm"),
    "dcn": Variant("dcn"),
    "din": Variant("din"),
    "sasrec": Variant("sasrec"),
    "sasrec_tsp": Variant("sasrec", tsp=True, against=("sasrec",)),
    "hstu": Variant("hstu"),
    "base": Variant(),
    "nif": Variant(flow=True),
    "tsp": Variant(tsp=True),
    "amen": Variant(flow=True, tsp=True, against=("nif", "tsp")),
    "nif_labels": Variant(flow=True, settings=LABELS, against=("nif",)),
    "amen_labels": Variant(
        flow=True, tsp=True, settings=LABELS, against=("amen", "nif_labels", "tsp")
    ),
    "genci": Variant(cohorts=True),
    "hybrid": Variant(flow=True, tsp=True, cohorts=True, against=("amen", "genci")),
    "genci_quirks": Variant(cohorts=True, settings=QUIRKS, against=("genci",)),
    # Ablations of GenCI.
    "genci_no_cohorts": _genci(genci__beams=0),
    "genci_no_ssr": _genci(genci__delta=0.0),
    "genci_no_ntp": _genci(genci__gamma=0.0),
    "genci_level_1": _genci(cohorts__levels=1),
    "genci_beams_1": _genci(genci__beams=1),
    "genci_beams_4": _genci(genci__beams=4),
    "genci_beams_16": _genci(genci__beams=16),
    "genci_random_codes": _genci(tokenizer__form="random"),
    "hybrid_no_tsp": Variant(flow=True, cohorts=True, against=("nif", "genci", "hybrid")),
    "hybrid_no_ssr": Variant(
        flow=True,
        tsp=True,
        cohorts=True,
        settings={"genci.delta": 0.0},
        against=("amen", "genci_no_ssr", "hybrid"),
    ),
    SELECTED: Variant(SELECTED),
}

_NEEDS = {"flow": "generator", "tsp": "tsp", "cohorts": "genci"}


FITTED = tuple(name for name, variant in VARIANTS.items() if variant.settings is CLOSED_FORM)
"""Rows that are not trained by gradients, and start from nothing."""
NOT_SELECTED = (SELECTED, *FITTED)
"""Rows that are never selected: what is not trained here is there to compare with."""


def missing_packages(config: ConfigDict) -> dict[str, str]:
    """Row -> the optional package that it needs and that is not installed."""
    needed = {name: VARIANTS[name].package for name in config.rows if VARIANTS[name].package}
    return {name: pkg for name, pkg in needed.items() if importlib.util.find_spec(pkg) is None}


def require_variants(config: ConfigDict) -> None:
    """Raises ConfigError for a variant that is unknown, or whose sections this config lacks.

    It is called before training, so that a run does not fail between two stages.
    """
    for name in config.rows:
        require_choice("rows", name, VARIANTS)
        for part, section in _NEEDS.items():
            if getattr(VARIANTS[name], part) and section not in config:
                raise ConfigError(
                    f"variant {name!r} needs the section {section!r}, which this config lacks: use "
                    "configs/nif.py for flow and TSP, configs/genci.py for cohorts, and "
                    "configs/hybrid.py for all variants."
                )
        own = VARIANTS[name]
        if own.tsp and own.model != "ranker" and config.tsp.moveline == "positive":
            raise ConfigError(
                f"variant {name!r} has no calibration head, with which "
                "config.tsp.moveline='positive' scores a negative: use "
                "config.tsp.moveline='own', or leave it out."
            )
    candidates = [row for row in dict.fromkeys(config.rows) if row not in NOT_SELECTED]
    if SELECTED in config.rows and len(candidates) < 2:
        raise ConfigError(
            f"variant {SELECTED!r} is the best on validation of the others that are trained, which "
            f"are {candidates} here: name two or more."
        )
    with_flow = [name for name in config.rows if VARIANTS[name].flow]
    if with_flow:
        _require_flow(config, {n: variant_config(config, n).flow.label_head for n in with_flow})


LABEL_HEADS = ("blend", "input", "none")
"""Uses of the label head's logit, config.flow.label_head."""


def _require_flow(config: ConfigDict, uses: Mapping[str, str]) -> None:
    """Raises ConfigError for settings that would be missing, or of no use, after the generator.

    Args:
      config: of the run.
      uses: variant with a flow -> its flow.label_head.
    """
    if config.flow.tune and (config.flow.cache or config.flow.cross_fit):
        raise ConfigError(
            "config.flow.tune=True changes the generator with every step, so that nothing of it "
            "can be computed once: it needs config.flow.cache=False and config.flow.cross_fit=0 "
            f"(here {config.flow.cache} and {config.flow.cross_fit})."
        )
    blended = [name for name, use in uses.items() if use == "blend"]
    if config.flow.tune and blended:
        raise ConfigError(
            "config.flow.tune=True trains what the ranker reads, and it does not read a logit that "
            f"is blended with its own, as in {blended}: config.flow.label_head has to be input or "
            "none, and config.rows without nif_labels and amen_labels."
        )
    reading = [name for name, use in uses.items() if use != "none"]
    if reading and not config.flow_loss.label_head:
        raise ConfigError(
            f"variants {reading} use a label head that config.flow_loss.label_head=0.0 leaves "
            "untrained: give the loss a weight, or set config.flow.label_head=none and leave "
            "nif_labels and amen_labels out of config.rows."
        )
    folds = config.flow.cross_fit
    if folds and (folds < 2 or "input" not in uses.values()):
        raise ConfigError(
            f"config.flow.cross_fit={folds} has to be 0 (off) or 2 folds and more, and goes with "
            f"config.flow.label_head=input in some variant (here {dict(uses)})."
        )


def variant_config(config: ConfigDict, name: str) -> ConfigDict:
    """The config of a variant: config.quirks, then the settings of the variant."""
    settings = dict(VARIANTS[name].settings)
    if VARIANTS[name].cohorts and config.quirks:
        settings = QUIRKS | settings
    if not settings:
        return config
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(settings)
    return changed
