"""What GET /metrics shows, in the text format of Prometheus."""

import functools
from collections.abc import Callable

import jax.monitoring
import prometheus_client as prometheus
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Metrics:
    """Of one service, in a registry of its own."""

    def __init__(self) -> None:
        """Makes all of them, at 0."""
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self.requests = prometheus.Counter(
            "nif_jax_requests_total",
            "Requests that were answered.",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self.seconds = prometheus.Histogram(
            "nif_jax_request_seconds",
            "From the headers of a request to its answer.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch_requests = prometheus.Histogram(
            "nif_jax_batch_requests",
            "Requests that the model worked on together.",
            ["kind"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.batch_seconds = prometheus.Histogram(
            "nif_jax_batch_seconds",
            "Time of the model for a batch.",
            ["kind"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.candidates = prometheus.Counter(
            "nif_jax_candidates_total", "Candidates that were scored.", registry=self.registry
        )
        self.events = prometheus.Counter(
            "nif_jax_events_total", "Events that states were updated by.", registry=self.registry
        )
        self.gauge(
            "nif_jax_programs_compiled",
            "Programs that JAX has compiled or read from its cache; constant after the start.",
            lambda: float(compiled()[0]),
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a value that is read when metrics are."""
        prometheus.Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of them."""
        return prometheus.generate_latest(self.registry)


@functools.cache
def compiled() -> list[int]:
    """[number of programs that this process has compiled since the first call of this function]."""
    count = [0]

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        count[0] += event == _COMPILED

    jax.monitoring.register_event_duration_secs_listener(listen)
    return count
