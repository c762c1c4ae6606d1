"""A job's record as it is read from the ledger."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from batchmill.jobs.cost import Parts
from batchmill.jobs.job import DEFAULT_TENANT, JobError, JobState
from batchmill.ledger import JobRecord
from batchmill.ledger.formats.record import NO_COST, StageRecord
from support.records import job_record, spec_of

SPEC = spec_of("echo")
OTHERS = {JobRecord: {"id", "stages"}, StageRecord: {"spec", "cost", "number"}}
"""The fields that are not one field of a hash."""

EXAMPLES: dict[str, tuple[str, object]] = {
    "int": ("7", 7),
    "int | None": ("7", 7),
    "str": ("text", "text"),
    "str | None": ("text", "text"),
    "bool": ("1", True),
    "JobState": ("paused", JobState.PAUSED),
    "JobSpec": (SPEC.model_dump_json(), SPEC),
    "JobError | None": (JobError(code="c", message="m").model_dump_json(), JobError(code="c", message="m")),
    "tuple[CommitInterval, ...]": ("1500:20 2000:0", ((1500, 20), (2000, 0))),
}


@pytest.mark.parametrize("kind", [JobRecord, StageRecord])
def test_every_field_of_a_record_is_read_from_the_field_of_its_name(kind: type) -> None:
    for field in fields(kind):
        if field.name not in OTHERS[kind]:
            text, value = EXAMPLES[str(field.type)]
            given: dict[str, Any] = {field.name: text}
            record = job_record(**given) if field.name != "spec" else job_record()
            found = record if kind is JobRecord else record.first
            assert getattr(found, field.name) == value, field.name


def test_what_a_job_has_not_come_to_yet_is_none_nothing_or_empty() -> None:
    record = job_record(rows_total="", error="", paused_at="", created_at="")
    stage = record.first
    assert (record.spec, record.state, record.tenant) == (SPEC, JobState.RUNNING, DEFAULT_TENANT)
    assert (record.started_at, record.paused_at, stage.rows_total, record.error, record.replay_of) == (None,) * 5
    assert (record.created_at, stage.rows_done, stage.cursor, stage.planned, stage.cost) == (0, 0, "", False, NO_COST)


def test_a_stage_has_its_spec_its_number_and_its_cost() -> None:
    charged: dict[str, Any] = {"cost useful_us": "5", "cost rows": "2", "cost attempts": "1"}
    stage = job_record(**charged).first
    assert (stage.number, stage.spec) == (0, SPEC.first)
    assert (stage.cost.us, stage.cost.rows) == (Parts(useful=5), 2)


def test_rows_left_are_those_that_are_known_of() -> None:
    assert job_record(rows_total=100, rows_done=30, rows_dead=5).first.rows_left == 65
    assert job_record(rows_planned=40, rows_done=30).first.rows_left == 10
    assert job_record(rows_total=10, rows_planned=40, rows_done=30).first.rows_left == 10


def test_a_job_is_settled_when_its_input_is_planned_and_no_shard_is_live() -> None:
    assert job_record(planned=1).is_settled
    assert not job_record(planned=0).is_settled
    assert not job_record(planned=1, shards_live=1).is_settled
