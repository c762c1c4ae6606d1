"""Qdrant: a collection of a server that the settings name; see `collection_store`.

The visible name is an alias, so `replace` is one step. Points are put into the visible collection with the condition
that those there are not of a newer job. Of vectors that are compared by their direction Qdrant keeps only that; their
length is kept beside them. Needs Qdrant 1.16 or newer, for the metadata of collections and for conditions of writes.
"""

from __future__ import annotations

import re
import time as clock
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from batchmill.errors import MissingExtra
from batchmill.jobs.sink import INDEX_FROM_ROWS, ROOT, IndexSpec
from batchmill_worker.stores.base import cannot_search
from batchmill_worker.stores.collection_store import (
    JOB,
    SEARCHED,
    TARGET,
    TIME,
    Collection,
    CollectionStore,
    Hit,
    Points,
    Query,
)
from batchmill_worker.stores.filters import terms_of
from batchmill_worker.stores.json_http import JsonHttp, MissingCollection, RefusedRequest, TooLargeRequest
from batchmill_worker.stores.payloads import check_values, is_exact

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    import pyarrow as pa

    from batchmill.storage.named_stores import NamedStore
    from batchmill_worker.stores.base import Build, Where
    from batchmill_worker.stores.filters import Term

    Json = dict[str, Any]

NORM = "_norm"
"""The payload with the length of a vector, in collections that compare directions."""

COSINE = "Cosine"
ROWS_AT_ONCE = 1_000
ROOTS_AT_ONCE = 500
BUILT_FROM_KB = 1  # segments that are larger get an index; 0 would be none
POLL_S = 0.5
_DISTANCES = {"cosine": COSINE, "l2": "Euclid", "dot": "Dot"}
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class QdrantStore(CollectionStore):
    """A collection of Qdrant, behind an alias."""

    def __init__(self, store: NamedStore, table: str) -> None:
        super().__init__(QdrantServer(store), table)


class QdrantServer:
    """The collections of a server, by its HTTP interface; see `Server`. The id of a collection is its own name."""

    def __init__(self, store: NamedStore) -> None:
        self._http = JsonHttp(store, "Qdrant", "api-key", lambda answer: answer["status"]["error"])

    def check_name(self, table: str) -> None:
        """See `Server`. All names of tables are names of collections."""

    def find(self, name: str) -> Collection | None:
        """See `Server`."""
        target = self._aliases().get(name, name)
        try:
            found = self._ask("GET", f"/collections/{quote(target)}")
        except MissingCollection:
            return None
        return Collection(target, name, found["config"].get("metadata") or {})

    def make(self, name: str, build: Build, metadata: Json) -> Collection:
        """See `Server`."""
        found = self.find(name)
        if found is not None:
            return found
        spec = build.sink.index if isinstance(build.sink.index, IndexSpec) else IndexSpec()
        body = {
            "vectors": {"size": build.dimension, "distance": _DISTANCES[build.sink.metric]},
            "hnsw_config": {"m": spec.m, "ef_construct": spec.ef_construction},
            "optimizers_config": {"indexing_threshold": 0},
            "metadata": metadata,
        }
        try:
            self._ask("PUT", f"/collections/{quote(name)}", body)
        except RefusedRequest:  # another writer was faster
            found = self.find(name)
            if found is None:
                raise
            return found
        return Collection(name, name, metadata)

    def mark(self, one: Collection, metadata: Json) -> None:
        """See `Server`."""
        self._ask("PATCH", f"/collections/{quote(one.id)}", {"metadata": metadata})

    def show(self, staged: Collection, visible: Collection | None, table: str, metadata: Json) -> None:
        """See `Server`."""
        self.mark(staged, metadata)
        actions: list[Json] = [] if visible is None else [{"delete_alias": {"alias_name": table}}]
        actions.append({"create_alias": {"collection_name": staged.id, "alias_name": table}})
        self._ask("POST", "/collections/aliases", {"actions": actions})

    def clean(self, table: str, build: Build) -> None:
        """See `Server`. Collections of former jobs go too: they were replaced, or can no longer be published."""
        shown, newest = set(self._aliases().values()), build.job.rpartition("-")[2]
        for one in self._ask("GET", "/collections")["collections"]:
            name: str = one["name"]
            owner, _, job = name.rpartition("__")
            if owner != table or name in shown or job > newest:
                continue
            found = self.find(name)
            if found is not None and found.metadata.get(TARGET) == build.sink.to:
                with suppress(MissingCollection):  # another publisher of the job was faster
                    self._ask("DELETE", f"/collections/{quote(name)}")

    def count(self, one: Collection) -> int:
        """See `Server`."""
        return int(self._ask("POST", f"/collections/{quote(one.id)}/points/count", {"exact": True})["count"])

    def put(self, one: Collection, points: Points, time: int) -> None:
        """See `Server`. Rows of a newer job stay as they are."""
        condition = {"must": [{"key": TIME, "range": {"lte": time}}]} if one.metadata.get(JOB) else None
        has_norms = self._compares_directions(one)
        for start in range(0, len(points.ids), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            vectors, payloads = points.vectors[some], points.payloads[some]
            if has_norms:
                norms = np.linalg.norm(vectors, axis=1).tolist()
                payloads = [payload | {NORM: norm} for payload, norm in zip(payloads, norms, strict=True)]
            self._put(one, Points(points.ids[some], vectors, payloads), condition)

    def pages(self, one: Collection) -> Iterator[Points]:
        """See `Server`."""
        body: Json = {"limit": ROWS_AT_ONCE, "with_payload": True, "with_vector": True}
        while True:
            page = self._ask("POST", f"/collections/{quote(one.id)}/points/scroll", body)
            points = page["points"]
            if points:
                payloads = [point["payload"] for point in points]
                vectors = np.array([_restored(point) for point in points], np.float32)
                yield Points([point["id"] for point in points], vectors, payloads)
            if page.get("next_page_offset") is None:
                return
            body["offset"] = page["next_page_offset"]

    def delete_former(self, one: Collection, time: int, roots: Sequence[str] | None) -> None:
        """See `Server`."""
        former = {"key": TIME, "range": {"lt": time}}
        for name, kind in ((TIME, "integer"), (ROOT, "keyword")):
            body = {"field_name": name, "field_schema": kind}
            self._ask("PUT", f"/collections/{quote(one.id)}/index?wait=true", body)
        if roots is None:
            self._delete(one, [former])
            return
        for start in range(0, len(roots), ROOTS_AT_ONCE):
            some = roots[start : start + ROOTS_AT_ONCE]
            self._delete(one, [{"key": ROOT, "match": {"any": some}}, former])

    def index(self, one: Collection, build: Build) -> str:
        """See `Server`. Qdrant builds it in the background; this waits until it is there."""
        sink, path = build.sink, f"/collections/{quote(one.id)}"
        has_index = bool(self._ask("GET", path)["config"]["optimizer_config"].get("indexing_threshold"))
        wanted = isinstance(sink.index, IndexSpec) or (sink.index == "auto" and self.count(one) >= INDEX_FROM_ROWS)
        if not (has_index or wanted):
            return "none"
        if not has_index:
            self._ask("PATCH", path, {"optimizers_config": {"indexing_threshold": BUILT_FROM_KB}})
        while self._ask("GET", path)["status"] == "yellow":
            clock.sleep(POLL_S)
        return "hnsw"

    def condition(self, where: Where, schema: pa.Schema) -> Json | None:
        """See `Server`."""
        terms = [_term(term, schema.field(term.column).type) for term in terms_of(where)]
        return {"must": terms} if terms else None

    def nearest(self, one: Collection, query: Query) -> list[Hit]:
        """See `Server`."""
        body = {
            "query": query.vector.tolist(),
            "limit": query.k,
            "filter": query.where,
            "params": {"hnsw_ef": max(SEARCHED, query.k)},
            "with_payload": True,
            "with_vector": query.with_vectors,
        }
        try:
            points = self._ask("POST", f"/collections/{quote(one.id)}/points/query", body)["points"]
        except RefusedRequest as error:
            raise cannot_search(str(error)) from error
        return [
            Hit(
                point["id"],
                point["score"] if query.sink.metric == "l2" else 1 - point["score"],
                point["payload"],
                _restored(point).tolist() if query.with_vectors else None,
            )
            for point in points
        ]

    def _put(self, one: Collection, points: Points, condition: Json | None) -> None:
        """Put points into a collection; halves of them if they are too many bytes for the server."""
        batch = {"ids": points.ids, "vectors": np.ascontiguousarray(points.vectors), "payloads": points.payloads}
        body = _json_of({"batch": batch} if condition is None else {"batch": batch, "update_filter": condition})
        try:
            self._ask("PUT", f"/collections/{quote(one.id)}/points?wait=true", body)
        except TooLargeRequest:
            half = len(points.ids) // 2
            if not half:
                raise
            for some in (slice(half), slice(half, None)):
                self._put(one, Points(points.ids[some], points.vectors[some], points.payloads[some]), condition)

    def _delete(self, one: Collection, conditions: list[Json]) -> None:
        path = f"/collections/{quote(one.id)}/points/delete?wait=true"
        self._ask("POST", path, {"filter": {"must": conditions}})

    def _compares_directions(self, one: Collection) -> bool:
        params = self._ask("GET", f"/collections/{quote(one.id)}")["config"]["params"]
        return bool(params["vectors"]["distance"] == COSINE)

    def _aliases(self) -> dict[str, str]:
        """Return the collection of each alias."""
        return {one["alias_name"]: one["collection_name"] for one in self._ask("GET", "/aliases")["aliases"]}

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        return self._http.ask(method, path, body)["result"]


def _restored(point: Json) -> npt.NDArray[np.float32]:
    """Return the vector of a point with its length."""
    return np.asarray(point["vector"], np.float32) * np.float32(point["payload"].get(NORM, 1.0))


def _term(term: Term, kind: pa.DataType) -> Json:
    """Return a comparison in Qdrant's form. A row without a value is found by null only, as in the other stores."""
    check_values(term, kind)
    key = term.column if _PLAIN_KEY.fullmatch(term.column) else f'"{term.column}"'
    is_empty = {"is_empty": {"key": key}}
    if term.value is None:
        return is_empty if term.comparison == "eq" else {"must_not": [is_empty]}
    if term.comparison in ("lt", "lte", "gt", "gte"):
        return {"key": key, "range": {term.comparison: term.value}}
    values = term.value if isinstance(term.value, list) else [term.value]
    equal = [_equal(key, value, kind) for value in values]
    return {"must_not": [*equal, is_empty]} if term.comparison == "ne" else {"should": equal}


def _equal(key: str, value: Any, kind: pa.DataType) -> Json:
    if isinstance(value, float) or not is_exact(kind):
        return {"key": key, "range": {"gte": value, "lte": value}}
    return {"key": key, "match": {"value": value}}


def _json_of(body: Json) -> bytes:
    """Return a body as JSON: a matrix of float32 is written as lists, each number as short as it can be."""
    try:
        import orjson
    except ImportError as error:
        raise MissingExtra(
            "what writes rows for Qdrant is not installed on this worker.", hint="pip install 'batchmill[qdrant]'"
        ) from error
    return bytes(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY))
