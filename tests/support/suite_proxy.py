"""A proxy between openai-python's own tests and a service: their ids are literal, and some fields are not supported."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import openai

if TYPE_CHECKING:
    from collections.abc import Iterator

UNSUPPORTED = (
    "audio",
    "best_of",
    "echo",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "modalities",
    "presence_penalty",
    "suffix",
)
"""Fields that would change the answer; the service refuses them."""
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings"}


@contextmanager
def suite_proxy(url: str, token: str, model: str) -> Iterator[str]:
    """Yield the address of a proxy of a service. model: one that makes embeddings, for the batches."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=token) as sdk:

        class Handler(_Handler):
            target, key, made = urlsplit(url).netloc, token, _Made(sdk, model)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Made:
    """Makes what the tests name by literal ids."""

    def __init__(self, sdk: openai.OpenAI, model: str) -> None:
        self._sdk = sdk
        self._line = json.dumps({**LINE, "body": {"model": model, "input": "a"}}).encode()

    def file_id(self) -> str:
        return self._sdk.files.create(file=("a.jsonl", self._line), purpose="batch").id

    def batch_id(self) -> str:
        made = self._sdk.batches.create(
            input_file_id=self.file_id(), endpoint="/v1/embeddings", completion_window="24h"
        )
        return made.id

    def put_into(self, path: str) -> str:
        """Replace the literal id of a path by that of something new."""
        parts = path.split("/")
        if len(parts) > 3 and parts[2] in ("files", "batches"):
            parts[3] = self.file_id() if parts[2] == "files" else self.batch_id()
        return "/".join(parts)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target: str
    key: str
    made: _Made

    def _forward(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.made.put_into(self.path.partition("?")[0])
        if "json" in self.headers.get("Content-Type", "") and data:
            data = json.dumps(self._supported(json.loads(data))).encode()
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in ("host", "content-length")
        }
        connection = http.client.HTTPConnection(self.target, timeout=120)
        connection.request(self.command, path, data, {**headers, "Authorization": f"Bearer {self.key}"})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _supported(self, body: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in body.items() if name not in UNSUPPORTED}
        for name in ("max_tokens", "max_completion_tokens"):
            if not kept.get(name):
                kept.pop(name, None)
        if self.path.endswith("/embeddings"):
            kept["encoding_format"] = "float"  # the library asks for base64, and then its tests expect numbers
        if "input_file_id" in kept:
            kept["input_file_id"] = self.made.file_id()
        return kept

    do_GET = do_POST = do_DELETE = _forward  # noqa: N815  # the library's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""
