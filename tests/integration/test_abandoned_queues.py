"""Messages in a queue that no worker consumes from any more are taken out, and their shards dispatched anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from batchmill.broker import model_queue_of, queue_of
from batchmill.clock import SystemClock
from batchmill.fleet import WorkerInfo
from batchmill.jobs.shard import Shard, ShardId, ShardState, Slice
from batchmill.ledger.plan_step import PlanStep
from batchmill.ledger.submission import Submission
from batchmill.operators.contract import OperatorInfo
from batchmill.operators.model_key import model_key
from batchmill.settings import CoordinatorSettings
from batchmill.telemetry.metrics import new_registry
from batchmill_coordinator.fleet.fleet_view import FleetView
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.roles.recoverer import Recoverer
from batchmill_coordinator.scheduling.message_publisher import MessagePublisher
from support.records import spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import Ledger

ECHO = OperatorInfo(name="echo", params_schema={})
MODEL = model_key(ECHO, {})
QUEUE = model_queue_of("default", MODEL)


@pytest.fixture
def publisher(valkey_url: str, prefix: str) -> Iterator[MessagePublisher]:
    publisher = MessagePublisher(CoordinatorSettings(redis_url=valkey_url, redis_prefix=prefix))
    yield publisher
    publisher.close()


def queued_shard(ledger: Ledger, publisher: MessagePublisher, epoch: int) -> ShardRef:
    """A shard whose message lies in the queue of its model."""
    ledger.jobs.submit(Submission("job-1", spec_of(operator="echo"), "digest"), max_live_jobs=1)
    shard = Shard("job-1", 0, ShardId((0,)), 0, 5, (Slice(0, 0, 5, 5),))
    ledger.shards.plan(
        "job-1", ledger.jobs.read("job-1").first, PlanStep([shard], [10], "end", at_end=True, total=None), epoch
    )
    ref = ledger.shards.queue("job-1", ledger.jobs.read("job-1").first, shard.shard_id, epoch)
    assert ref is not None
    publisher.publish("echo", QUEUE, ref)
    return ref


def announce(ledger: Ledger, models: list[str]) -> None:
    worker = WorkerInfo(
        name="w", pool="default", device="cpu", operators=["echo"], shards_at_once=2, pid=1, started_at=1, models=models
    )
    ledger.fleet.announce(worker, [ECHO], ttl_s=60, changed=True)


def recoverer(ledger: Ledger, publisher: MessagePublisher) -> Recoverer:
    fleet, settler = FleetView(ledger, SystemClock()), cast("Any", SimpleNamespace())
    return Recoverer(ledger, fleet, publisher, settler, 10.0, RoleMetrics(new_registry()))


def test_a_shard_is_taken_back_when_no_worker_has_its_model_any_more(
    ledger: Ledger, publisher: MessagePublisher
) -> None:
    epoch = ledger.lead("me", 3600)
    ref = queued_shard(ledger, publisher, epoch)
    announce(ledger, [MODEL])
    recoverer(ledger, publisher).step(epoch)
    assert ledger.queue_lengths([QUEUE, queue_of("default")]) == [1, 0]
    assert cast("Shard", ledger.shards.read(ref)).state is ShardState.QUEUED

    announce(ledger, [])
    recoverer(ledger, publisher).step(epoch + 1)
    assert ledger.queue_lengths([QUEUE]) == [0]
    assert cast("Shard", ledger.shards.read(ref)).state is ShardState.QUEUED, "a deposed leader changes nothing"

    publisher.publish("echo", QUEUE, ref)
    recoverer(ledger, publisher).step(epoch)
    record = ledger.jobs.read("job-1")
    assert (ledger.queue_lengths([QUEUE]), record.first.shards_queued, ledger.shards.queued("default")) == ([0], 0, [])
    assert cast("Shard", ledger.shards.read(ref)).state is ShardState.WAITING
    again = ledger.shards.queue(record.id, record.first, ref.shard_id, epoch)
    assert again is not None
    assert again.token == ref.token + 1


def test_a_new_leader_finds_the_queues_of_the_one_before(ledger: Ledger, publisher: MessagePublisher) -> None:
    publisher.publish("echo", QUEUE, Shard("job-9", 0, ShardId((0,)), 0, 1, (), token=1).ref)
    assert ledger.find_queues(queue_of("")) == [QUEUE]
    recoverer(ledger, publisher).step(ledger.lead("me", 3600))
    assert ledger.find_queues(queue_of("")) == []


def test_queues_are_no_longer_looked_at_once_nothing_is_in_flight_for_them(
    ledger: Ledger, publisher: MessagePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that is never idle sees the states of any number of stages, each with a queue of its own."""
    epoch = ledger.lead("me", 3600)
    queued_shard(ledger, publisher, epoch)
    announce(ledger, [MODEL])
    old = model_queue_of("default", "old")
    for number in range(150):
        publisher.publish("echo", old, Shard("job-9", 0, ShardId((number,)), 0, 1, (), token=1).ref)
    role = recoverer(ledger, publisher)
    looked_at: list[str] = []
    take = ledger.take_messages

    def noted(queue: str) -> list[bytes]:
        looked_at.append(queue)
        return take(queue)

    monkeypatch.setattr(ledger, "take_messages", noted)
    for _ in range(5):
        role.step(epoch)
    assert ledger.queue_lengths([old, QUEUE]) == [0, 1]
    assert looked_at.count(old) == 3, "until it is empty"
