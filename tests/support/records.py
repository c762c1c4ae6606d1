"""Records of jobs as they are read from the ledger, for tests without one."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from batchmill.jobs.job import JobForm
from batchmill.ledger import JobRecord
from batchmill.ledger.formats.record import StageRecord

if TYPE_CHECKING:
    from batchmill.jobs.job import JobSpec

_OF_STAGE = {field.name for field in fields(StageRecord)}


def spec_of(operator: str, **fields: Any) -> JobSpec:
    """The spec of a job of one operator, from the fields that its user writes."""
    return JobForm(operator=operator, **fields).spec()


SPEC = spec_of("echo")


def job_record(job_id: str = "job-1", spec: JobSpec = SPEC, **changes: object) -> JobRecord:
    """A running job of one stage, with these fields in its hash or in that of its stage."""
    known: dict[str, object] = {"spec": spec.model_dump_json(), "state": "running", "created_at": "1"} | changes
    stage = {name: value for name, value in known.items() if name in _OF_STAGE - {"spec"} or name.startswith("cost ")}
    job = {name: value for name, value in known.items() if name not in stage}
    return JobRecord.from_hashes(job_id, _hash(job), [_hash(stage)])


def _hash(found: dict[str, object]) -> dict[bytes, bytes]:
    return {name.encode(): str(value).encode() for name, value in found.items()}
