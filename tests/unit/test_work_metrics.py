"""What the leader exports about the work there is, from the ledger's sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.ledger.formats.work import Work
from batchmill.ledger.views.overview import QueueHead
from batchmill.telemetry.metrics import OTHER
from batchmill_coordinator.fleet.backlog import pool_loads
from batchmill_coordinator.metering.work import WorkSums, is_at_risk, names_of, work_sums
from support.records import job_record, spec_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger import JobRecord

NOW_MS = 2_000_000


def record(job_id: str = "job-1", spec: dict[str, Any] | None = None, **changes: object) -> JobRecord:
    known = {"created_at": NOW_MS - 100_000, "started_at": NOW_MS - 90_000} | changes
    return job_record(job_id, spec_of("echo", **spec or {}), **known)


def sums(work: Work, names: dict[str, str], with_deadlines: Sequence[JobRecord] = ()) -> WorkSums:
    """The sums of this work, with nothing published."""
    heads = {pool: QueueHead(0, None) for pool in names}
    return work_sums(work, pool_loads(work, heads, NOW_MS), with_deadlines, names, NOW_MS / 1000)


NAMES = {"default": "default"}


def test_the_depth_counts_what_is_in_flight_and_leaves_out_what_may_not_run() -> None:
    work = Work.from_hash(
        {
            b"generation": b"ab12",
            b"job running default echo": b"1",
            b"job paused default echo": b"1",
            b"owner - acme": b"2",
            b"planned 1 default echo": b"2",
            b"queued 1 default echo": b"2",
            b"running 1 default echo": b"4",
            b"waiting 1 default echo": b"1",
            b"left 1 default echo": b"650",
            b"done 1 default echo": b"300",
            b"dead 1 default echo": b"50",
            b"planned 0 default echo": b"5",
            b"left 0 default echo": b"70",
        }
    )
    found = sums(work, NAMES)
    assert found.depth_shards == {"default": 9}
    assert found.depth_rows == {"default": 650}
    assert [found.rows["echo", "default", state] for state in ("left", "done", "dead")] == [720, 300, 50]
    assert found.jobs == {("echo", "default", "running"): 1, ("echo", "default", "paused"): 1}
    assert [found.shards["echo", "default", state] for state in ("planned", "queued", "running", "waiting")] == [
        7,
        2,
        4,
        1,
    ]
    assert work.tenants == {"acme"}


def test_a_pool_without_work_is_exported_as_empty() -> None:
    found = sums(Work(), NAMES)
    assert (found.depth_shards, found.depth_rows, found.oldest_s) == ({"default": 0}, {"default": 0}, {"default": 0.0})
    assert (found.over_budget, found.at_risk) == ({"default": 0}, {"default": 0})


def test_jobs_paused_at_their_budget_and_jobs_that_will_be_late_are_counted_by_pool() -> None:
    late = record(spec={"deadline_at": NOW_MS / 1000 + 50}, rows_total=100)
    stopping = record(spec={"deadline_at": NOW_MS / 1000 + 50}, rows_total=100, state="paused")
    found = sums(Work.from_hash({b"spent - default": b"2"}), NAMES, [late, stopping])
    assert (found.over_budget, found.at_risk) == ({"default": 2}, {"default": 1})


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
    work = Work.from_hash({b"planned 1 c echo": b"2", b"job running c echo": b"1"})
    assert sums(work, names).depth_shards[OTHER] == 2
    assert sums(work, names).jobs == {("echo", OTHER, "running"): 1}
