"""A collection of a server without transactions, such as Chroma or Qdrant, as a store.

1. An attempt puts its rows into a collection beside the visible one, `TABLE__JOB`, by their ids. All attempts of a job
   that write a row write the same one, since they read the same committed part, so it does not matter which was last.
2. `publish` for `replace` makes that collection the visible one. Otherwise it copies the rows into the visible one,
   deletes the former rows of the same documents after that, and drops the collection beside it.
3. The metadata of the visible collection names the job and the sink's target: one without them is somebody else's, and
   is never written. Whoever writes or publishes for an older job finds the newer one there. A publisher looks before
   each page that it copies, so one that was frozen while a newer job was published ends at its next page.

Readers can see a part of an `upsert`. A writer that was frozen may put an equal row into a collection that is not
visible, or was published by its own job.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from batchmill.errors import InvalidParams, InvalidRows, StaleToken
from batchmill.jobs.sink import ID, ROOT
from batchmill_worker.stores.base import DISTANCE, Published, Receipt, beside, foreign, twins
from batchmill_worker.stores.filters import check_columns
from batchmill_worker.stores.json_http import MissingCollection, RefusedRequest
from batchmill_worker.stores.payloads import from_text, kept_schema, payloads_of, to_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from batchmill.jobs.sink import SinkSpec
    from batchmill.operators.contract import RowError
    from batchmill_worker.stores.base import Build, Where

log = logging.getLogger(__name__)

JOB, TARGET, SCHEMA = OWN_MARKS = ("batchmill_job", "batchmill_target", "batchmill_schema")
"""The metadata of a collection."""

TIME = "_time"
"""What rows have besides their columns: when their job was submitted, as a number that servers compare."""

SEARCHED = 100  # candidates that a search considers
MAX_TRIES = 5  # to publish, while others publish as well
_DIGITS, _TIME_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz", 10


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection, as the server describes it."""

    id: str
    name: str
    metadata: Mapping[str, Any]

    @property
    def is_own(self) -> bool:
        """Whether a sink has made it."""
        return self.metadata.keys() >= set(OWN_MARKS)


@dataclass(frozen=True, slots=True)
class Points:
    """Rows of a collection. vectors: an array of two dimensions. payloads: the other columns by name."""

    ids: list[str]
    vectors: npt.NDArray[np.float32]
    payloads: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that a search found. vector: if it was asked for."""

    id: str
    distance: float
    payload: Mapping[str, Any]
    vector: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A search. where: in the server's form, from `Server.condition`."""

    sink: SinkSpec
    vector: npt.NDArray[np.float32]
    k: int
    where: Any
    with_vectors: bool


class Server(Protocol):
    """What a store needs of a server. Raises `MissingCollection`, `RefusedRequest` and `StorageUnavailable`."""

    def check_name(self, table: str) -> None:
        """Raise `InvalidOutput` if the server does not take the name."""
        ...

    def find(self, name: str) -> Collection | None:
        """Return the collection of a name; None if there is none."""
        ...

    def make(self, name: str, build: Build, metadata: dict[str, Any]) -> Collection:
        """Return the collection of a name, which is made if it is missing."""
        ...

    def mark(self, one: Collection, metadata: dict[str, Any]) -> None:
        """Give a collection other metadata."""
        ...

    def show(self, staged: Collection, visible: Collection | None, table: str, metadata: dict[str, Any]) -> None:
        """Make a collection, with other metadata, the visible one, in place of the one that is."""
        ...

    def clean(self, table: str, build: Build) -> None:
        """Drop what the job no longer needs."""
        ...

    def count(self, one: Collection) -> int:
        """Return how many rows a collection has."""
        ...

    def put(self, one: Collection, points: Points, time: int) -> None:
        """Put rows into a collection, in place of those with the same ids. time: of their job."""
        ...

    def pages(self, one: Collection) -> Iterator[Points]:
        """Yield all rows of a collection."""
        ...

    def delete_former(self, one: Collection, time: int, roots: Sequence[str] | None) -> None:
        """Delete the rows of jobs before `time`, of these documents; None: of all."""
        ...

    def index(self, one: Collection, build: Build) -> str:
        """Build the index that the sink asks for; return its kind."""
        ...

    def condition(self, where: Where, schema: pa.Schema) -> Any:
        """Return a filter in the server's form. Raises `InvalidParams` for one that it does not have."""
        ...

    def nearest(self, one: Collection, query: Query) -> list[Hit]:
        """Search. Raises `InvalidParams` if the server refuses it."""
        ...


class CollectionStore:
    """A collection; see `Store`."""

    def __init__(self, server: Server, table: str) -> None:
        self._server = server
        self._table = table

    def schema(self) -> pa.Schema | None:
        """See `Store`."""
        found = self._server.find(self._table)
        return None if found is None else self._schema(found)

    def refused(self, rows: pa.Table) -> dict[int, RowError]:  # noqa: ARG002  # these servers take all values
        """See `Store`."""
        return {}

    def write(self, build: Build, part: str, rows: pa.Table) -> Receipt:
        """See `Store`."""
        self._server.check_name(self._table)
        if self._is_published(build):
            raise StaleToken(f"the rows of this job are in {self._table!r} already.")
        _refuse_twins(build, rows)
        vectors = rows[build.sink.vector].combine_chunks().flatten().to_numpy().reshape(-1, build.dimension)
        time = time_of(build.job)
        payloads = [payload | {TIME: time} for payload in payloads_of(rows.drop_columns([ID, build.sink.vector]))]
        try:
            staged = self._server.make(beside(self._table, build.job), build, self._marks(build, ""))
            self._server.put(staged, Points(rows[ID].to_pylist(), vectors, payloads), time)
        except MissingCollection as error:
            raise self._gone() from error
        except RefusedRequest as error:
            raise InvalidRows(f"the server does not take the rows: {error}.") from error
        return Receipt(part, rows.num_rows)

    def publish(self, build: Build, receipts: Sequence[Receipt]) -> Published:
        """See `Store`."""
        rows = sum(receipt.rows for receipt in receipts)
        try:
            deleted = self._publish_once(build, rows)
        except StaleToken:
            self._server.clean(self._table, build)  # its rows can no longer be published
            raise
        self._server.clean(self._table, build)
        found = self._server.find(self._table)
        try:
            if found is not None:
                return Published(self._server.count(found), deleted, self._server.index(found, build))
        except MissingCollection:
            log.info("%s: another job has replaced the rows of %s since", self._table, build.job)
        return Published(rows, deleted)

    def search(
        self, sink: SinkSpec, vector: npt.NDArray[np.float32], k: int, where: Where, columns: Sequence[str] | None
    ) -> pa.Table:
        """See `Store`."""
        found = self._server.find(self._table)
        if found is None:
            raise InvalidParams(f"there is no collection {self._table!r}.")
        schema = self._schema(found)
        names = [name for name in schema.names if name != sink.vector] if columns is None else list(columns)
        check_columns([*names, *where], schema.names)
        query = Query(sink, vector, k, self._server.condition(where, schema), sink.vector in names)
        try:
            hits = self._server.nearest(found, query)
        except MissingCollection as error:
            raise InvalidParams(f"there is no collection {self._table!r}.") from error
        rows = [{**hit.payload, ID: hit.id, sink.vector: hit.vector} for hit in hits]
        shown = {name: pa.array([row.get(name) for row in rows], schema.field(name).type) for name in names}
        return pa.table(shown | {DISTANCE: pa.array([hit.distance for hit in hits], pa.float32())})

    def _publish_once(self, build: Build, rows: int) -> int:
        """Make the rows visible unless they are; return how many were deleted."""
        for _ in range(MAX_TRIES):
            if self._is_published(build):  # by a publisher that was cut short, or by another one, which was faster
                return 0
            try:
                return self._publish(build, rows)
            except (MissingCollection, RefusedRequest):  # another publisher has come between
                if self._server.find(beside(self._table, build.job)) is None and not self._is_published(build):
                    break
        raise self._gone()

    def _publish(self, build: Build, rows: int) -> int:
        """Make the rows visible; return how many were deleted."""
        server, name = self._server, beside(self._table, build.job)
        staged, visible = server.find(name), self._current(build)
        if staged is None:
            raise MissingCollection(name)
        if server.count(staged) < rows:
            raise twins(build, None)
        if build.sink.mode != "replace" and visible is not None:
            return self._merge(build, staged, visible)
        server.index(staged, build)
        visible = self._current(build)  # a newer job may have been published meanwhile
        deleted = 0 if visible is None else server.count(visible)
        server.show(staged, visible, self._table, self._marks(build, build.job))
        return deleted

    def _merge(self, build: Build, staged: Collection, visible: Collection) -> int:
        """Copy the new rows into the visible collection, and delete those that they leave over."""
        server, time = self._server, time_of(build.job)
        roots: set[str] = set()
        for page in server.pages(staged):
            self._current(build)  # a newer job may have been published meanwhile
            server.put(visible, page, time)
            roots |= {payload[ROOT] for payload in page.payloads}
        rows = server.count(visible)
        if build.sink.mode != "amend":
            server.delete_former(visible, time, None if build.sink.mode == "mirror" else sorted(roots))
        self._current(build)
        deleted = rows - server.count(visible)
        server.mark(visible, self._marks(build, build.job))
        return deleted

    def _marks(self, build: Build, job: str) -> dict[str, Any]:
        return {JOB: job, TARGET: build.sink.to, SCHEMA: to_text(kept_schema(build.schema, build.sink.vector))}

    def _is_published(self, build: Build) -> bool:
        """Return whether the job was published. Raises as `_current`."""
        found = self._current(build)
        return found is not None and found.metadata[JOB] == build.job

    def _current(self, build: Build) -> Collection | None:
        """Return the visible collection. Raises `StaleToken` if a newer job was published, and as `foreign`."""
        found = self._server.find(self._table)
        if found is None:
            return None
        self._schema(found)
        if found.metadata[TARGET] != build.sink.to:
            why = "its server is reached under two names of stores, and the collection was made under the other one"
            raise foreign(f"the collection {self._table!r}", why)
        if found.metadata[JOB] > build.job:
            raise StaleToken(f"job {found.metadata[JOB]} has published rows into {self._table!r} since.")
        return found

    def _schema(self, found: Collection) -> pa.Schema:
        if not found.is_own:
            raise foreign(f"the collection {self._table!r}", "its server has one of that name that no sink has made")
        return from_text(found.metadata[SCHEMA])

    def _gone(self) -> StaleToken:
        return StaleToken(f"the rows of this job in {self._table!r} were published or dropped meanwhile.")


def time_of(job: str) -> int:
    """Return when a job was submitted, as its id has it: in base 32, after `job-`."""
    number = 0
    for digit in job.partition("-")[2][:_TIME_DIGITS].ljust(_TIME_DIGITS, "0"):
        number = number * len(_DIGITS) + _DIGITS.index(digit)
    return number


def _refuse_twins(build: Build, rows: pa.Table) -> None:
    """Raise `InvalidRows` if two rows of an attempt have one id, which only a column of the user's can give them."""
    counts = pc.value_counts(rows[ID].combine_chunks())
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise twins(build, rows.filter(pc.equal(rows[ID], twice[0]["values"]))[ROOT][0].as_py())
