"""What the ledger holds in numbers, read in three round trips: for metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.errors import LedgerRefused
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from batchmill.ledger.scripting.connection import Store


@dataclass(frozen=True, slots=True)
class Survey:
    """The ledger at one moment, `now_ms` by its own clock, milliseconds since the epoch."""

    now_ms: int
    leases: int
    leases_expired: int
    jobs_kept: int  # that have ended
    memory_bytes: int | None  # of the server; None where it does not report that


class SurveyLedger:
    """Counts without reading what it counts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def take(self) -> Survey:
        """Count what there is. Raises `ServiceUnavailable`."""
        keys = self._keys
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.zcard(keys.leases())
            pipe.zcard(keys.ended_jobs())
            (seconds, micros), leases, kept = pipe.execute()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        with redis_errors():
            expired = self._store.redis.zcount(keys.leases(), "-inf", now_ms)
        return Survey(
            now_ms=now_ms,
            leases=leases,
            leases_expired=expired,
            jobs_kept=kept,
            memory_bytes=self._memory_bytes(),
        )

    def _memory_bytes(self) -> int | None:
        try:
            with redis_errors():
                used: int | None = self._store.redis.info("memory").get("used_memory")
        except LedgerRefused:  # its user may not ask
            return None
        return used
