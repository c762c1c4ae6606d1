"""What the HTTP application does when a client behaves badly."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from batchmill.settings import CoordinatorSettings
from batchmill_coordinator.api.app import create_app

if TYPE_CHECKING:
    import pytest


def test_a_client_that_leaves_before_its_body_is_sent_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    service = SimpleNamespace(settings=CoordinatorSettings(tokens=("token",)), ledger=None)
    app = create_app(cast("Any", service))
    headers = [(b"authorization", b"Bearer token"), (b"content-type", b"application/json"), (b"content-length", b"9")]
    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "query_string": b"", "headers": headers}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    with caplog.at_level(logging.WARNING):
        asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert not caplog.records
