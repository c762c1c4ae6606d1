"""Submit one job: check it, send its rows inline or upload them, then post it."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from batchmill.client.connection.transport import BufferPayload, Transport
from batchmill.client.submitting.stage import Stage
from batchmill.durations import moment_or_span
from batchmill.errors import BatchmillError, InvalidOutput, InvalidParams, InvalidRequest, InvalidRows, InvalidSource
from batchmill.insights.plans import Plan
from batchmill.jobs.files import FileSource, OutputSpec, UploadSource
from batchmill.jobs.job import JobForm, JobRequest
from batchmill.jobs.sink import TABLE_PATTERN, SinkSpec
from batchmill.jobs.status import CheckedJob, JobStatus
from batchmill.jobs.streams.source import STREAMS, Folder, StreamSource
from batchmill.wording import fault_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    import pyarrow as pa

    from batchmill.client.submitting.options import JobOptions
    from batchmill.client.submitting.rows import UploadPart

M = TypeVar("M", bound=BaseModel)
MAX_PUTS_IN_FLIGHT = 3
ARROW_FILE = "application/vnd.apache.arrow.file"


_CONVERTED = {"source", "output", "sink", "deadline", "idempotency_key", "stages", "webhooks"}
"""Options that are no field of a spec, or one of another form; the others are passed to it under their names."""


def make_spec(operator: str | None, options: JobOptions) -> JobForm:
    """Make the spec of a job from the options of `submit`. Raises the typed error of the option that is wrong."""
    try:
        json.dumps(options.get("params"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidParams(f"params contain a value without a JSON equivalent: {error}.") from error
    given = {name: value for name, value in options.items() if name not in _CONVERTED and value is not None}
    try:
        return JobForm.model_validate(
            {
                **given,
                "operator": operator,
                "stages": _stages(options.get("stages")),
                "source": None if options.get("source") is None else job_source(options["source"]),
                "output": output_spec(options.get("output")),
                "sink": sink_spec(options.get("sink")),
                "webhooks": _webhooks(options.get("webhooks")),
                **deadline_fields(options.get("deadline")),
            }
        )
    except ValidationError as error:
        raise _invalid(InvalidRequest, "", error) from error


def _stages(stages: Any) -> list[Any] | None:
    """Convert stages to what the form takes; anything else is left for the form to refuse."""
    if stages is None:
        return None
    if not isinstance(stages, Sequence) or isinstance(stages, str):
        raise InvalidRequest(f"stages: expected a list of Stage, got {stages!r:.80}.", field="stages")
    if not stages:
        raise InvalidRequest("stages: expected at least one Stage, got an empty list.", field="stages")
    for one in stages:
        if not isinstance(one, Stage | Mapping):
            hint = f"Write Stage({one!r:.80})." if isinstance(one, str) else ""
            raise InvalidRequest(f"stages: expected a list of Stage, got {one!r:.80} in it.", hint=hint, field="stages")
    return [one.form if isinstance(one, Stage) else one for one in stages]


def _webhooks(webhooks: Any) -> Any:
    """Convert names of webhooks to what the form takes; anything else is left for the form to refuse."""
    if webhooks is None:
        return []
    if isinstance(webhooks, str) or not isinstance(webhooks, Sequence):
        raise InvalidRequest(f"webhooks: expected a list, got {webhooks!r:.80}.", field="webhooks")
    return [{"name": one} if isinstance(one, str) else one for one in webhooks]


def deadline_fields(deadline: Any) -> dict[str, Any]:
    """Convert a deadline to a field of the form: a moment, or a span from when the job is accepted.

    Raises `InvalidRequest`.
    """
    moment = moment_or_span(deadline) if isinstance(deadline, str) else deadline
    match moment:
        case None if deadline is None:
            return {}
        case datetime():
            return {"deadline_at": _in_future(moment)}
        case timedelta():
            return {"deadline": moment.total_seconds()}
        case int() | float() if not isinstance(moment, bool) and math.isfinite(moment):
            return {"deadline": moment}
        case _:
            raise InvalidRequest(
                "deadline: expected a datetime with a time zone, a timedelta, seconds from now, or text such as 2h or "
                f"2030-01-31T17:00, got {deadline!r:.80}.",
                field="deadline",
            )


def _in_future(moment: datetime) -> float:
    if moment.tzinfo is None:
        raise InvalidRequest(
            f"the deadline {moment} has no time zone.",
            hint="Give a timedelta, or a datetime such as datetime.now(UTC) + timedelta(hours=2).",
            field="deadline",
        )
    if moment.timestamp() <= time.time():
        raise InvalidRequest(f"the deadline {moment} is not in the future.", field="deadline")
    return moment.timestamp()


def job_source(source: Any) -> FileSource | StreamSource:
    """Check a source as users write it: files, or a stream, which has a kind. Raises `InvalidSource`."""
    if isinstance(source, Folder):
        return source.model_copy(update={"path": _absolute(source.path, InvalidSource)})
    if isinstance(source, StreamSource):
        return source
    if not (isinstance(source, dict) and "kind" in source):
        return file_source(source)
    known = {get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in STREAMS}
    kind = known.get(source["kind"])
    if kind is None:
        raise InvalidSource(
            f"source: there is no kind {source['kind']!r:.80}.", hint=f"Known: {', '.join(known)}.", field="source.kind"
        )
    fields = {**source, "path": _absolute(source["path"], InvalidSource)} if "path" in source else source
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _invalid(InvalidSource, "source: ", error) from error


def file_source(source: Any) -> FileSource:
    """Check files as users name them, with absolute paths. Raises `InvalidSource`."""
    fields = dict(source) if isinstance(source, dict) else {"path": source}
    try:
        fields["path"] = _absolute_paths(fields.get("path"), InvalidSource)
        return FileSource(**fields)
    except ValidationError as error:
        raise _invalid(InvalidSource, "source: ", error) from error


def output_spec(output: Any) -> OutputSpec | None:
    """Check an output as users write it, with an absolute path. Raises `InvalidOutput`."""
    if output is None:
        return None
    fields = dict(output) if isinstance(output, dict) else {"path": output}
    try:
        fields["path"] = _absolute(fields.get("path"), InvalidOutput)
        return OutputSpec(**fields)
    except ValidationError as error:
        raise _invalid(InvalidOutput, "output: ", error) from error


def sink_spec(sink: Any) -> SinkSpec | None:
    """Check a sink as users write it, with an absolute path. Raises `InvalidOutput`."""
    if sink is None or isinstance(sink, SinkSpec):
        return sink
    fields = dict(sink) if isinstance(sink, dict) else {"to": os.fspath(sink)}
    to = fields.get("to")
    if isinstance(to, str) and to and TABLE_PATTERN.fullmatch(to) is None:
        fields["to"] = _absolute(to, InvalidOutput)
    try:
        return SinkSpec(**fields)
    except ValidationError as error:
        raise _invalid(InvalidOutput, "sink: ", error) from error


def _absolute_paths(path: Any, error: type[InvalidRequest]) -> str | list[str]:
    if isinstance(path, (list, tuple)):
        return [_absolute(one, error) for one in path]
    return _absolute(path, error)


def _absolute(path: Any, error: type[InvalidRequest]) -> str:
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise error(f"expected a path or a URI as text, got {path!r}.", path=repr(path))
    text = str(path)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _invalid(kind: type[InvalidRequest], prefix: str, error: ValidationError) -> InvalidRequest:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return kind(f"{prefix}{fault_of(first)}", field=where)


class _UploadRequest(BaseModel):
    spec: JobForm


class _UploadAnswer(BaseModel):
    upload: str
    max_part_bytes: int


class JobSender:
    """Sends one job to the service: `hold` or `put` its rows, then `finish`; `abort` after an error.

    A small first part is held and sent inline with the request of `finish`. Larger inputs are uploaded, up to
    `MAX_PUTS_IN_FLIGHT` parts at once while the caller makes the next part.
    """

    def __init__(self, transport: Transport, spec: JobForm, idempotency_key: str | None) -> None:
        self._transport = transport
        self._spec = spec
        self._key = idempotency_key or secrets.token_hex(16)
        self._held: UploadPart | None = None
        self._upload = ""
        self._max_part_bytes = 0
        self._parts = 0
        self._in_flight: set[asyncio.Task[None]] = set()

    def hold(self, part: UploadPart) -> bool:
        """Hold the first rows if they are few; return False if they must be `put`."""
        if self._held is not None or self._upload or part.ipc_file is not None:
            return False
        self._held = part
        return True

    async def put(self, part: UploadPart) -> None:
        """Send the next rows; wait while `MAX_PUTS_IN_FLIGHT` parts are being sent."""
        held, self._held = self._held, None
        for one in (held, part):
            if one is not None:
                await self._send(one)

    async def finish(self) -> JobStatus:
        """Wait until all rows have arrived, then submit the job."""
        return await self._finish(JobStatus, "/v1/jobs")

    async def plan(self) -> Plan:
        """Wait until all rows have arrived, then ask for the plan of the job."""
        return await self._finish(Plan, "/v1/plans")

    async def _finish(self, answer: type[M], path: str) -> M:
        held, self._held = self._held, None
        inline = held.as_inline() if held is not None else None
        if inline is not None:
            return await self._post(answer, path, None, base64.b64encode(inline).decode())
        if held is not None:
            await self._send(held)
        while self._in_flight:
            await self._await_puts(asyncio.ALL_COMPLETED)
        source = UploadSource(upload=self._upload, parts=self._parts) if self._upload else self._spec.source
        return await self._post(answer, path, source, None)

    async def send(self, parts: Iterator[UploadPart], finish: Callable[[], Awaitable[M]]) -> M:
        """Send all parts, then finish; after an error, delete what was sent. Parts are made in other threads."""
        try:
            while (part := await asyncio.to_thread(next, parts, None)) is not None:
                if not self.hold(part):
                    await self.put(part)
            return await finish()
        except BaseException:
            await self.abort()
            raise

    async def abort(self) -> None:
        """Cancel the upload and delete its parts; nothing is submitted."""
        tasks, self._in_flight = self._in_flight, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._upload:
            with suppress(BatchmillError):  # the service deletes an abandoned upload
                await self._transport.call("DELETE", f"/v1/uploads/{self._upload}")

    async def check(self) -> CheckedJob:
        """Let the service check the request over the files of its source; nothing is submitted."""
        request = self._request(self._spec.source, None)
        return self._transport.parse(CheckedJob, await self._transport.json("POST", "/v1/check", body=request))

    async def _post(self, answer: type[M], path: str, source: Any, rows_arrow: str | None) -> M:
        found = await self._transport.json("POST", path, body=self._request(source, rows_arrow))
        return self._transport.parse(answer, found)

    def _request(self, source: Any, rows_arrow: str | None) -> JobRequest:
        fields = {name: getattr(self._spec, name) for name in JobForm.model_fields} | {"source": source}
        try:
            return JobRequest(**fields, rows_arrow=rows_arrow, idempotency_key=self._key)
        except ValidationError as error:
            raise _invalid(InvalidRequest, "", error) from error

    async def _send(self, part: UploadPart) -> None:
        if not self._upload:
            await self._begin()
        body = part.as_file()
        if body.size > self._max_part_bytes:
            raise InvalidRows(
                f"row {part.first_row} has {body.size:,} bytes; the limit is {self._max_part_bytes:,} bytes.",
                hint="Store large values in files, and put their paths into the rows.",
                row=part.first_row,
            )
        while len(self._in_flight) >= MAX_PUTS_IN_FLIGHT:
            await self._await_puts(asyncio.FIRST_COMPLETED)
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

    async def _await_puts(self, until: str) -> None:
        done, self._in_flight = await asyncio.wait(self._in_flight, return_when=until)
        failures = [error for task in done if (error := task.exception())]
        for error in failures:
            raise error
