"""What runs; the leader queues a shard again (`speculate.lua`), or has it make room (`preempt.lua`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from batchmill.jobs.shard import ShardRef
from batchmill.ledger.formats.encodings import worker_of
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Collection

    from batchmill.ledger.formats.record import StageKey
    from batchmill.ledger.scripting.connection import Store


class LoneAttempt(NamedTuple):
    """An attempt that runs without another one beside it.

    is_preempted: whether it was asked to make room. preemptions: how often attempts of its shard were.
    """

    ref: ShardRef
    claimed_at_ms: int
    rows: int
    worker: str
    is_preempted: bool = False
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class RunningAttempts:
    """What runs. alone: by stage, the attempts without another one beside them. of_worker: how many each worker has."""

    alone: dict[StageKey, list[LoneAttempt]]
    of_worker: Counter[str]


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

    def preempt(self, ref: ShardRef, epoch: int, most: int) -> bool:
        """Ask an attempt to end at its next batch, as the leader. Its worker saves what is done and releases the shard.

        most: how often a shard may be asked. False when the attempt does not run alone, or has been asked.
        """
        answer = calls.preempt(self._store, epoch=epoch, attempt=ref, most=most)
        return answer is calls.PreemptAnswer.OK

    def running(self, stages: Collection[StageKey]) -> RunningAttempts:
        """Return the attempts of these stages that run."""
        with redis_errors():
            found = [ShardRef.from_key(key) for key in self._store.redis.zrange(self._keys.leases(), 0, -1)]
        refs = [ref for ref in found if (ref.job_id, ref.stage) in stages]
        of_attempt = ("state", "token", "holder", "straggler", "straggler_holder", "claimed_at")
        fields = (*of_attempt, "rows", "preempted", "preemptions")
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for ref in refs:
                pipe.hmget(self._keys.shard(ref.job_id, ref.stage, ref.shard_id), *fields)
            shards = zip(refs, pipe.execute(), strict=True)
        running = RunningAttempts({}, Counter())
        for ref, (state, token, holder, straggler, other, claimed_at, rows, preempted, preemptions) in shards:
            if straggler is not None and int(straggler) == ref.token:
                running.of_worker[worker_of(other)] += 1
            elif state == b"running" and int(token) == ref.token:
                worker = worker_of(holder)
                running.of_worker[worker] += 1
                if straggler is None and claimed_at is not None:
                    asked = preempted is not None and int(preempted) == ref.token
                    alone = LoneAttempt(ref, int(claimed_at), int(rows), worker, asked, int(preemptions or 0))
                    running.alone.setdefault((ref.job_id, ref.stage), []).append(alone)
        return running

    def worker(self, ref: ShardRef) -> str:
        """Return who has a straggler in hand; "" if the attempt is none."""
        with redis_errors():
            shard = self._keys.shard(ref.job_id, ref.stage, ref.shard_id)
            straggler, holder = self._store.redis.hmget(shard, "straggler", "straggler_holder")
        return worker_of(holder) if straggler is not None and int(straggler) == ref.token else ""
