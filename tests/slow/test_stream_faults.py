"""Streams while processes are killed: no row of them is lost or doubled, and their order stays."""

from __future__ import annotations

import random
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

import batchmill
from batchmill.ledger.scripting.connection import connect
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.cluster import Cluster

KEY = "events"
ROWS = 3000
KILLS = 4


@pytest.fixture
def sent() -> Iterator[threading.Event]:
    """Set when nothing more is to be sent."""
    event = threading.Event()
    yield event
    event.set()


def _send(running: Cluster, over: threading.Event) -> None:
    with connect(f"unix://{running.socket}?db=0") as server:
        for number in range(ROWS):
            server.xadd(KEY, {"id": str(number), "text": f"row {number}"})
            if over.wait(0.004):
                return


def test_no_row_of_a_stream_is_lost_or_doubled_when_workers_and_leaders_are_killed(
    cluster: Callable[..., Cluster], sent: threading.Event
) -> None:
    running = cluster().start(coordinators=2, slots=(1, 1))
    rng = random.Random(17)
    stages = [batchmill.Stage("shout", name="one"), batchmill.Stage("shout", name="two", mark="?")]
    stream = running.ask(lambda client: client.submit(source=batchmill.RedisStream(KEY), stages=stages))
    sender = threading.Thread(target=_send, args=(running, sent))
    sender.start()
    for step in range(KILLS):
        rows = ROWS // (KILLS + 1) * (step + 1)
        until(partial(_has_done, running, stream.id, rows // 2), "some more rows")
        if step % 2:
            _kill_leader(running)
        else:
            slots = running.slots()
            rng.choice(slots).kill()
    sender.join()
    until(partial(_has_done, running, stream.id, ROWS), "all rows")
    running.ask(lambda client: client.job(stream.id).drain())
    results = running.ask(lambda client: list(client.job(stream.id).wait(GRACE_S).results()))
    assert [row["id"] for row in results] == [str(number) for number in range(ROWS)]
    with running.redis() as server:
        until(lambda: server.xlen(KEY) == 0, "the deletion of what is settled")


def _has_done(running: Cluster, job_id: str, rows: int) -> bool:
    status = running.ask(lambda client: client.job(job_id).status())
    return status.rows_done + status.rows_dead >= rows


def _kill_leader(running: Cluster) -> None:
    until(lambda: running.leader() is not None, "a leader")
    leader = running.leader()
    assert leader is not None
    (name,) = [name for name, one in running.coordinators.items() if one is leader]
    leader.kill()
    running.start_coordinator(name)
