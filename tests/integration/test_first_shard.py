"""A small job for which a worker is free: its shard is queued, and its message published, as it is accepted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from batchmill.broker import attempt_of
from batchmill.errors import ServiceUnavailable, UnknownOperator
from batchmill.fleet import WorkerInfo
from batchmill.jobs.job import JobRequest
from batchmill.operators.contract import OperatorInfo
from batchmill.operators.model_key import model_key
from batchmill.settings import CoordinatorSettings
from batchmill_coordinator.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ECHO = OperatorInfo(name="echo", params_schema={})
WORKER: dict[str, Any] = {
    "slot": 0,
    "pool": "default",
    "device": "cpu",
    "operators": ["echo"],
    "pid": 1,
    "started_at": time.time(),
}


@pytest.fixture
def service(valkey_url: str, prefix: str, tmp_path: Path) -> Iterator[Service]:
    """A coordinator without roles. One worker has the model of `echo` and two slots, another one has not loaded it."""
    service = Service(
        CoordinatorSettings(redis_url=valkey_url, redis_prefix=prefix, blob_root=str(tmp_path), tokens=("secret",))
    )
    warm = WorkerInfo(name="cpu0@here", shards_at_once=2, models=[model_key(ECHO, {})], **WORKER)
    cold = WorkerInfo(name="cpu0@there", shards_at_once=4, **WORKER)
    for worker in (warm, cold):
        service.ledger.fleet.announce(worker, [ECHO], 60.0, changed=True)
    yield service
    service.ledger.close()


def request(number: int) -> JobRequest:
    return JobRequest(operator="echo", rows=[{"id": number}], idempotency_key=str(number))


def test_its_message_is_in_the_queue_of_its_model_until_no_slot_is_free(service: Service) -> None:
    accepted = [service.submit(request(number), "default") for number in range(3)]
    queued = [one.queued for one in accepted if one.queued is not None]
    assert [one.queued is not None for one in accepted] == [True, True, False]
    messages = service.ledger.take_messages(queued[0].queue)
    assert [attempt_of(message) for message in messages] == [one.ref for one in queued]
    third = service.ledger.jobs.read(accepted[2].job_id).first
    assert (third.shards_queued, third.shards_live) == (0, 1)


def test_a_broker_that_does_not_take_the_message_refuses_no_job(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ServiceUnavailable("the message could not be published.")

    monkeypatch.setattr(service._publisher, "publish", away)
    accepted = service.submit(request(1), "default")
    assert accepted.queued is not None
    assert [ref for ref, _ in service.ledger.shards.queued("default")] == [accepted.queued.ref]  # for the recoverer


def test_a_repetition_finds_its_job_although_it_would_be_refused_by_now(service: Service) -> None:
    accepted = service.submit(request(1), "default")
    store = service.ledger._store
    store.redis.delete(store.keys.operators())
    service.fleet.forget()
    with pytest.raises(UnknownOperator):
        service.submit(request(2), "default")
    assert service.submit(request(1), "default")[:2] == (accepted.job_id, False)
