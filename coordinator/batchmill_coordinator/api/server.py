"""The HTTP server: its socket, and its life."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from batchmill.errors import InvalidSettings, ServiceUnavailable
from batchmill_coordinator.api.app import STOP_TIMEOUT_S, create_app
from batchmill_coordinator.api.protocol import bounded
from batchmill_coordinator.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.settings import CoordinatorSettings

GRACE_S = 5  # how long open requests may take when the server stops
KEEP_ALIVE_S = 75
"""How long a connection is kept without a request: longer than clients keep theirs (aiohttp 15 s, httpx 5 s, proxies
60 s), so that they close it, and no request is on its way as it is closed."""
SILENT_READER_S = 60.0
"""A client that takes nothing of an answer for this long is disconnected, by the kernel (Linux only)."""
END_TIMEOUT_S = GRACE_S + STOP_TIMEOUT_S + 3.0
"""After this long the process ends, whatever still hangs in it."""


class _Server(uvicorn.Server):
    """Calls `on_ready` when it serves, and ends the process when stopping takes too long."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to serve."""
        timer = threading.Timer(END_TIMEOUT_S, os._exit, (1,))
        timer.daemon = True
        timer.start()
        await super().shutdown(sockets=sockets)


def serve(settings: CoordinatorSettings, on_ready: Callable[[str], None], *, any_port: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` is called with the URL once requests are answered.

    any_port: whether to take any free port if that of the settings is taken.

    Raises `InvalidSettings` when the address cannot be had or the blob store is not the ledger's, `StorageError` when
    the blob store cannot be used, `ServiceUnavailable` when the ledger cannot be reached.
    """
    service = Service(settings)
    service.ledger.require_access()
    service.ledger.require_schema()
    service.take_blob_store()
    with listen(settings.host, settings.port, any_port=any_port) as listener:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(service),
            http=bounded(settings.max_connections, settings.head_timeout_s),
            ws="none",
            proxy_headers=False,  # nothing depends on the address of a client
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        server = _Server(config, lambda: on_ready(url))
        server.run(sockets=[listener])
    if not server.started:
        raise ServiceUnavailable("the coordinator could not start.", hint="Its log has the reason.")


def listen(host: str, port: int, *, any_port: bool = False) -> socket.socket:
    """A bound socket; port 0 takes any free one. Raises `InvalidSettings` when the address cannot be had.

    any_port: whether any free port will do if that one is taken. Binding decides, so that of several that start at
    once each gets one.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # accepted connections inherit it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENT_READER_S * 1000))
    try:
        listener.bind((host, port))
        listener.listen()  # two may bind one address with SO_REUSEADDR; only one can listen
    except OSError as error:
        listener.close()
        if any_port and port and error.errno == errno.EADDRINUSE:
            return listen(host, 0)
        raise InvalidSettings(
            f"cannot listen on {host}:{port} ({error.strerror or error}).",
            hint="Another service may have the port: choose another with BATCHMILL_PORT, or 0 for any free one.",
        ) from error
    return listener
