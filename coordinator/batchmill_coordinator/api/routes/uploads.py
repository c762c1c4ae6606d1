"""Uploads over HTTP: rows put into the blob store piece by piece, for a job to take."""

from __future__ import annotations

import tempfile
from typing import IO, Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict

from batchmill.jobs.job import JobForm
from batchmill_coordinator.api.openapi import request_body
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import BODIES, ApiRoute, json_body

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=ApiRoute)

MAX_PARTS = 1_000_000
WRITE_BYTES = 256 * 1024
ARROW_FILE = "application/vnd.apache.arrow.file"
UploadId = Annotated[str, Path(pattern=r"^upl-[0-9a-z]{20}$")]


class UploadRequest(BaseModel):
    """What the upload is for, so that a mistake is reported before the rows are sent."""

    model_config = ConfigDict(extra="forbid")

    spec: JobForm


class Upload(BaseModel):
    """An open upload."""

    upload: str
    max_part_bytes: int


@router.post("", status_code=201, response_model=Upload, responses=BODIES)
def begin(context: CurrentContext, request: Annotated[UploadRequest, json_body(UploadRequest)]) -> Response:
    """Begin an upload."""
    upload_id = context.begin_upload(request.spec)
    return json_response(Upload(upload=upload_id, max_part_bytes=context.max_part_bytes), 201)


@router.delete("/{upload_id}", status_code=204)
def drop(context: CurrentContext, upload_id: UploadId) -> Response:
    """Drop an upload that no job has taken; one that is not open is left as it is."""
    context.drop_upload(upload_id)
    return Response(status_code=204)


@router.put(
    "/{upload_id}/parts/{number}",
    status_code=204,
    responses=BODIES,
    openapi_extra=request_body({"type": "string", "format": "binary"}, ARROW_FILE),
)
async def put_part(
    context: CurrentContext,
    upload_id: UploadId,
    number: Annotated[int, Path(ge=0, lt=MAX_PARTS)],
    request: Request,
) -> Response:
    """Put one part: an Arrow IPC file. Putting it again replaces it."""
    await context.pool.run(context.require_upload, upload_id)
    with tempfile.NamedTemporaryFile(prefix="batchmill-part-", buffering=0) as part:
        await _receive(context, request, part)
        await context.heavy_pool.run(context.store_part, upload_id, number, part.name)
    return Response(status_code=204)


async def _receive(context: CurrentContext, request: Request, part: IO[bytes]) -> None:
    """Write the body to a file, so that only `WRITE_BYTES` of it are in memory at a time."""
    pending = bytearray()
    async for chunk in request.stream():
        pending += chunk
        if len(pending) >= WRITE_BYTES:
            await context.pool.run(_write, part, bytes(pending))
            pending.clear()
    await context.pool.run(_write, part, bytes(pending))


def _write(part: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[part.write(view) :]
