from __future__ import annotations

import random
from dataclasses import replace

import pytest

from batchmill.jobs.completion import Completion
from batchmill.jobs.job import JobError, RetryPolicy
from batchmill.jobs.retry import (
    STORAGE_BACKOFF,
    DeadLetter,
    Done,
    Failed,
    GiveUp,
    Lost,
    Outcome,
    Partial,
    Requeue,
    Revoked,
    Settle,
    Split,
    decide,
    tries_row_again,
)
from batchmill.jobs.shard import Shard, ShardId, ShardState, Slice

POLICY = RetryPolicy(max_attempts=3, backoff_s=1.0, backoff_max_s=8.0)
ERROR = JobError(code="attempt_failed", message="no luck")


def shard(failures: int = 0, losses: int = 0, rows: int = 10) -> Shard:
    return Shard(
        "job-1",
        0,
        ShardId((3,)),
        100,
        rows,
        (Slice(0, 100, 110, 10),),
        state=ShardState.RUNNING,
        token=1,
        failures=failures,
        losses=losses,
    )


def decided(subject: Shard, outcome: Outcome) -> object:
    return decide(subject, outcome, POLICY, random.Random(1))


def test_results_are_settled() -> None:
    completion = Completion(rows=10, rows_dead=0, nbytes=100)
    assert decided(shard(), Done(completion)) == Settle(completion)


def test_a_revoked_attempt_is_requeued_at_once_and_counts_against_nothing() -> None:
    assert decided(shard(failures=2), Revoked()) == Requeue(0.0, blame=False)


def test_storage_that_is_away_counts_against_nothing_for_an_hour() -> None:
    outcome = Failed(ERROR, is_storage=True)
    for token in (1, 10, 1000):
        subject = replace(shard(failures=2), token=token, stalled_s=3599.0)
        found = [decide(subject, outcome, POLICY, random.Random(seed)) for seed in range(50)]
        assert all(isinstance(one, Requeue) and not one.blame for one in found)
        longest = max(one.delay_s for one in found if isinstance(one, Requeue))
        assert 0.5 * STORAGE_BACKOFF.ceiling_s(token) < longest <= STORAGE_BACKOFF.max_s


def test_storage_that_stays_away_is_a_failure_in_the_end() -> None:
    outcome, chance = Failed(ERROR, is_storage=True), random.Random(1)
    subject = replace(shard(failures=1), stalled_s=3600.0)
    once_more = decide(subject, outcome, POLICY, chance)
    assert isinstance(once_more, Requeue)
    assert once_more.blame
    assert decide(replace(subject, failures=2), outcome, POLICY, chance) == GiveUp(ERROR)
    assert decide(shard(failures=2), outcome, POLICY, chance, storage_wait_s=0.0) == GiveUp(ERROR)


def test_a_failed_attempt_is_tried_again_until_the_policy_is_used_up() -> None:
    assert isinstance(decided(shard(failures=1), Failed(ERROR)), Requeue)
    assert decided(shard(failures=2), Failed(ERROR)) == GiveUp(ERROR)


def test_a_hopeless_failure_is_not_tried_again() -> None:
    assert decided(shard(), Failed(ERROR, final=True)) == GiveUp(ERROR)


def test_an_error_that_the_policy_does_not_try_again_is_final() -> None:
    policy = RetryPolicy(retry_on=["Timeout"], never_on=["mine.Bad"])
    for error_type, decision in (("net.Timeout", Requeue), ("mine.Bad", GiveUp), ("ValueError", GiveUp)):
        assert isinstance(decide(shard(), Failed(ERROR, error_type), policy, random.Random(1)), decision)
    assert tries_row_again(1, "Timeout", policy)
    assert not tries_row_again(3, "Timeout", policy)
    assert not tries_row_again(1, "Bad", policy)


def test_what_is_done_is_saved_and_the_rest_waits_as_long_as_its_worst_row() -> None:
    assert decided(shard(), Partial("blob", failures=0)) == Requeue(0.0, blame=False, checkpoint="blob")
    decision = decided(shard(), Partial("blob", failures=2))
    assert isinstance(decision, Requeue)
    assert 0 < decision.delay_s <= 2.0


def test_a_lost_attempt_is_tried_elsewhere_at_once() -> None:
    assert decided(shard(), Lost()) == Requeue(0.0, blame=True)


def test_a_shard_that_is_lost_again_is_split_until_its_row_is_alone_and_dead() -> None:
    assert decided(shard(losses=1), Lost()) == Split()
    left, right = shard(losses=1, rows=3).halves()
    assert [(half.shard_id, half.first_row, half.skip, half.rows) for half in (left, right)] == [
        ((3, 0), 100, 0, 1),
        ((3, 1), 101, 1, 2),
    ]
    assert decided(left, Lost()) == Requeue(0.0, blame=True)
    assert decided(shard(losses=2, rows=1), Lost()) == DeadLetter()
    assert decided(right, Lost()) == Split()
    assert [half.skip for half in right.halves()] == [1, 2]


def test_a_stage_that_takes_all_of_its_input_is_never_halved_and_its_row_is_no_dead_letter() -> None:
    def lost(subject: Shard) -> Requeue | GiveUp:
        decision = decide(subject, Lost(), POLICY, random.Random(7), is_undivided=True)
        assert isinstance(decision, Requeue | GiveUp)
        return decision

    for rows in (1, 10):
        assert lost(shard(losses=1, rows=rows)) == Requeue(0.0, blame=True)
        given_up = lost(shard(losses=2, rows=rows))
        assert isinstance(given_up, GiveUp)
        assert "3 workers died" in given_up.error.message


@pytest.mark.parametrize(("failures", "ceiling_s"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (50, 8.0)])
def test_delays_grow_twofold_to_the_most_with_full_jitter(failures: int, ceiling_s: float) -> None:
    chance = random.Random(7)
    policy = POLICY.model_copy(update={"max_attempts": 100})
    failed = Failed(ERROR, "Error")
    decisions = [decide(shard(failures=failures - 1), failed, policy, chance) for _ in range(500)]
    delays = [decision.delay_s for decision in decisions if isinstance(decision, Requeue)]
    assert len(delays) == 500
    assert 0 <= min(delays) < 0.1 * ceiling_s
    assert 0.9 * ceiling_s < max(delays) <= ceiling_s
