"""The service as a process: killed, ended and started again, under load."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.serve_load import arrivals
from benchmarks.service import Connections, make_cases, started
from nif_jax.serve import server

FLAGS = ("--most_batch=16", "--most_seconds=20")


@pytest.fixture(scope="module")
def cases(model):
    """Requests and their logits."""
    return make_cases(model, 60, 10)


class Sender:
    """Sends events, each with its id, until they are accepted, whatever is killed meanwhile."""

    def __init__(self, url, event):
        self.connections, self.event, self.failures = Connections(url), event, []

    async def send(self, number):
        call = {"user_id": f"user {number % 3}", "events": [self.event], "id": f"call {number}"}
        body = json.dumps(call).encode()
        for _ in range(2000):
            try:
                status, _, answer = await self.connections.post("/events", body)
            except (OSError, EOFError):
                status, answer = 0, b"no connection"
            if status == 200:
                return
            self.failures.append((status, answer))
            await asyncio.sleep(0.02)
        raise AssertionError(self.failures[-1])

    async def sizes(self, request):
        """Events of the state of each user, and its logits."""
        found = []
        for user in range(3):
            body = json.dumps(request | {"user_id": f"user {user}", "state": True})
            status, _, answer = await self.connections.post("/score", body.encode())
            assert status == 200, answer
            found.append(json.loads(answer))
        return found


async def redis_killed(url, cases, event, redis_server):
    """Outcomes of scores, while events are sent and Redis is killed and started."""
    sender, calls = Sender(url, event), []
    scores = asyncio.create_task(arrivals(url, cases, 40, 4, 0))
    for number in range(30):
        calls.append(asyncio.create_task(sender.send(number)))
        await asyncio.sleep(0.03)
        if number == 10:
            redis_server.kill()
        elif number == 20:
            await asyncio.to_thread(redis_server.start)
    await asyncio.gather(*calls)
    await sender.connections.aclose()
    assert {status for status, _ in sender.failures} == {503}
    assert all(b"Redis, which has the states" in text for _, text in sender.failures)
    return (await scores).count


async def service_killed(url, cases, process):
    """Outcomes of scores, while the service is killed."""
    scores = asyncio.create_task(arrivals(url, cases, 40, 2, 1))
    await asyncio.sleep(0.5)
    process.kill()
    return (await scores).count


async def sent_again(url, event, ask):
    """The states after every call has been sent, most of them for the second time."""
    sender = Sender(url, event)
    async with contextlib.aclosing(sender.connections):
        await asyncio.gather(*(sender.send(number) for number in range(36)))
        return await sender.sizes(ask)


async def terminated(url, request, process):
    """Answers to requests that wait when SIGTERM comes."""
    body = json.dumps(request).encode()
    async with contextlib.aclosing(Connections(url)) as connections:
        calls = [asyncio.create_task(connections.post("/score", body)) for _ in range(40)]
        # The others have been read by then, and wait.
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        process.send_signal(signal.SIGTERM)
        return [await call for call in calls]


def test_kills_under_load_lose_and_mix_nothing(artefact, model, cases, redis_server, requests):
    redis_server.flush()
    event = requests[-1]["moveline"][-1]
    ask = {name: requests[-1][name] for name in ("scene", "items")}
    ask["timestamp"] = event["timestamp"] + 60
    flags = (*FLAGS, f"--state={redis_server.url}")
    with started(artefact, *flags) as (process, url):
        count = asyncio.run(redis_killed(url, cases, event, redis_server))
        assert count["ok"] == count.total() > 50  # Redis has nothing to do with them
        count = asyncio.run(service_killed(url, cases, process))
        assert count["ok"] and count["lost"] and count["ok"] + count["lost"] == count.total()
    port = url.rpartition(":")[2]
    with started(artefact, *flags, f"--port={port}") as (process, _):
        found = asyncio.run(sent_again(url, event, ask))
        assert [one["events"] for one in found] == [12, 12, 12]
        for number, one in enumerate(found):
            given = ask | {"user_id": f"user {number}", "moveline": [event] * 12}
            np.testing.assert_allclose(one["logit"], model.score(given).logit, atol=1e-5)
        long = ask | {"user_id": "0", "items": ["1"] * 2000}
        for status, _, answer in asyncio.run(terminated(url, long, process)):
            assert status == 200 and len(json.loads(answer)["logit"]) == 2000
        assert process.wait(30) == 0
    with socket.socket() as closed, pytest.raises(ConnectionRefusedError):
        closed.connect(("127.0.0.1", int(port)))


def test_what_cannot_be_started_is_one_line(artefact, tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        faults = {
            f"--artefact={tmp_path}": "is no artefact: it has no manifest.json",
            f"--port={port}": f"--host=127.0.0.1 --port={port}: .*in use; choose another",
            "--port=99999": "--port=99999: .*; choose another",
            "--state=mysql://x": '--state=mysql://x: .*; or give "memory"',
            "--most_items=0": "--most_items is 0; give a positive number",
        }
        for flag, words in faults.items():
            with pytest.raises(SystemExit, match=f"error: .*{words}"):
                server.main([f"--artefact={artefact}", "--port=0", flag])


BLOCKED = ("flax", "optax", "orbax", "nif_jax.models", "nif_jax.stages", "nif_jax.training")
CODE = """
import runpy, sys
sys.modules.update(dict.fromkeys({blocked!r}))
sys.argv = ["serve", "--artefact=none"]
runpy.run_module("nif_jax.serve", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("blocked", "words"),
    [
        ((*BLOCKED, "nif_jax.experiment", "nif_jax.inference"), "none is no artefact"),
        (("uvicorn",), 'the service needs uvicorn: pip install "nif_jax[serve]"'),
    ],
)
def test_the_service_needs_no_code_of_models_and_names_a_missing_package(blocked, words):
    code = CODE.format(blocked=blocked)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1 and words in ran.stderr and "Traceback" not in ran.stderr
