"""Authentication and limits in front of every route: a middleware that acts before a body is read."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, assert_never

from starlette.responses import JSONResponse

from batchmill.errors import (
    BatchmillError,
    Forbidden,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    ServiceUnavailable,
    Unauthorized,
)
from batchmill_coordinator.api.openai_errors import is_openai_path, openai_form, openai_status
from batchmill_coordinator.api.tenants import Access, find_access

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/", "/docs", "/openapi.json"})
"""They need no token and give no data."""

METRICS_PATH = "/metrics"
SCALE_PATH = re.compile(r"/v1/pools/[^/]+/scale")
FILES_PATH = "/v1/files"
FORM_BYTES = 64 * 1024  # of a form, besides its file
RETRY_AFTER_S = 1
BODY_IDLE_S = 30.0  # the longest wait for the next bytes of a body
BODY_TIMEOUT_S = 120.0  # for all of a body that is held in memory


def error_response(error: BatchmillError, headers: Mapping[str, str] | None = None, path: str = "") -> JSONResponse:
    """An error in its envelope, with the headers that its class requires. path: of the request."""
    own = dict(headers or {})
    if isinstance(error, Unauthorized):
        own["WWW-Authenticate"] = "Bearer"
    if isinstance(error, ServiceUnavailable):
        own["Retry-After"] = str(error.details.get("retry_after_s", RETRY_AFTER_S))
    if is_openai_path(path):
        body, more = openai_form(error)
        return JSONResponse(body, status_code=openai_status(error.http_status), headers=own | more)
    return JSONResponse(error.envelope(), status_code=error.http_status, headers=own)


class BodyForm(Enum):
    """What becomes of a body as it is received."""

    IN_MEMORY = auto()
    PART = auto()  # a part of an upload, written to a file
    FILE = auto()  # a form with a file, written to a file too


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large bodies may be, in bytes."""

    max_body: int  # of any request but an upload's part
    max_part: int  # of such a part, which goes to a file
    max_file: int  # of a file, which does so too
    max_in_memory: int  # of all bodies together that are being received


class AccessMiddleware:
    """Requires a bearer token on every path but `OPEN_PATHS`, and stops bodies that are too large or too slow.

    tokens: what each allows; routes find that as `request.state.access`.
    metrics_token: opens the metrics and how many workers pools need, and nothing else; "": there is none.
    """

    def __init__(
        self, app: ASGIApp, *, tokens: Mapping[bytes, Access], limits: BodyLimits, metrics_token: str = ""
    ) -> None:
        self._app = app
        self._tokens = dict(tokens)
        if metrics_token:
            own = Access("", read_only=True, metrics_only=True)
            self._tokens.setdefault(metrics_token.encode(), own)
        self._limits = limits
        self._in_memory = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        identified = _identified(send)
        body = _Body(self, receive, _form_of(scope))
        try:
            if scope["path"] not in OPEN_PATHS:
                access = self._authenticate(headers.get(b"authorization", b""))
                _require_path(access, scope["path"])
                access.require_method(scope["method"])
                scope.setdefault("state", {})["access"] = access
            body.check_length(headers.get(b"content-length"))
        except BatchmillError as error:
            await error_response(error, path=scope["path"])(scope, receive, identified)
            return
        try:
            await self._app(scope, body.receive, identified)
        finally:
            self._in_memory -= body.held

    def _authenticate(self, header: bytes) -> Access:
        scheme, _, token = header.partition(b" ")
        if scheme.lower() != b"bearer" or not token:
            raise Unauthorized(
                "the request carries no bearer token.",
                hint="Send `Authorization: Bearer TOKEN`, or set BATCHMILL_TOKEN.",
            )
        access = find_access(token.strip(), self._tokens)
        if access is None:
            raise Unauthorized("the bearer token is wrong.", hint="Check BATCHMILL_TOKEN against the service's tokens.")
        return access

    def hold(self, nbytes: int) -> None:
        """Count bytes of a body that are in memory. Raises `Overloaded` when all bodies together have too many."""
        if self._in_memory + nbytes > self._limits.max_in_memory:
            raise Overloaded("too many request bodies are being received.", hint="Try again in a moment.")
        self._in_memory += nbytes

    def limit(self, form: BodyForm) -> int:
        """The largest body."""
        match form:
            case BodyForm.PART:
                return self._limits.max_part
            case BodyForm.FILE:
                return self._limits.max_file + FORM_BYTES
            case BodyForm.IN_MEMORY:
                return self._limits.max_body
            case never:
                assert_never(never)


class _Body:
    """The body of one request as it is received: counted, and stopped at the limits even without a true length."""

    def __init__(self, owner: AccessMiddleware, receive: Receive, form: BodyForm) -> None:
        self._owner = owner
        self._receive = receive
        self._is_in_memory = form is BodyForm.IN_MEMORY
        self._limit = owner.limit(form)
        self._received = 0
        self._is_complete = False
        self._ends_at: float | None = None
        self.held = 0

    def check_length(self, length: bytes | None) -> None:
        """Raise `PayloadTooLarge` for a declared length over the limit."""
        if length is not None and length.isdigit() and int(length[:20]) > self._limit:
            raise _too_large(self._limit)

    async def receive(self) -> Message:
        """The next message. Raises `PayloadTooLarge`, `RequestTimeout` or `Overloaded`."""
        if self._is_complete:
            return await self._receive()  # it waits for the client to leave
        try:
            async with asyncio.timeout(self._receive_timeout_s()):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout("the request's body was not received in time.", hint="Send it again.") from None
        more = len(message.get("body", b""))
        self._received += more
        self._is_complete = not message.get("more_body", False)
        if self._received > self._limit:
            raise _too_large(self._limit)
        if self._is_in_memory:
            self._owner.hold(more)
            self.held += more
        return message

    def _receive_timeout_s(self) -> float:
        if not self._is_in_memory:
            return BODY_IDLE_S
        now = asyncio.get_running_loop().time()
        self._ends_at = self._ends_at or now + BODY_TIMEOUT_S
        return min(BODY_IDLE_S, self._ends_at - now)


def _identified(send: Send) -> Send:
    """Send with an id of the request in the headers of its answer, and how long it took to begin that."""
    request_id, began_at = f"req_{secrets.token_hex(12)}", time.monotonic()

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            took_ms = round((time.monotonic() - began_at) * 1000)
            own = [(b"x-request-id", request_id.encode()), (b"openai-processing-ms", str(took_ms).encode())]
            message["headers"] = [*message.get("headers", ()), *own]
        await send(message)

    return send_with_id


def _require_path(access: Access, path: str) -> None:
    if access.metrics_only and path != METRICS_PATH and SCALE_PATH.fullmatch(path) is None:
        raise Unauthorized(
            "the bearer token opens the metrics and the scale of pools only.", hint="Use one of BATCHMILL_TOKENS."
        )
    if path == METRICS_PATH and not (access.metrics_only or access.sees_all):
        raise Forbidden(
            "metrics concern all tenants.", hint="Use BATCHMILL_METRICS_TOKEN, or an admin token.", needs="admin"
        )


def _form_of(scope: Scope) -> BodyForm:
    path: str = scope["path"]
    if scope["method"] == "PUT" and path.startswith("/v1/uploads/"):
        return BodyForm.PART
    return BodyForm.FILE if scope["method"] == "POST" and path == FILES_PATH else BodyForm.IN_MEMORY


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the request's body is over {limit} bytes.",
        hint="Send many rows as an upload (the Python client does it by itself), or name files with `source`.",
        limit=limit,
    )
