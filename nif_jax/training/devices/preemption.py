"""Notices of a preemption, such as SIGTERM: a run saves its state and exits with status 0.

One process handles SIGTERM. Several leave it to JAX: jax.distributed.initialize registers what
receives notices (on all platforms SIGTERM; JAX may add others), passes a notice of one process on
to all, and chooses the step at which all of them stop.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from nif_jax.training.devices.processes import is_writer


class Stopped(SystemExit):
    """Ends the process with status 0, because a notice came and all that is done is saved."""

    def __init__(self, place: str = ""):
        super().__init__(0)
        self.place = place


class _Notice:
    """What is known of a notice; it is sent to a process, so there is one for all runs."""

    received = False  # SIGTERM, by a process that is alone
    agreed = False  # by all processes: each stops at the same step
    deferred = False  # a training loop looks at it
    calls = 0  # of `requested`, which are the steps that JAX chooses among


@contextlib.contextmanager
def on_sigterm() -> Iterator[None]:
    """Makes SIGTERM stop the body: in `deferred` when that asks for it, elsewhere at once.

    A second SIGTERM ends the process as usual. In a run of several processes nothing but
    `deferred` is stopped, because the processes must stop at the same place; JAX keeps its handler,
    which ignores a second SIGTERM. Call it in the main thread after jax.distributed.initialize.

    Raises:
      Stopped: a notice came. A message says where the run stopped.
    """
    several = jax.distributed.is_initialized()

    def handle(number: int, _) -> None:
        signal.signal(number, signal.SIG_DFL)
        _Notice.received = True
        if not _Notice.deferred:
            raise Stopped

    before = None if several else signal.signal(signal.SIGTERM, handle)
    try:
        yield
    except Stopped as stopped:
        if not several or is_writer():
            place = f" {stopped.place}" if stopped.place else ""
            print(f"stopped by SIGTERM{place}; run the same command to go on", flush=True)
        raise
    finally:
        if not several:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        _Notice.received = _Notice.agreed = False


@contextlib.contextmanager
def deferred(place: Callable[[], str]) -> Iterator[None]:
    """Lets the body end by itself, which has to save its state where `requested` is true.

    Args:
      place: where the body has ended, for the message, e.g. "after step 8 of base".

    Raises:
      Stopped: after the body, if it was requested.
    """
    _Notice.deferred = True
    try:
        yield
    finally:
        _Notice.deferred = False
    if _Notice.agreed or _Notice.received:
        raise Stopped(place())


def requested() -> bool:
    """Whether to stop, the same on all processes, each of which has to call it at this place."""
    if jax.distributed.is_initialized() and not _Notice.agreed:
        _Notice.calls += 1
        _Notice.agreed = multihost_utils.reached_preemption_sync_point(_Notice.calls)
    return _Notice.agreed or _Notice.received
