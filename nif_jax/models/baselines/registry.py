"""Baselines by name: the module nif_jax/models/baselines/<name>.py has the class as `MODEL`.

No list has to be extended for a new module. A module is imported when its baseline is used.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

from nif_jax.data.schema import require_choice
from nif_jax.models.baselines.interface import Baseline

_SHARED = ("__init__", "interface", "registry")
"""Modules of this folder that are no baseline."""

BASELINES = tuple(
    sorted(
        path.stem for path in pathlib.Path(__file__).parent.glob("*.py") if path.stem not in _SHARED
    )
)
"""Names of all baselines."""


def baseline_class(name: str) -> type[Baseline]:
    """The class of a baseline; raises ConfigError for an unknown name."""
    require_choice("model", name, BASELINES)
    return importlib.import_module(f"nif_jax.models.baselines.{name}").MODEL


def make_baseline(name: str, *settings: Mapping[str, Any]) -> Baseline:
    """The baseline, each of its fields from the first of `settings` that has it, or its default.

    Raises:
      ConfigError: for an unknown name.
      KeyError: for a field without a default that no settings have.
    """
    kind = baseline_class(name)
    given = {key: value for section in reversed(settings) for key, value in section.items()}
    own = [f for f in dataclasses.fields(kind) if f.name not in ("parent", "name")]
    needed = [f.name for f in own if f.name in given or f.default is dataclasses.MISSING]
    return kind(**{name: given[name] for name in needed})
