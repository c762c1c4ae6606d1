"""How a route is made: blocking work goes to the request pool, and the document lists every answer.

A route declares the errors that are its own, with `responses=raises(…)`. What any route may answer is added here.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from batchmill.errors import (
    BatchmillError,
    Forbidden,
    HeadersTooLarge,
    InvalidRequest,
    MalformedRequest,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    ServiceUnavailable,
    StorageError,
    Unauthorized,
    did_you_mean,
)
from batchmill_coordinator.api.openai_errors import BAD_REQUEST, UNPROCESSABLE
from batchmill_coordinator.api.openapi import JSON, REF, raises, request_body
from batchmill_coordinator.api.validation import explain, no_json
from batchmill_coordinator.endpoints.validation import first_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi.dependencies.models import Dependant

    from batchmill_coordinator.api.pool import RequestPool

M = TypeVar("M", bound=BaseModel)
F = TypeVar("F", bound="Callable[..., Any]")

ANY_ROUTE = raises(
    Unauthorized,
    InvalidRequest,
    MalformedRequest,
    HeadersTooLarge,
    ServiceUnavailable,
    Overloaded,
    StorageError,
    BatchmillError,
)
WRITES = raises(Forbidden, OutcomeUnknown, ServiceUnavailable, Overloaded)
BODIES = raises(PayloadTooLarge, RequestTimeout)
TOKEN: list[dict[str, list[str]]] = [{"token": []}]
READS = frozenset({"GET", "HEAD"})
SMALL_BODY_BYTES = 8 * 1024
"""Validated on the event loop, within a tenth of a millisecond: to hand it to a thread takes as long."""


class ApiRoute(APIRoute):
    """A route that asks for a token. A plain function runs in the request pool; it needs a `context`."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if not (inspect.iscoroutinefunction(endpoint) or inspect.isasyncgenfunction(endpoint)):
            endpoint = _in_pool(endpoint)
        writes = bool(set(options.get("methods") or ["GET"]) - READS)
        own = options.get("responses") or {}
        options["responses"] = {**ANY_ROUTE, **(WRITES if writes else {}), **own}
        super().__init__(path, endpoint, **options)
        self.body_models = [call.body_model for call in _calls(self.dependant) if hasattr(call, "body_model")]
        extra = {"security": TOKEN, **(self.openapi_extra or {})}
        for model in self.body_models:
            extra |= request_body({"$ref": REF.format(model=model.__name__)})
        self.openapi_extra = extra

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Refuse names in the query that the route does not know, then answer."""
        answer = super().get_route_handler()
        known = {str(field.alias) for dependant in _dependants(self.dependant) for field in dependant.query_params}

        async def handle(request: Request) -> Any:
            for name in request.query_params:
                if name not in known:
                    raise InvalidRequest(
                        f"the query has an unknown parameter {name[:80]!r}.",
                        hint=did_you_mean(name[:80], known) or "This route takes no parameters.",
                        field=name[:80],
                    )
            return await answer(request)

        return handle


class OpenAiRoute(ApiRoute):
    """A route of OpenAI's API: what is answered with 422 elsewhere is answered with 400."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        wrong = self.responses.pop(UNPROCESSABLE)
        bad = self.responses[BAD_REQUEST]
        self.responses[BAD_REQUEST] = {**bad, "description": f"{bad['description']} {wrong['description']}"}


def json_body(model: type[M]) -> Any:
    """A dependency: the request's JSON body as a value of `model`; a large one is validated in the request pool."""

    async def read(request: Request) -> M:
        _require_json(request)
        body = await request.body()
        if len(body) <= SMALL_BODY_BYTES:
            return _parse(model, body)
        pool: RequestPool = request.app.state.heavy_pool
        return await pool.run(_parse, model, body)

    read.body_model = model  # type: ignore[attr-defined]  # for the document
    return Depends(read)


def _parse(model: type[M], body: bytes) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = first_fault(error.errors(include_url=False))
        raise no_json(body, str(first["msg"])) if first["type"] == "json_invalid" else explain(first, model) from None


def _require_json(request: Request) -> None:
    sent = request.headers.get("content-type", "none")
    if sent.partition(";")[0].strip().lower() != JSON:
        raise InvalidRequest(
            f"the body's content type is {sent[:80]!r}, expected {JSON!r}.",
            hint="Send the header `Content-Type: application/json`.",
            field="body",
        )


def heavy(function: F) -> F:
    """Mark a route that computes or reads files: few of these run at a time, so that they do not delay the others."""
    function.is_heavy = True  # type: ignore[attr-defined]  # read by `_in_pool`
    return function


def _in_pool(function: Callable[..., Any]) -> Callable[..., Any]:
    is_heavy = getattr(function, "is_heavy", False)

    @functools.wraps(function)
    async def run(*args: Any, context: Any, **kwargs: Any) -> Any:
        pool = context.heavy_pool if is_heavy else context.pool
        return await pool.run(function, *args, context=context, **kwargs)

    return run


def _dependants(root: Dependant) -> list[Dependant]:
    return [root, *(found for child in root.dependencies for found in _dependants(child))]


def _calls(root: Dependant) -> list[Any]:
    return [dependant.call for dependant in _dependants(root)]
