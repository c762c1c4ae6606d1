"""Once one connection of a process has reached a new primary, none of them waits for the former one, or uses it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from batchmill.broker import celery_settings
from batchmill.ledger import Ledger
from batchmill.ledger.ledger import SUBSCRIBED
from batchmill.redis_access.sentinels import PrimaryLookup
from batchmill.settings import ServiceSettings
from support.cluster import free_port
from support.sentinels import HOST, NAME, PASSWORD, SentinelStack
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kombu import Connection


class Failover:
    """Two primaries that run, of which sentinels name the first until `happen`."""

    def __init__(self, servers: SentinelStack, monkeypatch: pytest.MonkeyPatch) -> None:
        servers.folder.mkdir()
        self.former, self.primary = free_port(), free_port()
        for port in (self.former, self.primary):
            servers.start_server(port)
        self.settings = ServiceSettings(redis_url=f"redis+sentinel://:{PASSWORD}@{HOST}:{self.former}/{NAME}")
        self._named = self.former
        monkeypatch.setattr(PrimaryLookup, "find", lambda _: (HOST, self._named))

    def happen(self) -> None:
        """The sentinels name the other one, and a new connection of this process reaches it."""
        self._named = self.primary
        Ledger.open(self.settings).ping()

    def broker(self) -> Connection:
        """Return a connection to the broker."""
        app = Celery("test", set_as_current=False)
        app.conf.update(celery_settings(self.settings))
        return app.connection_for_write()


@pytest.fixture
def failover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Failover]:
    servers = SentinelStack(tmp_path / "redis")
    try:
        yield Failover(servers, monkeypatch)
    finally:
        servers.close()


def test_connections_that_wait_in_a_pool_are_made_anew(failover: Failover) -> None:
    pool = Ledger.open(failover.settings)._store.redis.connection_pool
    idle = [pool.get_connection() for _ in range(3)]
    assert {one.port for one in idle} == {failover.former}
    for one in idle:
        pool.release(one)
    failover.happen()
    taken = [pool.get_connection() for _ in range(3)]
    assert (set(taken), {one.port for one in taken}) == (set(idle), {failover.primary})


def test_subscriptions_begin_anew(failover: Failover) -> None:
    events = Ledger.open(failover.settings).events()
    assert next(events) == (SUBSCRIBED, "")
    failover.happen()
    assert (SUBSCRIBED, "") in (next(events) for _ in range(3))


def test_messages_are_taken_from_the_new_primary(failover: Failover) -> None:
    with ExitStack() as stack:
        consumer = stack.enter_context(failover.broker()).SimpleQueue("messages")
        with pytest.raises(consumer.Empty):
            consumer.get(timeout=0.1)
        failover.happen()
        stack.enter_context(failover.broker()).SimpleQueue("messages").put({"number": 1})
        assert consumer.get(timeout=GRACE_S).payload == {"number": 1}
