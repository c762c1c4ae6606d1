"""A job's record as it is read from the ledger."""

from __future__ import annotations

from dataclasses import fields

from batchmill.job import DEFAULT_TENANT, JobError, JobSpec, JobState
from batchmill.ledger import JobRecord
from batchmill.ledger.record import READERS

SPEC = JobSpec(operator="echo")


def read(**told: object) -> JobRecord:
    known = {"spec": SPEC.model_dump_json(), "state": "running"} | told
    return JobRecord.from_hash("job-1", {name.encode(): str(value).encode() for name, value in known.items()})


def test_every_field_of_a_record_is_read() -> None:
    assert {field.name for field in fields(JobRecord)} == {*READERS, "id", "costs"}


def test_what_a_job_has_not_come_to_yet_is_none_nothing_or_empty() -> None:
    record = read(rows_total="", error="", paused_at="")
    assert (record.spec, record.state, record.tenant) == (SPEC, JobState.RUNNING, DEFAULT_TENANT)
    assert (record.started_at, record.paused_at, record.rows_total, record.error, record.replay_of) == (None,) * 5
    assert (record.created_at, record.rows_done, record.cursor, record.planned, record.costs) == (0, 0, "", False, ())


def test_numbers_moments_flags_and_words_are_read_as_such() -> None:
    error = JobError(code="operator_failed", message="no")
    record = read(created_at=5, started_at=7, rows_total=0, planned=1, rows_exact=0, tenant="acme", cursor="c")
    assert (record.created_at, record.started_at, record.rows_total) == (5, 7, 0)
    assert (record.planned, record.rows_exact, record.tenant, record.cursor) == (True, False, "acme", "c")
    assert read(error=error.model_dump_json()).error == error


def test_rows_left_are_those_that_are_known_of() -> None:
    assert read(rows_total=100, rows_done=30, rows_dead=5).rows_left == 65
    assert read(rows_planned=40, rows_done=30).rows_left == 10
    assert read(rows_total=10, rows_planned=40, rows_done=30).rows_left == 10
