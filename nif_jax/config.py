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


_EVERY_STAGE = ("data", "eval.batch_size", "init_from", "source", "xla_flags")
_BASE = (*_EVERY_STAGE, "ranker", "train")
READ: Mapping[str, tuple[str, ...]] = {
    "base": _BASE,
    "tokenizer": (*_EVERY_STAGE, "content", "tokenize", "tokenizer"),
    "generator": (*_BASE, "flow.horizon", "flow_loss", "generator", "pretrain"),
}
"""Sections and keys that shape a stage, those of the stage before it included."""
_NO_STAGE = ("ab", "num_seeds", "rows", "seed")
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


def seen_by(stage: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a flat config that shape a stage: two runs that agree in them may share it.

    Args:
      stage: the name of its folder; a row of rows.py sees all but the sections of parts that it
        lacks, and what comes before and after all stages.
      flat: see `flatten`.
    """

    def within(key: str, names: tuple[str, ...]) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in names)

    read = READ.get("generator" if stage.startswith("generator") else stage)
    if read:
        return {key: value for key, value in flat.items() if within(key, read)}
    lacks = [_PARTS[part] for part in _PARTS if not getattr(VARIANTS[stage], part)]
    hidden = sum(lacks, _NO_STAGE)
    return {key: value for key, value in flat.items() if not within(key, hidden)}


def restrict(config: ConfigDict, stage: str) -> ConfigDict:
    """The config without the keys that a stage does not see, so that reading one is an error."""
    flat = flatten(config.to_dict())
    hidden = flat.keys() - seen_by(stage, flat).keys()
    if not hidden:
        return config
    seen = config.copy_and_resolve_references()
    with seen.unlocked():
        for key in hidden:
            *sections, name = key.split(".")
            del functools.reduce(operator.getitem, sections, seen)[name]
    return seen


GROWING = ("num_seeds", "rows")
"""Keys that may ask more of a run that is there: each seed and row has its own folder."""


def _grows(key: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    if key not in GROWING or key not in found:
        return False
    more, less = (set(c[key]) if key == "rows" else c[key] for c in (wanted, found))
    return more > less


def run_differences(
    wanted: Mapping[str, Any], found: Mapping[str, Any], *, grow: bool = False
) -> list[str]:
    """`differences` in keys that shape a run.

    Another A/B test (ab.*) changes nothing of it; ab.json says what each was.

    Args:
      wanted: flat config.
      found: flat config of the run that is there.
      grow: whether `wanted` may have more seeds and rows.
    """

    def shapes(key: str) -> bool:
        return not key.startswith("ab.") and not (grow and _grows(key, wanted, found))

    return differences(*({k: v for k, v in c.items() if shapes(k)} for c in (wanted, found)))


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Lines "key: found -> wanted" of two flat mappings."""
    missing = "(absent)"
    return [
        f"{key}: {found.get(key, missing)} -> {wanted.get(key, missing)}"
        for key in sorted(wanted.keys() | found.keys())
        if wanted.get(key, missing) != found.get(key, missing)
    ]
