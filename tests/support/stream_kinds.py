"""Every kind of stream whose messages are rows, as the contract tests use them: a stream of its own each, filled."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.jobs.job import DEFAULT_TENANT
from batchmill.jobs.streams.source import Kafka, Nats, Push, RedisStream
from batchmill.ledger.streams import PushedRows, PushLimits
from batchmill.storage.named_stream_servers import NamedStreamServer, NamedStreamServers
from batchmill.workspace import stream_from_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from batchmill.jobs.streams.source import AnyStream
    from batchmill.ledger import Ledger
    from support.stream_servers import KafkaServer, NatsServer


class StreamKind(ABC):
    """A stream of one kind, empty at first."""

    servers = NamedStreamServers()

    @abstractmethod
    def source(self, **options: Any) -> AnyStream: ...

    @abstractmethod
    def add(self, rows: Sequence[object]) -> None:
        """Add rows, each a message; bytes are a message as it is."""

    @abstractmethod
    def delete_before(self, count: int) -> None:
        """Delete all but the rows behind the first `count` that were ever added."""


class RedisKind(StreamKind):
    def __init__(self, client: redis.Redis, key: str) -> None:
        self._redis = client
        self._key = key
        self._ids: list[Any] = []

    def source(self, **options: Any) -> AnyStream:
        return RedisStream(self._key, json_field="row", **options)

    def add(self, rows: Sequence[object]) -> None:
        self._ids += [self._redis.xadd(self._key, {"row": encoded(row)}) for row in rows]

    def delete_before(self, count: int) -> None:
        self._redis.xdel(self._key, *self._ids[:count])


class PushKind(StreamKind):
    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger.streams
        self._name = name
        self._sent = 0

    def source(self, **options: Any) -> AnyStream:
        return Push(self._name, **options)

    def add(self, rows: Sequence[object]) -> None:
        for row in rows:
            self._sent += 1
            data = stream_from_table(pa.Table.from_pylist([row]))
            sent = PushedRows(f"call-{self._sent}", 1, len(data), data)
            assert self._ledger.push(DEFAULT_TENANT, self._name, sent, PushLimits(10, 10**9))

    def delete_before(self, count: int) -> None:
        entries = self._ledger.pushed_entries(DEFAULT_TENANT, self._name, "0-0", limit=1000)
        self._ledger.trim_pushed(DEFAULT_TENANT, self._name, [one for one in entries if one.end <= count])


class KafkaKind(StreamKind):
    def __init__(self, server: KafkaServer, topic: str) -> None:
        self.servers = NamedStreamServers({"kafka": NamedStreamServer(url=server.url)})
        self._server = server
        self._topic = topic
        server.create(topic)

    def source(self, **options: Any) -> AnyStream:
        return Kafka(self._topic, **options)

    def add(self, rows: Sequence[object]) -> None:
        self._server.add(self._topic, [encoded(row) for row in rows])

    def delete_before(self, count: int) -> None:
        raise AssertionError(f"Tansu cannot delete {count} messages")


class NatsKind(StreamKind):
    def __init__(self, server: NatsServer, stream: str) -> None:
        self.servers = NamedStreamServers({"nats": NamedStreamServer(url=server.url)})
        self._server = server
        self._stream = stream
        server.create(stream)

    def source(self, **options: Any) -> AnyStream:
        return Nats(self._stream, **options)

    def add(self, rows: Sequence[object]) -> None:
        self._server.add(self._stream, [encoded(row) for row in rows])

    def delete_before(self, count: int) -> None:
        self._server.purge(self._stream, count + 1)


def encoded(row: object) -> bytes:
    """A row as a message has it."""
    return row if isinstance(row, bytes) else json.dumps(row).encode()
