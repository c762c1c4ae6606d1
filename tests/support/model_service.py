"""An HTTP server with the routes of an OpenAI-compatible service, which answers as a test says."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Reply = tuple[int, Any, dict[str, str]]


class ModelService:
    """Requests in order, and the most that were in it at a time. answer: for the body of a request and its number."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Reply]) -> None:
        self.answer = answer
        self.requests: list[tuple[str, dict[str, Any], str]] = []
        self.at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self.url = ""

    def take(self, path: str, body: dict[str, Any], authorization: str) -> Reply:
        with self._lock:
            self.requests.append((path, body, authorization))
            number = len(self.requests)
            self._now += 1
            self.at_once = max(self.at_once, self._now)
        try:
            return self.answer(body, number)
        finally:
            with self._lock:
                self._now -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that is killed is no error of the service."""


@contextmanager
def model_service(answer: Callable[[dict[str, Any], int], Reply]) -> Iterator[ModelService]:
    """A service on a free port, while the context lasts."""
    service = ModelService(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, reply, headers = service.take(self.path, body, self.headers.get("Authorization", ""))
            data = json.dumps(reply).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """No lines on stderr."""

    server = _Server(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def chat_reply(text: str, finish: str = "stop", **message: Any) -> Reply:
    """An answer of a chat."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": len(text),
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    return 200, {"choices": [choice], "usage": usage}, {}


def error_reply(status: int, code: str, message: str = "no", **headers: str) -> Reply:
    """An error of the usual form."""
    about = {"message": message, "type": code, "param": None, "code": code}
    return status, {"error": about}, {name.replace("_", "-"): value for name, value in headers.items()}
