"""The servers with streams that the tests of a session share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.stream_servers import KafkaServer, NatsServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker with Kafka's protocol, for the session."""
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A NATS server with JetStream, for the session."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()
