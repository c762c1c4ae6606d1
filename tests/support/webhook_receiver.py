"""A receiver of webhooks: a real HTTP server that keeps what it gets, and answers as a test says."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import openai

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@dataclass(slots=True)
class Received:
    """A request that came. message: its body, whose signature was verified by another implementation."""

    path: str
    headers: dict[str, str]
    message: dict[str, Any]

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """answer: the status for the n-th request, from 0. gate: requests wait for it. A context manager."""

    answer: Callable[[int], int] = lambda _: 204
    gate: threading.Event = field(default_factory=threading.Event)
    received: list[Received] = field(default_factory=list)
    came: int = 0

    def __enter__(self) -> Self:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            def log_message(self, *_: object) -> None:
                """Write nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/hook?from=batchmill"

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        """Verify and keep a request, then answer."""
        number, self.came = self.came, self.came + 1
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.gate.wait(60)
        openai.OpenAI(api_key="none").webhooks.verify_signature(body.decode(), headers, secret=SECRET)
        self.received.append(Received(handler.path, headers, json.loads(body)))
        status = self.answer(number)
        handler.send_response(status)
        if 300 <= status < 400:
            handler.send_header("Location", "/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()


def write_webhooks(folder: Path, text: str) -> Path:
    """Write the secret, and a file of receivers; `SECRET` in its text is the secret's file."""
    (folder / "secret").write_text(f"{SECRET}\n")
    path = folder / "webhooks.toml"
    path.write_text(text.replace("SECRET", str(folder / "secret")))
    return path
