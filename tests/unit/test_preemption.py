"""Which attempts make room for jobs of far higher priority."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batchmill.jobs.shard import ShardId, ShardRef
from batchmill.ledger.formats.record import JobStage
from batchmill.ledger.workers.stragglers import LoneAttempt
from batchmill_coordinator.scheduling.preemption import MAX_PREEMPTIONS, Waiting, to_preempt, victims_of
from support.records import job_record

NOW_MS = 1_000_000


def stage_of(priority: int = 0, job_id: str = "job-1", **spec: Any) -> JobStage:
    record = job_record(rows_timed=100, busy_us=100_000_000)  # a second a row
    record = replace(record, id=job_id, spec=record.spec.model_copy(update={"priority": priority}))
    one = JobStage(record, record.first)
    return one._replace(stage=replace(one.stage, spec=one.spec.model_copy(update=spec)))


def attempt(number: int, age_s: float = 0.0, rows: int = 100, **changes: Any) -> LoneAttempt:
    ref = ShardRef("job-1", 0, ShardId((number,)), 1)
    return LoneAttempt(ref, NOW_MS - round(age_s * 1000), rows, "gpu0@a-1", **changes)


def chosen(waiting: list[Waiting], running: list[tuple[JobStage, LoneAttempt]], coming: int = 0) -> list[int]:
    victims = [victim for one, lone in running for victim in victims_of(one, [lone], NOW_MS)]
    return [victim.ref.shard_id[0] for victim, _ in to_preempt(waiting, victims, coming, by=10)]


def test_the_lowest_priority_makes_room_first_and_of_it_what_began_last() -> None:
    low, lower = stage_of(0), stage_of(-5)
    running = [(low, attempt(0, 1)), (lower, attempt(1, 20)), (lower, attempt(2, 10))]
    assert chosen([Waiting(stage_of(10), 2)], running) == [2, 1]
    assert chosen([Waiting(stage_of(10), 5)], running) == [2, 1, 0]


def test_a_priority_that_is_not_far_higher_takes_no_slot() -> None:
    running = [(stage_of(1), attempt(0)), (stage_of(0), attempt(1))]
    assert chosen([Waiting(stage_of(10), 2)], running) == [1]
    assert chosen([Waiting(stage_of(9), 2)], running) == []


def test_no_more_make_room_than_are_of_use_and_slots_that_come_anyway_count() -> None:
    running = [(stage_of(0), attempt(number)) for number in range(4)]
    assert len(chosen([Waiting(stage_of(50), 1), Waiting(stage_of(20), 2)], running)) == 3
    assert len(chosen([Waiting(stage_of(50), 1), Waiting(stage_of(20), 2)], running, coming=2)) == 1
    assert chosen([Waiting(stage_of(50), 3)], running, coming=3) == []


@pytest.mark.parametrize(
    "lone",
    [
        attempt(0, age_s=96),  # of the 100 s that its rows take
        attempt(0, is_preempted=True),
        attempt(0, preemptions=MAX_PREEMPTIONS),
    ],
    ids=["ends soon", "asked before", "asked too often"],
)
def test_who_is_left_alone(lone: LoneAttempt) -> None:
    assert chosen([Waiting(stage_of(50), 1)], [(stage_of(0), lone)]) == []


def test_an_attempt_of_which_nothing_is_known_yet_makes_room() -> None:
    unknown = stage_of(0)
    unknown = unknown._replace(stage=replace(unknown.stage, rows_timed=0, busy_us=0))
    assert chosen([Waiting(stage_of(50), 1)], [(unknown, attempt(0))]) == [0]


@pytest.mark.parametrize("spec", [{"in_turn": True}, {"keeps_state": True}])
def test_stages_that_are_one_after_the_other_make_no_room(spec: dict[str, Any]) -> None:
    assert chosen([Waiting(stage_of(50), 1)], [(stage_of(0, **spec), attempt(0))]) == []
