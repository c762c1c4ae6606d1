"""Shards in the ledger: planned, queued, claimed, renewed, committed, requeued."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, assert_never

from redis.retry import Retry

from batchmill.backoff import Backoff
from batchmill.errors import ServiceUnavailable, StaleToken
from batchmill.jobs.cost import Parts
from batchmill.jobs.job import MAX_INLINE_BYTES, JobError, JobSpec
from batchmill.jobs.retry import LOSSES_BEFORE_SPLIT
from batchmill.jobs.shard import Shard, ShardId, ShardRef, ShardState, format_shard_id, parse_shard_id
from batchmill.jobs.stages import FIRST_STAGE
from batchmill.ledger.commit_args import commit_args
from batchmill.ledger.formats.documents import write_error
from batchmill.ledger.formats.encodings import parse_settled, worker_of
from batchmill.ledger.formats.settlement import Settled
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import RedisBackoff, redis_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from batchmill.jobs.completion import Completion, DeadLimit, PassedStage, TriedStage
    from batchmill.ledger.formats.record import JobStage, StageKey, StageRecord
    from batchmill.ledger.plan_step import PlanStep
    from batchmill.ledger.scripting.connection import Store


log = logging.getLogger(__name__)

UNMETERED = Parts()
SETTLING = Retry(  # an attempt's end: what was computed outlasts an outage; the leader extends its lease after that
    RedisBackoff(Backoff(base_s=0.2, max_s=2.0)), retries=60, supported_errors=(ServiceUnavailable,)
)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker gets when it claims an attempt."""

    shard: Shard
    spec: JobSpec | None  # sent when it was asked for
    inline_rows: bytes


class ShardLedger:
    """Shards and their attempts. Whatever an attempt writes carries its token; a stale one changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def plan(self, job_id: str, stage: StageRecord, step: PlanStep, epoch: int) -> calls.PlanAnswer:
        """Add shards to a stage and move its cursor, as the leader."""
        total = step.total
        return calls.plan(
            self._store,
            epoch=epoch,
            job_id=job_id,
            stage=stage.number,
            cursor=stage.cursor,
            next_cursor=step.cursor,
            at_end=step.at_end,
            was_counted=stage.number == FIRST_STAGE,
            rows_total=total.rows if total else None,
            rows_exact=total is not None and total.exact,
            shards=[
                calls.PlannedShard(shard.shard_id, shard.rows, nbytes, shard.plan())
                for shard, nbytes in zip(step.shards, step.sizes, strict=True)
            ],
        )

    def begin_planning(self, job_id: str, *, is_again: bool) -> int:
        """Count that the planner begins with a job; return how often it has begun since it was last through with it.

        is_again: the caller began before, and could not say that it was through.
        """
        return calls.begin_planning(self._store, job_id=job_id, is_again=is_again)

    def end_planning(self, job_id: str) -> None:
        """Clear that count; `plan` does, too."""
        with redis_errors():
            self._store.redis.hdel(self._keys.job(job_id), "plannings")

    def to_queue_of(self, stages: Sequence[JobStage], limit: int, now_ms: int) -> dict[StageKey, list[ShardId]]:
        """For each of these stages, shards that could be queued now: at most `limit` due retries, and as many others.

        If the stage behind has nothing to do, all of them are listed: it may wait for any one, see `buffer_credit`.
        A shard that ended its process twice, and a part of one that was split for that, waits behind all others; they
        do not displace it, for a later stage may wait for it alone. Takes two round trips, and none for stages of which
        nothing was ever queued.
        """
        due = {one.key: [ShardId((n,)) for n in range(min(one.stage.shards_live, limit))] for one in stages}
        touched = [one for one in stages if not one.is_untouched]
        awaited = {one.key for one in touched if one.may_be_awaited}
        return due | self._listed([one.key for one in touched], awaited, limit, now_ms)

    def _listed(
        self, stages: Sequence[StageKey], awaited: Collection[StageKey], limit: int, now_ms: int
    ) -> dict[StageKey, list[ShardId]]:
        if not stages:
            return {}
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for job_id, stage in stages:
                most = -1 if (job_id, stage) in awaited else limit  # -1: all of them
                pipe.zrangebyscore(self._keys.waiting(job_id, stage), "-inf", now_ms, start=0, num=most)
                pipe.lrange(self._keys.ready(job_id, stage), 0, max(most - 1, -1))
            lists = [[parse_shard_id(name.decode()) for name in names] for names in pipe.execute()]
        found = dict(zip(stages, zip(lists[::2], lists[1::2], strict=True), strict=True))
        suspects = self._suspects(
            [(*key, one) for key, (retries, planned) in found.items() if planned for one in retries[:limit]]
        )
        due = {}
        for key, (retries, planned) in found.items():
            last = [one for one in retries if (*key, one) in suspects] + retries[limit:]
            due[key] = [*(one for one in retries if one not in last), *planned, *last]
        return due

    def cut_waits(self, latest_ms: Mapping[StageKey, int]) -> set[str]:
        """Let no shard of these stages wait for longer than until then: its retry was set before the clock went back.

        Returns the jobs that had such shards.
        """
        cut = set()
        for (job_id, stage), latest in latest_ms.items():
            key = self._keys.waiting(job_id, stage)
            with redis_errors():
                late = self._store.redis.zrangebyscore(key, f"({latest}", "+inf")
                if late:
                    self._store.redis.zadd(key, dict.fromkeys(late, latest), xx=True, lt=True)
                    cut.add(job_id)
        return cut

    def _suspects(self, shards: Sequence[tuple[str, int, ShardId]]) -> set[tuple[str, int, ShardId]]:
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for shard in shards:
                pipe.hget(self._keys.shard(*shard), "losses")
            losses = pipe.execute()
        pairs = zip(shards, losses, strict=True)
        return {one for one, lost in pairs if len(one[2]) > 1 or int(lost or 0) >= LOSSES_BEFORE_SPLIT}

    def queue(self, job_id: str, stage: StageRecord, shard_id: ShardId, epoch: int) -> ShardRef | None:
        """Give a shard its next token; the caller publishes the message. None when there is nothing to queue."""
        token = calls.queue(
            self._store, pool=stage.spec.pool, epoch=epoch, job_id=job_id, stage=stage.number, shard_id=shard_id
        )
        return ShardRef(job_id, stage.number, shard_id, token) if token else None

    def unqueue_orphaned(self, refs: Sequence[ShardRef], pool: str, epoch: int) -> int:
        """Take back queued attempts whose messages are gone from their queue; returns how many were still queued."""
        return calls.unqueue_orphaned(self._store, pool=pool, epoch=epoch, attempts=refs) if refs else 0

    def queued(self, pool: str) -> list[tuple[ShardRef, int]]:
        """The attempts of a pool that wait to be claimed, oldest first, with when they were published (ms)."""
        with redis_errors():
            members = self._store.redis.zrange(self._keys.queued(pool), 0, -1, withscores=True)
        return [(ShardRef.from_key(member), int(score)) for member, score in members]

    def claim(
        self,
        ref: ShardRef,
        pool: str,
        holder: str,
        lease_ms: int,
        *,
        with_job: bool,
        price_nano: int = 0,
        sharers: int = 1,
        version: str = "",
        revision: str = "",
    ) -> Claim | None:
        """Take a queued attempt under a lease, as `holder` (a name of its own for each claim).

        price_nano: of an hour of the process, see `batchmill.jobs.cost`. sharers: how many attempts share its time now.
        version, revision: of the operator that would run it; "": not compared. The first claim binds the stage to them.
        None when its job takes no more work. Raises `StaleToken` when the attempt is not there to be taken.
        """
        reply = calls.claim(
            self._store,
            pool=pool,
            attempt=ref,
            holder=holder,
            lease_ms=lease_ms,
            with_job=with_job,
            price_nano=price_nano,
            sharers=sharers,
            version=version,
            revision=revision,
        )
        match reply.answer:
            case calls.ClaimAnswer.STOPPED:
                return None
            case calls.ClaimAnswer.OTHER_REVISION:
                raise StaleToken(f"attempt {ref.attempt_key} is for another version of its operator than {revision}.")
            case calls.ClaimAnswer.STALE:
                raise StaleToken(f"attempt {ref.attempt_key} is not there to be claimed.")
            case calls.ClaimAnswer.OK:
                return _claimed(ref, reply)
            case never:
                assert_never(never)

    def renew(self, refs: Sequence[ShardRef], lease_ms: int, used_us: Sequence[int] = ()) -> list[calls.RenewAnswer]:
        """Renew the leases of these attempts in one call; returns what became of each.

        used_us: the time that each of them has used so far.
        """
        used = zip(refs, used_us or [0] * len(refs), strict=True)
        attempts = [calls.Renewal(ref, us) for ref, us in used]
        return calls.renew(self._store, lease_ms=lease_ms, attempts=attempts) if attempts else []

    def save_checkpoint(self, ref: ShardRef, checkpoint: str) -> None:
        """Name the blob with what a running attempt has done so far, which counts if the attempt is lost.

        Raises `StaleToken`.
        """
        match calls.save_checkpoint(self._store, attempt=ref, checkpoint=checkpoint):
            case calls.SaveCheckpointAnswer.OK:
                return
            case calls.SaveCheckpointAnswer.STALE:
                raise StaleToken(f"attempt {ref.attempt_key} lost its shard; its checkpoint does not count.")
            case never:
                assert_never(never)

    def commit(
        self,
        ref: ShardRef,
        completion: Completion,
        limit: DeadLimit | None = None,
        used: Parts = UNMETERED,
        passed: Sequence[PassedStage] = (),
        tried: TriedStage | None = None,
    ) -> bool:
        """Make an attempt's results the shard's.

        False: no room inline, or a stage of `passed` is bound to another version. Store the results and commit again,
        without `passed` and `tried`.

        used: what the attempt's time was spent on, microseconds, to be charged with it.
        passed: what it made of them in the stages that run with its own. tried: what follows in the one behind those.

        Raises `StaleToken` when the shard is another attempt's by now; then nothing changed.
        """
        args = commit_args(completion, limit, used, passed, tried)
        commit = partial(calls.commit, self._store, attempt=ref, max_inline_bytes=MAX_INLINE_BYTES, **args)
        match SETTLING.call_with_retry(commit, _wait):
            case calls.CommitAnswer.OK:
                return True
            case calls.CommitAnswer.NO_ROOM | calls.CommitAnswer.OTHER_REVISION:
                return False
            case calls.CommitAnswer.STALE:
                raise StaleToken(f"attempt {ref.attempt_key} lost its shard; its results do not count.")
            case never:
                assert_never(never)

    def end_attempt(
        self,
        ref: ShardRef,
        *,
        delay_s: float,
        blame: bool,
        checkpoint: str = "",
        stop_with: JobError | None = None,
        stalled_by: str = "",
        pause_for: str = "",
        used: Parts = UNMETERED,
    ) -> None:
        """End an attempt before the shard is done: it waits `delay_s` for another, or the job stops with an error.

        blame: whether it counts as a failure of the shard. checkpoint: the blob with what is done of it. stalled_by:
        why storage could not be used, which the attempt and this delay were spent on. pause_for: why the job is paused.
        used: as for `commit`. Raises `StaleToken`.
        """
        end_attempt = partial(
            calls.end_attempt,
            self._store,
            attempt=ref,
            delay_ms=int(delay_s * 1000),
            blame=blame,
            stop_with=write_error(stop_with) if stop_with else None,
            checkpoint=checkpoint or None,
            stalled_by=stalled_by or None,
            pause_for=pause_for or None,
            stalled_ms=int(delay_s * 1000) + used.total // 1000,
            used=used,
        )
        match SETTLING.call_with_retry(end_attempt, _wait):
            case calls.EndAttemptAnswer.OK:
                return
            case calls.EndAttemptAnswer.STALE:
                raise StaleToken(f"attempt {ref.attempt_key} lost its shard before it ended.")
            case never:
                assert_never(never)

    def expire_attempt(
        self, ref: ShardRef, epoch: int, *, delay_s: float, stop_with: JobError | None = None
    ) -> calls.ExpireAttemptAnswer:
        """Take a shard back from an attempt whose lease ran out, as the leader."""
        return calls.expire_attempt(
            self._store,
            epoch=epoch,
            attempt=ref,
            delay_ms=int(delay_s * 1000),
            stop_with=write_error(stop_with) if stop_with else None,
        )

    def split(self, shard: Shard, epoch: int) -> calls.SplitAnswer:
        """Replace a shard whose lease ran out by its halves, as the leader."""
        halves = [
            calls.Half(half.shard_id, half.rows, half.plan(), half.losses, half.checkpoint) for half in shard.halves()
        ]
        return calls.split(self._store, epoch=epoch, attempt=shard.ref, halves=halves)

    def keep_leases(self, worker: str, refs: Sequence[ShardRef], lease_ms: int) -> list[ShardRef]:
        """Prolong the leases of attempts that a live process of this worker holds, and its presence in the fleet.

        Returns the attempts that it does hold.
        """
        return calls.keep_leases(self._store, lease_ms=lease_ms, worker=worker, attempts=refs)

    def release_leases_of_worker(self, worker: str, blamed: Collection[str] | None = None) -> list[ShardRef]:
        """Take back the attempts of a worker process that is known to be dead; returns those that it held.

        blamed: the keys of the attempts that may have ended it: they alone count as lost. None: all do.
        """
        with redis_errors():
            found = self._store.redis.zrange(self._keys.leases(), 0, -1)
        refs = [ShardRef.from_key(key) for key in found]
        attempts = [calls.Release(ref, blamed is None or ref.attempt_key in blamed) for ref in refs]
        return calls.release_leases_of_worker(self._store, worker=worker, attempts=attempts)

    def expired(self, now_ms: int, limit: int = 100) -> list[ShardRef]:
        """Attempts whose lease has run out by `now_ms`, the longest ago first."""
        with redis_errors():
            members = self._store.redis.zrangebyscore(self._keys.leases(), "-inf", now_ms, start=0, num=limit)
        return [ShardRef.from_key(member) for member in members]

    def read(self, ref: ShardRef) -> Shard | None:
        """A live shard, or None when it is settled."""
        with redis_errors():
            fields = self._store.redis.hgetall(self._shard_key(ref))
        if not fields:
            return None
        return Shard.from_plan(
            ref.job_id,
            ref.stage,
            ref.shard_id,
            fields[b"plan"],
            state=ShardState(fields[b"state"].decode()),
            token=int(fields[b"token"]),
            failures=int(fields[b"failures"]),
            losses=int(fields[b"losses"]),
            checkpoint=fields.get(b"checkpoint", b"").decode(),
            worker=worker_of(fields.get(b"holder", b"")),
        )

    def may_have_again(self, ref: ShardRef) -> bool:
        """Whether an attempt of the same token has the shard, has settled it, or may get it yet.

        That is so after a ledger was rolled back, which gives tokens again.
        """
        with redis_errors(), self._store.redis.pipeline(transaction=True) as pipe:
            pipe.hmget(self._shard_key(ref), "state", "token")
            pipe.hget(self._keys.done(ref.job_id, ref.stage), format_shard_id(ref.shard_id))
            (state, token), entry = pipe.execute()
        if entry is not None:
            settled = parse_settled(ref.stage, ref.shard_id, entry)
            return isinstance(settled, Settled) and settled.token == ref.token
        if state is None:
            return False
        is_at_work = ShardState(state.decode()) in (ShardState.QUEUED, ShardState.RUNNING)
        return int(token) < ref.token or (int(token) == ref.token and is_at_work)

    def _shard_key(self, ref: ShardRef) -> str:
        return self._keys.shard(ref.job_id, ref.stage, ref.shard_id)


def _wait(error: Exception) -> None:
    log.warning("an attempt cannot be ended yet, which is tried again: %s", error)


def _claimed(ref: ShardRef, reply: calls.ClaimReply) -> Claim:
    shard = Shard.from_plan(
        ref.job_id,
        ref.stage,
        ref.shard_id,
        reply.plan,
        state=ShardState.RUNNING,
        token=ref.token,
        failures=reply.failures,
        losses=reply.losses,
        checkpoint=reply.checkpoint,
        stalled_s=reply.stalled_ms / 1000,
    )
    return Claim(shard, JobSpec.model_validate_json(reply.spec) if reply.spec else None, reply.inline_rows)
