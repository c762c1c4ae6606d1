"""A small HTTP server beside the supervisor, on an event loop of its own: health, and what else is registered with it.

A slow or silent client must not keep a health check waiting. So a connection costs no thread, ends after a few seconds
whatever its client does, and gives way to a new one when there are too many; and each route has a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from batchmill.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 128
CONNECTION_TIMEOUT_S = 10.0
"""From the first byte of a request to the last one of its answer, whoever is slow."""
MAX_HEADER_BYTES = 8190
METHODS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a route answers."""

    status: int
    body: bytes
    content_type: str = "application/json"


class StatusServer:
    """Answers GET and HEAD of a few fixed paths; everything else is refused, with no word of what was asked for.

    Requests bring no body. Routes may block: they run in threads.
    """

    def __init__(
        self,
        listen: str,
        routes: Mapping[str, Callable[[], Reply]],
        max_connections: int = MAX_CONNECTIONS,
        timeout_s: float = CONNECTION_TIMEOUT_S,
    ) -> None:
        """Bind. `listen`: host:port. Raises `InvalidSettings` if it is not, or cannot be listened on.

        max_connections: at a time; one more ends the oldest. timeout_s: how long a connection may last.
        """
        host, port = parse_listen(listen)
        try:
            self._socket = _bound(host, port)
        except OSError as error:
            raise InvalidSettings(
                f"BATCHMILL_WORKER_LISTEN is {listen!r}, where nothing can listen: {error.strerror or error}.",
                hint="Choose another port, or 0 for any free one.",
                name="BATCHMILL_WORKER_LISTEN",
            ) from error
        self._routes = {path: (ThreadPoolExecutor(1, thread_name_prefix=path), route) for path, route in routes.items()}
        self._max_connections = max_connections
        self._timeout_s = timeout_s
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="status-server", daemon=True)

    @property
    def url(self) -> str:
        """Where it is reached."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more. Waits for no route: one may hang."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        for executor, _ in self._routes.values():
            executor.shutdown(wait=False, cancel_futures=True)
        self._loop.close()
        self._socket.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        http = web.Server(self._answer)

        def connect() -> _Connection:
            return _Connection(http, self._loop, self._max_connections, self._timeout_s)

        listener = await self._loop.create_server(connect, sock=self._socket, backlog=self._max_connections)
        await self._stopping.wait()
        listener.close()
        for connection in http.connections:
            _abort(connection)
        await http.shutdown(0)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.method not in METHODS:
            return _response(_refusal(405), Allow=", ".join(METHODS))
        if request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers:
            return _response(_refusal(413))
        known = self._routes.get(request.path)
        if known is None:
            return _response(_refusal(404))
        return _response(await self._loop.run_in_executor(*known))


class _Connection(web.RequestHandler):
    """One connection: it is aborted when its time is up or newer ones need its place, and repeats no request."""

    def __init__(
        self, server: web.Server, loop: asyncio.AbstractEventLoop, max_connections: int, timeout_s: float
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # it is None by its code: none is written
            logger=log,
            max_field_size=MAX_HEADER_BYTES,
            lingering_time=0,  # no body is waited for
        )
        self._server = server
        self._max_connections = max_connections
        self._timeout_s = timeout_s
        self._ends: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, end the oldest of too many, and plan the end."""
        super().connection_made(transport)
        for oldest in self._server.connections[: -self._max_connections]:
            _abort(oldest)
        self._ends = asyncio.get_running_loop().call_later(self._timeout_s, _abort, self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It has ended."""
        if self._ends is not None:
            self._ends.cancel()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  # aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # aiohttp's
    ) -> web.StreamResponse:
        """What aiohttp refuses by itself, and a route that failed."""
        if status == 500:
            log.error("a status request failed", exc_info=exc)
        return _response(_refusal(414 if isinstance(exc, LineTooLong) else status))


def parse_listen(listen: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:9465`, `[::1]:9465` or `:9465`, which is every IPv4 address.

    Raises `InvalidSettings`.
    """
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host and not bracketed):
        raise InvalidSettings(
            f"BATCHMILL_WORKER_LISTEN is {listen!r}, expected host:port.",
            hint="For example 127.0.0.1:9465, [::1]:9465, or 0.0.0.0:9465 for every address.",
            name="BATCHMILL_WORKER_LISTEN",
        )
    return (host[1:-1] if bracketed else host), int(port)


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(MAX_CONNECTIONS)
    except OSError:
        bound.close()
        raise
    return bound


def _abort(connection: web.RequestHandler) -> None:
    """End it at once, with what its client has not read."""
    if isinstance(connection.transport, asyncio.Transport):
        connection.transport.abort()


def _response(reply: Reply, **headers: str) -> web.Response:
    response = web.Response(
        status=reply.status,
        body=reply.body,
        headers={"Content-Type": reply.content_type, "Server": "batchmill", **headers},
    )
    response.force_close()
    return response


def _refusal(status: int) -> Reply:
    return Reply(status, b"{}")
