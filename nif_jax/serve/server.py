"""The command: flags, and the server from its start to its end."""

import argparse
import contextlib
import dataclasses
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence

import uvicorn

import nif_jax
from nif_jax.data.files import file_sha256
from nif_jax.serve.app import make_app
from nif_jax.serve.limits import Limits
from nif_jax.serve.metrics import compiled
from nif_jax.serve.redis_states import RedisStates
from nif_jax.serve.service import Service
from nif_jax.serve.state_bytes import StateBytes
from nif_jax.serve.states import MemoryStates, States
from nif_jax.serve.warm_up import warm_up
from nif_jax.serve.work import Work
from nif_jax.serving.artefact import MANIFEST, ArtefactError
from nif_jax.serving.loading import load
from nif_jax.serving.model import Model

HELP = {
    "requests": "requests in progress at a time; further ones are answered 429",
    "seconds": "until a request is answered 504",
    "body": "bytes of a body",
    "items": "candidates of a request",
    "moveline": "events of a given moveline",
    "events": "events of a call of /events",
    "state_events": "events of a state",
    "batch": "requests that are scored together",
}
DAY = 86_400
KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than most proxies keep one, which would else
send a request into a connection that ends."""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(
        prog="python -m nif_jax.serve",
        description="Answers POST /score, /recommend, /events and GET /health, /metrics.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = found.add_argument
    add("--artefact", required=True, type=pathlib.Path, help="folder that --mode=export wrote")
    add("--host", default="127.0.0.1", help="address; the service has no authentication")
    add("--port", default=8000, type=int, help="0 = a free one, which the first line names")
    add("--state", default="memory", help='"memory", or the URL of Redis, redis://host:6379/0')
    add("--state_mib", default=512, type=int, help="states in memory; beyond, the oldest goes")
    add("--state_days", default=30, type=int, help="that Redis keeps a state after its last event")
    for field in dataclasses.fields(Limits):
        kind = float if field.name == "seconds" else int
        add(f"--most_{field.name}", default=field.default, type=kind, help=HELP[field.name])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then answers what is in progress and ends with status 0."""
    flags, begin = parser().parse_args(arguments), time.monotonic()
    with _one_line():
        limits, listening = limits_of(flags), listen(flags.host, flags.port)
    with contextlib.closing(listening):
        with _one_line():
            service = service_of(flags, limits)
        server = Server(make_app(service), limits, begin)
        # uvicorn raises the signal that ended it once more.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run([listening])


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Ends with status 1 and one line for what a user can mend."""
    try:
        yield
    except (ArtefactError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def service_of(flags: argparse.Namespace, limits: Limits) -> Service:
    """The service of an artefact, warm; raises ArtefactError, or ValueError for a wrong --state."""
    compiled()
    model, digest = load(flags.artefact), file_sha256(flags.artefact / MANIFEST)
    states = states_of(flags, model, digest)
    warm_up(Work(model, limits.state_events), limits)
    about = {"variant": model.variant, "artefact": digest, "version": nif_jax.__version__}
    return Service(model, states, limits, about)


class Server(uvicorn.Server):
    """Prints a line when requests are answered."""

    def __init__(self, app: object, limits: Limits, begin: float):
        """`begin` is time.monotonic() of the start."""
        wait = int(limits.seconds) + 1
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=wait,
            )
        )
        self._begin = begin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            seconds = time.monotonic() - self._begin
            print(f"http://{host}:{port} answers after {seconds:.1f} s", flush=True)


def limits_of(flags: argparse.Namespace) -> Limits:
    """Raises ValueError for a limit that is not positive."""
    found = {f.name: getattr(flags, f"most_{f.name}") for f in dataclasses.fields(Limits)}
    for name, value in found.items():
        if value <= 0:
            raise ValueError(f"--most_{name} is {value}; give a positive number")
    return Limits(**found)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; raises OSError with the address if there can be none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        raise OSError(f"--host={host} --port={port}: {error}; choose another") from error
    return found


def states_of(flags: argparse.Namespace, model: Model, digest: str) -> States:
    """The store of --state; raises ValueError for one that there is not."""
    if flags.state == "memory":
        return MemoryStates(flags.state_mib << 20)
    try:
        form = StateBytes(digest, model.new_state())
        return RedisStates(flags.state, digest, form, flags.state_days * DAY)
    except ValueError as error:
        raise ValueError(f'--state={flags.state}: {error}; or give "memory"') from error
