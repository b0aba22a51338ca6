"""An artefact of the run of tests/inference, its model, requests, and services of it."""

import contextlib
import dataclasses
import shutil
import threading
import time

import httpx
import pytest
import uvicorn

from nif_jax import serving
from nif_jax.data.files import file_sha256
from nif_jax.serve.app import make_app
from nif_jax.serve.limits import Limits
from nif_jax.serve.redis_states import RedisStates
from nif_jax.serve.server import listen
from nif_jax.serve.service import Service
from nif_jax.serve.state_bytes import StateBytes
from nif_jax.serve.states import MemoryStates
from nif_jax.serving.artefact import MANIFEST
from tests.inference import conftest as inference
from tests.inference.period import given
from tests.serve.redis_server import RedisServer

VARIANT = "hybrid"  # has every program: flow, state and beams

inference_folder, finished = inference.inference_folder, inference.finished
restored, load, artefacts = inference.restored, inference.load, inference.artefacts


@pytest.fixture(scope="session")
def artefact(artefacts):
    """A folder."""
    return artefacts(VARIANT)


@pytest.fixture(scope="session")
def digest(artefact):
    """Of the artefact."""
    return file_sha256(artefact / MANIFEST)


@pytest.fixture(scope="module")
def model(artefact):
    """Of the artefact; of each module, after which compiled programs are dropped."""
    return serving.load(artefact)


@pytest.fixture(scope="session")
def requests(restored):
    """60 requests of the test period as JSON, with movelines and several items each."""
    run = restored(VARIANT).run
    names = run.dataset.movelines.vocabulary["item"]
    found = []
    for number, request in enumerate(given(run, "online")[:60]):
        items = [names[(number + 3 * place) % len(names)] for place in range(1 + number % 20)]
        one = dataclasses.asdict(dataclasses.replace(request, items=items))
        found.append({name: value for name, value in one.items() if value})
    return found


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """A server of this session, or a skip."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    with contextlib.closing(RedisServer(tmp_path_factory.mktemp("redis"))) as server:
        server.start()
        yield server


@pytest.fixture
def store(request, digest, model):
    """A new store of states, by the parameter "memory" or "redis"."""
    if request.param == "memory":
        return MemoryStates(1 << 20)
    server = request.getfixturevalue("redis_server")
    server.flush()
    return RedisStates(server.url, digest, StateBytes(digest, model.new_state()), 100)


@contextlib.contextmanager
def serve(model, states=None, seconds=60.0, **limits):
    """A client of a service in a thread of this process."""
    states = MemoryStates(1 << 20) if states is None else states
    service = Service(model, states, Limits(seconds=seconds, **limits), {"variant": model.variant})
    config = uvicorn.Config(make_app(service), log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    with contextlib.closing(listen("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        # Connections are not shared between requests: each of a hundred at once has its own.
        limits = httpx.Limits(max_connections=200)
        with httpx.Client(base_url=url, timeout=30, limits=limits, trust_env=False) as client:
            client.service = service
            yield client
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
