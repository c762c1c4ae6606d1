"""Chroma: a collection of a server that the settings name; see `collection_store`.

`replace` renames two collections, since Chroma has no aliases: for a moment there is no collection of the visible name.
It has no conditions for writes either, so a publisher that was frozen, and is superseded, may finish its current page.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from batchmill.errors import InvalidOutput
from batchmill.jobs.sink import ROOT, IndexSpec
from batchmill_worker.stores.base import beside, cannot_search
from batchmill_worker.stores.collection_store import SEARCHED, TIME, Collection, CollectionStore, Hit, Points, Query
from batchmill_worker.stores.filters import terms_of
from batchmill_worker.stores.json_http import JsonHttp, MissingCollection, RefusedRequest
from batchmill_worker.stores.payloads import check_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from batchmill.storage.named_stores import NamedStore
    from batchmill_worker.stores.base import Build, Where
    from batchmill_worker.stores.filters import Term

DEFAULTS = ("default_tenant", "default_database")
MIN_NAME = 3
ROOTS_AT_ONCE = 500
_SPACES = {"cosine": "cosine", "l2": "l2", "dot": "ip"}


class ChromaStore(CollectionStore):
    """A collection of Chroma. Its graph index is always there."""

    def __init__(self, store: NamedStore, table: str) -> None:
        super().__init__(ChromaServer(store), table)


class ChromaServer:
    """The collections of one database of a server, by its HTTP interface of version 2; see `Server`."""

    def __init__(self, store: NamedStore) -> None:
        self._http = JsonHttp(store, "Chroma", "x-chroma-token", lambda answer: answer["message"])
        tenant, database = (*self._http.path_names, *DEFAULTS[len(self._http.path_names) :])[:2]
        self._rows_at_once: int | None = None
        self._folder = f"/api/v2/tenants/{quote(tenant)}/databases/{quote(database)}/collections"

    def check_name(self, table: str) -> None:
        """See `Server`."""
        if len(table) < MIN_NAME or not table[0].isalnum() or not table[-1].isalnum():
            raise InvalidOutput(
                f"{table!r} is no name of a Chroma collection.",
                hint=f"It needs {MIN_NAME} characters or more; the first and the last one are letters or digits.",
            )

    def find(self, name: str) -> Collection | None:
        """See `Server`."""
        try:
            return _collection(self._http.ask("GET", f"{self._folder}/{quote(name)}"))
        except MissingCollection:
            return None

    def make(self, name: str, build: Build, metadata: dict[str, Any]) -> Collection:
        """See `Server`."""
        found = self.find(name)
        if found is not None:
            return found
        spec = build.sink.index if isinstance(build.sink.index, IndexSpec) else IndexSpec()
        hnsw = {
            "space": _SPACES[build.sink.metric],
            "max_neighbors": spec.m,
            "ef_construction": spec.ef_construction,
            "ef_search": SEARCHED,
        }
        body = {"name": name, "configuration": {"hnsw": hnsw}, "metadata": metadata, "get_or_create": True}
        return _collection(self._http.ask("POST", self._folder, body))

    def mark(self, one: Collection, metadata: dict[str, Any]) -> None:
        """See `Server`."""
        self._change(one, one.name, metadata)

    def show(self, staged: Collection, visible: Collection | None, table: str, metadata: dict[str, Any]) -> None:
        """See `Server`. Of two at the same time, one is refused: the name is taken."""
        if visible is not None:
            self._change(visible, _former(staged.name), None)
        self._change(staged, table, metadata)

    def clean(self, table: str, build: Build) -> None:
        """See `Server`."""
        staged = beside(table, build.job)
        for name in (staged, _former(staged)):
            try:
                self._http.ask("DELETE", f"{self._folder}/{quote(name)}")
            except MissingCollection:
                continue

    def count(self, one: Collection) -> int:
        """See `Server`."""
        return int(self._http.ask("GET", f"{self._folder}/{one.id}/count"))

    def put(self, one: Collection, points: Points, time: int) -> None:  # noqa: ARG002  # writes have no conditions
        """See `Server`."""
        size = self._max_rows()
        for start in range(0, len(points.ids), size):
            some = slice(start, start + size)
            coded = [base64.b64encode(vector.tobytes()).decode() for vector in points.vectors[some].astype("<f4")]
            body = {"ids": points.ids[some], "embeddings": coded, "metadatas": points.payloads[some]}
            self._http.ask("POST", f"{self._folder}/{one.id}/upsert", body)

    def pages(self, one: Collection) -> Iterator[Points]:
        """See `Server`."""
        start, size = 0, self._max_rows()
        while True:
            body = {"limit": size, "offset": start, "include": ["embeddings", "metadatas"]}
            page = self._http.ask("POST", f"{self._folder}/{one.id}/get", body)
            if not page["ids"]:
                return
            yield Points(page["ids"], np.array(page["embeddings"], np.float32), page["metadatas"])
            start += len(page["ids"])

    def delete_former(self, one: Collection, time: int, roots: Sequence[str] | None) -> None:
        """See `Server`."""
        former = {TIME: {"$lt": time}}
        if roots is None:
            self._delete(one, former)
            return
        for start in range(0, len(roots), ROOTS_AT_ONCE):
            self._delete(one, {"$and": [{ROOT: {"$in": roots[start : start + ROOTS_AT_ONCE]}}, former]})

    def index(self, one: Collection, build: Build) -> str:  # noqa: ARG002  # it grows with the rows
        """See `Server`."""
        return "hnsw"

    def condition(self, where: Where, schema: pa.Schema) -> dict[str, Any] | None:
        """See `Server`."""
        terms = [_term(term, schema.field(term.column).type) for term in terms_of(where)]
        return {"$and": terms} if len(terms) > 1 else next(iter(terms), None)

    def nearest(self, one: Collection, query: Query) -> list[Hit]:
        """See `Server`."""
        body = {
            "query_embeddings": [query.vector.tolist()],
            "n_results": query.k,
            "where": query.where,
            "include": ["metadatas", "distances", *(["embeddings"] if query.with_vectors else [])],
        }
        try:
            answer = self._http.ask("POST", f"{self._folder}/{one.id}/query", body)
        except RefusedRequest as error:
            raise cannot_search(str(error)) from error
        ids, distances = answer["ids"][0], answer["distances"][0]
        vectors = answer["embeddings"][0] if query.with_vectors else [None] * len(ids)
        return [
            Hit(one_id, distance, metadata or {}, vector)
            for one_id, distance, metadata, vector in zip(ids, distances, answer["metadatas"][0], vectors, strict=True)
        ]

    def _delete(self, one: Collection, where: dict[str, Any]) -> None:
        self._http.ask("POST", f"{self._folder}/{one.id}/delete", {"where": where})

    def _change(self, one: Collection, name: str, metadata: dict[str, Any] | None) -> None:
        """Give a collection a name, and other metadata unless that is None. Raises `RefusedRequest` if it is taken."""
        self._http.ask("PUT", f"{self._folder}/{one.id}", {"new_name": name, "new_metadata": metadata})

    def _max_rows(self) -> int:
        """Return how many rows a request may have. Asked once: what is looked up before a write is to be new."""
        if self._rows_at_once is None:
            self._rows_at_once = int(self._http.ask("GET", "/api/v2/pre-flight-checks")["max_batch_size"])
        return self._rows_at_once


def _former(staged: str) -> str:
    """Return the name that the visible collection has until it is dropped."""
    return f"{staged}__former"


def _collection(found: dict[str, Any]) -> Collection:
    return Collection(found["id"], found["name"], found.get("metadata") or {})


def _term(term: Term, kind: pa.DataType) -> dict[str, Any]:
    check_values(term, kind)
    if term.value is None:
        raise cannot_search("Chroma does not find rows by values that they do not have")
    return {term.column: {f"${term.comparison}": term.value}}
