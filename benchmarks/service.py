"""The service as a process, and what a load test sends to it."""

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nif_jax.serving.model import Model
from nif_jax.serving.samples import event_of

ROOT = pathlib.Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def started(artefact: pathlib.Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that answers, and its URL; it is ended by SIGTERM."""
    command = [sys.executable, "-m", "nif_jax.serve", f"--artefact={artefact}", *flags]
    if not any(flag.startswith("--port=") for flag in flags):
        command.append("--port=0")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("http://"):
            raise RuntimeError(f"the service has not started, status {process.wait()}")
        yield process, line.split()[0]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@dataclasses.dataclass(frozen=True)
class Case:
    """A request to /score and the logits that it has to have."""

    body: bytes
    logit: np.ndarray


def make_cases(model: Model, count: int, items: int, seed: int = 0) -> list[Case]:
    """Requests of random users for 1 to 2 * `items` random items, each with other scores.

    One half has movelines of the run's data, by user_id, the other gives theirs.
    """
    rng, names, log = np.random.default_rng(seed), model.vocabulary, model.encoder.log
    now = int(log.rows.time.max()) + 60
    requests: list[dict[str, Any]] = []
    for number in range(count):
        user = int(rng.integers(len(names.user)))
        chosen = rng.integers(len(names.item), size=rng.integers(1, 2 * items + 1))
        request: dict[str, Any] = {
            "timestamp": now + number,
            "scene": str(rng.choice(names.scene)),
            "items": [str(names.item[item]) for item in chosen],
            "user_id": str(names.user[user]),
        }
        if number % 2:
            rows = np.arange(*log.offsets[user : user + 2])[-50:]
            rows = rows[log.rows.event[rows]]
            request["moveline"] = [event_of(names, log.rows, row) for row in rows]
        requests.append(request)
    return [Case(json.dumps(one).encode(), model.score(one).logit) for one in requests]


class Connections:
    """As many connections to a service as requests wait; each is used again when it is free.

    A small client: the load test shares its cores with the service.
    """

    def __init__(self, url: str):
        """Connects when something is sent."""
        address = urllib.parse.urlsplit(url)
        self._address, self._free = (address.hostname, address.port), list[Any]()

    async def post(self, path: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer.

        Raises:
          OSError, EOFError: there is no answer.
        """
        found = self._free.pop() if self._free else None
        reader, writer = found or await asyncio.open_connection(*self._address)
        try:
            head = f"POST {path} HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            answer = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            await _ended(writer)
            raise
        self._free.append((reader, writer))
        return int(first.split()[1]), headers, answer

    async def aclose(self) -> None:
        """Ends the free ones."""
        for _, writer in self._free:
            await _ended(writer)
        self._free.clear()


async def _ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):  # the other side was first
        await writer.wait_closed()
