"""The planner over an input that is still being written: it continues when there is more, and loses no row."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.job import JobState
from batchmill.jobs.shard import ShardId, ShardRef
from batchmill.ledger import Ledger
from batchmill.settings import CoordinatorSettings
from batchmill_coordinator.roles.leadership import Leadership
from batchmill_coordinator.roles.role import RoleThread
from support.growing_source import GrowingSource
from support.hand_clock import HandClock
from support.ledger_steps import submit
from support.planning import announce_worker, planner_over
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from batchmill_coordinator.roles.planner import Planner

JOB = "job-1"


@pytest.fixture
def settings(valkey_url: str, prefix: str, tmp_path: Path) -> CoordinatorSettings:
    return CoordinatorSettings(redis_url=valkey_url, redis_prefix=prefix, blob_root=str(tmp_path), tokens=("secret",))


@pytest.fixture
def ledger(redis_client: redis.Redis, prefix: str) -> Ledger:
    """A ledger with a job, which this process leads, and a worker that could take many shards."""
    ledger = Ledger(redis_client, prefix)
    announce_worker(ledger, shards_at_once=1000)
    submit(ledger)
    return ledger


@pytest.fixture
def source() -> GrowingSource:
    return GrowingSource()


def planner(ledger: Ledger, settings: CoordinatorSettings, source: GrowingSource) -> Planner:
    return planner_over(ledger, settings, lambda _record, _stage: source)


def planned_ids(ledger: Ledger, source: GrowingSource) -> list[int]:
    """The ids of all rows in shards, read as a worker would, in the order of the shards."""
    ids: list[int] = []
    for number in range(ledger.jobs.read(JOB).first.shards_planned):
        shard = ledger.shards.read(ShardRef(JOB, 0, ShardId((number,)), 0))
        assert shard is not None
        assert (shard.first_row, shard.stage) == (len(ids), 0)
        rows = source.read(shard.slices).column("id").to_pylist()
        assert len(rows) == shard.rows
        ids += rows
    return ids


def test_rows_that_are_written_between_steps_are_planned_once_each(
    ledger: Ledger, settings: CoordinatorSettings, source: GrowingSource
) -> None:
    epoch = ledger.lead("me", 3600)
    role, rng, written = planner(ledger, settings, source), random.Random(7), 0
    for _ in range(20):
        rows = rng.choice((0, 0, 1, 2, 70, 300))
        source.write(rows)
        written += rows
        role.step(epoch)
        record = ledger.jobs.read(JOB)
        assert (record.first.rows_planned, record.first.planned) == (written, False)
    assert source.opened_at == [""], "the source is kept open while there is nothing yet"
    assert source.not_yet >= 20
    source.close()
    role.step(epoch)
    record = ledger.jobs.read(JOB)
    assert (record.first.planned, record.first.rows_total, record.first.rows_exact) == (True, written, True)
    assert planned_ids(ledger, source) == [*range(written)]


def test_another_leader_continues_at_the_row_where_the_input_had_ended(
    ledger: Ledger, settings: CoordinatorSettings, source: GrowingSource
) -> None:
    first, second = planner(ledger, settings, source), planner(ledger, settings, source)
    epoch = ledger.lead("me", 3600)
    source.write(100)
    first.step(epoch)
    second.step(epoch)
    source.write(50)
    second.step(epoch)
    first.step(epoch)  # its open source is behind the ledger's cursor
    source.write(25)
    source.close()
    first.step(epoch)
    assert source.opened_at == ["", "100", "150"]
    assert ledger.jobs.read(JOB).first.planned
    assert planned_ids(ledger, source) == [*range(175)]


def test_a_job_whose_input_has_no_row_yet_is_not_started_and_does_not_end(
    ledger: Ledger, settings: CoordinatorSettings, source: GrowingSource
) -> None:
    epoch = ledger.lead("me", 3600)
    role = planner(ledger, settings, source)
    role.step(epoch)
    record = ledger.jobs.read(JOB)
    assert (record.state, record.first.planned, record.first.shards_planned) == (JobState.PENDING, False, 0)
    source.close()
    role.step(epoch)
    record = ledger.jobs.read(JOB)
    assert (record.first.planned, record.first.shards_planned, record.first.rows_total) == (True, 0, 0)


@pytest.fixture
def thread(ledger: Ledger, settings: CoordinatorSettings, source: GrowingSource) -> Iterator[RoleThread]:
    """The planner's thread in a leading coordinator, which looks by itself only once an hour."""
    role = planner(ledger, settings, source)
    role.period_s = 3600.0
    leadership = Leadership(ledger, "me", 60.0, HandClock(), lambda: None)
    leadership.renew()
    thread = RoleThread(role, leadership)
    thread.start()
    yield thread
    thread.stop()


def test_the_planner_wakes_when_the_stage_before_has_committed_more_rows(
    ledger: Ledger, thread: RoleThread, source: GrowingSource
) -> None:
    thread.wake()
    until(lambda: source.not_yet > 0, "a look at the empty input")
    for rows in (10, 25):
        source.write(rows)
        thread.notify("committed")
        until(lambda: ledger.jobs.read(JOB).first.rows_planned == source.rows, "the planning of new rows")
    source.close()
    thread.notify("committed")
    until(lambda: ledger.jobs.read(JOB).first.planned, "the end of the planning")
    assert planned_ids(ledger, source) == [*range(35)]
