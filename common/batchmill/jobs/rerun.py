"""The request to run the later stages of an ended job again, over what is kept of the stage before them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from batchmill.durations import Span
from batchmill.jobs.files import OutputSpec
from batchmill.jobs.frozen import Frozen, Name
from batchmill.jobs.job import MIN_BUFFER_BYTES, POOL_PATTERN, BatchPolicy, OnNull, RetryPolicy
from batchmill.jobs.sink import SinkSpec


class StageChange(Frozen):
    """What is to be different in a stage; what is None stays as it was. `params` replace those of the same names."""

    params: dict[str, Any] = Field(default={})
    carry: list[str] | None = None
    on_null: OnNull | None = None
    pool: Annotated[str, Field(pattern=POOL_PATTERN)] | None = None
    retry: RetryPolicy | None = None
    batch: BatchPolicy | None = None
    cache: bool | None = None
    keep: bool | None = None
    buffer_bytes: int | None = Field(default=None, ge=MIN_BUFFER_BYTES, le=2**50)


class RerunRequest(Frozen):
    """The body of `POST /v1/jobs/{id}/rerun`: the stages from `from_stage` on become a job of their own.

    It reads the results of the stage before, which must have been submitted with `keep`. `stages` says by name what
    is different in them. The results go to `output` or `sink`, or stay in the service.
    """

    from_stage: Name
    stages: dict[str, StageChange] = Field(default={})
    output: OutputSpec | None = None
    sink: SinkSpec | None = None
    name: Name | None = None
    priority: int | None = Field(default=None, ge=-100, le=100)
    deadline: Annotated[float, Span(gt=0, le=1e9)] | None = None
    deadline_at: float | None = Field(default=None, gt=0, lt=1e11)
    budget: float | None = Field(default=None, ge=1e-6, le=1e6)
    idempotency_key: Name | None = None
