"""Gives all parts of an output one schema, before its manifest is written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns.lineage import SOURCE_ROW
from batchmill.jobs.shard import ShardId
from batchmill.jobs.stages import FIRST_STAGE, carried_through
from batchmill.stage_results import settled_shards
from batchmill_coordinator.results.inputs import open_input
from batchmill_coordinator.results.stage_source import StageSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.sinks import ManifestPart, Publisher, ResultStore, SchemaLog
    from batchmill.workspace import Workspace
    from batchmill_coordinator.results.dead_rows import DeadRowStore

    WritePart = Callable[[ShardId, int, pa.Table], int]

FIRST = ShardId((0,))


class OneSchema:
    """Widens the parts of outputs, as the leader."""

    def __init__(self, ledger: Ledger, workspace: Workspace, dead_rows: DeadRowStore) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._dead_rows = dead_rows

    def unite(self, record: JobRecord, stage: int, results: ResultStore, write: WritePart, epoch: int) -> None:
        """Write the parts that lack columns of the output, or have narrower types, again. Doing it again is fine.

        write: as `Publisher.replace_part`, widens what it writes. Raises `InvalidOutput` where types have nothing in
        common, `StorageError`, and `NotFound` for a part that is gone.
        """
        log = self._workspace.schema_log(record.id)
        if log.latest()[0] < 2 and record.resumed_from is None:
            return  # every part was written with the only schema that there was
        for shard in settled_shards(self._ledger, record, stage):
            for part in shard.parts:
                if part.results:
                    self._unite_part(record, part, log, results, write, epoch)

    def _unite_part(
        self,
        record: JobRecord,
        part: Settled,
        log: SchemaLog,
        results: ResultStore,
        write: WritePart,
        epoch: int,
    ) -> None:
        if results.schema(part.shard_id, part.token).equals(log.latest()[1]):
            return
        after = replace(part, token=part.token + 1)
        table = results.read(part.shard_id, part.token)
        after = replace(after, nbytes=write(after.shard_id, after.token, table))
        if part.rows_dead:
            self._dead_rows.write(record.id, after, self._dead_rows.read(record.id, part))
        self._ledger.results.replace_part(record.id, part, after, {}, epoch)

    def keep_input_schema(self, record: JobRecord) -> None:
        """Keep what `schema_without_rows` returns where its source, the rows of the request, goes as the job ends."""
        if record.spec.source is None and not record.last.rows_done:
            schema = schema_without_rows(self._ledger, self._workspace, record)
            if len(schema):
                self._workspace.schema_log(record.id).widen(schema.empty_table())

    def empty_part(self, record: JobRecord, publisher: Publisher) -> tuple[ManifestPart, ...]:
        """Write a part without rows that has the schema of an output without results; none if it has no column."""
        schema = schema_without_rows(self._ledger, self._workspace, record)
        if not len(schema):
            return ()
        nbytes = publisher.replace_part(FIRST, 0, schema.empty_table())
        return (publisher.part(FIRST, 0, 0, nbytes),)


def schema_without_rows(ledger: Ledger, workspace: Workspace, record: JobRecord) -> pa.Schema:
    """Return what is known of the schema of a job without results: the columns of its input that it carries.

    Raises `NotFound` or `StorageError`.
    """
    spec = record.spec
    inline = None if spec.source else ledger.jobs.inline_input(record.id)
    if spec.source is None and inline is None:  # the job has ended
        return workspace.schema_log(record.id).latest()[1]
    source = open_input(ledger, workspace, record, FIRST_STAGE, inline)
    schema = source.columns if isinstance(source, StageSource) else source.schema
    return pa.schema([schema.field(name) for name in carried_through(spec, schema.names) if name != SOURCE_ROW])
