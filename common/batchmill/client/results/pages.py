"""Results page by page, with the service's cursor; one page is fetched ahead of the reader."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns import TypeConflictError, rows_of, widen_schemas, widen_table
from batchmill.errors import BatchmillError, DamagedData, NotFound
from batchmill.jobs.job import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

    from batchmill.client.connection.transport import Transport

    OnDamage = Callable[[BatchmillError], object]

ARROW_STREAM = "application/vnd.apache.arrow.stream"
JSON_LINES = "application/x-ndjson"
LONG_POLL_S = 25
_ARROW_MARK = b"\xff\xff\xff\xff"  # each message of an Arrow stream begins with it; JSON never does
DICT_ROWS = 1024
"""Rows converted to dicts at once: a dict takes many times the memory of its row in Arrow."""


@dataclass(frozen=True, slots=True)
class ResultPage:
    """Rows in input order, and the cursor of the next page."""

    body: bytes  # in the format that was asked for
    rows: int
    next_cursor: str
    is_last: bool
    state: JobState | None  # the job's when the page was made; None if the service did not report it

    def table(self) -> pa.Table:
        """Return the rows of an Arrow page, without a copy. Raises `BatchmillError` if the page is truncated."""
        try:
            table = pa.ipc.open_stream(pa.py_buffer(self.body)).read_all()
        except (pa.ArrowException, OSError) as error:  # an OSError where the bytes end too early
            raise BatchmillError(f"a page of results is not an Arrow stream: {error}.") from error
        if table.num_rows != self.rows:
            raise BatchmillError(f"expected {self.rows} rows in a page of results, got {table.num_rows}.")
        return table

    def lines(self) -> bytes:
        """Return the rows of a JSON Lines page. Raises `BatchmillError` if the page is truncated."""
        if (found := self.body.count(b"\n")) != self.rows:
            raise BatchmillError(f"expected {self.rows} lines in a page of results, got {found}.")
        return self.body

    def first(self, rows: int) -> ResultPage:
        """Return a page with the first `rows` rows at most."""
        if rows >= self.rows:
            return self
        if self.body.startswith(_ARROW_MARK):
            table = self.table().slice(0, rows)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            return replace(self, body=sink.getvalue().to_pybytes(), rows=rows)
        lines = self.lines().split(b"\n", rows)[:rows]
        return replace(self, body=b"".join(line + b"\n" for line in lines), rows=rows)


async def pages(
    transport: Transport,
    path: str,
    content_type: str,
    on_damage: OnDamage | None = None,
    stage: str | None = None,
    *,
    follow: bool = True,
) -> AsyncGenerator[ResultPage, None]:
    """Yield all pages of the results at `path`, waiting for rows until the job has ended.

    on_damage: called with the error of each part that is damaged or missing, which is left out then.
    stage: whose results they are; None: the last one's. follow: whether to wait; False: only what is there.
    """
    query = {"wait_s": str(LONG_POLL_S if follow else 0)} | ({} if stage is None else {"stage": stage})
    pending = asyncio.create_task(_fetch(transport, path, content_type, query, on_damage))
    try:
        is_last = False
        while not is_last:
            page = await pending
            is_last = page.is_last or not (follow or page.rows)
            if not is_last:
                query = query | {"cursor": page.next_cursor}
                pending = asyncio.create_task(_fetch(transport, path, content_type, query, on_damage))
            yield page
    finally:
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)


async def _fetch(
    transport: Transport, path: str, content_type: str, query: Mapping[str, str], on_damage: OnDamage | None
) -> ResultPage:
    while True:
        try:
            return await one_page(transport, path, content_type, query)
        except (DamagedData, NotFound) as error:
            cursor = error.details.get("next_cursor")
            if on_damage is None or cursor is None:
                raise
            on_damage(error)
            query = {**query, "cursor": cursor}


async def one_page(transport: Transport, path: str, content_type: str, query: Mapping[str, str]) -> ResultPage:
    """Read one page of results."""
    answer = await transport.call("GET", path, query=query, accept=content_type)
    return _page(answer.headers, answer.body)


def _page(headers: Any, body: bytes) -> ResultPage:
    try:
        state = headers.get("Batchmill-State")
        return ResultPage(
            body=body,
            rows=int(headers["Batchmill-Rows"]),
            next_cursor=headers["Batchmill-Next-Cursor"],
            is_last=headers.get("Batchmill-End") == "true",
            state=JobState(state) if state else None,
        )
    except (KeyError, ValueError) as error:
        raise BatchmillError(
            f"a page of results lacks its Batchmill headers ({error}).",
            hint="Check any proxy between this client and the service.",
        ) from error


def dicts(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a table as dicts, `DICT_ROWS` at a time."""
    for start in range(0, table.num_rows, DICT_ROWS):
        yield rows_of(table.slice(start, DICT_ROWS))


def join(parts: list[pa.Table]) -> pa.Table:
    """Join parts to one table, without a copy where their types agree; without parts, the empty table.

    Raises `BatchmillError` where a column changes its kind from part to part.
    """
    if not parts:
        return pa.table({})
    try:
        schema = reduce(widen_schemas, (part.schema for part in parts))
        return pa.concat_tables([widen_table(part, schema) for part in parts])
    except TypeConflictError as conflict:
        raise BatchmillError(
            f"the results have no one schema: {conflict}.",
            hint="Read them with results() or tables(), or let the operator return one type for the column.",
            column=conflict.column,
        ) from conflict
