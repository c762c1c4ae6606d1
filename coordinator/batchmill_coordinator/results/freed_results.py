"""Deletes the results between two stages that nobody reads any more, a while later.

A ledger that is rolled back, to a stale replica for example, has forgotten that the next stage had settled them, and
that stage reads them again. So they stay for `KEPT_S`, and are deleted only if the ledger still has them as free then.
Parts are listed in memory: what a leader that has ended had still to delete goes when the job has completed, or with
it. Completed jobs are listed in the ledger, so that no end of a leader leaves anything of them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchmill.errors import StorageError
from batchmill.jobs.job import JobState
from batchmill.ledger.formats.encodings import FreedParts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.record import JobStage
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.workspace import Workspace

KEPT_S = 30.0
"""How long they stay: longer than a replica lags behind."""

LOOK_INTERVAL_S = 0.9
"""Between two looks for jobs that have completed."""


@dataclass(frozen=True, slots=True)
class Freed:
    """Results of a stage that are to be deleted from a time on."""

    due_s: float  # monotonic
    job_id: str
    stage: int
    freed: FreedParts  # how far the stage was freed with them
    parts: tuple[Settled, ...]


class FreedResults:
    """The results that wait for their deletion, the first that is due first. Thread-safe."""

    def __init__(self, ledger: Ledger, workspace: Workspace, clock: Clock) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._clock = clock
        self._waiting: deque[Freed] = deque()
        self._looks_at_s = float("-inf")  # monotonic

    def add_parts(self, one: JobStage, freed: FreedParts, parts: Sequence[Settled]) -> None:
        """Delete these parts of a stage later. freed: how far it is freed with them."""
        self._waiting.append(Freed(self._due_s(), one.job.id, one.stage.number, freed, tuple(parts)))

    def take_due(self) -> Iterator[Freed]:
        """Yield those that are due now; each is listed until the next one is asked for."""
        while self._waiting and self._waiting[0].due_s <= self._clock.monotonic():
            yield self._waiting[0]
            self._waiting.popleft()

    def delete(self, freed: Freed) -> None:
        """Delete results if the ledger still has them as free. Raises `StorageError`; then they are listed again."""
        for record in self._ledger.jobs.read_many([freed.job_id]):
            try:
                self._delete(record, freed)
            except StorageError:
                self._waiting.append(replace(freed, due_s=self._due_s()))
                raise

    def completed_jobs(self) -> list[str]:
        """Return some jobs that completed a while ago and of which results between stages are left.

        At most every `LOOK_INTERVAL_S`, however often it is called: none of them is urgent.
        """
        if self._clock.monotonic() < self._looks_at_s:
            return []
        self._looks_at_s = self._clock.monotonic() + LOOK_INTERVAL_S
        return self._ledger.retention.with_results_between(self._ledger.now_ms() - int(KEPT_S * 1000))

    def delete_between_stages(self, job_id: str) -> None:
        """Delete all results between the stages of a completed job. Raises `StorageError`; then it stays listed."""
        deleted: list[int] = []
        for record in self._ledger.jobs.read_many([job_id]):
            if record.state is JobState.COMPLETED:
                deleted = self._workspace.delete_between_stages(record.id, record.spec)
        self._ledger.retention.note_deleted_between(job_id, deleted)

    def _delete(self, record: JobRecord, freed: Freed) -> None:
        now = FreedParts.parse(record.stages[freed.stage].freed)
        if (now.shard, now.parts) >= (freed.freed.shard, freed.freed.parts):
            store = self._workspace.open_results(record.id, record.spec, freed.stage)
            for part in freed.parts:
                store.delete(part.shard_id, part.token)

    def _due_s(self) -> float:
        return self._clock.monotonic() + KEPT_S
