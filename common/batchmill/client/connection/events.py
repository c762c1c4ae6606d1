"""The subset of server-sent events that a job's progress needs."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from batchmill.client.connection.transport import Transport

SILENCE_S = 35.0  # the service sends a comment every 15 s, so a longer silence means a dead connection


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    name: str
    data: str


async def read_events(transport: Transport, path: str) -> AsyncGenerator[Event, None]:
    """Yield the events at a path of the service, until the connection ends. Raises what `Transport.open` raises."""
    stream = transport.open("GET", path, accept="text/event-stream", read_timeout_s=SILENCE_S)
    async with stream as response, aclosing(server_sent_events(response.content)) as events:
        async for event in events:
            yield event


async def server_sent_events(lines: AsyncIterable[bytes]) -> AsyncGenerator[Event, None]:
    """Yield the events of a `text/event-stream` from its lines; comments and unknown fields are ignored.

    An incomplete event at the end of the stream is dropped, as the standard says (WHATWG HTML, section 9.2.6).
    """
    name, data = "message", list[str]()
    async for line in lines:
        text = line.decode().rstrip("\r\n")
        if not text:
            if data:
                yield Event(name, "\n".join(data))
            name, data = "message", []
            continue
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
