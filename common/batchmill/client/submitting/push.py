"""Rows for a stream, in requests of a size that the service takes."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import ValidationError

from batchmill.client.submitting.rows import check_rows, upload_parts
from batchmill.errors import InvalidRequest, InvalidRows
from batchmill.jobs.streams.pushing import PushRequest
from batchmill.wording import fault_of

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""Of rows in a request: in base64 they are a third more, and a service takes 8 MiB unless it is set otherwise."""


def push_requests(rows: Any, producer: str | None, sequence: int | None) -> list[PushRequest]:
    """Make the requests that send these rows, one for a sequence. Raises `InvalidRows` or `InvalidRequest`."""
    check_rows(rows)
    pieces = [piece for part in upload_parts(rows) for piece in _pieces(part.table)]
    if sequence is not None and len(pieces) > 1:
        raise InvalidRows(
            f"the rows of a sequence have more than {MAX_REQUEST_BYTES:,} bytes, too many for one request.",
            hint="Send fewer rows at once, each under a sequence of their own.",
        )
    try:
        return [PushRequest(rows_arrow=_encoded(piece), producer=producer, sequence=sequence) for piece in pieces]
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequest(fault_of(first), field=".".join(map(str, first["loc"]))) from error


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    if table.nbytes <= MAX_REQUEST_BYTES or table.num_rows < 2:
        yield table
        return
    half = table.num_rows // 2
    yield from _pieces(table.slice(0, half))
    yield from _pieces(table.slice(half))


def _encoded(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode()
