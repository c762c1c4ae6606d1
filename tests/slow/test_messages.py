"""Messages get lost, come twice, or come from long ago: the ledger knows better, and every row runs once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from batchmill.broker import queue_of
from batchmill.errors import ServiceUnavailable
from batchmill.jobs.shard import ShardId, ShardRef
from batchmill.settings import CoordinatorSettings
from batchmill_coordinator.roles.recoverer import MESSAGE_GRACE_MS
from batchmill_coordinator.scheduling.message_publisher import MessagePublisher
from support import error_replies
from support.cluster import Cluster
from support.messages import QUEUE, attempt_of, readdressed
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import batchmill

ROWS = 300
REFUSED = "is not there to be claimed"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One worker that takes one shard at a time, so that messages wait in the queue."""
    with Cluster(tmp_path_factory.mktemp("messages"), "mill_operators", SHARDS_AT_ONCE=1) as cluster:
        yield cluster.start()


class Gated:
    """A job whose first row holds it up, with messages in the queue."""

    def __init__(self, service: Cluster, folder: Path) -> None:
        self.service = service
        self._gate = folder / "gate"
        self._started = folder / "gate.started"
        client: batchmill.Client = service.clients["a"]
        self.job = client.submit("gated", rows=[{"id": n} for n in range(ROWS)], params={"gate": str(self._gate)})
        until(self._started.exists, "the first row")
        until(lambda: len(self.messages()) >= 2, "two messages that wait")

    def messages(self) -> list[str]:
        with self.service.redis() as client:
            found: list[str] = client.lrange(QUEUE, 0, -1)
        return found

    def refused(self) -> int:
        return self.service.logs().count(REFUSED)

    def finishes_with_every_row_run_once(self) -> None:
        self._gate.touch()
        assert [row["id"] for row in self.job.results()] == list(range(ROWS))
        status = self.job.wait(timeout=GRACE_S).status()
        assert (status.rows_done, status.rows_dead) == (ROWS, 0)
        ran = [int(line.split()[0]) for line in self._started.read_text().splitlines()]
        assert sorted(ran) == list(range(ROWS))


@pytest.fixture
def gated(service: Cluster, tmp_path: Path) -> Gated:
    return Gated(service, tmp_path)


def test_messages_that_are_lost_are_published_again(gated: Gated) -> None:
    lost = {tuple(attempt_of(message)) for message in gated.messages()}
    with gated.service.redis() as client:
        client.delete(QUEUE)
    until(lambda: lost <= {tuple(attempt_of(message)) for message in gated.messages()}, "their return")
    gated.finishes_with_every_row_run_once()


def test_a_message_that_is_delivered_twice_is_run_once(gated: Gated) -> None:
    before, twice = gated.refused(), gated.messages()
    with gated.service.redis() as client:
        client.rpush(QUEUE, *twice)
    gated.finishes_with_every_row_run_once()
    until(lambda: gated.refused() >= before + len(twice), "the refusal of the second ones")


def test_a_stray_message_of_an_old_token_changes_nothing(gated: Gated) -> None:
    before, (message, *_) = gated.refused(), gated.messages()
    job_id, stage, shard, token = attempt_of(message)
    strays = [
        readdressed(message, [job_id, stage, shard, int(token) - 1]),
        readdressed(message, [job_id, stage, "0", 1]),  # runs by now
        readdressed(message, ["job-gone", 0, "0", 1]),
    ]
    with gated.service.redis() as client:
        client.rpush(QUEUE, *strays)
    gated.finishes_with_every_row_run_once()
    until(lambda: gated.refused() >= before + len(strays), "their refusal")
    fresh = gated.service.clients["a"].submit("echo", rows=[{"id": 1}])
    assert list(fresh.results()) == [{"id": 1}]


def test_messages_that_wait_for_a_busy_worker_are_not_taken_for_lost(service: Cluster, tmp_path: Path) -> None:
    gate, client = tmp_path / "gate", service.clients["a"]
    before = service.logs().count("published again")
    params = [{"gate": str(gate)}] * 2 + [{"gate": f"{tmp_path}/./gate"}] * 2  # two models
    jobs = [client.submit("late_model", rows=[{"id": 1}], params=one) for one in params]
    until(lambda: any(job.status().shards_running for job in jobs), "a model that is being loaded")
    waits_ms = 2 * MESSAGE_GRACE_MS
    until(lambda: (time.time() - jobs[-1].status().created_at) * 1000 > waits_ms, "the time until messages are late")
    gate.touch()
    for job in jobs:
        job.wait(timeout=GRACE_S)
    assert service.logs().count("published again") == before


@pytest.mark.parametrize(
    "refusing",
    [
        error_replies.password_changed,
        error_replies.client_limit,
        error_replies.keys_forbidden,
        error_replies.readonly,
        error_replies.out_of_memory,
    ],
)
def test_messages_are_published_again_after_the_broker_refused_them(
    cluster: Callable[..., Cluster], refusing: Callable[[Cluster], AbstractContextManager[None]]
) -> None:
    made = cluster()
    made.start_valkey("--enable-debug-command", "local")
    publisher = MessagePublisher(CoordinatorSettings(redis_url=f"unix://{made.socket}?db=0"))
    ref = ShardRef("job-1", 0, ShardId((0,)), 1)
    try:
        publisher.publish("echo", queue_of("default"), ref)
        with refusing(made):
            for _ in range(2):
                with pytest.raises(ServiceUnavailable):
                    publisher.publish("echo", queue_of("default"), ref)
        publisher.publish("echo", queue_of("default"), ref)
    finally:
        publisher.close()
    with made.redis() as client:
        assert client.llen(QUEUE) == 2
