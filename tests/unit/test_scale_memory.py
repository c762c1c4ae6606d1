"""What the scaler remembers, and its decisions from the ledger's sums."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from batchmill.fleet import WorkerInfo
from batchmill.jobs.cost import Parts, Spent, Totals
from batchmill.ledger.formats.work import Work
from batchmill.wording import hours
from batchmill_coordinator.scheduling.scaling.decisions import PoolReading, decide, idle_scale
from batchmill_coordinator.scheduling.scaling.memory import (
    ScaleMemory,
    StartTime,
    noted_need,
    noted_work,
    noted_workers,
)
from batchmill_coordinator.scheduling.scaling.usage import DayUsage, noted_usage, usage_of
from batchmill_coordinator.scheduling.scaling.workers_wanted import ScaleTarget

NOTHING = Totals({}, {}, {})
TARGET = ScaleTarget(300)


def worker(name: str, price: float = 2.0) -> WorkerInfo:
    return WorkerInfo(
        name=name,
        pool="gpu",
        device="cuda:0",
        operators=["echo"],
        shards_at_once=2,
        pid=1,
        started_at=0.0,
        load_s=20.0,
        price_per_hour=price,
    )


def reading(*workers: WorkerInfo, **sums: int) -> PoolReading:
    """A pool `gpu` with sums as the scripts write them: `left=10`."""
    work = Work.from_hash({f"{what} 1 gpu echo".encode(): str(amount).encode() for what, amount in sums.items()})
    return PoolReading("gpu", work.pools["gpu"], workers)


def test_work_that_arrives_is_averaged_over_ten_minutes() -> None:
    memory = noted_work(None, spent_s=500, left_s=0, now_s=0)
    assert memory.arriving == 0
    memory = noted_work(memory, spent_s=500, left_s=6000, now_s=2)
    assert memory.arriving == pytest.approx(10)
    memory = noted_work(memory, spent_s=3500, left_s=3000, now_s=302)
    assert memory.arriving == pytest.approx(5)
    memory = noted_work(memory, spent_s=3600, left_s=0, now_s=312)
    assert memory.arriving < 1


def test_a_start_takes_as_long_as_workers_took_to_come() -> None:
    memory = noted_need(ScaleMemory(at_s=0, total_s=0), 3, now_s=100)
    assert memory.ages(130) == [30, 30, 30]
    assert memory.usual_start_s == 150
    memory = noted_workers(memory, 2, now_s=160)
    assert (memory.start_s, memory.ages(170)) == (60, [70])
    memory = noted_workers(memory, 3, now_s=200)
    assert memory.start_s == pytest.approx(0.7 * 60 + 0.3 * 100)
    assert memory.ages(200) == []


def test_workers_that_do_not_come_are_not_expected_for_ever() -> None:
    memory = noted_need(ScaleMemory(at_s=0, total_s=0, start_s=30), 5, now_s=0)
    assert noted_workers(memory, 0, now_s=90).ages(90) == [90] * 5
    assert noted_workers(memory, 0, now_s=91).ages(91) == []


def test_what_starts_follows_the_number_that_is_held() -> None:
    memory = noted_need(ScaleMemory(at_s=0, total_s=0, start_s=30), 5, now_s=0)
    memory = noted_need(memory, 2, now_s=20)
    assert len(memory.ages(20)) == 5
    memory = noted_need(memory, 2, now_s=31)
    assert memory.ages(31) == [31, 31]
    assert noted_need(memory, 4, now_s=32).ages(32) == [32, 32, 0, 0]


def test_work_left_is_priced_by_the_stages_own_rows_else_by_those_of_its_operator() -> None:
    known = Totals({}, {("gpu", "echo"): Spent(Parts(useful=8_000_000, load=99_000_000), rows=4)}, {})
    own, _ = decide(reading(worker("gpu0@a-1"), left=600, expected=900_000_000), known, None, TARGET, 0)
    assert own.drain_s == 900
    other, _ = decide(reading(worker("gpu0@a-1"), left=600, unpaced=600), known, None, TARGET, 0)
    assert other.drain_s == 1200
    unknown, _ = decide(reading(left=600, unpaced=600), NOTHING, None, TARGET, 0)
    assert (unknown.workers_wanted, unknown.drain_s) == (1, None)


def test_machines_prices_and_loads_are_remembered_for_when_no_worker_is_there() -> None:
    three = [worker("gpu0@a-1"), worker("gpu1@a-1"), worker("gpu0@b-2", price=5.0)]
    scale, memory = decide(reading(*three, left=1, expected=3_600_000_000), NOTHING, None, TARGET, 0)
    assert (scale.workers, scale.machine_workers) == (3, 2)
    assert (memory.machine_workers, memory.price_per_hour, memory.load_s) == (2, 3.0, 20.0)
    capped = ScaleTarget(300, max_cost_per_hour=9.0)
    scale, _ = decide(reading(left=1, expected=3_600_000_000), NOTHING, memory, capped, 2)
    assert (scale.workers_wanted, scale.machines_wanted) == (3, 2)


def test_workers_that_leave_are_replaced_while_they_are_there() -> None:
    leaving = worker("gpu0@b-2").model_copy(update={"leaves_at": 120.0})
    before = reading(worker("gpu0@a-1"), leaving, left=1, expected=600_000_000)
    alone, after = decide(replace(before, workers=before.workers[:1]), NOTHING, None, TARGET, 0)
    scale, memory = decide(before, NOTHING, None, TARGET, 0)
    assert (scale.workers_wanted, scale.workers, scale.drain_s) == (alone.workers_wanted + 1, 2, 600)
    assert "1 more that soon leave" in scale.why
    assert memory.ages(0) == after.ages(0)
    most, _ = decide(before, NOTHING, None, ScaleTarget(300, max_machines=2), 0)
    assert most.workers_wanted == 2
    idle, _ = decide(reading(leaving, left=0), NOTHING, None, TARGET, 0)
    assert idle.workers_wanted == 0


def test_what_was_wanted_is_starting_at_the_next_decision() -> None:
    before = reading(left=1, expected=3_000_000_000)
    first, memory = decide(before, NOTHING, None, TARGET, 0)
    assert (first.workers_wanted, first.starting) == (30, 0)
    second, _ = decide(before, NOTHING, memory, TARGET, 2)
    assert second.starting == 30
    assert second.workers_wanted <= 30


def test_a_given_start_time_is_taken_instead_of_the_measured_one() -> None:
    scale, memory = decide(
        reading(worker("gpu0@a-1"), left=1, expected=1), NOTHING, None, TARGET, 0, start=StartTime(7.5)
    )
    assert scale.start_s == 7.5
    assert ScaleMemory.model_validate_json(memory.model_dump_json()) == memory


def test_a_pool_that_nobody_knows_needs_nothing() -> None:
    assert (idle_scale("other", TARGET).workers_wanted, idle_scale("other", TARGET).why) == (
        0,
        "nothing is left to do",
    )


def test_a_start_takes_as_long_as_assumed_until_one_was_measured() -> None:
    scale, memory = decide(reading(left=1, expected=1), NOTHING, None, TARGET, 0, start=StartTime(assumed_s=3))
    assert scale.start_s == 3
    scale, _ = decide(
        reading(worker("gpu0@a-1"), left=1, expected=1), NOTHING, memory, TARGET, 9, StartTime(assumed_s=3)
    )
    assert scale.start_s == 9 + 20


def test_usage_is_summed_by_day_in_hours_and_money() -> None:
    days = noted_usage((), 86_400 * 20 - 30, 30, present=4, wanted=1, busy_s=20, price=3.6)
    days = noted_usage(days, 86_400 * 20, 30, present=4, wanted=2, busy_s=5, price=3.6)
    days = noted_usage(days, 86_400 * 20 + 9_000, 9_000, present=1, wanted=6, busy_s=0, price=3.6)
    assert [one.day for one in days] == [date(1970, 1, 20), date(1970, 1, 21)]
    whole = usage_of("gpu", days, date(1970, 1, 20), "EUR")
    summed = [whole.worker_hours, whole.enough_hours, whole.busy_hours]
    assert summed == pytest.approx([(240 + 60) / 3600, (30 + 60 + 360) / 3600, 25 / 3600], abs=1e-4)
    assert [whole.cost, whole.cost_enough] == pytest.approx([0.3, 0.45])
    assert whole.advice == "at its peak the work needed 6 workers, and 4 were there"
    first = usage_of("gpu", days[:1], date(1970, 1, 20), "EUR")
    assert (
        first.advice
        == "0.0083 worker hours would have been enough, 0.09 EUR less: let the number of workers follow the work"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.0031, "0.0031"), (0.25, "0.25"), (3.42, "3.4"), (120.0, "120.0")],
)
def test_hours_of_a_few_minutes_are_shown(value: float, shown: str) -> None:
    assert hours(value) == shown


def test_usage_is_kept_for_two_weeks() -> None:
    days: tuple[DayUsage, ...] = ()
    for day in range(30):
        days = noted_usage(days, 86_400 * day + 1, 2, present=1, wanted=1, busy_s=1, price=0)
    assert len(days) == 14
    assert usage_of("gpu", days, date(1970, 1, 30), "EUR").advice == "the number of workers followed the work"


def test_a_decision_adds_the_time_since_the_one_before() -> None:
    known = Totals({}, {("gpu", "echo"): Spent(Parts(useful=3_000_000), rows=4)}, {})
    _, memory = decide(reading(worker("gpu0@a-1")), NOTHING, None, TARGET, 100)
    _, memory = decide(reading(worker("gpu0@a-1")), known, memory, TARGET, 102)
    assert [(one.present_s, one.enough_s, one.busy_s) for one in memory.days] == [(2, 0, 3)]
