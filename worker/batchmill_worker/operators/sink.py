"""`batchmill.store` and `batchmill.publish`: the two stages that write a sink, see `batchmill.jobs.sink`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from batchmill.caches import Lru
from batchmill.columns.lineage import SOURCE_ROW
from batchmill.errors import NotFound
from batchmill.jobs.shard import parse_part, part_of
from batchmill.jobs.sink import PUBLISH_OPERATOR, STORE_OPERATOR, SinkSpec, step_of
from batchmill.operators.contract import OperatorKind
from batchmill.operators.registration import operator
from batchmill_worker.engine.executor import ShardReceipt, ShardRows
from batchmill_worker.models.setup_context import SetupContext, current
from batchmill_worker.stores.base import Build, Receipt
from batchmill_worker.stores.opening import open_store
from batchmill_worker.stores.rows import conform, stored_rows

if TYPE_CHECKING:
    from batchmill.operators.contract import RowError
    from batchmill.storage.blobs import BlobStore
    from batchmill_worker.stores.base import Store

MAX_KEPT = 64


class _Stored(NamedTuple):
    """Rows as they are stored, and the errors of others by their place. schema: of all rows; None: there are none."""

    rows: pa.Table
    errors: dict[int, RowError]
    schema: pa.Schema | None


class _StoreStage:
    """What both stages know: the sink, its store, and the schema that the rows of a job have in it."""

    def __init__(self, sink: SinkSpec) -> None:
        self.sink = sink
        self._context = SetupContext()
        self._schemas: Lru[str, pa.Schema] = Lru(MAX_KEPT)

    def setup(self, device: str) -> None:  # noqa: ARG002  # a store uses no device
        """Note what the worker may use."""
        self._context = current()

    def open(self) -> Store:
        """Open the store. Raises as `open_store`."""
        return open_store(self.sink, self._context)

    def agreed(self, job: str, own: pa.Schema | None, store: Store) -> pa.Schema:
        """Return the schema that all rows of a job have in the store: that of the first shard that is written.

        Rows that are added to others have theirs. own: of the rows at hand; None: there must be one.
        """
        known = self._schemas.get(job)
        if known is None:
            known = self._read_or_write(f"jobs/{job}/sink/schema", own, store)
            self._schemas.put(job, known)
        return known

    def _read_or_write(self, name: str, own: pa.Schema | None, store: Store) -> pa.Schema:
        blobs = self._blobs()
        try:
            return pa.ipc.read_schema(blobs.get(name))
        except NotFound:
            if own is None:
                raise
        visible = None if self.sink.mode == "replace" else store.schema()
        blobs.put_new(name, (visible or own).remove_metadata().serialize().to_pybytes())
        return pa.ipc.read_schema(blobs.get(name))

    def _blobs(self) -> BlobStore:
        if self._context.blobs is None:
            raise RuntimeError("the stages of a sink run in a worker only")
        return self._context.blobs


@operator(
    STORE_OPERATOR,
    columns=["{vector}"],
    makes=["receipt"],
    batch_format="arrow",
    batch_size=None,
    expands=True,
    cacheable=False,
    kind=OperatorKind.SHARD,
)
class StoreRows(_StoreStage):
    """Write rows into the store of a job's sink. Only the service itself runs it."""

    def __init__(self, *, sink: SinkSpec, vector: str = "embedding", in_steps: bool = False) -> None:
        super().__init__(sink)
        self._vector = vector
        self._in_steps = in_steps

    def infer(self, shard: ShardRows) -> ShardReceipt:
        """Write the rows of an attempt, under its name."""
        store, job = self.open(), shard.ref.job_id
        if self._in_steps:
            job = step_of(job, shard.ref.shard_id[0])
            shard = _newest(shard, self.sink)
        names = self.sink.columns or shard.rows.column_names
        plain = [name for name in names if name != self.sink.vector and name in shard.rows.column_names]
        refused = store.refused(shard.rows.select(plain))
        kept = np.delete(np.arange(shard.rows.num_rows), list(refused))
        usable = ShardRows(shard.rows.take(kept), shard.lineage.take(kept), shard.ref)
        found = self._stored(usable, store, job)
        errors = refused | {int(kept[place]): error for place, error in found.errors.items()}
        if found.schema is None:
            return ShardReceipt({}, errors)
        part = part_of(shard.ref.shard_id, shard.ref.token)
        rows = conform(found.rows, found.schema, self.sink.vector)
        receipt = store.write(Build(job, self.sink, found.schema), part, rows)
        return ShardReceipt({"receipt": json.dumps(asdict(receipt))}, errors)

    def _stored(self, shard: ShardRows, store: Store, generation: str) -> _Stored:
        """Return the rows to be stored, with vectors as long as those of the job's other rows.

        If no vector has that length, they are left for `conform` to refuse, except in a replay: its rows fail.
        """
        job = shard.ref.job_id
        rows, errors = stored_rows(shard.rows, shard.lineage, self.sink, generation)
        if not rows.num_rows:
            return _Stored(rows, errors, None)
        schema = self.agreed(job, rows.schema, store)
        agreed = schema.field(self.sink.vector).type if self.sink.vector in schema.names else None
        if agreed is None or agreed == rows.schema.field(self.sink.vector).type:
            return _Stored(rows, errors, schema)
        fitting, others = stored_rows(shard.rows, shard.lineage, self.sink, generation, agreed.list_size)
        if fitting.num_rows:
            return _Stored(fitting, others, schema)
        return _Stored(fitting, others, None) if self.sink.mode == "amend" else _Stored(rows, errors, schema)


@operator(
    PUBLISH_OPERATOR,
    columns=["receipt"],
    makes=["index", "rows", "written", "deleted", "dimension", "index_kind"],
    batch_format="arrow",
    batch_size=None,
    expands=True,
    cacheable=False,
    kind=OperatorKind.SHARD,
)
class PublishRows(_StoreStage):
    """Make the rows that a sink has stored visible, and build its index. Only the service itself runs it."""

    def __init__(self, *, sink: SinkSpec, in_steps: bool = False) -> None:
        super().__init__(sink)
        self._in_steps = in_steps

    def infer(self, shard: ShardRows) -> ShardReceipt:
        """Publish what the receipts name."""
        receipts = [Receipt(**json.loads(text)) for text in shard.rows["receipt"].to_pylist()]
        store, job = self.open(), shard.ref.job_id
        generation = step_of(job, parse_part(receipts[0].part)[0][0]) if self._in_steps else job
        build = Build(generation, self.sink, self.agreed(job, None, store))
        published = store.publish(build, receipts)
        return ShardReceipt(
            {
                "index": self.sink.index_name,
                "rows": published.rows,
                "written": sum(receipt.rows for receipt in receipts),
                "deleted": published.deleted,
                "dimension": build.dimension,
                "index_kind": published.index,
            },
            {},
        )


def _newest(shard: ShardRows, sink: SinkSpec) -> ShardRows:
    """Return the rows of the newest version of each document, of those that are in one shard of a stream."""
    if sink.id is None or sink.id not in shard.rows.column_names:
        return shard  # the rows are refused
    documents, versions = shard.rows[sink.id].to_pylist(), shard.lineage[SOURCE_ROW].to_pylist()
    newest: dict[str, int] = {}
    for document, version in zip(map(repr, documents), versions, strict=True):
        newest[document] = max(version, newest.get(document, version))
    kept = [
        place
        for place, (document, version) in enumerate(zip(documents, versions, strict=True))
        if document is None or newest[repr(document)] == version
    ]
    return ShardRows(shard.rows.take(kept), shard.lineage.take(kept), shard.ref)
