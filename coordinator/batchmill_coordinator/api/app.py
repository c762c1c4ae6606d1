"""The HTTP API as one ASGI application."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from batchmill.errors import BatchmillError, InvalidRequest, NotFound, did_you_mean
from batchmill.job import FileSource, JobRequest, OutputSpec, UploadSource
from batchmill_coordinator.api.access import AccessMiddleware, error_response
from batchmill_coordinator.api.routes import cache, costs, dead_letters, fleet, job_log, jobs, metrics, results, uploads
from batchmill_coordinator.api.status_feed import StatusFeeds
from batchmill_coordinator.api.tenants import parse_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from batchmill_coordinator.service import Service

log = logging.getLogger(__name__)


def create_app(service: Service) -> FastAPI:
    """The application over a service, which it starts and stops with itself."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.feeds = StatusFeeds(service.hub, service.status, service.settings.max_event_streams)
        await run_in_threadpool(service.start, asyncio.get_running_loop())
        try:
            yield
        finally:
            await run_in_threadpool(service.stop)

    app = FastAPI(title="Batchmill", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    for module in (jobs, job_log, costs, results, dead_letters, uploads, fleet, cache, metrics):
        app.include_router(module.router)
    app.add_exception_handler(BatchmillError, _told)
    app.add_exception_handler(RequestValidationError, _misfit)
    app.add_exception_handler(HTTPException, _foreign)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(
        AccessMiddleware,
        tenants=parse_tokens(service.settings.tokens),
        max_body_bytes=service.settings.max_body_bytes,
        max_part_bytes=service.settings.max_part_bytes,
        metrics_token=service.settings.metrics_token,
    )
    return app


def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, BatchmillError)  # noqa: S101  # that is what it is registered for
    return error_response(error)


def _misfit(request: Request, error: Exception) -> Response:
    """What a body or a query does not fit, in one sentence about its first fault."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  # that is what it is registered for
    first = error.errors()[0]
    kind, place = str(first["type"]), [str(part) for part in first["loc"]]
    if kind == "json_invalid":
        where = first.get("ctx", {}).get("error", "")
        return error_response(InvalidRequest(f"the body is no JSON ({where}).", hint="Send a JSON object."))
    if place == ["body"] and isinstance(first.get("input"), bytes):
        sent = request.headers.get("content-type", "none")
        return error_response(
            InvalidRequest(
                f"the body's content type is {sent!r}, expected 'application/json'.",
                hint="Send the header `Content-Type: application/json`.",
            )
        )
    name = ".".join(place[1:]) or place[0]
    if kind == "extra_forbidden":
        nested = {*FileSource.model_fields, *UploadSource.model_fields, *OutputSpec.model_fields}
        hint = did_you_mean(place[-1], JobRequest.model_fields if len(place) == 2 else nested)
        return error_response(InvalidRequest(f"the request has an unknown field {name!r}.", hint=hint, field=name))
    came = repr(first.get("input"))
    message = f"field {name!r}: {str(first['msg'])[:1].lower()}{str(first['msg'])[1:]}, came {came[:80]}."
    return error_response(InvalidRequest(message, field=name))


def _foreign(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: an unknown route, a wrong method."""
    assert isinstance(error, HTTPException)  # noqa: S101  # that is what it is registered for
    if error.status_code == 404:
        return error_response(
            NotFound(f"there is no route {request.url.path!r}.", hint="/openapi.json lists the routes.")
        )
    response = error_response(InvalidRequest(f"{request.method} {request.url.path}: {error.detail}."))
    response.status_code = error.status_code
    return response


def _unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(BatchmillError("the coordinator failed on this request.", hint="Its log has the reason."))
