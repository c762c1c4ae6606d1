"""What a job leaves undone when it ends, and how another one takes it over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchmill.jobs.shard import ShardId, format_shard_id, parse_shard_id, rows_of_plan
from batchmill.jobs.unfinished import FORMAT, StageWork, UnfinishedShard, UnfinishedWork
from batchmill.ledger.formats.encodings import parse_settled
from batchmill.ledger.formats.settlement import Settled
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchmill.ledger.formats.record import JobRecord, StageRecord
    from batchmill.ledger.scripting.connection import Store


class UnfinishedWorkLedger:
    """Hands the state of a stopped job on to one that resumes it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def read(self, record: JobRecord) -> UnfinishedWork:
        """What a stopping job has done and left; nothing of it may be running any more."""
        *earlier, last = (self._read(record, stage) for stage in record.stages)
        with redis_errors():
            incomplete = sorted(map(int, self._store.redis.smembers(self._keys.incomplete(record.id))))
        own = {name: getattr(last, name) for name in StageWork.model_fields}
        return UnfinishedWork(version=FORMAT, earlier=tuple(earlier), incomplete=tuple(incomplete), **own)

    def _read(self, record: JobRecord, stage: StageRecord) -> StageWork:
        keys, job_id, number = self._keys, record.id, stage.number
        with redis_errors():
            settled = self._store.redis.hgetall(keys.done(job_id, number))
            live = sorted(map(_shard_id, self._store.redis.smembers(keys.live_shards(job_id, number))))
            borders = self._store.redis.hgetall(keys.borders(job_id, number))
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
        return StageWork(
            settled={name: entry.decode() for name, entry in entries.items()},
            shards=tuple(unfinished),
            cursor=stage.cursor,
            at_end=stage.planned,
            rows_planned=stage.rows_planned,
            shards_planned=stage.shards_planned,
            rows_filtered=stage.rows_filtered,
            joins=stage.joins,
            freed=stage.freed,
            bytes_freed=stage.bytes_freed,
            borders={name.decode(): text.decode() for name, text in borders.items() if name.decode() in entries},
        )

    def resume_from(
        self, job_id: str, unfinished: UnfinishedWork, dead_by_type: Mapping[str, int], epoch: int
    ) -> calls.ResumeFromAnswer:
        """Begin a job with what another job left, as its leader.

        dead_by_type: how many of the settled rows died of which error.
        """
        return calls.resume_from(
            self._store,
            epoch=epoch,
            job_id=job_id,
            dead_by_type=json.dumps(dict(dead_by_type)),
            incomplete=json.dumps(unfinished.incomplete),
            stages=[_resumed(number, work) for number, work in enumerate(unfinished.stages)],
            shards=[
                calls.UnfinishedShard(number, parse_shard_id(one.id), one.token, rows_of_plan(one.plan), one.plan)
                for number, work in enumerate(unfinished.stages)
                for one in work.shards
            ],
        )


def settled_of(stage: int, work: StageWork) -> Iterator[Settled]:
    """Yield the settled shards of a stage, without those that were split."""
    for name, entry in work.settled.items():
        shard = parse_settled(stage, parse_shard_id(name), entry.encode())
        if isinstance(shard, Settled):
            yield shard


def _resumed(number: int, work: StageWork) -> calls.ResumedStage:
    settled = list(settled_of(number, work))
    return calls.ResumedStage(
        stage=number,
        settled=json.dumps(work.settled),
        borders=json.dumps(work.borders),
        cursor=work.cursor,
        at_end=work.at_end,
        rows_planned=work.rows_planned,
        shards_planned=work.shards_planned,
        shards_done=len(settled),
        rows_done=sum(shard.rows for shard in settled),
        rows_dead=sum(shard.rows_dead for shard in settled),
        rows_filtered=work.rows_filtered,
        rows_out=sum(shard.results for shard in settled),
        bytes_out=sum(shard.nbytes for shard in settled),
        bytes_freed=work.bytes_freed,
        freed=work.freed,
    )


def _shard_id(name: bytes) -> ShardId:
    return parse_shard_id(name.decode())
