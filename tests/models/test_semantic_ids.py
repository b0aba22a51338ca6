"""The prefix trie against Python sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nif_jax.data.schema import ConfigError
from nif_jax.models import semantic_ids


def catalogue(seed, items=12, digits=3, size=4):
    rng = np.random.default_rng(seed)
    whole = rng.permutation(size**digits)[:items]
    return np.stack([whole // size ** (digits - 1 - k) % size for k in range(digits)], 1)


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_children_are_those_of_real_items(seed):
    codes = catalogue(seed)
    ids = semantic_ids.build_semantic_ids(codes, 4)
    prefixes = {tuple(row[:k]) for row in codes for k in range(4)}
    found = {(): 0}
    for digit in range(3):
        for prefix in [p for p in prefixes if len(p) == digit]:
            nodes = semantic_ids.children(ids, digit, np.int32(found[prefix]), np.arange(4))
            for code, node in enumerate(np.asarray(nodes).tolist()):
                real = (*prefix, code) in prefixes
                assert (node >= 0) == real == ids.allowed[digit, found[prefix], code]
                if real:
                    found[*prefix, code] = node
    for item, row in enumerate(codes, start=1):
        for digit in range(3):
            assert ids.node[item, digit] == found[tuple(row[: digit + 1])]
        assert ids.item[found[tuple(row)]] == item
        np.testing.assert_array_equal(ids.code[item], row + 1)


def test_padding_has_no_code_and_no_node():
    ids = semantic_ids.build_semantic_ids(catalogue(0), 4)
    assert not ids.code[0].any()
    assert (ids.node[0] == -1).all()
    assert int(semantic_ids.children(ids, 1, np.int32(-1), 2)) == -1


def test_a_last_digit_numbers_items_that_collide_if_any_do():
    codes = np.array([[1, 2], [0, 0], [1, 2], [1, 2], [0, 1]])
    found = semantic_ids.add_digit(codes, 3)
    np.testing.assert_array_equal(found, [[1, 2, 0], [0, 0, 0], [1, 2, 1], [1, 2, 2], [0, 1, 0]])
    with pytest.raises(ConfigError, match="3 items share one semantic ID, and the last digit"):
        semantic_ids.add_digit(codes, 2)
    np.testing.assert_array_equal(semantic_ids.add_digit(codes[[0, 1, 4]], 3), codes[[0, 1, 4]])


def test_keys_that_overflow_and_codes_that_repeat_are_refused():
    with pytest.raises(ConfigError, match="overflow int32"):
        semantic_ids.build_semantic_ids(np.zeros((3, 1), int), 2**30)
    with pytest.raises(ValueError, match="1 items share"):
        semantic_ids.build_semantic_ids(np.array([[0, 1], [0, 1]]), 2)
