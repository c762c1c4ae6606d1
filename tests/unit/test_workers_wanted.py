"""How many workers a pool needs: a pure function of its work, its workers and its target."""

from __future__ import annotations

import pytest

from batchmill.held_need import HeldNeed
from batchmill_coordinator.scheduling.scaling.workers_wanted import (
    LimitedWork,
    PoolDemand,
    PoolSupply,
    ScaleTarget,
    drain_s,
    workers_wanted,
)

TARGET = ScaleTarget(target_s=300)


def need(work_s: float, supply: PoolSupply, *, target: ScaleTarget = TARGET, **more: object) -> int:
    """Workers for a pool with work."""
    return workers_wanted(PoolDemand(work_s, is_active=True, **more), supply, target).workers  # type: ignore[arg-type]


def test_nothing_left_needs_no_worker() -> None:
    wanted = workers_wanted(PoolDemand(0, is_active=False, arriving=2), PoolSupply(ready=4), TARGET)
    assert (wanted.workers, wanted.why) == (0, "nothing is left to do")


def test_workers_that_can_do_it_in_the_target_time_are_reduced_to_what_the_work_needs() -> None:
    assert need(3000, PoolSupply(ready=20)) == 10
    assert need(1, PoolSupply(ready=20)) == 1
    assert need(1000, PoolSupply(ready=20), arriving=2.0) == 6


def test_a_pool_without_workers_gets_as_many_as_finish_in_the_target_time_after_their_start() -> None:
    assert need(3000, PoolSupply(ready=0, start_s=150)) == 20
    assert need(3000, PoolSupply(ready=0, start_s=400)) == 40


def test_workers_that_start_are_not_wanted_twice() -> None:
    starting = PoolSupply(ready=0, starting=[0.0] * 20, start_s=150)
    assert need(3000, starting) <= starting.total
    assert need(3001, PoolSupply(ready=0, starting=[0.0] * 20, start_s=150)) == 21


def test_no_worker_is_started_that_would_come_too_late() -> None:
    ready = PoolSupply(ready=4, start_s=400)
    assert need(1500, ready) == 4
    wanted = workers_wanted(PoolDemand(1500, is_active=True), ready, TARGET)
    assert wanted.why == "25 min 00 s of device time left: done before another worker would have started (6 min 40 s)"


def test_one_worker_finds_out_what_rows_take() -> None:
    wanted = workers_wanted(PoolDemand(0, is_active=True, unknown_rows=5000), PoolSupply(ready=0), TARGET)
    assert (wanted.workers, wanted.why) == (1, "what 5,000 rows will take is not known yet")


def test_no_worker_is_given_up_while_more_may_be_left_than_is_known() -> None:
    assert need(10, PoolSupply(ready=7)) == 1
    assert need(10, PoolSupply(ready=7), open_sources=1) == 7
    assert need(10, PoolSupply(ready=7), unknown_rows=1) == 7


def test_a_deadline_raises_the_number_by_the_work_of_all_jobs_that_are_due_by_then() -> None:
    supply = PoolSupply(ready=1, start_s=100)
    due = [(700.0, 3000.0), (400.0, 900.0), (5000.0, 10.0)]
    assert need(4000, PoolSupply(ready=14, start_s=100), due=due) == 14
    assert need(300, supply, due=[(400.0, 900.0)]) == 3
    wanted = workers_wanted(PoolDemand(300, is_active=True, due=due), supply, TARGET)
    assert (wanted.workers, wanted.why) == (7, "1 h 05 min of device time is due in 11 min 40 s")


def test_a_deadline_that_has_passed_or_is_met_by_the_workers_there_asks_for_none() -> None:
    supply = PoolSupply(ready=2, start_s=100)
    assert need(100, supply, due=[(-5.0, 1e6)]) == 1
    assert need(100, supply, due=[(60.0, 110.0)]) == 1
    assert need(100, supply, due=[(60.0, 1000.0)]) == 67


@pytest.mark.parametrize(
    ("target", "most", "why"),
    [
        (ScaleTarget(300, max_machines=3), 6, "at most 3 machines"),
        (ScaleTarget(300, max_cost_per_hour=10), 4, "10 an hour pays for 4"),
        (ScaleTarget(300, max_machines=1, max_cost_per_hour=10), 2, "at most 1 machine"),
    ],
)
def test_maxima_in_machines_and_in_money_come_last(target: ScaleTarget, most: int, why: str) -> None:
    supply = PoolSupply(ready=0, machine_workers=2, price_per_hour=2.5)
    wanted = workers_wanted(PoolDemand(3000, is_active=True, due=[(400.0, 1e9)]), supply, target)
    assert wanted.workers == most
    assert why in wanted.why


def test_a_deadline_cannot_ask_for_a_number_without_end() -> None:
    assert need(1e15, PoolSupply(ready=0), due=[(1.0, 1e15)]) == 100_000


def test_the_time_to_drain_is_known_only_with_workers_and_paces() -> None:
    assert drain_s(PoolDemand(0, is_active=False), 0) == 0
    assert drain_s(PoolDemand(300, is_active=True), 4) == 75
    assert drain_s(PoolDemand(300, is_active=True), 0) is None
    assert drain_s(PoolDemand(300, is_active=True, unknown_rows=1), 4) is None


def test_a_held_number_rises_at_once_and_falls_when_the_larger_one_is_old() -> None:
    held = HeldNeed()
    noted = [
        held.note(need, at, 100) for at, need in ((0, 3), (10, 8), (20, 2), (105, 4), (111, 1), (206, 1), (300, 0))
    ]
    assert noted == [3, 8, 8, 8, 4, 1, 1]


EMPTY_POOL = PoolSupply(ready=0, start_s=150)


def test_work_of_a_tenant_with_a_limit_needs_no_more_workers_than_the_limit_lets_work() -> None:
    ads = LimitedWork(max_shards=8, work_s=90_000)
    assert need(90_000, EMPTY_POOL) == 600
    assert need(90_000, EMPTY_POOL, limited=[ads]) == 8
    wanted = workers_wanted(PoolDemand(90_000, is_active=True, limited=[ads]), EMPTY_POOL, TARGET)
    assert wanted.why.endswith("16 workers, but limits and quotas of tenants let no more than 8 work")


def test_workers_for_other_work_come_on_top_of_those_that_limits_allow() -> None:
    limited = [LimitedWork(8, 90_000), LimitedWork(2, 90_000)]
    assert need(183_000, EMPTY_POOL, limited=limited) == need(3_000, EMPTY_POOL) + 10
    assert need(183_000, PoolSupply(ready=40), limited=limited) == 20


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    assert need(3000, PoolSupply(ready=20), limited=[LimitedWork(15, 3000)]) == 10


def test_a_deadline_of_a_tenant_with_a_limit_does_not_raise_it() -> None:
    due = [(600.0, 90_000.0)]
    assert need(90_000, EMPTY_POOL, due=due) > 100
    assert need(90_000, EMPTY_POOL, due=due, limited=[LimitedWork(8, 90_000)]) == 8
    free_due = [(600.0, 9_000.0)]
    both = [*due, *free_due]
    wanted = need(99_000, EMPTY_POOL, due=both, free_due=free_due, limited=[LimitedWork(8, 90_000)])
    assert wanted == need(9_000, EMPTY_POOL, due=free_due) + 8


def test_what_a_limit_keeps_from_being_done_in_the_target_time_is_held() -> None:
    assert PoolDemand(9_000, is_active=True, limited=[LimitedWork(8, 9_000)]).held_s(300) == 9_000 - 2_400
