"""Codebook statistics on catalogues small enough to count."""

import numpy as np
import pytest

from nif_jax.metrics import codebook

CODES = np.array([[0, 1], [0, 1], [0, 2], [3, 1]])


def test_perplexity_runs_from_one_to_all():
    assert codebook.perplexity(np.zeros(5, int), 8) == pytest.approx(1)
    assert codebook.perplexity(np.arange(8), 8) == pytest.approx(8)
    assert codebook.perplexity(np.array([0, 0, 0, 1]), 4) == pytest.approx(
        np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    )


def test_collisions_count_items_and_not_groups():
    assert codebook.collision_rate(CODES) == 0.5
    assert codebook.collision_rate(CODES[1:]) == 0


def test_purity_by_hand():
    # Cohort 0 holds categories 1, 1, 2; cohort 3 holds category 2.
    assert codebook.purity(CODES[:, 0], np.array([1, 1, 2, 2])) == 0.75


def test_a_record_for_each_level():
    first, second = codebook.summarize(CODES, 8, np.array([1, 1, 2, 2]))
    assert (first["codes"], first["fillable"], first["prefixes"]) == (2, 4, 2)
    assert (first["collision_rate"], first["purity"]) == (0.75, 0.75)
    assert (second["level"], second["codes"], second["prefixes"]) == (2, 2, 3)
    assert (second["collision_rate"], second["purity"]) == (0.5, 1.0)
    assert codebook.summarize(CODES, 2)[0]["fillable"] == 2
    assert codebook.summarize(CODES, 2)[0]["purity"] is None
