"""Server-sent events to clients that read nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from batchmill_coordinator.api.routes import waiting
from batchmill_coordinator.api.routes.waiting import EventStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest


def test_what_is_held_for_a_client_that_reads_nothing_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "UNREAD_S", 0.01)
    released, sent = list[str](), list[str]()

    async def events() -> AsyncIterator[bytes]:
        while True:
            yield b"data: {}\n\n"

    async def never() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            await never()

    async def stream() -> None:
        held = AsyncExitStack()
        held.callback(released.append, "the generation")
        await EventStream(events(), held, {})({"type": "http", "asgi": {"spec_version": "2.3"}}, never, send)

    asyncio.run(asyncio.wait_for(stream(), 60))
    assert released == ["the generation"]
    assert sent == ["http.response.start", "http.response.body"]
