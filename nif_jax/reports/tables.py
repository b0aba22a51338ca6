"""Tables of results.json: models side by side, mean and spread over seeds.

A table is built once, as a `Table` of text, and rendered as Markdown here or as HTML by the page.
"""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nif_jax.variants import SELECTED

BASELINES = ("popularity", "lr", "deepfm", "dcn", "din", "sasrec", "sasrec_tsp")
"""Rows that are none of ours; the strongest of them is a reference beside the base ranker."""
FIRST = (*BASELINES, "base", "nif", "tsp", "amen", "genci", "genci_quirks", "hybrid")
LAST = (SELECTED, "bayes")
"""Models by their place in tables: FIRST as the papers build them up, others as they come, LAST."""
REFERENCE = "base"
BOUNDS = ("popularity", "bayes")
BAYES_SHARE = "share of the Bayes gap"
NOT_AVAILABLE = "n/a"

METRIC_TITLES = {"auc": "AUC", "gauc": "GAUC", "logloss": "LogLoss", "ne": "NE", "ece": "ECE",
                 "pcoc": "PCOC"}  # fmt: skip
_POINTS = {"auc": 100, "gauc": 100}  # differences of these are told in points of 0.01
_MEBIBYTE = 2**20


class Table(NamedTuple):
    """Header [columns] and rows [rows][columns] of text; the first `labels` columns are names."""

    header: list[str]
    rows: list[list[str]]
    labels: int


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of `comparison`."""
    return markdown(comparison(rows))


def retrieval_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of `retrieval`."""
    return markdown(retrieval(entries))


def comparison(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Metrics by model x split x history, mean ± standard deviation (n - 1) over seeds.

    The lift is AUC minus the AUC of `base` on the same split and history, in points (0.01 AUC).
    It is paired: taken seed by seed over the seeds that both have, so that its spread is that of
    the difference and not of two models. Where a simulator's rows are there, so is `bayes_share`.

    Args:
      rows: "rows" of results.json, of one run or of several with different seeds.

    Raises:
      ValueError: the same model, split, history and seed twice.
    """
    groups = grouped(rows, ("split", "history", "model"))
    bounded = has_bounds(rows)
    header = ["split", "history", "model", "seeds", *METRIC_TITLES.values(),
              *([BAYES_SHARE] if bounded else []), "ΔAUC vs base, pt"]  # fmt: skip
    table = Table(header, [], labels=4)
    for (split, history, model), by_seed in groups.items():
        cells = metric_cells(by_seed)
        if bounded:
            bounds = (groups.get((split, history, name), {}) for name in BOUNDS)
            cells.append(spread(bayes_shares(by_seed, *bounds), ".3f"))
        base = groups.get((split, history, REFERENCE), {})
        lifts = [_points(by_seed[seed]["auc"], base[seed]["auc"]) for seed in by_seed
                 if seed in base]
        lift = "–" if model == REFERENCE else spread(lifts, "+.2f")
        table.rows.append([split_label(split), history, model, str(len(by_seed)), *cells, lift])
    return table


def metric_cells(
    by_seed: Mapping[int, Mapping[str, Any]], metrics: Iterable[str] = METRIC_TITLES
) -> list[str]:
    """A cell a metric: mean ± standard deviation of a model's seeds."""
    return [spread([row[name] for row in by_seed.values()], ".4f") for name in metrics]


def has_bounds(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the rows hold both ends of the Bayes gap."""
    return {row["model"] for row in rows}.issuperset(BOUNDS)


def bayes_shares(
    model: Mapping[int, Mapping[str, Any]],
    popularity: Mapping[int, Mapping[str, Any]],
    bayes: Mapping[int, Mapping[str, Any]],
) -> list[float | None]:
    """Share of the Bayes gap that each seed closes, (AUC - popularity) / (Bayes - popularity).

    0 is what popularity reaches, 1 what knowing the simulator's click probabilities does.

    Args:
      model, popularity, bayes: seed -> row; seeds that not all have are left out.

    Returns:
      One number a common seed, None where an AUC is undefined or popularity is no worse than Bayes.
    """
    shares: list[float | None] = []
    for seed, row in model.items():
        if seed not in popularity or seed not in bayes:
            continue
        low, high = popularity[seed]["auc"], bayes[seed]["auc"]
        undefined = None in (row["auc"], low, high) or high <= low
        shares.append(None if undefined else (row["auc"] - low) / (high - low))
    return shares


def differences(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Each model against each reference, with 95 % interval and verdict; AUC and GAUC in points.

    Args:
      entries: "differences" of results.json.
    """
    header = ["split", "history", "metric", "model", "reference", "seeds", "difference",
              "95 % interval", "verdict"]  # fmt: skip
    table = Table(header, [], labels=6)
    rank = model_rank(entry[side] for entry in entries for side in ("reference", "model"))
    metrics = list(METRIC_TITLES)

    def place(entry):
        return (entry["split"], entry["history"], metrics.index(entry["metric"]),
                rank[entry["reference"]], rank[entry["model"]])  # fmt: skip

    for entry in sorted(entries, key=place):
        table.rows.append([
            split_label(entry["split"]), entry["history"], difference_title(entry["metric"]),
            entry["model"], entry["reference"], str(entry["seeds"]), *difference_cells(entry),
            entry["verdict"],
        ])  # fmt: skip
    return table


def difference_title(metric: str) -> str:
    """The metric and the unit that `difference_cells` has for it."""
    return METRIC_TITLES[metric] + (", pt" if metric in _POINTS else "")


def difference_cells(entry: Mapping[str, Any]) -> tuple[str, str]:
    """"+0.48 ± 0.08" and "[+0.10, +0.86]": mean and spread over seeds, and the interval."""
    scale = _POINTS.get(entry["metric"], 1)
    form = ".2f" if scale != 1 else ".4f"
    mean, sd, low, high = (None if entry[key] is None else scale * entry[key]
                           for key in ("mean", "sd", "low", "high"))  # fmt: skip
    text = NOT_AVAILABLE if mean is None else f"{mean:+{form}}"
    text += "" if sd is None else f" ± {sd:{form}}"
    return text, NOT_AVAILABLE if low is None else f"[{low:+{form}}, {high:+{form}}]"


def selection(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Which row was selected with each seed, and the validation metric of each that it could be.

    Args:
      entries: "selection" of results.json.
    """
    models = dict.fromkeys(model for entry in entries for model in entry["validation"])
    table = Table(["seed", "selected", "metric", *models], [], labels=3)
    for entry in entries:
        values = [entry["validation"].get(model) for model in models]
        cells = [NOT_AVAILABLE if value is None else format(value, ".4f") for value in values]
        title = METRIC_TITLES.get(entry["metric"], entry["metric"])
        table.rows.append([str(entry["seed"]), entry["selected"], title, *cells])
    return table


def retrieval(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Retrieval metrics by split x targets x model, mean ± standard deviation over seeds.

    Args:
      entries: "retrieval" of results.json; the columns are all metrics that any entry has.

    Raises:
      ValueError: the same model, split, targets and seed twice.
    """
    keys = ("split", "targets", "model")
    names = list(dict.fromkeys(
        key for entry in entries for key in entry if key not in (*keys, "seed")
    ))
    table = Table([*keys, "seeds", *(name.upper() for name in names)], [], labels=4)
    for (split, targets, model), by_seed in grouped(entries, keys).items():
        cells = [spread([entry.get(name) for entry in by_seed.values()], ".4f") for name in names]
        table.rows.append([split_label(split), targets, model, str(len(by_seed)), *cells])
    return table


def semantic_ids(entries: Sequence[Mapping[str, Any]]) -> Table:
    """How a catalogue fills its codes, by form and level, mean ± standard deviation over seeds.

    Args:
      entries: "semantic_ids" of results.json.
    """
    forms = {"codes": ",.0f", "fillable": ",.0f", "perplexity": ".1f", "prefixes": ",.0f",
             "collision_rate": ".4f", "nearest_collision_rate": ".4f",
             "purity": ".3f", "r2": ".3f"}  # fmt: skip
    titles = [name.replace("_", " ") for name in forms]
    table = Table(["form", "level", "seeds", *titles], [], labels=3)
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["form"], entry["level"]), []).append(entry)
    for (form, level), found in groups.items():
        cells = [spread([e[name] for e in found], shape) for name, shape in forms.items()]
        table.rows.append([form, str(level), str(len(found)), *cells])
    return table


def costs(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What each model costs: trained examples a second, parameters, peak memory in MiB."""
    table = Table(["model", "seeds", "train examples/s", "parameters", "peak RSS, MiB"], [], 2)
    # A training run is one model and seed; its rows on other splits and histories repeat its cost.
    runs = {(row["model"], row["seed"]): row for row in rows}
    for (model,), by_seed in grouped(list(runs.values()), ("model",)).items():
        measured = by_seed.values()
        peaks = [row["peak_rss_bytes"] for row in measured]
        table.rows.append([
            model,
            str(len(by_seed)),
            spread([row["train_examples_per_second"] for row in measured], ",.0f"),
            spread([row["parameters"] for row in measured], ",.0f"),
            spread([None if peak is None else peak / _MEBIBYTE for peak in peaks], ",.0f"),
        ])
    return table


def markdown(table: Table) -> str:
    """The table as aligned Markdown, readable as plain text too; "(no results)" without rows."""
    if not table.rows:
        return "(no results)\n"
    lines = [[escape(cell) for cell in line] for line in (table.header, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = [":" + "-" * (width - 1) if index < table.labels else "-" * (width - 1) + ":"
            for index, width in enumerate(widths)]
    aligned = [
        [cell.ljust(width) if index < table.labels else cell.rjust(width)
         for index, (cell, width) in enumerate(zip(line, widths, strict=True))]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in aligned)


# What Markdown reads as markup: code, emphasis, strikethrough, mathematics, HTML, cells; links and
# entities by what follows. An underscore between letters or digits is plain text.
_MARKUP = re.compile(
    r"[\\`*~$<|]|&(?=#?\w+;)|\[(?=[^\]]*\][(\[])|(?<![^\W_])_|_(?![^\W_])", re.ASCII
)


def escape(text: str) -> str:
    """Text as Markdown that shows exactly this text, on one line."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.splitlines()))


def spread(values: Sequence[float | None], form: str) -> str:
    """Mean ± standard deviation (n - 1) in a format; says how many were defined if not all."""
    defined = [value for value in values if value is not None]
    if not defined:
        return NOT_AVAILABLE
    text = format(statistics.fmean(defined), form)
    if len(defined) > 1:
        text += f" ± {format(statistics.stdev(defined), form.removeprefix('+'))}"
    return text if len(defined) == len(values) else f"{text} ({len(defined)} of {len(values)})"


def split_label(split: str) -> str:
    """The split's name; a random split leaks the future through other rows' histories."""
    return "random (leaky)" if split == "random" else split


def _points(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None else 100 * (value - reference)


def model_rank(models: Iterable[str]) -> dict[str, int]:
    """Place of each model in tables, see LAST."""
    others = (model for model in models if model not in LAST)
    return {model: index for index, model in enumerate(dict.fromkeys((*FIRST, *others, *LAST)))}


def grouped(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> dict[tuple[str, ...], dict[int, Mapping[str, Any]]]:
    """Key values -> seed -> row; by the keys in order, models as the papers build them up."""
    groups: dict[tuple[str, ...], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        by_seed = groups.setdefault(tuple(row[key] for key in keys), {})
        if row["seed"] in by_seed:
            raise ValueError(f"two rows for {[row[key] for key in keys]} with seed {row['seed']}")
        by_seed[row["seed"]] = row
    rank = model_rank(row["model"] for row in rows)
    return dict(sorted(groups.items(), key=lambda group: (*group[0][:-1], rank[group[0][-1]])))
