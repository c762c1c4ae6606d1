"""What the leader exports about the work there is, from the jobs' records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.ledger.views.overview import QueueHead
from batchmill.telemetry.metrics import OTHER
from batchmill_coordinator.fleet.backlog import pool_loads
from batchmill_coordinator.metering.work import WorkSums, is_at_risk, names_of, shards_by_state, work_sums
from support.records import job_record, spec_of

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord

NOW_MS = 2_000_000


def record(job_id: str = "job-1", spec: dict[str, Any] | None = None, **changes: object) -> JobRecord:
    known = {"created_at": NOW_MS - 100_000, "started_at": NOW_MS - 90_000} | changes
    return job_record(job_id, spec_of("echo", **spec or {}), **known)


def sums(
    records: list[JobRecord], names: dict[str, str], waiting: dict[tuple[str, int], int] | None = None
) -> WorkSums:
    """The sums over these jobs, with nothing published."""
    heads = {pool: QueueHead(0, None) for pool in names}
    return work_sums(records, pool_loads(records, heads, NOW_MS), waiting or {}, names, NOW_MS / 1000)


NAMES = {"default": "default"}


def test_the_depth_counts_what_is_in_flight_and_leaves_out_what_may_not_run() -> None:
    busy = record(shards_live=9, shards_queued=2, shards_running=4, rows_total=1000, rows_done=300, rows_dead=50)
    held = record("job-2", state="paused", shards_live=5, rows_total=70)
    found = sums([busy, held], NAMES, {("job-1", 0): 1})
    assert found.depth_shards == {"default": 9}
    assert found.depth_rows == {"default": 650}
    assert found.rows["echo", "default", "left"] == 720
    assert found.jobs == {("echo", "default", "running"): 1, ("echo", "default", "paused"): 1}
    assert [found.shards["echo", "default", state] for state in ("planned", "queued", "running", "waiting")] == [
        7,
        2,
        4,
        1,
    ]


def test_a_pool_without_work_is_exported_as_empty() -> None:
    found = sums([], NAMES)
    assert (found.depth_shards, found.depth_rows, found.oldest_s) == ({"default": 0}, {"default": 0}, {"default": 0.0})


def test_a_shard_that_was_counted_a_moment_later_makes_no_number_negative() -> None:
    assert shards_by_state(record(shards_live=2, shards_running=2).first, 1)["planned"] == 0


def test_a_job_that_is_paused_at_its_budget_is_not_counted_as_one_that_a_user_paused() -> None:
    spent = record(state="paused", budget_nano=5, cost_nano=5)
    held = record("job-2", state="paused", budget_nano=5, cost_nano=4)
    free = record("job-3", state="paused", cost_nano=9)
    given_more = record("job-4", budget_nano=5, cost_nano=5)
    assert sums([spent, held, free, given_more], NAMES).over_budget == {"default": 1}
    assert sums([held], NAMES).over_budget == {"default": 0}


def test_a_deadline_is_at_risk_when_the_pace_does_not_reach_it_or_half_the_time_brought_nothing() -> None:
    soon = {"deadline_at": NOW_MS / 1000 + 50}
    assert not is_at_risk(record(rows_total=100, rows_done=50, paces="1000:2 1000:2"), NOW_MS / 1000)
    assert not is_at_risk(record(spec=soon, rows_total=100, rows_done=50, paces="1000:2 1000:2"), NOW_MS / 1000)
    assert is_at_risk(record(spec=soon, rows_total=100, rows_done=50, paces="2000:1 2000:1"), NOW_MS / 1000)
    assert is_at_risk(record(spec=soon, rows_total=100), NOW_MS / 1000)
    assert not is_at_risk(record(spec={"deadline_at": NOW_MS / 1000 + 200}, rows_total=100), NOW_MS / 1000)


def test_pools_beyond_a_number_go_together_and_those_with_workers_are_kept() -> None:
    names = names_of({"z"}, {"a", "b", "c", "z"}, 3)
    assert names == {"z": "z", "a": "a", "b": "b", "c": OTHER}
    assert sums([record(spec={"pool": "c"}, shards_live=2)], names).depth_shards[OTHER] == 2
