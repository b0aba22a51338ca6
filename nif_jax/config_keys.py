"""Configs as flat mappings, which can be written down and compared."""

from collections.abc import Mapping
from typing import Any


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"tsp.weight": 0.05, ...}; tuples become lists, as in JSON."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def run_differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """`differences` in keys that shape a run.

    Another A/B test (ab.*) changes nothing of it; ab.json says what each was.
    """
    kept = [{k: v for k, v in c.items() if not k.startswith("ab.")} for c in (wanted, found)]
    return differences(*kept)


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Lines "key: found -> wanted" of two flat mappings."""
    missing = "(absent)"
    return [
        f"{key}: {found.get(key, missing)} -> {wanted.get(key, missing)}"
        for key in sorted(wanted.keys() | found.keys())
        if wanted.get(key, missing) != found.get(key, missing)
    ]
