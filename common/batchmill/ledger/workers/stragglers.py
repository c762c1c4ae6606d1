"""Shards that are queued again while their attempt runs on; see `speculate.lua`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.shard import ShardRef
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Collection

    from batchmill.ledger.formats.record import StageKey
    from batchmill.ledger.scripting.connection import Store


class StragglerLedger:
    """Finds attempts that run, and queues their shards a second time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def speculate(self, ref: ShardRef, pool: str, epoch: int) -> ShardRef | None:
        """Queue a shard again while its attempt runs on, as the leader; the caller publishes the message.

        The first of the two to commit has the shard. None when the attempt does not run, or is the second one already.
        """
        token = calls.speculate(self._store, pool=pool, epoch=epoch, attempt=ref)
        return ShardRef(ref.job_id, ref.stage, ref.shard_id, token) if token else None

    def running_since(self, stages: Collection[StageKey]) -> dict[StageKey, dict[ShardRef, tuple[int, int]]]:
        """Of each of these stages, the attempts that run without a straggler: when it was claimed (ms), its rows."""
        with redis_errors():
            found = [ShardRef.from_key(key) for key in self._store.redis.zrange(self._keys.leases(), 0, -1)]
        refs = [ref for ref in found if (ref.job_id, ref.stage) in stages]
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for ref in refs:
                pipe.hmget(
                    self._keys.shard(ref.job_id, ref.stage, ref.shard_id),
                    "state",
                    "token",
                    "straggler",
                    "claimed_at",
                    "rows",
                )
            shards = zip(refs, pipe.execute(), strict=True)
        running: dict[StageKey, dict[ShardRef, tuple[int, int]]] = {}
        for ref, (state, token, straggler, claimed_at, rows) in shards:
            if state == b"running" and int(token) == ref.token and straggler is None and claimed_at is not None:
                running.setdefault((ref.job_id, ref.stage), {})[ref] = (int(claimed_at), int(rows))
        return running
