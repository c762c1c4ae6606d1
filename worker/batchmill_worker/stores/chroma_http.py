"""The HTTP interface of a Chroma server, version 2: what the store needs of it.

The client of Chroma itself is not used: it brings dozens of packages, and waits without end
for a server that is frozen.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from batchmill.errors import StorageUnavailable
from batchmill_worker.stores.base import cannot_search

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

    from batchmill.storage.named_stores import NamedStore

TIMEOUT_S = 60.0
SCHEME_HTTPS = "chroma+https"
DEFAULTS = ("default_tenant", "default_database")
_NOT_FOUND, _TOO_MANY, _SERVER_ERROR = 404, 429, 500


class MissingCollection(Exception):
    """There is no such collection, or there no longer is one."""


class RefusedRequest(Exception):
    """The server does not accept a request; the message is its own."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection, as the server describes it."""

    id: str
    name: str
    metadata: Mapping[str, Any]


class ChromaHttp:
    """The collections of one database of a server. Each request has a connection of its own."""

    def __init__(self, store: NamedStore) -> None:
        self._store = store
        split = urlsplit(store.url)
        self._kind = HTTPSConnection if split.scheme == SCHEME_HTTPS else HTTPConnection
        self._host, self._port = split.hostname or "", split.port
        named = [part for part in split.path.split("/") if part]
        tenant, database = (*named, *DEFAULTS[len(named) :])[:2]
        self._folder = f"/api/v2/tenants/{quote(tenant)}/databases/{quote(database)}/collections"

    def find(self, name: str) -> Collection | None:
        """Return the collection of a name; None if there is none."""
        try:
            return _collection(self._ask("GET", f"{self._folder}/{quote(name)}"))
        except MissingCollection:
            return None

    def make(self, name: str, configuration: dict[str, Any], metadata: dict[str, Any]) -> Collection:
        """Return the collection of a name, which is made if it is missing."""
        body = {"name": name, "configuration": configuration, "metadata": metadata, "get_or_create": True}
        return _collection(self._ask("POST", self._folder, body))

    def change(self, one: Collection, name: str, metadata: dict[str, Any] | None = None) -> None:
        """Give a collection a name, and other metadata unless that is None. Raises `RefusedRequest` if it is taken."""
        self._ask("PUT", f"{self._folder}/{one.id}", {"new_name": name, "new_metadata": metadata})

    def drop(self, name: str) -> None:
        """Delete a collection, if there is one."""
        try:
            self._ask("DELETE", f"{self._folder}/{quote(name)}")
        except MissingCollection:
            return

    def count(self, one: Collection) -> int:
        """Return how many rows a collection has."""
        return int(self._ask("GET", f"{self._folder}/{one.id}/count"))

    def max_rows(self) -> int:
        """Return how many rows a request may have."""
        return int(self._ask("GET", "/api/v2/pre-flight-checks")["max_batch_size"])

    def upsert(
        self, one: Collection, ids: list[str], vectors: npt.NDArray[np.float32], metadata: list[dict[str, Any]]
    ) -> None:
        """Put rows into a collection, in place of those with the same ids."""
        coded = [base64.b64encode(vector.tobytes()).decode() for vector in vectors.astype("<f4")]
        self._ask("POST", f"{self._folder}/{one.id}/upsert", {"ids": ids, "embeddings": coded, "metadatas": metadata})

    def pages(self, one: Collection, rows: int) -> Iterator[dict[str, Any]]:
        """Yield all rows of a collection, up to `rows` at a time: `ids`, `embeddings`, `metadatas`."""
        start = 0
        while True:
            body = {"limit": rows, "offset": start, "include": ["embeddings", "metadatas"]}
            page = self._ask("POST", f"{self._folder}/{one.id}/get", body)
            if not page["ids"]:
                return
            yield page
            start += len(page["ids"])

    def delete(self, one: Collection, where: dict[str, Any]) -> None:
        """Delete the rows for which a condition holds."""
        self._ask("POST", f"{self._folder}/{one.id}/delete", {"where": where})

    def query(self, one: Collection, body: dict[str, Any]) -> dict[str, Any]:
        """Search. Raises `InvalidParams` if the server refuses it."""
        try:
            found: dict[str, Any] = self._ask("POST", f"{self._folder}/{one.id}/query", body)
        except RefusedRequest as error:
            raise cannot_search(str(error)) from error
        return found

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        token = self._store.password()
        if token is not None:
            headers["x-chroma-token"] = token
        connection = self._kind(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            status, data = answer.status, answer.read()
        except (OSError, HTTPException) as error:  # its address is no tenant's business
            raise StorageUnavailable(f"the Chroma server cannot be reached: {type(error).__name__}.") from error
        finally:
            connection.close()
        if status == _NOT_FOUND:
            raise MissingCollection(path)
        if status == _TOO_MANY or status >= _SERVER_ERROR:
            raise StorageUnavailable(f"the Chroma server answers with {status}: {_message(data)}")
        if status >= 400:
            raise RefusedRequest(_message(data))
        return json.loads(data) if data else None


def _collection(found: dict[str, Any]) -> Collection:
    return Collection(found["id"], found["name"], found.get("metadata") or {})


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return data[:200].decode(errors="replace")
