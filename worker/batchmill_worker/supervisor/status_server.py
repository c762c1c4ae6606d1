"""A small HTTP server beside the supervisor, in threads of its own: health, and what else is registered with it."""

from __future__ import annotations

import logging
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 32
READ_TIMEOUT_S = 5.0
STOP_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Reply:
    """What a route answers."""

    status: int
    body: bytes
    content_type: str = "application/json"


class StatusServer:
    """Answers GET and HEAD of a few fixed paths; everything else is refused, with no word of what was asked for.

    Requests bring no body, are read within a few seconds, and no more than `max_connections` are served at a time.
    """

    def __init__(
        self, listen: str, routes: Mapping[str, Callable[[], Reply]], max_connections: int = MAX_CONNECTIONS
    ) -> None:
        """Bind. `listen`: host:port. Raises `InvalidSettings` if it is not, or cannot be listened on."""
        host, port = parse_listen(listen)
        try:
            self._server = _Server(host, port, routes, max_connections)
        except OSError as error:
            raise InvalidSettings(
                f"BATCHMILL_WORKER_LISTEN is {listen!r}, where nothing can listen: {error.strerror or error}.",
                hint="Choose another port, or 0 for any free one.",
                name="BATCHMILL_WORKER_LISTEN",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_POLL_S,), name="status-server", daemon=True
        )

    @property
    def url(self) -> str:
        """Where it is reached."""
        host, port = str(self._server.server_address[0]), self._server.server_address[1]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, host: str, port: int, routes: Mapping[str, Callable[[], Reply]], max_connections: int) -> None:
        self.routes = routes
        self._places = threading.BoundedSemaphore(max_connections)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking the name service who we are, as http.server would."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread while there is a place; hang up otherwise."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve, and free the place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # socketserver's signature
        """A caller that goes away is nothing to report on standard error."""
        log.debug("a status request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = READ_TIMEOUT_S
    default_request_version = "HTTP/1.0"  # an answer to a request that cannot be read has a status, too

    def do_GET(self) -> None:
        """Answer a route."""
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self._send(_refusal(413))
            return
        route = self.server.routes.get(self.path.partition("?")[0])
        self._send(route() if route is not None else _refusal(404))

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What http.server refuses by itself, without its page that repeats the request."""
        self._send(_refusal(code))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's signature
        """Requests are no news."""

    def _send(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)


def _refusal(status: int) -> Reply:
    return Reply(status, b"{}")
