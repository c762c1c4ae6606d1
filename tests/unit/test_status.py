from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchmill.jobs.job import JOB_MOVES, JobForm, JobState
from batchmill.ledger import JobRecord
from batchmill_coordinator.roles.finisher import due_state, is_overdue
from batchmill_coordinator.status.status import status_of
from support.records import job_record, spec_of

if TYPE_CHECKING:
    from batchmill.jobs.status import JobStatus


def record(**changes: Any) -> JobRecord:
    return job_record(**({"created_at": "1000000", "started_at": "1001000"} | changes))


def test_time_left_follows_from_the_pace_of_late_and_has_a_range() -> None:
    running = record(
        rows_total="1000",
        rows_exact="1",
        rows_done="400",
        rows_dead="100",
        paces="1000:50 2000:100 1000:50",
        rate_at="1010000",
        rate_rows="500",
    )
    status = status_of(running, 1010)
    assert (status.rows_per_second, status.eta_s) == (50.0, 10.0)
    assert status.eta_low_s is not None
    assert status.eta_high_s is not None
    assert 2 < status.eta_low_s < 10 < status.eta_high_s < 50
    assert status_of(running, 1011).eta_s == 9.0


def test_nothing_is_said_of_the_time_left_while_a_job_waits_for_somebody() -> None:
    running = record(rows_total="1000", rows_exact="1", rows_done="400", paces="1000:50 2000:100 1000:50")
    assert status_of(running, 1010).eta_s is not None
    assert status_of(running, 1010, note="no worker").eta_s is None


def test_the_time_left_of_a_later_stage_follows_from_the_results_that_the_one_before_makes_of_a_row() -> None:
    spec = JobForm(stages=[{"operator": "chunk"}, {"operator": "embed"}]).spec().model_dump_json()
    known = {"spec": spec, "state": "running", "created_at": "1000000", "started_at": "1001000"}
    pace = {"paces": "1000:50 2000:100 1000:50", "rate_at": "1010000"}
    first = {"rows_total": "100", "rows_exact": "1", "rows_done": "40", "rows_out": "400", "rate_rows": "40", **pace}
    last = {"rows_done": "300", "rate_rows": "300", **pace}

    def chain(*stages: dict[str, str]) -> JobStatus:
        hashes = [{name.encode(): value.encode() for name, value in one.items()} for one in (known, *stages)]
        return status_of(JobRecord.from_hashes("job-1", hashes[0], hashes[1:]), 1010)

    status = chain(first, last)
    assert status.stages["chunk"].eta_s == (100 - 40) / 50
    assert status.stages["embed"].eta_s == status.eta_s == (100 * 10 - 300) / 50
    assert status.rows_total is None
    assert chain({**first, "rows_done": "0"}, last).stages["embed"].eta_s is None


def test_a_stage_shows_which_share_of_its_rows_is_done_or_dead() -> None:
    (stage,) = status_of(record(rows_total="1000", rows_exact="1", rows_done="400", rows_dead="100"), 1010).stages
    assert (stage.operator, stage.rows_total, stage.share) == ("echo", 1000, 0.5)
    assert status_of(record(rows_done="1"), 1010).stages[0].share is None
    assert status_of(record(state="completed", rows_done="1"), 1010).stages[0].share == 1.0


def test_dead_rows_are_counted_by_error_the_most_frequent_first_and_the_rest_together() -> None:
    counts = {f"Error{n}": n for n in range(1, 20)} | {"other": 100}
    shown = status_of(record(rows_dead="290"), 1010, dead_counts=counts).dead_by_error
    assert list(shown)[:2] == ["Error19", "Error18"]
    assert (len(shown), sum(shown.values())) == (10, 290)
    assert list(shown)[-1] == "other"


def test_before_a_rate_was_measured_it_is_the_average_since_the_start() -> None:
    assert status_of(record(rows_done="90"), 1010.0).rows_per_second == 10.0


def test_rows_that_an_earlier_job_left_are_no_pace_of_this_one() -> None:
    taken_over = {"rows_resumed": "900", "rate_at": "1001000", "rate_rows": "900"}
    assert status_of(record(rows_done="900", **taken_over), 1010.0).rows_per_second is None
    assert status_of(record(rows_done="990", **taken_over), 1010.0).rows_per_second == 10.0
    ended = record(state="completed", finished_at="1003000", rows_done="990", **taken_over)
    assert status_of(ended, 2000).rows_per_second == 45.0


def test_an_ended_job_shows_its_average_and_no_time_left() -> None:
    status = status_of(record(state="completed", finished_at="1003000", rows_done="90", paces="1000:1"), 2000)
    assert (status.rows_per_second, status.eta_s, status.is_final) == (45.0, None, True)


def test_an_estimated_total_says_so() -> None:
    status = status_of(record(rows_total="10", rows_exact="0"), 1001)
    assert (status.rows_total, status.rows_total_is_estimate) == (10, True)


def test_a_job_is_over_only_when_nothing_of_it_is_left() -> None:
    assert due_state(record(planned="1", shards_live="0")) is JobState.COMPLETED
    assert due_state(record(planned="0", shards_live="0")) is None
    assert due_state(record(planned="1", shards_live="1")) is None
    assert due_state(record(state="cancelling", shards_live="3", shards_running="1")) is None
    assert due_state(record(state="cancelling", shards_live="3")) is JobState.CANCELLED
    assert due_state(record(state="failing", shards_live="3")) is JobState.FAILED
    assert due_state(record(state="expiring", shards_live="3", shards_running="1")) is None
    assert due_state(record(state="expiring", shards_live="3")) is JobState.EXPIRED
    assert due_state(record(state="paused", planned="1", shards_live="1")) is None
    assert due_state(record(state="paused", planned="1", shards_live="0")) is JobState.COMPLETED


def test_a_paused_job_has_no_pace_and_no_time_left() -> None:
    status = status_of(
        record(state="paused", rows_total="1000", rows_done="400", paces="1000:50 1000:50", paused_at="1005000"), 1010
    )
    assert (status.rows_per_second, status.eta_s) == (None, None)


def test_the_average_of_a_job_does_not_count_its_pauses() -> None:
    ended = record(state="completed", finished_at="1013000", rows_done="90", paused_ms="10000")
    assert status_of(ended, 2000).rows_per_second == 45.0
    assert status_of(record(rows_done="90", paused_ms="10000"), 1013).rows_per_second == 45.0


@pytest.mark.parametrize("state", JobState)
def test_a_job_is_overdue_from_its_deadline_on_unless_it_is_stopping_or_over(state: JobState) -> None:
    spec = spec_of("echo", deadline_at=2000.0)
    late = record(state=state, spec=spec)
    assert status_of(late, 1).deadline_at == 2000.0
    assert not is_overdue(late, 1999.9)
    assert is_overdue(late, 2000.0) == (JobState.EXPIRING in JOB_MOVES[state])
    assert not is_overdue(record(state=state), 1e12)


def test_a_stage_whose_model_is_being_loaded_says_so() -> None:
    status = status_of(record(rows_total="10", rows_exact="1"), 1010, loading={0: 2})
    assert status.stages[0].workers_loading == 2
    assert status_of(record(), 1010).stages[0].workers_loading == 0
