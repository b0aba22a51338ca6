"""Requests that wait are worked on together, by one thread, one batch at a time.

The event loop owns the queues. The thread gets a list of inputs and returns an answer for each, in
their order; it has no access to what else waits.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nif_jax.serve.metrics import Metrics
from nif_jax.serving.batching import SIZES, size_of

FEW = 16
"""Requests to which padding costs little. Where requests are worked on one by one, a batch has no
more of them, because others wait for it."""


def fitting(waiting: int) -> int:
    """How many of the requests that wait make a batch: all, if they fill half of the size that they
    are padded to, or that is small."""
    if waiting > SIZES[-1]:
        return waiting
    size = size_of(waiting)
    return waiting if size <= FEW or 2 * waiting >= size else max(s for s in SIZES if s < size)


@dataclasses.dataclass(frozen=True)
class Kind:
    """How requests of a kind are worked on.

    Attributes:
      work: inputs to an answer each, which may be an exception in its place. It may be called again
        with the same inputs.
      most: requests of a batch.
      most_rows: candidates of a batch of several requests.
    """

    work: Callable[[Sequence[Any]], Sequence[Any]]
    most: int = 1
    most_rows: int = SIZES[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    number: int
    given: Any
    rows: int
    answer: asyncio.Future[Any]


class Batcher:
    """Queues of requests, one for each kind, and the thread that works on them.

    Attributes:
      request_seconds: moving average of the thread's time for a request.
    """

    def __init__(self, kinds: Mapping[str, Kind], metrics: Metrics):
        """Takes kinds by their names."""
        self._kinds, self._metrics = kinds, metrics
        self._waiting = {name: collections.deque[_Job]() for name in kinds}
        self._numbers, self._arrived = itertools.count(), asyncio.Event()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="model")
        self._running: asyncio.Task[None] | None = None
        self.request_seconds = 0.0

    @property
    def waiting(self) -> int:
        """Requests that no batch has taken yet."""
        return sum(map(len, self._waiting.values()))

    async def submit(self, kind: str, given: Any, rows: int = 1) -> Any:
        """The answer to one input; raises the exception that is in its place.

        A caller that is cancelled while its input waits is left out.
        """
        answer = asyncio.get_running_loop().create_future()
        self._waiting[kind].append(_Job(next(self._numbers), given, rows, answer))
        self._arrived.set()
        return await answer

    def start(self) -> None:
        """Begins to work; called on the event loop."""
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends once the batch in work is done; what waits is cancelled."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        for jobs in self._waiting.values():
            for job in jobs:
                job.answer.cancel()
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            name, jobs = self._next()
            if jobs:
                begin = time.perf_counter()
                await self._work(name, jobs)
                each = (time.perf_counter() - begin) / len(jobs)
                self.request_seconds += 0.05 * (each - self.request_seconds)
            else:
                self._arrived.clear()

    def _next(self) -> tuple[str, list[_Job]]:
        """The batch of the kind whose first request has waited longest; empty if none waits."""
        for jobs in self._waiting.values():
            while jobs and jobs[0].answer.done():
                jobs.popleft()
        firsts = [(jobs[0].number, name) for name, jobs in self._waiting.items() if jobs]
        if not firsts:
            return "", []
        name = min(firsts)[1]
        kind, waiting = self._kinds[name], self._waiting[name]
        most, rows = min(kind.most, fitting(len(waiting))), 0
        found = list[_Job]()
        while waiting and len(found) < most:
            rows += waiting[0].rows
            if found and rows > kind.most_rows:
                break
            job = waiting.popleft()
            if not job.answer.done():
                found.append(job)
        return name, found

    async def _work(self, name: str, jobs: Sequence[_Job]) -> None:
        """Works on a batch; if that fails, on each of its requests alone."""
        loop, begin = asyncio.get_running_loop(), time.perf_counter()
        inputs = [job.given for job in jobs]
        found = loop.run_in_executor(self._thread, _worked, self._kinds[name].work, inputs)
        await asyncio.wait([found])
        self._metrics.batch_requests.labels(name).observe(len(jobs))
        self._metrics.batch_seconds.labels(name).observe(time.perf_counter() - begin)
        error = found.exception()
        if error is None:
            for job, answer in zip(jobs, found.result(), strict=True):
                _give(job, answer)
        elif len(jobs) == 1:
            _give(jobs[0], error)
        else:
            for job in jobs:
                await self._work(name, [job])


def _worked(work: Callable[[Sequence[Any]], Sequence[Any]], inputs: Sequence[Any]) -> Sequence[Any]:
    answers = work(inputs)
    if len(answers) != len(inputs):
        raise RuntimeError(f"{len(answers)} answers to {len(inputs)} requests")
    return answers


def _give(job: _Job, answer: Any) -> None:
    if job.answer.done():  # the request has timed out
        return
    if isinstance(answer, BaseException):
        job.answer.set_exception(answer)
    else:
        job.answer.set_result(answer)
