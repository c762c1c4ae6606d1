"""What follows an attempt: one pure function, for attempts that ended and for those that were lost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from batchmill.backoff import Backoff
from batchmill.jobs.dead_letters import WORKER_LOST
from batchmill.jobs.job import JobError

if TYPE_CHECKING:
    import random

    from batchmill.jobs.completion import Completion
    from batchmill.jobs.job import RetryPolicy
    from batchmill.jobs.shard import Shard

LOSSES_BEFORE_SPLIT = 2
"""A shard whose workers died this often is split in half, until the row that kills them is alone."""


STORAGE_BACKOFF = Backoff(1.0, 30.0)
"""How long a shard waits for storage that is full, read-only or away, until the next attempt; by their number."""

STORAGE_WAIT_S = 3600.0
"""After a shard has waited this long in a row, what storage does to it counts as a failure."""


@dataclass(frozen=True, slots=True)
class Done:
    """Every row of the shard has a result or is a dead letter, or those of its first part (`ShardRest`)."""

    completion: Completion
    error: JobError | None = None  # about the rows that failed for good


@dataclass(frozen=True, slots=True)
class Partial:
    """Some rows are done and saved in a checkpoint; another attempt runs the others."""

    checkpoint: str  # its blob
    failures: int  # how often the row that failed most has failed; 0 when the worker only releases the shard
    error: JobError | None = None  # about the rows that failed


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt ended in an error that is not one row's."""

    error: JobError
    error_type: str = ""  # of the exception behind it, where there is one
    final: bool = False  # another attempt could not end otherwise
    is_storage: bool = False  # the storage is full, read-only or away: no fault of the shard
    is_blocked: bool = False  # no attempt can end otherwise until somebody does what the error says


@dataclass(frozen=True, slots=True)
class Lost:
    """The attempt's lease ran out."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """The lease was revoked, the worker was stopped, or the ledger was away, before any row was done.

    is_preempted: it made room, for a job of higher priority or as its worker stopped.
    """

    is_preempted: bool = False


Outcome = Done | Partial | Failed | Lost | Revoked


@dataclass(frozen=True, slots=True)
class Settle:
    """Commit the results."""

    completion: Completion


@dataclass(frozen=True, slots=True)
class Requeue:
    """Try again after a delay; `blame` says whether the attempt counts against the shard."""

    delay_s: float
    blame: bool
    checkpoint: str = ""  # the blob with what is done; "": nothing is
    pause_for: str = ""  # why the job is paused meanwhile; "": it is not


@dataclass(frozen=True, slots=True)
class Split:
    """Two halves take over."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Make a dead letter of the shard's only row."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop the job with this error."""

    error: JobError


Decision = Settle | Requeue | Split | DeadLetter | GiveUp


def decide(
    shard: Shard,
    outcome: Outcome,
    policy: RetryPolicy,
    rng: random.Random,
    storage_wait_s: float = STORAGE_WAIT_S,
    *,
    is_undivided: bool = False,
) -> Decision:
    """Decide what follows an attempt with this outcome. Pure but for `rng`, which spreads delays.

    shard: as it was claimed; its counters do not include this attempt.
    storage_wait_s: how long in a row it may wait for storage before that counts as a failure.
    is_undivided: whether the stage runs its shards as units: then no row can be to blame alone, and a half would be
        taken for all of it.
    """
    match outcome:
        case Done(completion) if completion.rest is not None:
            delay_s = _backoff(policy).delay_s(completion.rest.failures, rng)
            return Settle(replace(completion, rest=replace(completion.rest, delay_s=delay_s)))
        case Done(completion):
            return Settle(completion)
        case Revoked():
            return Requeue(0.0, blame=False)
        case Partial(checkpoint, failures):
            return Requeue(_backoff(policy).delay_s(failures, rng), blame=False, checkpoint=checkpoint)
        case Failed(is_storage=True) if shard.stalled_s < storage_wait_s:
            return Requeue(STORAGE_BACKOFF.delay_s(shard.token, rng), blame=False)
        case Failed(error, is_blocked=True):
            return Requeue(0.0, blame=False, pause_for=error.message)
        case Failed(error, error_type, final):
            failures = shard.failures + 1
            if final or failures >= policy.max_attempts or not may_retry(error_type, policy):
                return GiveUp(error)
            return Requeue(_backoff(policy).delay_s(failures, rng), blame=True)
        case Lost():
            return _after_loss(shard, policy, is_undivided=is_undivided)
        case _:
            assert_never(outcome)


def _after_loss(shard: Shard, policy: RetryPolicy, *, is_undivided: bool) -> Decision:
    losses = shard.losses + 1
    is_over = losses >= max(LOSSES_BEFORE_SPLIT, policy.max_attempts)
    if is_undivided and is_over:
        message = f"the stage runs its shard as a unit, and {losses} workers died or hung while they ran it."
        return GiveUp(JobError(code="attempt_failed", message=message, details={"error_type": WORKER_LOST}))
    if shard.rows == 1 and is_over:
        return DeadLetter()
    if shard.rows > 1 and losses >= LOSSES_BEFORE_SPLIT and not is_undivided:
        return Split()
    return Requeue(0.0, blame=True)


def _backoff(policy: RetryPolicy) -> Backoff:
    return Backoff(policy.backoff_s, policy.backoff_max_s)


def may_retry(error_type: str, policy: RetryPolicy) -> bool:
    """Whether the policy allows another try after an error of this type, named with or without its module."""
    names = {error_type, error_type.rpartition(".")[2]}
    if names & set(policy.never_on):
        return False
    return policy.retry_on is None or bool(names & set(policy.retry_on))


def tries_row_again(failures: int, error_type: str, policy: RetryPolicy) -> bool:
    """Whether to run a row again that has failed this often, the last time with an error of this type."""
    return failures < policy.max_attempts and may_retry(error_type, policy)
