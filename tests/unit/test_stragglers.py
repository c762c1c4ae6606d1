"""Which attempts count as stragglers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batchmill.jobs.job import RetryPolicy
from batchmill.jobs.shard import ShardId, ShardRef
from batchmill.ledger.formats.record import JobStage
from batchmill.ledger.workers.stragglers import LoneAttempt
from batchmill_coordinator.fleet.pools import PoolView
from batchmill_coordinator.fleet.worker_capacity import WorkerCapacity
from batchmill_coordinator.scheduling.stragglers import ALIKE, DeviceTimes, Lateness, may_have_stragglers, stragglers_of
from support.records import job_record

POOL = PoolView(1, 2, frozenset({"echo"}), members=(WorkerCapacity("gpu0@a-1", 2, load_s=20.0),))
NOW_MS = 1_000_000
A_SECOND_A_ROW = {"rows_timed": 100, "busy_us": 100_000_000}


def ending(**changes: object) -> JobStage:
    """A stage that is planned, with two shards that run and nothing else."""
    fields = {"planned": 1, "shards_live": 2, "shards_running": 2, **A_SECOND_A_ROW, **changes}
    record = job_record(**fields)  # type: ignore[arg-type]
    return JobStage(record, record.first)


def with_spec(**changes: Any) -> JobStage:
    one = ending()
    return one._replace(stage=replace(one.stage, spec=one.spec.model_copy(update=changes)))


def late(ages_s: list[float], lateness: Lateness, rows: int = 10, times: DeviceTimes = ALIKE) -> list[int]:
    running = [
        LoneAttempt(ShardRef("job-1", 0, ShardId((number,)), 1), NOW_MS - round(age_s * 1000), rows, "gpu0@a-1")
        for number, age_s in enumerate(ages_s)
    ]
    return [one.ref.shard_id[0] for one in stragglers_of(ending(), running, POOL, NOW_MS, lateness, times)]


def test_an_attempt_is_late_after_a_multiple_of_its_predicted_time_and_the_time_of_a_load() -> None:
    assert late([49.0, 51.0, 90.0], Lateness(3.0, 5.0)) == [2, 1]  # 3 times 10 s, and 20 s


def test_no_short_shard_is_late_before_what_it_does_beside_computing_is_allowed_for() -> None:
    assert late([25.0, 26.2], Lateness(3.0, 5.0), rows=1) == [1]  # 1 s, 5 s and 20 s


def mixed(*workers: tuple[str, float], loaded: bool = True) -> PoolView:
    """Workers with a slot each, by their type of device and how long they load."""
    models = frozenset({"m"}) if loaded else frozenset[str]()
    members = tuple(
        WorkerCapacity(f"gpu{number}@a-1", 1, models, load_s=load_s, device_type=device)
        for number, (device, load_s) in enumerate(workers)
    )
    return PoolView(len(members), len(members), frozenset({"echo"}), members=members)


SLOW_AND_FAST = mixed(("slow", 0.0), ("fast", 0.0))
EIGHT_TIMES = {"fast": 1.0, "slow": 8.0}


def test_times_of_devices_come_from_the_mean_of_the_rows_so_far() -> None:
    times = DeviceTimes.of(SLOW_AND_FAST, EIGHT_TIMES, {}, "m")
    rows = {"gpu0@a-1": 1 / 8, "gpu1@a-1": 1.0}  # which each has done, by its speed
    total_s = sum(rows[name] * factor for name, factor in times.factors.items())
    assert total_s / sum(rows.values()) == pytest.approx(1)
    assert times.factors["gpu0@a-1"] == pytest.approx(8 * times.factors["gpu1@a-1"])


def test_a_shard_of_a_slow_device_is_run_by_an_idle_faster_one_if_that_is_done_much_sooner() -> None:
    times = DeviceTimes.of(SLOW_AND_FAST, EIGHT_TIMES, {"gpu0@a-1": 1}, "m")
    assert late([1.0, 32.0, 35.0], Lateness(3.0, 5.0), times=times) == [1, 0]  # 45 s in all; 5.6 s on the fast one


@pytest.mark.parametrize(
    ("pool", "relative", "running"),
    [
        (SLOW_AND_FAST, EIGHT_TIMES, {"gpu1@a-1": 1}),  # the faster one is busy
        (mixed(("slow", 0.0), ("slow", 0.0)), {"slow": 1.0}, {}),  # none is faster
        (SLOW_AND_FAST, {"fast": 1.0}, {}),  # of the slow one nothing is known
        (SLOW_AND_FAST, {}, {}),
        (SLOW_AND_FAST, {"fast": 1.0, "slow": 1.9}, {}),  # it is not much faster
        (mixed(("slow", 0.0), ("fast", 30.0), loaded=False), EIGHT_TIMES, {}),  # it has to load the model
    ],
)
def test_a_shard_is_left_to_its_device_where_no_idle_one_would_be_done_much_sooner(
    pool: PoolView, relative: dict[str, float], running: dict[str, int]
) -> None:
    assert late([1.0], Lateness(3.0, 5.0), times=DeviceTimes.of(pool, relative, running, "m")) == []


def test_the_end_of_a_stage_may_have_stragglers() -> None:
    assert may_have_stragglers(ending())


@pytest.mark.parametrize(
    "changes",
    [
        {"planned": 0},
        {"shards_live": 3},
        {"shards_queued": 1, "shards_running": 1},
        {"rows_timed": 0, "busy_us": 0},
        {"state": "paused"},
        {"shards_live": 0, "shards_running": 0},
    ],
)
def test_a_stage_with_other_work_or_none_or_without_a_measure_has_no_stragglers(changes: dict[str, object]) -> None:
    assert not may_have_stragglers(ending(**changes))


@pytest.mark.parametrize("changes", [{"in_turn": True}, {"keeps_state": True}, {"max_at_once": 2}])
def test_where_shards_wait_for_one_another_by_design_none_is_a_straggler(changes: dict[str, object]) -> None:
    assert not may_have_stragglers(with_spec(**changes))


def test_rows_that_may_be_tried_only_once_are_not_run_a_second_time() -> None:
    assert not may_have_stragglers(with_spec(retry=RetryPolicy(max_attempts=1)))
