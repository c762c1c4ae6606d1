"""One typed call for each ledger script, written from its header by `make ledger-calls`: do not edit."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from batchmill.jobs.job import JobState
from batchmill.jobs.shard import ShardRef, format_shard_id
from batchmill.ledger.formats.encodings import write_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.cost import Parts
    from batchmill.jobs.shard import ShardId
    from batchmill.ledger.scripting.connection import Store


class AddDocumentAnswer(StrEnum):
    """What `add_document.lua` answers."""

    ADDED = "added"
    TOO_MANY = "too many"
    TOO_LARGE = "too large"


def add_document(
    store: Store,
    *,
    kind: str,
    document_id: str,
    tenant: str,
    body: str,
    nbytes: int,
    due_ms: int | None,
    max_count: int,
    max_bytes: int,
) -> AddDocumentAnswer:
    """Keep a document of a tenant, unless the tenant has too many or too much."""
    keys = store.keys
    reply = store.run(
        "add_document",
        [
            keys.document(kind, document_id),
            keys.tenant_documents(kind, tenant),
            keys.due_documents(kind),
            keys.document_bytes(kind),
        ],
        [
            store.now_ms,
            kind,
            document_id,
            tenant,
            body,
            nbytes,
            "" if due_ms is None else due_ms,
            max_count,
            max_bytes,
            keys.events(),
        ],
    )
    return AddDocumentAnswer(reply.decode())


class AdoptShardAnswer(StrEnum):
    """What `adopt_shard.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    KNOWN = "known"
    MOVED = "moved"


class AdoptedDeadRows(NamedTuple):
    """An item of the list that `adopt_shard.lua` takes."""

    error_type: str
    rows: int


def adopt_shard(
    store: Store,
    *,
    stage: int,
    epoch: int,
    job_id: str,
    replay_id: str,
    shard_id: ShardId,
    shards_planned: int,
    rows: int,
    rows_dead: int,
    entry: str,
    dead_by_type: Sequence[AdoptedDeadRows],
) -> AdoptShardAnswer:
    """Add to a stage of a job what a replay has settled in it, as a shard of its own; once for each replay."""
    keys = store.keys
    reply = store.run(
        "adopt_shard",
        [
            keys.leader(),
            keys.stage(job_id, stage),
            keys.done(job_id, stage),
            keys.dead_counts(job_id),
        ],
        [
            epoch,
            job_id,
            replay_id,
            format_shard_id(shard_id),
            shards_planned,
            rows,
            rows_dead,
            entry,
            keys.events(),
            *(
                part
                for item in dead_by_type
                for part in (
                    item.error_type,
                    item.rows,
                )
            ),
        ],
    )
    return AdoptShardAnswer(reply.decode())


class Announced(NamedTuple):
    """An item of the list that `announce.lua` takes."""

    operator: str
    description: str


def announce(
    store: Store,
    *,
    worker: str,
    description: str,
    ttl_ms: int,
    changed: bool,
    announced: Sequence[Announced],
) -> list[str]:
    """Note that a worker is there, what it has loaded, and what its operators are."""
    keys = store.keys
    reply = store.run(
        "announce",
        [
            keys.workers(),
            keys.workers_seen(),
            keys.operators(),
        ],
        [
            store.now_ms,
            worker,
            description,
            ttl_ms,
            keys.events(),
            int(changed),
            *(
                part
                for item in announced
                for part in (
                    item.operator,
                    item.description,
                )
            ),
        ],
    )
    return [one.decode() for one in reply]


def begin_planning(
    store: Store,
    *,
    job_id: str,
    is_again: bool,
) -> int:
    """Count that the planner begins with a job; it clears the count when it is through, or when the job fails."""
    keys = store.keys
    reply = store.run(
        "begin_planning",
        [
            keys.job(job_id),
        ],
        [
            int(is_again),
        ],
    )
    return int(reply)


class BeginUploadAnswer(StrEnum):
    """What `begin_upload.lua` answers."""

    OK = "ok"
    FULL = "full"


def begin_upload(
    store: Store,
    *,
    upload_id: str,
    max_uploads: int,
) -> BeginUploadAnswer:
    """Note an upload, so that it can be swept if no job takes it."""
    keys = store.keys
    reply = store.run(
        "begin_upload",
        [
            keys.uploads(),
        ],
        [
            store.now_ms,
            upload_id,
            max_uploads,
        ],
    )
    return BeginUploadAnswer(reply.decode())


class ChangeDocumentAnswer(StrEnum):
    """What `change_document.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    STALE = "stale"


def change_document(
    store: Store,
    *,
    kind: str,
    document_id: str,
    revision: int,
    body: str,
    due_ms: int,
    epoch: int | None,
) -> ChangeDocumentAnswer:
    """Replace the body of a document that nobody has changed since it was read, and say when it is due next."""
    keys = store.keys
    reply = store.run(
        "change_document",
        [
            keys.document(kind, document_id),
            keys.due_documents(kind),
            keys.leader(),
        ],
        [
            kind,
            document_id,
            revision,
            body,
            due_ms,
            "" if epoch is None else epoch,
            keys.events(),
        ],
    )
    return ChangeDocumentAnswer(reply.decode())


def charge_calls(
    store: Store,
    *,
    process: str,
    tenant: str,
    worked_for: str,
    price: int,
    used: Parts,
    rows: int,
    number: int,
) -> int:
    """Charge a tenant for interactive requests, which belong to no job."""
    keys = store.keys
    reply = store.run(
        "charge_calls",
        [
            keys.cost_tenants(),
            keys.cost_pools(),
            keys.cost_days(),
            keys.charged_calls(process),
        ],
        [
            store.now_ms,
            tenant,
            worked_for,
            price,
            write_parts(used),
            rows,
            number,
        ],
    )
    return int(reply)


def check_schema(
    store: Store,
    *,
    version: int,
) -> int:
    """Find out in which data formats this ledger is kept."""
    keys = store.keys
    reply = store.run(
        "check_schema",
        [
            keys.schema(),
            keys.jobs(),
            keys.workers_seen(),
        ],
        [
            store.now_ms,
            version,
        ],
    )
    return int(reply)


class ClaimAnswer(StrEnum):
    """What `claim.lua` answers."""

    OK = "ok"
    STALE = "stale"
    STOPPED = "stopped"
    OTHER_REVISION = "other revision"


class ClaimReply(NamedTuple):
    """What `claim.lua` replies."""

    answer: ClaimAnswer
    plan: bytes
    failures: int
    losses: int
    checkpoint: str
    stalled_ms: int
    spec: bytes
    inline_rows: bytes


def claim(
    store: Store,
    *,
    pool: str,
    attempt: ShardRef,
    holder: str,
    lease_ms: int,
    with_job: bool,
    price_nano: int,
    sharers: int,
    version: str,
    revision: str,
) -> ClaimReply:
    """Take a queued attempt under a lease, as a worker."""
    keys = store.keys
    reply = store.run(
        "claim",
        [
            keys.job(attempt.job_id),
            keys.index(),
            keys.stage(attempt.job_id, attempt.stage),
            keys.shard(attempt.job_id, attempt.stage, attempt.shard_id),
            keys.queued(pool),
            keys.leases(),
            keys.waiting(attempt.job_id, attempt.stage),
            keys.inline_input(attempt.job_id),
        ],
        [
            store.now_ms,
            attempt.attempt_key,
            holder,
            lease_ms,
            int(with_job),
            price_nano,
            sharers,
            version,
            revision,
        ],
    )
    return ClaimReply(
        ClaimAnswer(reply[0].decode()),
        bytes(reply[1]),
        int(reply[2]),
        int(reply[3]),
        reply[4].decode(),
        int(reply[5]),
        bytes(reply[6]),
        bytes(reply[7]),
    )


class CommitAnswer(StrEnum):
    """What `commit.lua` answers."""

    OK = "ok"
    STALE = "stale"
    NO_ROOM = "no room"
    OTHER_REVISION = "other revision"


class DeadRowsCount(NamedTuple):
    """An item of the list that `commit.lua` takes."""

    error_type: str
    rows: int


class Rest(NamedTuple):
    """An item of the list that `commit.lua` takes."""

    shard_id: ShardId
    part_id: ShardId
    split_id: ShardId
    parts: int
    rows: int
    plan: str
    checkpoint: str | None
    delay_ms: int


class PassedStage(NamedTuple):
    """An item of the list that `commit.lua` takes."""

    version: str
    revision: str
    rows: int
    rows_dead: int
    nbytes: int
    busy_us: int
    inline: bytes | None
    max_dead: float | None
    too_many_dead: str | None
    results: int | None
    rows_cached: int
    rows_filtered: int
    tokens: str | None
    roots_dead: int
    borders: str | None
    incomplete: str | None
    used: Parts


def commit(
    store: Store,
    *,
    attempt: ShardRef,
    rows: int,
    rows_dead: int,
    nbytes: int,
    busy_us: int,
    inline: bytes | None,
    max_inline_bytes: int,
    max_dead: float | None,
    too_many_dead: str | None,
    results: int | None,
    rows_cached: int,
    rows_filtered: int,
    tokens: str | None,
    roots_dead: int,
    borders: str | None,
    incomplete: str | None,
    used: Parts,
    failed_in_next: bool,
    delay_ms: int,
    failures: int,
    checkpoint: str | None,
    stalled_by: str | None,
    stalled_ms: int,
    pause_for: str | None,
    stop_with: str | None,
    used_in_next: Parts,
    dead_by_type: Sequence[DeadRowsCount],
    rest: Sequence[Rest],
    passed: Sequence[PassedStage],
) -> CommitAnswer:
    """Make an attempt's results the shard's results: the one step that counts."""
    keys = store.keys
    reply = store.run(
        "commit",
        [
            keys.job(attempt.job_id),
            keys.index(),
            keys.stage(attempt.job_id, attempt.stage),
            keys.shard(attempt.job_id, attempt.stage, attempt.shard_id),
            keys.leases(),
            keys.done(attempt.job_id, attempt.stage),
            keys.live_shards(attempt.job_id, attempt.stage),
            keys.inline_results(attempt.job_id, attempt.stage),
            keys.ready(attempt.job_id, attempt.stage),
            keys.waiting(attempt.job_id, attempt.stage),
            keys.dead_counts(attempt.job_id),
            keys.borders(attempt.job_id, attempt.stage),
            keys.incomplete(attempt.job_id),
            keys.live_jobs(),
            keys.ended_jobs(),
            keys.clock_seen(),
            keys.inline_input(attempt.job_id),
            keys.unreported(),
            keys.announcements(),
            keys.cost_tenants(),
            keys.cost_pools(),
            keys.cost_days(),
            *(keys.shard(attempt.job_id, attempt.stage, item.shard_id) for item in rest),
        ],
        [
            store.now_ms,
            attempt.attempt_key,
            rows,
            rows_dead,
            nbytes,
            busy_us,
            "" if inline is None else inline,
            max_inline_bytes,
            "" if max_dead is None else max_dead,
            "" if too_many_dead is None else too_many_dead,
            "" if results is None else results,
            rows_cached,
            rows_filtered,
            "" if tokens is None else tokens,
            roots_dead,
            "" if borders is None else borders,
            "" if incomplete is None else incomplete,
            write_parts(used),
            int(failed_in_next),
            delay_ms,
            failures,
            "" if checkpoint is None else checkpoint,
            "" if stalled_by is None else stalled_by,
            stalled_ms,
            "" if pause_for is None else pause_for,
            "" if stop_with is None else stop_with,
            write_parts(used_in_next),
            keys.events(),
            len(dead_by_type),
            len(rest),
            *(
                part
                for item in dead_by_type
                for part in (
                    item.error_type,
                    item.rows,
                )
            ),
            *(
                part
                for item in rest
                for part in (
                    format_shard_id(item.shard_id),
                    format_shard_id(item.part_id),
                    format_shard_id(item.split_id),
                    item.parts,
                    item.rows,
                    item.plan,
                    "" if item.checkpoint is None else item.checkpoint,
                    item.delay_ms,
                )
            ),
            *(
                part
                for item in passed
                for part in (
                    item.version,
                    item.revision,
                    item.rows,
                    item.rows_dead,
                    item.nbytes,
                    item.busy_us,
                    "" if item.inline is None else item.inline,
                    "" if item.max_dead is None else item.max_dead,
                    "" if item.too_many_dead is None else item.too_many_dead,
                    "" if item.results is None else item.results,
                    item.rows_cached,
                    item.rows_filtered,
                    "" if item.tokens is None else item.tokens,
                    item.roots_dead,
                    "" if item.borders is None else item.borders,
                    "" if item.incomplete is None else item.incomplete,
                    write_parts(item.used),
                )
            ),
        ],
    )
    return CommitAnswer(reply.decode())


class CompactAnswer(StrEnum):
    """What `compact.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    MOVED = "moved"


def compact(
    store: Store,
    *,
    job_id: str,
    stage: int,
    epoch: int,
    before: str,
    after: str,
    freed_before: str,
    freed_after: str,
    deleted: Sequence[ShardId],
) -> CompactAnswer:
    """Note of which shards of a stage something is kept, and delete the entries of those whose blobs are gone."""
    keys = store.keys
    reply = store.run(
        "compact",
        [
            keys.leader(),
            keys.job(job_id),
            keys.stage(job_id, stage),
            keys.done(job_id, stage),
            keys.borders(job_id, stage),
        ],
        [
            epoch,
            before,
            after,
            freed_before,
            freed_after,
            *(format_shard_id(item) for item in deleted),
        ],
    )
    return CompactAnswer(reply.decode())


def deregister(
    store: Store,
    *,
    worker: str,
) -> bool:
    """Remove a worker that ends."""
    keys = store.keys
    reply = store.run(
        "deregister",
        [
            keys.workers(),
            keys.workers_seen(),
        ],
        [
            worker,
        ],
    )
    return bool(reply)


class DrainAnswer(StrEnum):
    """What `drain.lua` answers."""

    OK = "ok"
    NO_JOB = "no job"
    REFUSED = "refused"


class DrainReply(NamedTuple):
    """What `drain.lua` replies."""

    answer: DrainAnswer
    state: JobState | None


def drain(
    store: Store,
    *,
    job_id: str,
    stage: int,
) -> DrainReply:
    """Let a job over a stream end after what is planned: no more of the stream is."""
    keys = store.keys
    reply = store.run(
        "drain",
        [
            keys.job(job_id),
            keys.index(),
            keys.stage(job_id, stage),
            keys.job_log(job_id),
        ],
        [
            store.now_ms,
            job_id,
            stage,
            keys.events(),
        ],
    )
    return DrainReply(
        DrainAnswer(reply[0].decode()),
        JobState(reply[1].decode()) if reply[1] else None,
    )


def drop_upload(
    store: Store,
    *,
    upload_id: str,
) -> bool:
    """Forget an upload that no job has taken; the caller then deletes its blobs."""
    keys = store.keys
    reply = store.run(
        "drop_upload",
        [
            keys.uploads(),
        ],
        [
            upload_id,
        ],
    )
    return bool(reply)


class DueReply(NamedTuple):
    """What `due.lua` replies."""

    now: int
    entries: list[str]


class DuePool(NamedTuple):
    """An item of the list that `due.lua` takes."""

    pool: str
    window: int
    operators: str


def due(
    store: Store,
    *,
    limit: int,
    max_turns: int,
    more_of_a_turn: int,
    pools: Sequence[DuePool],
) -> DueReply:
    """What there is to queue in these pools, as far as their windows have room."""
    keys = store.keys
    reply = store.run(
        "due",
        [
            keys.index(),
        ],
        [
            store.now_ms,
            limit,
            max_turns,
            more_of_a_turn,
            *(
                part
                for item in pools
                for part in (
                    item.pool,
                    item.window,
                    item.operators,
                )
            ),
        ],
    )
    return DueReply(
        int(reply[0]),
        [one.decode() for one in reply[1:]],
    )


class EndAttemptAnswer(StrEnum):
    """What `end_attempt.lua` answers."""

    OK = "ok"
    STALE = "stale"


def end_attempt(
    store: Store,
    *,
    attempt: ShardRef,
    delay_ms: int,
    blame: bool,
    stop_with: str | None,
    checkpoint: str | None,
    stalled_by: str | None,
    stalled_ms: int,
    pause_for: str | None,
    used: Parts,
) -> EndAttemptAnswer:
    """End an attempt before its shard is done: the shard waits for another one, or the job stops."""
    keys = store.keys
    reply = store.run(
        "end_attempt",
        [
            keys.job(attempt.job_id),
            keys.index(),
            keys.stage(attempt.job_id, attempt.stage),
            keys.shard(attempt.job_id, attempt.stage, attempt.shard_id),
            keys.leases(),
            keys.waiting(attempt.job_id, attempt.stage),
            keys.cost_tenants(),
            keys.cost_pools(),
            keys.cost_days(),
        ],
        [
            store.now_ms,
            attempt.attempt_key,
            delay_ms,
            int(blame),
            "" if stop_with is None else stop_with,
            "" if checkpoint is None else checkpoint,
            "" if stalled_by is None else stalled_by,
            stalled_ms,
            "" if pause_for is None else pause_for,
            write_parts(used),
            keys.events(),
        ],
    )
    return EndAttemptAnswer(reply.decode())


class ExpireAttemptAnswer(StrEnum):
    """What `expire_attempt.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    ALIVE = "alive"
    STALE = "stale"
    DROPPED = "dropped"


def expire_attempt(
    store: Store,
    *,
    epoch: int,
    attempt: ShardRef,
    delay_ms: int,
    stop_with: str | None,
) -> ExpireAttemptAnswer:
    """Take a shard back from an attempt whose lease ran out, as the recoverer."""
    keys = store.keys
    reply = store.run(
        "expire_attempt",
        [
            keys.job(attempt.job_id),
            keys.index(),
            keys.stage(attempt.job_id, attempt.stage),
            keys.shard(attempt.job_id, attempt.stage, attempt.shard_id),
            keys.leases(),
            keys.waiting(attempt.job_id, attempt.stage),
            keys.leader(),
            keys.cost_tenants(),
            keys.cost_pools(),
            keys.cost_days(),
        ],
        [
            store.now_ms,
            epoch,
            attempt.attempt_key,
            delay_ms,
            "" if stop_with is None else stop_with,
            keys.events(),
        ],
    )
    return ExpireAttemptAnswer(reply.decode())


def expire_uploads(
    store: Store,
    *,
    epoch: int,
    life_ms: int,
    limit: int,
) -> list[str]:
    """Forget the uploads that began too long ago and that no job took; the caller then deletes their blobs."""
    keys = store.keys
    reply = store.run(
        "expire_uploads",
        [
            keys.uploads(),
            keys.leader(),
        ],
        [
            store.now_ms,
            epoch,
            life_ms,
            limit,
        ],
    )
    return [one.decode() for one in reply]


class ExtendAllLeasesAnswer(StrEnum):
    """What `extend_all_leases.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"


class ExtendAllLeasesReply(NamedTuple):
    """What `extend_all_leases.lua` replies."""

    answer: ExtendAllLeasesAnswer
    extended: int


def extend_all_leases(
    store: Store,
    *,
    epoch: int,
    lease_ms: int,
    missed_ms: int,
) -> ExtendAllLeasesReply:
    """Note that the recoverer looks at the leases, and extend them if nobody could for long."""
    keys = store.keys
    reply = store.run(
        "extend_all_leases",
        [
            keys.leases(),
            keys.leases_seen(),
            keys.leader(),
        ],
        [
            store.now_ms,
            epoch,
            lease_ms,
            missed_ms,
        ],
    )
    return ExtendAllLeasesReply(
        ExtendAllLeasesAnswer(reply[0].decode()),
        int(reply[1]),
    )


class FindRowsReply(NamedTuple):
    """What `find_rows.lua` replies."""

    taken: bool
    places: list[bytes | None]


def find_rows(
    store: Store,
    *,
    digests: bytes,
    segment: bytes,
    loose_ms: int,
) -> FindRowsReply:
    """Find where the results of rows are in the row cache, and name a segment for those that are not there."""
    keys = store.keys
    reply = store.run(
        "find_rows",
        [
            keys.cache_index(),
            keys.cache_used(),
            keys.cache_loose(),
            keys.cache_totals(),
        ],
        [
            store.now_ms,
            digests,
            segment,
            loose_ms,
        ],
    )
    return FindRowsReply(
        bool(reply[0]),
        [bytes(one) if one is not None else None for one in reply[1:]],
    )


class FinishAnswer(StrEnum):
    """What `finish.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    BUSY = "busy"


class LiveAttempt(NamedTuple):
    """An item of the list that `finish.lua` takes."""

    pool: str
    attempt: ShardRef


def finish(
    store: Store,
    *,
    epoch: int,
    job_id: str,
    state: JobState,
    stages: Sequence[int],
    live: Sequence[LiveAttempt],
) -> FinishAnswer:
    """End a job whose work is over: nothing of it is planned, queued or running any more."""
    keys = store.keys
    reply = store.run(
        "finish",
        [
            keys.leader(),
            keys.job(job_id),
            keys.index(),
            keys.live_jobs(),
            keys.inline_input(job_id),
            keys.ended_jobs(),
            keys.clock_seen(),
            keys.between_stages(),
            keys.announcements(),
            keys.streams(),
            keys.drained_jobs(),
            *(
                part
                for item in stages
                for part in (
                    keys.stage(job_id, item),
                    keys.ready(job_id, item),
                    keys.waiting(job_id, item),
                    keys.live_shards(job_id, item),
                )
            ),
            *(
                part
                for item in live
                for part in (
                    keys.shard(item.attempt.job_id, item.attempt.stage, item.attempt.shard_id),
                    keys.queued(item.pool),
                )
            ),
        ],
        [
            store.now_ms,
            epoch,
            job_id,
            state,
            keys.events(),
            len(stages),
            *(item.attempt.attempt_key for item in live),
        ],
    )
    return FinishAnswer(reply.decode())


class ForgetAnswer(StrEnum):
    """What `forget.lua` answers."""

    OK = "ok"
    NOT_MARKED = "not marked"


def forget(
    store: Store,
    *,
    idempotency_key: str | None,
    job_id: str,
    others: Sequence[str],
) -> ForgetAnswer:
    """Remove what the ledger has of a job that was marked for deletion."""
    keys = store.keys
    reply = store.run(
        "forget",
        [
            keys.job(job_id),
            keys.jobs(),
            keys.ended_jobs(),
            keys.between_stages(),
            keys.idempotency(idempotency_key) if idempotency_key is not None else keys.absent(),
            *(item for item in others),
        ],
        [
            job_id,
            keys.events(),
        ],
    )
    return ForgetAnswer(reply.decode())


def forget_rows(
    store: Store,
    *,
    everything: bool,
    broken: Sequence[bytes],
) -> int:
    """Forget segments of the row cache: some whose blobs are broken or gone, or all there are."""
    keys = store.keys
    reply = store.run(
        "forget_rows",
        [
            keys.cache_index(),
            keys.cache_segments(),
            keys.cache_used(),
            keys.cache_loose(),
            keys.cache_totals(),
        ],
        [
            int(everything),
            *(item for item in broken),
        ],
    )
    return int(reply)


class FreePartsAnswer(StrEnum):
    """What `free_parts.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    MOVED = "moved"


def free_parts(
    store: Store,
    *,
    stage: int,
    epoch: int,
    job_id: str,
    before: str,
    after: str,
    nbytes: int,
    freed_at: int,
    keep: bool,
    parts: Sequence[ShardId],
) -> FreePartsAnswer:
    """Note how far the parts of a stage are freed, because the next stage has settled them."""
    keys = store.keys
    reply = store.run(
        "free_parts",
        [
            keys.leader(),
            keys.job(job_id),
            keys.index(),
            keys.stage(job_id, stage),
            keys.inline_results(job_id, stage),
            keys.borders(job_id, stage),
            keys.readers(job_id),
        ],
        [
            store.now_ms,
            epoch,
            job_id,
            before,
            after,
            nbytes,
            freed_at,
            int(keep),
            keys.events(),
            *(format_shard_id(item) for item in parts),
        ],
    )
    return FreePartsAnswer(reply.decode())


class HoldResultsAnswer(StrEnum):
    """What `hold_results.lua` answers."""

    OK = "ok"
    GONE = "gone"
    FREED = "freed"


def hold_results(
    store: Store,
    *,
    stage: int,
    job_id: str,
    reader: str,
    freed: str,
) -> HoldResultsAnswer:
    """Keep the results of a stage of an ended job for another job, which reads them and is about to be submitted."""
    keys = store.keys
    reply = store.run(
        "hold_results",
        [
            keys.job(job_id),
            keys.stage(job_id, stage),
            keys.ended_jobs(),
            keys.readers(job_id),
        ],
        [
            store.now_ms,
            job_id,
            reader,
            freed,
        ],
    )
    return HoldResultsAnswer(reply.decode())


def keep_leases(
    store: Store,
    *,
    lease_ms: int,
    worker: str,
    attempts: Sequence[ShardRef],
) -> list[ShardRef]:
    """Keep the leases of attempts whose process lives, as its supervisor sees, even if it cannot renew them."""
    keys = store.keys
    reply = store.run(
        "keep_leases",
        [
            keys.leases(),
            keys.workers_seen(),
            *(keys.shard(item.job_id, item.stage, item.shard_id) for item in attempts),
        ],
        [
            store.now_ms,
            lease_ms,
            worker,
            *(item.attempt_key for item in attempts),
        ],
    )
    return [ShardRef.from_key(one) for one in reply]


class KeepRowsAnswer(StrEnum):
    """What `keep_rows.lua` answers."""

    KEPT = "kept"
    KNOWN = "known"
    NO_ROOM = "no room"
    GONE = "gone"


def keep_rows(
    store: Store,
    *,
    segment: bytes,
    nbytes: int,
    digests: bytes,
    places: bytes,
    max_bytes: int,
    max_rows: int,
    max_forgotten: int,
) -> KeepRowsAnswer:
    """Put a segment whose blob is written into the row cache; those unused for longest make room."""
    keys = store.keys
    reply = store.run(
        "keep_rows",
        [
            keys.cache_index(),
            keys.cache_segments(),
            keys.cache_used(),
            keys.cache_loose(),
            keys.cache_totals(),
        ],
        [
            store.now_ms,
            segment,
            nbytes,
            digests,
            places,
            max_bytes,
            max_rows,
            max_forgotten,
        ],
    )
    return KeepRowsAnswer(reply.decode())


class KeepScaleAnswer(StrEnum):
    """What `keep_scale.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"


class ScaledPool(NamedTuple):
    """An item of the list that `keep_scale.lua` takes."""

    pool: str
    decision: str
    memory: str


def keep_scale(
    store: Store,
    *,
    epoch: int,
    ttl_ms: int,
    pools: Sequence[ScaledPool],
) -> KeepScaleAnswer:
    """Keep how many workers each pool needs, in place of what was kept before."""
    keys = store.keys
    reply = store.run(
        "keep_scale",
        [
            keys.leader(),
            keys.scale(),
            keys.scale_memory(),
        ],
        [
            store.now_ms,
            epoch,
            ttl_ms,
            *(
                part
                for item in pools
                for part in (
                    item.pool,
                    item.decision,
                    item.memory,
                )
            ),
        ],
    )
    return KeepScaleAnswer(reply.decode())


def lead(
    store: Store,
    *,
    name: str,
    lease_ms: int,
) -> int:
    """Take the lead when nobody has it, or keep it."""
    keys = store.keys
    reply = store.run(
        "lead",
        [
            keys.leader(),
            keys.leader_epoch(),
        ],
        [
            name,
            lease_ms,
        ],
    )
    return int(reply)


class MarkForDeletionAnswer(StrEnum):
    """What `mark_for_deletion.lua` answers."""

    OK = "ok"
    NO_JOB = "no job"
    NOT_ENDED = "not ended"
    READ = "read"


class MarkForDeletionReply(NamedTuple):
    """What `mark_for_deletion.lua` replies."""

    answer: MarkForDeletionAnswer
    state: JobState | None


def mark_for_deletion(
    store: Store,
    *,
    job_id: str,
) -> MarkForDeletionReply:
    """Mark an ended job for deletion: whoever deletes its blobs may be cut short, and the janitor continues."""
    keys = store.keys
    reply = store.run(
        "mark_for_deletion",
        [
            keys.job(job_id),
            keys.ended_jobs(),
            keys.readers(job_id),
        ],
        [
            job_id,
        ],
    )
    return MarkForDeletionReply(
        MarkForDeletionAnswer(reply[0].decode()),
        JobState(reply[1].decode()) if reply[1] else None,
    )


class LogField(NamedTuple):
    """An item of the list that `note.lua` takes."""

    field: str
    value: str


def note(
    store: Store,
    *,
    job_id: str,
    entry: Sequence[LogField],
) -> int:
    """Keep an entry in a job's log, if the job is still there; the oldest one makes room."""
    keys = store.keys
    reply = store.run(
        "note",
        [
            keys.job(job_id),
            keys.job_log(job_id),
        ],
        [
            *(
                part
                for item in entry
                for part in (
                    item.field,
                    item.value,
                )
            ),
        ],
    )
    return int(reply)


class NoteFileAnswer(StrEnum):
    """What `note_file.lua` answers."""

    OK = "ok"
    NO_JOB = "no job"


def note_file(
    store: Store,
    *,
    job_id: str,
    name: str,
    number: int,
    never_planned: Sequence[str],
) -> NoteFileAnswer:
    """Note the number of a file of a watched folder, before it is planned, in the place of files that never were."""
    keys = store.keys
    reply = store.run(
        "note_file",
        [
            keys.job(job_id),
            keys.stream_files(job_id),
        ],
        [
            name,
            number,
            *(item for item in never_planned),
        ],
    )
    return NoteFileAnswer(reply.decode())


class NoteStreamAnswer(StrEnum):
    """What `note_stream.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    OVER = "over"


def note_stream(
    store: Store,
    *,
    stage: int,
    epoch: int,
    job_id: str,
    lag: int | None,
    away: str | None,
) -> NoteStreamAnswer:
    """Note the lag of the stream that a job reads."""
    keys = store.keys
    reply = store.run(
        "note_stream",
        [
            keys.leader(),
            keys.job(job_id),
            keys.index(),
            keys.stage(job_id, stage),
        ],
        [
            store.now_ms,
            epoch,
            job_id,
            "" if lag is None else lag,
            "" if away is None else away,
            keys.events(),
        ],
    )
    return NoteStreamAnswer(reply.decode())


class PauseAnswer(StrEnum):
    """What `pause.lua` answers."""

    OK = "ok"
    NO_JOB = "no job"
    REFUSED = "refused"


class PauseReply(NamedTuple):
    """What `pause.lua` replies."""

    answer: PauseAnswer
    state: JobState | None


def pause(
    store: Store,
    *,
    job_id: str,
) -> PauseReply:
    """Pause a job: nothing more of it is planned, queued or claimed, and its running attempts release their leases."""
    keys = store.keys
    reply = store.run(
        "pause",
        [
            keys.job(job_id),
            keys.index(),
            keys.job_log(job_id),
        ],
        [
            store.now_ms,
            job_id,
            keys.events(),
        ],
    )
    return PauseReply(
        PauseAnswer(reply[0].decode()),
        JobState(reply[1].decode()) if reply[1] else None,
    )


class PlanAnswer(StrEnum):
    """What `plan.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    MOVED = "moved"
    OVER = "over"


class PlannedShard(NamedTuple):
    """An item of the list that `plan.lua` takes."""

    shard_id: ShardId
    rows: int
    nbytes: int
    plan: str


def plan(
    store: Store,
    *,
    epoch: int,
    job_id: str,
    stage: int,
    cursor: str,
    next_cursor: str,
    at_end: bool,
    rows_total: int | None,
    rows_exact: bool,
    was_counted: bool,
    shards: Sequence[PlannedShard],
) -> PlanAnswer:
    """Write the next shards of a stage and move its cursor, if the cursor is still where the planner read it."""
    keys = store.keys
    reply = store.run(
        "plan",
        [
            keys.leader(),
            keys.job(job_id),
            keys.index(),
            keys.stage(job_id, stage),
            keys.ready(job_id, stage),
            keys.live_shards(job_id, stage),
            *(keys.shard(job_id, stage, item.shard_id) for item in shards),
        ],
        [
            store.now_ms,
            epoch,
            job_id,
            stage,
            cursor,
            next_cursor,
            int(at_end),
            "" if rows_total is None else rows_total,
            int(rows_exact),
            int(was_counted),
            keys.events(),
            *(
                part
                for item in shards
                for part in (
                    format_shard_id(item.shard_id),
                    item.rows,
                    item.nbytes,
                    item.plan,
                )
            ),
        ],
    )
    return PlanAnswer(reply.decode())


class PreemptAnswer(StrEnum):
    """What `preempt.lua` answers."""

    OK = "ok"
    REFUSED = "refused"


def preempt(
    store: Store,
    *,
    epoch: int,
    attempt: ShardRef,
    most: int,
) -> PreemptAnswer:
    """Ask an attempt to end at its next batch, since a job of far higher priority waits for a slot."""
    keys = store.keys
    reply = store.run(
        "preempt",
        [
            keys.leader(),
            keys.stage(attempt.job_id, attempt.stage),
            keys.shard(attempt.job_id, attempt.stage, attempt.shard_id),
            keys.leases(),
        ],
        [
            store.now_ms,
            epoch,
            attempt.attempt_key,
            most,
        ],
    )
    return PreemptAnswer(reply.decode())


def profile(
    store: Store,
    *,
    name: str,
    profile: str,
    max_profiles: int,
) -> int:
    """Keep what a worker has learned about the batches of an operator."""
    keys = store.keys
    reply = store.run(
        "profile",
        [
            keys.profiles(),
            keys.profiles_used(),
        ],
        [
            store.now_ms,
            name,
            profile,
            max_profiles,
        ],
    )
    return int(reply)


class PushAnswer(StrEnum):
    """What `push.lua` answers."""

    OK = "ok"
    KNOWN = "known"
    FULL = "full"
    TOO_MANY = "too many"


class PushReply(NamedTuple):
    """What `push.lua` replies."""

    answer: PushAnswer
    offset: str
    held: int


def push(
    store: Store,
    *,
    call: str,
    tenant: str,
    name: str,
    rows: int,
    nbytes: int,
    data: bytes | None,
    blob: str | None,
    producer: str | None,
    sequence: int,
    max_streams: int,
    max_bytes: int,
) -> PushReply:
    """Add rows that were sent to a stream."""
    keys = store.keys
    reply = store.run(
        "push",
        [
            keys.pushed(tenant, name),
            keys.pushed_state(tenant, name),
            keys.producers(tenant, name),
            keys.producers_used(tenant, name),
            keys.push_call(tenant, name, call),
            keys.tenant_streams(tenant),
            keys.pushed_streams(),
        ],
        [
            store.now_ms,
            tenant,
            name,
            rows,
            nbytes,
            "" if data is None else data,
            "" if blob is None else blob,
            "" if producer is None else producer,
            sequence,
            max_streams,
            max_bytes,
        ],
    )
    return PushReply(
        PushAnswer(reply[0].decode()),
        reply[1].decode(),
        int(reply[2]),
    )


class PushCallAnswer(StrEnum):
    """What `push_call.lua` answers."""

    OK = "ok"
    FULL = "full"


class PushCallReply(NamedTuple):
    """What `push_call.lua` replies."""

    answer: PushCallAnswer
    waiting: int


def push_call(
    store: Store,
    *,
    pool: str,
    model: str,
    message: bytes,
    max_waiting: int,
    ttl_ms: int,
) -> PushCallReply:
    """Let an interactive request wait for a worker that has its model loaded, unless too many do."""
    keys = store.keys
    reply = store.run(
        "push_call",
        [
            keys.lane(pool, model),
        ],
        [
            message,
            max_waiting,
            ttl_ms,
        ],
    )
    return PushCallReply(
        PushCallAnswer(reply[0].decode()),
        int(reply[1]),
    )


def queue(
    store: Store,
    *,
    pool: str,
    epoch: int,
    job_id: str,
    stage: int,
    shard_id: ShardId,
) -> int:
    """Give a planned or waiting shard its next token and count it as queued; the caller then publishes its message."""
    keys = store.keys
    reply = store.run(
        "queue",
        [
            keys.leader(),
            keys.job(job_id),
            keys.index(),
            keys.stage(job_id, stage),
            keys.shard(job_id, stage, shard_id),
            keys.ready(job_id, stage),
            keys.waiting(job_id, stage),
            keys.queued(pool),
        ],
        [
            store.now_ms,
            epoch,
            job_id,
            stage,
            format_shard_id(shard_id),
        ],
    )
    return int(reply)


class RecountAnswer(StrEnum):
    """What `recount.lua` answers."""

    OK = "ok"


def recount(
    store: Store,
    *,
    generation: str,
) -> RecountAnswer:
    """Begin to count all work anew: the sums are empty, and what jobs are counted for is no longer valid."""
    keys = store.keys
    reply = store.run(
        "recount",
        [
            keys.index(),
        ],
        [
            generation,
        ],
    )
    return RecountAnswer(reply.decode())


def reindex(
    store: Store,
    *,
    jobs: Sequence[str],
) -> int:
    """Give jobs the index entries that they are due: a retry became due, or a new leader makes sure of them."""
    keys = store.keys
    reply = store.run(
        "reindex",
        [
            keys.index(),
            *(keys.job(item) for item in jobs),
        ],
        [
            store.now_ms,
            *(item for item in jobs),
        ],
    )
    return int(reply)


class Release(NamedTuple):
    """An item of the list that `release_leases_of_worker.lua` takes."""

    attempt: ShardRef
    blamed: bool


def release_leases_of_worker(
    store: Store,
    *,
    worker: str,
    attempts: Sequence[Release],
) -> list[ShardRef]:
    """Take back the attempts of a worker process that is dead, as its supervisor found."""
    keys = store.keys
    reply = store.run(
        "release_leases_of_worker",
        [
            keys.leases(),
            keys.index(),
            keys.cost_tenants(),
            keys.cost_pools(),
            keys.cost_days(),
            *(
                part
                for item in attempts
                for part in (
                    keys.job(item.attempt.job_id),
                    keys.stage(item.attempt.job_id, item.attempt.stage),
                    keys.shard(item.attempt.job_id, item.attempt.stage, item.attempt.shard_id),
                    keys.waiting(item.attempt.job_id, item.attempt.stage),
                )
            ),
        ],
        [
            store.now_ms,
            worker,
            keys.events(),
            *(
                part
                for item in attempts
                for part in (
                    item.attempt.attempt_key,
                    int(item.blamed),
                )
            ),
        ],
    )
    return [ShardRef.from_key(one) for one in reply]


def remove_document(
    store: Store,
    *,
    kind: str,
    document_id: str,
    tenant: str,
) -> bool:
    """Forget a document; the caller then deletes its blobs."""
    keys = store.keys
    reply = store.run(
        "remove_document",
        [
            keys.document(kind, document_id),
            keys.tenant_documents(kind, tenant),
            keys.due_documents(kind),
            keys.document_bytes(kind),
        ],
        [
            document_id,
            tenant,
        ],
    )
    return bool(reply)


class RenewAnswer(StrEnum):
    """What `renew.lua` answers."""

    OK = "ok"
    LOST = "lost"
    PAUSED = "paused"
    STOPPED = "stopped"
    PREEMPTED = "preempted"


class Renewal(NamedTuple):
    """An item of the list that `renew.lua` takes."""

    attempt: ShardRef
    used_us: int


def renew(
    store: Store,
    *,
    lease_ms: int,
    attempts: Sequence[Renewal],
) -> list[RenewAnswer]:
    """Renew every lease a process holds in one call, and note what its attempts have used so far."""
    keys = store.keys
    reply = store.run(
        "renew",
        [
            keys.leases(),
            *(
                part
                for item in attempts
                for part in (
                    keys.job(item.attempt.job_id),
                    keys.shard(item.attempt.job_id, item.attempt.stage, item.attempt.shard_id),
                )
            ),
        ],
        [
            store.now_ms,
            lease_ms,
            *(
                part
                for item in attempts
                for part in (
                    item.attempt.attempt_key,
                    item.used_us,
                )
            ),
        ],
    )
    return [RenewAnswer(one.decode()) for one in reply]


class ReplacePartAnswer(StrEnum):
    """What `replace_part.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    STALE = "stale"


class DeadRowsChange(NamedTuple):
    """An item of the list that `replace_part.lua` takes."""

    error_type: str
    more_rows: int


def replace_part(
    store: Store,
    *,
    stage: int,
    epoch: int,
    job_id: str,
    shard_id: ShardId,
    before: str,
    after: str,
    more_rows: int,
    fewer_dead: int,
    dead_by_type: Sequence[DeadRowsChange],
) -> ReplacePartAnswer:
    """Put the results of a replay into the place of a settled shard's, if the shard is still as it was read."""
    keys = store.keys
    reply = store.run(
        "replace_part",
        [
            keys.leader(),
            keys.job(job_id),
            keys.stage(job_id, stage),
            keys.done(job_id, stage),
            keys.inline_results(job_id, stage),
            keys.dead_counts(job_id),
        ],
        [
            epoch,
            job_id,
            format_shard_id(shard_id),
            before,
            after,
            more_rows,
            fewer_dead,
            keys.events(),
            *(
                part
                for item in dead_by_type
                for part in (
                    item.error_type,
                    item.more_rows,
                )
            ),
        ],
    )
    return ReplacePartAnswer(reply.decode())


def resign(
    store: Store,
    *,
    name: str,
) -> bool:
    """Give the lead back, if it is ours, so that a standby need not wait for the lease to end."""
    keys = store.keys
    reply = store.run(
        "resign",
        [
            keys.leader(),
        ],
        [
            name,
        ],
    )
    return bool(reply)


class RestartPacesAnswer(StrEnum):
    """What `restart_paces.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"


class PacedStage(NamedTuple):
    """An item of the list that `restart_paces.lua` takes."""

    job_id: str
    stage: int


def restart_paces(
    store: Store,
    *,
    epoch: int,
    stages: Sequence[PacedStage],
) -> RestartPacesAnswer:
    """Measure the pace of stages anew, from their next commits: the service was away."""
    keys = store.keys
    reply = store.run(
        "restart_paces",
        [
            keys.leader(),
            *(keys.stage(item.job_id, item.stage) for item in stages),
        ],
        [
            epoch,
        ],
    )
    return RestartPacesAnswer(reply.decode())


class ResumeAnswer(StrEnum):
    """What `resume.lua` answers."""

    OK = "ok"
    NO_JOB = "no job"
    REFUSED = "refused"
    SPENT = "spent"


class ResumeReply(NamedTuple):
    """What `resume.lua` replies."""

    answer: ResumeAnswer
    state: JobState | None


def resume(
    store: Store,
    *,
    job_id: str,
    budget_nano: int | None,
    any_version: bool,
    stages: Sequence[int],
) -> ResumeReply:
    """Resume a paused job where it was."""
    keys = store.keys
    reply = store.run(
        "resume",
        [
            keys.job(job_id),
            keys.index(),
            keys.job_log(job_id),
            *(keys.stage(job_id, item) for item in stages),
        ],
        [
            store.now_ms,
            job_id,
            "" if budget_nano is None else budget_nano,
            int(any_version),
            keys.events(),
        ],
    )
    return ResumeReply(
        ResumeAnswer(reply[0].decode()),
        JobState(reply[1].decode()) if reply[1] else None,
    )


class ResumeFromAnswer(StrEnum):
    """What `resume_from.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    MOVED = "moved"
    OVER = "over"


class ResumedStage(NamedTuple):
    """An item of the list that `resume_from.lua` takes."""

    stage: int
    settled: str
    borders: str
    cursor: str
    at_end: bool
    rows_planned: int
    shards_planned: int
    shards_done: int
    rows_done: int
    rows_dead: int
    rows_filtered: int
    rows_out: int
    bytes_out: int
    bytes_freed: int
    freed: str


class UnfinishedShard(NamedTuple):
    """An item of the list that `resume_from.lua` takes."""

    stage: int
    shard_id: ShardId
    token: int
    rows: int
    plan: str


def resume_from(
    store: Store,
    *,
    epoch: int,
    job_id: str,
    dead_by_type: str,
    incomplete: str,
    stages: Sequence[ResumedStage],
    shards: Sequence[UnfinishedShard],
) -> ResumeFromAnswer:
    """Give a job what an earlier one left in its output folder."""
    keys = store.keys
    reply = store.run(
        "resume_from",
        [
            keys.leader(),
            keys.job(job_id),
            keys.index(),
            keys.dead_counts(job_id),
            keys.incomplete(job_id),
            *(
                part
                for item in stages
                for part in (
                    keys.stage(job_id, item.stage),
                    keys.done(job_id, item.stage),
                    keys.borders(job_id, item.stage),
                )
            ),
            *(
                part
                for item in shards
                for part in (
                    keys.stage(job_id, item.stage),
                    keys.shard(job_id, item.stage, item.shard_id),
                    keys.live_shards(job_id, item.stage),
                    keys.waiting(job_id, item.stage),
                )
            ),
        ],
        [
            store.now_ms,
            epoch,
            job_id,
            dead_by_type,
            incomplete,
            keys.events(),
            len(stages),
            *(
                part
                for item in stages
                for part in (
                    item.settled,
                    item.borders,
                    item.cursor,
                    int(item.at_end),
                    item.rows_planned,
                    item.shards_planned,
                    item.shards_done,
                    item.rows_done,
                    item.rows_dead,
                    item.rows_filtered,
                    item.rows_out,
                    item.bytes_out,
                    item.bytes_freed,
                    item.freed,
                )
            ),
            *(
                part
                for item in shards
                for part in (
                    format_shard_id(item.shard_id),
                    item.token,
                    item.rows,
                    item.plan,
                )
            ),
        ],
    )
    return ResumeFromAnswer(reply.decode())


class RollAnswer(StrEnum):
    """What `roll.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    MOVED = "moved"


def roll(
    store: Store,
    *,
    job_id: str,
    stage: int,
    epoch: int,
    before: str,
    after: str,
) -> RollAnswer:
    """Note how far the results of a stage are in the files of the job's output, if that is as it was read."""
    keys = store.keys
    reply = store.run(
        "roll",
        [
            keys.leader(),
            keys.job(job_id),
            keys.stage(job_id, stage),
        ],
        [
            epoch,
            before,
            after,
        ],
    )
    return RollAnswer(reply.decode())


class SaveCheckpointAnswer(StrEnum):
    """What `save_checkpoint.lua` answers."""

    OK = "ok"
    STALE = "stale"


def save_checkpoint(
    store: Store,
    *,
    attempt: ShardRef,
    checkpoint: str,
) -> SaveCheckpointAnswer:
    """Name the blob with what a running attempt has done so far, for the next attempt if this one is lost."""
    keys = store.keys
    reply = store.run(
        "save_checkpoint",
        [
            keys.job(attempt.job_id),
            keys.shard(attempt.job_id, attempt.stage, attempt.shard_id),
        ],
        [
            attempt.attempt_key,
            checkpoint,
        ],
    )
    return SaveCheckpointAnswer(reply.decode())


def speculate(
    store: Store,
    *,
    pool: str,
    epoch: int,
    attempt: ShardRef,
) -> int:
    """Queue a shard again while its attempt runs on, which takes far longer than expected: it becomes a straggler."""
    keys = store.keys
    reply = store.run(
        "speculate",
        [
            keys.leader(),
            keys.job(attempt.job_id),
            keys.index(),
            keys.stage(attempt.job_id, attempt.stage),
            keys.shard(attempt.job_id, attempt.stage, attempt.shard_id),
            keys.leases(),
            keys.queued(pool),
        ],
        [
            store.now_ms,
            epoch,
            attempt.attempt_key,
        ],
    )
    return int(reply)


class SplitAnswer(StrEnum):
    """What `split.lua` answers."""

    OK = "ok"
    DEPOSED = "deposed"
    ALIVE = "alive"
    STALE = "stale"
    DROPPED = "dropped"


class Half(NamedTuple):
    """An item of the list that `split.lua` takes."""

    shard_id: ShardId
    rows: int
    plan: str
    losses: int
    checkpoint: str


def split(
    store: Store,
    *,
    epoch: int,
    attempt: ShardRef,
    halves: Sequence[Half],
) -> SplitAnswer:
    """Replace a shard that was lost too often by its two halves, as the recoverer."""
    keys = store.keys
    reply = store.run(
        "split",
        [
            keys.job(attempt.job_id),
            keys.index(),
            keys.stage(attempt.job_id, attempt.stage),
            keys.shard(attempt.job_id, attempt.stage, attempt.shard_id),
            keys.leases(),
            keys.waiting(attempt.job_id, attempt.stage),
            keys.leader(),
            keys.done(attempt.job_id, attempt.stage),
            keys.live_shards(attempt.job_id, attempt.stage),
            keys.cost_tenants(),
            keys.cost_pools(),
            keys.cost_days(),
            *(keys.shard(attempt.job_id, attempt.stage, item.shard_id) for item in halves),
        ],
        [
            store.now_ms,
            epoch,
            attempt.attempt_key,
            keys.events(),
            *(
                part
                for item in halves
                for part in (
                    format_shard_id(item.shard_id),
                    item.rows,
                    item.plan,
                    item.losses,
                    item.checkpoint,
                )
            ),
        ],
    )
    return SplitAnswer(reply.decode())


class StopAnswer(StrEnum):
    """What `stop.lua` answers."""

    OK = "ok"
    NO_JOB = "no job"


class StopReply(NamedTuple):
    """What `stop.lua` replies."""

    answer: StopAnswer
    state: JobState | None


def stop(
    store: Store,
    *,
    job_id: str,
    state: JobState,
    error: str | None,
) -> StopReply:
    """Ask a job to stop: its workers release their leases at their next batch, then the finisher ends it."""
    keys = store.keys
    reply = store.run(
        "stop",
        [
            keys.job(job_id),
            keys.index(),
        ],
        [
            store.now_ms,
            job_id,
            state,
            "" if error is None else error,
            keys.events(),
        ],
    )
    return StopReply(
        StopAnswer(reply[0].decode()),
        JobState(reply[1].decode()) if reply[1] else None,
    )


class SubmitAnswer(StrEnum):
    """What `submit.lua` answers."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    CONFLICT = "conflict"
    FULL = "full"
    TENANT_FULL = "tenant full"
    NO_UPLOAD = "no upload"
    OTHER_SCHEMA = "other schema"


class SubmitReply(NamedTuple):
    """What `submit.lua` replies."""

    answer: SubmitAnswer
    known_id: str
    token: int


class NewStage(NamedTuple):
    """An item of the list that `submit.lua` takes."""

    stage: int
    pool: str
    operator_version: str
    worked_for: str
    turn: str
    rows_total: int | None
    buffer_bytes: int | None
    joins: bool
    shard_id: ShardId
    plan: str | None
    nbytes: int | None
    cursor: str | None
    queue_below: int | None


def submit(
    store: Store,
    *,
    schema: int,
    job_id: str,
    spec: str,
    digest: str,
    idempotency_key: str | None,
    inline_rows: bytes | None,
    upload: str | None,
    max_live_jobs: int,
    max_tenant_jobs: int | None,
    replay_of: str | None,
    resumed_from: str | None,
    tenant: str,
    budget_nano: int | None,
    priority: int,
    deadline_ms: int | None,
    ends_at_commit: bool,
    reads_stream: bool,
    any_version: bool,
    announces: str | None,
    stages: Sequence[NewStage],
) -> SubmitReply:
    """Accept a job, or find the one that was accepted under the same idempotency key."""
    keys = store.keys
    reply = store.run(
        "submit",
        [
            keys.job(job_id),
            keys.index(),
            keys.jobs(),
            keys.live_jobs(),
            keys.idempotency(idempotency_key) if idempotency_key is not None else keys.absent(),
            keys.inline_input(job_id),
            keys.uploads(),
            keys.tenant_jobs(tenant),
            keys.tenant_live_jobs(tenant),
            keys.streams(),
            keys.schema(),
            *(
                part
                for item in stages
                for part in (
                    keys.stage(job_id, item.stage),
                    keys.shard(job_id, item.stage, item.shard_id),
                    keys.ready(job_id, item.stage),
                    keys.live_shards(job_id, item.stage),
                    keys.queued(item.pool),
                )
            ),
        ],
        [
            store.now_ms,
            schema,
            job_id,
            spec,
            digest,
            "" if idempotency_key is None else idempotency_key,
            "" if inline_rows is None else inline_rows,
            "" if upload is None else upload,
            max_live_jobs,
            "" if max_tenant_jobs is None else max_tenant_jobs,
            "" if replay_of is None else replay_of,
            "" if resumed_from is None else resumed_from,
            tenant,
            "" if budget_nano is None else budget_nano,
            priority,
            "" if deadline_ms is None else deadline_ms,
            int(ends_at_commit),
            int(reads_stream),
            int(any_version),
            "" if announces is None else announces,
            keys.events(),
            *(
                part
                for item in stages
                for part in (
                    item.operator_version,
                    item.worked_for,
                    item.turn,
                    "" if item.rows_total is None else item.rows_total,
                    "" if item.buffer_bytes is None else item.buffer_bytes,
                    int(item.joins),
                    format_shard_id(item.shard_id),
                    "" if item.plan is None else item.plan,
                    "" if item.nbytes is None else item.nbytes,
                    "" if item.cursor is None else item.cursor,
                    "" if item.queue_below is None else item.queue_below,
                )
            ),
        ],
    )
    return SubmitReply(
        SubmitAnswer(reply[0].decode()),
        reply[1].decode(),
        int(reply[2]),
    )


class TakeCallAnswer(StrEnum):
    """What `take_call.lua` answers."""

    OK = "ok"
    NONE = "none"


class TakeCallReply(NamedTuple):
    """What `take_call.lua` replies."""

    answer: TakeCallAnswer
    message: bytes


def take_call(
    store: Store,
    *,
    pool: str,
    model: str,
    barred: str,
) -> TakeCallReply:
    """Take the oldest interactive request for a model that is not of certain tenants."""
    keys = store.keys
    reply = store.run(
        "take_call",
        [
            keys.lane(pool, model),
        ],
        [
            barred,
        ],
    )
    return TakeCallReply(
        TakeCallAnswer(reply[0].decode()),
        bytes(reply[1]),
    )


def take_request(
    store: Store,
    *,
    endpoint: str,
    requests: int,
    tokens: int,
    taken: int,
    returned: int,
    hold_ms: int,
) -> int:
    """Ask whether a worker may send a request to a service whose limits all workers share, and take its share if so."""
    keys = store.keys
    reply = store.run(
        "take_request",
        [
            keys.endpoint(endpoint),
        ],
        [
            store.now_ms,
            requests,
            tokens,
            taken,
            returned,
            hold_ms,
        ],
    )
    return int(reply)


def trend(
    store: Store,
    *,
    name: str,
    job: str,
    units: float,
    useful_us: int,
    padding_us: int,
    idle_us: int,
    facts: str,
    max_points: int,
    max_trends: int,
) -> int:
    """Add what a worker took for rows of a job to the history of an operator on a type of device, one point a job."""
    keys = store.keys
    reply = store.run(
        "trend",
        [
            keys.trends(),
            keys.trends_used(),
        ],
        [
            store.now_ms,
            name,
            job,
            units,
            useful_us,
            padding_us,
            idle_us,
            facts,
            max_points,
            max_trends,
        ],
    )
    return int(reply)


def trial(
    store: Store,
    *,
    name: str,
    trial_id: str,
    trial: str,
    max_trials: int,
    max_names: int,
) -> int:
    """Keep a trial of a setting in the journal of an operator, in place of the one of that id."""
    keys = store.keys
    reply = store.run(
        "trial",
        [
            keys.trials(),
            keys.trials_used(),
        ],
        [
            store.now_ms,
            name,
            trial_id,
            trial,
            max_trials,
            max_names,
        ],
    )
    return int(reply)


class PushedEntry(NamedTuple):
    """An item of the list that `trim_pushed.lua` takes."""

    offset: str
    nbytes: int


def trim_pushed(
    store: Store,
    *,
    tenant: str,
    name: str,
    entries: Sequence[PushedEntry],
) -> int:
    """Delete the oldest rows of a stream that were sent to it."""
    keys = store.keys
    reply = store.run(
        "trim_pushed",
        [
            keys.pushed(tenant, name),
            keys.pushed_state(tenant, name),
            keys.tenant_streams(tenant),
        ],
        [
            name,
            *(
                part
                for item in entries
                for part in (
                    item.offset,
                    item.nbytes,
                )
            ),
        ],
    )
    return int(reply)


def unqueue_orphaned(
    store: Store,
    *,
    pool: str,
    epoch: int,
    attempts: Sequence[ShardRef],
) -> int:
    """Take back queued attempts whose messages were taken out of their queue."""
    keys = store.keys
    reply = store.run(
        "unqueue_orphaned",
        [
            keys.leader(),
            keys.queued(pool),
            keys.index(),
            *(
                part
                for item in attempts
                for part in (
                    keys.job(item.job_id),
                    keys.stage(item.job_id, item.stage),
                    keys.shard(item.job_id, item.stage, item.shard_id),
                    keys.waiting(item.job_id, item.stage),
                )
            ),
        ],
        [
            store.now_ms,
            epoch,
            *(item.attempt_key for item in attempts),
        ],
    )
    return int(reply)


def unqueue_paused(
    store: Store,
    *,
    stage: int,
    pool: str,
    epoch: int,
    job_id: str,
    live: Sequence[ShardRef],
) -> int:
    """Take the queued shards of a stage of a paused job back."""
    keys = store.keys
    reply = store.run(
        "unqueue_paused",
        [
            keys.leader(),
            keys.job(job_id),
            keys.index(),
            keys.stage(job_id, stage),
            keys.waiting(job_id, stage),
            keys.queued(pool),
            *(keys.shard(item.job_id, item.stage, item.shard_id) for item in live),
        ],
        [
            store.now_ms,
            epoch,
            job_id,
            *(item.attempt_key for item in live),
        ],
    )
    return int(reply)
