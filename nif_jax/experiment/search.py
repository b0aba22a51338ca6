"""Choices of a search for settings: what a trial sets, when it is pruned, and what it has reached.

Optuna makes the choices, from earlier trials that have all ended before a trial starts. They are
functions of these trials and of the trial's number, so that a search which is interrupted, or
shared by several processes, makes the same ones. Only validation is looked at.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from nif_jax.data.schema import ConfigError
from nif_jax.metrics.records import METRICS_FILE, good_records, read_metrics
from nif_jax.reports.results import read_results
from nif_jax.variants import NOT_SELECTED, SELECTED

DIGITS = 4
"""Significant digits of numbers that a search chooses: configs and tables stay readable."""
_STAGE_STEPS = 1_000_000
"""More than a stage has evaluations; they number those of the stages of a run in one sequence."""


def distributions(
    ranges: Mapping[str, tuple[str, str, bool] | list[str]], config: Mapping[str, Any]
) -> dict[str, BaseDistribution]:
    """What a search chooses from.

    Args:
      ranges: key -> (low, high, whether the scale is logarithmic), or a list of values.
      config: flat; has the type of each key.

    Raises:
      ConfigError: a range for a key that is no number, or with a fraction for a whole number; or
        the metric that trials are compared by.
    """
    if "train.metric" in ranges:
        raise ConfigError("--set train.metric: trials are compared by it; give it in --config.")
    found: dict[str, BaseDistribution] = {}
    for key, values in ranges.items():
        if isinstance(values, list):
            found[key] = CategoricalDistribution(values)
            continue
        low, high, log = values
        word = f"--set {key}={low}..{high}"
        if type(config[key]) is float:
            found[key] = FloatDistribution(float(low), float(high), log=log)
        elif type(config[key]) is not int:
            raise ConfigError(f"{word}: {key} is no number; give its values with commas.")
        elif not (low.lstrip("+-").isdigit() and high.lstrip("+-").isdigit()):
            raise ConfigError(f"{word}: {key} is a whole number, and so are the ends of its range.")
        else:
            found[key] = IntDistribution(int(low), int(high), log=log)
    return found


def propose(
    earlier: Sequence[FrozenTrial],
    number: int,
    seed: int,
    space: Mapping[str, BaseDistribution],
) -> dict[str, Any]:
    """Parameters of a trial by the tree-structured Parzen estimator (Bergstra et al., 2011).

    Args:
      earlier: ended trials; the first ten trials after none are random.
      number: of the trial.
      seed: of the search.
      space: see `distributions`.
    """
    own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    study = _study(earlier, optuna.samplers.TPESampler(seed=own_seed))
    chosen = study.ask(dict(space)).params
    return {key: _rounded(space[key], value) for key, value in chosen.items()}


def is_pruned(
    earlier: Sequence[FrozenTrial], trial: FrozenTrial, values: Mapping[int, float]
) -> bool:
    """Whether a trial is below the median of the earlier ones at its last evaluation.

    Args:
      earlier: ended trials; nothing is pruned before five of them are complete.
      trial: the trial.
      values: number of an evaluation -> best value up to it, see `evaluations`.
    """
    own = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=dict(values),
    )
    return optuna.pruners.MedianPruner().prune(_study(earlier), own)


def _study(trials: Sequence[FrozenTrial], sampler=None) -> optuna.Study:
    """A study of this process."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(trials)
    return study


def _rounded(distribution: BaseDistribution, value: Any) -> Any:
    if not isinstance(distribution, FloatDistribution):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), distribution.low), distribution.high)


def evaluations(workdir: pathlib.Path, config: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """(stage, number, best value so far) of the evaluations that decide on a run, in their order.

    They are those of the variant that `objective` measures, by config.train.metric; with `selected`
    those of all variants that it is chosen among. Of several seeds, the first counts.

    Args:
      workdir: of the run, which may be under way.
      config: flat.
    """
    path = workdir / f"seed_{config['seed']}" / METRICS_FILE
    if not path.exists():
        return []
    name = f"validation/{config['train.metric']}"
    records = good_records(path)
    found, best = [], -np.inf
    for index, variant in enumerate(_watched(config)):
        own = [r["values"].get(name) for r in records if r["stage"] == variant]
        for count, value in enumerate(value for value in own if value is not None):
            best = max(best, value)
            found.append((variant, index * _STAGE_STEPS + count, best))
    return found


def _watched(config: Mapping[str, Any]) -> list[str]:
    """Variants in the order of their training."""
    if SELECTED not in config["rows"]:
        return [config["rows"][-1]]
    rows = [name for name in dict.fromkeys(config["rows"]) if name not in NOT_SELECTED]
    return sorted(rows, key=lambda name: name != "base")


def objective(workdir: pathlib.Path, config: Mapping[str, Any]) -> float:
    """config.train.metric on validation of a finished run, the mean over seeds: of `selected` where
    config.rows has it, else of the last of them."""
    name, best = f"validation/{config['train.metric']}", dict[int, float]()
    chosen = {e["seed"]: e["selected"] for e in read_results(workdir).get("selection", [])}
    for record in read_metrics(workdir / METRICS_FILE):
        seed, value = record["seed"], record["values"].get(name)
        if record["stage"] == chosen.get(seed, config["rows"][-1]) and value is not None:
            best[seed] = max(best.get(seed, -np.inf), value)
    return float(np.mean(list(best.values())))
