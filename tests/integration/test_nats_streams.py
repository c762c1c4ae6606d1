"""What streams of NATS JetStream have beside others: messages are deleted on request only, and queues are refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy

from batchmill.errors import InvalidSource, StreamUnavailable
from batchmill.jobs.streams.source import Nats
from batchmill.settings import CoordinatorSettings
from batchmill.storage.named_stream_servers import NamedStreamServer, NamedStreamServers
from batchmill.streams.base import Head
from batchmill.streams.nats_client import NatsClient, nats_client
from batchmill.streams.nats_stream import NatsReader
from support.stream_kinds import encoded
from support.stream_reading import JOB, Reading

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.ledger import Ledger
    from support.stream_servers import NatsServer


@pytest.fixture
def name(prefix: str) -> str:
    """The name of a stream that no other test has."""
    return f"stream-{prefix.strip(':')}"


@pytest.fixture
def settings(valkey_url: str, prefix: str, tmp_path: Path) -> CoordinatorSettings:
    return CoordinatorSettings(redis_url=valkey_url, redis_prefix=prefix, blob_root=str(tmp_path), tokens=("secret",))


@pytest.mark.parametrize("trim", [True, False])
def test_only_what_is_settled_is_deleted_and_only_on_request(
    ledger: Ledger, settings: CoordinatorSettings, nats_server: NatsServer, name: str, *, trim: bool
) -> None:
    nats_server.create(name)
    nats_server.add(name, [encoded({"n": n}) for n in range(6)])
    servers = NamedStreamServers({"nats": NamedStreamServer(url=nats_server.url)})
    reading = Reading(ledger, settings, Nats(name, max_rows=2, trim=trim), servers=servers)
    reading.plan(6)
    assert ledger.jobs.read(JOB).first.shards_planned == 3
    reading.settle(1)
    reading.keeper.step(reading.epoch)
    assert nats_server.first(name) == 1, "what is before the settled shard is not settled"
    reading.settle(0)
    reading.keeper.step(reading.epoch)
    assert nats_server.first(name) == (5 if trim else 1)
    assert [row["n"] for row in reading.read_shard(2).table.to_pylist()] == [4, 5]


@pytest.mark.parametrize("retention", [RetentionPolicy.WORK_QUEUE, RetentionPolicy.INTEREST])
def test_a_stream_that_deletes_what_somebody_has_read_is_refused(
    nats_server: NatsServer, name: str, retention: RetentionPolicy
) -> None:
    nats_server.create(name, retention)
    with pytest.raises(InvalidSource, match="could not read them again"):
        reader_of(nats_server, name).head("", at_end=False)


def test_a_stream_that_ends_before_what_was_read_of_it_was_made_anew(nats_server: NatsServer, name: str) -> None:
    nats_server.create(name)
    nats_server.add(name, [encoded({"n": 1})])
    with pytest.raises(InvalidSource, match="deleted and created again"):
        reader_of(nats_server, name).fetch("", Head("500", 500), 10, 1000)


def test_a_stream_of_which_nothing_is_left_is_counted_as_lost(nats_server: NatsServer, name: str) -> None:
    nats_server.create(name)
    nats_server.add(name, [encoded({"n": n}) for n in range(5)])
    nats_server.purge(name, 6)
    reader = reader_of(nats_server, name)
    found = reader.fetch("", Head("2", 2), 10, 1000)
    assert found is not None
    assert (found.last, found.rows, found.lost) == ("5", 0, 3)
    assert reader.fetch("", Head(found.last, found.position), 10, 1000) is None


def test_no_more_is_asked_for_than_may_be_held(
    nats_server: NatsServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nats_server.create(name)
    nats_server.add(name, [encoded({"text": "x" * 300_000}) for _ in range(8)])
    asked, fetch = [], JetStreamContext.PullSubscription.fetch

    async def noted(pull: Any, batch: int, **options: Any) -> list[Any]:
        asked.append(batch)
        return await fetch(pull, batch, **options)

    monkeypatch.setattr(JetStreamContext.PullSubscription, "fetch", noted)
    found = reader_of(nats_server, name).fetch("", Head("0", 0), 500, 3 * 1024**2 - 1)
    assert found is not None
    assert (found.rows, asked) == (8, [2, 2, 1, 1, 1, 1])


def test_a_stream_that_is_not_there_is_away(nats_server: NatsServer, name: str) -> None:
    with pytest.raises(StreamUnavailable, match="stream not found"):
        reader_of(nats_server, name).head("", at_end=False)


def test_threads_that_begin_to_read_at_the_same_time_share_a_connection(nats_server: NatsServer, name: str) -> None:
    nats_server.create(name)
    nats_server.add(name, [encoded({"n": n}) for n in range(50)])
    started, server = threading.Barrier(8), NamedStreamServer(url=nats_server.url)

    def read(_number: int) -> list[int]:
        started.wait(30)
        reader = NatsReader(nats_client(server), Nats(name), {})
        values: list[int] = reader.read("", "0", "50", 50).table.column("n").to_pylist()
        return values

    nats_client.cache_clear()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(read, range(8), timeout=60)) == [list(range(50))] * 8


def reader_of(server: NatsServer, name: str) -> NatsReader:
    return NatsReader(NatsClient(NamedStreamServer(url=server.url)), Nats(name), {})
