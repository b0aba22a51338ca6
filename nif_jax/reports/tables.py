"""Tables of results.json: models side by side, mean and standard deviation over seeds.

A table is built once, as a `Table` of text, and rendered as Markdown here or as HTML by page.py.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from nif_jax.variants import SELECTED

Rows = Sequence[Mapping[str, Any]]

CONTROLS = ("constant", "counters", "popularity")
"""Closed forms: a model that is no better than these has learned nothing."""
CONTROL = "lightgbm"
"""What many practitioners would use instead; a reference beside the base ranker."""
BASELINES = (CONTROL, "lr", "fm", "fm_bpr", "deepfm", "dcn", "din", "sasrec", "sasrec_tsp", "hstu")
"""Published baselines; the strongest of them is another reference."""
FIRST = (*CONTROLS, *BASELINES, "base", "nif", "tsp", "amen", "genci", "genci_quirks", "hybrid")
LAST = (SELECTED, "bayes")
"""Order of models in tables: FIRST, then all others as they come, then LAST."""
REFERENCE = "base"
BOUNDS = ("popularity", "bayes")
BAYES_SHARE = "share of the Bayes gap"
NOT_AVAILABLE = "n/a"
METRIC_TITLES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "logloss": "LogLoss",
    "ne": "NE",
    "ece": "ECE",
    "pcoc": "PCOC",
}
_POINTS = {"auc": 100, "gauc": 100}  # differences of these are in points of 0.01
_CODES = {
    "codes": ",.0f",
    "fillable": ",.0f",
    "perplexity": ".1f",
    "prefixes": ",.0f",
    "collision_rate": ".4f",
    "nearest_collision_rate": ".4f",
    "purity": ".3f",
    "r2": ".3f",
}


class Table(NamedTuple):
    """Header [columns] and rows [rows][columns] of text; the first `labels` columns are names."""

    header: list[str]
    rows: list[list[str]]
    labels: int


def comparison_table(rows: Rows) -> str:
    """Markdown of `comparison`."""
    return markdown(comparison(rows))


def retrieval_table(entries: Rows) -> str:
    """Markdown of `retrieval`."""
    return markdown(retrieval(entries))


def comparison(rows: Rows) -> Table:
    """Metrics by model x split x history, mean ± standard deviation (n - 1) over seeds.

    The lift is AUC minus the AUC of `base` on the same split and history, in points (0.01 AUC),
    paired over the seeds that both have. `bayes_shares` is added where a simulator's bounds are.
    Raises ValueError for the same model, split, history and seed twice.
    """
    groups, lines = grouped(rows, ("split", "history", "model")), []
    share = [BAYES_SHARE] if has_bounds(rows) else []
    for (split, history, model), by_seed in groups.items():
        cells = [split_label(split), history, model, str(len(by_seed)), *metric_cells(by_seed)]
        cells += [bayes_cell(groups, (split, history, model)) for _ in share]
        base = groups.get((split, history, REFERENCE), {})
        pairs = [(by_seed[s]["auc"], base[s]["auc"]) for s in by_seed if s in base]
        lifts = [None if None in pair else 100 * (pair[0] - pair[1]) for pair in pairs]
        lines.append([*cells, "–" if model == REFERENCE else spread(lifts, "+.2f")])
    titles = [*METRIC_TITLES.values(), *share, "ΔAUC vs base, pt"]
    return Table(["split", "history", "model", "seeds", *titles], lines, labels=4)


def metric_cells(
    by_seed: Mapping[int, Mapping[str, Any]], metrics: Iterable[str] = METRIC_TITLES
) -> list[str]:
    """One cell per metric: mean ± standard deviation of a model's seeds."""
    return [spread([row[name] for row in by_seed.values()], ".4f") for name in metrics]


def has_bounds(rows: Rows) -> bool:
    """Whether the rows hold both ends of the Bayes gap."""
    return {row["model"] for row in rows}.issuperset(BOUNDS)


def bayes_cell(groups: Mapping[tuple[str, ...], Any], key: tuple[str, ...]) -> str:
    """`bayes_shares` of a group of `grouped`, whose keys end in the model."""
    return spread(
        bayes_shares(groups[key], *(groups.get((*key[:-1], m), {}) for m in BOUNDS)), ".3f"
    )


def bayes_shares(
    model: Mapping[int, Mapping[str, Any]],
    popularity: Mapping[int, Mapping[str, Any]],
    bayes: Mapping[int, Mapping[str, Any]],
) -> list[float | None]:
    """(AUC - popularity) / (Bayes - popularity) of each seed that all three have.

    0 is the AUC of popularity, 1 that of the simulator's click probabilities; None where an AUC is
    undefined or popularity is no worse than Bayes. Each argument is seed -> row.
    """
    shares: list[float | None] = []
    for seed in (seed for seed in model if seed in popularity and seed in bayes):
        value, low, high = (side[seed]["auc"] for side in (model, popularity, bayes))
        undefined = None in (value, low, high) or high <= low
        shares.append(None if undefined else (value - low) / (high - low))
    return shares


def differences(entries: Rows) -> Table:
    """Each model against each reference, with 95 % interval and verdict; AUC and GAUC in points."""
    rank = model_rank(entry[side] for entry in entries for side in ("reference", "model"))
    entries = sorted(
        entries,
        key=lambda e: (
            e["split"],
            e["history"],
            list(METRIC_TITLES).index(e["metric"]),
            rank[e["reference"]],
            rank[e["model"]],
        ),
    )
    rows = [
        [
            split_label(e["split"]),
            e["history"],
            difference_title(e["metric"]),
            e["model"],
            e["reference"],
            str(e["seeds"]),
            *difference_cells(e),
            e["verdict"],
        ]
        for e in entries
    ]
    header = [
        "split",
        "history",
        "metric",
        "model",
        "reference",
        "seeds",
        "difference",
        "95 % interval",
        "verdict",
    ]
    return Table(header, rows, labels=6)


def difference_title(metric: str) -> str:
    """The metric and the unit that `difference_cells` uses for it."""
    return METRIC_TITLES[metric] + (", pt" if metric in _POINTS else "")


def difference_cells(entry: Mapping[str, Any]) -> tuple[str, str]:
    """ "+0.48 ± 0.08" and "[+0.10, +0.86]": mean ± standard deviation over seeds, and interval."""
    scale = _POINTS.get(entry["metric"], 1)
    form = ".2f" if scale != 1 else ".4f"
    mean, sd, low, high = (
        None if entry[key] is None else scale * entry[key] for key in ("mean", "sd", "low", "high")
    )
    text = NOT_AVAILABLE if mean is None else f"{mean:+{form}}"
    text += "" if sd is None else f" ± {sd:{form}}"
    return text, NOT_AVAILABLE if low is None else f"[{low:+{form}}, {high:+{form}}]"


def selection(entries: Rows) -> Table:
    """The selected variant of each seed, and the validation metric of each candidate."""
    models = dict.fromkeys(model for entry in entries for model in entry["validation"])
    rows = [
        [
            str(e["seed"]),
            e["selected"],
            METRIC_TITLES.get(e["metric"], e["metric"]),
            *(spread([e["validation"].get(model)], ".4f") for model in models),
        ]
        for e in entries
    ]
    return Table(["seed", "selected", "metric", *models], rows, labels=3)


def retrieval(entries: Rows) -> Table:
    """Retrieval metrics by split x targets x model; the columns are all metrics of any entry."""
    keys = ("split", "targets", "model")
    names = list(dict.fromkeys(k for e in entries for k in e if k not in (*keys, "seed")))
    rows = _summary(entries, keys, dict.fromkeys(names, ".4f"))
    rows = [[split_label(split), *cells] for split, *cells in rows]
    return Table([*keys, "seeds", *(name.upper() for name in names)], rows, labels=4)


def semantic_ids(entries: Rows) -> Table:
    """How a catalogue fills its codes, by form and level."""
    titles = [name.replace("_", " ") for name in _CODES]
    rows = _summary(entries, ("form", "level"), _CODES)
    return Table(["form", "level", "seeds", *titles], rows, labels=3)


def costs(rows: Rows) -> Table:
    """Cost of each model: examples per second in training, parameters, peak memory in MiB."""
    # A training run is one model and seed; its rows on other splits and histories repeat its cost.
    runs = {
        (row["model"], row["seed"]): row
        | {"mib": None if row["peak_rss_bytes"] is None else row["peak_rss_bytes"] / 2**20}
        for row in rows
    }
    forms = dict.fromkeys(("train_examples_per_second", "parameters", "mib"), ",.0f")
    header = ["model", "seeds", "train examples/s", "parameters", "peak RSS, MiB"]
    return Table(header, _summary(list(runs.values()), ("model",), forms), labels=2)


def _summary(rows: Rows, keys: Sequence[str], forms: Mapping[str, str]) -> list[list[str]]:
    """Keys, number of seeds, and `spread` of each measurement, for each group of rows."""
    return [
        [
            *map(str, key),
            str(len(by_seed)),
            *(spread([row.get(name) for row in by_seed.values()], f) for name, f in forms.items()),
        ]
        for key, by_seed in grouped(rows, keys).items()
    ]


def markdown(table: Table) -> str:
    """The table as aligned Markdown, readable as plain text too; "(no results)" without rows."""
    if not table.rows:
        return "(no results)\n"
    lines = [[escape(cell) for cell in line] for line in (table.header, *table.rows)]
    columns = []
    for index, cells in enumerate(zip(*lines, strict=True)):
        width, name = max(3, *map(len, cells)), index < table.labels
        rule = ":" + "-" * (width - 1) if name else "-" * (width - 1) + ":"
        columns.append(
            [f"{cell:{'<' if name else '>'}{width}}" for cell in (cells[0], rule, *cells[1:])]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in zip(*columns, strict=True))


# What Markdown reads as markup: code, emphasis, strikethrough, mathematics, HTML, cells; links and
# entities by what follows. An underscore between letters or digits is plain text.
_MARKUP = re.compile(
    r"[\\`*~$<|]|&(?=#?\w+;)|\[(?=[^\]]*\][(\[])|(?<![^\W_])_|_(?![^\W_])", re.ASCII
)


def escape(text: str) -> str:
    """Text as Markdown that shows exactly this text, on one line."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.splitlines()))


def spread(values: Sequence[float | None], form: str) -> str:
    """Mean ± standard deviation (n - 1); with the number of defined values where some are not."""
    defined = pd.Series(values, dtype=float).dropna()
    if defined.empty:
        return NOT_AVAILABLE
    text = format(defined.mean(), form)
    if len(defined) > 1:
        text += f" ± {format(defined.std(), form.removeprefix('+'))}"
    return text if len(defined) == len(values) else f"{text} ({len(defined)} of {len(values)})"


def split_label(split: str) -> str:
    """The split's name; a random split leaks the future through the histories of other examples."""
    return "random (leaky)" if split == "random" else split


def model_rank(models: Iterable[str]) -> dict[str, int]:
    """Place of each model in tables, see LAST."""
    others = (model for model in models if model not in LAST)
    return {model: index for index, model in enumerate(dict.fromkeys((*FIRST, *others, *LAST)))}


def grouped(rows: Rows, keys: Sequence[str]) -> dict[tuple[Any, ...], dict[int, Any]]:
    """Key values -> seed -> row; sorted by the keys, models by their rank, if "model" is last.

    Raises ValueError for the same keys and seed twice.
    """
    groups: dict[tuple[Any, ...], dict[int, Any]] = {}
    for row in rows:
        by_seed = groups.setdefault(tuple(row[key] for key in keys), {})
        if row["seed"] in by_seed:
            raise ValueError(f"two rows for {[row[key] for key in keys]} with seed {row['seed']}")
        by_seed[row["seed"]] = row
    if keys[-1] != "model":
        return groups
    rank = model_rank(row["model"] for row in rows)
    return dict(sorted(groups.items(), key=lambda group: (*group[0][:-1], rank[group[0][-1]])))
