"""Results over HTTP: a page at a time, as an Arrow stream or as JSON Lines."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import pyarrow as pa
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from batchmill.errors import InvalidRequest, NotFound
from batchmill.jobs.shard import ShardId
from batchmill.sinks import to_json_lines
from batchmill_coordinator.api.openapi import media, raises
from batchmill_coordinator.api.routes.context import Context, CurrentContext
from batchmill_coordinator.api.routes.routing import ApiRoute
from batchmill_coordinator.results.pages import CURSOR_PATTERN, ResultPage, parse_cursor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Encoder = Callable[[ResultPage], Iterator[bytes]]

router = APIRouter(prefix="/v1/jobs", tags=["results"], route_class=ApiRoute)

ARROW = "application/vnd.apache.arrow.stream"
JSON_LINES = "application/x-ndjson"
MAX_WAIT_S = 30.0
LOOK_INTERVAL_S = 1.0  # an event may be missed
Cursor = Annotated[str, Query(pattern=CURSOR_PATTERN)]
StageName = Annotated[str | None, Query(min_length=1, max_length=128)]
PIECE_BYTES = 1024 * 1024
"""A page is sent in pieces of about this many bytes: each is copied on its way, and several are under way at once."""
SMALL_BYTES = 64 * 1024  # a page of this size is sent in one piece


class StageStart(NamedTuple):
    """Where a page begins."""

    stage: str | None  # None: the last one
    shard_id: ShardId


PAGE = media(
    ARROW,
    JSON_LINES,
    Batchmill_Next_Cursor="Give it back as `cursor` for the next page.",
    Batchmill_End="`true` when nothing follows.",
    Batchmill_Rows="Rows in this page.",
    Batchmill_State="The job's state.",
)


@router.get("/{job_id}/results", response_class=StreamingResponse, responses={200: PAGE, **raises(NotFound)})
async def results(
    context: CurrentContext,
    request: Request,
    job_id: str,
    stage: StageName = None,
    cursor: Cursor = "",
    wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0,
) -> Response:
    """Read a page of results in input order, from `cursor` on; waits up to `wait_s` for one that has rows.

    `stage` names a stage of which the results are read, instead of the last one; those that the next stage has settled
    are skipped unless the stage keeps them.
    """
    media_type = _media_type(request.headers.get("accept", ARROW))
    start = StageStart(stage, parse_cursor(cursor))
    encode = _arrow_chunks if media_type == ARROW else _json_chunks
    page, body = await _page_within(context, job_id, start, wait_s, encode)
    headers = {
        "Batchmill-Next-Cursor": page.next_cursor,
        "Batchmill-End": "true" if page.at_end else "false",
        "Batchmill-Rows": str(page.rows),
        "Batchmill-State": page.state,
    }
    if body is not None:
        return Response(body, media_type=media_type, headers=headers)
    return StreamingResponse(context.pool.iterate(encode(page)), media_type=media_type, headers=headers)


def _media_type(accept: str) -> str:
    wanted = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    for name in wanted:
        if name in (ARROW, "*/*", "application/*"):
            return ARROW
        if name in (JSON_LINES, "application/jsonl", "application/json"):
            return JSON_LINES
    raise InvalidRequest(f"results cannot be given as {accept[:100]!r}.", hint=f"Accept {ARROW} or {JSON_LINES}.")


async def _page_within(
    context: Context, job_id: str, start: StageStart, wait_s: float, encode: Encoder
) -> tuple[ResultPage, bytes | None]:
    """The page, and its body if it is small enough to be made at once."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + wait_s
    with context.hub.watching(job_id) as event:
        while True:
            event.clear()
            page, body = await context.pool.run(_read, context, job_id, start, encode)
            left_s = ends_at - loop.time()
            if page.has_news or left_s <= 0:
                return page, body
            try:
                async with asyncio.timeout(min(left_s, LOOK_INTERVAL_S)):
                    await event.wait()
            except TimeoutError:
                continue


def _read(context: Context, job_id: str, start: StageStart, encode: Encoder) -> tuple[ResultPage, bytes | None]:
    page = context.page(job_id, start.stage, start.shard_id)
    return page, b"".join(encode(page)) if page.nbytes <= SMALL_BYTES else None


def _arrow_chunks(page: ResultPage) -> Iterator[bytes]:
    """An Arrow IPC stream in pieces of a record batch, so that no more of a page is in memory than is being sent."""
    pieces = _Pieces()
    with pa.ipc.new_stream(pa.PythonFile(pieces, "w"), page.schema) as stream:
        for table in page.tables:
            for batch in table.to_batches(max_chunksize=_piece_rows(table)):
                stream.write_batch(batch)
                yield pieces.take()
    yield pieces.take()


class _Pieces(io.RawIOBase):
    """A file that returns what was written to it since the last call."""

    def __init__(self) -> None:
        super().__init__()
        self._written: list[bytes] = []

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, data: Any) -> int:
        """Keep a copy: the writer may reuse its memory."""
        self._written.append(bytes(data))
        return len(self._written[-1])

    def take(self) -> bytes:
        """Return what was written."""
        taken, self._written = b"".join(self._written), []
        return taken


def _json_chunks(page: ResultPage) -> Iterator[bytes]:
    for table in page.tables:
        rows = _piece_rows(table)
        for first in range(0, table.num_rows, rows):
            yield to_json_lines(table.slice(first, rows))


def _piece_rows(table: pa.Table) -> int:
    nbytes: int = table.nbytes
    return max(1, PIECE_BYTES * int(table.num_rows) // max(1, nbytes))
