"""Results over HTTP: a page at a time, as an Arrow stream or as JSON Lines."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from batchmill.errors import InvalidRequest
from batchmill.shard import ShardId
from batchmill.sinks import to_json_lines
from batchmill_coordinator.api.routes.context import CurrentService
from batchmill_coordinator.results.pages import ResultPage, parse_cursor, read_page
from batchmill_coordinator.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Encoder = Callable[[ResultPage], Iterator[bytes]]

router = APIRouter(prefix="/v1/jobs", tags=["results"])

ARROW = "application/vnd.apache.arrow.stream"
JSON_LINES = "application/x-ndjson"
MAX_WAIT_S = 30.0
LOOK_AGAIN_S = 1.0  # an event may be missed
CHUNK_ROWS = 65_536
SMALL_BYTES = 64 * 1024  # a page of this size is sent in one piece


@router.get("/{job_id}/results", response_class=StreamingResponse)
async def results(
    job_id: str,
    service: CurrentService,
    cursor: str = "",
    wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0,
    accept: Annotated[str, Header()] = ARROW,
) -> Response:
    """A page of results in input order, from `cursor` on; waits up to `wait_s` for one that has rows."""
    media_type = _media_type(accept)
    start = parse_cursor(cursor)
    encode = _arrow_chunks if media_type == ARROW else _json_chunks
    page, body = await _page_within(service, job_id, start, wait_s, encode)
    headers = {
        "Batchmill-Next-Cursor": page.next_cursor,
        "Batchmill-End": "true" if page.at_end else "false",
        "Batchmill-Rows": str(page.rows),
        "Batchmill-State": page.state,
    }
    if body is not None:
        return Response(body, media_type=media_type, headers=headers)
    return StreamingResponse(encode(page), media_type=media_type, headers=headers)


def _media_type(accept: str) -> str:
    wanted = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    for name in wanted:
        if name in (ARROW, "*/*", "application/*"):
            return ARROW
        if name in (JSON_LINES, "application/jsonl", "application/json"):
            return JSON_LINES
    raise InvalidRequest(f"results cannot be given as {accept[:100]!r}.", hint=f"Accept {ARROW} or {JSON_LINES}.")


async def _page_within(
    service: Service, job_id: str, start: ShardId, wait_s: float, encode: Encoder
) -> tuple[ResultPage, bytes | None]:
    """The page, and its body if it is small enough to be made at once."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + wait_s
    with service.hub.watching(job_id) as event:
        while True:
            event.clear()
            page, body = await run_in_threadpool(_read, service, job_id, start, encode)
            left_s = ends_at - loop.time()
            if page.has_news or left_s <= 0:
                return page, body
            try:
                async with asyncio.timeout(min(left_s, LOOK_AGAIN_S)):
                    await event.wait()
            except TimeoutError:
                continue


def _read(service: Service, job_id: str, start: ShardId, encode: Encoder) -> tuple[ResultPage, bytes | None]:
    record = service.ledger.jobs.read(job_id)
    page = read_page(service.ledger, record, service.results(record), start)
    return page, b"".join(encode(page)) if page.nbytes <= SMALL_BYTES else None


def _arrow_chunks(page: ResultPage) -> Iterator[bytes]:
    """An Arrow IPC stream in pieces of a record batch, so that no more of a page is in memory than is being sent."""
    pieces = _Pieces()
    with pa.ipc.new_stream(pa.PythonFile(pieces, "w"), page.schema) as stream:
        for table in page.tables:
            for batch in table.to_batches(max_chunksize=CHUNK_ROWS):
                stream.write_batch(batch)
                yield pieces.take()
    yield pieces.take()


class _Pieces(io.RawIOBase):
    """A file that gives back what was written to it since last time."""

    def __init__(self) -> None:
        super().__init__()
        self._written: list[bytes] = []

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Keep a copy: the writer may use its memory again."""
        self._written.append(bytes(data))
        return len(self._written[-1])

    def take(self) -> bytes:
        """What was written."""
        taken, self._written = b"".join(self._written), []
        return taken


def _json_chunks(page: ResultPage) -> Iterator[bytes]:
    for table in page.tables:
        for first in range(0, table.num_rows, CHUNK_ROWS):
            yield to_json_lines(table.slice(first, CHUNK_ROWS))
