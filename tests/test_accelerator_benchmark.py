"""The benchmark of accelerators: its count of products, and parts that fail."""

import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import accelerator_parts, matmuls
from benchmarks.matmuls import Product


def flops(fn, *arguments):
    return sum(product.flops for product in matmuls.products(fn, *arguments))


def test_products_count_as_often_as_they_run():
    left, right = jnp.ones((5, 2, 3)), jnp.ones((5, 3, 7))
    assert matmuls.products(jnp.matmul, left, right) == [Product(5, 2, 7, 3)]

    def looped(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=6)[0]

    square = jnp.ones((4, 4))
    assert flops(looped, square) == 6 * 2 * 4**3
    # A gradient has two products for each one, XLA's count of a program without a loop agrees.
    gradient = jax.grad(lambda a, b: ((a @ b) ** 2).sum(), (0, 1))
    assert flops(gradient, square, square) == 3 * 2 * 4**3
    counted = jax.jit(gradient).lower(square, square).cost_analysis()["flops"]
    assert abs(counted - 3 * 2 * 4**3) <= 4 * 4**2  # the square and its derivative

    def branches(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert flops(branches, square) == 2 * 2 * 4**3
    with pytest.raises(ValueError, match="unknown length"):
        flops(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x), square)


def test_a_part_that_fails_or_is_late_keeps_its_rows_and_its_reason():
    row = f'print(\'{accelerator_parts.ROW}{{"case": "first"}}\', flush=True)'
    command = [sys.executable, "-c", f"{row}; raise MemoryError('too large')"]
    rows, error = accelerator_parts.run_process(command, 60)
    assert rows == [{"case": "first"}] and error == "MemoryError: too large"
    command = [sys.executable, "-c", f"import time; {row}; time.sleep(60)"]
    rows, error = accelerator_parts.run_process(command, 5)
    assert rows == [{"case": "first"}] and error == "stopped after 5 s"
    lines = accelerator_parts.table(
        {"mfu": {"rows": [{"case": "one", "error": "no\nmemory"}], "error": error}}
    )
    assert "| mfu | one |  | no memory |" in lines and "| mfu | stopped after 5 s |" in lines
