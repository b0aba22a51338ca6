"""The matrix products of a program, counted from its jaxpr.

XLA counts the body of a loop once and cannot see into kernels of a library. Here a scan counts as
often as it runs. Model FLOPs are those of the float32 program, which calls no attention kernel, and
do not include what a checkpointed function computes again, because nothing is checkpointed below
attention.LONG.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Product(NamedTuple):
    """Matrix products of one place in a program.

    Attributes:
      times: how many, over loops and batch axes.
      rows, columns, inner: sizes of each.
    """

    times: int
    rows: int
    columns: int
    inner: int

    @property
    def flops(self) -> int:
        """Of all of them; a multiplication and an addition are two."""
        return 2 * self.times * self.rows * self.columns * self.inner


def products(fn: Callable, *arguments: Any) -> list[Product]:
    """All products of fn(*arguments), traced on the shapes of the arguments.

    Raises:
      ValueError: a product in a loop of unknown length.
    """
    import jax

    return list(_of(jax.make_jaxpr(fn)(*arguments).jaxpr, 1))


def _of(jaxpr: Any, times: int) -> Iterator[Product]:
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            yield _product(equation, times)
            continue
        inner = [list(_of(body, times * _repeats(name, params))) for body in _bodies(params)]
        if name == "while" and any(inner):
            raise ValueError(f"a matrix product in a loop of unknown length: {equation}"[:300])
        if name == "cond":  # one of the branches runs
            inner = [max(inner, key=lambda found: sum(p.flops for p in found))]
        for found in inner:
            yield from found


def _repeats(name: str, params: Any) -> int:
    return params["length"] if name == "scan" else 1


def _bodies(params: Any) -> Iterator[Any]:
    """The jaxprs among an equation's parameters, each once: a custom derivative's are functions."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            body = getattr(one, "jaxpr", one)
            if hasattr(body, "eqns"):
                yield body


def _product(equation: Any, times: int) -> Product:
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    left, right = (variable.aval.shape for variable in equation.invars)
    inner = math.prod(left[axis] for axis in contracted)
    outer = math.prod(left[axis] for axis in batch)
    rows = math.prod(left) // max(inner * outer, 1)
    columns = math.prod(right) // max(inner * outer, 1)
    return Product(times * outer, rows, columns, inner)
