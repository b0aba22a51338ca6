"""AUC by buckets against hand-computed values, and what is refused."""

import logging

import numpy as np
import pytest

from nif_jax.metrics.buckets import by_bucket


def test_buckets_by_hand(caplog):
    labels = [0, 1, 1, 1, 0]
    logits = [1.0, 2.0, 0.0, 3.0, 0.5]
    with caplog.at_level(logging.WARNING):
        rows = by_bucket(labels, logits, values=[0, 4, 5, 100, 0], edges=[0, 5, 7, 20])
    assert rows == [
        {"lower": 0, "upper": 5, "count": 3, "auc": 1.0},
        {"lower": 5, "upper": 7, "count": 1, "auc": None},
        {"lower": 7, "upper": 20, "count": 0, "auc": None},
        {"lower": 20, "upper": None, "count": 1, "auc": None},
    ]
    assert "bucket from 5 to 7 is undefined" in caplog.text
    assert "bucket from 7" not in caplog.text  # nothing there to warn of


@pytest.mark.parametrize(
    ("values", "edges", "message"),
    [
        ([0, -1], [0, 5], "below the first edge"),
        ([0, np.nan], [0, 5], "below the first edge"),
        ([0, 1], [0, np.inf], "leave infinity out"),
        ([0, 1], [5, 0], "rising"),
        ([0, 1], [], "rising"),
        ([0], [0], "values has shape"),
    ],
)
def test_bad_buckets(values, edges, message):
    with pytest.raises(ValueError, match=message):
        by_bucket([0, 1], [0.0, 1.0], values, edges)
