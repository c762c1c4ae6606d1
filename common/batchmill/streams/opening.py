"""Opens the stream that is the source of a job."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, assert_never

from batchmill.clock import SystemClock
from batchmill.errors import InvalidSource
from batchmill.jobs.job import DEFAULT_TENANT
from batchmill.jobs.streams.source import Folder, Kafka, Nats, Push, RedisStream
from batchmill.ledger.scripting.connection import connect
from batchmill.sources.type_names import types_of
from batchmill.storage.named_stream_servers import ServerKind
from batchmill.streams.pushed import PushReader
from batchmill.streams.redis_stream import RedisStreamReader
from batchmill.streams.stream_input import StreamInput
from batchmill.streams.watched_folder import WatchedFolder

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    import redis

    from batchmill.jobs.streams.source import AnyStream
    from batchmill.ledger import Ledger
    from batchmill.sources.base import EndlessSource
    from batchmill.streams.base import StreamReader
    from batchmill.streams.watched_folder import FileInspector
    from batchmill.workspace import Workspace


def open_stream(
    ledger: Ledger, workspace: Workspace, job_id: str, source: AnyStream, inspector: FileInspector | None = None
) -> EndlessSource:
    """Open the stream of a job, for the planner to cut and for workers to read. Asks the source nothing yet.

    inspector: reads users' files, for the planner.
    Raises `InvalidSource` for a type that is not known, or a stream that is not the tenant's.
    """
    types = types_of(source.types)
    match source:
        case RedisStream():
            client = connected(workspace.streams_url) if workspace.streams_url else ledger.streams.redis
            key = redis_key(source, ledger.streams.prefix)
            return StreamInput(source, RedisStreamReader(client, key, source, types), types, SystemClock())
        case Push():
            return StreamInput(source, PushReader(ledger.streams, workspace.blobs, source, types), types, SystemClock())
        case Folder():
            return WatchedFolder(job_id, source, workspace, ledger.streams, inspector, SystemClock())
        case Kafka() | Nats():
            return StreamInput(source, _server_reader(workspace, source, types), types, SystemClock())
        case never:
            assert_never(never)


def _server_reader(workspace: Workspace, source: Kafka | Nats, types: Mapping[str, pa.DataType]) -> StreamReader:
    """Return the reader of a stream of a named server, whose package is imported here: few installations need one."""
    servers, tenant = workspace.stream_servers, source.tenant or DEFAULT_TENANT
    try:
        if isinstance(source, Kafka):
            server = servers.get(source.server, ServerKind.KAFKA, source.topic, tenant)
            from batchmill.streams.kafka_client import kafka_client
            from batchmill.streams.kafka_stream import KafkaReader

            return KafkaReader(kafka_client(server), source, types)
        server = servers.get(source.server, ServerKind.NATS, source.stream, tenant)
        from batchmill.streams.nats_client import nats_client
        from batchmill.streams.nats_stream import NatsReader

        return NatsReader(nats_client(server), source, types)
    except ImportError as error:
        raise InvalidSource(
            f"{source.title} cannot be read: the service lacks the package for it ({error}).",
            hint=f"Install batchmill[{source.kind}] where coordinators and workers run.",
            field="source",
        ) from error


def redis_key(source: RedisStream, ledger_prefix: str) -> str:
    """Return the key of a Redis stream. Raises `InvalidSource` for one of the service's own keys."""
    own = source.tenant in (None, DEFAULT_TENANT)
    key = source.stream if own else f"{source.tenant}:{source.stream}"
    if ledger_prefix and key.startswith(ledger_prefix):
        raise InvalidSource(
            f"{source.title} is one of the service's own keys: they begin with {ledger_prefix!r}.",
            hint="Give the stream another name.",
            field="source.stream",
        )
    return key


@lru_cache(maxsize=4)
def connected(url: str) -> redis.Redis:
    """Return the client of a server of streams: one for the process, thread-safe."""
    return connect(url)
