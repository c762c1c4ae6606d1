from __future__ import annotations

import random

import pytest

from batchmill.job import JobError
from batchmill.ledger import Completion
from batchmill.retry import Done, Failed, GiveUp, Lost, Outcome, Requeue, RetryPolicy, Revoked, Settle, decide
from batchmill.shard import Shard, ShardId, ShardState, Slice

POLICY = RetryPolicy(max_attempts=3, backoff_s=1.0, backoff_max_s=8.0)
ERROR = JobError(code="attempt_failed", message="no luck")


def shard(failures: int = 0, losses: int = 0) -> Shard:
    slices = (Slice(0, 100, 110, 10),)
    return Shard("job-1", ShardId((3,)), 100, 10, slices, 0, ShardState.RUNNING, 1, failures, losses)


def decided(subject: Shard, outcome: Outcome) -> object:
    return decide(subject, outcome, POLICY, random.Random(1))


def test_results_are_settled() -> None:
    completion = Completion(rows=10, rows_dead=0, nbytes=100)
    assert decided(shard(), Done(completion)) == Settle(completion)


def test_a_revoked_attempt_goes_back_at_once_and_blames_nobody() -> None:
    assert decided(shard(failures=2), Revoked()) == Requeue(0.0, blame=False)


def test_a_failed_attempt_is_tried_again_until_the_policy_is_used_up() -> None:
    assert isinstance(decided(shard(failures=1), Failed(ERROR)), Requeue)
    assert decided(shard(failures=2), Failed(ERROR)) == GiveUp(ERROR)


def test_a_hopeless_failure_is_not_tried_again() -> None:
    assert decided(shard(), Failed(ERROR, final=True)) == GiveUp(ERROR)


def test_a_lost_attempt_is_tried_elsewhere_at_once() -> None:
    assert decided(shard(losses=1), Lost()) == Requeue(0.0, blame=True)


def test_a_shard_that_is_lost_again_and_again_stops_the_job_and_names_its_rows() -> None:
    decision = decided(shard(losses=2), Lost())
    assert isinstance(decision, GiveUp)
    assert "rows 100 to 109" in decision.error.message
    assert decision.error.details == {"first_row": 100, "last_row": 109}


@pytest.mark.parametrize(("failures", "ceiling_s"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (50, 8.0)])
def test_delays_grow_twofold_to_the_most_with_full_jitter(failures: int, ceiling_s: float) -> None:
    chance = random.Random(7)
    delays = [POLICY.delay_s(failures, chance) for _ in range(500)]
    assert 0 <= min(delays) < 0.1 * ceiling_s
    assert 0.9 * ceiling_s < max(delays) <= ceiling_s
