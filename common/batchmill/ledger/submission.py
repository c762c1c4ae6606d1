"""A job ready to be accepted, in the form that the ledger takes it, and what the ledger says to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, assert_never

from batchmill.errors import Conflict, InvalidSource, Overloaded, ServiceUnavailable
from batchmill.jobs.cost import write_pool_operator
from batchmill.jobs.files import UploadSource
from batchmill.jobs.job import DEFAULT_TENANT
from batchmill.jobs.shard import ShardId
from batchmill.jobs.stages import FIRST_STAGE, last_stage
from batchmill.ledger.formats.schema import other_schema
from batchmill.ledger.scripting import calls

if TYPE_CHECKING:
    from batchmill.jobs.job import JobSpec
    from batchmill.jobs.shard import Shard, ShardRef


@dataclass(frozen=True, slots=True)
class OneShardPlan:
    """The plan of a stage whose input is one shard."""

    shard: Shard
    nbytes: int
    cursor: str  # at the input's end


@dataclass(frozen=True, slots=True)
class FirstPlace:
    """Where the only shard of a job goes if no other one of its pool waits, and a worker with its model is free."""

    queue: str
    below: int  # then fewer shards of the pool than this are in flight


class QueuedShard(NamedTuple):
    """An attempt that is queued; its message is still to be published."""

    ref: ShardRef
    queue: str


class Acceptance(NamedTuple):
    """What became of a submission."""

    job_id: str
    is_new: bool  # False: known under its idempotency key
    queued: QueuedShard | None = None  # its only shard, if that was queued at once


@dataclass(frozen=True, slots=True)
class Submission:
    """A job ready to be accepted: validated, its rows stored."""

    job_id: str
    spec: JobSpec
    digest: str  # of the request, to compare repeats under one idempotency key
    idempotency_key: str | None = None
    inline_rows: bytes = b""
    rows_total: int | None = None  # of its source, when that is known exactly
    replay_of: str | None = None
    resumed_from: str | None = None
    operator_versions: tuple[str, ...] = ()  # of each stage, as far as they are known
    tenant: str = DEFAULT_TENANT
    plan: OneShardPlan | None = None  # of its first stage, when all of its input fits into one shard
    place: FirstPlace | None = None  # of that shard; None: the dispatcher chooses one
    announces: str | None = None  # what its webhooks report: "ends", and numbers of failed rows; None: it has none


def new_stages(submission: Submission) -> list[calls.NewStage]:
    """The stages of a job as the ledger takes them, the first with its plan."""
    versions, spec = submission.operator_versions, submission.spec
    plans = {FIRST_STAGE: submission.plan} if submission.plan else {}
    place = submission.place
    return [
        calls.NewStage(
            stage=number,
            pool=stage.pool,
            operator_version=versions[number] if number < len(versions) and not spec.any_version else "",
            worked_for=write_pool_operator(stage.pool, stage.operator),
            turn=_turn(submission, number),
            rows_total=submission.rows_total if number == FIRST_STAGE else None,
            buffer_bytes=None if number == last_stage(spec) else stage.buffer_bytes,
            joins=stage.joins,
            shard_id=ShardId((0,)),
            plan=plan.shard.plan() if plan else None,
            nbytes=plan.nbytes if plan else None,
            cursor=plan.cursor if plan else None,
            queue_below=place.below if plan and place else None,
        )
        for number, stage in enumerate(spec.stages)
        for plan in [plans.get(number)]
    ]


def ends_at_commit(submission: Submission) -> bool:
    """Whether nothing is left to be closed or deleted when all shards of the job are settled."""
    spec = submission.spec
    is_closed_by_itself = spec.output is None and submission.replay_of is None
    stores_nothing_between = all(stage.joins for stage in spec.stages[1:])
    return is_closed_by_itself and submission.plan is not None and stores_nothing_between


def _turn(submission: Submission, number: int) -> str:
    """What stages that take turns together have in common: their operator, by name, and a digest of all else."""
    stage = submission.spec.stages[number]
    rest = json.dumps([submission.tenant, submission.operator_versions[number:], stage.params], sort_keys=True)
    return f"{stage.operator} {hashlib.blake2b(rest.encode(), digest_size=6).hexdigest()}"


def upload_of(submission: Submission) -> str | None:
    """The upload that a job takes, if any."""
    source = submission.spec.source
    return source.upload if isinstance(source, UploadSource) else None


def accepted(reply: calls.SubmitReply, submission: Submission, *, is_new: bool) -> Acceptance:
    """What the ledger replied to a job that it knows by now."""
    plan, place = submission.plan, submission.place
    if not (is_new and reply.token and plan and place):
        return Acceptance(reply.known_id, is_new)
    return Acceptance(reply.known_id, is_new, QueuedShard(replace(plan.shard, token=reply.token).ref, place.queue))


def is_new(reply: calls.SubmitReply, submission: Submission, max_live_jobs: int, max_tenant_jobs: int | None) -> bool:
    """Whether a job was accepted now. Raises the error of a refusal."""
    match reply.answer:
        case calls.SubmitAnswer.ACCEPTED:
            return True
        case calls.SubmitAnswer.KNOWN:
            return False
        case calls.SubmitAnswer.OTHER_SCHEMA:
            other = other_schema(int(reply.known_id))
            raise ServiceUnavailable(other.message, hint=other.hint, **other.details)
        case calls.SubmitAnswer.CONFLICT:
            raise Conflict(
                f"the idempotency key was used for job {reply.known_id}, whose request differs from this one.",
                hint="Use a new key for a new request.",
                job=reply.known_id,
            )
        case calls.SubmitAnswer.TENANT_FULL:
            raise Overloaded(
                f"the tenant {submission.tenant!r} has {max_tenant_jobs:,} live jobs, the most that one may have.",
                hint="Wait for some to end, cancel some, or raise BATCHMILL_MAX_LIVE_JOBS_PER_TENANT.",
                limit=max_tenant_jobs,
            )
        case calls.SubmitAnswer.NO_UPLOAD:
            upload = upload_of(submission)
            raise InvalidSource(
                f"there is no open upload {upload!r}: it was never begun, has expired, or belongs to a job already.",
                hint="Upload the rows again.",
                upload=upload,
            )
        case calls.SubmitAnswer.FULL:
            raise ServiceUnavailable(
                f"{max_live_jobs} jobs are alive already, the most this service takes.",
                hint="Wait for some to end, cancel some, or raise BATCHMILL_MAX_LIVE_JOBS.",
            )
        case never:
            assert_never(never)
