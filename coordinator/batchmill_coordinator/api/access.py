"""Who is let in, and how much they may send: a middleware in front of every route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from batchmill.errors import BatchmillError, PayloadTooLarge, Unauthorized
from batchmill_coordinator.api.tenants import tenant_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
METRICS_PATH = "/metrics"


def error_response(error: BatchmillError) -> JSONResponse:
    """An error in its envelope."""
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
    return JSONResponse(error.envelope(), status_code=error.http_status, headers=headers)


class AccessMiddleware:
    """Asks for a bearer token on every path but health, and stops bodies that are too large as they come in.

    tenants: whose token each is; routes find that as `request.state.tenant`.
    metrics_token: opens the metrics, and nothing else; "": there is none.
    max_body_bytes: of any request but an upload's part; max_part_bytes: of such a part.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tenants: Mapping[bytes, str],
        max_body_bytes: int,
        max_part_bytes: int,
        metrics_token: str = "",
    ) -> None:
        self._app = app
        self._tenants = tenants
        self._metrics_token = metrics_token.encode()
        self._max_body_bytes = max_body_bytes
        self._max_part_bytes = max_part_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            if scope["path"] not in OPEN_PATHS:
                scope.setdefault("state", {})["tenant"] = self._tenant(
                    scope["path"], headers.get(b"authorization", b"")
                )
            limit = self._max_part_bytes if _is_part(scope) else self._max_body_bytes
            _check_length(headers.get(b"content-length"), limit)
        except BatchmillError as error:
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, _limited(receive, limit), send)

    def _tenant(self, path: str, header: bytes) -> str:
        scheme, _, token = header.partition(b" ")
        if scheme.lower() != b"bearer" or not token:
            raise Unauthorized(
                "the request carries no bearer token.",
                hint="Send `Authorization: Bearer TOKEN`, or set BATCHMILL_TOKEN.",
            )
        tenant = tenant_of(token.strip(), self._tenants)
        if tenant is None and path == METRICS_PATH and self._metrics_token:
            tenant = tenant_of(token.strip(), {self._metrics_token: METRICS_PATH})
        if tenant is None:
            raise Unauthorized("the bearer token is wrong.", hint="Check BATCHMILL_TOKEN against the service's tokens.")
        return tenant


def _is_part(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] == "PUT" and path.startswith("/v1/uploads/")


def _check_length(length: bytes | None, limit: int) -> None:
    if length is not None and length.isdigit() and int(length) > limit:
        raise _too_large(limit)


def _limited(receive: Receive, limit: int) -> Receive:
    """`receive`, counting: a body without a length, or with a false one, is stopped at the limit all the same."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the request's body is over {limit} bytes.",
        hint="Send many rows as an upload (the Python client does it by itself), or name files with `source`.",
        limit=limit,
    )
