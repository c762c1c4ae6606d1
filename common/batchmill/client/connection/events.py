"""The subset of server-sent events that a job's progress needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    name: str
    data: str


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
