"""Load test of the service on loopback: open-loop Poisson arrivals, every answer checked.

    python -m benchmarks.serve_load --artefact=artefacts/nif [--seconds=60] [--items=100]
        [--shares=50,80,120] [--capacity=0]

Starts the service, measures its capacity (requests a second that 64 clients get answered, each
sending the next when it has an answer), and sends random requests at shares of it. A latency
begins at the moment that the request was to be sent, also if the client is late. Every answer 200
is compared with model.score, every 429 has to have Retry-After. Client and service share the cores.
"""

import argparse
import asyncio
import collections
import json
import pathlib
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.service import Case, Connections, make_cases, started

CLIENTS = 64
CLOSE = 1e-5
"""Largest difference of logits."""


TITLES = "| load | sent/s | sent | 200 | 429 | wrong | lost | others | p50 | p99 ms | 429 p99 |"


class Outcomes:
    """What requests were answered with.

    Attributes:
      count: "ok", "refused" (429), "wrong" (other scores than its own), "lost" (no answer),
        or the status of any other answer, to a number.
      seconds: latencies of each of them.
    """

    def __init__(self) -> None:
        """Of none yet."""
        self.count: collections.Counter[str] = collections.Counter()
        self.seconds: dict[str, list[float]] = collections.defaultdict(list)

    async def send(self, connections: Connections, case: Case, begin: float) -> None:
        """Sends a request that was to be sent at `begin`, and checks the answer."""
        try:
            status, headers, body = await connections.post("/score", case.body)
            found = self._check(case, status, headers, body)
        except (OSError, EOFError):
            found = "lost"
        self.count[found] += 1
        self.seconds[found].append(time.perf_counter() - begin)

    def _check(self, case: Case, status: int, headers, body: bytes) -> str:
        if status == 200:
            logit = np.array(json.loads(body)["logit"])
            same = logit.shape == case.logit.shape and np.abs(logit - case.logit).max() <= CLOSE
            return "ok" if same else "wrong"
        if status == 429 and int(headers["retry-after"]) >= 1:
            return "refused"
        return str(status)

    def milliseconds(self, kind: str, quantile: float) -> float:
        """Of latencies; NaN of none."""
        return 1e3 * float(np.quantile(self.seconds[kind] or [np.nan], quantile))


async def capacity_of(url: str, cases: Sequence[Case], seconds: float) -> tuple[float, Outcomes]:
    """Answers 200 a second to CLIENTS that send one request after another."""
    connections, found = Connections(url), Outcomes()
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        place = number
        while (now := time.perf_counter()) < end:
            await found.send(connections, cases[place % len(cases)], now)
            place += CLIENTS

    await asyncio.gather(*map(client, range(CLIENTS)))
    await connections.aclose()
    return found.count["ok"] / seconds, found


async def arrivals(
    url: str, cases: Sequence[Case], rate: float, seconds: float, seed: int
) -> Outcomes:
    """Sends `rate` requests a second, at random moments that do not depend on the answers."""
    rng, connections, found = np.random.default_rng(seed), Connections(url), Outcomes()
    gaps = rng.exponential(1 / rate, rng.poisson(rate * seconds))
    order = rng.integers(len(cases), size=len(gaps))
    begin, sent = time.perf_counter(), set()
    for moment, place in zip(begin + np.cumsum(gaps), order, strict=True):
        await asyncio.sleep(max(0.0, moment - time.perf_counter()))
        task = asyncio.create_task(found.send(connections, cases[place], moment))
        sent.add(task)
        task.add_done_callback(sent.discard)
    await asyncio.gather(*sent)
    await connections.aclose()
    assert found.count.total() == len(gaps), "a request has no outcome"
    return found


def report(share: float, rate: float, found: Outcomes) -> str:
    """A row of the table."""
    count, milliseconds = found.count, found.milliseconds
    others = {k: n for k, n in count.items() if k not in ("ok", "refused", "wrong", "lost")}
    return (
        f"| {share:.0%} | {rate:.0f} | {count.total()} | {count['ok']} | {count['refused']} "
        f"| {count['wrong']} | {count['lost']} | {others or '-'} "
        f"| {milliseconds('ok', 0.5):.1f} | {milliseconds('ok', 0.99):.1f} "
        f"| {milliseconds('refused', 0.99):.1f} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table; ends with status 1 if an answer was wrong, lost, or another error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_load")
    parser.add_argument("--artefact", required=True, type=pathlib.Path)
    parser.add_argument("--seconds", default=60.0, type=float, help="of each load")
    parser.add_argument("--items", default=100, type=int, help="mean candidates of a request")
    parser.add_argument("--shares", default="50,80,120", help="percent of the capacity")
    parser.add_argument("--capacity", default=0.0, type=float, help="requests/s; 0 = measure it")
    parser.add_argument("--cases", default=400, type=int, help="different requests")
    parser.add_argument("--serve", default="", help="further flags of the service")
    flags = parser.parse_args(arguments)
    from nif_jax import serving

    model = serving.load(flags.artefact)
    cases = make_cases(model, flags.cases, flags.items)
    with started(flags.artefact, *flags.serve.split()) as (_, url):
        rate = flags.capacity
        if not rate:
            measured = min(20.0, flags.seconds)
            rate, found = asyncio.run(capacity_of(url, cases, measured))
            print(f"{model.variant}: {rate:.0f} requests/s with {CLIENTS} clients, {found.count}")
        print(TITLES)
        bad = 0
        for percent in map(float, flags.shares.split(",")):
            share = percent / 100
            found = asyncio.run(arrivals(url, cases, share * rate, flags.seconds, int(percent)))
            print(report(share, share * rate, found), flush=True)
            bad += found.count.total() - found.count["ok"] - found.count["refused"]
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
