"""What becomes known of an index when the job that wrote it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.jobs.index_status import IndexStatus
from batchmill.jobs.stages import last_stage
from batchmill.stage_results import settled_shards
from batchmill_coordinator.indexes.targets import target_of
from batchmill_coordinator.results.outputs import results_of

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.workspace import Workspace
    from batchmill_coordinator.indexes.catalog import IndexCatalog


class IndexPublication:
    """Writes the records of indexes, as the leader."""

    def __init__(self, ledger: Ledger, workspace: Workspace, catalog: IndexCatalog, clock: Clock) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._catalog = catalog
        self._clock = clock

    def record(self, job: JobRecord) -> None:
        """Record the index of a job that ends, or is over a stream, if it has published one. Doing it again is fine.

        Raises `StorageError`."""
        sink = job.spec.sink
        summary = None if sink is None else self._summary(job)
        if sink is None or summary is None:
            return
        claim = self._catalog.claim_of(target_of(sink, self._workspace.locations))
        if claim is None or claim.job != job.id:
            return  # another job has written it since
        known = self._catalog.find(job.tenant, sink.index_name)
        found = {name: summary[name] for name in ("rows", "dimension", "index_kind")}
        found["published_at"] = self._clock.wall()
        if job.replay_of is not None:
            if known is not None:
                self._catalog.write(known.model_copy(update=found))
            return
        made_by = None if claim.stage is None else job.spec.stages[claim.stage]
        self._catalog.write(
            IndexStatus(
                name=sink.index_name,
                tenant=job.tenant,
                sink=sink,
                job=job.id,
                operator=made_by and made_by.operator,
                params=made_by.params if made_by else {},
                pool=made_by.pool if made_by else "",
                **found,
            )
        )

    def _summary(self, job: JobRecord) -> dict[str, Any] | None:
        """Return what the stage `publish` has reported last; None if it has published nothing recently."""
        stage, found = last_stage(job.spec), None
        store = self._workspace.open_results(job.id, job.spec, stage)
        for shard in settled_shards(self._ledger, job, stage, max(job.last.shards_planned - 2, 0)):  # one may be live
            for table in results_of(self._ledger, job, stage, store, [part for part in shard.parts if part.results]):
                (summary,) = table.to_pylist()
                found = dict(summary)
        return found
