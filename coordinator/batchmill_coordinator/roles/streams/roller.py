"""The roller: makes known what jobs over streams have written, while they run: files of outputs, indexes of sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill_coordinator.roles.job_guard import JobGuard

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord, Ledger
    from batchmill_coordinator.indexes.publication import IndexPublication
    from batchmill_coordinator.results.stream_rolls import StreamRolls

MAX_STORAGE_FAILURES = 3600  # steps in a row, a second apart: a full disk may be noticed late
MAX_ROLLS = 8  # of a job in a step


class Roller:
    """Writes rolls, as the leader. A job whose output cannot be written for an hour fails."""

    name = "roller"
    wakes_on: frozenset[str] = frozenset()
    period_s = 1.0

    def __init__(self, ledger: Ledger, rolls: StreamRolls, indexes: IndexPublication) -> None:
        self._ledger = ledger
        self._rolls = rolls
        self._indexes = indexes
        self._recorded: dict[str, int] = {}  # by job: of which shards its index was recorded last
        self._guard = JobGuard(
            ledger, "its output could not be written", max_storage_failures=MAX_STORAGE_FAILURES, fails_jobs=True
        )

    def step(self, epoch: int) -> None:
        """Write what is due, of every job."""
        records = self._ledger.jobs.read_many(self._ledger.streams.live_jobs())
        rolled = [record for record in records if _writes(record) and not record.state.is_stopping]
        ids = {record.id for record in rolled}
        self._guard.forget_all_but(ids)
        self._recorded = {job_id: shards for job_id, shards in self._recorded.items() if job_id in ids}
        self._rolls.forget_all_but({record.id for record in records})
        for record in rolled:
            if not self._guard.is_set_aside(record.id):
                with self._guard.over(record.id):
                    self._write(record, epoch)

    def _write(self, record: JobRecord, epoch: int) -> None:
        if record.spec.sink is not None and record.last.shards_done != self._recorded.get(record.id, 0):
            self._indexes.record(record)
            self._recorded[record.id] = record.last.shards_done
        for _ in range(MAX_ROLLS):
            if not self._rolls.apply(record, self._ledger.now_ms(), epoch):
                return
            record = self._ledger.jobs.read(record.id)


def _writes(record: JobRecord) -> bool:
    return record.spec.output is not None or record.spec.sink is not None
