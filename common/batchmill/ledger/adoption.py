"""What a job leaves undone when it ends, and how another one takes it over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchmill.ledger.connection import reaching_redis
from batchmill.ledger.settlement import Settled, parse_settled
from batchmill.shard import parse_shard_id
from batchmill.unfinished import Rest, RestShard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.ledger.connection import Store
    from batchmill.ledger.record import JobRecord


class AdoptionLedger:
    """Hands the state of a stopped job on to one that resumes it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def rest(self, record: JobRecord) -> Rest:
        """How far a stopping job has come; nothing of it may be running any more."""
        keys, job_id = self._keys, record.id
        with reaching_redis():
            settled = self._store.redis.hgetall(keys.done(job_id, 0))
            names = sorted(name.decode().split(" ")[1] for name in self._store.redis.smembers(keys.live_shards(job_id)))
        with reaching_redis(), self._store.redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hmget(keys.shard(job_id, 0, parse_shard_id(name)), "token", "plan")
            found = pipe.execute()
        entries = {name.decode(): entry for name, entry in settled.items()}
        unfinished = [
            RestShard(id=name, token=int(token), plan=plan.decode())
            for name, (token, plan) in zip(names, found, strict=True)
        ]
        for name in list(entries):
            shard = parse_settled(parse_shard_id(name), entries[name])
            if isinstance(shard, Settled) and shard.plan:
                unfinished.append(RestShard(id=name, token=shard.token, plan=shard.plan))
                del entries[name]
        return Rest(
            settled={name: entry.decode() for name, entry in entries.items()},
            shards=tuple(unfinished),
            cursor=record.cursor,
            at_end=record.planned,
            rows_planned=record.rows_planned,
            shards_planned=record.shards_planned,
        )

    def adopt(self, record: JobRecord, rest: Rest, dead_by_type: Mapping[str, int], epoch: int) -> str:
        """Begin a job with what another left, as its leader; a word as in `adopt.lua`.

        dead_by_type: how many of the settled rows died of which error.
        """
        keys, job_id = self._keys, record.id
        ids = [parse_shard_id(shard.id) for shard in rest.shards]
        described = [
            part for shard in rest.shards for part in (shard.id, shard.token, json.loads(shard.plan)[1], shard.plan)
        ]
        word = self._store.run(
            "adopt",
            [
                keys.leader(),
                keys.job(job_id),
                keys.done(job_id, 0),
                keys.live_shards(job_id),
                keys.waiting(job_id),
                keys.dead_counts(job_id),
                *(keys.shard(job_id, 0, shard_id) for shard_id in ids),
            ],
            [
                self._store.now_ms,
                epoch,
                0,
                json.dumps(rest.settled),
                json.dumps(dict(dead_by_type)),
                rest.cursor,
                int(rest.at_end),
                rest.rows_planned,
                rest.shards_planned,
                keys.events(),
                job_id,
                *described,
            ],
        )
        return str(word.decode())
