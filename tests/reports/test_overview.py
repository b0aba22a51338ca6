"""Tables over many runs and curves of what was swept, by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from nif_jax.reports import curves, overview, page, results
from nif_jax.reports.workdirs import Workdir


def _rows(aucs, split="test"):
    """{model: [AUC of each seed]} as rows; the online ones are .1 higher."""
    return [
        {
            "model": model,
            "seed": seed,
            "split": split,
            "history": history,
            "auc": None if auc is None else auc + 0.1 * (history == "online"),
            "gauc": 0.6,
            "gauc_positives": 0.6,
            "ndcg@5": 0.5,
            "rank": 0.55,
            "logloss": 0.5,
            "ne": 0.9,
            "ece": 0.01,
            "pcoc": 1.1,
            "train_examples_per_second": None,
            "parameters": None,
            "peak_rss_bytes": None,
        }
        for model, values in aucs.items()
        for seed, auc in enumerate(values)
        for history in ("online", "frozen")
    ]


def _run(aucs, dataset="ml", train=1000, differences=(), **config):
    config = {"data.split": "temporal_user", "data.label_share": 1.0, "rows": list(aucs)} | {
        key.replace("__", "."): value for key, value in config.items()
    }
    split = "random" if config["data.split"] == "random" else "test"
    dataset = {"name": dataset, "impressions": {"train": train, "test": 500}, "items": 1682}
    return {
        "run": {"config": config, "dataset": dataset, "commit": "0123456789abcdef"},
        "rows": _rows(aucs, split),
        "differences": list(differences),
    }


def _workdirs(runs):
    """Label -> results.json as finished runs."""
    return [Workdir(label, Path(label), found, (), {}, None) for label, found in runs.items()]


def _fractions():
    """Base rises by .05 AUC each tenfold of labels; amen starts .05 higher and ends .02 higher."""
    return {
        "all": _run({"base": [0.70, 0.72], "amen": [0.73, 0.73], "din": [0.6, 0.6]}, train=10_000),
        "tenth": _run(
            {"base": [0.66], "amen": [0.71], "din": [0.5, 0.5]},
            train=1000,
            data__label_share=0.1,
            rows=["base"],
            num_seeds=1,
        ),
        "hundredth": _run(
            {"base": [0.61], "amen": [0.66], "din": [0.4, 0.4]}, train=100, data__label_share=0.01
        ),
    }


def test_overview_by_hand():
    lift = {
        "model": "amen",
        "reference": "base",
        "split": "test",
        "history": "frozen",
        "metric": "auc",
        "seeds": 2,
        "mean": 0.02,
        "sd": 0.01,
        "low": 0.005,
        "high": 0.035,
        "verdict": "better",
    }
    runs = {
        "a": _run(
            {"base": [0.70, 0.72], "amen": [0.73, 0.73]},
            differences=[lift, lift | {"reference": "din", "mean": 0.5}],
        ),
        "b": _run({"base": [0.5]}, dataset="logs", data__split="random"),
        "c": _run({"base": [0.6]}),
    }
    table = overview.overview(_workdirs(runs), ("frozen",))
    assert table.header[:9] == [
        "data set",
        "split",
        "run",
        "history",
        "model",
        "seeds",
        "AUC",
        "ΔAUC, pt vs base",
        "GAUC",
    ]
    assert [line[:8] for line in table.rows] == [
        ["ml", "temporal_user", "a", "frozen", "base", "2", "0.7100 ± 0.0141", "–"],
        [
            "ml",
            "temporal_user",
            "a",
            "frozen",
            "amen",
            "2",
            "0.7300 ± 0.0000",
            "+2.00 [+0.50, +3.50] better",
        ],
        ["ml", "temporal_user", "c", "frozen", "base", "1", "0.6000", "–"],
        ["logs", "random (leaky)", "b", "frozen", "base", "1", "0.5000", "–"],
    ]
    assert table.rows[1][9] == "n/a"  # no difference in GAUC was measured
    both = overview.overview(_workdirs(runs))
    assert [line[3] for line in both.rows[:4]] == ["online"] * 3 + ["frozen"]
    assert [line[6] for line in both.rows[:1]] == ["0.8100 ± 0.0141"]


def test_overview_has_the_share_of_the_bayes_gap_where_it_is_known():
    runs = {
        "sim": _run({"popularity": [0.5], "base": [0.6], "bayes": [0.7]}),
        "ml": _run({"base": [0.6]}),
    }
    table = overview.overview(_workdirs(runs), ("frozen",))
    shares = {
        (line[2], line[4]): line[table.header.index("share of the Bayes gap")]
        for line in table.rows
    }
    assert shares == {
        ("sim", "popularity"): "0.000",
        ("sim", "base"): "0.500",
        ("sim", "bayes"): "1.000",
        ("ml", "base"): "n/a",
    }


def test_run_differences_are_the_keys_that_differ():
    runs = {
        "a": _run({"base": [0.5]}, tsp__weight=0.1, ranker__tower=[8, 4]),
        "b": _run({"base": [0.5]}, tsp__weight=0.1, data__split="random", flow__horizon=3),
    }
    runs["b"]["run"] |= {"jax": "0.10.2", "commit": "0123456789abcdef"}
    runs["b"]["run"]["dataset"]["items"] = 7
    table = overview.run_differences(_workdirs(runs))
    assert table.header == ["key", "a", "b"]
    assert sorted(table.rows) == [
        ["data.split", "temporal_user", "random (leaky)"],
        ["dataset.items", "1682", "7"],
        ["flow.horizon", "–", "3"],
        ["jax", "–", "0.10.2"],
        ["ranker.tower", "[8, 4]", "–"],
    ]


def test_selections_of_all_runs_stand_together(tmp_path):
    validation = {"base": 0.7, "amen": 0.8}
    entry = {"seed": 3, "selected": "amen", "metric": "auc", "validation": validation}
    runs = {"one": _run({"base": [0.7]}), "two": _run({"base": [0.7]}) | {"selection": [entry]}}
    table = overview.section(_workdirs(runs), "selection")
    assert table.header == ["run", "seed", "selected", "metric", "base", "amen"]
    assert table.rows == [["two", "3", "amen", "AUC", "0.7000", "0.8000"]]
    for name, found in runs.items():
        results.write_results(tmp_path / name / "results.json", **found)
    paths = [str(tmp_path / name) for name in runs]
    text = page.write_many(paths, tmp_path / "tables.md", "command").read_text()
    assert "## Selected on validation" in text
    assert "Selected" not in page.write_many(paths[:1], tmp_path / "a.md", "command").read_text()


def test_a_family_differs_in_one_number_only():
    runs = _fractions()
    (family,) = curves.families(_workdirs(runs))
    assert (family.key, family.name) == ("data.label_share", "ml")
    assert list(family.labels) == [0.01, 0.1, 1.0]
    assert family.values("frozen")["base"] == {0.01: [0.61], 0.1: [0.66], 1.0: [0.70, 0.72]}
    assert list(family.values("frozen")) == ["din", "base", "amen"]
    other = _run({"base": [0.5]}, data__label_share=0.5, tsp__weight=0.2)
    assert len(curves.families(_workdirs(runs | {"other": other}))[0].labels) == 3
    assert curves.families(_workdirs({"a": runs["all"], "other": other})) == []


def test_families_of_a_grid_are_told_apart():
    grid = {
        f"{data} {weight} {share}": _run(
            {"base": [0.5]}, data, tsp__weight=weight, data__label_share=share, data__source=data
        )
        for data in ("ml", "logs")
        for weight in (0.1, 0.2)
        for share in (0.5, 1.0)
    }
    by_share = [f for f in curves.families(_workdirs(grid)) if f.key == "data.label_share"]
    assert [f.name for f in by_share] == [
        "ml: tsp.weight=0.1, data.source=ml",
        "ml: tsp.weight=0.2, data.source=ml",
        "logs: tsp.weight=0.1, data.source=logs",
        "logs: tsp.weight=0.2, data.source=logs",
    ]
    leaky = {
        str(share): _run({"base": [0.5]}, data__split="random", data__label_share=share)
        for share in (0.1, 1.0)
    }
    assert curves.families(_workdirs(leaky))[0].name == "ml (leaky)"


def test_switches_and_words_make_no_curve():
    for values in ((True, False), ("a", "b")):
        runs = {str(value): _run({"base": [0.5]}, flow__cache=value) for value in values}
        assert curves.families(_workdirs(runs)) == []


def test_runs_of_one_point_are_put_together():
    runs = _fractions()
    runs["again"] = _run({"base": [0.9], "nif": [0.8]}, train=1000, data__label_share=0.1)
    (values,) = [family.values("frozen") for family in curves.families(_workdirs(runs))]
    assert values["nif"] == {0.1: [0.8]}
    assert values["base"][0.1] == [0.66]  # of the same seed the first run counts


def test_labels_needed_are_log_linear():
    labels, areas = [100, 1000, 10_000], [0.61, 0.66, 0.71]
    assert curves.labels_needed(labels, areas, 0.71) == (pytest.approx(10_000), False)
    halfway = 1000 * math.sqrt(10)
    assert curves.labels_needed(labels, areas, 0.685) == (pytest.approx(halfway), False)
    assert curves.labels_needed(labels, areas, 0.61) == (100, True)
    assert curves.labels_needed(labels, areas, 0.72) == (None, False)
    # A curve that falls again has been there.
    assert curves.labels_needed(labels, [0.5, 0.7, 0.6], 0.7)[0] == pytest.approx(1000)


def test_labels_saved_by_hand():
    table = curves.labels_saved(_workdirs(_fractions()))
    assert [line[:5] for line in table.rows if line[1] == "frozen"] == [
        ["ml", "frozen", "din", "2", "0.7100"],
        ["ml", "frozen", "amen", "1–2", "0.7100"],
    ]
    cells = {(line[1], line[2]): line[5:] for line in table.rows}
    assert cells["frozen", "din"] == ["not reached", "n/a", "n/a"]
    assert cells["frozen", "amen"] == ["1,000 of 10,000", "10.0%", "90.0%"]
    assert cells["online", "amen"] == cells["frozen", "amen"]
    runs = _fractions()
    runs["hundredth"]["rows"] = _rows({"base": [0.61], "amen": [0.75]})
    cells = {(line[1], line[2]): line[5:] for line in curves.labels_saved(_workdirs(runs)).rows}
    assert cells["frozen", "amen"] == ["≤ 100 of 10,000", "≤ 1.0%", "≥ 99.0%"]


def test_other_keys_save_no_labels():
    runs = {str(w): _run({"base": [0.5], "tsp": [0.6]}, tsp__weight=w) for w in (0.1, 0.2)}
    assert curves.labels_saved(_workdirs(runs)).rows == []


def test_the_curve_shows_means_and_spreads(monkeypatch):
    seen = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (seen.append(self), save(self, *a, **k))
    )
    (family,) = curves.families(_workdirs(_fractions()))
    assert curves.curve_plot(family).startswith(b"\x89PNG")
    online, frozen = seen[0].axes
    assert frozen.get_xscale() == "log"
    base = frozen.containers[1]
    assert base.get_label() == "base"
    np.testing.assert_allclose(base.lines[0].get_xydata(), [[0.01, 0.61], [0.1, 0.66], [1, 0.71]])
    top = base.lines[2][0].get_segments()[-1]
    np.testing.assert_allclose(top[:, 1], 0.71 + np.array([-1, 1]) * 0.02 / math.sqrt(2))
    assert online.get_title("left") == "online histories"
