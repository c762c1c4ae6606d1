"""What those who look on ask of the ledger: many jobs or pools at once, in one round trip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.ledger.formats.work import Work
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.scripting.connection import Store


@dataclass(frozen=True, slots=True)
class QueueHead:
    """What of a pool waits longest: of the attempts that nobody has claimed yet, and of the stages without any.

    A stage counts that may run and has rows left.
    """

    length: int  # attempts
    oldest_at_ms: int | None  # when the first of them was published; None when there is none
    starved_since_ms: int | None = None  # since when a stage has had no shard in flight; None when all have


class OverviewLedger:
    """Reads; changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def live_ids(self, limit: int) -> list[str]:
        """The ids of at most `limit` jobs that have not ended, newest first."""
        with redis_errors():
            ids = self._store.redis.zrevrange(self._keys.live_jobs(), 0, limit - 1)
        return [job_id.decode() for job_id in ids]

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
                pipe.zrange(f"{self._keys.index()}starved|{pool}", 0, 0, withscores=True)
            found = pipe.execute()
        return [
            QueueHead(int(length), _lowest_score(first), _lowest_score(starved))
            for length, first, starved in zip(found[::3], found[1::3], found[2::3], strict=True)
        ]

    def work(self) -> Work:
        """How much there is to do, in sums."""
        with redis_errors():
            return Work.from_hash(self._store.redis.hgetall(f"{self._keys.index()}work"))


def _lowest_score(found: Sequence[tuple[bytes, float]]) -> int | None:
    return int(found[0][1]) if found else None
