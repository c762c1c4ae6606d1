"""What the routes of language models share: the results of a request's rows, complete or as a stream."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill_coordinator.api.routes.openai.served import as_invalid_request
from batchmill_coordinator.api.routes.waiting import EventStream, unless_gone
from batchmill_coordinator.endpoints.generated import Generated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fastapi import Request

    from batchmill_coordinator.api.routes.context import Context
    from batchmill_coordinator.lane.call import LaneCall
    from batchmill_coordinator.lane.target import LaneTarget

DONE = b"data: [DONE]\n\n"


def read_results(results: bytes) -> list[Generated]:
    """Read the results of rows. Raises `InvalidRequest` if they have no text."""
    with as_invalid_request():
        return [Generated.of(row) for row in pa.ipc.open_stream(results).read_all().to_pylist()]


async def answer(request: Request, context: Context, target: LaneTarget, rows: list[dict[str, Any]]) -> list[Generated]:
    """Return the results of rows, as long as the client waits."""

    async def work() -> bytes:
        async with context.lane_call(target, rows) as call:
            return await call.results()

    generated = read_results(await unless_gone(request, work()))
    context.lane_metrics.generated(target.title, sum(row.usage.generated for row in generated))
    return generated


async def stream(
    request: Request,
    context: Context,
    target: LaneTarget,
    rows: list[dict[str, Any]],
    events: Callable[[LaneStream], AsyncIterator[bytes]],
) -> EventStream:
    """Begin to stream the answers to rows: what goes wrong before the first piece is an answer of its own."""
    held = AsyncExitStack()
    try:
        call = await held.enter_async_context(context.lane_call(target, rows, streams=True))
        opened = LaneStream(call, await unless_gone(request, call.next()), len(rows))
    except BaseException:
        await held.aclose()
        raise

    def count(generated: list[Generated]) -> None:
        context.lane_metrics.generated(target.title, sum(row.usage.generated for row in generated))

    opened.on_end = count
    return EventStream(events(opened), held, context.lane_headers)


class LaneStream:
    """The answers to the rows of a call, piece by piece. generated: all of them, once the last piece is read."""

    def __init__(self, call: LaneCall, first: tuple[int, str] | bytes, rows: int) -> None:
        self._call = call
        self._first: tuple[int, str] | bytes | None = first
        self._sent = [0] * rows  # characters
        self.generated: list[Generated] = []
        self.on_end: Callable[[list[Generated]], None] = lambda _: None

    async def pieces(self) -> AsyncIterator[tuple[int, str]]:
        """Yield each row with more text of its answer."""
        while True:
            found = self._first if self._first is not None else await self._call.next()
            self._first = None
            if isinstance(found, bytes):
                break
            row, text = found
            self._sent[row] += len(text)
            yield row, text
        self.generated = read_results(found)
        self.on_end(self.generated)
        for row, result in enumerate(self.generated):
            if rest := result.text[self._sent[row] :]:
                yield row, rest


def event(value: Any, name: str = "") -> bytes:
    """Return a server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()
