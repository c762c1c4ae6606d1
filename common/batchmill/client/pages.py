"""Results, page by page: a cursor that the service hands on, and one page fetched ahead of the reader."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns import TypeConflictError, rows_of, widen_schemas, widen_table
from batchmill.errors import BatchmillError
from batchmill.job import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from batchmill.client.transport import Transport

ARROW_STREAM = "application/vnd.apache.arrow.stream"
JSON_LINES = "application/x-ndjson"
LONG_POLL_S = 25
DICT_ROWS = 1024
"""Rows turned into dicts at once: a dict takes many times the memory of its row in Arrow."""


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in input order, and where the next ones follow."""

    body: bytes  # in the format that was asked for
    rows: int
    next_cursor: str
    is_last: bool
    state: JobState | None  # the job's when the page was made; None if the service did not say

    def table(self) -> pa.Table:
        """The rows of an Arrow page, without a copy. Raises `BatchmillError` if the page is cut off."""
        try:
            table = pa.ipc.open_stream(pa.py_buffer(self.body)).read_all()
        except (pa.ArrowException, OSError) as error:  # an OSError where the bytes end too early
            raise BatchmillError(f"a page of results is no Arrow stream: {error}.") from error
        if table.num_rows != self.rows:
            raise BatchmillError(f"a page of results holds {table.num_rows} rows, expected {self.rows}.")
        return table

    def lines(self) -> bytes:
        """The rows of a JSON Lines page. Raises `BatchmillError` if the page is cut off."""
        if (found := self.body.count(b"\n")) != self.rows:
            raise BatchmillError(f"a page of results holds {found} lines, expected {self.rows}.")
        return self.body


async def pages(transport: Transport, path: str, content_type: str) -> AsyncGenerator[Page, None]:
    """All pages of the results at `path` up to the job's end, waiting for rows while it runs."""
    coming = asyncio.create_task(_fetch(transport, path, content_type, None))
    try:
        is_last = False
        while not is_last:
            page = await coming
            is_last = page.is_last
            if not is_last:
                coming = asyncio.create_task(_fetch(transport, path, content_type, page.next_cursor))
            yield page
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _fetch(transport: Transport, path: str, content_type: str, cursor: str | None) -> Page:
    query = {"wait_s": str(LONG_POLL_S)} | ({"cursor": cursor} if cursor is not None else {})
    answer = await transport.call("GET", path, query=query, accept=content_type)
    return _page(answer.headers, answer.body)


def _page(headers: Any, body: bytes) -> Page:
    try:
        state = headers.get("Batchmill-State")
        return Page(
            body=body,
            rows=int(headers["Batchmill-Rows"]),
            next_cursor=headers["Batchmill-Next-Cursor"],
            is_last=headers.get("Batchmill-End") == "true",
            state=JobState(state) if state else None,
        )
    except (KeyError, ValueError) as error:
        raise BatchmillError(
            f"a page of results came without its Batchmill headers ({error}).",
            hint="Check any proxy between this client and the service.",
        ) from error


def dicts(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """The rows of a table as dicts, `DICT_ROWS` at a time."""
    for start in range(0, table.num_rows, DICT_ROWS):
        yield rows_of(table.slice(start, DICT_ROWS))


def join(parts: list[pa.Table]) -> pa.Table:
    """One table of all parts, without a copy where their types agree; no part gives the empty table.

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
