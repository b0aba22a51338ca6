"""Items out of a pool, chunk by chunk."""

import numpy as np
import pytest

from nif_jax.serving import retrieval


@pytest.mark.parametrize("chunk", [4, 7, 100])
def test_chunks_give_the_best_items_that_are_not_left_out(monkeypatch, chunk):
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(30, 4)), rng.normal(size=(3, 4))
    pool = retrieval.Pool(rng.permutation(np.arange(1, 28)))
    group, item = np.array([0, 0, 1, 2, 2]), np.array([5, 9, 5, 1, 29])
    place = pool.places(item)
    assert place.tolist() == [4, 8, 4, 0, -1]
    items, there = pool.best(vectors, queries, 26, group, place)
    for g in range(3):
        left_out = set(item[group == g])
        expected = [i for i in np.argsort(-(vectors @ queries[g])) if 0 < i < 28]
        expected = [i for i in expected if i not in left_out][:26]
        assert items[g][there[g]].tolist() == expected
