"""What fails over one job is that job's: the planner, the finisher and their count of deaths, on a real Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.errors import Overloaded, ServiceUnavailable, StorageError
from batchmill.jobs.job import JobError, JobForm, JobState, StageForm
from batchmill.ledger import Ledger
from batchmill.settings import CoordinatorSettings
from batchmill_coordinator.roles.job_guard import MAX_UNFORESEEN, JobGuard, apart
from support.growing_source import GrowingSource
from support.hand_clock import HandClock
from support.ledger_steps import end_plan, settle_one, submit
from support.planning import announce_worker, planner_over

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from batchmill.sources.base import Source
    from batchmill_coordinator.roles.planner import Planner

BAD, GOOD = "job-1", "job-2"
ODD: list[Exception] = [
    KeyError("column"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    MemoryError(),
    RecursionError("too deep"),
    AssertionError(),
    OSError(5, "Input/output error"),
]


@pytest.fixture
def ledger(redis_client: redis.Redis, prefix: str) -> Ledger:
    """A ledger with two jobs and a worker."""
    ledger = Ledger(redis_client, prefix)
    announce_worker(ledger)
    submit(ledger, BAD)
    submit(ledger, GOOD)
    return ledger


def planner_of(ledger: Ledger, prefix: str, url: str, folder: Path, sources: dict[str, Any]) -> Planner:
    settings = CoordinatorSettings(redis_url=url, redis_prefix=prefix, blob_root=str(folder), tokens=("secret",))

    def open_source(record: Any, _stage: int) -> Source:
        found = sources[record.id]
        if isinstance(found, BaseException):
            raise found
        source: Source = found
        return source

    return planner_over(ledger, settings, open_source)


@pytest.fixture
def good() -> GrowingSource:
    source = GrowingSource()
    source.write(10)
    return source


def test_a_job_that_needs_what_is_busy_waits_and_ends_neither_the_step_nor_itself(ledger: Ledger) -> None:
    clock = HandClock()
    guard = JobGuard(ledger, "its source could not be read", fails_jobs=True, clock=clock)
    for _ in range(MAX_UNFORESEEN + 5):
        with guard.over(BAD):
            raise Overloaded("all processes are busy")
        assert guard.is_set_aside(BAD)
        clock.now_s += 3600
    assert ledger.jobs.read(BAD).state is JobState.PENDING
    with pytest.raises(ServiceUnavailable), guard.over(BAD):
        raise ServiceUnavailable("the ledger is away")


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
def test_an_unforeseen_exception_in_planning_sets_aside_one_job_with_a_note_and_others_are_planned(
    ledger: Ledger, prefix: str, valkey_url: str, tmp_path: Path, good: GrowingSource, error: Exception
) -> None:
    planner = planner_of(ledger, prefix, valkey_url, tmp_path, {BAD: error, GOOD: good})
    planner.step(ledger.lead("me", 3600))
    assert ledger.jobs.read(GOOD).first.rows_planned == 10
    assert ledger.jobs.read(BAD).state is JobState.PENDING
    (entry,) = ledger.log.read(BAD).entries
    assert type(error).__name__ in entry.message


def test_a_job_of_which_the_planner_died_twice_fails_and_the_others_are_planned(
    ledger: Ledger, prefix: str, valkey_url: str, tmp_path: Path, good: GrowingSource
) -> None:
    other = GrowingSource()
    planner = planner_of(ledger, prefix, valkey_url, tmp_path, {BAD: other, GOOD: good})
    for died in (1, 2):  # two processes that began and were never through
        assert ledger.shards.begin_planning(BAD, is_again=False) == died
    planner.step(ledger.lead("me", 3600))
    record = ledger.jobs.read(BAD)
    assert (record.state, other.opened_at) == (JobState.FAILING, [])
    assert record.error is not None
    assert "ended 2 times in a row while it planned" in record.error.message
    assert ledger.jobs.read(GOOD).first.rows_planned == 10


def test_a_later_stage_is_planned_beside_the_source_without_being_counted(
    ledger: Ledger, prefix: str, valkey_url: str, tmp_path: Path, good: GrowingSource
) -> None:
    stages = [StageForm(operator="echo"), StageForm(operator="echo", name="last")]
    submit(ledger, "chain", spec=JobForm(stages=stages).spec())
    epoch = ledger.lead("me", 3600)
    settle_one(ledger, epoch, "chain", pa.table({"id": [1]}), 1)
    end_plan(ledger, epoch, "chain", 1)
    for _ in range(2):
        ledger.shards.begin_planning("chain", is_again=False)
    planner_of(ledger, prefix, valkey_url, tmp_path, {"chain": good, BAD: good, GOOD: good}).step(epoch)
    record = ledger.jobs.read("chain")
    assert (record.state, record.stages[1].rows_planned) == (JobState.RUNNING, 10)


def test_one_death_is_forgotten_once_the_job_is_planned(
    ledger: Ledger, prefix: str, valkey_url: str, tmp_path: Path, good: GrowingSource
) -> None:
    source = GrowingSource()
    source.write(5)
    planner = planner_of(ledger, prefix, valkey_url, tmp_path, {BAD: source, GOOD: good})
    epoch = ledger.lead("me", 3600)
    for _ in range(4):
        ledger.shards.begin_planning(BAD, is_again=False)
        source.write(1)
        planner.step(epoch)
        assert ledger.jobs.read(BAD).state is JobState.RUNNING
        assert ledger.shards.begin_planning(BAD, is_again=True) == 0
    assert ledger.shards.begin_planning("no such job", is_again=False) == 0


def test_an_outage_of_the_ledger_while_a_job_is_planned_counts_for_no_death(
    ledger: Ledger, prefix: str, valkey_url: str, tmp_path: Path, good: GrowingSource
) -> None:
    sources: dict[str, Any] = {BAD: ServiceUnavailable("away"), GOOD: good}
    planner = planner_of(ledger, prefix, valkey_url, tmp_path, sources)
    epoch = ledger.lead("me", 3600)
    for _ in range(5):
        with pytest.raises(ServiceUnavailable):
            planner.step(epoch)
    sources[BAD] = GrowingSource()
    planner.step(epoch)
    assert ledger.jobs.read(BAD).state is JobState.PENDING
    assert ledger.jobs.read(GOOD).first.rows_planned == 10


def guard_over(ledger: Ledger, clock: HandClock, *, fails_jobs: bool) -> JobGuard:
    return JobGuard(ledger, "it could not be planned", max_storage_failures=4, fails_jobs=fails_jobs, clock=clock)


def fail_once(guard: JobGuard, error: Exception) -> None:
    with guard.over(BAD):
        raise error


def test_a_job_is_tried_again_with_waits_and_fails_in_the_end(ledger: Ledger) -> None:
    clock = HandClock()
    guard = guard_over(ledger, clock, fails_jobs=True)
    for _ in range(MAX_UNFORESEEN - 1):
        fail_once(guard, KeyError("x"))
        assert guard.is_set_aside(BAD)
        assert ledger.jobs.read(BAD).state is JobState.PENDING
        clock.now_s += 120
        assert not guard.is_set_aside(BAD)
    fail_once(guard, KeyError("x"))
    record = ledger.jobs.read(BAD)
    assert record.state is JobState.FAILING
    assert record.error == JobError(code="error", message="It could not be planned: KeyError: 'x'")


def test_storage_is_tried_again_at_once_and_an_own_error_is_final(ledger: Ledger) -> None:
    guard = guard_over(ledger, HandClock(), fails_jobs=True)
    for _ in range(3):
        fail_once(guard, StorageError("the disk is away."))
        assert not guard.is_set_aside(BAD)
    assert ledger.jobs.read(BAD).state is JobState.PENDING
    fail_once(guard, StorageError("the disk is away."))
    assert ledger.jobs.read(BAD).state is JobState.FAILING


def test_a_role_that_fails_no_jobs_sets_them_aside_for_ever_longer(ledger: Ledger) -> None:
    clock = HandClock()
    guard = guard_over(ledger, clock, fails_jobs=False)
    for _ in range(10):
        fail_once(guard, ValueError("x"))
        assert guard.is_set_aside(BAD)
        clock.now_s += 61
    assert ledger.jobs.read(BAD).state is JobState.PENDING
    assert len(ledger.log.read(BAD).entries) == 1
    with guard.over(BAD):
        pass
    assert not guard.is_set_aside(BAD)


def test_only_an_outage_of_the_ledger_ends_a_step() -> None:
    with apart("a part"):
        raise KeyError("x")
    with pytest.raises(ServiceUnavailable), apart("a part"):
        raise ServiceUnavailable("away")
