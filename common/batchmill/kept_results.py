"""The results of a job that has ended as a table: what operators read that compare rows with all of them."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns import widen_schemas, widen_table
from batchmill.columns.lineage import without_lineage
from batchmill.errors import InvalidParams, InvalidRequest, NotFound
from batchmill.jobs.shard import Slice, part_of
from batchmill.jobs.stages import last_stage, stage_called
from batchmill.ledger.formats.record import JobStage
from batchmill.ledger.jobs import no_such_job
from batchmill.stage_results import StageResults, joined, kept_parts, settled_shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.ledger import Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.operators.named_params import NamedResults
    from batchmill.workspace import Workspace


class JobResults:
    """Opens the results of jobs."""

    def __init__(self, ledger: Ledger, workspace: Workspace) -> None:
        self._ledger = ledger
        self._workspace = workspace

    def find(self, named: NamedResults, tenant: str | None = None) -> JobStage:
        """Return the stage that is named. Raises `InvalidParams` if there is none.

        tenant: whose job it must be, before anything is said of it; None: that was checked when a job was submitted.
        """
        try:
            job = self._ledger.jobs.read(named.job)
            if tenant not in (None, job.tenant):
                raise no_such_job(named.job)
            number = last_stage(job.spec) if named.stage is None else stage_called(job.spec, named.stage)
        except (NotFound, InvalidRequest) as error:
            raise InvalidParams(error.message, hint=error.hint, job=named.job) from error
        return JobStage(job, job.stages[number])

    def open(self, named: NamedResults) -> KeptResults:
        """Open what is there of the results of a stage. Raises as `find`, and `StorageError`."""
        return KeptResults(self._ledger, self._workspace, self.find(named))


class KeptResults:
    """The results of a stage as they were when this was made, in the order of the source, without their lineage."""

    def __init__(self, ledger: Ledger, workspace: Workspace, of: JobStage) -> None:
        job, stage = of
        self._ledger = ledger
        self._of = of
        self._parts = self._settled()
        store = workspace.open_results(job.id, job.spec, stage.number)
        self._results = StageResults(ledger.results, job.id, stage.number, store, kept_parts(0))

    def is_current(self) -> bool:
        """Return whether the results are still the same: a replay of the job may add some."""
        return self._settled() == self._parts

    def first_schema(self) -> pa.Schema:
        """Return the columns of the first part; none without results. Raises as `StageResults.schema`."""
        return self._schema(self._parts[:1])

    def schema(self) -> pa.Schema:
        """Return the columns of all parts. Raises as `StageResults.schema`."""
        return self._schema(self._parts)

    def blocks(self, schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
        """Yield some columns of all rows, up to `rows` at a time. Raises as `StageResults.read` and `joined`."""
        waiting: list[Slice] = []
        for part in self._parts:
            name = part_of(part.shard_id, part.token)
            start = 0
            while start < part.results:
                room = rows - sum(piece.rows for piece in waiting)
                stop = min(start + room, part.results)
                waiting.append(Slice(0, start, stop, stop - start, part=name))
                start = stop
                if stop - waiting[-1].start == room:
                    yield self._read(waiting, schema)
                    waiting = []
        if waiting:
            yield self._read(waiting, schema)

    def _read(self, slices: list[Slice], schema: pa.Schema) -> pa.Table:
        table = joined(self._results.tables(slices))
        return widen_table(table.select([name for name in schema.names if name in table.column_names]), schema)

    def _schema(self, parts: Sequence[Settled]) -> pa.Schema:
        if not parts:
            return pa.schema([])
        schema = reduce(widen_schemas, [self._results.schema(part.shard_id, part.token) for part in parts])
        return without_lineage(schema.empty_table()).schema

    def _settled(self) -> list[Settled]:
        job, stage = self._of
        shards = settled_shards(self._ledger, job, stage.number)
        return [part for shard in shards for part in shard.parts if part.results]
