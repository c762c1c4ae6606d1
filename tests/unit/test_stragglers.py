"""Which attempts count as stragglers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batchmill.jobs.job import RetryPolicy
from batchmill.jobs.shard import ShardId, ShardRef
from batchmill.ledger.formats.record import JobStage
from batchmill_coordinator.fleet.pools import PoolView
from batchmill_coordinator.fleet.worker_capacity import WorkerCapacity
from batchmill_coordinator.scheduling.stragglers import Lateness, may_have_stragglers, stragglers_of
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


def late(ages_s: list[float], lateness: Lateness, rows: int = 10) -> list[int]:
    refs = [ShardRef("job-1", 0, ShardId((number,)), 1) for number in range(len(ages_s))]
    running = {ref: (NOW_MS - round(age * 1000), rows) for ref, age in zip(refs, ages_s, strict=True)}
    return [ref.shard_id[0] for ref in stragglers_of(ending(), running, POOL, NOW_MS, lateness)]


def test_an_attempt_is_late_after_a_multiple_of_its_predicted_time_and_the_time_of_a_load() -> None:
    assert late([49.0, 51.0, 90.0], Lateness(3.0, 5.0)) == [2, 1]  # 3 times 10 s, and 20 s


def test_no_short_shard_is_late_before_what_it_does_beside_computing_is_allowed_for() -> None:
    assert late([25.0, 26.2], Lateness(3.0, 5.0), rows=1) == [1]  # 1 s, 5 s and 20 s


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
