"""Uploads over HTTP: rows put into the blob store piece by piece, for a job to take."""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from batchmill.errors import InvalidRows, InvalidSource
from batchmill.job import JobSpec, new_id
from batchmill_coordinator.admission.admission import part_name
from batchmill_coordinator.api.routes.context import CurrentService, json_response
from batchmill_coordinator.service import Service

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

MAX_PARTS = 1_000_000
UploadId = Annotated[str, Path(pattern=r"^upl-[0-9a-z]{20}$")]


class UploadRequest(BaseModel):
    """What the upload is for, so that a mistake is told before the rows are sent."""

    spec: JobSpec


class Upload(BaseModel):
    """An open upload."""

    upload: str
    max_part_bytes: int


@router.post("", status_code=201, response_model=Upload)
def begin(request: UploadRequest, service: CurrentService) -> Response:
    """Begin an upload."""
    service.admission.check_spec(request.spec)
    upload_id = new_id("upl")
    service.ledger.jobs.begin_upload(upload_id)
    return json_response(Upload(upload=upload_id, max_part_bytes=service.settings.max_part_bytes), 201)


@router.delete("/{upload_id}", status_code=204)
def drop(upload_id: UploadId, service: CurrentService) -> Response:
    """Drop an upload that no job has taken; one that is not open is left as it is."""
    if service.ledger.jobs.drop_upload(upload_id):
        service.workspace.blobs.delete_folder(f"uploads/{upload_id}")
    return Response(status_code=204)


@router.put("/{upload_id}/parts/{number}", status_code=204)
async def put_part(
    upload_id: UploadId,
    number: Annotated[int, Path(ge=0, lt=MAX_PARTS)],
    request: Request,
    service: CurrentService,
) -> Response:
    """Put one part: an Arrow IPC file. Putting it again replaces it."""
    pieces = [chunk async for chunk in request.stream() if chunk]
    await run_in_threadpool(_store, service, upload_id, number, pieces)
    return Response(status_code=204)


def _store(service: Service, upload_id: str, number: int, pieces: list[bytes]) -> None:
    if not service.ledger.jobs.has_upload(upload_id):
        raise InvalidSource(
            f"there is no open upload {upload_id!r}: it was never begun, has expired, or belongs to a job.",
            hint="Begin one with POST /v1/uploads.",
            upload=upload_id,
        )
    body = pa.py_buffer(pieces[0] if len(pieces) == 1 else b"".join(pieces))
    try:
        pa.ipc.open_file(body).read_all().validate(full=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidRows(
            f"part {number} is no Arrow IPC file ({error}).", hint="Write it with pyarrow.ipc.new_file.", part=number
        ) from error
    service.workspace.blobs.put(part_name(upload_id, number), body)
