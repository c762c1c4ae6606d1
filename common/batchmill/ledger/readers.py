"""Which jobs read the results between the stages of another job, which is not deleted meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.ledger.formats.record import StageRecord
    from batchmill.ledger.scripting.connection import Store


class ReaderLedger:
    """The readers of jobs that have ended."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def hold(
        self, job_id: str, stage: StageRecord, reader: str, incomplete: Iterable[int] = ()
    ) -> calls.HoldResultsAnswer:
        """Keep the results of a stage, as it was read, for a job that is about to be submitted.

        incomplete: source rows of which rows have failed up to that stage, which the reader must not gather without.
        """
        rows = list(incomplete)
        if rows:
            with redis_errors():
                self._store.redis.sadd(self._keys.incomplete(reader), *rows)
        return calls.hold_results(self._store, job_id=job_id, stage=stage.number, reader=reader, freed=stage.freed)

    def release(self, job_id: str, reader: str) -> None:
        """Take back what `hold` did, for a reader that was not accepted."""
        self.drop(job_id, [reader])
        with redis_errors():
            self._store.redis.delete(self._keys.incomplete(reader))

    def incomplete_of(self, job_id: str) -> set[int]:
        """Return the source rows of which a row has failed before a stage of a job that gathers, as they are noted."""
        with redis_errors():
            return {int(row) for row in self._store.redis.smembers(self._keys.incomplete(job_id))}

    def of(self, job_id: str) -> dict[str, int]:
        """Return the readers of a job that are noted, each with since when it reads (ms)."""
        with redis_errors():
            found = self._store.redis.zrange(self._keys.readers(job_id), 0, -1, withscores=True)
        return {reader.decode(): int(since) for reader, since in found}

    def drop(self, job_id: str, readers: Iterable[str]) -> None:
        """Note that these jobs do not read the results of a job any more."""
        gone = list(readers)
        if gone:
            with redis_errors():
                self._store.redis.zrem(self._keys.readers(job_id), *gone)
