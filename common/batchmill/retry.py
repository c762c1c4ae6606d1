"""What happens after an attempt: one pure function for the living and the dead alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from batchmill.job import JobError
from batchmill.shard import format_shard_id

if TYPE_CHECKING:
    import random

    from batchmill.ledger.shards import Completion
    from batchmill.shard import Shard


@dataclass(frozen=True, slots=True)
class Done:
    """Every row of the shard has a result or is a dead letter."""

    completion: Completion


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt ended in an error that is not one row's."""

    error: JobError
    final: bool = False  # another attempt could not end otherwise


@dataclass(frozen=True, slots=True)
class Lost:
    """The attempt's lease ran out."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """The worker was told to let go, or lets go because it is being stopped."""


Outcome = Done | Failed | Lost | Revoked


@dataclass(frozen=True, slots=True)
class Settle:
    """Commit the results."""

    completion: Completion


@dataclass(frozen=True, slots=True)
class Requeue:
    """Try again after a delay; `blame` says whether the attempt counts against the shard."""

    delay_s: float
    blame: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop the job with this error."""

    error: JobError


Decision = Settle | Requeue | GiveUp


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a shard is tried, and how long it waits in between."""

    max_attempts: int = 3
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0

    def delay_s(self, failures: int, chance: random.Random) -> float:
        """A delay after so many failures: exponential with full jitter.

        Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        ceiling = min(self.backoff_max_s, self.backoff_s * 2.0 ** max(failures - 1, 0))
        return chance.uniform(0.0, ceiling)


def decide(shard: Shard, outcome: Outcome, policy: RetryPolicy, chance: random.Random) -> Decision:
    """What to do with a shard whose attempt has ended so. `shard` counts the attempts before this one."""
    match outcome:
        case Done(completion):
            return Settle(completion)
        case Revoked():
            return Requeue(0.0, blame=False)
        case Failed(error, final):
            failures = shard.failures + 1
            if final or failures >= policy.max_attempts:
                return GiveUp(error)
            return Requeue(policy.delay_s(failures, chance), blame=True)
        case Lost():
            if shard.losses + 1 >= policy.max_attempts:
                return GiveUp(_lost_too_often(shard))
            return Requeue(0.0, blame=True)
        case _:
            assert_never(outcome)


def _lost_too_often(shard: Shard) -> JobError:
    last_row = shard.first_row + shard.rows - 1
    return JobError(
        code="worker_lost",
        message=f"{shard.losses + 1} workers died or froze while they ran rows {shard.first_row} to {last_row} "
        f"(shard {format_shard_id(shard.shard_id)}). A row among them may crash the process or use up its memory; "
        "the workers' log says how they ended.",
        details={"first_row": shard.first_row, "last_row": last_row},
    )
