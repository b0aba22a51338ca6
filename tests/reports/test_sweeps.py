"""What a sweep's gathered tables say, against figures worked out by hand."""

import datetime
import json
import os

import numpy as np
import pytest

from nif_jax.metrics import ctr
from nif_jax.reports import overview, page, results, workdirs
from nif_jax.reports.scores import Scores, write_scores

DAY = datetime.datetime(2026, 11, 25, 12, tzinfo=datetime.UTC)


def _row(model, seed, auc, history="frozen", **more):
    return (
        dict.fromkeys(results.ROW_KEYS)
        | {
            "model": model,
            "seed": seed,
            "split": "test",
            "history": history,
            "auc": auc,
            "gauc": 0.5,
            "logloss": 0.5,
        }
        | more
    )


def _workdir(folder, rows, validation=(), **extra):
    config = {"train.metric": "auc", "eval.resample_unit": "user", "eval.resamples": 50}
    run = {
        "config": config,
        "commit": "abc",
        "jax": "1",
        "flax": "2",
        "devices": ["CPU_0"],
        "dataset": {"name": "toy", "test_fingerprint": "f"},
    }
    results.write_results(folder / "results.json", run, rows, **extra)
    os.utime(folder / "results.json", (DAY.timestamp(),) * 2)
    lines = [
        {"seed": seed, "stage": stage, "step": step, "time": 0.0, "values": values}
        for seed, stage, step, values in validation
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def sweep(tmp_path):
    """Two seeds of `full`, of which `less` has one, and a bucket table."""
    bucket = {"lower": 0, "upper": 7, "count": 5, "auc": 0.6}
    full = _workdir(
        tmp_path / "full",
        [
            _row("base", 0, 0.70),
            _row("base", 1, 0.71),
            _row("amen", 0, 0.72, logloss=0.4),
            _row("amen", 1, None),
        ],
        validation=[
            (0, "base", 4, {"validation/auc": 0.6}),
            (0, "base", 8, {"train/loss": 1.0}),
            (0, "base", 8, {"validation/auc": 0.8}),
            (1, "base", 4, {"validation/auc": 0.7}),
            (0, "generator", 4, {"validation/hr@10": 0.9}),
        ],
        retrieval=[
            {"model": "generator", "seed": 0, "split": "test", "targets": "all", "hr@10": 0.25}
        ],
        buckets={
            "item_age_days": {
                "base": [bucket, bucket | {"lower": 7, "upper": None, "count": 9, "auc": None}]
            }
        },
    )
    less = _workdir(tmp_path / "less", [_row("amen", 0, 0.725, logloss=0.45), _row("tsp", 0, 0.9)])
    doc = "\nAre toys fun?\n\n    python launch/sweep.py --data=<folder>\n\nThe paper says so.\n"
    return {
        "workdirs_of": {"full": full, "less": less},
        "references": {"full": "", "less": "full"},
        "with_buckets": ["full"],
        "configs": {"full": "configs/nif.py:synthetic", "less": "configs/nif.py:synthetic,a=1"},
        "doc": doc,
        "command": "python launch/sweep.py",
        "absent": {"none": "skipped"},
        "seconds": 5400.0,
    }


def _runs(sweep):
    return [workdirs.read(folder, name) for name, folder in sweep["workdirs_of"].items()]


LABELS, USERS = np.array([1, 0, 1, 0] * 20), np.repeat(np.arange(20), 4)


def _scores(folder, seed, **shift):
    """shift: model -> what a positive's logit has above a negative's, in standard deviations."""
    noise = np.random.default_rng(seed).normal(size=len(LABELS))
    logits = {model: {"frozen": noise + amount * LABELS} for model, amount in shift.items()}
    write_scores(folder / f"seed_{seed}" / "scores.npz", Scores(LABELS, USERS, "f", logits))
    return {model: ctr.auc(LABELS, one["frozen"]) for model, one in logits.items()}


def _cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_run_is_compared_with_its_reference_model_by_model(sweep, tmp_path):
    full, less = sweep["workdirs_of"].values()
    before = _scores(full, 0, base=0.0, amen=0.0)
    after = _scores(less, 0, amen=3.0)
    text = page.write_sweep(tmp_path / "toy.md", **sweep).read_text()
    lines = text.partition("## Differences from the run of reference\n\n")[2].splitlines()
    rows = [_cells(line) for line in lines[: lines.index("")]]
    auc = dict(zip(rows[0], rows[2], strict=True))
    assert (auc["run"], auc["model"], auc["against"]) == ("less", "amen", "amen of full")
    assert auc["difference"] == f"{100 * (after['amen'] - before['amen']):+.2f}"
    assert auc["verdict"] == "better" and "cannot be compared" not in text
    assert [row[1] for row in rows[2:]] == ["AUC, pt", "GAUC, pt", "rank, pt", "LogLoss"]


def test_a_run_without_its_reference_is_not_compared(sweep, tmp_path):
    less = sweep | {"workdirs_of": {"less": sweep["workdirs_of"]["less"]}}
    assert "Differences from" not in page.write_sweep(tmp_path / "toy.md", **less).read_text()


def test_validation_is_the_best_of_each_seed(sweep):
    table = overview.validation(_runs(sweep))
    assert table.rows == [["full", "base", "2", "auc", "0.7500 ± 0.0707"]]


def test_buckets_stand_side_by_side(sweep):
    table = overview.buckets(_runs(sweep)[:1])
    assert table.header[3:] == ["impressions", "base"]
    assert table.rows == [
        ["full", "item age days", "0 and below 7", "5", "0.6000"],
        ["full", "item age days", "7 and up", "9", "n/a"],
    ]


def test_the_document_has_question_command_and_tables(sweep, tmp_path):
    for folder in sweep["workdirs_of"].values():
        _scores(folder, 0, amen=0.0)
    path = page.write_sweep(tmp_path / "out" / "toy.md", **sweep)
    assert list((tmp_path / "out").iterdir()) == [path]
    text = path.read_text()
    assert text.startswith(
        "# toy: Are toys fun?\n\nThe paper says so.\n\n    python launch/sweep.py\n\n- 2 of 3"
    )
    assert "- 2 of 3 runs are finished\n- none: skipped\n" in text
    assert "seeds 0, 1; finished 2026-11-25; 1.50 hours" in text
    assert "commits abc; jax 1, flax 2" in text
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        "Click prediction on test",
        "Differences from the run of reference",
        "Best score on validation, for choosing",
        "Next-item retrieval over the whole catalogue",
        "AUC by bucket, online histories, first seed",
        "Configurations",
        "How to read this",
    ]
    assert "| less | configs/nif.py:synthetic,a=1 |" in text
    assert "- **no difference**: " in text
    assert str(tmp_path) not in text
