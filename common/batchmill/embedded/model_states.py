"""What becomes of the models that a service loads as it starts."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from batchmill.client.connection.transport import Transport
from batchmill.errors import BatchmillError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from batchmill.client.connection.service import ServiceAddress

INTERVAL_S = 0.5


def follow_models(address: ServiceAddress, names: Collection[str], report: Callable[[str, str | None], None]) -> None:
    """Call `report` with a model and None once it is ready, or each new error with which it cannot be loaded.

    Returns when all are ready, or the service does not answer.
    """
    with suppress(BatchmillError):
        asyncio.run(_follow(address, names, report))


async def _follow(address: ServiceAddress, names: Collection[str], report: Callable[[str, str | None], None]) -> None:
    transport = Transport(address)
    waiting, reported = set(names), dict[str, str]()
    try:
        while waiting:
            for model in (await transport.json("GET", "/v1/models", retry=False))["data"]:
                name, error = str(model["id"]), model["error"]
                if name in waiting and model["state"] == "ready":
                    waiting.remove(name)
                    report(name, None)
                elif name in waiting and error and reported.get(name) != error:
                    reported[name] = str(error)
                    report(name, str(error))
            if waiting:
                await asyncio.sleep(INTERVAL_S)
    finally:
        await transport.close()
