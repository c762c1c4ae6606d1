"""Files over HTTP, in the form that clients of OpenAI know: what batches read and write."""

from __future__ import annotations

import re
import shutil
from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from batchmill.errors import InvalidRequest, NotFound
from batchmill_coordinator.api.openapi import media, raises, request_body
from batchmill_coordinator.api.routes.context import Context, CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import BODIES, OpenAiRoute
from batchmill_coordinator.api.validation import explain
from batchmill_coordinator.batches.files import StoredFile, UploadPurpose

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=OpenAiRoute)

FORM = "multipart/form-data"
MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096
MAX_NAME_CHARS = 512
MIN_TTL_S, MAX_TTL_S = 3600, 2_592_000
BRACKETED = re.compile(r"expires_after\[(anchor|seconds)\]")
OCTETS = "application/octet-stream"

FileId = Annotated[str, Path(max_length=128)]
Order = Literal["asc", "desc"]


class ExpiresAfter(BaseModel):
    """When a file expires: this many seconds after it was created."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_TTL_S, le=MAX_TTL_S)


class FileForm(BaseModel):
    """The fields of the form besides the file itself."""

    model_config = ConfigDict(extra="ignore")

    purpose: UploadPurpose
    expires_after: ExpiresAfter | None = None


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[StoredFile]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


BODY = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"enum": list(get_args(UploadPurpose))},
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": {"type": "integer", "minimum": MIN_TTL_S, "maximum": MAX_TTL_S},
    },
    "required": ["file", "purpose"],
    "dependentRequired": {
        "expires_after[anchor]": ["expires_after[seconds]"],
        "expires_after[seconds]": ["expires_after[anchor]"],
    },
}


@router.post("", response_model=StoredFile, responses=BODIES, openapi_extra=request_body(BODY, FORM))
async def create(context: CurrentContext, request: Request) -> Response:
    """Upload a file as a form with `file`, `purpose` and, if it is to expire, `expires_after`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        raise InvalidRequest(f"the body's content type is {kind[:80]!r}, expected {FORM!r}.", field="file")
    await context.pool.run(context.files.require_room, context.access.tenant)
    form = request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    async with form as fields:
        uploaded = fields.get("file")
        if not isinstance(uploaded, UploadFile):
            raise InvalidRequest("'file' is a required property.", field="file")
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
        stored = await context.heavy_pool.run(_store, context, uploaded, _parse(texts))
    return json_response(stored)


def _parse(texts: dict[str, str]) -> FileForm:
    bracketed = {match[1]: value for name, value in texts.items() if (match := BRACKETED.fullmatch(name))}
    try:
        return FileForm.model_validate({**texts, **({"expires_after": bracketed} if bracketed else {})})
    except ValidationError as error:
        raise explain(error.errors(include_url=False)[0], FileForm) from None


def _store(context: Context, uploaded: UploadFile, form: FileForm) -> StoredFile:
    name = uploaded.filename or "file"
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InvalidRequest(f"the name of the file is {name[:80]!r}, expected at most {MAX_NAME_CHARS} characters.")

    def fill(path: str) -> None:
        with open(path, "wb") as target:  # noqa: PTH123  # the path is text
            shutil.copyfileobj(uploaded.file, target)

    ttl_s = form.expires_after.seconds if form.expires_after else None
    return context.files.store(context.access.tenant, name, form.purpose, uploaded.size or 0, ttl_s, fill)


@router.get("", response_model=FileList, responses=raises(NotFound))
def list_files(
    context: CurrentContext,
    limit: Annotated[int, Query(ge=0, le=10_000)] = 10_000,
    after: Annotated[str | None, Query(max_length=128)] = None,
    order: Order = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """List the files of the tenant by age, the newest first, with `order=asc` the oldest."""
    files, more = context.files.page(context.access.tenant, limit, after, purpose, oldest_first=order == "asc")
    first, last = (files[0].id, files[-1].id) if files else (None, None)
    return json_response(FileList(data=files, first_id=first, last_id=last, has_more=more))


@router.get("/{file_id}", response_model=StoredFile, responses=raises(NotFound))
def read(context: CurrentContext, file_id: FileId) -> Response:
    """Show what is known of a file."""
    return json_response(context.files.find(file_id, context.access)[0])


@router.get("/{file_id}/content", response_class=StreamingResponse, responses={200: media(OCTETS), **raises(NotFound)})
async def content(context: CurrentContext, file_id: FileId) -> Response:
    """Read the bytes of a file."""
    file, _ = await context.pool.run(context.files.find, file_id, context.access)
    pieces = context.pool.iterate(context.files.content(file))
    return StreamingResponse(pieces, media_type=OCTETS, headers={"Content-Length": str(file.bytes)})


@router.delete("/{file_id}", response_model=DeletedFile, responses=raises(NotFound))
def delete(context: CurrentContext, file_id: FileId) -> Response:
    """Delete a file. A batch over it that has begun continues without it."""
    context.files.delete(file_id, context.access)
    return json_response(DeletedFile(id=file_id))
