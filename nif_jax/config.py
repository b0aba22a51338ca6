"""Configs as flat mappings, which can be written down and compared."""

import functools
import operator
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from nif_jax.variants import VARIANTS


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"tsp.weight": 0.05, ...}; tuples become lists, as in JSON."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


_SCORING = ("eval.accelerator_batch_size", "eval.batch_size")
_EVERY_STAGE = ("data", *_SCORING, "init_from", "source", "xla_flags")
_BASE = (*_EVERY_STAGE, "compute_dtype", "ranker", "train")
STAGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "base": _BASE,
    "tokenizer": (*_EVERY_STAGE, "content", "tokenize", "tokenizer"),
    "generator": (*_BASE, "flow.horizon", "flow_loss", "generator", "pretrain"),
}
"""Sections and keys that shape a stage, those of the stage before it included."""
LAYOUT = ("mesh", "parallel")
"""Keys that say how a run is laid out on devices: it may be resumed with others."""
_NO_STAGE = ("ab", "daily", "num_seeds", "rows", "seed", *LAYOUT)
_PARTS: Mapping[str, tuple[str, ...]] = {
    "flow": ("flow", "flow_loss", "generator", "pretrain"),
    "tsp": ("tsp",),
    "cohorts": (
        "cohorts",
        "content",
        "eval.beams",
        "genci",
        "intent",
        "quirks",
        "tokenize",
        "tokenizer",
    ),
}


def stage_settings(stage: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a flat config that shape a stage: two runs that agree in them may share it.

    Args:
      stage: the name of its folder; for a variant all keys but the sections of parts that it does
        not have, and keys that shape no stage.
      flat: see `flatten`.
    """

    def within(key: str, names: tuple[str, ...]) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in names)

    keys = STAGE_KEYS.get("generator" if stage.startswith("generator") else stage)
    if keys:
        return {key: value for key, value in flat.items() if within(key, keys)}
    lacks = [_PARTS[part] for part in _PARTS if not getattr(VARIANTS[stage], part)]
    hidden = sum(lacks, _NO_STAGE)
    return {key: value for key, value in flat.items() if not within(key, hidden)}


def stage_config(config: ConfigDict, stage: str) -> ConfigDict:
    """The config with the keys that shape a stage only, so that reading another one is an error."""
    flat = flatten(config.to_dict())
    hidden = flat.keys() - stage_settings(stage, flat).keys()
    if not hidden:
        return config
    own = config.copy_and_resolve_references()
    with own.unlocked():
        for key in hidden:
            *sections, name = key.split(".")
            del functools.reduce(operator.getitem, sections, own)[name]
    return own


EXTENDABLE = ("num_seeds", "rows")
"""Keys that may extend an existing run: each seed and variant has its own folder."""


def _extends(key: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    if key not in EXTENDABLE or key not in found:
        return False
    more, less = (set(c[key]) if key == "rows" else c[key] for c in (wanted, found))
    return more > less


def run_differences(
    wanted: Mapping[str, Any], found: Mapping[str, Any], *, extend: bool = False
) -> list[str]:
    """`differences` in keys that shape a run.

    Keys of the A/B test (ab.*) do not shape a run; ab.json contains them. Neither do those of the
    daily mode, which compares them itself, nor those of the layout on devices (LAYOUT).

    Args:
      wanted: flat config.
      found: flat config of the run that is there.
      extend: whether `wanted` may have more seeds and variants.
    """

    def shapes(key: str) -> bool:
        own = key.split(".")[0] not in ("ab", "daily", *LAYOUT)
        return own and not (extend and _extends(key, wanted, found))

    return differences(*({k: v for k, v in c.items() if shapes(k)} for c in (wanted, found)))


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Lines "key: found -> wanted" of two flat mappings."""
    missing = "(absent)"
    return [
        f"{key}: {found.get(key, missing)} -> {wanted.get(key, missing)}"
        for key in sorted(wanted.keys() | found.keys())
        if wanted.get(key, missing) != found.get(key, missing)
    ]
