"""What happens after an attempt: one pure function for the living and the dead alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    import random

    from batchmill.completion import Completion
    from batchmill.job import JobError, RetryPolicy
    from batchmill.shard import Shard

LOSSES_BEFORE_SPLIT = 2
"""A shard that lost so many workers is split until the row that ends them is alone."""


@dataclass(frozen=True, slots=True)
class Done:
    """Every row of the shard has a result or is a dead letter."""

    completion: Completion
    error: JobError | None = None  # about the rows that were given up on


@dataclass(frozen=True, slots=True)
class Partial:
    """Some rows are done and kept in a blob; the others are to be run by another attempt."""

    kept: str  # the blob
    failures: int  # how often the row that failed most has failed; 0 when the worker just lets go
    error: JobError | None = None  # about the rows that failed


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt ended in an error that is not one row's."""

    error: JobError
    error_type: str = ""  # of the exception behind it, where there is one
    final: bool = False  # another attempt could not end otherwise


@dataclass(frozen=True, slots=True)
class Lost:
    """The attempt's lease ran out."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """The worker was told to let go before anything was done."""


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
    kept: str = ""  # the blob with what is done


@dataclass(frozen=True, slots=True)
class Split:
    """Two halves take over."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Give up on the shard's only row."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop the job with this error."""

    error: JobError


Decision = Settle | Requeue | Split | DeadLetter | GiveUp


def decide(shard: Shard, outcome: Outcome, policy: RetryPolicy, chance: random.Random) -> Decision:
    """What to do with a shard whose attempt has ended so. `shard` counts the attempts before this one."""
    match outcome:
        case Done(completion):
            return Settle(completion)
        case Revoked():
            return Requeue(0.0, blame=False)
        case Partial(kept, failures):
            return Requeue(backoff_s(failures, policy, chance), blame=False, kept=kept)
        case Failed(error, error_type, final):
            failures = shard.failures + 1
            if final or failures >= policy.max_attempts or not may_retry(error_type, policy):
                return GiveUp(error)
            return Requeue(backoff_s(failures, policy, chance), blame=True)
        case Lost():
            losses = shard.losses + 1
            if shard.rows == 1 and losses >= max(LOSSES_BEFORE_SPLIT, policy.max_attempts):
                return DeadLetter()
            if shard.rows > 1 and losses >= LOSSES_BEFORE_SPLIT:
                return Split()
            return Requeue(0.0, blame=True)
        case _:
            assert_never(outcome)


def backoff_s(failures: int, policy: RetryPolicy, chance: random.Random) -> float:
    """How long to wait after so many failures, seconds: exponential with full jitter; nothing after none.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    if failures == 0:
        return 0.0
    ceiling = min(policy.backoff_max_s, policy.backoff_s * 2.0 ** min(failures - 1, 60))
    return chance.uniform(0.0, ceiling)


def may_retry(error_type: str, policy: RetryPolicy) -> bool:
    """Whether the policy lets an error of this type be tried again; a type is named with or without its module."""
    names = {error_type, error_type.rpartition(".")[2]}
    if names & set(policy.never_on):
        return False
    return policy.retry_on is None or bool(names & set(policy.retry_on))


def tries_row_again(failures: int, error_type: str, policy: RetryPolicy) -> bool:
    """Whether a row that has failed so often, the last time with such an error, is run again."""
    return failures < policy.max_attempts and may_retry(error_type, policy)
