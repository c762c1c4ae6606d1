"""Waiting for an answer as long as the client does."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi.responses import StreamingResponse

from batchmill.errors import RequestTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from contextlib import AsyncExitStack

    from fastapi import Request

log = logging.getLogger(__name__)

T = TypeVar("T")

UNREAD_S = 15.0


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Return what `work` returns; it is cancelled when the client closes the connection. The body has been read."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise RequestTimeout("the client has closed the connection.")  # nobody reads it
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events. held: closed when the last one is sent, or the client has left, even before the first.

    A client that takes none of them for `UNREAD_S` is disconnected: what makes them is held for it.
    """

    def __init__(self, events: AsyncIterator[bytes], held: AsyncExitStack, headers: dict[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers | {"Cache-Control": "no-cache"})
        self._held = held

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events."""

        async def send_in_time(message: Any) -> None:
            async with asyncio.timeout(UNREAD_S):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except* TimeoutError:
            log.info("a client that reads nothing of its stream is disconnected")
        finally:
            await self._held.aclose()
