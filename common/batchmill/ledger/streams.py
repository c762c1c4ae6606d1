"""Streams in the ledger: the lag of those of jobs, and the rows that were pushed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from batchmill.errors import NotFound, Overloaded
from batchmill.jobs.shard import Shard, parse_shard_id
from batchmill.jobs.stages import FIRST_STAGE
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.shard import ShardId, Slice
    from batchmill.ledger.formats.record import StageRecord
    from batchmill.ledger.scripting.connection import Store


TRIMMED_AT_ONCE = 256
MAX_DRAINED = 1_000


class PushLimits(NamedTuple):
    """What a tenant may have of streams to which rows are sent."""

    max_streams: int
    max_bytes: int  # of rows that are not settled


@dataclass(frozen=True, slots=True)
class PushedRows:
    """Rows that are sent at once, and where they are."""

    call: str  # the id of the request: repeated with it, nothing changes
    rows: int
    nbytes: int
    data: bytes | None  # an Arrow stream, if it is small
    blob: str | None = None  # else the blob with it
    producer: str | None = None
    sequence: int = 0


class PushedEntry(NamedTuple):
    """An entry of such a stream."""

    offset: str
    rows: int
    end: int  # rows ever added up to and with it
    nbytes: int
    data: bytes | None
    blob: str | None

    @classmethod
    def of(cls, entry: tuple[bytes, dict[bytes, bytes]]) -> PushedEntry:
        """Read an entry as `push.lua` writes it."""
        offset, fields = entry
        blob = fields.get(b"blob")
        rows, end, nbytes = (int(fields[name]) for name in (b"rows", b"end", b"nbytes"))
        data = fields.get(b"data")
        return cls(offset.decode(), rows, end, nbytes, data, None if blob is None else blob.decode())


class PushedState(NamedTuple):
    """How much was sent to a stream, and how much of it is there."""

    rows: int
    nbytes: int


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

    def drained_jobs(self, oldest_ms: int) -> list[str]:
        """The ids of completed jobs whose settled rows were not reported, at most `MAX_DRAINED`, the oldest first.

        Those that ended before `oldest_ms` are forgotten.
        """
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            pipe.zremrangebyscore(self._keys.drained_jobs(), "-inf", f"({oldest_ms}")
            pipe.zrange(self._keys.drained_jobs(), 0, MAX_DRAINED - 1)
            _, found = pipe.execute()
        return [job_id.decode() for job_id in found]

    def forget_drained(self, job_ids: Sequence[str]) -> None:
        """Forget completed jobs whose settled rows were reported to the source."""
        if job_ids:
            with redis_errors():
                self._store.redis.zrem(self._keys.drained_jobs(), *job_ids)

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

    def files_of(self, job_id: str) -> dict[str, int]:
        """The files of a watched folder that a job has taken, by name, with their numbers."""
        with redis_errors():
            found = self._store.redis.hgetall(self._keys.stream_files(job_id))
        return {name.decode(): int(number) for name, number in found.items()}

    def note_file(self, job_id: str, name: str, number: int, never_planned: Sequence[str]) -> None:
        """Note the number of a file, unless the job is gone; forget those that were noted and never planned."""
        calls.note_file(self._store, job_id=job_id, name=name, number=number, never_planned=never_planned)

    def forget_files(self, job_id: str, names: Sequence[str]) -> None:
        """Forget files that the folder does not have any more."""
        if names:
            with redis_errors():
                self._store.redis.hdel(self._keys.stream_files(job_id), *names)

    def compact(
        self, job_id: str, stage: StageRecord, after: str, freed: str, deleted: Sequence[ShardId], epoch: int
    ) -> bool:
        """Note of which shards of a stage something is kept, and delete the entries of others, as the leader.

        stage: as it was read. after, freed: what is written. False: it has changed meanwhile.
        """
        answer = calls.compact(
            self._store,
            epoch=epoch,
            job_id=job_id,
            stage=stage.number,
            before=stage.kept,
            after=after,
            freed_before=stage.freed,
            freed_after=freed,
            deleted=deleted,
        )
        return answer is calls.CompactAnswer.OK

    def roll(self, job_id: str, stage: int, before: str, after: str, epoch: int) -> bool:
        """Note how far the results of a stage are in files, as the leader. before: as it was read.

        False: another leader is there by now, has noted more, or the job is gone.
        """
        answer = calls.roll(self._store, epoch=epoch, job_id=job_id, stage=stage, before=before, after=after)
        return answer is calls.RollAnswer.OK

    def note(self, job_id: str, lag: int | None, away: str, epoch: int) -> None:
        """Note the lag of the stream of a job, as the leader. away: why its source cannot be asked."""
        calls.note_stream(self._store, epoch=epoch, job_id=job_id, stage=FIRST_STAGE, lag=lag, away=away or None)

    def push(self, tenant: str, name: str, sent: PushedRows, limits: PushLimits) -> str | None:
        """Add rows to a stream; returns their offset, None if they are known under their producer's number.

        Raises `Overloaded` when the tenant has as much as it may.
        """
        reply = calls.push(
            self._store,
            tenant=tenant,
            name=name,
            call=sent.call,
            rows=sent.rows,
            nbytes=sent.nbytes,
            data=sent.data,
            blob=sent.blob,
            producer=sent.producer,
            sequence=sent.sequence,
            max_streams=limits.max_streams,
            max_bytes=limits.max_bytes,
        )
        match reply.answer:
            case calls.PushAnswer.OK:
                return reply.offset
            case calls.PushAnswer.KNOWN:
                return None
            case calls.PushAnswer.FULL:
                raise Overloaded(
                    f"the streams of the tenant {tenant!r} hold {reply.held:,} bytes of rows that are not settled; "
                    f"{limits.max_bytes:,} are allowed.",
                    hint="Send them again later. A job that reads the stream makes room: see `batchmill streams`.",
                    limit=limits.max_bytes,
                )
            case calls.PushAnswer.TOO_MANY:
                raise Overloaded(
                    f"the tenant {tenant!r} has {limits.max_streams:,} streams, the most that one may have.",
                    hint="Delete some: DELETE /v1/streams/{name}.",
                    limit=limits.max_streams,
                )
            case never:
                assert_never(never)

    def pushed_state(self, tenant: str, name: str) -> PushedState:
        """How much was sent to a stream, and what of it is there; zeros for one that is not."""
        with redis_errors():
            found = self._store.redis.hmget(self._keys.pushed_state(tenant, name), "rows", "nbytes")
        return PushedState(*(int(number or 0) for number in found))

    def pushed_entries(
        self, tenant: str, name: str, after: str, last: str = "+", limit: int = TRIMMED_AT_ONCE
    ) -> list[PushedEntry]:
        """At most `limit` entries behind an offset, up to another one."""
        with redis_errors():
            found = self._store.redis.xrange(self._keys.pushed(tenant, name), f"({after}", last, count=limit)
        return [PushedEntry.of(entry) for entry in found]

    def last_pushed(self, tenant: str, name: str) -> PushedEntry | None:
        """The last entry, if there is any."""
        with redis_errors():
            found = self._store.redis.xrevrange(self._keys.pushed(tenant, name), count=1)
        return PushedEntry.of(found[0]) if found else None

    def wait_for_pushed(self, tenant: str, name: str, after: str, timeout_s: float) -> bool:
        """Wait until there is an entry behind an offset; say whether there is."""
        with redis_errors():
            key = self._keys.pushed(tenant, name)
            return bool(self._store.redis.xread({key: after}, count=1, block=max(int(timeout_s * 1000), 1)))

    def trim_pushed(self, tenant: str, name: str, entries: Sequence[PushedEntry]) -> int:
        """Delete entries, whose blobs are gone; returns how many there were."""
        items = [calls.PushedEntry(one.offset, one.nbytes) for one in entries]
        return calls.trim_pushed(self._store, tenant=tenant, name=name, entries=items)

    def names_of(self, tenant: str) -> dict[str, int]:
        """The streams to which rows of a tenant were sent, with the bytes that they hold, by name."""
        with redis_errors():
            found = self._store.redis.hgetall(self._keys.tenant_streams(tenant))
        return {name.decode(): int(nbytes) for name, nbytes in sorted(found.items())}

    def all_pushed(self) -> list[tuple[str, str]]:
        """All streams to which rows were sent, as tenant and name."""
        with redis_errors():
            found = self._store.redis.smembers(self._keys.pushed_streams())
        return sorted((tenant, name) for tenant, name in (one.decode().split(" ", 1) for one in found))

    def forget_pushed(self, tenant: str, name: str) -> list[PushedEntry]:
        """Forget a stream; return the entries that it still had. Raises `NotFound` for one that is not there."""
        keys = self._keys
        with redis_errors(), self._store.redis.pipeline(transaction=True) as pipe:
            pipe.xrange(keys.pushed(tenant, name))
            pipe.hdel(keys.tenant_streams(tenant), name)
            pipe.srem(keys.pushed_streams(), f"{tenant} {name}")
            pipe.delete(
                keys.pushed(tenant, name),
                keys.pushed_state(tenant, name),
                keys.producers(tenant, name),
                keys.producers_used(tenant, name),
            )
            left, was_there, *_ = pipe.execute()
        if not was_there:
            raise NotFound(f"there is no stream {name!r}.", stream=name)
        return [PushedEntry.of(entry) for entry in left]
