"""Limits on what a connection may send before a request exists: bytes of the head, time, number of connections.

The parser joins the pieces of a header without a limit, and the server waits for a head without an end. Counted here
is what is not body: request line, headers, chunk framing and trailers. Rejected: the server's h11 parser, which has
such a limit for the head but none for connections.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from batchmill.errors import BatchmillError, HeadersTooLarge, MalformedRequest, Overloaded, RequestTimeout

if TYPE_CHECKING:
    import asyncio

MAX_HEAD_BYTES = 32 * 1024
FRAMING_PER_BYTE = 8
"""Bytes of chunk framing allowed for each byte of a body, beyond `MAX_HEAD_BYTES`."""

CLOSE_TIMEOUT_S = 5.0  # for the client to read a refusal


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Refuses with 431, 408 or 503 and closes."""

    max_connections: ClassVar[int]
    head_timeout_s: ClassVar[float]  # from the connection, or the first byte of a further request, to the headers' end

    _overhead = 0
    _has_head = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base class
        """Start to serve, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(Overloaded("too many connections are open.", hint="Try again in a moment."))
            return
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, and refuse the request when its head or its framing is over the limit."""
        if self.transport.is_closing():
            return
        if self._head_timer is None and not self._has_head:
            self._start_head_timer()
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(_too_large())

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # of the base class
        """Refuse what the parser refuses."""
        is_large = self._overhead > MAX_HEAD_BYTES
        self._refuse(_too_large() if is_large else MalformedRequest("this is no HTTP/1.1.", hint="Check the client."))

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._stop_head_timer()
        self._has_head = True
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > MAX_HEAD_BYTES:
            self._overhead += MAX_HEAD_BYTES
            raise ValueError("the head is too large")  # ends the parsing
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._overhead = max(self._overhead - len(body) * (1 + FRAMING_PER_BYTE), 0)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request's body."""
        if self._overhead <= MAX_HEAD_BYTES:
            self._overhead = 0
        self._has_head = False
        super().on_message_complete()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._on_head_timeout)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(RequestTimeout("the request's headers were not received in time.", hint="Send it again."))

    def _refuse(self, error: BatchmillError) -> None:
        """Answer with an error and close; a client that does not read it is cut off after a while."""
        self._stop_head_timer()
        body = json.dumps(error.envelope()).encode()
        self.transport.write(
            STATUS_LINE[error.http_status]
            + b"content-type: application/json\r\nconnection: close\r\nretry-after: 1\r\n"
            + f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self.transport.close()
        self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)


def bounded(max_connections: int, head_timeout_s: float) -> type[BoundedProtocol]:
    """The protocol with these limits."""
    limits = {"max_connections": max_connections, "head_timeout_s": head_timeout_s}
    return type("BoundedProtocol", (BoundedProtocol,), limits)


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(
        f"the request line and headers are over {MAX_HEAD_BYTES} bytes.",
        hint="Send less of them.",
        limit=MAX_HEAD_BYTES,
    )
