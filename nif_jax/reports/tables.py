"""Tables of results.json as text: models side by side, mean and standard deviation over seeds."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import pandas as pd

from nif_jax.reports.results import COSTS, METRICS, TITLES
from nif_jax.variants import SELECTED

Rows = Sequence[Mapping[str, Any]]
BySeed = Mapping[int, Mapping[str, Any]]  # seed -> row

CONTROLS = ("constant", "counters", "popularity")  # closed forms
CONTROL = "lightgbm"  # what many practitioners would use instead; a reference beside the base
BASELINES = (CONTROL, "lr", "fm", "fm_bpr", "deepfm", "dcn", "din", "sasrec", "sasrec_tsp", "hstu")
"""Published baselines; the strongest of them is another reference."""
_NIF = ("base", "nif", "tsp", "amen", "nif_labels", "amen_labels")
FIRST = (*CONTROLS, *BASELINES, *_NIF, "genci", "genci_quirks", "hybrid")
LAST = (SELECTED, "bayes")  # order of models in tables: FIRST, all others as they come, LAST
REFERENCE = "base"
BOUNDS = ("popularity", "bayes")
BAYES_SHARE = "share of the Bayes gap"
NOT_AVAILABLE = "n/a"
METRIC_TITLES = {name: name.upper() for name in METRICS} | TITLES
_POINTS = ("auc", "gauc", "rank")  # differences of these are in points of 0.01
_COUNTS = ("codes", "fillable", "prefixes", "train examples/s", "parameters", "peak RSS, MiB")
_FORMS = dict.fromkeys(_COUNTS, ",.0f") | {"perplexity": ".1f"}  # of all others .4f


class Table(NamedTuple):
    """Header [columns] and rows [rows][columns] of text; the first `labels` columns are names."""

    header: list[str]
    rows: list[list[str]]
    labels: int

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, str]], labels: int) -> Self:
        """A table of lines {column: text}; a column that a line lacks is empty there."""
        lines = list(lines)
        header = list(dict.fromkeys(column for line in lines for column in line))
        return cls(header, [[line.get(column, "") for column in header] for line in lines], labels)

    def lines(self) -> list[dict[str, str]]:
        """The lines as {column: text}."""
        return [dict(zip(self.header, row, strict=True)) for row in self.rows]


def join(parts: Sequence[Table], runs: Iterable[str] = ()) -> Table:
    """Several tables as one; "run" is the first column where the names of their runs are given."""
    names = [{"run": name} for name in runs] or [{}] * len(parts)
    lines, labels = [], 0
    for name, part in zip(names, parts, strict=True):
        labels = max(labels, len(name) + part.labels)
        lines += [name | line for line in part.lines()]
    return Table.of(lines, labels)


def comparison_table(rows: Rows) -> str:
    """Markdown of `comparison`."""
    return markdown(comparison(rows))


def comparison(rows: Rows) -> Table:
    """Metrics by model x split x history, mean ± standard deviation (n - 1) over seeds.

    The lift is AUC minus the AUC of `base` on the same split and history, in points (0.01 AUC),
    paired over the seeds that both have. `bayes_shares` is added where a simulator's bounds are.
    Raises ValueError for the same model, split, history and seed twice.
    """
    groups, lines = grouped(rows, ("split", "history", "model")), []
    bounded = {row["model"] for row in rows}.issuperset(BOUNDS)
    for (split, history, model), by_seed in groups.items():
        line = {"split": split_label(split), "history": history, "model": model}
        line["seeds"] = str(len(by_seed))
        for metric, title in METRIC_TITLES.items():
            line[title] = spread([row[metric] for row in by_seed.values()], ".4f")
        if bounded:
            bounds = (groups.get((split, history, bound), {}) for bound in BOUNDS)
            line[BAYES_SHARE] = spread(bayes_shares(by_seed, *bounds), ".3f")
        base = groups.get((split, history, REFERENCE), {})
        pairs = [(by_seed[s]["auc"], base[s]["auc"]) for s in by_seed if s in base]
        lifts = [None if None in pair else 100 * (pair[0] - pair[1]) for pair in pairs]
        line["ΔAUC vs base, pt"] = "–" if model == REFERENCE else spread(lifts, "+.2f")
        lines.append(line)
    return Table.of(lines, labels=4)


def bayes_shares(model: BySeed, popularity: BySeed, bayes: BySeed) -> list[float | None]:
    """(AUC - popularity) / (Bayes - popularity) of each seed that all three have.

    0 is the AUC of popularity, 1 that of the simulator's click probabilities; None where an AUC is
    undefined or popularity is no worse than Bayes.
    """
    shares: list[float | None] = []
    for seed in model.keys() & popularity.keys() & bayes.keys():
        value, low, high = (side[seed]["auc"] for side in (model, popularity, bayes))
        undefined = None in (value, low, high) or high <= low
        shares.append(None if undefined else (value - low) / (high - low))
    return shares


def differences(entries: Rows) -> Table:
    """Each model against each reference, with 95 % interval and verdict; see _POINTS for units."""
    lines = []
    for entry in sorted(entries, key=lambda e: (e["split"], e["history"], e["metric"])):
        line = {"split": split_label(entry["split"]), "history": entry["history"]}
        line["metric"] = difference_title(entry["metric"])
        line |= {side: entry[side] for side in ("model", "reference")} | difference_cells(entry)
        lines.append(line)
    return Table.of(lines, labels=6)


def difference_title(metric: str) -> str:
    """The metric and the unit that `difference_cells` uses for it."""
    return METRIC_TITLES[metric] + (", pt" if metric in _POINTS else "")


def difference_cells(entry: Mapping[str, Any]) -> dict[str, str]:
    """Number of seeds, mean ± standard deviation over them, 95 % interval, and verdict."""
    scale, form = (100, ".2f") if entry["metric"] in _POINTS else (1, ".4f")
    mean, sd, low, high = (
        None if entry[key] is None else scale * entry[key] for key in ("mean", "sd", "low", "high")
    )
    spread_of_seeds = "" if sd is None else f" ± {sd:{form}}"
    return {
        "seeds": str(entry["seeds"]),
        "difference": NOT_AVAILABLE if mean is None else f"{mean:+{form}}{spread_of_seeds}",
        "95 % interval": NOT_AVAILABLE if low is None else f"[{low:+{form}}, {high:+{form}}]",
        "verdict": entry["verdict"],
    }


def selection(entries: Rows) -> Table:
    """The selected variant of each seed, and the validation metric of each candidate."""
    models = dict.fromkeys(model for entry in entries for model in entry["validation"])
    lines = []
    for entry in entries:
        metric = METRIC_TITLES.get(entry["metric"], entry["metric"])
        line = {"seed": str(entry["seed"]), "selected": entry["selected"], "metric": metric}
        scores = entry["validation"]
        lines.append(line | {model: spread([scores.get(model)], ".4f") for model in models})
    return Table.of(lines, labels=3)


def retrieval(entries: Rows) -> Table:
    """Retrieval metrics by split x targets x model."""
    labelled = [dict(entry) | {"split": split_label(entry["split"])} for entry in entries]
    return _summary(labelled, ("split", "targets", "model"), str.upper)


def calibration(entries: Rows) -> Table:
    """Metrics on test before and after calibration, by model, history and method."""
    return _summary(entries, ("model", "history", "method"), lambda name: name.replace("_", " "))


def semantic_ids(entries: Rows) -> Table:
    """How a catalogue fills its codes, by form and level."""
    return _summary(entries, ("form", "level"), lambda name: name.replace("_", " "))


def costs(rows: Rows) -> Table:
    """Cost of each model: examples per second in training, parameters, peak memory in MiB."""
    runs = {}
    for row in rows:  # those of a model and seed on other splits and histories repeat its cost
        speed, parameters, peak = (row[key] for key in COSTS)
        cost = {"model": row["model"], "seed": row["seed"], "train examples/s": speed}
        peak = None if peak is None else peak / 2**20
        runs[row["model"], row["seed"]] = cost | {"parameters": parameters, "peak RSS, MiB": peak}
    return _summary(list(runs.values()), ("model",), str)


def _summary(rows: Rows, keys: Sequence[str], title: Callable[[str], str]) -> Table:
    """Keys, number of seeds, and `spread` of each measurement, for each group of rows."""
    names = dict.fromkeys(name for row in rows for name in row if name not in (*keys, "seed"))
    lines = []
    for group, by_seed in grouped(rows, keys).items():
        line = dict(zip(keys, map(str, group), strict=True)) | {"seeds": str(len(by_seed))}
        for name in names:
            values = [row.get(name) for row in by_seed.values()]
            line[title(name)] = spread(values, _FORMS.get(name, ".4f"))
        lines.append(line)
    return Table.of(lines, labels=len(keys) + 1)


def markdown(table: Table) -> str:
    """The table as aligned Markdown, readable as plain text too; "(no results)" without rows."""
    if not table.rows:
        return "(no results)\n"
    lines = [[escape(cell) for cell in line] for line in (table.header, *table.rows)]
    columns = []
    for index, cells in enumerate(zip(*lines, strict=True)):
        width, name = max(3, *map(len, cells)), index < table.labels
        rule = ":" + "-" * (width - 1) if name else "-" * (width - 1) + ":"
        aligned = [cell.ljust(width) if name else cell.rjust(width) for cell in cells]
        columns.append([aligned[0], rule, *aligned[1:]])
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
