"""Requests of JSON to a server that keeps collections of vectors, and what goes wrong with them.

The clients of such servers are not used: they bring dozens of packages, and some wait without end for a server that is
frozen.
"""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchmill.errors import StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.storage.named_stores import NamedStore

TIMEOUT_S = 60.0
SHOWN_CHARS = 500
_NOT_FOUND, _TOO_LARGE, _TOO_MANY, _SERVER_ERROR = 404, 413, 429, 500


class MissingCollection(Exception):
    """There is no such collection, or there no longer is one."""


class RefusedRequest(Exception):
    """The server does not accept a request; the message is its own."""


class TooLargeRequest(RefusedRequest):
    """A request has more bytes than the server accepts."""


class JsonHttp:
    """One server. Each request has a connection of its own."""

    def __init__(self, store: NamedStore, name: str, key_header: str, message_of: Callable[[Any], Any]) -> None:
        """name: of the kind of server. message_of: where an answer that refuses a request has the reason."""
        self._store = store
        self._name, self._key_header, self._message_of = name, key_header, message_of
        split = urlsplit(store.url)
        self._kind = HTTPSConnection if split.scheme.endswith("+https") else HTTPConnection
        self._host, self._port = split.hostname or "", split.port
        self.path_names = [part for part in split.path.split("/") if part]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer, decoded. body: of JSON, or JSON as bytes.

        Raises `StorageUnavailable`, `MissingCollection` or `RefusedRequest`.
        """
        headers = {"Content-Type": "application/json"}
        token = self._store.password()
        if token is not None:
            headers[self._key_header] = token
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = self._kind(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            status, received = answer.status, answer.read()
        except (OSError, HTTPException) as error:  # its address is no tenant's business
            raise StorageUnavailable(f"the {self._name} server cannot be reached: {type(error).__name__}.") from error
        finally:
            connection.close()
        if status == _NOT_FOUND:
            raise MissingCollection(path)
        if status == _TOO_LARGE:
            raise TooLargeRequest(self._message(received))
        if status == _TOO_MANY or status >= _SERVER_ERROR:
            raise StorageUnavailable(f"the {self._name} server answers with {status}: {self._message(received)}")
        if status >= 400:
            raise RefusedRequest(self._message(received))
        return json.loads(received) if received else None

    def _message(self, data: bytes) -> str:
        try:
            return str(self._message_of(json.loads(data)))[:SHOWN_CHARS]
        except (ValueError, KeyError, TypeError):
            return data[:SHOWN_CHARS].decode(errors="replace")
