"""The service as an ASGI application."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nif_jax.serve import bodies, metrics
from nif_jax.serve.errors import ServiceError
from nif_jax.serve.service import Service

LOG = logging.getLogger(__name__)

Call = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


def make_app(service: Service) -> Starlette:
    """Routes, and errors as JSON."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        status = await service.states.status()
        if status != "ok":
            LOG.warning("%s", status)
        yield
        await service.stop()

    async def health(request: Request) -> Response:
        return JSONResponse(await service.health())

    async def show_metrics(request: Request) -> Response:
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        choices = "POST /score, /recommend, /events, GET /health, /metrics"
        message = f"{request.method} {request.url.path}: {error.detail}; there is {choices}"
        found = ServiceError(error.status_code, message, "path")
        service.metrics.requests.labels("other", error.status_code).inc()
        return JSONResponse(found.content, found.status, error.headers)

    posts = {"score": service.score, "recommend": service.recommend, "events": service.events}
    routes = [Route(f"/{n}", _endpoint(service, n, c), methods=["POST"]) for n, c in posts.items()]
    routes += [Route("/health", health), Route("/metrics", show_metrics)]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: no_route})


def _endpoint(service: Service, name: str, call: Call) -> Callable[[Request], Awaitable[Response]]:
    """Reads the body, calls, and answers; counts what it answers."""

    async def respond(request: Request) -> Response:
        begin = time.perf_counter()
        response = await _answer(service, call, request)
        service.metrics.requests.labels(name, response.status_code).inc()
        service.metrics.seconds.labels(name).observe(time.perf_counter() - begin)
        return response

    return respond


async def _answer(service: Service, call: Call, request: Request) -> Response:
    error: ServiceError
    try:
        service.require_place()
        service.in_progress += 1
        try:
            return await _within_limits(service, call, request)
        finally:
            service.in_progress -= 1
    except ServiceError as found:
        error = found
    except ClientDisconnect:
        error = ServiceError(400, "the connection ended before the body did", "body")
    except Exception:
        # Any fault of this code or of the model: only this request fails.
        LOG.exception("an error of the service")
        error = ServiceError(500, "an error of the service; its log has the details")
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse(error.content, error.status, headers)


async def _within_limits(service: Service, call: Call, request: Request) -> Response:
    limits, reading = service.limits, True
    try:
        async with asyncio.timeout(limits.seconds):
            bodies.check_headers(request.headers, limits.body)
            body = await bodies.read(request.stream(), limits.body)
            reading = False
            return JSONResponse(await call(bodies.parse(body)))
    except TimeoutError as error:
        if reading:
            raise ServiceError(
                408, f"the body was not complete after {limits.seconds:g} s", "body"
            ) from error
        raise ServiceError(
            504,
            f"no answer after {limits.seconds:g} s; send it again, events with their id",
            None,
            1,
        ) from error
