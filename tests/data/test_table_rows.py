"""Rows that stand in for their table."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nif_jax.data.table_rows import TableRows

N, D = 9, 3
TABLE = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=12), st.integers(0, 99))
def test_rows_read_as_the_table_does(ids, seed):
    rows = jnp.sort(jnp.array(ids))
    wanted = np.random.default_rng(seed).choice(ids, (2, 4))
    weights = np.random.default_rng(seed).normal(size=(2, 4, D)).astype(np.float32)

    def total(values):
        return (TableRows(rows, values, N)[wanted] * weights).sum()

    found, slope = jax.value_and_grad(total)(TABLE[rows])
    np.testing.assert_allclose(found, (TABLE[wanted] * weights).sum(), rtol=1e-4, atol=1e-5)
    expected = jax.grad(lambda table: (table[wanted] * weights).sum())(jnp.array(TABLE))
    # The gradient of a row is with the first of equal ids.
    np.testing.assert_allclose(np.zeros((N, D)), expected.at[rows].set(0), atol=0)
    first = np.append(True, np.diff(rows) > 0)
    np.testing.assert_allclose(slope, np.where(first[:, None], expected[rows], 0), rtol=1e-5)


def test_other_rows_are_no_numbers():
    rows = TableRows(jnp.array([2, 4, 4]), jnp.array(TABLE[[2, 4, 4]]), N)
    found = np.asarray(rows[np.array([0, 2, 3, 4, 8])])
    assert np.isnan(found[[0, 2, 4]]).all()
    np.testing.assert_array_equal(found[[1, 3]], TABLE[[2, 4]])
    assert rows.shape == (N, D) and len(rows) == N and rows.dtype == np.float32
