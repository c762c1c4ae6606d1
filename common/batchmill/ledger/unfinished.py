"""What a job leaves undone when it ends, and how another one takes it over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchmill.jobs.shard import ShardId, format_shard_id, parse_shard_id, rows_of_plan
from batchmill.jobs.unfinished import FORMAT, UnfinishedShard, UnfinishedWork
from batchmill.ledger.formats.encodings import parse_settled
from batchmill.ledger.formats.settlement import Settled
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.ledger.formats.record import JobRecord, StageRecord
    from batchmill.ledger.scripting.connection import Store


class UnfinishedWorkLedger:
    """Hands the state of a stopped job on to one that resumes it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def read(self, record: JobRecord, stage: StageRecord) -> UnfinishedWork:
        """What a stopping job has done and left of a stage; nothing of it may be running any more."""
        keys, job_id, number = self._keys, record.id, stage.number
        with redis_errors():
            settled = self._store.redis.hgetall(keys.done(job_id, number))
            live = sorted(map(_shard_id, self._store.redis.smembers(keys.live_shards(job_id, number))))
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for shard_id in live:
                pipe.hmget(keys.shard(job_id, number, shard_id), "token", "plan")
            found = pipe.execute()
        entries = {name.decode(): entry for name, entry in settled.items()}
        unfinished = [
            UnfinishedShard(id=format_shard_id(shard_id), token=int(token), plan=plan.decode())
            for shard_id, (token, plan) in zip(live, found, strict=True)
        ]
        for name in list(entries):
            shard = parse_settled(number, parse_shard_id(name), entries[name])
            if isinstance(shard, Settled) and shard.plan:
                unfinished.append(UnfinishedShard(id=name, token=shard.token, plan=shard.plan))
                del entries[name]
        return UnfinishedWork(
            version=FORMAT,
            settled={name: entry.decode() for name, entry in entries.items()},
            shards=tuple(unfinished),
            cursor=stage.cursor,
            at_end=stage.planned,
            rows_planned=stage.rows_planned,
            shards_planned=stage.shards_planned,
        )

    def resume_from(
        self, job_id: str, stage: int, unfinished: UnfinishedWork, dead_by_type: Mapping[str, int], epoch: int
    ) -> calls.ResumeFromAnswer:
        """Begin a stage of a job with what another job left of it, as its leader.

        dead_by_type: how many of the settled rows died of which error.
        """
        return calls.resume_from(
            self._store,
            epoch=epoch,
            job_id=job_id,
            stage=stage,
            settled=json.dumps(unfinished.settled),
            dead_by_type=json.dumps(dict(dead_by_type)),
            cursor=unfinished.cursor,
            at_end=unfinished.at_end,
            rows_planned=unfinished.rows_planned,
            shards_planned=unfinished.shards_planned,
            shards=[
                calls.UnfinishedShard(parse_shard_id(one.id), one.token, rows_of_plan(one.plan), one.plan)
                for one in unfinished.shards
            ],
        )


def _shard_id(name: bytes) -> ShardId:
    return parse_shard_id(name.decode())
