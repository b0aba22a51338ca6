"""scores.npz and the differences that are made of it."""

import numpy as np
import pytest

from nif_jax.metrics import ctr
from nif_jax.reports import results, significance
from nif_jax.reports.scores import Scores, fingerprint, read_scores, write_scores


def _scores(seed=0, quality=(("base", 0.5), ("amen", 2.5)), rows=300, **other):
    """Scores of models whose positives lie `quality` standard deviations above the negatives."""
    impressions, noise = np.random.default_rng(0), np.random.default_rng(seed)
    label, user = impressions.integers(0, 2, rows), impressions.integers(0, 40, rows)
    logits = {
        model: {
            history: (noise.normal(size=rows) + gap * label).astype(np.float32)
            for history in ("online", "frozen")
        }
        for model, gap in quality
    }
    return Scores(label.astype(np.int8), user.astype(np.int32), "abc", logits)._replace(**other)


def _compare(scores, **options):
    return significance.differences(scores, "test", unit="user", resamples=50, **options)


def test_scores_come_back(tmp_path):
    scores = _scores(quality=[("genci, level 1/2", 1.0), ("base", 0.0)])
    path = tmp_path / "seed_0" / "scores.npz"
    write_scores(path, scores)
    read = read_scores(path)
    assert read.fingerprint == "abc"
    assert list(read.logits) == ["genci, level 1/2", "base"]
    np.testing.assert_array_equal(read.label, scores.label)
    np.testing.assert_array_equal(read.user, scores.user)
    for model, by_history in scores.logits.items():
        for history, logits in by_history.items():
            assert read.logits[model][history].dtype == np.float32
            np.testing.assert_array_equal(read.logits[model][history], logits)
    assert [file.name for file in path.parent.iterdir()] == ["scores.npz"]


def test_files_that_are_no_scores_are_named(tmp_path):
    path = tmp_path / "scores.npz"
    with pytest.raises(FileNotFoundError, match=r"scores\.npz"):
        read_scores(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"scores\.npz is not a file of scores.*--mode=train"):
        read_scores(path)
    np.savez(path, label=np.zeros(2))
    with pytest.raises(ValueError, match="not a file of scores"):
        read_scores(path)


def test_a_fingerprint_is_of_everything_that_makes_an_impression():
    columns = [["u1", "u2"], ["i1", "i2"], [10, 20], [0, 1]]
    prints = {fingerprint(*columns)}
    assert fingerprint(*(np.array(column, object) for column in columns)) in prints
    for column, other in enumerate((["u1", "u3"], ["i2", "i1"], [10, 21], [1, 1])):
        prints.add(fingerprint(*columns[:column], other, *columns[column + 1 :]))
    prints.add(fingerprint(*(column[::-1] for column in columns)))
    assert len(prints) == 6


def test_a_hybrid_and_an_ablation_against_what_they_are_made_of():
    names = ("base", "amen", "genci", "genci_no_ssr", "hybrid")
    found = _compare({0: _scores(quality=[(name, 0.5) for name in names])})
    pairs = {(e["model"], e["reference"]) for e in found}
    assert pairs - {(name, "base") for name in names} == {
        ("genci_no_ssr", "genci"),
        ("hybrid", "amen"),
        ("hybrid", "genci"),
    }


def test_every_model_against_base_by_history_and_metric():
    found = _compare({0: _scores(0), 1: _scores(1)})
    assert [(e["model"], e["reference"], e["history"], e["metric"], e["seeds"]) for e in found] == [
        ("amen", "base", history, metric, 2)
        for history in ("online", "frozen")
        for metric in ("auc", "gauc", "rank", "logloss")
    ]
    results.check_results({"run": {}, "rows": [], "differences": found})
    lifts = []
    for seed in (0, 1):
        one = _scores(seed)
        amen, base = (ctr.auc(one.label, one.logits[m]["online"]) for m in ("amen", "base"))
        lifts.append(amen - base)
    assert found[0]["mean"] == pytest.approx(np.mean(lifts))
    assert found[0]["sd"] == pytest.approx(np.std(lifts, ddof=1))
    assert found[0]["verdict"] == "better"
    assert found[0]["low"] < found[0]["mean"] < found[0]["high"]


def test_the_strongest_baseline_is_a_reference_too():
    quality = [("popularity", 0.2), ("din", 1.0), ("lr", 0.6), ("base", 0.8), ("amen", 1.5)]
    scores = {0: _scores(quality=quality)}
    assert significance.strongest_baseline(scores) == "din"
    pairs = {(e["model"], e["reference"]) for e in _compare(scores)}
    assert pairs == {(m, "base") for m in ("popularity", "din", "lr", "amen")} | {
        (m, "din") for m in ("popularity", "lr", "base", "amen")
    }
    assert significance.strongest_baseline({0: _scores()}) is None


def test_a_pair_is_compared_over_the_seeds_that_both_have():
    scores = {0: _scores(0), 1: _scores(1, quality=[("base", 0.5)]), 2: _scores(2)}
    assert {entry["seeds"] for entry in _compare(scores)} == {2}
    resampled = significance.resample(scores, unit="user", resamples=5)
    assert significance.compare(resampled, resampled, [("amen", "din")], "test") == []
    assert _compare({0: _scores(quality=[("amen", 1.0)])}) == []  # nothing to compare with


def test_the_same_scores_are_no_difference():
    same = _scores()
    same.logits["amen"] = same.logits["base"]
    assert {entry["verdict"] for entry in _compare({0: same})} == {"no difference"}


def test_other_impressions_are_refused():
    with pytest.raises(ValueError, match=r"seeds \[0, 1\] were tested on different impressions"):
        _compare({0: _scores(0), 1: _scores(1, fingerprint="def")})


def test_workdirs_are_compared_on_the_same_resamples():
    one, other = ({0: _scores(quality=[("base", gap)])} for gap in (0.5, 0.9))
    both = {
        0: one[0]._replace(logits={"base": one[0].logits["base"], "amen": other[0].logits["base"]})
    }
    first, second = (significance.resample(s, unit="user", resamples=50) for s in (one, other))
    across = significance.compare(second, first, [("base", "base")], "test")
    within = _compare(both)
    assert len(across) == 8
    assert [{**entry, "model": "amen"} for entry in across] == within
