"""Reruns: the later stages of an ended job as the request of a job over what is kept of the stage before them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from batchmill.errors import InvalidRequest, did_you_mean
from batchmill.jobs.files import ResultsSource
from batchmill.jobs.job import JobRequest, StageForm
from batchmill.jobs.stages import FIRST_STAGE, stage_called
from batchmill.wording import fault_of

if TYPE_CHECKING:
    from batchmill.jobs.job import JobSpec, StageSpec
    from batchmill.jobs.rerun import RerunRequest, StageChange
    from batchmill.ledger import JobRecord


def job_request(record: JobRecord, request: RerunRequest) -> JobRequest:
    """Return the request of the job that a rerun is. Raises `InvalidRequest`."""
    spec = record.spec
    first = _first(spec, request.from_stage)
    again = spec.computing[first:]
    titles = [stage.title for stage in again]
    for name in request.stages:
        if name not in titles:
            raise InvalidRequest(
                f"stages: {name!r} is not run again; what is: {', '.join(titles)}.",
                hint=did_you_mean(name, titles),
                field="stages",
            )
    try:
        return JobRequest(
            stages=[_form(stage, request.stages.get(stage.title)) for stage in again],
            source=_source(record, first),
            output=request.output,
            sink=request.sink,
            name=request.name or spec.name,
            priority=spec.priority if request.priority is None else request.priority,
            deadline=request.deadline,
            deadline_at=request.deadline_at,
            budget=request.budget,
            any_version=spec.any_version,
            idempotency_key=request.idempotency_key,
        )
    except ValidationError as error:
        raise InvalidRequest(f"the job that it would be is not valid: {fault_of(error.errors()[0])}") from error


def _first(spec: JobSpec, name: str) -> int:
    number = stage_called(spec, name)
    if number >= len(spec.computing):
        raise InvalidRequest(
            f"{name!r} is a stage of the sink, which runs with the others only.",
            hint="Name one of the other stages, and give `sink`.",
            field="from_stage",
        )
    return number


def _source(record: JobRecord, first: int) -> ResultsSource:
    if first > FIRST_STAGE:
        return ResultsSource(job=record.id, stage=record.spec.stages[first - 1].title)
    if isinstance(record.spec.source, ResultsSource):
        return record.spec.source
    raise InvalidRequest(
        f"{record.spec.first.title!r} is the first stage of job {record.id}: nothing was made before it.",
        hint="Submit the job again.",
        field="from_stage",
    )


def _form(stage: StageSpec, change: StageChange | None) -> StageForm:
    fields = {name: getattr(stage, name) for name in StageForm.model_fields}
    if change is not None:
        changed = {name: getattr(change, name) for name in type(change).model_fields}
        fields |= {name: value for name, value in changed.items() if value is not None}
        fields["params"] = {**stage.params, **change.params}
    return StageForm(**fields)
