"""Tables and results.json: hand-computed cells, and a schema that rejects what is wrong."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from nif_jax.reports import results, tables


def _row(model="base", seed=0, auc=0.75, split="test", history="frozen", **other):
    row = {
        "model": model,
        "seed": seed,
        "split": split,
        "history": history,
        "auc": auc,
        "gauc": 0.6,
        "gauc_positives": 0.6,
        "ndcg@5": 0.5,
        "rank": 0.55,
        "logloss": 0.5,
        "ne": 0.9,
        "ece": 0.01,
        "pcoc": 1.05,
        "train_examples_per_second": 1234.5,
        "parameters": 10_000,
        "peak_rss_bytes": 2**30,
    }
    return row | other


def _cells(markdown):
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown.strip().splitlines()
    ]
    return lines[0], lines[2:]


def test_comparison_by_hand():
    rows = [
        _row("din", auc=0.7, gauc=None),
        _row("amen", 0, 0.780),
        _row("amen", 1, 0.790),
        _row("tsp"),
        _row("nif"),
        _row("base", 0, 0.760),
        _row("base", 1, 0.775),
    ]
    header, lines = _cells(tables.comparison_table(rows))
    assert header == [
        "split",
        "history",
        "model",
        "seeds",
        "AUC",
        "GAUC",
        "GAUC by positives",
        "NDCG@5",
        "rank",
        "LogLoss",
        "NE",
        "ECE",
        "PCOC",
        "ΔAUC vs base, pt",
    ]
    assert [line[2] for line in lines] == ["din", "base", "nif", "tsp", "amen"]
    # Paired lifts of amen: 2.0 and 1.5 points, so 1.75 with standard deviation .5 / sqrt(2).
    assert lines[1][:5] == ["test", "frozen", "base", "2", "0.7675 ± 0.0106"]
    means = ("0.6000", "0.6000", "0.5000", "0.5500", "0.5000", "0.9000", "0.0100", "1.0500")
    assert lines[1][5:] == [*(f"{mean} ± 0.0000" for mean in means), "–"]
    assert lines[4][4:6] == ["0.7850 ± 0.0071", "0.6000 ± 0.0000"]
    assert lines[4][-1] == "+1.75 ± 0.35"
    assert lines[0] == ["test", "frozen", "din", "1", "0.7000", "n/a", *means[1:], "-6.00"]


def test_lift_is_against_base_of_the_same_history_split_and_seed():
    rows = [
        _row("base", 0, 0.70, history="online"),
        _row("base", 0, 0.72),
        _row("nif", 0, 0.75, history="online"),
        _row("nif", 0, 0.73),
        _row("nif", 1, 0.99),
        _row("nif", 0, 0.8, split="validation"),
    ]
    lifts = {tuple(line[:3]): line[-1] for line in _cells(tables.comparison_table(rows))[1]}
    assert lifts["test", "online", "nif"] == "+5.00"
    assert lifts["test", "frozen", "nif"] == "+1.00"  # seed 1 has no base to pair with
    assert lifts["validation", "frozen", "nif"] == "n/a"


def test_an_undefined_seed_is_told():
    rows = [_row(seed=0, auc=0.5), _row(seed=1, auc=None), _row(seed=2, auc=0.6)]
    assert _cells(tables.comparison_table(rows))[1][0][4] == "0.5500 ± 0.0707 (2 of 3)"


def test_the_random_split_is_labelled():
    assert _cells(tables.comparison_table([_row(split="random")]))[1][0][0] == "random (leaky)"


def test_the_same_row_twice_is_an_error():
    with pytest.raises(ValueError, match="seed 3"):
        tables.comparison_table([_row(seed=3), _row(seed=3)])


def test_share_of_the_bayes_gap_by_hand():
    nothing = {"train_examples_per_second": None, "parameters": None, "peak_rss_bytes": None}
    rows = [
        _row("popularity", auc=0.6),
        _row("popularity", 1, 0.62),
        _row("base", 0, 0.7),
        _row("base", 1, 0.72),
        _row("amen", 0, 0.78),
        _row("nif", 7),
        _row("bayes", auc=0.8, **nothing),
        _row("bayes", 1, 0.82, **nothing),
        _row("base", history="online"),
    ]
    header, lines = _cells(tables.comparison_table(rows))
    column = header.index("share of the Bayes gap")
    shares = {(line[1], line[2]): line[column] for line in lines}
    assert shares == {
        ("frozen", "popularity"): "0.000 ± 0.000",
        ("frozen", "base"): "0.500 ± 0.000",
        ("frozen", "amen"): "0.900",
        ("frozen", "bayes"): "1.000 ± 0.000",
        ("frozen", "nif"): "n/a",
        ("online", "base"): "n/a",
    }  # no bounds for these to stand between
    assert "share of the Bayes gap" not in tables.comparison(rows[1:6]).header


def test_no_gap_has_no_share():
    row = {0: _row(auc=0.7)}
    assert tables.bayes_shares(row, {0: _row(auc=0.8)}, {0: _row(auc=0.8)}) == [None]
    assert tables.bayes_shares(row, {0: _row(auc=None)}, {0: _row(auc=0.8)}) == [None]


def _difference(model="amen", reference="base", metric="auc", **other):
    return {
        "model": model,
        "reference": reference,
        "split": "test",
        "history": "frozen",
        "metric": metric,
        "seeds": 2,
        "mean": 0.0048,
        "sd": 0.0008,
        "low": 0.001,
        "high": 0.0086,
        "verdict": "better",
    } | other


def test_differences_by_hand():
    entries = [
        _difference(
            metric="logloss", mean=-0.0021, low=-0.004, high=0.0001, verdict="no difference"
        ),
        _difference(reference="din"),
        _difference("nif", sd=None, split="random"),
        _difference("nif", mean=None, sd=None, low=None, high=None, verdict="undefined"),
        _difference(),
    ]
    table = tables.differences(entries)
    assert table.rows == [
        [
            "random (leaky)",
            "frozen",
            "AUC, pt",
            "nif",
            "base",
            "2",
            "+0.48",
            "[+0.10, +0.86]",
            "better",
        ],
        [
            "test",
            "frozen",
            "AUC, pt",
            "amen",
            "din",
            "2",
            "+0.48 ± 0.08",
            "[+0.10, +0.86]",
            "better",
        ],
        ["test", "frozen", "AUC, pt", "nif", "base", "2", "n/a", "n/a", "undefined"],
        [
            "test",
            "frozen",
            "AUC, pt",
            "amen",
            "base",
            "2",
            "+0.48 ± 0.08",
            "[+0.10, +0.86]",
            "better",
        ],
        [
            "test",
            "frozen",
            "LogLoss",
            "amen",
            "base",
            "2",
            "-0.0021 ± 0.0008",
            "[-0.0040, +0.0001]",
            "no difference",
        ],
    ]


def test_retrieval_by_hand():
    where = {"split": "test", "targets": "all"}
    entries = [
        {"model": "popularity", "seed": 0, **where, "hr@10": 0.1, "mrr": None},
        {"model": "generator", "seed": 0, **where, "hr@10": 0.2, "ndcg@10": 0.1},
        {"model": "generator", "seed": 1, **where, "hr@10": 0.3, "ndcg@10": 0.1},
    ]
    header, lines = _cells(tables.markdown(tables.retrieval(entries)))
    assert header == ["split", "targets", "model", "seeds", "HR@10", "MRR", "NDCG@10"]
    assert lines == [
        ["test", "all", "popularity", "1", "0.1000", "n/a", "n/a"],
        ["test", "all", "generator", "2", "0.2500 ± 0.0707", "n/a", "0.1000 ± 0.0000"],
    ]


def test_calibration_by_hand():
    entry = {"model": "base", "history": "online", "method": "platt", "seed": 0, "ne_before": 1.1}
    other = entry | {"seed": 1, "ne_before": 1.3, "ne_after": 0.9}
    header, lines = _cells(tables.markdown(tables.calibration([entry | {"ne_after": 0.8}, other])))
    assert header == ["model", "history", "method", "seeds", "ne before", "ne after"]
    assert lines == [["base", "online", "platt", "2", "1.2000 ± 0.1414", "0.8500 ± 0.0707"]]


def _selection(**other):
    validation = {"base": 0.75, "nif": 0.8}
    entry = {"seed": 0, "selected": "nif", "metric": "auc", "validation": validation}
    return entry | other


def test_selection_by_hand():
    other = _selection(seed=1, selected="tsp", metric="mine", validation={"base": None, "tsp": 0.5})
    table = tables.selection([_selection(), other])
    assert table.header == ["seed", "selected", "metric", "base", "nif", "tsp"]
    assert table.rows == [
        ["0", "nif", "AUC", "0.7500", "0.8000", "n/a"],
        ["1", "tsp", "mine", "n/a", "n/a", "0.5000"],
    ]


def test_semantic_ids_by_hand():
    record = {
        "form": "ema",
        "level": 1,
        "codes": 7,
        "fillable": 8,
        "perplexity": 5.25,
        "prefixes": 7,
        "collision_rate": 0.5,
        "nearest_collision_rate": 0.75,
        "purity": None,
        "r2": 0.5,
    }
    table = tables.semantic_ids([{"seed": 0, **record}, {"seed": 1, **record, "codes": 9}])
    assert table.rows == [
        [
            "ema",
            "1",
            "2",
            "8 ± 1",
            "8 ± 0",
            "5.2 ± 0.0",
            "7 ± 0",
            "0.5000 ± 0.0000",
            "0.7500 ± 0.0000",
            "n/a",
            "0.5000 ± 0.0000",
        ]
    ]


def test_costs_count_a_training_run_once():
    rows = [_row(history="online"), _row(history="frozen"), _row(seed=1, parameters=None)]
    assert tables.costs(rows).rows == [["base", "2", "1,234 ± 0", "10,000 (1 of 2)", "1,024 ± 0"]]


def test_markdown_escapes_and_aligns():
    text = tables.markdown(tables.Table(["name", "x"], [["a|b", "1.5"]], labels=1))
    assert text == "| name |   x |\n| :--- | --: |\n| a\\|b | 1.5 |\n"
    assert tables.comparison_table([]) == "(no results)\n"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b_*c*", r"a\|b\_\*c\*"),
        ("<b>x", r"\<b>x"),
        ("_x_", r"\_x\_"),
        ("a\nb", "a b"),
        ("`c` ~d~ $e$ \\", r"\`c\` \~d\~ \$e\$ \\"),
        ("[a](b) &lt;", r"\[a](b) \&lt;"),
        ("data.label_share", "data.label_share"),
        ("+0.5 [+0.1, +0.9] better",) * 2,
        ("A & B",) * 2,
    ],
)
def test_names_are_shown_as_they_are(text, escaped):
    assert tables.escape(text) == escaped


def test_results_come_back_as_strict_json(tmp_path):
    path = tmp_path / "run" / "results.json"
    buckets = {
        "history_length": {
            "base": [{"lower": 0, "upper": None, "count": np.int64(3), "auc": float("inf")}]
        }
    }
    results.write_results(
        path,
        {"devices": (1, 2), "path": tmp_path, "vector": np.ones(2)},
        [_row(auc=np.float32(0.5), gauc=float("nan"), parameters=jnp.int32(7))],
        buckets=buckets,
        notes=["one"],
        differences=[_difference(sd=None, low=np.float64(0.5))],
        retrieval=[
            {"model": "generator", "seed": 0, "split": "test", "targets": "all", "hr@10": 0.5}
        ],
    )
    json.loads(path.read_text(), parse_constant=pytest.fail)
    read = results.read_results(path)
    assert read == results.read_results(path.parent)
    assert read["rows"] == [_row(auc=0.5, gauc=None, parameters=7)]
    assert read["differences"] == [_difference(sd=None, low=0.5)]
    assert read["run"] == {"devices": [1, 2], "path": str(tmp_path), "vector": [1.0, 1.0]}
    assert read["buckets"]["history_length"]["base"][0] == {
        "lower": 0,
        "upper": None,
        "count": 3,
        "auc": None,
    }
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def _without(key):
    row = _row()
    del row[key]
    return row


@pytest.mark.parametrize(
    ("rows", "extra", "message"),
    [
        ([_without("ece")], {}, r"rows\[0\]: missing keys \['ece'\]"),
        ([_row(), _row(typo=1)], {}, r"rows\[1\].*unknown keys \['typo'\]"),
        ([_row(history="offline")], {}, r"history must be one of \('online', .*, got 'offline'"),
        ([_row(seed=True)], {}, "seed must be an integer"),
        ([_row(model="")], {}, "model must be a name"),
        ([_row(auc="0.5")], {}, r"rows\[0\].auc must be a number"),
        ([_row(auc=True)], {}, r"rows\[0\].auc must be a number"),
        ({}, {}, "rows must be a list"),
        ([], {"differences": [{"model": "amen"}]}, r"differences\[0\]: missing keys"),
        ([], {"differences": [_difference(reference="")]}, "reference must be a name"),
        ([], {"differences": [_difference(history="offline")]}, "history must be one of"),
        ([], {"differences": [_difference(verdict="significant")]}, "'no difference'"),
        ([], {"differences": [_difference(seeds=True)]}, "seeds must be an integer"),
        ([], {"differences": [_difference(low="0")]}, "low must be a number"),
        ([], {"selection": [{"seed": 0}]}, r"selection\[0\]: missing keys"),
        (
            [],
            {"selection": [_selection(validation={"nif": "x"})]},
            "validation must be numbers by name",
        ),
        ([], {"retrieval": "one"}, "retrieval must be a list, got "),
        ([], {"retrieval": [{"model": "generator", "seed": 0}]}, r"retrieval\[0\]: missing"),
        (
            [],
            {
                "retrieval": [
                    {"model": "g", "seed": 0, "split": "test", "targets": "all", "mrr": "x"}
                ]
            },
            "mrr must be",
        ),
        ([], {"buckets": {"history_length": {"base": [{"lower": 0}]}}}, "missing keys"),
        ([], {"buckets": {"history_length": []}}, "these are no results"),
    ],
)
def test_a_broken_schema_is_named_and_leaves_the_old_file(tmp_path, rows, extra, message):
    path = tmp_path / "results.json"
    results.write_results(path, {}, [_row()])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        results.write_results(path, {}, rows, **extra)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_value_without_json_form_is_named(tmp_path):
    with pytest.raises(TypeError, match="JSON has no form for a function: <function _row"):
        results.write_results(tmp_path / "results.json", {"loss": _row}, [])


def test_a_failed_replace_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk")

    monkeypatch.setattr(results.os, "replace", fail)
    with pytest.raises(OSError, match="disk"):
        results.write_results(tmp_path / "results.json", {}, [])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_says_what_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no results at .*results\.json"):
        results.read_results(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run": {}}', '{"run": {}, "rows": [NaN]}'])
def test_a_corrupt_file_is_named(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"results\.json is damaged .*--mode=train writes"):
        results.read_results(path)
