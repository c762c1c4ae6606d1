"""Batches over HTTP, in the form that clients of OpenAI know."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from batchmill.durations import PATTERN
from batchmill.errors import Conflict, NotFound
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.files import ExpiresAfter
from batchmill_coordinator.api.routes.routing import BODIES, OpenAiRoute, json_body
from batchmill_coordinator.batches.record import Batch
from batchmill_coordinator.endpoints.known import URL_PATTERN

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=OpenAiRoute)

BatchId = Annotated[str, Path(max_length=128)]
MetadataName = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class BatchForm(BaseModel):
    """A batch as clients ask for it."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str = Field(min_length=1, max_length=128)
    # these patterns are in the schema alone: what does not match is refused in the words of OpenAI's API
    endpoint: str = Field(max_length=256, json_schema_extra={"pattern": URL_PATTERN})
    completion_window: str = Field(max_length=80, json_schema_extra={"pattern": PATTERN})
    metadata: dict[MetadataName, MetadataValue] | None = Field(default=None, max_length=16)
    output_expires_after: ExpiresAfter | None = None


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("", response_model=Batch, responses=BODIES)
def create(context: CurrentContext, request: Annotated[BatchForm, json_body(BatchForm)]) -> Response:
    """Create a batch over the lines of a file. What is wrong with the file, the batch says later."""
    after = request.output_expires_after
    batch = context.batches.create(
        context.access.tenant,
        endpoint=request.endpoint,
        input_file_id=request.input_file_id,
        completion_window=request.completion_window,
        metadata=request.metadata,
        output_ttl_s=after.seconds if after else None,
    )
    return json_response(batch)


@router.get("", response_model=BatchList, responses=raises(NotFound))
def list_batches(
    context: CurrentContext,
    limit: Annotated[int, Query(ge=0, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=128)] = None,
) -> Response:
    """List the batches of the tenant, the newest first."""
    found, more = context.batches.page(context.access.tenant, limit, after)
    first, last = (found[0].id, found[-1].id) if found else (None, None)
    return json_response(BatchList(data=found, first_id=first, last_id=last, has_more=more))


@router.get("/{batch_id}", response_model=Batch, responses=raises(NotFound))
def read(context: CurrentContext, batch_id: BatchId) -> Response:
    """Show a batch."""
    return json_response(context.batches.find(batch_id, context.access))


@router.post("/{batch_id}/cancel", response_model=Batch, responses=raises(NotFound, Conflict))
def cancel(context: CurrentContext, batch_id: BatchId) -> Response:
    """Stop a batch; what is done is kept. One that is cancelled stays as it is."""
    return json_response(context.batches.cancel(batch_id, context.access))
