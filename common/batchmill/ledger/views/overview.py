"""What those who look on ask of the ledger: many jobs or pools at once, in one round trip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.scripting.connection import Store


@dataclass(frozen=True, slots=True)
class QueueHead:
    """The attempts of a pool that nobody has claimed yet."""

    length: int
    oldest_at_ms: int | None  # when the first of them was published; None when there is none


class OverviewLedger:
    """Reads; changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def live_ids(self, limit: int) -> list[str]:
        """The ids of at most `limit` jobs that have not ended, newest first."""
        with redis_errors():
            ids = self._store.redis.smembers(self._keys.live_jobs())
        return sorted((job_id.decode() for job_id in ids), reverse=True)[:limit]

    def dead_counts(self, job_ids: Sequence[str]) -> list[dict[str, int]]:
        """For each of these jobs: how many rows died of which error."""
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(self._keys.dead_counts(job_id))
            found = pipe.execute()
        return [{kind.decode(): int(count) for kind, count in counts.items()} for counts in found]

    def queue_heads(self, pools: Sequence[str]) -> list[QueueHead]:
        """For each of these pools: what waits to be claimed."""
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for pool in pools:
                pipe.zcard(self._keys.queued(pool))
                pipe.zrange(self._keys.queued(pool), 0, 0, withscores=True)
            found = pipe.execute()
        return [
            QueueHead(int(length), int(first[0][1]) if first else None)
            for length, first in zip(found[::2], found[1::2], strict=True)
        ]
