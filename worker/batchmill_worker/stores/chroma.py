"""Chroma: a collection of a server that the settings name.

1. An attempt puts its rows into a collection beside the visible one, `TABLE__JOB`, by their ids. All attempts of a job
   that write a row write the same one, since they read the same committed part, so it does not matter which was last.
2. `publish` for `replace` gives that collection the name of the visible one. Otherwise it copies the rows into the
   visible one, deletes the former rows of the same documents after that, and drops the collection beside it.
3. The metadata of the visible collection names the job and the sink's target: one without them is somebody else's, and
   is never written. Whoever writes or publishes for an older job finds the newer one there.

Chroma has neither transactions nor conditions for writes. So readers can see a part of an `upsert`, and for a moment no
collection at all while `replace` renames two. A writer that was frozen may put an equal row into a collection that is
not visible, or was published by its own job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.errors import InvalidOutput, InvalidParams, InvalidRows, StaleToken
from batchmill.jobs.sink import GENERATION, ID, ROOT, IndexSpec
from batchmill_worker.stores.base import DISTANCE, Published, Receipt, beside, foreign, twins
from batchmill_worker.stores.chroma_http import ChromaHttp, Collection, MissingCollection, RefusedRequest
from batchmill_worker.stores.chroma_values import condition, from_text, kept_schema, metadata_of, to_text
from batchmill_worker.stores.filters import check_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from batchmill.jobs.sink import SinkSpec
    from batchmill.operators.contract import RowError
    from batchmill.storage.named_stores import NamedStore
    from batchmill_worker.stores.base import Build, Where

JOB, TARGET, SCHEMA = "batchmill_job", "batchmill_target", "batchmill_schema"
"""The metadata of a collection."""

MIN_NAME = 3
SEARCHED = 100  # candidates that a search considers
ROOTS_AT_ONCE = 500
_SPACES = {"cosine": "cosine", "l2": "l2", "dot": "ip"}


class ChromaStore:
    """A collection; see `Store`. Its graph index is always there."""

    def __init__(self, store: NamedStore, table: str) -> None:
        self._http = ChromaHttp(store)
        self._table = table

    def schema(self) -> pa.Schema | None:
        """See `Store`."""
        found = self._http.find(self._table)
        return None if found is None else self._schema(found)

    def refused(self, rows: pa.Table) -> dict[int, RowError]:  # noqa: ARG002  # Chroma takes all values
        """See `Store`."""
        return {}

    def write(self, build: Build, part: str, rows: pa.Table) -> Receipt:
        """See `Store`."""
        if len(self._table) < MIN_NAME or not self._table[0].isalnum() or not self._table[-1].isalnum():
            raise InvalidOutput(
                f"{self._table!r} is no name of a Chroma collection.",
                hint=f"It needs {MIN_NAME} characters or more; the first and the last one are letters or digits.",
            )
        if self._is_published(build):
            raise StaleToken(f"the rows of this job are in {self._table!r} already.")
        _refuse_twins(build, rows)
        try:
            self._put(self._make(beside(self._table, build.job), build), build, rows)
        except MissingCollection as error:
            raise self._gone() from error
        except RefusedRequest as error:
            raise InvalidRows(f"Chroma does not take the rows: {error}.") from error
        return Receipt(part, rows.num_rows)

    def publish(self, build: Build, receipts: Sequence[Receipt]) -> Published:
        """See `Store`."""
        staged = beside(self._table, build.job)
        deleted = 0
        if not self._is_published(build):
            try:
                deleted = self._publish(build, staged, sum(receipt.rows for receipt in receipts))
            except (MissingCollection, RefusedRequest) as error:
                if not self._is_published(build):  # by another publisher, which was faster
                    raise self._gone() from error
        self._http.drop(staged)
        self._http.drop(_former(staged))
        found = self._http.find(self._table)
        return Published(0 if found is None else self._http.count(found), deleted, "hnsw")

    def search(
        self, sink: SinkSpec, vector: npt.NDArray[np.float32], k: int, where: Where, columns: Sequence[str] | None
    ) -> pa.Table:
        """See `Store`."""
        found = self._http.find(self._table)
        if found is None:
            raise InvalidParams(f"there is no collection {self._table!r}.")
        schema = self._schema(found)
        names = [name for name in schema.names if name != sink.vector] if columns is None else list(columns)
        check_columns([*names, *where], schema.names)
        include = ["metadatas", "distances", *(["embeddings"] if sink.vector in names else [])]
        body = {"query_embeddings": [vector.tolist()], "n_results": k, "include": include}
        try:
            answer = self._http.query(found, body | {"where": condition(where, schema)})
        except MissingCollection as error:
            raise InvalidParams(f"there is no collection {self._table!r}.") from error
        rows = [
            dict(metadata or {}) | {ID: one}
            for one, metadata in zip(answer["ids"][0], answer["metadatas"][0], strict=True)
        ]
        if sink.vector in names:
            rows = [row | {sink.vector: one} for row, one in zip(rows, answer["embeddings"][0], strict=True)]
        shown = {name: pa.array([row.get(name) for row in rows], schema.field(name).type) for name in names}
        return pa.table(shown | {DISTANCE: pa.array(answer["distances"][0], pa.float32())})

    def _publish(self, build: Build, staged_name: str, rows: int) -> int:
        staged = self._http.find(staged_name)
        if staged is None:
            raise MissingCollection(staged_name)
        if self._http.count(staged) < rows:
            raise twins(build, None)
        return self._swap(build, staged) if build.sink.mode == "replace" else self._merge(build, staged)

    def _swap(self, build: Build, staged: Collection) -> int:
        """Give the new collection the name of the visible one."""
        visible = self._http.find(self._table)
        deleted = 0 if visible is None else self._http.count(visible)
        if visible is not None:
            self._http.change(visible, _former(staged.name))
        self._http.change(staged, self._table, self._marks(build, build.job))
        return deleted

    def _merge(self, build: Build, staged: Collection) -> int:
        """Copy the new rows into the visible collection, and delete those that they leave over."""
        http, visible = self._http, self._make(self._table, build)
        roots: set[str] = set()
        for page in http.pages(staged, http.max_rows()):
            http.upsert(visible, page["ids"], np.array(page["embeddings"], np.float32), page["metadatas"])
            roots |= {metadata[ROOT] for metadata in page["metadatas"]}
        rows = http.count(visible)
        others = {GENERATION: {"$ne": build.job}}
        if build.sink.mode == "mirror":
            http.delete(visible, others)
        elif build.sink.mode == "upsert":
            named = sorted(roots)
            for start in range(0, len(named), ROOTS_AT_ONCE):
                http.delete(visible, {"$and": [{ROOT: {"$in": named[start : start + ROOTS_AT_ONCE]}}, others]})
        self._is_published(build)  # a newer job may have been
        deleted = rows - http.count(visible)
        http.change(visible, self._table, self._marks(build, build.job))
        return deleted

    def _make(self, name: str, build: Build) -> Collection:
        """Return a collection, which is made if it is missing."""
        found = self._http.find(name)
        if found is not None:
            return found
        spec = build.sink.index if isinstance(build.sink.index, IndexSpec) else IndexSpec()
        hnsw = {
            "space": _SPACES[build.sink.metric],
            "max_neighbors": spec.m,
            "ef_construction": spec.ef_construction,
            "ef_search": SEARCHED,
        }
        return self._http.make(name, {"hnsw": hnsw}, self._marks(build, ""))

    def _marks(self, build: Build, job: str) -> dict[str, Any]:
        return {JOB: job, TARGET: build.sink.to, SCHEMA: to_text(kept_schema(build.schema, build.sink.vector))}

    def _put(self, one: Collection, build: Build, rows: pa.Table) -> None:
        vectors = rows[build.sink.vector].combine_chunks().flatten().to_numpy().reshape(-1, build.dimension)
        ids = rows[ID].to_pylist()
        metadata = metadata_of(rows.drop_columns([ID, build.sink.vector]))
        size = self._http.max_rows()
        for start in range(0, rows.num_rows, size):
            some = slice(start, start + size)
            self._http.upsert(one, ids[some], vectors[some], metadata[some])

    def _is_published(self, build: Build) -> bool:
        """Return whether the job was published. Raises `StaleToken` if a newer one was, and as `foreign`."""
        found = self._http.find(self._table)
        if found is None:
            return False
        self._schema(found)
        if found.metadata[TARGET] != build.sink.to:
            why = "its server is reached under two names of stores, and the collection was made under the other one"
            raise foreign(f"the collection {self._table!r}", why)
        if found.metadata[JOB] > build.job:
            raise StaleToken(f"job {found.metadata[JOB]} has published rows into {self._table!r} since.")
        return bool(found.metadata[JOB] == build.job)

    def _schema(self, found: Collection) -> pa.Schema:
        if not {JOB, TARGET, SCHEMA} <= found.metadata.keys():
            raise foreign(f"the collection {self._table!r}", "its server has one of that name that no sink has made")
        return from_text(found.metadata[SCHEMA])

    def _gone(self) -> StaleToken:
        return StaleToken(f"the rows of this job in {self._table!r} were published or dropped meanwhile.")


def _former(staged: str) -> str:
    """Return the name that the visible collection has until it is dropped."""
    return f"{staged}__former"


def _refuse_twins(build: Build, rows: pa.Table) -> None:
    """Raise `InvalidRows` if two rows of an attempt have one id, which only a column of the user's can give them."""
    counts = pc.value_counts(rows[ID].combine_chunks())
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise twins(build, rows.filter(pc.equal(rows[ID], twice[0]["values"]))[ROOT][0].as_py())
