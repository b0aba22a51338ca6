"""Batches of requests: order, sizes, faults and cancelled requests. No model is needed."""

import asyncio
import itertools

import pytest

from nif_jax.serve.batcher import Batcher, Kind, fitting
from nif_jax.serve.metrics import Metrics


def run(test, kinds):
    """Runs a coroutine function of a Batcher that works."""

    async def of():
        batcher = Batcher(kinds, Metrics())
        batcher.start()
        try:
            return await test(batcher)
        finally:
            await batcher.stop()

    return asyncio.run(of())


@pytest.mark.parametrize(
    ("waiting", "taken"),
    [(0, 0), (1, 1), (2, 2), (16, 16), (17, 16), (63, 16), (64, 64), (128, 128), (129, 128)],
)
def test_batches_fill_their_size(waiting, taken):
    assert fitting(waiting) == taken


def test_what_waits_is_worked_on_together_in_order_and_within_limits():
    batches = []

    def work(inputs):
        batches.append(list(inputs))
        return [10 * x for x in inputs]

    async def test(batcher):
        return await asyncio.gather(*(batcher.submit("a", x, rows=40) for x in range(30)))

    kinds = {"a": Kind(work, most=8, most_rows=100)}
    assert run(test, kinds) == [10 * x for x in range(30)]
    assert list(itertools.chain(*batches)) == list(range(30))
    assert {len(batch) for batch in batches} == {2}
    batches.clear()
    kinds = {"a": Kind(work, most=8, most_rows=30)}
    assert run(test, kinds) == [10 * x for x in range(30)]
    assert {len(batch) for batch in batches} == {1}  # one that is too large alone is not refused


def test_the_kind_that_has_waited_longest_is_next():
    order = []

    def of(name):
        return Kind(lambda inputs: order.append(name) or inputs, most=2)

    async def test(batcher):
        await asyncio.gather(*(batcher.submit(name, name) for name in "abaabb"))

    run(test, {"a": of("a"), "b": of("b")})
    assert order == ["a", "b", "a", "b"]


def test_an_answer_that_is_an_error_and_a_fault_are_of_one_request():
    def work(inputs):
        if 3 in inputs:
            raise KeyError("a fault")
        return [ValueError("an error") if x == 5 else x for x in inputs]

    async def test(batcher):
        calls = (batcher.submit("a", x) for x in range(8))
        return await asyncio.gather(*calls, return_exceptions=True)

    found = run(test, {"a": Kind(work, most=8)})
    assert [x for x in found if isinstance(x, int)] == [0, 1, 2, 4, 6, 7]
    assert isinstance(found[3], KeyError) and isinstance(found[5], ValueError)


def test_a_wrong_number_of_answers_is_given_to_nobody():
    async def test(batcher):
        calls = (batcher.submit("a", x) for x in range(3))
        return await asyncio.gather(*calls, return_exceptions=True)

    found = run(test, {"a": Kind(lambda inputs: [1] * (len(inputs) + 1), most=8)})
    assert [type(x) for x in found] == [RuntimeError] * 3


def test_cancelled_requests_are_not_worked_on():
    worked = []

    def work(inputs):
        worked.extend(inputs)
        return inputs

    async def test(batcher):
        calls = [asyncio.ensure_future(batcher.submit("a", x)) for x in range(6)]
        await asyncio.sleep(0)  # all wait
        for call in calls[::2]:
            call.cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    found = run(test, {"a": Kind(work, most=4)})
    assert worked == [1, 3, 5] and found[1::2] == [1, 3, 5]
    assert all(isinstance(x, asyncio.CancelledError) for x in found[::2])
