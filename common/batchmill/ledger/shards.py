"""Shards in the ledger: planned, queued, claimed, renewed, committed, put back."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from batchmill.cost import Parts
from batchmill.errors import StaleToken
from batchmill.job import MAX_INLINE_BYTES, JobError, JobSpec
from batchmill.ledger.connection import reaching_redis
from batchmill.shard import Shard, ShardId, ShardRef, ShardState, format_shard_id, parse_shard_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.completion import Completion, DeadLimit
    from batchmill.ledger.connection import Store
    from batchmill.ledger.record import JobRecord
    from batchmill.sources.base import RowCount


UNMETERED = Parts()


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker gets when it claims an attempt."""

    shard: Shard
    spec: JobSpec | None  # sent when it was asked for
    inline_rows: bytes


@dataclass(frozen=True, slots=True)
class PlanStep:
    """What the planner adds to a job in one step."""

    shards: Sequence[Shard]
    sizes: Sequence[int]  # of each shard, in bytes
    cursor: str
    at_end: bool
    total: RowCount | None


class ShardLedger:
    """Shards and their attempts. Whatever an attempt writes carries its token; a stale one changes nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def plan(self, record: JobRecord, step: PlanStep, epoch: int, stage: int = 0) -> str:
        """Add shards and move the cursor; returns "ok", "deposed", "moved" or "over" (see `plan.lua`)."""
        keys, job_id = self._keys, record.id
        described: list[str | int] = []
        for shard, size in zip(step.shards, step.sizes, strict=True):
            described += [format_shard_id(shard.shard_id), shard.rows, size, shard.plan()]
        total = step.total
        word = self._store.run(
            "plan",
            [
                keys.leader(),
                keys.job(job_id),
                keys.ready(job_id),
                keys.live_shards(job_id),
                *(keys.shard(job_id, stage, shard.shard_id) for shard in step.shards),
            ],
            [
                self._store.now_ms,
                epoch,
                stage,
                record.cursor,
                step.cursor,
                int(step.at_end),
                total.rows if total else "",
                int(total.exact) if total else 0,
                keys.events(),
                job_id,
                *described,
            ],
        )
        return str(word.decode())

    def to_queue(self, job_id: str, limit: int, now_ms: int) -> list[tuple[int, ShardId]]:
        """At most `limit` shards of a job that could be queued now: due retries first, then planned ones."""
        with reaching_redis(), self._store.redis.pipeline(transaction=False) as pipe:
            pipe.zrangebyscore(self._keys.waiting(job_id), "-inf", now_ms, start=0, num=limit)
            pipe.lrange(self._keys.ready(job_id), 0, limit - 1)
            waiting, ready = pipe.execute()
        names = [name.decode().split(" ") for name in [*waiting, *ready][:limit]]
        return [(int(stage), parse_shard_id(shard)) for stage, shard in names]

    def queue(self, record: JobRecord, stage: int, shard_id: ShardId, epoch: int) -> ShardRef | None:
        """Give a shard its next token; the caller publishes the message. None when there is nothing to queue."""
        keys, job_id = self._keys, record.id
        base = ShardRef(job_id, stage, shard_id, 0)
        token = self._store.run(
            "queue",
            [
                keys.leader(),
                keys.job(job_id),
                keys.shard(job_id, stage, shard_id),
                keys.ready(job_id),
                keys.waiting(job_id),
                keys.queued(record.spec.pool),
            ],
            [self._store.now_ms, epoch, _name(base), base.member().removesuffix("0")],
        )
        return ShardRef(job_id, stage, shard_id, int(token)) if token else None

    def withdraw(self, refs: Sequence[ShardRef], pool: str, epoch: int) -> int:
        """Take back queued attempts whose messages are gone from their queue; returns how many still waited there."""
        keys = [self._keys.leader(), self._keys.queued(pool)]
        told: list[str | int] = [self._store.now_ms, epoch]
        for ref in refs:
            keys += [self._keys.job(ref.job_id), self._shard_key(ref), self._keys.waiting(ref.job_id)]
            told += [ref.member(), _name(ref)]
        return int(self._store.run("withdraw", keys, told)) if refs else 0

    def queued(self, pool: str) -> list[tuple[ShardRef, int]]:
        """The attempts of a pool that wait to be claimed, oldest first, with when they were published (ms)."""
        with reaching_redis():
            members = self._store.redis.zrange(self._keys.queued(pool), 0, -1, withscores=True)
        return [(ShardRef.from_member(member), int(score)) for member, score in members]

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
    ) -> Claim | None:
        """Take a queued attempt under a lease, as `holder` (a name of its own for each claim).

        price_nano: of an hour of the process, see `batchmill.cost`. sharers: how many attempts share its time now.
        None when its job takes no more work. Raises `StaleToken` when the attempt is not there to be taken.
        """
        keys = self._keys
        reply = self._store.run(
            "claim",
            [
                keys.job(ref.job_id),
                self._shard_key(ref),
                keys.queued(pool),
                keys.leases(),
                keys.inline_input(ref.job_id),
            ],
            [self._store.now_ms, ref.token, ref.member(), holder, lease_ms, int(with_job), price_nano, sharers],
        )
        if reply[0] == b"stopped":
            return None
        if reply[0] == b"stale":
            raise StaleToken(f"attempt {ref.member()} is not there to be claimed.")
        _, plan, failures, losses, kept, spec, inline = reply
        shard = Shard.from_plan(
            ref.job_id,
            ref.shard_id,
            plan,
            stage=ref.stage,
            state=ShardState.RUNNING,
            token=ref.token,
            failures=int(failures),
            losses=int(losses),
            kept=kept.decode(),
        )
        return Claim(shard, JobSpec.model_validate_json(spec) if spec else None, inline)

    def renew(self, refs: Sequence[ShardRef], lease_ms: int, used_us: Sequence[int] = ()) -> list[str]:
        """Renew the leases of these attempts in one call; a word each: "ok", "lost", "paused" or "stopped".

        used_us: the time that each of them has used so far.
        """
        if not refs:
            return []
        used = zip((ref.member() for ref in refs), used_us or [0] * len(refs), strict=True)
        words = self._store.run(
            "renew",
            [self._keys.leases(), *(key for ref in refs for key in (self._keys.job(ref.job_id), self._shard_key(ref)))],
            [self._store.now_ms, lease_ms, *(part for told in used for part in told)],
        )
        return [word.decode() for word in words]

    def commit(
        self, ref: ShardRef, completion: Completion, limit: DeadLimit | None = None, used: Parts = UNMETERED
    ) -> bool:
        """Make an attempt's results the shard's. False: no room inline, store the results and come again.

        used: what the attempt's time went into, microseconds, to be charged with it.

        Raises `StaleToken` when the shard is another attempt's by now; then nothing changed.
        """
        word = self._store.run(
            "commit",
            self._settling_keys(ref),
            [
                self._store.now_ms,
                ref.token,
                ref.member(),
                format_shard_id(ref.shard_id),
                _name(ref),
                completion.rows,
                completion.rows_dead,
                completion.nbytes,
                int(completion.busy_s * 1e6),
                completion.inline,
                MAX_INLINE_BYTES,
                self._keys.events(),
                ref.job_id,
                limit.most if limit else "",
                limit.error.model_dump_json() if limit else "",
                "" if completion.results is None else completion.results,
                completion.rows_cached,
                *astuple(used),
                *(part for counted in completion.dead_by_type for part in counted),
            ],
        )
        if word == b"stale":
            raise StaleToken(f"attempt {ref.member()} lost its shard; its results do not count.")
        return bool(word == b"ok")

    def fail(
        self,
        ref: ShardRef,
        *,
        delay_s: float,
        blame: bool,
        kept: str = "",
        stop_with: JobError | None = None,
        used: Parts = UNMETERED,
    ) -> None:
        """End an attempt before the shard is done: it waits `delay_s` for another, or the job stops with an error.

        blame: whether it counts as a failure of the shard. kept: the blob with what is done of it. used: as for
        `commit`. Raises `StaleToken`.
        """
        word = self._store.run(
            "fail",
            [*self._attempt_keys(ref), *self._keys.costs()],
            [
                self._store.now_ms,
                ref.token,
                ref.member(),
                _name(ref),
                int(delay_s * 1000),
                "failures" if blame else "",
                stop_with.model_dump_json() if stop_with else "",
                self._keys.events(),
                ref.job_id,
                kept,
                *astuple(used),
            ],
        )
        if word != b"ok":
            raise StaleToken(f"attempt {ref.member()} lost its shard before it failed.")

    def lose(self, ref: ShardRef, epoch: int, *, delay_s: float, stop_with: JobError | None = None) -> str:
        """Take a shard back from an attempt whose lease ran out; a word as in `lose.lua`."""
        word = self._store.run(
            "lose",
            [*self._attempt_keys(ref), self._keys.leader(), *self._keys.costs()],
            [
                self._store.now_ms,
                ref.token,
                ref.member(),
                _name(ref),
                int(delay_s * 1000),
                stop_with.model_dump_json() if stop_with else "",
                self._keys.events(),
                ref.job_id,
                epoch,
            ],
        )
        return str(word.decode())

    def split(self, shard: Shard, epoch: int) -> str:
        """Replace a shard whose lease ran out by its halves; a word as in `split.lua`."""
        keys, ref = self._keys, shard.ref
        halves = shard.halves()
        described = [
            part
            for half in halves
            for part in (format_shard_id(half.shard_id), half.rows, half.plan(), half.losses, half.kept)
        ]
        word = self._store.run(
            "split",
            [
                *self._attempt_keys(ref),
                keys.leader(),
                keys.done(ref.job_id, ref.stage),
                keys.live_shards(ref.job_id),
                *(self._shard_key(half.ref) for half in halves),
                *keys.costs(),
            ],
            [
                self._store.now_ms,
                epoch,
                ref.token,
                ref.member(),
                format_shard_id(ref.shard_id),
                _name(ref),
                keys.events(),
                ref.job_id,
                ref.stage,
                *described,
            ],
        )
        return str(word.decode())

    def abandon(self, worker: str, blamed: str = "") -> list[ShardRef]:
        """Take back the attempts of a worker process that is known to be dead; returns those that it held.

        blamed: the member of the attempt that was on the device: it alone counts as lost. "": all do.
        """
        with reaching_redis():
            members = self._store.redis.zrange(self._keys.leases(), 0, -1)
        refs = [ShardRef.from_member(member) for member in members]
        keys = [
            key
            for ref in refs
            for key in (self._keys.job(ref.job_id), self._shard_key(ref), self._keys.waiting(ref.job_id))
        ]
        told = [part for ref in refs for part in (ref.member(), _name(ref), ref.job_id)]
        held = self._store.run(
            "abandon",
            [self._keys.leases(), *self._keys.costs(), *keys],
            [self._store.now_ms, worker, blamed, self._keys.events(), *told],
        )
        return [ShardRef.from_member(member) for member in held]

    def expired(self, now_ms: int, limit: int = 100) -> list[ShardRef]:
        """Attempts whose lease has run out by `now_ms`, the longest ago first."""
        with reaching_redis():
            members = self._store.redis.zrangebyscore(self._keys.leases(), "-inf", now_ms, start=0, num=limit)
        return [ShardRef.from_member(member) for member in members]

    def read(self, ref: ShardRef) -> Shard | None:
        """A live shard as it stands, or None when it is settled."""
        with reaching_redis():
            fields = self._store.redis.hgetall(self._shard_key(ref))
        if not fields:
            return None
        return Shard.from_plan(
            ref.job_id,
            ref.shard_id,
            fields[b"plan"],
            stage=ref.stage,
            state=ShardState(fields[b"state"].decode()),
            token=int(fields[b"token"]),
            failures=int(fields[b"failures"]),
            losses=int(fields[b"losses"]),
            kept=fields.get(b"kept", b"").decode(),
            worker=fields.get(b"holder", b"").decode().partition(" ")[0],
        )

    def _shard_key(self, ref: ShardRef) -> str:
        return self._keys.shard(ref.job_id, ref.stage, ref.shard_id)

    def _settling_keys(self, ref: ShardRef) -> list[str]:
        keys = self._keys
        return [
            keys.job(ref.job_id),
            self._shard_key(ref),
            keys.leases(),
            keys.done(ref.job_id, ref.stage),
            keys.live_shards(ref.job_id),
            keys.inline_results(ref.job_id),
            keys.dead_counts(ref.job_id),
            *keys.costs(),
        ]

    def _attempt_keys(self, ref: ShardRef) -> list[str]:
        keys = self._keys
        return [keys.job(ref.job_id), self._shard_key(ref), keys.leases(), keys.waiting(ref.job_id)]


def _name(ref: ShardRef) -> str:
    return f"{ref.stage} {format_shard_id(ref.shard_id)}"
