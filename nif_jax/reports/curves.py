"""Curves over runs that differ in one number, and how many labels a model saves.

Runs whose configs are equal but for one numeric key are points of a curve: AUC by
config.data.label_share, by flow.horizon, whatever was swept. Runs of one point (other rows, other
seeds) are put together.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nif_jax.reports.tables import NOT_AVAILABLE, REFERENCE, Table, model_rank, split_label

LABEL_SHARE = "data.label_share"
SAME = ("rows", "seed", "num_seeds", "init_from", "xla_flags", "data.cache_dir")
"""Keys in which runs of one point may differ."""
_NAMED_KEYS = 3


@dataclasses.dataclass(frozen=True)
class Family:
    """Runs that differ in one numeric key.

    Attributes:
      key: the key.
      name: the data set and what else tells this family from the others.
      points: value of the key, rising -> rows of results.json there.
      labels: value of the key -> impressions that rankers trained on, None where not said.
    """

    key: str
    name: str
    points: Mapping[float, Sequence[Mapping[str, Any]]]
    labels: Mapping[float, int | None]

    def values(self, history: str, metric: str = "auc") -> dict[str, dict[float, list[float]]]:
        """Model -> value of the key -> the metric of each seed, where it is defined."""
        found: dict[str, dict[float, list[float]]] = {}
        for value, rows in self.points.items():
            for row in rows:
                if row["history"] == history and row[metric] is not None:
                    by_value = found.setdefault(row["model"], {})
                    by_value.setdefault(value, []).append(row[metric])
        rank = model_rank(found)
        return dict(sorted(found.items(), key=lambda item: rank[item[0]]))


class Needed(NamedTuple):
    """Labels with which a model reaches a target.

    Attributes:
      labels: how many; None where it does not get there.
      at_most: whether it is there with the fewest that were tried, so that fewer may do.
    """

    labels: float | None
    at_most: bool = False


def families(runs: Mapping[str, Mapping[str, Any]]) -> list[Family]:
    """All families of at least two points among runs.

    Args:
      runs: label -> results.json.
    """
    configs = {
        label: {k: v for k, v in found["run"].get("config", {}).items() if k not in SAME}
        for label, found in runs.items()
    }
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    differing = [key for key in keys if len({repr(c.get(key)) for c in configs.values()}) > 1]
    found = []
    for key in differing:
        groups: dict[str, list[str]] = {}
        for label, config in configs.items():
            if type(config.get(key)) in (int, float):
                rest = repr([config.get(other) for other in differing if other != key])
                groups.setdefault(rest, []).append(label)
        members = [
            {label: runs[label] for label in group}
            for group in groups.values() if len({configs[label][key] for label in group}) > 1
        ]  # fmt: skip
        names = _names([next(iter(group.values())) for group in members], key)
        found += [_family(key, *named) for named in zip(names, members, strict=True)]
    return found


def labels_saved(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """How many labels each model needs to reach what the base ranker reaches with the most.

    Mean AUC over seeds, linear in the logarithm of the number of labels between the fractions that
    were tried; of several crossings the one with the fewest labels counts.

    Args:
      runs: label -> results.json; those that differ in data.label_share only.
    """
    header = ["data set", "history", "model", "seeds", "AUC to reach", "labels needed",
              "share of base's", "labels saved"]  # fmt: skip
    table = Table(header, [], labels=4)
    for family in families(runs):
        if family.key != LABEL_SHARE or None in family.labels.values():
            continue
        for history in ("online", "frozen"):
            by_model = family.values(history)
            most = max(family.points)
            if most not in by_model.get(REFERENCE, {}):
                continue
            target = statistics.fmean(by_model[REFERENCE][most])
            for model, by_share in by_model.items():
                if model == REFERENCE or len(by_share) < 2:
                    continue
                counts = [family.labels[share] for share in by_share]
                means = [statistics.fmean(areas) for areas in by_share.values()]
                needed = labels_needed(counts, means, target)
                seeds = {len(areas) for areas in by_share.values()}
                table.rows.append([
                    family.name, history, model, "–".join(map(str, sorted(seeds))),
                    f"{target:.4f}", *_needed_cells(needed, family.labels[most]),
                ])  # fmt: skip
    return table


def labels_needed(labels: Sequence[float], areas: Sequence[float], target: float) -> Needed:
    """The fewest labels with which a curve reaches a target, between points log-linearly.

    Args:
      labels: rising numbers of labels.
      areas: AUC with each.
      target: AUC to reach.
    """
    if areas[0] >= target:
        return Needed(float(labels[0]), at_most=True)
    for index in range(1, len(labels)):
        if areas[index] >= target:
            low, high = math.log(labels[index - 1]), math.log(labels[index])
            part = (target - areas[index - 1]) / (areas[index] - areas[index - 1])
            return Needed(math.exp(low + part * (high - low)))
    return Needed(None)


def _needed_cells(needed: Needed, most: int) -> tuple[str, str, str]:
    if needed.labels is None:
        return "not reached", NOT_AVAILABLE, NOT_AVAILABLE
    share = needed.labels / most
    below, above = ("≤ ", "≥ ") if needed.at_most else ("", "")
    return (f"{below}{needed.labels:,.0f} of {most:,}", f"{below}{share:.1%}",
            f"{above}{1 - share:.1%}")  # fmt: skip


def _family(key: str, name: str, runs: Mapping[str, Mapping[str, Any]]) -> Family:
    """A family of runs; of rows that several of its runs have, the first counts."""
    points: dict[float, dict[tuple, Mapping[str, Any]]] = {}
    labels: dict[float, int | None] = {}
    for run in sorted(runs.values(), key=lambda run: run["run"]["config"][key]):
        value = run["run"]["config"][key]
        rows = points.setdefault(value, {})
        for row in run["rows"]:
            rows.setdefault((row["model"], row["seed"], row["split"], row["history"]), row)
        counted = run["run"].get("dataset", {}).get("impressions", {})
        labels.setdefault(value, counted.get("train"))
    return Family(key, name, {value: list(r.values()) for value, r in points.items()}, labels)


def _names(runs: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The data set of each run; where that does not tell them apart, other keys that differ too."""
    names = []
    for run in runs:
        split = run["run"]["config"].get("data.split", "")
        leaky = split_label(split).removeprefix(split).strip()
        names.append(" ".join(filter(None, (run["run"].get("dataset", {}).get("name"), leaky))))
    if len(set(names)) == len(names):
        return names
    configs = [run["run"]["config"] for run in runs]
    keys = dict.fromkeys(k for config in configs for k in config if k not in (*SAME, key))
    differing = [k for k in keys if len({repr(config.get(k)) for config in configs}) > 1]
    more = " ..." if len(differing) > _NAMED_KEYS else ""
    return [
        f"{name}: " + ", ".join(f"{k}={config[k]}" if k in config else f"no {k}"
                                for k in differing[:_NAMED_KEYS]) + more
        for name, config in zip(names, configs, strict=True)
    ]  # fmt: skip
