"""Streams in the ledger: how those of jobs stand, and the rows that were pushed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.jobs.shard import Shard, parse_shard_id
from batchmill.jobs.stages import FIRST_STAGE
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from batchmill.jobs.shard import Slice
    from batchmill.ledger.scripting.connection import Store


class StreamLedger:
    """What the ledger has of streams."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    @property
    def redis(self) -> Any:
        """The ledger's own server, in which streams may be too."""
        return self._store.redis

    @property
    def prefix(self) -> str:
        """How all keys of the service begin."""
        return self._keys.prefix

    def live_jobs(self) -> list[str]:
        """The ids of the jobs that read streams and have not ended, oldest first."""
        with redis_errors():
            return [job_id.decode() for job_id in self._store.redis.zrange(self._keys.streams(), 0, -1)]

    def live_slices(self, job_id: str, stage: int) -> list[Slice]:
        """The slices of the shards of a stage that are not settled, lowest shard first."""
        keys = self._keys
        with redis_errors():
            names = self._store.redis.smembers(keys.live_shards(job_id, stage))
        live = sorted(parse_shard_id(name.decode()) for name in names)
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for shard_id in live:
                pipe.hget(keys.shard(job_id, stage, shard_id), "plan")
            plans = pipe.execute()
        pairs = zip(live, plans, strict=True)
        shards = (Shard.from_plan(job_id, stage, shard_id, plan) for shard_id, plan in pairs if plan is not None)
        return [piece for shard in shards for piece in shard.slices]

    def note(self, job_id: str, lag: int | None, away: str, epoch: int) -> None:
        """Note how the stream of a job stands, as the leader. away: why its source cannot be asked."""
        calls.note_stream(self._store, epoch=epoch, job_id=job_id, stage=FIRST_STAGE, lag=lag, away=away or None)
