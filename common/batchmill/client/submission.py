"""One submit: the order is checked here first, then its rows ride inline or are uploaded, then the job is posted."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import secrets
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from batchmill.client.transport import BufferPayload, Transport
from batchmill.errors import BatchmillError, InvalidOutput, InvalidParams, InvalidRequest, InvalidRows, InvalidSource
from batchmill.job import (
    DEFAULT_POOL,
    BatchPolicy,
    FileSource,
    JobRequest,
    JobSpec,
    JobStatus,
    OutputSpec,
    RetryPolicy,
    UploadSource,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill.client.rows import Piece

PUTS_IN_FLIGHT = 3
ARROW_FILE = "application/vnd.apache.arrow.file"


def make_spec(
    operator: str,
    *,
    source: Any,
    params: Any,
    output: Any,
    carry: Any,
    name: str | None,
    pool: str | None,
    priority: int,
    deadline: Any,
    retry: Any,
    batch: Any,
    cache: bool,
    budget: float | None,
    on_null: Literal["dead", "fail"],
) -> JobSpec:
    """The spec of a job from what a user gave `submit`. Raises the typed error of the argument that is wrong."""
    try:
        json.dumps(params, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidParams(f"params hold a value that JSON has no form for: {error}.") from error
    try:
        return JobSpec(
            operator=operator,
            params={} if params is None else params,
            source=_file_source(source),
            output=_output(output),
            carry=carry,
            name=name,
            pool=pool or DEFAULT_POOL,
            priority=priority,
            deadline_at=_deadline_at(deadline),
            retry=RetryPolicy() if retry is None else retry,
            batch=BatchPolicy() if batch is None else batch,
            cache=cache,
            budget=budget,
            on_null=on_null,
        )
    except ValidationError as error:
        raise _invalid(InvalidRequest, "", error) from error


def _deadline_at(deadline: Any) -> float | None:
    """Seconds since the epoch from what a user calls a deadline. Raises `InvalidRequest`."""
    now = time.time()
    match deadline:
        case None:
            return None
        case datetime():
            if deadline.tzinfo is None:
                raise InvalidRequest(
                    f"the deadline {deadline} has no time zone.",
                    hint="Give an aware datetime, such as datetime.now(UTC) + timedelta(hours=2), or a timedelta.",
                    field="deadline",
                )
            moment = deadline.timestamp()
        case timedelta():
            moment = now + deadline.total_seconds()
        case int() | float() if not isinstance(deadline, bool) and math.isfinite(deadline):
            moment = now + deadline
        case _:
            raise InvalidRequest(
                f"{deadline!r} is no deadline: expected an aware datetime, a timedelta, or seconds from now.",
                field="deadline",
            )
    if moment <= now:
        raise InvalidRequest(f"the deadline {deadline} is not in the future.", field="deadline")
    return moment


def _file_source(source: Any) -> FileSource | None:
    if source is None:
        return None
    fields = dict(source) if isinstance(source, dict) else {"path": source}
    try:
        fields["path"] = _absolute_paths(fields.get("path"), InvalidSource)
        return FileSource(**fields)
    except ValidationError as error:
        raise _invalid(InvalidSource, "source: ", error) from error


def _output(output: Any) -> OutputSpec | None:
    if output is None:
        return None
    fields = dict(output) if isinstance(output, dict) else {"path": output}
    try:
        fields["path"] = _absolute(fields.get("path"), InvalidOutput)
        return OutputSpec(**fields)
    except ValidationError as error:
        raise _invalid(InvalidOutput, "output: ", error) from error


def _absolute_paths(path: Any, error: type[InvalidRequest]) -> str | list[str]:
    if isinstance(path, (list, tuple)):
        return [_absolute(one, error) for one in path]
    return _absolute(path, error)


def _absolute(path: Any, error: type[InvalidRequest]) -> str:
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise error(f"{path!r} is no path: expected a path or a URI as text.", path=repr(path))
    text = str(path)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _invalid(kind: type[InvalidRequest], prefix: str, error: ValidationError) -> InvalidRequest:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return kind(f"{prefix}{where}: {first['msg']} (came: {first['input']!r}).", field=where)


class _UploadRequest(BaseModel):
    spec: JobSpec


class _UploadAnswer(BaseModel):
    upload: str
    max_part_bytes: int


class Submission:
    """One job on its way to the service: `hold` or `put` its rows, then `finish`; `abort` if that fails half way.

    Few rows are held back and ride in the one request that `finish` sends. Of more, up to `PUTS_IN_FLIGHT` pieces
    are on their way while the caller makes the next one.
    """

    def __init__(self, transport: Transport, spec: JobSpec, idempotency_key: str | None) -> None:
        self._transport = transport
        self._spec = spec
        self._key = idempotency_key or secrets.token_hex(16)
        self._held: Piece | None = None
        self._upload = ""
        self._max_part_bytes = 0
        self._parts = 0
        self._in_flight: set[asyncio.Task[None]] = set()

    def hold(self, piece: Piece) -> bool:
        """Keep the first rows back if they are few; False: they are to be `put`."""
        if self._held is not None or self._upload or piece.ipc_file is not None:
            return False
        self._held = piece
        return True

    async def put(self, piece: Piece) -> None:
        """Take the next rows; waits while enough of them are on their way."""
        held, self._held = self._held, None
        for one in (held, piece):
            if one is not None:
                await self._send(one)

    async def finish(self) -> JobStatus:
        """Wait for the rows to arrive, and submit the job."""
        held, self._held = self._held, None
        inline = held.as_inline() if held is not None else None
        if inline is not None:
            return await self._post(None, base64.b64encode(inline).decode())
        if held is not None:
            await self._send(held)
        while self._in_flight:
            await self._settle(asyncio.ALL_COMPLETED)
        source = UploadSource(upload=self._upload, parts=self._parts) if self._upload else self._spec.source
        return await self._post(source, None)

    async def abort(self) -> None:
        """Stop what is on its way, and drop what has arrived; nothing is submitted."""
        tasks, self._in_flight = self._in_flight, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._upload:
            with suppress(BatchmillError):  # an upload that stays behind is swept by the service
                await self._transport.call("DELETE", f"/v1/uploads/{self._upload}")

    async def _post(self, source: Any, rows_arrow: str | None) -> JobStatus:
        fields = {name: getattr(self._spec, name) for name in JobSpec.model_fields} | {"source": source}
        try:
            request = JobRequest(**fields, rows_arrow=rows_arrow, idempotency_key=self._key)
        except ValidationError as error:
            raise _invalid(InvalidRequest, "", error) from error
        answer = await self._transport.json("POST", "/v1/jobs", body=request)
        return self._transport.parse(JobStatus, answer)

    async def _send(self, piece: Piece) -> None:
        if not self._upload:
            await self._begin()
        body = piece.as_file()
        if body.size > self._max_part_bytes:
            raise InvalidRows(
                f"row {piece.first_row} takes {body.size:,} bytes; the service takes {self._max_part_bytes:,} at once.",
                hint="Keep large values in files, and give the rows their paths.",
                row=piece.first_row,
            )
        while len(self._in_flight) >= PUTS_IN_FLIGHT:
            await self._settle(asyncio.FIRST_COMPLETED)
        path = f"/v1/uploads/{self._upload}/parts/{self._parts}"
        self._parts += 1
        self._in_flight.add(asyncio.create_task(self._put_part(path, body)))

    async def _begin(self) -> None:
        body = _UploadRequest(spec=self._spec)
        answer = await self._transport.json("POST", "/v1/uploads", body=body)
        opened = self._transport.parse(_UploadAnswer, answer)
        self._upload, self._max_part_bytes = opened.upload, opened.max_part_bytes

    async def _put_part(self, path: str, body: pa.Buffer) -> None:
        await self._transport.call("PUT", path, body=BufferPayload(memoryview(body), ARROW_FILE))

    async def _settle(self, until: str) -> None:
        done, self._in_flight = await asyncio.wait(self._in_flight, return_when=until)
        failures = [error for task in done if (error := task.exception())]
        for error in failures:
            raise error
