"""The planner plans several stages side by side, and none of them holds up the others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from batchmill.jobs.job import JobState
from batchmill.settings import CoordinatorSettings
from batchmill.sources import InlineSource
from batchmill_coordinator.roles.planner import MAX_THREADS, Planner
from support.ledger_steps import submit
from support.planning import announce_worker, planner_over
from support.records import spec_of
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.sources.base import Source

ROWS = pa.table({"id": [1, 2, 3]})


class Sources:
    """Sources of three rows; those of jobs named `slow…` open only when they may."""

    def __init__(self) -> None:
        self.may_open = threading.Event()

    def open(self, record: JobRecord, _stage: int) -> Source:
        if record.id.startswith("slow"):
            assert self.may_open.wait(60)
        return InlineSource(ROWS)


@pytest.fixture
def sources() -> Iterator[Sources]:
    sources = Sources()
    yield sources
    sources.may_open.set()


def planner(ledger: Ledger, settings: CoordinatorSettings, sources: Sources) -> Planner:
    announce_worker(ledger)
    return planner_over(ledger, settings, sources.open)


@pytest.fixture
def settings(valkey_url: str, prefix: str, tmp_path: Path) -> CoordinatorSettings:
    return CoordinatorSettings(redis_url=valkey_url, redis_prefix=prefix, blob_root=str(tmp_path / "blobs"))


def stepped(role: Planner, epoch: int) -> bool:
    role.step(epoch)
    return True


def is_planned(ledger: Ledger, job_id: str) -> bool:
    return ledger.jobs.read(job_id).first.planned


def test_slow_sources_delay_only_themselves_and_leave_threads_to_other_tenants(
    ledger: Ledger, settings: CoordinatorSettings, sources: Sources
) -> None:
    epoch, role = ledger.lead("me", 3600), planner(ledger, settings, sources)
    slow = [submit(ledger, f"slow-{number}", tenant="slow") for number in range(MAX_THREADS)]
    role.step(epoch)
    submit(ledger, "quick", tenant="other")
    role.step(epoch)
    assert is_planned(ledger, "quick")
    assert not any(is_planned(ledger, job_id) for job_id in slow)

    sources.may_open.set()
    until(lambda: stepped(role, epoch) and all(is_planned(ledger, job_id) for job_id in slow), "all are planned")
    assert [ledger.jobs.read(job_id).first.rows_planned for job_id in slow] == [3] * MAX_THREADS


def test_a_slow_source_that_a_deposed_leader_still_reads_adds_nothing(
    ledger: Ledger, settings: CoordinatorSettings, sources: Sources
) -> None:
    first = planner(ledger, settings, sources)
    submit(ledger, "slow-1")
    first.step(ledger.lead("me", 3600))
    ledger.resign("me")
    second, epoch = planner(ledger, settings, Sources()), ledger.lead("you", 60)
    sources.may_open.set()
    until(lambda: stepped(first, epoch - 1) and not first._running, "the deposed leader is through")
    assert ledger.jobs.read("slow-1").first.shards_planned == 0

    second._open_source = lambda _record, _stage: InlineSource(ROWS)
    second.step(epoch)
    record = ledger.jobs.read("slow-1")
    assert (record.first.rows_planned, record.first.shards_planned, record.state) == (3, 1, JobState.RUNNING)


def test_jobs_of_a_pool_without_workers_do_not_hold_up_another_pool(
    ledger: Ledger, settings: CoordinatorSettings, sources: Sources
) -> None:
    epoch, role = ledger.lead("me", 3600), planner(ledger, settings, sources)
    for number in range(90):
        submit(ledger, f"nobody-{number:02}", spec=spec_of(operator="echo", pool="nobody", priority=100))
    submit(ledger, "quick")
    role.step(epoch)
    assert is_planned(ledger, "quick")
    role.step(epoch)
    assert sum(is_planned(ledger, f"nobody-{number:02}") for number in range(90)) in range(1, 20), "a few in a step"
