"""The HTTP API as one ASGI application."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from batchmill.errors import BatchmillError, InvalidRequest, MethodNotAllowed, NotFound, RequestTimeout
from batchmill_coordinator.api.access import AccessMiddleware, BodyLimits, error_response
from batchmill_coordinator.api.openai_errors import is_openai_path
from batchmill_coordinator.api.openapi import document
from batchmill_coordinator.api.pool import RequestPool
from batchmill_coordinator.api.routes import (
    batches,
    calls,
    costs,
    dead_letters,
    files,
    fleet,
    indexes,
    job_log,
    jobs,
    models,
    pages,
    results,
    streams,
    uploads,
    webhooks,
)
from batchmill_coordinator.api.routes.openai import chat, completions, embeddings, responses
from batchmill_coordinator.api.routes.operation import cache, health, metrics
from batchmill_coordinator.api.routes.routing import ApiRoute
from batchmill_coordinator.api.status_feed import StatusFeeds
from batchmill_coordinator.api.tenants import parse_tokens
from batchmill_coordinator.api.validation import explain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from starlette.requests import Request
    from starlette.responses import Response

    from batchmill.jobs.status import JobStatus
    from batchmill_coordinator.service import Service

log = logging.getLogger(__name__)

JOBS = (jobs, job_log, costs, results, dead_letters, uploads, streams, files, batches)
LANE = (models, calls, embeddings, chat, completions, responses)
ROUTES = (*JOBS, fleet, cache, indexes, webhooks, *LANE, metrics, health, pages)
STOP_TIMEOUT_S = 10.0


def create_app(service: Service) -> FastAPI:
    """The application over a service, which it starts and stops with itself."""

    settings = service.settings
    pool = RequestPool(settings.request_threads, settings.max_waiting_requests)

    def read_status(job_id: str) -> Awaitable[JobStatus]:
        return pool.run(service.status, job_id)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.feeds = StatusFeeds(service.hub, read_status, settings.max_event_streams)
        await asyncio.to_thread(service.start, asyncio.get_running_loop())
        try:
            yield
        finally:
            await _stop(service)

    app = FastAPI(
        title="Batchmill",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # the service has its own metrics and logs
    )
    app.state.service = service
    app.state.pool = pool
    app.state.heavy_pool = RequestPool(settings.submit_threads, settings.max_waiting_requests)
    for module in ROUTES:
        app.include_router(module.router)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]  # the framework's way to give its own document
    app.add_exception_handler(BatchmillError, _on_batchmill_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_gone)
    app.add_exception_handler(Exception, _on_unexpected_error)
    app.add_middleware(
        AccessMiddleware,
        tokens=parse_tokens(settings.tokens),
        limits=BodyLimits(
            settings.max_body_bytes, settings.max_part_bytes, settings.max_file_bytes, settings.max_bodies_bytes
        ),
        metrics_token=settings.metrics_token,
    )
    return app


async def _stop(service: Service) -> None:
    """Stop the service, in a thread of its own that nothing waits for after `STOP_TIMEOUT_S`."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        try:
            service.stop()
        finally:
            loop.call_soon_threadsafe(stopped.set)

    threading.Thread(target=stop, name="stop", daemon=True).start()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await stopped.wait()
    except TimeoutError:
        log.warning("the service did not stop within %.0f s; the process ends anyway", STOP_TIMEOUT_S)


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        models = {model for route in _routes() if isinstance(route, ApiRoute) for model in route.body_models}
        app.openapi_schema = document(app, sorted(models, key=lambda model: model.__name__))
    return app.openapi_schema


def _routes() -> list[APIRoute]:
    return [route for module in ROUTES for route in module.router.routes if isinstance(route, APIRoute)]


def _on_batchmill_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BatchmillError)  # noqa: S101  # that is what it is registered for
    return error_response(error, path=request.url.path)


def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # that is what it is registered for
    return error_response(explain(error.errors()[0]), path=request.url.path)


def _on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses by itself: an unknown route, a wrong method."""
    assert isinstance(error, HTTPException)  # noqa: S101  # that is what it is registered for
    method, path = request.method[:40], request.url.path[:200]
    if error.status_code == 404:
        under = f"/v1{path}"
        if is_openai_path(under):
            hint = f"Clients of OpenAI need the URL with /v1: base_url='{request.base_url}v1'."
            return error_response(NotFound(f"there is no route {path!r}.", hint=hint), path=under)
        return error_response(NotFound(f"there is no route {path!r}.", hint="/openapi.json lists the routes."))
    if error.status_code == 405:
        allowed = ", ".join(_methods_of(request))
        return error_response(
            MethodNotAllowed(f"{path!r} does not have the method {method}.", hint=f"It has: {allowed}."),
            {"Allow": allowed},
        )
    response = error_response(InvalidRequest(f"{method} {path}: {error.detail}."), error.headers)
    response.status_code = error.status_code
    return response


def _methods_of(request: Request) -> list[str]:
    """The methods of all routes at the request's path."""
    path = request.scope["path"]
    return sorted({method for route in _routes() if route.path_regex.match(path) for method in route.methods or ()})


def _on_gone(request: Request, error: Exception) -> Response:  # noqa: ARG001  # a handler's signature
    """Answer a client that left before its body was received: nobody reads it, and nothing has failed here."""
    return error_response(RequestTimeout("the client has closed the connection."), path=request.url.path)


def _on_unexpected_error(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    failed = BatchmillError("the coordinator failed on this request.", hint="Its log has the reason.")
    return error_response(failed, path=request.url.path)
