"""What becomes of the models that a service loads as it starts."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

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
    waiting, errors = set(names), dict[str, str]()
    try:
        while waiting:
            models = (await transport.json("GET", "/v1/models", retry=False))["data"]
            for model in [one for one in models if one["id"] in waiting]:
                _report_change(model, waiting, errors, report)
            await asyncio.sleep(INTERVAL_S if waiting else 0)
    finally:
        await transport.close()


def _report_change(
    model: dict[str, Any], waiting: set[str], errors: dict[str, str], report: Callable[[str, str | None], None]
) -> None:
    """Report a model that is ready now, or an error that was not reported before."""
    name, error = str(model["id"]), model["error"]
    if model["state"] == "ready":
        waiting.remove(name)
        report(name, None)
    elif error and errors.get(name) != error:
        errors[name] = str(error)
        report(name, str(error))
